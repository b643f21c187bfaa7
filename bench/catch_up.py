"""Entries a replica takes a second from Redis, end to end: read, proven, in force. Beside it the two halves of that.

A reader is connected and up to date. While it stands still, the server copies a part of a prepared log into the stream,
with a checkpoint for every thousand entries; then it goes on, and the time runs until the last entry is in force. Ten
parts make a turn: a replica holds no more than 65,536 entries that no checkpoint has proven yet.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.harness import Row, race
from bench.log import BATCH, BenchLog, Part
from bench.shared import HMAC_KEY, KEYS, beating, put_checkpoint, redis_running
from countermand.authority.source import Stream
from countermand.log.entry import Entry
from countermand.log.ports import Batch, Written
from countermand.log.state import LogState
from countermand.log.wire import to_fields
from countermand.replica.replica import Replica
from countermand.transport.redis import Keys, RedisLog, open_writer
from countermand.wiring import follower, system_clock

ROUNDS: Final = 3
SIZES: Final = (*[BATCH] * 10, BATCH // 2)
"""Of the steps in which the authority would append a part."""
PARTS: Final = 10
DEADLINE_S: Final = 30.0
POLL_S: Final = 0.005
_COPY: Final = """
for at = 1, #KEYS, 2 do
    for _, message in ipairs(redis.call('XRANGE', KEYS[at], '-', '+')) do
        redis.call('XADD', KEYS[at + 1], '*', unpack(message[2]))
    end
end
"""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A part of the log, as the steps in which it was appended, and the keys under which the server holds a copy."""

    steps: Sequence[Part]
    keys: Keys

    @property
    def end(self) -> int:
        return self.steps[-1].candidates[-1].seq


class _Turns:
    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self._url = url
        log = BenchLog()
        self._pin = log.state.pin
        self._start = self.newest = log.part(0).checkpoint
        self._nothing = log.snapshot(0)
        self._parts = [_Prepared([log.part(size) for size in SIZES], Keys.of(f"part {n}")) for n in range(PARTS)]
        asyncio.run(_store(url, self._parts))

    def follow(self) -> float:
        """Let a replica follow; return the seconds for an entry."""
        self._reset()
        state, reached = LogState(self._pin), asyncio.Event()

        def look(_applied: Sequence[Entry]) -> None:
            if any(state.rev.seq == part.end for part in self._parts):
                reached.set()

        following = follower(Replica(state, system_clock, local=True), RedisLog(self._url, KEYS), look)
        taken_s = 0.0
        with asyncio.Runner() as runner:
            task = runner.run(_connected(following.run(), state))
            for part in self._parts:
                self._copy(part)
                reached.clear()
                taken_s += _timed(runner, reached.wait())
            task.cancel()
        return self._each(taken_s)

    def read(self) -> float:
        """Only read."""
        self._reset()
        taken_s = 0.0
        with asyncio.Runner() as runner:
            batches = RedisLog(self._url, KEYS).follow(0)
            runner.run(_next(batches))  # the checkpoint of nothing
            for part in self._parts:
                self._copy(part)
                taken_s += _timed(runner, _drain(batches))
            runner.run(batches.aclose())
        return self._each(taken_s)

    def apply(self) -> float:
        """Only apply what was read."""
        state, taken_s = LogState(self._pin), 0.0
        for part in self._parts:
            candidates = [candidate for step in part.steps for candidate in step.candidates]
            began_s = time.perf_counter()
            for candidate in candidates:
                state.add(candidate)
            for step in part.steps:
                state.accept(step.checkpoint, system_clock())
            while state.advance():
                pass
            taken_s += time.perf_counter() - began_s
        return self._each(taken_s)

    def _each(self, taken_s: float) -> float:
        return taken_s / self._parts[-1].end

    def _reset(self) -> None:
        """Let the log have begun, and no more."""
        self._client.delete(KEYS.stream, KEYS.checkpoints)
        self._client.set(KEYS.snapshot, self._nothing)
        self.newest = self._start
        put_checkpoint(self._client, self.newest)

    def _copy(self, part: _Prepared) -> None:
        pairs = (part.keys.stream, KEYS.stream, part.keys.checkpoints, KEYS.checkpoints)
        self._client.eval(_COPY, len(pairs), *pairs)
        self.newest = part.steps[-1].checkpoint


def measure() -> list[Row]:
    """Return the row."""
    with redis_running() as server, server.client() as client:
        turns = _Turns(client, server.url)
        contenders = {"ours": turns.follow, "reading alone": turns.read, "applying alone": turns.apply}
        with beating(client, lambda: turns.newest):
            medians_s = race(contenders, rounds=ROUNDS)
    per_s = {name: 1 / median_s for name, median_s in medians_s.items()}
    return [Row("entries followed from Redis, end to end", "a second", per_s.pop("ours"), per_s, "150,000 wanted")]


async def _store(url: str, parts: Sequence[_Prepared]) -> None:
    stream = Stream(KEYS.stream, (HMAC_KEY,))
    for part in parts:
        async with open_writer(url, part.keys) as writer:
            place: Written | None = Written("")
            for step in part.steps:
                messages = [
                    message
                    for candidate in step.candidates
                    for message in stream.messages(
                        f"entry-{candidate.seq}", to_fields(candidate.previous, candidate.entry)
                    )
                ]
                if place is None:
                    raise RuntimeError("somebody else has written")
                place = await writer.append(messages, step.checkpoint, place)


async def _connected(following: Any, state: LogState) -> "asyncio.Task[None]":
    """Begin to follow; return once the first checkpoint is there, and the next is waited for."""
    task = asyncio.create_task(following)
    async with asyncio.timeout(DEADLINE_S):
        while not state.freshness.applied_at_ms:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(POLL_S)
    await asyncio.sleep(POLL_S)
    return task


def _timed(runner: asyncio.Runner, work: Any) -> float:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await work

    began_s = time.perf_counter()
    runner.run(bounded())
    return time.perf_counter() - began_s


async def _next(batches: AsyncGenerator[Batch, None]) -> Batch:
    return await anext(batches)


async def _drain(batches: AsyncGenerator[Batch, None]) -> None:
    """Read a part, and what covers it."""
    read = 0
    async for batch in batches:
        read += len(batch.candidates)
        if batch.checkpoints and read >= sum(SIZES):
            return
