"""The follower on ways that break, in a held event loop: a minute of waiting takes no time."""

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Sequence

import pytest

from countermand.errors import BadAnswerError, MalformedError, RefusedError
from countermand.log.entry import Entry
from countermand.log.ports import Batch
from countermand.replica.follow import Follower
from countermand.replica.replica import ReplicaState
from tests.clocks import held
from tests.unit.scripted import Feed, Following, dead, ends, now, raises, says, silent_snapshot, warnings

FRESH, REFUSED, STARTING = ReplicaState.FRESH, ReplicaState.REFUSED, ReplicaState.STARTING
BROKEN: dict[str, tuple[Feed, str]] = {
    "it cannot be had": (dead(), "unreachable"),
    "it refuses our credential": (raises(RefusedError("no")), "refused"),
    "it answers with nonsense": (raises(BadAnswerError("what?")), "bad_answer"),
    "it is no feed": (raises(MalformedError("what?")), "malformed_record"),
    "it ends": (ends(), "unreachable"),
    "it falls silent": (says(), "unreachable"),
    "it says nothing": (says(*[Batch()] * 3), "unreachable"),
}


# The good way


@held
async def test_it_starts_from_a_snapshot_and_goes_on_where_that_ends() -> None:
    following = Following(3)
    async with following.running():
        await asyncio.sleep(2)

        assert following.log.names() == ["snapshot", "after 3"]
        assert following.revoked() == {1, 2, 3}
        assert following.judgement() is FRESH


@held
async def test_what_is_revoked_later_comes_by_the_feed() -> None:
    following = Following(1)
    async with following.running():
        await asyncio.sleep(2)
        following.revoke(2, 3)
        await asyncio.sleep(1)

        assert following.log.names() == ["snapshot", "after 1"]
        assert following.revoked() == {1, 2, 3}


@held
async def test_entries_are_announced_once_and_in_order_as_they_come_into_force() -> None:
    following = Following(0)
    async with following.running():
        await asyncio.sleep(0.1)
        for number in range(1, 6):
            following.revoke(number)
            await asyncio.sleep(0.7)
        await asyncio.sleep(1)

    assert following.applied == [1, 2, 3, 4, 5]


@held
async def test_a_snapshot_is_announced_without_entries_as_it_comes_into_force() -> None:
    following = Following(3)
    announced: list[tuple[int, int]] = []

    def note(entries: Sequence[Entry]) -> None:
        announced.append((len(entries), len(following.state)))

    following.follower = Follower(following.replica, following.log, now, lambda: 0.5, on_applied=note)
    async with following.running():
        await asyncio.sleep(0.5)
        assert announced == [(0, 3)]
        following.revoke(4)
        await asyncio.sleep(1)

    assert announced == [(0, 3), (1, 4)]


@held
async def test_a_snapshot_that_brings_nothing_is_not_announced() -> None:
    following = Following(0)
    announced: list[Sequence[Entry]] = []
    following.follower = Follower(following.replica, following.log, now, lambda: 0.5, on_applied=announced.append)
    async with following.running():
        await asyncio.sleep(2)

    assert announced == []


@held
async def test_ten_minutes_cost_one_connection_and_no_word(caplog: pytest.LogCaptureFixture) -> None:
    following = Following(1)
    async with following.running():
        await asyncio.sleep(600)

        assert following.log.names() == ["snapshot", "after 1"]
        assert following.judgement() is FRESH
    assert caplog.text == ""


# Ways that break


@held
@pytest.mark.parametrize("way", BROKEN)
async def test_a_way_that_breaks_is_noted_once_and_taken_again(way: str, caplog: pytest.LogCaptureFixture) -> None:
    broken, code = BROKEN[way]
    following = Following(2)
    following.log.feeds = [broken] * 3
    async with following.running():
        await asyncio.sleep(15)

        assert following.log.names() == ["snapshot", *["after 2"] * 4]
        assert following.judgement() is FRESH
        assert following.error() is None
    assert warnings(caplog.records) == [code]


@held
@pytest.mark.parametrize("way", BROKEN)
async def test_a_way_that_breaks_after_it_worked_is_taken_again_from_where_we_are(way: str) -> None:
    following = Following(2)

    async def works_and_breaks(after: int) -> AsyncGenerator[Batch, None]:
        yield following.log.batch(after)
        await asyncio.sleep(1)
        following.revoke(3)
        yield following.log.batch(after)
        async for batch in BROKEN[way][0](after):
            yield batch

    following.log.feeds = [works_and_breaks]
    async with following.running():
        await asyncio.sleep(10)

        assert following.log.names() == ["snapshot", "after 2", "after 3"]
        assert following.revoked() == {1, 2, 3}
        assert following.judgement() is FRESH


