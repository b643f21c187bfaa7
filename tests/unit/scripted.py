"""A log that does what a test's script says, in real records, and a follower of it, in a held event loop."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from countermand.errors import UnreachableError
from countermand.log.anchor import Kind
from countermand.log.entry import Entry
from countermand.log.freshness import Instant
from countermand.log.ports import Batch
from countermand.log.state import LogState
from countermand.replica.follow import Follower
from countermand.replica.replica import Replica, ReplicaState
from tests.signer import NOW_MS, Signer
from tests.unit.log.helpers import numbers, session

Feed = Callable[[int], AsyncGenerator[Batch, None]]
Snapshots = Callable[[], AsyncGenerator[bytes, None]]


def now() -> Instant:
    """The present of the held event loop, by both clocks."""
    passed_ms = round(asyncio.get_running_loop().time() * 1000)
    return Instant(NOW_MS + passed_ms, passed_ms)


class ScriptedLog:
    """A `LogReader`. Each call takes the next of `feeds` or `snapshots`; when they are used up, the log is honest.

    `calls` are the kind of each call and the second of its time; `closed` counts the feeds that were closed.
    """

    def __init__(self, signer: Signer) -> None:
        self.signer = signer
        self.feeds: list[Feed] = []
        self.snapshots: list[Snapshots] = []
        self.calls: list[tuple[str, float]] = []
        self.closed = 0
        self.successions: list[bytes] = []

    async def follow(self, after: int) -> AsyncGenerator[Batch, None]:
        self._called(f"after {after}")
        feed = self.feeds.pop(0) if self.feeds else self.honest
        try:
            async for batch in feed(after):
                yield batch
        finally:
            self.closed += 1

    async def snapshot(self) -> AsyncGenerator[bytes, None]:
        self._called("snapshot")
        snapshots = self.snapshots.pop(0) if self.snapshots else self.honest_snapshot
        async for chunk in snapshots():
            yield chunk

    async def honest(self, after: int) -> AsyncGenerator[Batch, None]:
        """All there is, and a checkpoint every second."""
        while True:
            yield self.batch(after)
            after = self.signer.seq
            await asyncio.sleep(1)

    async def honest_snapshot(self) -> AsyncGenerator[bytes, None]:
        yield self.signer.snapshot(now().wall_ms)

    def snapshot_of(self, seq: int) -> Snapshots:
        """The snapshot of an earlier moment."""

        async def snapshots() -> AsyncGenerator[bytes, None]:
            yield self.signer.snapshot(NOW_MS, seq)

        return snapshots

    def batch(self, after: int = 0) -> Batch:
        candidates = [candidate for candidate in self.signer.candidates if candidate.seq > after]
        return Batch(candidates, (self.checkpoint(),), successions=self.successions)

    def checkpoint(self) -> bytes:
        return self.signer.checkpoint(now().wall_ms)

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def times(self) -> list[float]:
        return [time for _, time in self.calls]

    def _called(self, name: str) -> None:
        self.calls.append((name, asyncio.get_running_loop().time()))


async def silent_snapshot() -> AsyncGenerator[bytes, None]:
    """A snapshot that never comes."""
    await asyncio.Event().wait()
    yield b""


def says(*batches: Batch) -> Feed:
    """A feed of these batches at once, and then silence."""

    async def feed(_after: int) -> AsyncGenerator[Batch, None]:
        for batch in batches:
            yield batch
        await asyncio.Event().wait()

    return feed


def ends(*batches: Batch) -> Feed:
    """A feed of these batches that ends."""

    async def feed(_after: int) -> AsyncGenerator[Batch, None]:
        for batch in batches:
            yield batch

    return feed


def raises(error: Exception, *batches: Batch) -> Feed:
    """A feed of these batches that breaks."""

    async def feed(_after: int) -> AsyncGenerator[Batch, None]:
        for batch in batches:
            yield batch
        raise error

    return feed


def dead() -> Feed:
    """A feed that cannot be had."""
    return raises(UnreachableError("nobody is there"))


class Following:
    """A replica that follows a scripted log of an authority that has revoked the sessions 1 to `count`."""

    def __init__(self, count: int = 3, random: Callable[[], float] = lambda: 0.5) -> None:
        self.signer = Signer()
        self.log = ScriptedLog(self.signer)
        self.revoke(*range(1, count + 1))
        self.state = LogState(self.signer.pin)
        self.replica = Replica(self.state, now)
        self.applied: list[int] = []
        self.follower = Follower(self.replica, self.log, now, random, on_applied=self._note)

    def revoke(self, *numbered: int) -> None:
        for number in numbered:
            self.signer.append(Kind.SESSION, session(number))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.follower.run())
        try:
            yield
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.wait([task])

    def revoked(self) -> set[int]:
        return numbers(self.state, 100)

    def judgement(self) -> ReplicaState:
        return self.replica.status().state

    def error(self) -> str | None:
        return self.replica.error

    def _note(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            assert self.state.seq_of(entry.key) == entry.seq, "it is in force when we hear of it"
            self.applied.append(entry.seq)


def warnings(records: Sequence[logging.LogRecord]) -> list[str]:
    """The codes of the refusals that the follower logged."""
    return [record.__dict__["code"] for record in records if record.name.endswith("follow")]
