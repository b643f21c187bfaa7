"""Biscuits that applications have registered: ended with the session, the application or the subject they are for.

A Biscuit carries no path of ours, so each has an entry of its own, behind that of what it ends with. A transaction
makes up to a thousand. What more there is, is a job in the database: whoever revoked does it before that is answered,
and where it fails, some process takes it up. A page is whole or not done at all, and done twice it changes nothing.
Source: docs/protocol.md, "Biscuit".
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, delete, func, insert, literal, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.appending import Draft
from countermand.authority.database import Database
from countermand.authority.heartbeat import Change, Heartbeat
from countermand.authority.ledger import HOUR_MS, Ledger
from countermand.authority.model import Reach
from countermand.errors import AuthorityError, BusyError, UnconfirmedError
from countermand.log.anchor import EVERYONE, Kind
from countermand.log.codec import MAX_MS
from countermand.log.entry import Entry
from countermand.log.freshness import Instant
from countermand.log.state import CLOCK_TOLERANCE_MS
from countermand.tokens.mandate import LEEWAY_S

PAGE: Final = 1_000
"""How many entries of Biscuits one transaction makes."""
LOOKED_AT: Final = 4
"""How many times as many as are counted are looked at: most may have ended."""
RESUME_S: Final = 5.0
LEFT_MS: Final = 15_000
"""A job that nobody has touched for so long is left: longer than a write may take."""
_MARGIN_MS: Final = LEEWAY_S * 1000 + HOUR_MS
_LATEST_MS: Final = 253_402_300_799_999
"""The last moment of the year 9999: no later one can be written by RFC 3339, in an answer or anywhere."""

_BISCUITS: Final = tables.biscuits.c
_ANCHORS: Final = tables.biscuit_anchors.c
_JOBS: Final = tables.biscuit_jobs.c
_ENTRIES: Final = tables.entries.c
_REACHED_BY: Final = frozenset({Kind.SESSION, Kind.APPLICATION})
"""The kinds of anchors for which Biscuits are registered."""

_log = logging.getLogger(__name__)


def until_ms(ends_ms: int | None) -> int | None:
    """Return until when an entry must last for what passes until `ends_ms`; None: for ever."""
    return None if ends_ms is None or ends_ms + _MARGIN_MS > _LATEST_MS else ends_ms + _MARGIN_MS


def expiry_of(lasts_ms: int | None, now_ms: int, retention_ms: int) -> int | None:
    """Return when an entry made now may be forgotten that must last until `lasts_ms`, as `until_ms` says it.

    That is when one may be that is made an hour before all has ended that it ends.
    """
    if lasts_ms is None:
        return None
    expires_at_ms = max(now_ms, lasts_ms - _MARGIN_MS - HOUR_MS) + retention_ms
    return expires_at_ms if expires_at_ms <= _LATEST_MS else None


def gate_of(target: str) -> str:
    """Return the name that a cutoff for `target` locks, and shared who registers what that would end."""
    return f"biscuits:{target}"


async def mark(connection: AsyncConnection, ids: Sequence[str], now_ms: int) -> None:
    """Mark Biscuits as revoked, those that are registered; wait for whoever else does."""
    for start in range(0, len(ids), PAGE):
        some = _BISCUITS.id.in_(ids[start : start + PAGE])
        standing = update(tables.biscuits).where(some, _BISCUITS.revoked_at_ms.is_(None))
        await connection.execute(standing.values(revoked_at_ms=now_ms))


@dataclass(frozen=True, slots=True)
class Ended:
    """The entries of Biscuits that a transaction ends, and the anchors of which there are more."""

    drafts: Sequence[Draft] = ()
    unfinished: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Debt:
    """An anchor, or the target of a cutoff, that has ended, and whose Biscuits are still to be."""

    anchor: str
    before_ms: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Rest:
    """How many more were ended in further transactions, and the last entry of these."""

    count: int = 0
    last_seq: int | None = None


def with_biscuits(reach: Reach, count: int, *, is_whole: bool = True) -> Reach:
    """Return what is reached, and besides so many Biscuits."""
    if not count:
        return replace(reach, is_whole=reach.is_whole and is_whole)
    counts = {**reach.counts, Kind.BISCUIT: reach.counts.get(Kind.BISCUIT, 0) + count}
    return Reach(counts, is_whole=reach.is_whole and is_whole)


class Registered:
    """Ends registered Biscuits with what they are for. What is left of that is taken up while `run` runs."""

    def __init__(self, database: Database, ledger: Ledger, heartbeat: Heartbeat, clock: Callable[[], Instant]) -> None:
        self._database = database
        self._ledger = ledger
        self._heartbeat = heartbeat
        self._clock = clock

    async def end(self, connection: AsyncConnection, kind: Kind, ids: Sequence[str], reason: str, now_ms: int) -> Ended:
        """End those of these anchors, which the caller has locked and marked: nothing more is registered for them."""
        if kind not in _REACHED_BY:
            return Ended()
        anchors = [f"{kind.text}:{id_}" for id_ in ids]
        if len(anchors) == 1:
            return await self._end(connection, [], anchors, None, reason, now_ms)
        sizes = await _sizes(connection, kind, ids)
        whole, large, room = [], [], PAGE
        for anchor, size in sizes:
            if size <= room:
                whole.append(anchor)
                room -= size
            else:
                large.append(anchor)
        return await self._end(connection, whole, large, None, reason, now_ms, room=room)

    async def end_before(
        self, connection: AsyncConnection, target: str, before_ms: int | None, reason: str, now_ms: int
    ) -> Ended:
        """End those that a cutoff reaches: all that are registered by now, or were by `before_ms`."""
        await self._database.lock(connection, gate_of(target))  # who registers waits, or is seen
        return await self._end(connection, [], [target], before_ms, reason, now_ms)

    async def owe(self, connection: AsyncConnection, debts: Sequence[Debt], now_ms: int) -> None:
        """Note as jobs what `end`, or for targets `end_before`, would end. The caller holds `close`."""
        named = await _named(connection, [debt.anchor for debt in debts])
        for debt in debts:
            if debt.anchor in named:
                await _note(connection, debt.anchor, 0, debt.before_ms, debt.reason, now_ms)

    async def close(self, connection: AsyncConnection) -> None:
        """Let nobody register until the transaction ends; who does already is waited for."""
        await self._database.lock(connection, gate_of(EVERYONE))

    async def finish(self, anchors: Collection[str]) -> Rest:
        """Do what is left of these anchors. Raises: UnconfirmedError, where it is not all done, and will be."""
        return await self._finish_all(_JOBS.anchor.in_(anchors))

    async def finish_of(self, kind: Kind) -> Rest:
        """Do what is left of all anchors of a kind. Raises: as `finish`."""
        return await self._finish_all(_JOBS.anchor.startswith(f"{kind.text}:", autoescape=True))

    async def finish_all(self) -> Rest:
        """Do whatever is left. Raises: as `finish`."""
        return await self._finish_all(true())

    async def finish_since(self, begun_ms: int) -> None:
        """Do what is left of whatever was begun then or later, and maybe of what was a little sooner. Raises: as that.

        Whoever touched a job may have another clock than who asks.
        """
        await self._finish_all(_JOBS.touched_at_ms >= begun_ms - LEFT_MS)

    async def _finish_all(self, which: ColumnElement[bool]) -> Rest:
        rest = Rest()
        try:
            for job in await self._jobs(which):
                rest = await self._finish(job, rest)
        except BusyError as error:
            raise UnconfirmedError(
                "it is revoked, and not yet every Biscuit that was registered for it: this goes on"
            ) from error
        return rest

    @staticmethod
    async def counted(
        connection: AsyncConnection,
        reach: Reach,
        anchors: Sequence[str],
        before_ms: int | None,
        now_ms: int,
        most: int,
    ) -> Reach:
        """Return what is reached, and besides the Biscuits that stand and would be ended: `most` at the most."""
        looked_at = _members(anchors).limit(LOOKED_AT * most + 1).cte("looked_at").prefix_with("MATERIALIZED")
        found = select(_BISCUITS.number).where(
            _BISCUITS.number.in_(select(looked_at.c.number)), *_standing(before_ms, now_ms)
        )
        counted = found.limit(most + 1).subquery()
        sizes = (select(func.count()).select_from(one).scalar_subquery() for one in (counted, looked_at))
        count, seen = (await connection.execute(select(*sizes))).one()
        return with_biscuits(reach, min(count, most), is_whole=count <= most and seen <= LOOKED_AT * most)

    async def run(self) -> None:
        """Do what others have left, for ever. A failure is logged, and tried again."""
        while True:
            try:
                await self.resume()
            except AuthorityError as error:
                _log.warning("registered Biscuits are not ended: %s", error, extra={"code": error.code})
            await asyncio.sleep(RESUME_S)

    async def resume(self) -> int:
        """Do what is left of jobs that nobody is at; return how many Biscuits that ended. One that fails is logged."""
        now_ms, touched_ms = self._clock().wall_ms, _JOBS.touched_at_ms
        rest = Rest()
        for job in await self._jobs(or_(touched_ms < now_ms - LEFT_MS, touched_ms > now_ms + LEFT_MS)):
            try:
                rest = await self._finish(job, rest)
            except AuthorityError as error:  # the others go on
                _log.warning("job %d of registered Biscuits is not done: %s", job, error, extra={"code": error.code})
        if rest.count:
            _log.info("%d registered Biscuits were ended that were left", rest.count)
        return rest.count

    async def _jobs(self, which: ColumnElement[bool]) -> Sequence[int]:
        async with self._database.read() as connection:
            return (await connection.execute(select(_JOBS.number).where(which).order_by(_JOBS.number))).scalars().all()

    async def _finish(self, job: int, rest: Rest) -> Rest:
        """Do a job page by page; each is a transaction of its own, and others go between."""
        more = True
        while more:
            page, more = await self._heartbeat.commit(lambda connection: self._page(connection, job), urgent=True)
            rest = Rest(rest.count + page.count, page.last_seq or rest.last_seq)
        return rest

    async def _page(self, connection: AsyncConnection, number: int) -> Change[tuple[Rest, bool]]:
        job = select(tables.biscuit_jobs).where(_JOBS.number == number)
        row = (await connection.execute(job.with_for_update())).first()
        if row is None:
            return Change.none((Rest(), False))  # another has done it
        now_ms = await self._ledger.time(connection, self._clock().wall_ms)
        numbers = await _page(connection, row.anchor, row.done, row.through, PAGE)
        more = len(numbers) == PAGE
        if more:
            values = {"done": numbers[-1], "touched_at_ms": self._clock().wall_ms}
            await connection.execute(update(tables.biscuit_jobs).where(_JOBS.number == number).values(values))
        else:
            await connection.execute(delete(tables.biscuit_jobs).where(_JOBS.number == number))
        drafts = await self._drafts(connection, numbers, row.before_ms, row.reason, now_ms)
        return Change(lambda entries: (_rest(entries), more), drafts)

    async def _end(
        self,
        connection: AsyncConnection,
        whole: Sequence[str],
        large: Sequence[str],
        before_ms: int | None,
        reason: str,
        now_ms: int,
        *,
        room: int = PAGE,
    ) -> Ended:
        """End all members of `whole`, and as many of the first of `large` as there is room; note the rest as jobs."""
        numbers: set[int] = set()
        if whole:
            numbers.update((await connection.execute(_members(whole))).scalars().all())
        unfinished = []
        for anchor in large:
            page = await _page(connection, anchor, 0, MAX_MS, room) if room else []
            numbers.update(page)
            if len(page) == room:
                await _note(connection, anchor, page[-1] if page else 0, before_ms, reason, self._clock().wall_ms)
                unfinished.append(anchor)
            room -= len(page)
        return Ended(await self._drafts(connection, sorted(numbers), before_ms, reason, now_ms), unfinished)

    async def _drafts(
        self, connection: AsyncConnection, numbers: Sequence[int], before_ms: int | None, reason: str, now_ms: int
    ) -> list[Draft]:
        """Mark those of these that stand as revoked, and return their entries; what is revoked already needs none."""
        if not numbers:
            return []
        standing = select(tables.biscuits).where(_BISCUITS.number.in_(numbers), *_standing(before_ms, now_ms))
        rows = (await connection.execute(standing.order_by(_BISCUITS.number).with_for_update())).all()
        if not rows:
            return []
        ended = update(tables.biscuits).where(_BISCUITS.number.in_([row.number for row in rows]))
        await connection.execute(ended.values(revoked_at_ms=now_ms))
        known = await _known(connection, [row.id for row in rows])
        retention_ms = await self._ledger.retention_ms(connection)
        drafts = []
        for row in rows:
            lasts_ms = until_ms(row.expires_at_ms)
            if row.id in known and _lasts_as_long(known[row.id], lasts_ms):
                continue
            expires_at_ms = expiry_of(lasts_ms, now_ms, retention_ms)
            drafts.append(Draft(kind=Kind.BISCUIT, id=row.id, at_ms=now_ms, expires_at_ms=expires_at_ms, reason=reason))
        return drafts


def _rest(entries: Sequence[Entry]) -> Rest:
    return Rest(len(entries), entries[-1].seq if entries else None)


def _members(anchors: Sequence[str], *, after: int = 0) -> Select[Any]:
    """Return the query for the numbers of those that are registered for any of these anchors, after a number."""
    if EVERYONE in anchors:
        return select(_BISCUITS.number.label("number")).where(_BISCUITS.number > after)
    if len(anchors) == 1:  # in the order of the index
        return select(_ANCHORS.number.label("number")).where(_ANCHORS.anchor == anchors[0], _ANCHORS.number > after)
    return select(_ANCHORS.number.label("number")).where(_ANCHORS.anchor.in_(anchors), _ANCHORS.number > after)


async def _page(connection: AsyncConnection, anchor: str, after: int, through: int, limit: int) -> Sequence[int]:
    """Return the next numbers, in their order, of those that are registered for an anchor."""
    members = _members([anchor], after=after).subquery().c.number
    query = select(members).where(members <= through).order_by(members).limit(limit)
    return (await connection.execute(query)).scalars().all()


def _standing(before_ms: int | None, now_ms: int) -> list[ColumnElement[bool]]:
    """Which are neither revoked nor expired; with `before_ms`, only those that were registered by then.

    One that seems to be registered in the future was so by a clock that was ahead: nobody knows when.
    """
    lasts = or_(_BISCUITS.expires_at_ms.is_(None), _BISCUITS.expires_at_ms > now_ms - _MARGIN_MS)
    early: ColumnElement[bool] = true()
    if before_ms is not None:
        ahead = _BISCUITS.created_at_ms > now_ms + CLOCK_TOLERANCE_MS
        early = or_(_BISCUITS.created_at_ms <= before_ms, ahead)
    return [_BISCUITS.revoked_at_ms.is_(None), and_(lasts, early)]


async def _sizes(connection: AsyncConnection, kind: Kind, ids: Sequence[str]) -> list[tuple[str, int]]:
    """Return the anchors for which there are any, with how many, PAGE and one at the most."""
    anchors = tables.anchors
    anchor = literal(f"{kind.text}:") + anchors.c.id
    some = select(literal(1)).where(_ANCHORS.anchor == anchor).limit(PAGE + 1).correlate(anchors).subquery()
    size = select(func.count()).select_from(some).scalar_subquery().label("size")
    sized = select(anchor.label("anchor"), size).where(anchors.c.id.in_(ids)).subquery()
    found: Any = await connection.execute(select(sized).where(sized.c.size > 0))
    return [(anchor, size) for anchor, size in found]


async def _named(connection: AsyncConnection, anchors: Sequence[str]) -> set[str]:
    """Return those for which any are registered; everyone always."""
    named = {EVERYONE}
    for start in range(0, len(anchors), PAGE):
        some = _ANCHORS.anchor.in_(anchors[start : start + PAGE])
        named.update((await connection.execute(select(_ANCHORS.anchor).where(some).distinct())).scalars())
    return named


async def _note(
    connection: AsyncConnection, anchor: str, done: int, before_ms: int | None, reason: str, touched_ms: int
) -> None:
    """Note as a job what is registered for `anchor` after number `done`. What is registered later is none of it."""
    members = _members([anchor], after=done).subquery()
    through = (await connection.execute(select(func.max(members.c.number)))).scalar()
    if through is not None:
        job = {"anchor": anchor, "done": done, "through": through, "before_ms": before_ms, "reason": reason}
        await connection.execute(insert(tables.biscuit_jobs).values(**job, touched_at_ms=touched_ms))


async def _known(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, int | None]:
    """Return until when each of `ids` that the ledger revokes is revoked; None: for ever."""
    query = select(_ENTRIES.id, _ENTRIES.expires_at_ms).where(
        _ENTRIES.id.in_(ids), _ENTRIES.kind == Kind.BISCUIT, _ENTRIES.issuer == ""
    )
    known: dict[str, int | None] = {}
    for id_, expires_at_ms in await connection.execute(query):
        if id_ not in known or _lasts_as_long(expires_at_ms, known[id_]):
            known[id_] = expires_at_ms
    return known


def _lasts_as_long(expires_at_ms: int | None, lasts_ms: int | None) -> bool:
    return expires_at_ms is None or (lasts_ms is not None and expires_at_ms >= lasts_ms)
