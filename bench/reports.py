"""What replicas cost an authority that report: each on a connection of its own, answered when it is written.

The authority, on SQLite, is a process of its own. The replicas are one that follows its log, under many names: each
report is as it would be sent, with the newest checkpoint as its proof. First they report as fast as they are answered;
then as an idle fleet does that makes a million reports an hour.
"""

import asyncio
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bench.harness import MICRO, Row
from bench.process import Child, child
from countermand.log.state import LogState
from countermand.replica.replica import Replica
from countermand.replica.report import EVERY_S
from countermand.transport.http import HttpLog
from countermand.wiring import follower, parse_pin, system_clock
from countermand.wiring.tasks import beside

MILLION_AN_HOUR: Final = 1_000_000 / 3600
REPLICAS: Final = round(MILLION_AN_HOUR * EVERY_S)
AT_ONCE: Final = 512
SECONDS: Final = 10.0
DEADLINE_S: Final = 30.0
POLL_S: Final = 0.01


def measure() -> list[Row]:
    """Return how many an authority takes, and what one costs it of a processor."""
    with (
        tempfile.TemporaryDirectory(prefix="countermand-bench-") as directory,
        child("bench.authority", str(Path(directory, "data"))) as authority,
    ):
        per_s, idle_s = asyncio.run(_measure(authority))
    return [
        Row("reports of replicas, each answered when it is written", "a second", per_s, {}, "278 wanted"),
        Row("of the authority's CPU, for a million an hour", "%", idle_s * 100, {}),
        Row("of its CPU, for each of them", "us", idle_s / MILLION_AN_HOUR * MICRO, {}),
    ]


async def _measure(authority: Child) -> tuple[float, float]:
    url, pin, api_key = authority.ask("about")
    replica = Replica(LogState(parse_pin(pin)), system_clock)
    fleet = _Fleet(replica, url, api_key)
    async with beside(follower(replica, HttpLog(url, api_key)).run()):
        async with asyncio.timeout(DEADLINE_S):
            while replica.state.proof is None:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(POLL_S)
        await fleet.report_for(SECONDS, AT_ONCE)
        per_s = fleet.reported / SECONDS
        idle_s = await _share(authority, fleet.stand_still)
        return per_s, await _share(authority, fleet.report_in_turn) - idle_s


async def _share(authority: Child, work: Callable[[], object]) -> float:
    """Return which part of a processor the authority takes while `work` is done."""
    before_s, began_s = authority.ask("cpu"), time.monotonic()
    done = work()
    if asyncio.iscoroutine(done):
        await done
    return float(authority.ask("cpu") - before_s) / (time.monotonic() - began_s)


class _Fleet:
    """Many replicas that are one."""

    def __init__(self, replica: Replica, url: str, api_key: str) -> None:
        where = urlsplit(url)
        self._where = where.hostname, where.port
        self._replica = replica
        self._head = (
            f"POST /v1/replicas HTTP/1.1\r\nhost: {where.netloc}\r\nauthorization: Bearer {api_key}\r\n"
            "connection: close\r\ncontent-type: application/json\r\ncontent-length: "
        )
        self.reported = 0

    async def report_for(self, seconds: float, at_once: int) -> None:
        """Report again and again, so many at once."""
        until_s = time.monotonic() + seconds

        async def tell(first: int) -> None:
            number = first
            while time.monotonic() < until_s:
                await self._report(number % REPLICAS)
                number += at_once

        await asyncio.gather(*(tell(number) for number in range(at_once)))

    async def report_in_turn(self) -> None:
        """Report at moments by chance, as many as make a million an hour."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(round(MILLION_AN_HOUR * SECONDS)):
                tasks.create_task(self._report(number, random.uniform(0, SECONDS)))  # noqa: S311 - moments, not secrets

    async def stand_still(self) -> None:
        await asyncio.sleep(SECONDS)

    async def _report(self, number: int, after_s: float = 0.0) -> None:
        await asyncio.sleep(after_s)
        body = json.dumps({"replica_id": f"replica-{number}"} | self._replica.report())
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection(*self._where)
            writer.write(f"{self._head}{len(body)}\r\n\r\n{body}".encode())
            answer = await reader.read()
            writer.close()
        if b" 204 " not in answer[:16]:
            raise RuntimeError(f"a report was answered with {answer[:80]!r}")
        self.reported += 1
