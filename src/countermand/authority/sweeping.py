"""Revocation by filter: one entry for each anchor that matches and stands, up to a thousand in one transaction.

What more there is, the next step ends, from the place where this one stopped. A step is whole or it is not done at
all. It ends what matches when it looks; what is opened meanwhile is for a cutoff, and so are registered Biscuits of a
session that has expired: it stands no more, and is not found.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.appending import Draft
from countermand.authority.cascade import ANSWERED, COUNTED, begin_cascades, reach_of_many
from countermand.authority.checks import check_filter, check_reason
from countermand.authority.database import Database, line_up
from countermand.authority.heartbeat import Change, Heartbeat
from countermand.authority.ledger import Ledger, read_head
from countermand.authority.lineage import Row
from countermand.authority.listing import cursor_of, find_anchors, parse_cursor
from countermand.authority.model import NOTHING, Filter, Reach, Sweep, SweepPreview
from countermand.authority.registered import Registered, with_biscuits
from countermand.errors import InvalidValueError
from countermand.log.anchor import Kind
from countermand.log.entry import Entry
from countermand.log.freshness import Instant

MOST: Final = 1_000
"""How many entries one transaction appends."""
LOOKED_AT: Final = 4_000
"""How many rows one step looks at: more would hold up other revocations."""


class Sweeping:
    """Revokes by filter, and says beforehand what that would end.

    Raises, always: InvalidValueError, for a filter that asks for nothing, or for what the kind does not have; for a
    place that is none of ours; for a reason that the ledger may not hold.
    """

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        heartbeat: Heartbeat,
        registered: Registered,
        clock: Callable[[], Instant],
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._heartbeat = heartbeat
        self._registered = registered
        self._clock = clock

    async def revoke(self, which: Filter, reason: str = "", after: str | None = None) -> Sweep:
        """Revoke up to 1,000 of what matches and stands, the newest first, from the place `after`."""
        check_reason(reason)
        place = _check(which, after)

        async def work(connection: AsyncConnection) -> Change[Sweep]:
            now_ms = await self._ledger.time(connection, self._clock().wall_ms)
            found, next_ = await _find(connection, which, place, now_ms)
            rows = await _lock(connection, found)
            if not rows:
                return Change.none(Sweep(0, None, None, NOTHING, cursor_of(next_)))
            numbers = [row.number for row in rows]
            reach = await reach_of_many(connection, numbers, now_ms, ANSWERED)
            anchors = tables.anchors
            await connection.execute(update(anchors).where(anchors.c.number.in_(numbers)).values(revoked_at_ms=now_ms))
            await begin_cascades(connection, numbers)
            ended = await self._registered.end(connection, which.kind, [row.id for row in rows], reason, now_ms)
            expires_at_ms = await self._ledger.expiry(connection, now_ms)
            drafts = [
                Draft(kind=row.kind, id=row.id, at_ms=now_ms, expires_at_ms=expires_at_ms, reason=reason)
                for row in rows
            ]
            answer = partial(_sweep, len(drafts), reach, cursor_of(next_))
            return Change(answer, [*drafts, *ended.drafts])

        sweep = await self._heartbeat.commit(work, urgent=True)
        rest = await self._registered.finish_of(which.kind)  # also what a step before, that failed, has left
        return replace(sweep, reach=with_biscuits(sweep.reach, rest.count), last_seq=rest.last_seq or sweep.last_seq)

    async def preview(self, which: Filter, after: str | None = None) -> SweepPreview:
        """Say what `revoke` would end."""
        place = _check(which, after)
        async with self._database.read() as connection:
            now_ms = await self._ledger.time(connection, self._clock().wall_ms)
            found, next_ = await _find(connection, which, place, now_ms)
            reach = await self._reach(connection, which.kind, found, now_ms) if found else NOTHING
            seq = (await read_head(connection)).rev.seq
        return SweepPreview(seq, len(found), reach, cursor_of(next_))

    async def _reach(self, connection: AsyncConnection, kind: Kind, numbers: Sequence[int], now_ms: int) -> Reach:
        reach = await reach_of_many(connection, numbers, now_ms, COUNTED)
        query = select(tables.anchors.c.id).where(tables.anchors.c.number.in_(numbers))
        anchors = [f"{kind.text}:{id_}" for id_ in (await connection.execute(query)).scalars()]
        return await self._registered.counted(connection, reach, anchors, None, now_ms, COUNTED)


def _check(which: Filter, after: str | None) -> int | None:
    check_filter(which)
    if replace(which, stands=None) == Filter(kind=which.kind):
        raise InvalidValueError("say which: a filter that matches all is none")
    return parse_cursor(after)


def _sweep(count: int, reach: Reach, place: str | None, entries: Sequence[Entry]) -> Sweep:
    reach = with_biscuits(reach, len(entries) - count)
    return Sweep(count, entries[0].seq, entries[-1].seq, reach, place)


async def _find(
    connection: AsyncConnection, which: Filter, place: int | None, now_ms: int
) -> tuple[list[int], int | None]:
    standing = replace(which, stands=True)
    return await find_anchors(connection, standing, place, now_ms, limit=MOST, looked_at=LOOKED_AT)


async def _lock(connection: AsyncConnection, numbers: Sequence[int]) -> list[Row]:
    """Return those that nobody has revoked meanwhile, locked in the order in which all are locked."""
    anchors = tables.anchors
    await line_up(connection, select(anchors.c.number).where(anchors.c.number.in_(numbers)), shared=False)
    query = select(anchors).where(anchors.c.number.in_(numbers)).order_by(anchors.c.id).with_for_update()
    rows = [Row.of(columns) for columns in await connection.execute(query)]
    return [row for row in rows if row.revoked_at_ms is None]
