"""Replicas in a process of their own, all in one event loop, each with a connection of its own.

python -m bench.replicas
"""

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final

from bench.log import new_anchors
from bench.process import answer
from countermand.cli.terminal import run
from countermand.log.anchor import Anchor, Anchors, Kind
from countermand.log.entry import Entry
from countermand.log.ports import LogReader
from countermand.log.snapshot import SnapshotReader
from countermand.log.state import LogState
from countermand.log.verdict import CLEAR, Revoked
from countermand.replica.replica import Replica
from countermand.transport.http import HttpLog
from countermand.wiring import follower, parse_pin, redis_log, system_clock
from countermand.wiring.tasks import beside

DEADLINE_S: Final = 30.0
POLL_S: Final = 0.005
_STATM: Final = Path("/proc/self/statm")


class _Fleet:
    """The replicas, and when each first said of the session that is watched that it is revoked."""

    def __init__(self) -> None:
        self.replicas: list[Replica] = []
        self._watched = new_anchors(1)
        self._seen_s: dict[int, float] = {}
        self._all = asyncio.Event()

    def watch(self, session_id: str) -> None:
        self._watched = Anchors((Anchor(Kind.SESSION, session_id),), time.time())
        self._seen_s.clear()
        self._all.clear()
        if any(replica.check(self._watched) is not CLEAR for replica in self.replicas):
            raise RuntimeError("a session of the bench is not clear before it is revoked")

    def look(self, number: int, _applied: Sequence[Entry]) -> None:
        """Ask replica `number`, which has just applied something."""
        if number not in self._seen_s and isinstance(self.replicas[number].check(self._watched), Revoked):
            self._seen_s[number] = time.monotonic()
            if len(self._seen_s) == len(self.replicas):
                self._all.set()

    async def seen(self) -> list[float]:
        async with asyncio.timeout(DEADLINE_S):
            await self._all.wait()
        return list(self._seen_s.values())


def _log(url: str, api_key: str) -> LogReader:
    return redis_log(url) if url.startswith("redis") else HttpLog(url, api_key)


async def _main() -> None:
    async with AsyncExitStack() as stack:
        fleet = _Fleet()

        async def follow(count: int, url: str, pin: str, api_key: str = "") -> float:
            """Start replicas; return when all of them are fresh."""
            for number in range(count):
                replica = Replica(LogState(parse_pin(pin)), system_clock)
                fleet.replicas.append(replica)
                following = follower(replica, _log(url, api_key), partial(fleet.look, number))
                await stack.enter_async_context(beside(following.run()))
            anybody = new_anchors(1)
            async with asyncio.timeout(DEADLINE_S):
                while not all(replica.check(anybody) is CLEAR for replica in fleet.replicas):  # noqa: ASYNC110 - there is no event
                    await asyncio.sleep(POLL_S)
            return time.monotonic()

        async def watch(session_id: str) -> None:
            """Ask every replica for this session from now on; it stands."""
            fleet.watch(session_id)

        async def seen() -> list[float]:
            """Return when each replica first said that it is revoked."""
            return await fleet.seen()

        async def load(url: str, pin: str) -> list[float]:
            """Read a snapshot, and nothing else; return the seconds for its bytes, and for what they say."""
            reader, began_s = SnapshotReader(parse_pin(pin)), time.monotonic()
            async for chunk in redis_log(url).snapshot():
                reader.feed(chunk)
            read_s = time.monotonic()
            await asyncio.to_thread(reader.finish)
            return [read_s - began_s, time.monotonic() - read_s]

        async def resident() -> int:
            """Return how many bytes of memory this process holds."""
            return int(_STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")

        await answer(follow, watch, seen, load, resident)


if __name__ == "__main__":
    run(_main())
