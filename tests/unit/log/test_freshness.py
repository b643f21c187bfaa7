"""How old a replica's knowledge is, by the rule of docs/protocol.md, under clocks that step, freeze and disagree."""

import pytest

from countermand.errors import GapError
from countermand.log.anchor import Kind
from countermand.log.freshness import Freshness, Instant
from countermand.log.state import LogState
from tests.signer import NOW_MS, Signer
from tests.unit.log.helpers import HOUR_MS, NOW, TOLERANCE_MS, drain, feed, followed, later, session, signer_of


class Clocks:
    """Two clocks of one machine, held by the test."""

    def __init__(self) -> None:
        self.now = NOW

    def run(self, ms: int) -> None:
        self.now = Instant(self.now.wall_ms + ms, self.now.boot_ms + ms)

    def step(self, ms: int) -> None:
        """Set the wall clock; the other does not step."""
        self.now = Instant(self.now.wall_ms + ms, self.now.boot_ms)

    def lose(self, ms: int) -> None:
        """Let true time pass that the wall clock does not count: it was not read again after a suspend."""
        self.now = Instant(self.now.wall_ms, self.now.boot_ms + ms)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def signer() -> Signer:
    return signer_of(2)


@pytest.fixture
def state(signer: Signer) -> LogState:
    return followed(signer)


def staleness_s(state: LogState, clocks: Clocks) -> float:
    return state.freshness.staleness_ms(clocks.now) / 1000


def test_knowledge_ages_with_both_clocks(state: LogState, clocks: Clocks) -> None:
    assert staleness_s(state, clocks) == 0
    clocks.run(7_000)
    assert staleness_s(state, clocks) == 7


def test_a_wall_clock_set_forward_makes_knowledge_older_at_once(state: LogState, clocks: Clocks) -> None:
    clocks.step(60_000)
    assert staleness_s(state, clocks) == 60


def test_a_wall_clock_set_back_makes_knowledge_no_younger(state: LogState, clocks: Clocks) -> None:
    clocks.run(20_000)
    clocks.step(-HOUR_MS)
    assert staleness_s(state, clocks) == 20
    clocks.run(5_000)
    assert staleness_s(state, clocks) == 25


def test_a_suspend_that_the_wall_clock_missed_counts(state: LogState, clocks: Clocks) -> None:
    clocks.lose(40_000)
    assert staleness_s(state, clocks) == 40


def test_a_suspend_that_the_boot_clock_missed_counts_too(state: LogState, clocks: Clocks) -> None:
    """Where no clock counts suspend, the wall clock is right once it was set again."""
    clocks.step(40_000)
    clocks.run(1_000)
    assert staleness_s(state, clocks) == 41


def test_a_clock_behind_the_authority_does_not_hide_age(signer: Signer, clocks: Clocks) -> None:
    """At arrival the authority's own word is the later time; then the boot clock carries it on."""
    state = LogState(signer.pin)
    feed(state, signer.candidates, [signer.checkpoint(NOW_MS + 800)], clocks.now)
    clocks.run(10_000)
    assert staleness_s(state, clocks) == 10


def test_withheld_checkpoints_make_knowledge_old(state: LogState, clocks: Clocks) -> None:
    for second in range(1, 40):
        clocks.run(1_000)
        assert drain(state) == []
        assert staleness_s(state, clocks) == second


def test_replayed_checkpoints_make_nothing_fresh(signer: Signer, state: LogState, clocks: Clocks) -> None:
    for second in range(1, 40):
        clocks.run(1_000)
        feed(state, checkpoints=[signer.checkpoint()], now=clocks.now)
        assert staleness_s(state, clocks) == second


def test_replayed_checkpoints_do_not_start_the_clocks_again(signer: Signer, state: LogState, clocks: Clocks) -> None:
    """With the wall clock an hour back, only the boot clock since the first arrival tells the age."""
    clocks.step(-HOUR_MS)
    for second in range(1, 40):
        clocks.run(1_000)
        state.accept(signer.checkpoint(), Instant(NOW_MS, clocks.now.boot_ms))
        assert staleness_s(state, clocks) == second


def test_late_checkpoints_give_the_freshness_of_the_time_they_were_made(signer: Signer, clocks: Clocks) -> None:
    state = LogState(signer.pin)
    clocks.run(25_000)
    feed(state, signer.candidates, [signer.checkpoint()], clocks.now)
    assert staleness_s(state, clocks) == 25


