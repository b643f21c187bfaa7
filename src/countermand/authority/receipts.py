"""Receipts: how many replicas enforce an entry, how soon they did, and who is behind.

    1. A replica enforces an entry that it has reported.
    2. One that is strict and has not reported it refuses, at the latest `max_staleness` after the commit and the
       tolerance of clocks: no checkpoint from before the commit gives it longer. What it reports meanwhile, or last
       said before, makes no difference. One that is best effort may let pass for ever.
    3. It counts if it was live when the entry was made, or has reported since. One that is silent for longer than a
       live one may be, and does not refuse yet by its own bound, was.
    4. Where no replica counts, nobody is known to enforce it.

Who waits holds nothing of the database, and all who wait look at it as one, so rarely that it costs little.
Source: docs/adr/0016.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from countermand.authority.database import ANSWER_S, WAIT_S
from countermand.authority.model import ReportedReplica
from countermand.authority.reading import Reading
from countermand.authority.replicas import LIVE_MS, Replicas, Who
from countermand.log.entry import Entry
from countermand.log.freshness import Instant
from countermand.log.state import CLOCK_TOLERANCE_MS

LONGEST_S: Final = 60.0
"""How long anybody may wait."""
LOOK_S: Final = 0.1
"""Between two looks at what was reported, as long as a look takes less than a tenth of that."""
MOST_NAMED: Final = 100
_UNBOUND_MS: Final = 366 * 86_400_000
"""Who refuses only after so long does not."""
_COMMIT_MS: Final = int((WAIT_S + ANSWER_S) * 1000)
"""How long after its own time an entry is committed, at the latest."""

_Seen: TypeAlias = Mapping[Who, ReportedReplica]


@dataclass(frozen=True, slots=True)
class NamedReplica:
    """A replica as it last reported. Without the entry it lets nothing pass from `refuses_at_ms` on; None: it may."""

    replica_id: str
    key_id: str
    generation: int
    seq: int
    reported_at_ms: int
    refuses_at_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """How far entry `seq` has come, `of` so many replicas.

    `enforced` counts those that have reported it, and those that refuse by now: `refusing` of them. `first_ms` and
    `last_ms` are from the entry's time to the arrival of a report; None where that is not known of all. `behind` are
    the others, the furthest first. `best_effort` are those that never refuse, silent ones too: 100 of each at the most.
    """

    seq: int
    generation: int
    of: int
    enforced: int
    refusing: int
    first_ms: int | None
    last_ms: int | None
    behind: tuple[NamedReplica, ...]
    best_effort: tuple[NamedReplica, ...]

    @property
    def is_enforced(self) -> bool:
        """Whether all enforce it, and there is one."""
        return 0 < self.of == self.enforced


class Receipts:
    """Receipts for the entries of the ledger, by what `replicas` have reported to any process."""

    def __init__(self, reading: Reading, replicas: Replicas, clock: Callable[[], Instant]) -> None:
        self._reading = reading
        self._replicas = replicas
        self._clock = clock
        self._seen: _Seen = {}
        self._look_at_s = 0.0
        self._looking = asyncio.Lock()
        self._closed = asyncio.Event()

    async def of(self, seq: int, wait_s: float = 0.0) -> Receipt:
        """Return the receipt of an entry: once it is enforced, or after `wait_s`. Raises: NotFoundError, BusyError."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s
        watch = _Watch(await self._reading.entry(seq), self._clock().wall_ms)
        while True:
            seen = await self._look()
            is_last = self._closed.is_set() or loop.time() >= until_s
            if watch.may_be_enforced(seen, self._clock().wall_ms) or is_last:
                receipt = watch.receipt(seen, self._clock().wall_ms)
                if receipt.is_enforced or is_last:
                    return receipt
            await self._pause(min(LOOK_S, until_s - loop.time()))

    def close(self) -> None:
        """End every wait."""
        self._closed.set()

    async def _look(self) -> _Seen:
        """Return every replica that is known; many who ask at once look once."""
        loop = asyncio.get_running_loop()
        async with self._looking:
            began_s = loop.time()
            if began_s >= self._look_at_s:
                self._seen = {(one.key_id, one.report.replica_id): one for one in await self._replicas.all()}
                self._look_at_s = began_s + max(LOOK_S, 10 * (loop.time() - began_s))
            return self._seen

    async def _pause(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._closed.wait()
        except TimeoutError:
            return


class _Watch:
    """One entry, and what one who waits for it has seen. `now_ms` is not before its commit."""

    def __init__(self, entry: Entry, now_ms: int) -> None:
        self._entry = entry
        self._committed_ms = min(now_ms, entry.at_ms + _COMMIT_MS)
        self._behind: set[Who] | None = None  # when last seen, and not known to refuse
        self._reported_ms: dict[Who, int] = {}  # when those that were behind were first seen not to be

    def may_be_enforced(self, seen: _Seen, now_ms: int) -> bool:
        """Take note of who is there by now; return whether nobody is known to be behind.

        Looked at is who was behind before, and no more: there are many replicas, and many who wait.
        """
        if self._behind is None:
            self._behind = {who for who, one in seen.items() if self._counts(one) and one.rev < self._entry.rev}
        gone = [who for who in self._behind if who not in seen or self._is_done(seen[who], now_ms)]
        for who in gone:
            if who in seen and seen[who].rev >= self._entry.rev:
                self._reported_ms[who] = seen[who].moved_at_ms
        self._behind.difference_update(gone)
        return not self._behind

    def receipt(self, seen: _Seen, now_ms: int) -> Receipt:
        """Return the receipt, as all of them are now."""
        rev = self._entry.rev
        counted = [one for one in seen.values() if self._counts(one)]
        behind = sorted((one for one in counted if not self._is_done(one, now_ms)), key=lambda one: one.rev)
        self._behind = {(one.key_id, one.report.replica_id) for one in behind}
        taken_ms = [self._taken_ms(one) for one in counted if one.rev >= rev]
        known_ms = [ms for ms in taken_ms if ms is not None]
        lenient = [one for one in seen.values() if not one.report.strict and (self._counts(one) or one.rev < rev)]
        is_known = 0 < len(taken_ms) == len(known_ms)
        return Receipt(
            seq=rev.seq,
            generation=rev.generation,
            of=len(counted),
            enforced=len(counted) - len(behind),
            refusing=len(counted) - len(behind) - len(taken_ms),
            first_ms=min(known_ms) if is_known else None,
            last_ms=max(known_ms) if is_known else None,
            behind=tuple(map(self._named, behind[:MOST_NAMED])),
            best_effort=tuple(map(self._named, lenient[:MOST_NAMED])),
        )

    def _named(self, one: ReportedReplica) -> NamedReplica:
        place = one.report.replica_id, one.key_id, one.report.generation, one.report.seq
        return NamedReplica(*place, one.reported_at_ms, self._refuses_at_ms(one))

    def _counts(self, one: ReportedReplica) -> bool:
        """Rule 3."""
        silent_ms = max(LIVE_MS, one.report.max_staleness_ms) if one.report.strict else LIVE_MS
        return one.reported_at_ms >= self._entry.at_ms - silent_ms

    def _is_done(self, one: ReportedReplica, now_ms: int) -> bool:
        refuses_at_ms = self._refuses_at_ms(one)
        return one.rev >= self._entry.rev or (refuses_at_ms is not None and now_ms >= refuses_at_ms)

    def _refuses_at_ms(self, one: ReportedReplica) -> int | None:
        """Rule 2."""
        if not one.report.strict or one.report.max_staleness_ms > _UNBOUND_MS:
            return None
        return self._committed_ms + one.report.max_staleness_ms + CLOCK_TOLERANCE_MS

    def _taken_ms(self, one: ReportedReplica) -> int | None:
        """Return how long it took; None where nobody has looked, and it has come further since."""
        at_ms = self._reported_ms.get((one.key_id, one.report.replica_id))
        if at_ms is None and one.rev == self._entry.rev:
            at_ms = one.moved_at_ms
        return None if at_ms is None else max(0, at_ms - self._entry.at_ms)
