"""What replicas report of themselves: where they are in the log, and which keys they know.

A report is a replica's own word, and bound to the API key that it comes with: nobody speaks for another's replica.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.database import Database
from countermand.authority.model import ReplicaReport, ReportedReplica
from countermand.authority.witnesses import Witnesses
from countermand.errors import BusyError, DisputedError
from countermand.log.freshness import Instant

LIVE_MS: Final = 60_000
"""A replica that reports counts as live for so long after its last word; it reports six times as often."""
KEPT_MS: Final = 86_400_000
EVERY_MS: Final = 1_000
"""Reports that come sooner after the last one are not written down."""
MAX_OF_KEY: Final = 4_096
"""How many replicas may report with one API key. Where there are as many, those go that are not live."""


def live_since(now_ms: int) -> int:
    """Return when a replica that counts as live has last reported, at the earliest."""
    return now_ms - LIVE_MS


class Replicas:
    """The last reports, in `database`."""

    def __init__(self, database: Database, witnesses: Witnesses, clock: Callable[[], Instant]) -> None:
        self._database = database
        self._witnesses = witnesses
        self._clock = clock
        self._written_ms: dict[tuple[str, str], tuple[int, int]] = {}  # when, and with which keyset

    async def report(self, key_id: str, report: ReplicaReport, proof: bytes = b"") -> None:
        """Take note of a report, and hear `proof` as a witness: the signed checkpoint that the replica has applied.

        Where that contradicts the ledger it is kept, and stops whoever signs; the report is none the worse for it.
        Raises: BusyError, where too many replicas report with one key, as well.
        """
        who, now_ms = (key_id, report.replica_id), self._clock().wall_ms
        written_ms, keyset = self._written_ms.get(who, (0, -1))
        if 0 <= now_ms - written_ms < EVERY_MS and keyset == report.keyset:
            return
        await self._database.write(lambda connection: _write(connection, key_id, report, now_ms))
        self._written_ms[who] = now_ms, report.keyset
        with suppress(DisputedError):
            await self._witnesses.note_report(report.replica_id, proof)
        if len(self._written_ms) > MAX_OF_KEY:
            self._written_ms = {who: at for who, at in self._written_ms.items() if at[0] >= live_since(now_ms)}

    async def all(self) -> list[ReportedReplica]:
        """Return the last report of each replica of the last day, the newest first."""
        replicas = tables.replicas.c
        query = select(tables.replicas).where(replicas.reported_at_ms >= self._clock().wall_ms - KEPT_MS)
        async with self._database.read() as connection:
            return [_reported(row) for row in await connection.execute(query.order_by(replicas.reported_at_ms.desc()))]

    def is_live(self, replica: ReportedReplica) -> bool:
        """Whether it reported within the last minute."""
        return replica.reported_at_ms >= live_since(self._clock().wall_ms)


async def _write(connection: AsyncConnection, key_id: str, report: ReplicaReport, now_ms: int) -> None:
    replicas = tables.replicas
    said = {
        "generation": report.generation,
        "seq": report.seq,
        "keyset": report.keyset,
        "strict": report.strict,
        "max_staleness_ms": report.max_staleness_ms,
        "at_ms": report.at_ms,
        "reported_at_ms": now_ms,
    }
    known = replicas.c.key_id == key_id, replicas.c.replica_id == report.replica_id
    if (await connection.execute(update(replicas).where(*known).values(said))).rowcount:
        return
    await connection.execute(delete(replicas).where(replicas.c.reported_at_ms < now_ms - KEPT_MS))
    if await _count(connection, key_id) >= MAX_OF_KEY:
        gone = replicas.c.key_id == key_id, replicas.c.reported_at_ms < live_since(now_ms)
        await connection.execute(delete(replicas).where(*gone))
        if await _count(connection, key_id) >= MAX_OF_KEY:
            raise BusyError(f"{MAX_OF_KEY} replicas report with this key already: give the others a key of their own")
    await connection.execute(insert(replicas).values(key_id=key_id, replica_id=report.replica_id, **said))


async def _count(connection: AsyncConnection, key_id: str) -> int:
    query = select(func.count()).where(tables.replicas.c.key_id == key_id)
    return int((await connection.execute(query)).scalar_one())


def _reported(row: Row[Any]) -> ReportedReplica:
    values = row._asdict()
    key_id, reported_at_ms = values.pop("key_id"), values.pop("reported_at_ms")
    return ReportedReplica(key_id, ReplicaReport(**values), reported_at_ms)
