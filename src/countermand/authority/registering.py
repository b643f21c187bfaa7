"""Biscuits that an application issued, registered: whatever ends a session, an application or a subject ends them too.

They are registered in one transaction that locks all that they are for and looks whether it stands, as for whatever is
opened; and that shares what a cutoff locks for itself. So each is refused, or there when it is to be ended. What one
application has registered no other can, or it could end what is not its own; it hears what it would of a revoked one.
Source: docs/protocol.md, "Biscuit".
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.appending import Act
from countermand.authority.audit import Audit
from countermand.authority.checks import check_biscuit_id, check_name
from countermand.authority.database import Database, RepeatableError
from countermand.authority.ledger import Ledger
from countermand.authority.lineage import Lineage, check_kind, load
from countermand.authority.registered import gate_of
from countermand.errors import InvalidValueError, NotActiveError, NotFoundError
from countermand.log.anchor import EVERYONE, Anchor, Kind
from countermand.log.freshness import Instant

_Above: TypeAlias = Callable[[AsyncConnection], Awaitable[tuple[Lineage, list[str]]]]
"""Gives what Biscuits are for, locked, and all by which they are ended."""

MOST: Final = 100
"""How many ids are registered together."""
_ROWS: Final = 1_000
"""In one statement."""

_NOT_TAKEN: Final = "one of these Biscuits has been revoked, or is registered by another application"
"""One sentence for both: an application does not hear what others have."""

_BISCUITS: Final = tables.biscuits.c
_ANCHORS: Final = tables.biscuit_anchors.c
_ENTRIES: Final = tables.entries.c
_CUT_BY: Final = frozenset({Kind.SUBJECT, Kind.APPLICATION})


@dataclass(frozen=True, slots=True)
class Registration:
    """Canonical ids, each once, in the order in which they were given; and how many of them were registered anew."""

    ids: tuple[str, ...]
    new: int


class Registering:
    """Registers Biscuits."""

    def __init__(self, database: Database, ledger: Ledger, clock: Callable[[], Instant]) -> None:
        self._database = database
        self._audit = Audit(database, clock)
        self._ledger = ledger
        self._clock = clock

    async def for_session(
        self, ids: Sequence[str], session_id: str, expires_at_ms: int | None = None, *, owner_id: str | None = None
    ) -> Registration:
        """Register Biscuits for a session: they end with it, with a session above it, its applications, its subjects.

        With `owner_id` only for a session of that application. What expires needs no entry after that; without it,
        nobody knows when they do. What is registered again lasts as long as was ever said; with `owner_id` that is
        refused unless it was for the same application.

        Raises:
            InvalidValueError: what is no id, too many, or a time that has passed.
            NotFoundError: there is no such session, or it is another's.
            NotActiveError: it, or one of the Biscuits, has ended; or that is registered, and not for the owner.
        """
        check_kind(session_id, Kind.SESSION)

        async def above(connection: AsyncConnection) -> tuple[Lineage, list[str]]:
            lineage = await load(connection, [session_id])
            if owner_id not in {None, lineage[session_id].application_id}:
                raise NotFoundError("there is no such session")
            return lineage, [str(anchor) for anchor in lineage.path]

        return await self._register(ids, expires_at_ms, above, owner_id, f"for the session {session_id}")

    async def for_subject(
        self,
        ids: Sequence[str],
        application_id: str,
        subject: str,
        expires_at_ms: int | None = None,
        *,
        owner_id: str | None = None,
    ) -> Registration:
        """Register Biscuits for a subject of an application, as `for_session` does. Raises: as that."""
        check_name("the subject", subject)
        check_kind(application_id, Kind.APPLICATION)
        if owner_id not in {None, application_id}:
            raise NotFoundError("there is no such application")

        async def above(connection: AsyncConnection) -> tuple[Lineage, list[str]]:
            lineage = await load(connection, [application_id])
            return lineage, [str(lineage.path[0]), str(Anchor(Kind.SUBJECT, subject))]

        return await self._register(ids, expires_at_ms, above, owner_id, f"for a subject of {application_id}")

    async def _register(
        self, ids: Sequence[str], expires_at_ms: int | None, above: _Above, owner_id: str | None, reason: str
    ) -> Registration:
        if not 1 <= len(ids) <= MOST:
            raise InvalidValueError(f"1 to {MOST} ids are registered together")
        canonical = tuple(dict.fromkeys(map(check_biscuit_id, ids)))
        if expires_at_ms is not None and expires_at_ms <= self._clock().wall_ms:
            raise InvalidValueError("expires_at is a time to come")

        async def work(connection: AsyncConnection) -> tuple[Registration, Sequence[Act]]:
            lineage, anchors = await above(connection)
            gates = {EVERYONE, *(one for one in anchors if Anchor.parse(one).kind in _CUT_BY)}
            await self._database.lock(connection, *map(gate_of, gates), shared=True)
            now_ms = await self._ledger.time(connection, self._clock().wall_ms)  # a cutoff before it is in the ledger
            await lineage.require_standing(connection, self._ledger, now_ms)
            new = await _add(connection, canonical, now_ms, expires_at_ms)
            numbers = await _require_standing(connection, canonical)
            if owner_id is not None:
                await _require_own(connection, {number for number, id_ in numbers.items() if id_ not in new}, owner_id)
            changed = new | await _extend(connection, numbers, expires_at_ms)
            changed |= await _name(connection, numbers, anchors)
            acts = [Act("biscuit.register", id_, reason=reason) for id_ in canonical if id_ in changed]
            return Registration(canonical, len(new)), acts

        return await self._audit.write(work)


async def _add(connection: AsyncConnection, ids: Sequence[str], now_ms: int, expires_at_ms: int | None) -> set[str]:
    """Add those that are not there yet, and return them. All who add do so in one order."""
    rows = [{"id": id_, "created_at_ms": now_ms, "expires_at_ms": expires_at_ms} for id_ in sorted(ids)]
    added = _insert(connection, tables.biscuits).on_conflict_do_nothing(index_elements=["id"]).returning(_BISCUITS.id)
    return set((await connection.execute(added.values(rows))).scalars().all())


async def _require_standing(connection: AsyncConnection, ids: Sequence[str]) -> dict[int, str]:
    """Return the ids by their numbers, locked against who ends them.

    Raises:
        NotActiveError: one has ended.
        RepeatableError: one was cleaned away while this waited for it.
    """
    query = select(tables.biscuits).where(_BISCUITS.id.in_(ids)).order_by(_BISCUITS.number).with_for_update()
    rows = (await connection.execute(query)).all()
    revoked = select(_ENTRIES.seq).where(_ENTRIES.id.in_(ids), _ENTRIES.kind == Kind.BISCUIT, _ENTRIES.issuer == "")
    known = (await connection.execute(revoked.limit(1))).first()
    if known is not None or any(row.revoked_at_ms is not None for row in rows):
        raise NotActiveError(_NOT_TAKEN)
    if len(rows) < len(ids):
        raise RepeatableError("one of these Biscuits was cleaned away meanwhile")
    return {row.number: row.id for row in rows}


async def _require_own(connection: AsyncConnection, numbers: Collection[int], owner_id: str) -> None:
    """Refuse what was there before and is registered for other applications alone. Raises: NotActiveError."""
    anchor = str(Anchor(Kind.APPLICATION, owner_id))
    own = select(_ANCHORS.number).where(_ANCHORS.anchor == anchor, _ANCHORS.number.in_(numbers))
    if len((await connection.execute(own)).all()) < len(numbers):
        raise NotActiveError(_NOT_TAKEN)


async def _extend(connection: AsyncConnection, numbers: dict[int, str], expires_at_ms: int | None) -> set[str]:
    """Let those that would be forgotten sooner last as long as is said now; return them."""
    expires = _BISCUITS.expires_at_ms
    sooner = expires.is_not(None) if expires_at_ms is None else expires < expires_at_ms
    later = update(tables.biscuits).where(_BISCUITS.number.in_(numbers), sooner).values(expires_at_ms=expires_at_ms)
    return set((await connection.execute(later.returning(_BISCUITS.id))).scalars().all())


async def _name(connection: AsyncConnection, numbers: dict[int, str], anchors: Sequence[str]) -> set[str]:
    """Note by which anchors they are ended; return those of which that was not known."""
    rows = [{"anchor": anchor, "number": number} for anchor in sorted(anchors) for number in numbers]
    named = _insert(connection, tables.biscuit_anchors).on_conflict_do_nothing().returning(_ANCHORS.number)
    added: set[str] = set()
    for start in range(0, len(rows), _ROWS):
        found = await connection.execute(named.values(rows[start : start + _ROWS]))
        added.update(numbers[number] for number in found.scalars())
    return added


def _insert(connection: AsyncConnection, table: Any) -> Any:
    """Return the statement that inserts, of the connection's own dialect: no other has `on_conflict_do_nothing`."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)
