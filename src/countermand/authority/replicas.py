"""What replicas report of themselves: where they are in the log, and which keys they know.

A report is a replica's own word, and bound to the API key that it comes with: nobody speaks for another's replica.
What comes at once is written in one transaction, and answered when that is committed. Source: docs/adr/0016.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy import Row, delete, not_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.database import Database
from countermand.authority.model import ReplicaReport, ReportedReplica
from countermand.authority.witnesses import Witnesses
from countermand.errors import BusyError, CountermandError, DisputedError
from countermand.log.freshness import Instant
from countermand.log.state import CLOCK_TOLERANCE_MS

LIVE_MS: Final = 60_000
"""A replica that reports counts as live for so long after its last word; it reports six times as often."""
KEPT_MS: Final = 86_400_000
MAX_OF_KEY: Final = 4_096
"""How many replicas may report with one API key. Where there are as many, those go that do not matter any more."""
OWN_KEY: Final = ""
"""What a replica in the authority's own process reports with."""
GATHER_S: Final = 0.02
"""How long a report waits for others that come at once."""
PAUSE_S: Final = 0.2
"""Between two transactions of reports."""

Who: TypeAlias = tuple[str, str]
"""An API key's id, and a replica's."""

_REPLICAS: Final = tables.replicas.c

# The last word stands, and the time of the first from the same position.
_UPSERT: Final = text(
    "INSERT INTO replicas (key_id, replica_id, generation, seq, keyset, strict, max_staleness_ms, at_ms,"
    " reported_at_ms, moved_at_ms)"
    " VALUES (:key_id, :replica_id, :generation, :seq, :keyset, :strict, :max_staleness_ms, :at_ms,"
    " :reported_at_ms, :moved_at_ms)"
    " ON CONFLICT (key_id, replica_id) DO UPDATE SET generation = excluded.generation, seq = excluded.seq,"
    " keyset = excluded.keyset, strict = excluded.strict, max_staleness_ms = excluded.max_staleness_ms,"
    " at_ms = excluded.at_ms, reported_at_ms = excluded.reported_at_ms, moved_at_ms = CASE"
    " WHEN replicas.generation = excluded.generation AND replicas.seq = excluded.seq THEN replicas.moved_at_ms"
    " ELSE excluded.moved_at_ms END"
)


def live_since(now_ms: int) -> int:
    """Return when a replica that counts as live has last reported, at the earliest."""
    return now_ms - LIVE_MS


@dataclass(frozen=True, slots=True)
class _Heard:
    """A report that is not written yet, and the signed checkpoint that came with it."""

    said: ReportedReplica
    proof: bytes


class _Batch:
    """The newest report of each replica, to be written together. `refused` says which of them had no room, when done.

    It holds no more of one key than may report with it.
    """

    def __init__(self) -> None:
        self.heard: dict[Who, _Heard] = {}
        self.refused: asyncio.Future[Collection[Who]] = asyncio.get_running_loop().create_future()
        self._of_key: Counter[str] = Counter()

    def add(self, key_id: str, report: ReplicaReport, proof: bytes, now_ms: int) -> Who:
        """Raises: BusyError."""
        who = key_id, report.replica_id
        before = self.heard.get(who)
        if before is None:
            if self._of_key[key_id] >= MAX_OF_KEY:
                raise _too_many()
            self._of_key[key_id] += 1
        said = ReportedReplica(key_id, report, now_ms, now_ms)
        if before is not None and before.said.rev == said.rev:
            said = ReportedReplica(key_id, report, now_ms, before.said.moved_at_ms)
        self.heard[who] = _Heard(said, proof)
        return who

    def fail(self, error: CountermandError) -> None:
        """Answer with `error`, whoever still waits."""
        self.refused.set_exception(error)
        self.refused.exception()  # it is no failure of ours if nobody does


