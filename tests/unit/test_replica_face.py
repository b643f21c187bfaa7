"""The replica as a store, as best effort, and what it says of itself."""

import logging

import pytest

from countermand.errors import ReadOnlyStoreError
from countermand.log.anchor import Anchor, Kind, Rev
from countermand.log.verdict import CLEAR, Revoked
from countermand.log.wire import flat_id
from countermand.replica.replica import ReplicaState, ReplicaStatus
from tests.unit.replicas import ALICE, BOB, World, ready


@pytest.fixture
def world() -> World:
    return ready()


# Best effort


def test_best_effort_lets_pass_what_it_cannot_know_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    world = World(best_effort=True)
    assert "best effort" in caplog.text

    caplog.clear()
    assert world.check(ALICE) is CLEAR
    assert "without knowing: starting" in caplog.text

    world.run(1_000)
    world.revoke(BOB)
    world.run(60_000)
    caplog.clear()
    assert world.check(ALICE) is CLEAR
    world.run(1_000)
    assert world.replica.is_revoked(ALICE.id) is False
    assert caplog.text.count("without knowing: stale") == 2
    assert world.check(BOB) == Revoked(BOB, 1)
    assert world.judgement() is ReplicaState.REFUSED


def test_best_effort_says_so_once_a_second_however_often_it_is_asked(caplog: pytest.LogCaptureFixture) -> None:
    world = World(best_effort=True)
    for _ in range(30):
        assert world.check(ALICE) is CLEAR
        world.run(100)

    assert caplog.text.count("without knowing: starting") == 3


def test_a_strict_replica_never_speaks_of_letting_pass(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.run(60_000)
    world.check(ALICE)

    assert caplog.text == ""


# The documented face


@pytest.mark.parametrize(
    "anchor",
    [
        ALICE,
        Anchor(Kind.AGENT, "agt_" + "0b" * 16),
        Anchor(Kind.DELEGATION, "edg_" + "0c" * 16),
        Anchor(Kind.GRANT, "grt_" + "0d" * 16),
        Anchor(Kind.TOKEN, "a-jti"),
        Anchor(Kind.APPLICATION, "app_" + "0e" * 16),
        Anchor(Kind.BISCUIT, "ab" * 64),
        Anchor(Kind.KEY, "a-key-id"),
        Anchor(Kind.SESSION, "séance"),
        Anchor(Kind.SESSION, "theirs", "https://other.example"),
    ],
    ids=str,
)
def test_an_anchor_is_found_by_the_id_that_documented_consumers_see(world: World, anchor: Anchor) -> None:
    assert world.replica.is_revoked(flat_id(anchor)) is False

    world.revoke(anchor)

    assert world.replica.is_revoked(flat_id(anchor)) is True
    assert world.replica.is_revoked(ALICE.id if anchor is not ALICE else BOB.id) is False


def test_the_bare_id_of_another_issuers_anchor_is_not_ours(world: World) -> None:
    world.revoke(Anchor(Kind.SESSION, "theirs", "https://other.example"))

    assert world.replica.is_revoked("theirs") is False


def test_a_subject_is_not_an_id(world: World) -> None:
    world.revoke(Anchor(Kind.SUBJECT, "alice"))

    assert world.replica.is_revoked("alice") is False


def test_cutoffs_are_not_asked_by_a_bare_id(world: World) -> None:
    world.signer.append(Kind.CUTOFF, "all", at_ms=world.true_ms)
    world.beat()

    assert isinstance(world.check(ALICE), Revoked)
    assert world.replica.is_revoked(ALICE.id) is False
    assert world.replica.is_revoked("all") is False


def test_it_cannot_be_written_to(world: World) -> None:
    with pytest.raises(ReadOnlyStoreError, match="authority"):
        world.replica.mark_revoked(ALICE.id)

    assert world.replica.is_revoked(ALICE.id) is False


# What it says of itself


def test_its_status_follows_what_it_is_good_for() -> None:
    world = World()
    assert world.judgement() is ReplicaState.STARTING
    world.run(1_000)
    world.beat()
    assert world.judgement() is ReplicaState.FRESH
    world.run(5_001)
    assert world.judgement() is ReplicaState.STALE
    world.run(24_000)
    assert world.judgement() is ReplicaState.REFUSED
    world.beat()
    assert world.judgement() is ReplicaState.FRESH


def test_its_status_counts_what_it_holds(world: World) -> None:
    world.revoke(ALICE)
    world.revoke(BOB)
    world.signer.append(Kind.CUTOFF, "all", at_ms=world.true_ms)
    world.beat()
    world.run(3_000)
    world.replica.error = "unreachable"

    assert world.replica.status() == ReplicaStatus(ReplicaState.FRESH, Rev(1, 3), 3, 3_000, "unreachable")


def test_it_logs_each_change_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world = World()

    def watch(run_ms: int, *, beat: bool) -> list[tuple[str, str]]:
        caplog.clear()
        world.run(run_ms)
        if beat:
            world.beat()
        for _ in range(3):
            world.replica.watch()
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    assert watch(0, beat=False) == []
    assert watch(1_000, beat=True) == [("INFO", "the replica is fresh")]
    assert watch(5_001, beat=False) == [("WARNING", "the replica is stale")]
    assert watch(24_000, beat=False) == [("WARNING", "the replica is refused")]
    assert watch(0, beat=True) == [("INFO", "the replica is fresh")]
