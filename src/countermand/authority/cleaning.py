"""Cleaning: what has ended so long ago that nothing can come of it is taken away, bit by bit.

An anchor goes once it has expired, and been revoked if it was, longer ago than the retention, and nothing that is still
kept rests on it or names it. Nothing outlives what it rests on, so leaves go first and their ancestors after them. What
was still to be told of it is told no more: all of it has expired. Applications do not expire, and stay. The ledger is
never touched, and the answers kept for repeated requests go after a day. Registered Biscuits go as anchors do, by when
they expire; of one that nobody knows that of, the ids stay. A session that was not revoked stays until those that will
expire have gone, for they go on after it, and somebody may end them by it. For those that never expire it does not
stay: their subject and their application reach them. Of one that has very many, only some are looked at, and it stays.

Every step is one short transaction, so none waits long behind it; and a pass that is broken off has done what it has.
A step that took anchors or Biscuits away is a row of the audit, and says how many.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from sqlalchemy import and_, case, delete, exists, func, literal, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.appending import Act
from countermand.authority.audit import Audit
from countermand.authority.database import Database
from countermand.authority.ledger import DAY_MS
from countermand.errors import AuthorityError, ConfigurationError
from countermand.log.anchor import Kind
from countermand.log.freshness import Instant

LEAST_DAYS: Final = 2
"""No entry about an anchor is forgotten later than a day and an hour after it, and no mandate lives longer."""
ANSWERS_KEPT_MS: Final = DAY_MS
STEP: Final = 200
"""Rows looked at in one transaction."""
BISCUITS_LOOKED_AT: Final = 100
"""Of each session. One that has as many stays: the rows of those that never expire are a hundred times as many."""
PAUSE_S: Final = 0.05
"""Between two steps: others go first."""
INTERVAL_S: Final = 3_600.0

_ANCHORS: Final = tables.anchors.c
_PLACE: Final = (_ANCHORS.expires_at_ms, _ANCHORS.number)
_START: Final = (0, 0)

_log = logging.getLogger(__name__)


class Cleaning:
    """Takes away what has ended `retention_days` ago, while `run` runs. Several processes may, on one database."""

    def __init__(self, database: Database, clock: Callable[[], Instant], retention_days: int) -> None:
        if retention_days < LEAST_DAYS:
            raise ConfigurationError(f"what has ended is kept {LEAST_DAYS} days or longer")
        self._database = database
        self._audit = Audit(database, clock)
        self._clock = clock
        self._retention_ms = retention_days * DAY_MS

    async def run(self) -> None:
        """Clean, for ever. A failure is logged, and tried again an hour later."""
        while True:
            try:
                taken = await self.clean()
                if taken:
                    _log.info("%d anchors that had ended were taken away", taken)
            except AuthorityError as error:
                _log.warning("nothing is cleaned: %s", error, extra={"code": error.code})
            await asyncio.sleep(INTERVAL_S)

    async def clean(self) -> int:
        """Take away all that may go now; return how many anchors that were."""
        await self._clean_requests()
        await self._clean_biscuits()
        taken = 0
        while more := await self._pass():  # what came before what rests on it goes in the next
            taken += more
        return taken

    async def _clean_requests(self) -> None:
        before_ms = self._clock().wall_ms - ANSWERS_KEPT_MS
        while True:
            taken = await self._database.write(lambda connection: _take_requests(connection, before_ms))
            if taken < STEP:
                return
            await asyncio.sleep(PAUSE_S)

    async def _clean_biscuits(self) -> None:
        before_ms = self._clock().wall_ms - self._retention_ms
        while True:
            taken = await self._audit.write(lambda connection: _take_biscuits(connection, before_ms))
            if taken < STEP:
                return
            await asyncio.sleep(PAUSE_S)

    async def _pass(self) -> int:
        before_ms = self._clock().wall_ms - self._retention_ms
        taken = 0
        place: tuple[int, int] | None = _START
        while place is not None:
            work = partial(_take_anchors, before_ms=before_ms, place=place)
            more, place = await self._audit.write(work)
            taken += more
            await asyncio.sleep(PAUSE_S)
        return taken


async def _take_requests(connection: AsyncConnection, before_ms: int) -> int:
    requests = tables.requests.c
    old = select(requests.id).where(requests.created_at_ms < before_ms).order_by(requests.created_at_ms).limit(STEP)
    ids = (await connection.execute(old)).scalars().all()
    await connection.execute(delete(tables.requests).where(requests.id.in_(ids)))
    return len(ids)


async def _take_biscuits(connection: AsyncConnection, before_ms: int) -> tuple[int, Act | None]:
    """Take away registered Biscuits that had expired by then; by a clock that is ahead nothing has."""
    signed_ms: int = (await connection.execute(select(tables.heartbeat.c.at_ms))).scalar_one()
    biscuits, named = tables.biscuits.c, tables.biscuit_anchors.c
    old = select(biscuits.number).where(biscuits.expires_at_ms < min(before_ms, signed_ms))
    query = old.order_by(biscuits.expires_at_ms, biscuits.number).limit(STEP).with_for_update()
    numbers = (await connection.execute(query)).scalars().all()
    if not numbers:
        return 0, None
    await connection.execute(delete(tables.biscuit_anchors).where(named.number.in_(numbers)))
    await connection.execute(delete(tables.biscuits).where(biscuits.number.in_(numbers)))
    return len(numbers), Act("biscuits.clean", str(len(numbers)))


async def _take_anchors(
    connection: AsyncConnection, before_ms: int, place: tuple[int, int]
) -> tuple[tuple[int, tuple[int, int] | None], Act | None]:
    """Take away what may go of the next anchors that had expired by then; return how many, and the place after them.

    By a clock that is ahead of all that was signed nothing has expired.
    """
    signed_ms: int = (await connection.execute(select(tables.heartbeat.c.at_ms))).scalar_one()
    query = (
        select(_ANCHORS.expires_at_ms, _ANCHORS.number, _ANCHORS.revoked_at_ms)
        .where(_ANCHORS.expires_at_ms < min(before_ms, signed_ms), tuple_(*_PLACE) > place)
        .order_by(*_PLACE)
        .limit(STEP)
    )
    looked_at = (await connection.execute(query.with_for_update())).all()
    over = [row.number for row in looked_at if row.revoked_at_ms is None or row.revoked_at_ms < before_ms]
    kept = await _with_biscuits(connection, over)
    over = [number for number in over if number not in kept]
    taken = 0
    while leaves := await _leaves(connection, over):
        for column in (tables.labels.c.number, tables.cascades.c.number, tables.lineage.c.descendant, _ANCHORS.number):
            await connection.execute(delete(column.table).where(column.in_(leaves)))
        taken += len(leaves)
    act = Act("anchors.clean", str(taken)) if taken else None
    if len(looked_at) < STEP:
        return (taken, None), act
    return (taken, (looked_at[-1].expires_at_ms, looked_at[-1].number)), act


async def _with_biscuits(connection: AsyncConnection, numbers: Sequence[int]) -> set[int]:
    """Return the sessions, not revoked, for which a Biscuit is registered that is not revoked and will expire."""
    biscuits, named = tables.biscuits.c, tables.biscuit_anchors.c
    anchor = literal(f"{Kind.SESSION.text}:") + _ANCHORS.id
    some = select(named.number).where(named.anchor == anchor).limit(BISCUITS_LOOKED_AT).correlate(tables.anchors)
    looked_at = some.subquery()
    will_expire = and_(biscuits.expires_at_ms.is_not(None), biscuits.revoked_at_ms.is_(None))
    waits = or_(func.count() >= BISCUITS_LOOKED_AT, func.count(case((will_expire, 1))) > 0)
    joined = looked_at.join(tables.biscuits, biscuits.number == looked_at.c.number)
    query = select(_ANCHORS.number).where(
        _ANCHORS.number.in_(numbers),
        _ANCHORS.kind == Kind.SESSION,
        _ANCHORS.revoked_at_ms.is_(None),
        select(waits).select_from(joined).scalar_subquery(),
    )
    return set((await connection.execute(query)).scalars())


async def _leaves(connection: AsyncConnection, numbers: Sequence[int]) -> Sequence[int]:
    """Return those on which nothing rests, and to which nothing is delegated."""
    lineage, named = tables.lineage.c, tables.anchors.alias("named")
    below = exists().where(lineage.ancestor == _ANCHORS.number, lineage.descendant != _ANCHORS.number)
    inbound = exists().where(named.c.target_id == _ANCHORS.id)
    query = select(_ANCHORS.number).where(_ANCHORS.number.in_(numbers), ~below, ~inbound)
    return (await connection.execute(query)).scalars().all()
