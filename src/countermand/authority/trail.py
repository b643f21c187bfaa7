"""The audit as it is read: page by page, with the checkpoints that sign it, and the newest one at the end."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import select

from countermand.authority import tables
from countermand.authority.database import Database
from countermand.authority.heartbeat import Heartbeat
from countermand.log.audit import AuditRow, ChainedRow, Seal

MAX_PAGE: Final = 1_000
_NAMES: Final = tuple(field.name for field in fields(AuditRow))
_COLUMNS: Final = tuple(tables.audit.c[name] for name in _NAMES)


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Some rows and the seals that belong to them; after which number the next page begins, None on the last.

    On the last page come seals of rows that are gone, too.
    """

    rows: list[ChainedRow]
    seals: list[Seal]
    next: int | None


class Trail:
    """The audit in `database`, and the checkpoints that sign it."""

    def __init__(self, database: Database, heartbeat: Heartbeat) -> None:
        self._database = database
        self._heartbeat = heartbeat

    async def page(self, after: int, limit: int) -> AuditPage:
        """Return up to `limit` rows, those after number `after`."""
        newest = self._heartbeat.newest  # before the rows: what it signs is among them, or gone
        rows, seals = tables.audit.c, tables.audit_seals.c
        wanted = select(*_COLUMNS, rows.link).where(rows.number > after).order_by(rows.number).limit(limit + 1)
        async with self._database.read() as connection:
            found = [_chained(row) for row in await connection.execute(wanted)]
            page, is_last = found[:limit], len(found) <= limit
            kept = select(seals.number, seals.signed).where(seals.number > after).order_by(seals.number)
            if not is_last:
                kept = kept.where(seals.number <= page[-1].row.number)
            signed = {number: Seal(number, data) for number, data in await connection.execute(kept)}
        if is_last and newest is not None and newest.audited > after:
            signed[newest.audited] = Seal(newest.audited, newest.signed)
        return AuditPage(page, [signed[number] for number in sorted(signed)], None if is_last else page[-1].row.number)


def _chained(columns: Sequence[Any]) -> ChainedRow:
    *values, link = columns
    return ChainedRow(AuditRow(**dict(zip(_NAMES, values, strict=True))), link)
