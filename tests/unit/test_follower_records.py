"""The follower on logs that lose, forge and rewrite, in a held event loop."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

import pytest

from countermand.errors import UnreachableError
from countermand.log.anchor import Kind
from countermand.log.chain import Candidate
from countermand.log.ports import Batch
from countermand.log.snapshot import Snapshot, SnapshotReader
from countermand.replica.replica import ReplicaState
from tests.clocks import held
from tests.running import until
from tests.signer import NOW_MS, OTHER_KEY, OTHER_LOG_ID, Signer
from tests.unit.log.helpers import DAY_MS, session, signer_of
from tests.unit.scripted import Following, Snapshots, now, says, silent_snapshot, warnings

FRESH, REFUSED, STARTING = ReplicaState.FRESH, ReplicaState.REFUSED, ReplicaState.STARTING


def tampered(data: bytes, at: int = -1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def forged(candidate: Candidate) -> Candidate:
    return replace(candidate, entry=tampered(candidate.entry))


BAD_CHECKPOINTS: dict[str, Callable[[Signer], bytes]] = {
    "bad_signature": lambda signer: tampered(signer.checkpoint(now().wall_ms)),
    "malformed_record": lambda _: b"\x02nonsense",
    "unknown_version": lambda signer: tampered(signer.checkpoint(now().wall_ms), 0),
    "wrong_log": lambda _: Signer(OTHER_LOG_ID).checkpoint(now().wall_ms),
    "unknown_key": lambda _: Signer(key=OTHER_KEY).checkpoint(now().wall_ms),
    "rollback": lambda signer: signer.checkpoint(now().wall_ms, 0),
}


@held
@pytest.mark.parametrize("code", BAD_CHECKPOINTS)
async def test_a_bad_checkpoint_is_noted_and_stops_no_other_record(code: str, caplog: pytest.LogCaptureFixture) -> None:
    following = Following(2)
    noted: set[str | None] = set()

    async def infested(after: int) -> AsyncGenerator[Batch, None]:
        while True:
            bad = BAD_CHECKPOINTS[code](following.signer)
            yield Batch((), (bad,))
            noted.add(following.error())
            yield Batch(following.signer.candidates[after:], (bad, following.log.checkpoint(), bad))
            await asyncio.sleep(1)

    following.log.feeds = [infested]
    async with following.running():
        await asyncio.sleep(1.5)
        following.revoke(3)
        await asyncio.sleep(1)

        assert following.log.names() == ["snapshot", "after 2"]
        assert following.judgement() is FRESH
        assert following.revoked() == {1, 2, 3}
    assert noted == set(warnings(caplog.records)) == {code}


@held
async def test_entries_that_do_not_come_are_fetched_by_a_snapshot() -> None:
    following = Following(2)

    async def loses_three(after: int) -> AsyncGenerator[Batch, None]:
        yield following.log.batch(after)
        following.revoke(3, 4)
        yield Batch(following.signer.candidates[3:], (following.log.checkpoint(),))

    following.log.feeds = [loses_three]
    async with following.running():
        await asyncio.sleep(0.05)
        assert following.error() == "gap"
        assert following.revoked() == {1, 2}

        await asyncio.sleep(2)
        assert following.log.names() == ["snapshot", "after 2", "snapshot", "after 4"]
        assert following.revoked() == {1, 2, 3, 4}
        assert following.judgement() is FRESH


@held
async def test_what_an_older_checkpoint_covers_is_applied_though_the_newest_lacks_an_entry() -> None:
    following = Following(1)

    async def loses_three(after: int) -> AsyncGenerator[Batch, None]:
        following.revoke(2)
        before = following.log.checkpoint()
        following.revoke(3, 4)
        two, _three, four = following.signer.candidates[after:]
        yield Batch((two, four), (following.log.checkpoint(), before))
        raise AssertionError("the gap is noticed at once")

    following.log.feeds = [loses_three]
    async with following.running():
        await asyncio.sleep(0.05)
        assert following.applied == [2]
        assert following.error() == "gap"

        await asyncio.sleep(2)
        assert following.revoked() == {1, 2, 3, 4}


@held
async def test_entries_in_any_order_and_many_times_are_applied_once() -> None:
    following = Following(1)
    following.revoke(2, 3)
    shuffled = [following.signer.candidates[index] for index in (2, 0, 1, 2, 1)]
    following.log.snapshots = [following.log.snapshot_of(1)]
    following.log.feeds = [says(Batch(shuffled), following.log.batch())]
    async with following.running():
        await asyncio.sleep(1)

        assert following.applied == [2, 3]
        assert following.revoked() == {1, 2, 3}


@held
async def test_a_forged_entry_in_the_place_of_a_true_one_ends_in_a_snapshot() -> None:
    following = Following(1)

    async def forges(after: int) -> AsyncGenerator[Batch, None]:
        yield following.log.batch(after)
        following.revoke(2)
        yield Batch((forged(following.signer.candidates[1]),), (following.log.checkpoint(),))

    following.log.feeds = [forges]
    async with following.running():
        await asyncio.sleep(0.05)
        assert following.error() == "forged_entry"
        assert following.revoked() == {1}

        await asyncio.sleep(2)
        assert following.log.names() == ["snapshot", "after 1", "snapshot", "after 2"]
        assert following.revoked() == {1, 2}
        assert following.judgement() is FRESH


@held
async def test_a_forged_entry_beside_the_true_one_does_nothing() -> None:
    following = Following(1)

    async def forges(after: int) -> AsyncGenerator[Batch, None]:
        following.revoke(2)
        true = following.signer.candidates[1]
        while True:
            yield Batch((forged(true), true, forged(true)), (following.log.checkpoint(),))
            await asyncio.sleep(1)

    following.log.feeds = [forges]
    async with following.running():
        await asyncio.sleep(1.5)

        assert following.log.names() == ["snapshot", "after 1"]
        assert following.revoked() == {1, 2}
        assert following.judgement() is FRESH


@held
async def test_one_entry_from_far_ahead_costs_nothing_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody can be made to begin again by a number, for it would be there again."""
    following = Following(1)
    far = replace(following.signer.candidates[0], seq=10**15)

    async def tells_of_it_again(_after: int) -> AsyncGenerator[Batch, None]:
        while True:
            yield Batch((far,), (following.log.checkpoint(),))
            await asyncio.sleep(1)

    following.log.feeds = [tells_of_it_again]
    async with following.running():
        await asyncio.sleep(1.5)
        assert following.log.names() == ["snapshot", "after 1"]
        assert following.judgement() is FRESH
    assert {getattr(record, "code", None) for record in caplog.records} == {"backlog"}


