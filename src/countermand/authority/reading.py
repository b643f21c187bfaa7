"""What there is: one of each kind with all that it rests on, lists by cursor and filter, the tree, and the ledger."""

from collections.abc import Callable

from sqlalchemy import select

from countermand.authority import tables
from countermand.authority.cascade import ancestors_of, tree_of
from countermand.authority.checks import check_biscuit_id, check_filter, check_words
from countermand.authority.database import Database
from countermand.authority.ledger import Ledger, read_head
from countermand.authority.lineage import WORDS, read_row
from countermand.authority.listing import LOOKED_AT, cursor_of, find_anchors, find_entries, parse_cursor
from countermand.authority.model import (
    Agent,
    Anchored,
    Application,
    Delegation,
    Filter,
    Grant,
    Page,
    Session,
    Tree,
)
from countermand.authority.views import (
    VIEWS,
    Seen,
    agent_of,
    application_of,
    delegation_of,
    grant_of,
    see,
    session_of,
)
from countermand.errors import NotFoundError
from countermand.log.anchor import Kind, Rev, kind_of
from countermand.log.entry import Entry
from countermand.log.freshness import Instant


class Reading:
    """Reads, each time of one moment. `clock` says what has expired.

    Whatever reads one raises NotFoundError where there is none: there never was, or it has ended so long ago that it
    is cleaned away.
    """

    def __init__(self, database: Database, ledger: Ledger, clock: Callable[[], Instant]) -> None:
        self._database = database
        self._ledger = ledger
        self._clock = clock

    async def application(self, id_: str) -> Application:
        """Return an application."""
        return application_of(await self._see(Kind.APPLICATION, id_))

    async def session(self, id_: str) -> Session:
        """Return a session."""
        return session_of(await self._see(Kind.SESSION, id_))

    async def agent(self, id_: str) -> Agent:
        """Return an agent."""
        return agent_of(await self._see(Kind.AGENT, id_))

    async def grant(self, id_: str) -> Grant:
        """Return a grant."""
        return grant_of(await self._see(Kind.GRANT, id_))

    async def delegation(self, id_: str) -> Delegation:
        """Return a delegation."""
        return delegation_of(await self._see(Kind.DELEGATION, id_))

    async def page(self, which: Filter, after: str | None, limit: int) -> Page[Anchored]:
        """Return up to `limit` of what `which` says, from the place `after`. Raises: InvalidValueError."""
        check_filter(which)
        place, now_ms = parse_cursor(after), self._clock().wall_ms
        async with self._database.read() as connection:
            found, next_ = await find_anchors(connection, which, place, now_ms, limit=limit, looked_at=LOOKED_AT)
            seen = await see(connection, found, now_ms)
        return Page([VIEWS[which.kind](one) for one in seen], cursor_of(next_))

    async def tree(self, id_: str) -> Tree:
        """Return an anchor and what rests on it."""
        kind = kind_of(id_)
        if kind not in WORDS:
            raise NotFoundError("there is nothing of this id")
        async with self._database.read() as connection:
            return await tree_of(connection, await read_row(connection, id_, kind), self._clock().wall_ms)

    async def head(self) -> Rev:
        """Return where the ledger ends."""
        async with self._database.read() as connection:
            return (await read_head(connection)).rev

    async def entry(self, seq: int) -> Entry:
        """Return an entry of the ledger."""
        query = select(tables.entries.c.data).where(tables.entries.c.seq == seq)
        async with self._database.read() as connection:
            data = (await connection.execute(query)).scalar()
        if data is None:
            raise NotFoundError("the ledger has no such entry")
        return Entry.parse(data)

    async def entries(
        self, kind: Kind | None, id_: str | None, issuer: str | None, after: str | None, limit: int
    ) -> Page[Entry]:
        """Return up to `limit` entries of this kind, of this id, of this issuer. Raises: InvalidValueError."""
        check_words(id_, issuer)
        if kind is Kind.BISCUIT and id_ is not None:
            id_ = check_biscuit_id(id_)
        place, entries = parse_cursor(after), tables.entries.c
        async with self._database.read() as connection:
            found, next_ = await find_entries(connection, kind, id_, issuer, place, limit)
            query = select(entries.data).where(entries.seq.in_(found)).order_by(entries.seq.desc())
            data = (await connection.execute(query)).scalars()
            return Page([Entry.parse(one) for one in data], cursor_of(next_))

    async def _see(self, kind: Kind, id_: str) -> Seen:
        now_ms = self._clock().wall_ms
        async with self._database.read() as connection:
            row = await read_row(connection, id_, kind)
            [seen] = await see(connection, [row.number], now_ms)
            return Seen(seen.row, seen.stands, seen.is_delegated, await ancestors_of(connection, row, now_ms))
