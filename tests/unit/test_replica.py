"""What a replica knows and when it refuses, with real signed records and clocks that the test holds."""

import math
from collections.abc import Callable

import pytest

from countermand.errors import ConfigurationError
from countermand.log.anchor import Anchor, Anchors, Kind, Rev
from countermand.log.freshness import Instant
from countermand.log.state import LogState
from countermand.log.verdict import CLEAR, Revoked
from countermand.replica.replica import Replica, ReplicaState, ReplicaStatus
from tests.clocks import HeldClocks
from tests.signer import NOW_MS, Signer
from tests.unit.log.helpers import HOUR_MS, anchors, read_snapshot
from tests.unit.replicas import ALICE, BOB, STALE, STARTING, World, ready, seconds_until

STALENESS_BOUNDS_NOTHING = [2.0, 1.999, 0.0, -30.0, math.nan, math.inf, -math.inf]


@pytest.fixture
def world() -> World:
    return ready()


# Starting


def test_before_it_has_heard_anything_it_refuses() -> None:
    world = World()

    assert world.check(ALICE) == STARTING
    assert world.replica.is_revoked(ALICE.id) is True
    assert world.replica.status() == ReplicaStatus(ReplicaState.STARTING, Rev(1, 0), 0, None, None)


@pytest.mark.parametrize("early_ms", [1_001, 2_000, 25_000])
def test_a_checkpoint_from_before_its_own_start_makes_it_no_readier(early_ms: int) -> None:
    world = World()
    world.true_ms += 1_000 - early_ms

    world.beat()

    assert world.check(ALICE) == STARTING
    assert world.judgement() is ReplicaState.STARTING


def test_a_checkpoint_made_within_the_tolerance_of_its_start_makes_it_no_readier() -> None:
    """By a clock a second ahead of ours it could have been made before we started."""
    world = World()
    world.true_ms += 999
    world.beat()
    assert world.check(ALICE) == STARTING

    world.true_ms += 1
    world.beat()
    assert world.check(ALICE) is CLEAR


def test_in_the_process_of_the_authority_the_first_checkpoint_after_the_start_will_do() -> None:
    world = World(local=True)
    world.true_ms -= 1
    world.beat()
    assert world.check(ALICE) == STARTING

    world.true_ms += 1
    world.beat()
    assert world.check(ALICE) is CLEAR


def test_what_it_knows_to_be_revoked_is_denied_before_it_is_ready() -> None:
    world = World()

    world.revoke(ALICE)

    assert world.check(ALICE) == Revoked(ALICE, 1)
    assert world.check(BOB) == STARTING


def test_a_snapshot_brings_revocations_and_no_readiness() -> None:
    world = World()
    world.signer.append(ALICE.kind, ALICE.id)
    world.run(5_000)

    world.state.load(read_snapshot(world.signer.snapshot(world.true_ms), world.signer), world.clocks())

    assert world.check(ALICE) == Revoked(ALICE, 1)
    assert world.check(BOB) == STARTING


# Growing old


def test_it_warns_at_five_seconds_and_refuses_a_second_before_the_bound(world: World) -> None:
    assert world.judgement() is ReplicaState.FRESH
    assert seconds_until(world, lambda: world.judgement() is ReplicaState.STALE) == 5.1
    assert world.check(ALICE) is CLEAR

    world.beat()
    assert seconds_until(world, lambda: world.check(ALICE) is not CLEAR) == 29.1
    assert world.check(ALICE) == STALE
    assert world.judgement() is ReplicaState.REFUSED
    assert world.replica.is_revoked(ALICE.id) is True


@pytest.mark.parametrize("skew_ms", [-1_000, 0, 1_000])
def test_nothing_passes_after_the_bound_while_the_clocks_differ_within_the_tolerance(skew_ms: int) -> None:
    world = World(max_staleness_s=10)
    world.true_ms += skew_ms
    world.run(3_000)
    world.beat()
    assert world.check(ALICE) is CLEAR

    # The authority answers a revocation now, and nobody hears of it.
    assert seconds_until(world, lambda: world.check(ALICE) is not CLEAR) <= 10