@held
async def test_what_is_missing_where_more_is_there_already_is_waited_for() -> None:
    following = Following(1)

    async def in_two_pages(_after: int) -> AsyncGenerator[Batch, None]:
        following.revoke(2, 3)
        _, second, third = following.signer.candidates
        yield Batch((third,), (following.log.checkpoint(),), has_more=True)
        yield Batch((forged(second),), (following.log.checkpoint(),), has_more=True)
        yield Batch((second,), (following.log.checkpoint(),))
        await asyncio.Event().wait()

    following.log.feeds = [in_two_pages]
    async with following.running():
        await asyncio.sleep(0.05)
        assert following.log.names() == ["snapshot", "after 1"]
        assert following.revoked() == {1, 2, 3}


# Another history


@held
async def test_another_history_of_what_is_applied_makes_it_stale_and_changes_nothing() -> None:
    following = Following(3)
    other = following.signer.fork(1)
    other.append_bytes(b"another")
    other.append_bytes(b"history")

    async def rewrites(after: int) -> AsyncGenerator[Batch, None]:
        yield following.log.batch(after)
        while True:
            await asyncio.sleep(1)
            yield Batch(other.candidates, (other.checkpoint(now().wall_ms),))

    following.log.feeds = [rewrites]
    async with following.running():
        await asyncio.sleep(35)

        assert following.log.names() == ["snapshot", "after 3"]
        assert following.judgement() is STARTING
        assert following.error() == "fork"
        assert following.revoked() == {1, 2, 3}


@held
async def test_another_history_that_is_longer_than_ours_is_not_followed_either() -> None:
    following = Following(3)
    async with following.running():
        await asyncio.sleep(2)
        assert following.judgement() is FRESH
        other = following.signer.fork(1)
        for number in range(2, 6):
            other.append_bytes(following.signer.entries[0].to_bytes() + bytes((number,)))
        following.log.signer = other  # all that comes from now on: feed, checkpoints and snapshots
        await asyncio.sleep(35)

        assert following.error() == "fork"
        assert following.judgement() is REFUSED
        assert following.revoked() == {1, 2, 3}
        assert len(following.log.calls) < 40


@held
async def test_an_entry_that_it_cannot_read_makes_it_stale_and_what_came_before_is_in_force() -> None:
    following = Following(1)

    async def from_the_future(after: int) -> AsyncGenerator[Batch, None]:
        following.revoke(2)
        following.signer.append_bytes(b"\xff of another version")
        while True:
            yield following.log.batch(after)
            await asyncio.sleep(1)

    following.log.feeds = [from_the_future] * 30
    async with following.running():
        await asyncio.sleep(31)

        assert following.revoked() == {1, 2}
        assert following.error() == "unknown_version"
        assert following.judgement() is STARTING


# Snapshots


TRUE = signer_of(3).snapshot()