class Replicas:
    """The last reports, in `database`. They are written, and answered, while `run` runs."""

    def __init__(self, database: Database, witnesses: Witnesses, clock: Callable[[], Instant]) -> None:
        self._database = database
        self._witnesses = witnesses
        self._clock = clock
        self._batch: _Batch | None = None
        self._came = asyncio.Event()
        self._known: dict[Who, int] = {}  # which have a row, and when they last reported here

    async def report(self, key_id: str, report: ReplicaReport, proof: bytes = b"") -> None:
        """Take note of a report, and hear `proof` as a witness: the signed checkpoint that the replica has applied.

        Where that contradicts the ledger it is kept, and stops whoever signs; the report is none the worse for it.
        Raises: BusyError, where too many replicas report with one key, as well.
        """
        if self._batch is None:
            self._batch = _Batch()
            self._came.set()
        batch = self._batch
        who = batch.add(key_id, report, proof, self._clock().wall_ms)
        if who in await asyncio.shield(batch.refused):
            raise _too_many()

    async def run(self) -> None:
        """Write what is reported, for ever."""
        while True:
            await self._came.wait()
            await asyncio.sleep(GATHER_S)
            await self.write()
            await asyncio.sleep(PAUSE_S)

    async def write(self) -> None:
        """Write what has come, hear the witnesses in it, and answer; an error goes to those who have reported."""
        self._came.clear()
        batch, self._batch = self._batch, None
        if batch is None:
            return
        try:
            refused = await self._database.write(lambda connection: self._write(connection, batch.heard))
            self._know(batch.heard.keys() - refused)
            await self._hear(batch.heard)
        except CountermandError as error:
            batch.fail(error)
        except BaseException:  # such as the end of the task: nobody is left to wait for an answer
            batch.fail(BusyError("the authority is stopping"))
            raise
        else:
            batch.refused.set_result(refused)

    async def all(self) -> list[ReportedReplica]:
        """Return the last report of each replica of the last day, the newest first."""
        query = select(tables.replicas).where(_REPLICAS.reported_at_ms >= self._clock().wall_ms - KEPT_MS)
        async with self._database.read() as connection:
            return [_reported(row) for row in await connection.execute(query.order_by(_REPLICAS.reported_at_ms.desc()))]

    def is_live(self, replica: ReportedReplica) -> bool:
        """Whether it reported within the last minute."""
        return replica.reported_at_ms >= live_since(self._clock().wall_ms)

    async def _write(self, connection: AsyncConnection, heard: Mapping[Who, _Heard]) -> set[Who]:
        """Write the reports; return whose had no room."""
        now_ms, refused = self._clock().wall_ms, set[Who]()
        with_new = {key_id for key_id, _ in heard.keys() - self._known.keys()}
        if with_new:
            await connection.execute(delete(tables.replicas).where(_REPLICAS.reported_at_ms < now_ms - KEPT_MS))
        for key_id in sorted(with_new):
            ids = {one.said.report.replica_id for (key, _), one in heard.items() if key == key_id}
            refused |= await _without_room(connection, key_id, ids, now_ms)
        written = sorted(heard.keys() - refused)  # in one order: or two processes wait for each other
        if written:
            await connection.execute(_UPSERT, [_row(heard[who].said) for who in written])
        return refused

    async def _hear(self, heard: Mapping[Who, _Heard]) -> None:
        """Hear each proof once: most replicas have applied the same checkpoint."""
        for proof, replica_id in {one.proof: one.said.report.replica_id for one in heard.values()}.items():
            with suppress(DisputedError):
                await self._witnesses.note_report(replica_id, proof)

    def _know(self, written: Collection[Who]) -> None:
        now_ms = self._clock().wall_ms
        self._known |= dict.fromkeys(written, now_ms)
        if len(self._known) > MAX_OF_KEY:
            self._known = {who: at_ms for who, at_ms in self._known.items() if at_ms >= live_since(now_ms)}


async def _without_room(connection: AsyncConnection, key_id: str, ids: Collection[str], now_ms: int) -> set[Who]:
    """Return which of those that report now are new with this key, and find no room beside those that stay.

    That are those that live, and those that could still let pass what they have not heard of, as long as possible.
    """
    query = select(_REPLICAS.replica_id).where(_REPLICAS.key_id == key_id)
    rows = (await connection.execute(query)).scalars().all()
    new, room = sorted(set(ids).difference(rows)), MAX_OF_KEY - len(rows)
    refuses_at_ms = _REPLICAS.reported_at_ms + _REPLICAS.max_staleness_ms + CLOCK_TOLERANCE_MS
    for gone in (_REPLICAS.strict & (refuses_at_ms < now_ms), not_(_REPLICAS.strict)):
        if len(new) > room:
            silent = _REPLICAS.key_id == key_id, _REPLICAS.reported_at_ms < live_since(now_ms)
            away = delete(tables.replicas).where(*silent, _REPLICAS.replica_id.not_in(ids), gone)
            room += (await connection.execute(away)).rowcount
    return {(key_id, replica_id) for replica_id in new[max(room, 0) :]}


def _too_many() -> BusyError:
    return BusyError(f"{MAX_OF_KEY} replicas report with this key already: give the others a key of their own")


def _row(said: ReportedReplica) -> dict[str, Any]:
    times = {"reported_at_ms": said.reported_at_ms, "moved_at_ms": said.moved_at_ms}
    return asdict(said.report) | times | {"key_id": said.key_id}


def _reported(row: Row[Any]) -> ReportedReplica:
    values = row._asdict()
    key_id, reported_at_ms, moved_at_ms = (values.pop(name) for name in ("key_id", "reported_at_ms", "moved_at_ms"))
    return ReportedReplica(key_id, ReplicaReport(**values), reported_at_ms, moved_at_ms)