def test_a_bound_below_five_seconds_warns_no_later_than_it_refuses() -> None:
    world = ready(max_staleness_s=4)

    assert seconds_until(world, lambda: world.judgement() is not ReplicaState.FRESH) == 3.1
    assert world.judgement() is ReplicaState.REFUSED


def test_what_it_knows_is_denied_however_old_the_knowledge_is(world: World) -> None:
    world.revoke(ALICE)

    for _ in range(4):
        world.run(20_000)
        assert world.check(BOB, ALICE) == Revoked(ALICE, 1)
        assert world.replica.is_revoked(ALICE.id) is True
    assert world.check(BOB) == STALE


def test_a_cutoff_wins_over_old_knowledge_too(world: World) -> None:
    world.signer.append(Kind.CUTOFF, "subject:alice", at_ms=world.true_ms)
    world.beat()
    world.run(60_000)
    subject = Anchor(Kind.SUBJECT, "alice")

    assert world.replica.check(Anchors((subject,), NOW_MS / 1000, Rev(1, 0))) == Revoked(subject, 1)


def test_the_next_checkpoint_makes_it_fresh_again(world: World) -> None:
    world.run(60_000)
    assert world.check(ALICE) == STALE

    world.beat()

    assert world.check(ALICE) is CLEAR
    assert world.judgement() is ReplicaState.FRESH
    assert world.replica.is_revoked(ALICE.id) is False


def test_a_checkpoint_that_was_on_its_way_for_long_makes_it_no_fresher(world: World) -> None:
    made = world.signer.checkpoint(world.true_ms + 1_000)
    world.run(60_000)

    world.state.accept(made, world.clocks())
    world.state.advance()

    assert world.check(ALICE) == STALE


# The bound of one question


def test_a_bound_for_one_question_tightens(world: World) -> None:
    world.run(9_001)

    assert world.check(ALICE, max_staleness_s=10) == STALE
    assert world.check(ALICE, max_staleness_s=10.1) is CLEAR
    assert world.check(ALICE) is CLEAR


def test_a_bound_for_one_question_never_loosens(world: World) -> None:
    world.run(29_001)

    assert world.check(ALICE, max_staleness_s=3_600) == STALE


@pytest.mark.parametrize("bound_s", STALENESS_BOUNDS_NOTHING)
def test_a_bound_that_bounds_nothing_is_refused(world: World, bound_s: float) -> None:
    world.revoke(ALICE)

    with pytest.raises(ConfigurationError, match="over 2 seconds"):
        World(max_staleness_s=bound_s)
    with pytest.raises(ConfigurationError, match="over 2 seconds"):
        world.check(BOB, max_staleness_s=bound_s)
    assert world.check(ALICE, max_staleness_s=bound_s) == Revoked(ALICE, 1)


# Clocks


def test_a_wall_clock_set_forward_refuses_at_once_and_until_it_is_right(world: World) -> None:
    world.clocks.step(HOUR_MS)
    assert world.check(ALICE) == STALE
    world.beat()
    assert world.check(ALICE) == STALE, "by this clock the checkpoint is an hour old"

    world.clocks.step(-HOUR_MS)
    world.run(1_000)
    world.beat()
    assert world.check(ALICE) is CLEAR


def test_a_wall_clock_set_back_delays_nothing_and_gives_no_freshness(world: World) -> None:
    world.run(20_000)
    world.clocks.step(-HOUR_MS)
    assert world.check(ALICE) is CLEAR
    world.beat()
    assert world.replica.status().staleness_ms == 20_000, "by this clock the checkpoint is of the future"

    world.run(9_001)
    assert world.check(ALICE) == STALE


def test_a_suspend_counts_even_where_the_wall_clock_missed_it(world: World) -> None:
    world.clocks.suspend(29_001)

    assert world.check(ALICE) == STALE


def test_both_clocks_running_count_once(world: World) -> None:
    world.run(29_000)
    assert world.check(ALICE) is CLEAR
    assert world.replica.status().staleness_ms == 29_000

    world.run(1)
    assert world.check(ALICE) == STALE


