"""The descendants of what was revoked, for verifiers that check four anchors and no path.

A job for each revocation that has descendants; it tells their anchors in the order in which they were opened, page by
page, and starts where it was left. A page whose end was not noted is told again: telling twice is harmless. No job
holds more than a page in memory, and what is revoked meanwhile does not wait for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.database import Database
from countermand.log.anchor import Anchor, Kind
from countermand.log.freshness import Instant
from countermand.tokens.mandate import LEEWAY_S

PAGE: Final = 500
TOLD: Final = frozenset({Kind.SESSION, Kind.AGENT, Kind.DELEGATION})
"""What the documented claims name."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some descendants of `root`, up to number `through`. The last page of a job may be empty."""

    root: Anchor
    anchors: tuple[Anchor, ...]
    number: int
    through: int
    is_last: bool


class Descendants:
    """The jobs in `database`. One reader at a time."""

    def __init__(self, database: Database, clock: Callable[[], Instant]) -> None:
        self._database = database
        self._clock = clock

    async def next(self) -> Page | None:
        """Return the next page of a job that is not finished, of the oldest anchor; None where all is told."""
        async with self._database.read() as connection:
            return await _next(connection, self._clock().wall_ms)

    async def done(self, page: Page) -> None:
        """Note that `page` is told."""
        finished_at_ms = self._clock().wall_ms if page.is_last else None
        told = update(tables.cascades).where(tables.cascades.c.number == page.number)
        values = told.values(told=page.through, finished_at_ms=finished_at_ms)
        await self._database.write(lambda connection: connection.execute(values))

    async def reopen(self, since_ms: int) -> None:
        """Tell again, from the beginning, what is being told or was since then: it may be lost."""
        finished = tables.cascades.c.finished_at_ms
        again = update(tables.cascades).where(or_(finished.is_(None), finished >= since_ms))
        values = again.values(told=0, finished_at_ms=None)
        await self._database.write(lambda connection: connection.execute(values))


async def _next(connection: AsyncConnection, now_ms: int) -> Page | None:
    anchors, lineage, cascades = tables.anchors.c, tables.lineage.c, tables.cascades.c
    job = (
        select(cascades.number, cascades.told, anchors.id, anchors.kind)
        .join(tables.anchors, anchors.number == cascades.number)
        .where(cascades.finished_at_ms.is_(None))
        .order_by(cascades.number)
        .limit(1)
    )
    row = (await connection.execute(job)).first()
    if row is None:
        return None
    below = (
        select(anchors.number, anchors.id, anchors.kind, anchors.expires_at_ms)
        .join(tables.lineage, lineage.descendant == anchors.number)
        .where(lineage.ancestor == row.number, lineage.descendant > row.told)
        .order_by(lineage.descendant)
        .limit(PAGE)
    )
    found = (await connection.execute(below)).all()
    told = tuple(
        Anchor(Kind(one.kind), one.id)
        for one in found
        if one.kind in TOLD and (one.expires_at_ms is None or one.expires_at_ms > now_ms - LEEWAY_S * 1000)
    )
    through = found[-1].number if found else row.told
    return Page(Anchor(Kind(row.kind), row.id), told, row.number, through, is_last=len(found) < PAGE)