def gives(*chunks: bytes) -> Snapshots:
    async def snapshots() -> AsyncGenerator[bytes, None]:
        for chunk in chunks:
            yield chunk

    return snapshots


async def endless() -> AsyncGenerator[bytes, None]:
    yield TRUE
    while True:
        yield bytes(1_000)


async def trickles() -> AsyncGenerator[bytes, None]:
    for number in range(100):
        yield TRUE[number : number + 1]
        await asyncio.sleep(1)


async def breaks_off() -> AsyncGenerator[bytes, None]:
    yield TRUE[:10]
    raise UnreachableError("it broke")


BAD_SNAPSHOTS: dict[str, tuple[Snapshots, str]] = {
    "empty": (gives(), "malformed_record"),
    "nonsense": (gives(bytes(1_000)), "unknown_version"),
    "its header cut short": (gives(TRUE[:100]), "malformed_record"),
    "its body cut short": (gives(TRUE[:-1]), "snapshot_mismatch"),
    "longer than it says": (gives(TRUE, b"!"), "snapshot_mismatch"),
    "endless": (endless, "snapshot_mismatch"),
    "its header forged": (gives(tampered(TRUE, 30)), "bad_signature"),
    "its body forged": (gives(tampered(TRUE)), "snapshot_mismatch"),
    "of another log": (gives(Signer(OTHER_LOG_ID).snapshot()), "wrong_log"),
    "broken off": (breaks_off, "unreachable"),
    "silent": (silent_snapshot, "unreachable"),
    "a trickle": (trickles, "unreachable"),
}


@held
@pytest.mark.parametrize("way", BAD_SNAPSHOTS)
async def test_where_no_snapshot_can_be_had_the_feed_does(way: str, caplog: pytest.LogCaptureFixture) -> None:
    following = Following(3)
    bad, code = BAD_SNAPSHOTS[way]
    following.log.snapshots = [bad]
    async with following.running():
        await asyncio.sleep(0)
        assert following.revoked() == set()

        await asyncio.sleep(65)
        assert following.log.names() == ["snapshot", "after 0"]
        assert following.revoked() == {1, 2, 3}
        assert following.judgement() is FRESH
    assert warnings(caplog.records) == [code]


@held
async def test_a_postdated_snapshot_is_refused_and_the_feed_brings_what_it_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    following = Following(0)
    following.signer.append(Kind.SESSION, session(1), expires_at_ms=NOW_MS + DAY_MS)
    following.log.snapshots = [gives(following.signer.snapshot(NOW_MS + 2 * DAY_MS))]
    async with following.running():
        await asyncio.sleep(3)

        assert following.log.names() == ["snapshot", "after 0"]
        assert following.revoked() == {1}
        assert following.judgement() is FRESH
    assert warnings(caplog.records) == ["postdated"]


async def _follows_in_a_true_loop() -> None:
    following = Following(3)
    async with following.running():
        await until(lambda: following.revoked() == {1, 2, 3}, "the snapshot is loaded")


def test_a_snapshot_is_read_in_another_thread_than_the_one_that_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    finish = SnapshotReader.finish

    def noted(reader: SnapshotReader) -> Snapshot:
        threads.append(threading.current_thread())
        return finish(reader)

    monkeypatch.setattr(SnapshotReader, "finish", noted)
    asyncio.run(_follows_in_a_true_loop())

    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


@held
async def test_where_the_feed_needs_a_snapshot_it_is_asked_for_again_and_again() -> None:
    """The authority no longer has the first entries."""
    following = Following(3)
    following.log.snapshots = [BAD_SNAPSHOTS["its body forged"][0]] * 3

    async def pruned(_after: int) -> AsyncGenerator[Batch, None]:
        yield Batch(following.signer.candidates[1:], (following.log.checkpoint(),))

    following.log.feeds = [pruned] * 3
    async with following.running():
        await asyncio.sleep(30)

        assert following.log.names() == ["snapshot", "after 0"] * 3 + ["snapshot", "after 3"]
        assert following.judgement() is FRESH
        assert following.revoked() == {1, 2, 3}


@held
async def test_a_snapshot_from_before_what_is_applied_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    following = Following(3)
    following.log.snapshots = [following.log.honest_snapshot, following.log.snapshot_of(1)]

    async def loses_four(after: int) -> AsyncGenerator[Batch, None]:
        yield following.log.batch(after)
        following.revoke(4, 5)
        yield Batch(following.signer.candidates[4:], (following.log.checkpoint(),))

    following.log.feeds = [loses_four]
    async with following.running():
        await asyncio.sleep(3)

        assert following.log.names() == ["snapshot", "after 3", "snapshot", "after 3"]
        assert following.revoked() == {1, 2, 3, 4, 5}
        assert following.judgement() is FRESH
    assert warnings(caplog.records) == ["gap"]
