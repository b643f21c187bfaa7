"""The follower when the authority has begun another generation: it goes on there, by itself."""

import asyncio
import logging
from collections.abc import AsyncGenerator

import pytest

from countermand.log.anchor import Rev
from countermand.replica.replica import ReplicaState
from tests.clocks import held
from tests.signer import KEY, OTHER_KEY
from tests.unit.scripted import Following, now, warnings


def recover(following: Following, seq: int, *, tells: bool = True) -> None:
    """Restore the authority to entry `seq`, and begin the next generation."""
    old = following.signer
    succession = old.succession(at_ms=now().wall_ms)
    following.signer = following.log.signer = old.fork(seq).succeeded(succession)
    following.log.successions = [succession.sign(KEY)] if tells else []


@held
async def test_it_loads_the_new_generation_and_keeps_what_it_held() -> None:
    following = Following(5)
    async with following.running():
        await asyncio.sleep(2)
        recover(following, 2)
        following.revoke(6)
        await asyncio.sleep(3)
        following.revoke(7)
        await asyncio.sleep(2)

        assert following.log.names() == ["snapshot", "after 5", "snapshot", "after 6"]
        assert following.state.rev == Rev(2, 7)
        assert following.revoked() == set(range(1, 8))
        assert (following.judgement(), following.error()) == (ReplicaState.FRESH, None)


@held
async def test_a_connection_on_which_the_succession_was_lost_is_made_again() -> None:
    following = Following(3)
    async with following.running():
        await asyncio.sleep(2)
        recover(following, 3, tells=False)
        await asyncio.sleep(60)
        assert following.judgement() is ReplicaState.REFUSED
        assert following.error() == "wrong_generation"
        assert following.log.names().count("snapshot") == 1, "one that it could not load is not asked for"
        assert following.revoked() == {1, 2, 3}

        following.log.successions = [following.signer.fork(3).succession().sign(OTHER_KEY)]
        await asyncio.sleep(10)
        assert following.judgement() is ReplicaState.REFUSED


@held
async def test_a_snapshot_that_is_still_the_old_one_is_asked_for_until_it_is_new() -> None:
    following = Following(3)
    data = following.signer.snapshot()

    async def old() -> AsyncGenerator[bytes, None]:
        yield data

    async with following.running():
        await asyncio.sleep(2)
        recover(following, 3)
        following.log.snapshots = [old] * 3
        await asyncio.sleep(20)

        assert following.log.names().count("snapshot") == 5
        assert following.state.rev == Rev(2, 3)
        assert following.judgement() is ReplicaState.FRESH


@held
async def test_who_starts_after_it_begins_in_the_new_generation() -> None:
    following = Following(3)
    recover(following, 3)
    async with following.running():
        await asyncio.sleep(2)

        assert following.log.names() == ["snapshot", "after 3"]
        assert following.state.rev == Rev(2, 3)
        assert following.judgement() is ReplicaState.FRESH


@held
async def test_a_replayed_succession_of_before_is_noted_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    following = Following(3)
    recover(following, 3)
    old = following.log.successions
    recover(following, 3)
    async with following.running():
        await asyncio.sleep(2)
        following.log.successions = old
        following.revoke(9)
        with caplog.at_level(logging.WARNING):
            await asyncio.sleep(3)

        assert following.state.rev == Rev(3, 4)
        assert following.judgement() is ReplicaState.FRESH
    assert set(warnings(caplog.records)) == {"rollback"}
