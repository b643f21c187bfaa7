"""When a replica reports, in a held event loop: soon after it has come further, never often; again where it failed."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from countermand.errors import UnreachableError
from countermand.replica.report import EVERY_S, LEAST_S, Reporter
from countermand.wiring.tasks import beside
from tests.clocks import HeldLoop, held
from tests.unit.replicas import ALICE, BOB, World


class _Telling:
    """A replica's reporter, and what it has told when."""

    def __init__(self) -> None:
        self.world = World()
        self.told: list[tuple[float, object]] = []
        self.fails = False
        self.took_s = 0.0
        self.reporter = Reporter(self.world.replica, lambda: "rep_1", self._send)

    @property
    def times_s(self) -> list[float]:
        return [at_s for at_s, _ in self.told]

    async def _send(self, said: Mapping[str, object]) -> None:
        self.told.append((round(asyncio.get_running_loop().time(), 6), said["seq"]))
        await asyncio.sleep(self.took_s)
        if self.fails:
            raise UnreachableError("nobody is there")

    def apply(self) -> None:
        self.world.revoke(BOB if self.told else ALICE)
        self.reporter.on_applied()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with beside(self.reporter.run()):
            yield


@held
async def test_an_idle_one_reports_at_once_and_then_from_time_to_time() -> None:
    telling = _Telling()
    async with telling.running():
        await asyncio.sleep(2.5 * EVERY_S)
    assert telling.times_s == pytest.approx([0, EVERY_S, 2 * EVERY_S], abs=LEAST_S)


@held
async def test_what_is_applied_is_told_at_once() -> None:
    telling = _Telling()
    async with telling.running():
        await asyncio.sleep(3.3)
        telling.apply()
        await asyncio.sleep(1)
    assert telling.told == [(0, 0), (3.3, 1)]


@held
async def test_what_is_applied_soon_after_a_report_is_told_together() -> None:
    telling = _Telling()
    async with telling.running():
        await asyncio.sleep(0.1)
        for _ in range(3):
            telling.apply()
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)
    assert telling.told == [(0, 0), (LEAST_S, 3)]


@held
async def test_what_is_applied_while_it_is_told_is_told_next() -> None:
    telling = _Telling()
    telling.took_s = 0.2
    async with telling.running():
        await asyncio.sleep(0.1)
        telling.apply()
        await asyncio.sleep(2)
    assert telling.told == [(0, 0), (0.2 + LEAST_S, 1)]


@held
async def test_it_reports_no_more_than_twice_a_second_whatever_comes() -> None:
    telling = _Telling()
    async with telling.running():
        for _ in range(100):
            telling.apply()
            await asyncio.sleep(0.1)
    assert len(telling.told) <= 10 / LEAST_S


@held
async def test_a_report_that_failed_is_tried_again_ever_more_rarely_and_then_all_is_as_before() -> None:
    telling = _Telling()
    telling.fails = True
    async with telling.running():
        await asyncio.sleep(40)
        assert telling.times_s == [0, 1, 3, 7, 15, 25, 35]
        telling.fails = False
        await asyncio.sleep(6)
        telling.apply()
        await asyncio.sleep(1)
    assert telling.times_s[-2:] == [45, 46]


def test_it_runs_in_one_event_loop_after_another() -> None:
    telling = _Telling()

    async def run() -> None:
        async with telling.running():
            await asyncio.sleep(1)
            telling.reporter.on_applied()
            await asyncio.sleep(1)

    for times in (2, 4):
        with asyncio.Runner(loop_factory=HeldLoop) as runner:
            runner.run(run())
        assert len(telling.told) == times
