"""The Biscuits that are revoked, as a list for verifiers that follow no log: every form of every id in force.

A list is of one moment, and told by its tag: the newest entry of that kind, by its link, and the hour up to which what
has expired is left out. It is read page by page, and one that cannot be read whole is broken off, never ended.
Source: docs/protocol.md, "Biscuit".
"""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, FromClause, exists, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.database import Database
from countermand.authority.ledger import HOUR_MS, Head, Ledger, read_head
from countermand.errors import DisputedError
from countermand.log.anchor import Kind, Rev
from countermand.log.freshness import Instant
from countermand.log.revocation_id import twins

PAGE: Final = 10_000
"""Ids read at a time: some 2 MB."""
_TAG_DIGITS: Final = 32


@dataclass(frozen=True, slots=True)
class RevokedBiscuits:
    """One list: of the entries up to `rev` that had not expired at `from_ms`. Lists with the same tag are the same."""

    rev: Rev
    from_ms: int
    tag: str


class Export:
    """Makes lists from the ledger in `database`."""

    def __init__(self, database: Database, ledger: Ledger, clock: Callable[[], Instant]) -> None:
        self._database = database
        self._ledger = ledger
        self._clock = clock

    async def newest(self) -> RevokedBiscuits:
        """Return the list of this moment, which is not read yet. Raises: DisputedError, where it may not be whole."""
        entries = tables.entries.c
        async with self._database.read() as connection:
            head = (await read_head(connection)).require_undisputed()
            last = select(entries.link).where(entries.kind == Kind.BISCUIT).order_by(entries.seq.desc()).limit(1)
            link: bytes | None = (await connection.execute(last)).scalar()
            hour = await self._ledger.time(connection, self._clock().wall_ms) // HOUR_MS
        named = self._ledger.log_id.raw if link is None else link
        return RevokedBiscuits(head.rev, hour * HOUR_MS, f"{named.hex()[:_TAG_DIGITS]}-{hour}")

    async def pages(self, listed: RevokedBiscuits) -> AsyncGenerator[list[str], None]:
        """Yield every form of every id on a list, in the order of the ledger, some at a time; no id comes twice.

        Raises: DisputedError, where it may not be whole; BusyError, DataError.
        """
        after: int | None = 0
        while after is not None:
            async with self._database.read() as connection:
                _require(await read_head(connection), listed)
                rows = await _page(connection, listed, after)
            yield [form for row in rows for form in twins(row.id)]
            after = rows[-1].seq if len(rows) == PAGE else None


def _require(head: Head, listed: RevokedBiscuits) -> None:
    """Refuse to read on in a ledger that has forgotten meanwhile, or was recovered. Raises: DisputedError."""
    rev = head.require_undisputed().rev
    if rev < listed.rev or rev.generation != listed.rev.generation:
        raise DisputedError


async def _page(connection: AsyncConnection, listed: RevokedBiscuits, after: int) -> Any:
    """Return the next entries; of one Biscuit only the first that is in force."""
    entries, earlier = tables.entries, tables.entries.alias("earlier")
    again = select(literal(1)).where(
        earlier.c.id == entries.c.id,
        earlier.c.kind == Kind.BISCUIT,
        earlier.c.seq < entries.c.seq,
        _lasts(earlier, listed),
    )
    query = (
        select(entries.c.seq, entries.c.id)
        .where(entries.c.kind == Kind.BISCUIT, entries.c.seq > after, entries.c.seq <= listed.rev.seq)
        .where(_lasts(entries, listed), ~exists(again.correlate(entries)))
        .order_by(entries.c.seq)
        .limit(PAGE)
    )
    return (await connection.execute(query)).all()


def _lasts(entries: FromClause, listed: RevokedBiscuits) -> ColumnElement[bool]:
    expires = entries.c.expires_at_ms
    return or_(expires.is_(None), expires > listed.from_ms)