@held
async def test_three_seconds_of_silence_are_taken_for_a_broken_way() -> None:
    following = Following(1)
    following.log.feeds = [says(following.log.batch(1))]
    async with following.running():
        await asyncio.sleep(10)

        assert [name for name, _ in following.log.calls] == ["snapshot", "after 1", "after 1"]
        assert following.log.times() == pytest.approx([0, 0, 3.1])


@held
async def test_an_outage_makes_it_warn_refuse_and_recover_and_each_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    following = Following(1)

    async def works_for_two_seconds(after: int) -> AsyncGenerator[Batch, None]:
        for _ in range(3):
            yield following.log.batch(after)
            await asyncio.sleep(1)

    following.log.feeds = [works_for_two_seconds] + [dead()] * 30
    async with following.running():
        await asyncio.sleep(45)
        assert following.judgement() is REFUSED
        assert following.error() == "unreachable"
        assert following.revoked() == {1}

        following.revoke(2)
        await asyncio.sleep(30)
        assert following.judgement() is FRESH
        assert following.error() is None
        assert following.revoked() == {1, 2}
    assert [record.getMessage() for record in caplog.records] == [
        "the replica is fresh",
        "the log cannot be followed: the log ended",
        "the replica is stale",
        "the replica is refused",
        "the replica is fresh",
    ]


@held
async def test_a_second_outage_is_said_again(caplog: pytest.LogCaptureFixture) -> None:
    following = Following(1)

    async def works_and_ends(after: int) -> AsyncGenerator[Batch, None]:
        await asyncio.sleep(1)
        yield following.log.batch(after)

    following.log.feeds = [works_and_ends, dead(), works_and_ends, dead()]
    async with following.running():
        await asyncio.sleep(10)

    assert warnings(caplog.records) == ["unreachable", "unreachable"]


# How it pauses


@held
async def test_pauses_double_up_to_two_seconds() -> None:
    following = Following(1)
    following.log.feeds = [dead()] * 9
    async with following.running():
        await asyncio.sleep(12)

    times = following.log.times()[1:]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 2.0])


@held
@pytest.mark.parametrize(("random", "factor"), [(0.0, 0.5), (1.0, 1.5)])
async def test_pauses_are_spread_by_half_their_length(random: float, factor: float) -> None:
    following = Following(1, lambda: random)
    following.log.feeds = [dead()] * 3
    async with following.running():
        await asyncio.sleep(3)

    assert following.log.times()[1:] == pytest.approx([0, 0.1 * factor, 0.3 * factor, 0.7 * factor])


@held
async def test_progress_makes_the_next_pause_short_again() -> None:
    following = Following(1)

    async def works_for_a_second(after: int) -> AsyncGenerator[Batch, None]:
        yield following.log.batch(after)
        await asyncio.sleep(1)

    following.log.feeds = [dead(), dead(), dead(), works_for_a_second, dead()]
    async with following.running():
        await asyncio.sleep(5)

    assert following.log.times()[1:] == pytest.approx([0, 0.1, 0.3, 0.7, 1.8, 2.0])


@held
async def test_an_authority_that_answers_and_brings_us_no_further_is_not_hammered() -> None:
    """Its checkpoints are believed and its entries never come: feed and snapshot in turn, ever more slowly."""
    following = Following(1)
    following.log.snapshots = [following.log.snapshot_of(1)] * 100

    async def withheld(_after: int) -> AsyncGenerator[Batch, None]:
        yield Batch((), (following.log.checkpoint(),))

    following.log.feeds = [withheld] * 100
    async with following.running():
        following.revoke(2)
        await asyncio.sleep(60)

        assert len(following.log.calls) < 80
        assert following.judgement() is STARTING
        assert following.error() == "gap"


# How it ends


@held
async def test_stopping_it_closes_the_way_and_leaves_nothing_behind() -> None:
    following = Following(1)
    async with following.running():
        await asyncio.sleep(1.5)
        assert following.log.closed == 0

    assert following.log.closed == 1


@held
@pytest.mark.parametrize("seconds", [0.0, 0.05, 3.05])
async def test_it_can_be_stopped_at_any_moment(seconds: float) -> None:
    following = Following(1)
    following.log.snapshots = [silent_snapshot] if seconds < 0.05 else []
    following.log.feeds = [dead(), says()]
    async with following.running():
        await asyncio.sleep(seconds)

    assert following.log.closed == len([name for name in following.log.names() if name != "snapshot"])