def test_a_clock_that_was_wrong_at_the_start_does_not_let_an_old_checkpoint_in() -> None:
    """Started an hour ahead: what is made now looks older than the start, and the replica waits."""
    world = World()
    world.true_ms -= HOUR_MS
    world.run(5_000)

    world.beat()

    assert world.check(ALICE) == STARTING


# The order of a decision


class Interrupted(LogState):
    """A state whose reader can be put to sleep just after the look-up."""

    def __init__(self, signer: Signer) -> None:
        super().__init__(signer.pin)
        self.meanwhile: Callable[[], None] = lambda: None

    def find(self, anchors: Anchors, now_ms: int) -> Revoked | None:
        found = super().find(anchors, now_ms)
        self.meanwhile()
        return found

    def seq_of(self, key: bytes) -> int | None:
        found = super().seq_of(key)
        self.meanwhile()
        return found


@pytest.fixture
def interrupted(world: World) -> World:
    state = Interrupted(world.signer)
    world.state, world.replica = state, Replica(state, world.clocks, local=True)
    world.beat()
    assert world.check(ALICE) is CLEAR
    assert world.replica.is_revoked(ALICE.id) is False
    return world


def once(world: World, happens: Callable[[], None]) -> None:
    """Let something happen after the next look-up, and only after that."""
    state = world.state
    assert isinstance(state, Interrupted)

    def meanwhile() -> None:
        state.meanwhile = lambda: None
        happens()

    state.meanwhile = meanwhile


def test_a_thread_that_slept_after_its_look_up_finds_its_knowledge_old(interrupted: World) -> None:
    once(interrupted, lambda: interrupted.run(40_000))
    assert interrupted.check(ALICE) == STALE

    interrupted.beat()
    once(interrupted, lambda: interrupted.run(40_000))
    assert interrupted.replica.is_revoked(ALICE.id) is True


def test_what_was_applied_while_it_slept_makes_its_look_up_no_fresher(interrupted: World) -> None:
    """It looked before the revocation came: the checkpoint that came with it is no reason to let the token pass."""

    def revoked_meanwhile() -> None:
        interrupted.run(40_000)
        interrupted.revoke(ALICE)

    once(interrupted, revoked_meanwhile)
    assert interrupted.check(ALICE) == STALE
    assert interrupted.check(ALICE) == Revoked(ALICE, 1)

    def the_other_too() -> None:
        interrupted.run(40_000)
        interrupted.revoke(BOB)

    once(interrupted, the_other_too)
    assert interrupted.replica.is_revoked(BOB.id) is True


class Counting(HeldClocks):
    """Clocks that count how often they are read."""

    def __init__(self) -> None:
        super().__init__()
        self.readings = 0

    def __call__(self) -> Instant:
        self.readings += 1
        return super().__call__()


def test_without_cutoffs_a_decision_reads_the_clocks_once_and_with_them_twice(world: World) -> None:
    clocks = Counting()
    replica = Replica(world.state, clocks, local=True)
    clocks.readings = 0
    replica.check(anchors(ALICE))
    assert clocks.readings == 1

    world.signer.append(Kind.CUTOFF, "all", issued_before_ms=1)
    world.beat()
    replica.check(anchors(ALICE))
    assert clocks.readings == 3


def test_a_cutoff_that_comes_during_a_look_up_ends_nothing_that_it_does_not_reach(interrupted: World) -> None:
    class Overtaken(Interrupted):
        def find(self, anchors: Anchors, now_ms: int) -> Revoked | None:
            self.meanwhile()
            return LogState.find(self, anchors, now_ms)

    interrupted.state = state = Overtaken(interrupted.signer)
    interrupted.replica = Replica(state, interrupted.clocks, local=True)
    interrupted.beat()
    interrupted.signer.append(Kind.CUTOFF, "all", issued_before_ms=NOW_MS - HOUR_MS)
    once(interrupted, interrupted.beat)
    before, after = (Anchors((ALICE,), (NOW_MS - ago_ms) / 1000) for ago_ms in (2 * HOUR_MS, 0))

    assert interrupted.replica.check(after) is CLEAR
    assert isinstance(interrupted.replica.check(before), Revoked)
