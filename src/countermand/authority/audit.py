"""The audit: a row for every change, in the transaction that makes the change.

Whoever changes something says what, and gets no other way to write: `Audit.write` for what makes no entry in the
ledger, `Heartbeat.commit` for what does. The head of the audit is locked after all else but the ledger's own head; so
the order of rows is the order of commits, there is no gap, and under the lock the ledger's next number is known.
Source: docs/protocol.md, "Audit"; docs/adr/0012.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, TypeVar

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.actor import current_actor
from countermand.authority.database import Database, Work
from countermand.log.audit import AuditEnd, AuditRow, audit_genesis, next_audit_link
from countermand.log.chain import LogId
from countermand.log.freshness import Instant

SEAL_MS: Final = 60_000
"""How long no other seal is kept after one; so there are no more of them than minutes, nor than rows."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Act:
    """What was done to what: `session.open` and an id. `seq` is the ledger's entry, if it made one."""

    action: str
    target: str
    issuer: str = ""
    reason: str = ""
    seq: int | None = None


class Audit:
    """Changes in `database` that make no entry in the ledger."""

    def __init__(self, database: Database, clock: Callable[[], Instant]) -> None:
        self._database = database
        self._clock = clock

    async def write(self, work: Work[tuple[_T, Act | None]], *, alone: bool = False) -> _T:
        """Return what `work` returns beside what it did; None, where it changed nothing. Raises: as Database.write."""

        async def audited(connection: AsyncConnection) -> _T:
            result, act = await work(connection)
            if act is not None:
                await record(connection, await lock(connection), [act], self._clock().wall_ms)
            return result

        return await self._database.write(audited, alone=alone)


async def begin(connection: AsyncConnection, log_id: LogId) -> None:
    """Begin the audit of a new log."""
    await connection.execute(insert(tables.audit_head).values(only=1, number=0, link=audit_genesis(log_id)))


async def lock(connection: AsyncConnection) -> AuditEnd:
    """Return where the audit ends; until the transaction does, nobody else adds to it."""
    row = (await connection.execute(select(tables.audit_head).with_for_update())).one()
    return AuditEnd(row.number, row.link)


async def end_of(connection: AsyncConnection) -> AuditEnd:
    """Return where the audit ends, as the transaction sees it."""
    row = (await connection.execute(select(tables.audit_head))).one()
    return AuditEnd(row.number, row.link)


async def record(connection: AsyncConnection, end: AuditEnd, acts: Sequence[Act], at_ms: int) -> AuditEnd:
    """Add a row for each of `acts`, done by the current actor, after the locked `end`; return where it ends now.

    It comes after all else that the transaction does, but before the ledger's own append.
    """
    actor = asdict(current_actor())
    rows = []
    for act in acts:
        row = AuditRow(number=end.number + 1, at_ms=at_ms, **asdict(act), **actor)
        end = AuditEnd(row.number, next_audit_link(end.link, row.to_bytes()))
        rows.append(asdict(row) | {"link": end.link})
    await connection.execute(insert(tables.audit), rows)
    await connection.execute(update(tables.audit_head).values(number=end.number, link=end.link))
    return end


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