def test_a_checkpoint_whose_entries_are_withheld_makes_the_state_stale_and_not_fresh(
    signer: Signer, state: LogState, clocks: Clocks
) -> None:
    signer.append(Kind.SESSION, session(3))
    for second in range(1, 40):
        clocks.run(1_000)
        state.accept(signer.checkpoint(clocks.now.wall_ms), clocks.now)
        with pytest.raises(GapError):
            state.advance()
        assert staleness_s(state, clocks) == second

    clocks.step(-HOUR_MS)
    assert staleness_s(state, clocks) == 39
    feed(state, signer.candidates, now=clocks.now)
    assert staleness_s(state, clocks) == 0


def test_only_the_highest_applied_seq_gives_freshness(signer: Signer, state: LogState, clocks: Clocks) -> None:
    """An attacker holds back the newest entry and plays what the authority said before it."""
    before_it = [signer.checkpoint(NOW_MS + ms) for ms in (100, 200, 300)]
    signer.append(Kind.SESSION, session(3), at_ms=NOW_MS + 400)
    clocks.run(10_000)
    feed(state, checkpoints=before_it, now=clocks.now)
    assert staleness_s(state, clocks) == 9.7


def test_one_that_was_applied_and_lies_before_our_head_gives_none(signer: Signer, clocks: Clocks) -> None:
    state = LogState(signer.pin)
    feed(state, signer.candidates)
    clocks.run(1_000)
    state.accept(signer.checkpoint(NOW_MS + 1_000, 1), clocks.now)
    state.accept(signer.checkpoint(NOW_MS), clocks.now)
    drain(state)
    assert staleness_s(state, clocks) == 1


def test_a_postdated_checkpoint_does_not_make_the_state_stale_either(
    signer: Signer, state: LogState, clocks: Clocks
) -> None:
    feed(state, checkpoints=[signer.checkpoint(NOW_MS + HOUR_MS)], now=clocks.now)
    assert staleness_s(state, clocks) == 0


def test_a_state_that_never_heard_the_authority_is_as_old_as_time(signer: Signer, clocks: Clocks) -> None:
    assert staleness_s(LogState(signer.pin), clocks) == NOW_MS / 1000


@pytest.mark.parametrize(
    ("applied", "newest", "seen", "now", "expected"),
    [
        (1_000, 1_000, Instant(1_000, 0), Instant(1_000, 0), 0),
        (1_000, 1_000, Instant(1_000, 0), Instant(900, 0), 0),  # the authority's word is the later one
        (1_000, 1_000, Instant(200, 0), Instant(300, 50), 100),  # wall clock advanced more
        (1_000, 1_000, Instant(200, 0), Instant(250, 90), 90),  # boot clock advanced more
        (1_000, 5_000, Instant(1_000, 0), Instant(1_000, 0), 4_000),  # newest not applied
        (1_000, 1_000, Instant(1_000, 0), Instant(9_000, 0), 8_000),
    ],
)
def test_the_rule(applied: int, newest: int, seen: Instant, now: Instant, expected: int) -> None:
    assert Freshness(applied, newest, seen).staleness_ms(now) == expected


def test_the_newest_accepted_is_the_newest_by_its_own_time_whatever_its_seq(signer: Signer, clocks: Clocks) -> None:
    """Two authority processes: the one that took the later time may have read the older head."""
    state = LogState(signer.pin)
    state.accept(signer.checkpoint(NOW_MS - 300, 2), clocks.now)
    clocks.run(100)
    state.accept(signer.checkpoint(NOW_MS - 100, 1), clocks.now)
    assert state.freshness == Freshness(0, NOW_MS - 100, later(100))
    clocks.run(100)
    state.accept(signer.checkpoint(NOW_MS - 200, 2), clocks.now)
    assert state.freshness == Freshness(0, NOW_MS - 100, later(100))


def test_the_tolerance_is_a_second_by_default(signer: Signer) -> None:
    state = LogState(signer.pin)
    state.accept(signer.checkpoint(NOW_MS + TOLERANCE_MS), NOW)
    assert state.freshness.newest_at_ms == NOW_MS + 1_000
