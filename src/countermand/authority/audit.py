"""The audit: a row for every change, in the transaction that makes the change.

Whoever changes something says what, and gets no other way to write: `Audit.write` for what makes no entry in the
ledger, `Heartbeat.commit` for what does. Source: docs/protocol.md, "Audit"; docs/adr/0012.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.appending import Act, append
from countermand.authority.database import Database, Work
from countermand.errors import DataError
from countermand.log.audit import AuditEnd
from countermand.log.freshness import Instant

SEAL_MS: Final = 60_000
"""How long no other seal is kept after one; so there are no more of them than minutes, nor than rows."""

_T = TypeVar("_T")


class Audit:
    """Changes in `database` that make no entry in the ledger."""

    def __init__(self, database: Database, clock: Callable[[], Instant]) -> None:
        self._database = database
        self._clock = clock

    async def write(self, work: Work[tuple[_T, Act | Sequence[Act] | None]], *, alone: bool = False) -> _T:
        """Return what `work` returns beside what it did; None or no acts, where it changed nothing.

        Raises: as Database.write.
        """

        async def audited(connection: AsyncConnection) -> _T:
            result, act = await work(connection)
            acts = [act] if isinstance(act, Act) else act
            if acts:
                await append(self._database, connection, acts, self._clock().wall_ms)
            return result

        return await self._database.write(audited, alone=alone)


async def require_unchanged(connection: AsyncConnection, seen: AuditEnd) -> None:
    """Refuse an audit that does not lead through where it was seen to end. Raises: DataError."""
    if seen.number == 0:
        return
    link = (await connection.execute(select(tables.audit.c.link).where(tables.audit.c.number == seen.number))).scalar()
    if link != seen.link:
        raise DataError(f"row {seen.number} of the audit is gone, or another than was signed: somebody changed it")


async def seal(connection: AsyncConnection, number: int, at_ms: int, signed: bytes) -> int:
    """Keep a checkpoint that signs row `number`, unless one of the last minute, or of a later row, is kept.

    Return the newest row that a kept one signs. The caller holds the heartbeat's row: nobody else seals meanwhile.
    """
    seals = tables.audit_seals.c
    newest = (
        await connection.execute(select(seals.number, seals.at_ms).order_by(seals.number.desc()).limit(1))
    ).first()
    if newest is not None and (newest.number >= number or newest.at_ms > at_ms - SEAL_MS):
        return int(newest.number)
    await connection.execute(insert(tables.audit_seals).values(number=number, at_ms=at_ms, signed=signed))
    return number
