"""Any way in which a true history can arrive, with forged rivals in between, ends in the state that arrival in order
ends in; and at no moment is anything believed that no checkpoint covers."""

from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from countermand.errors import ForgedEntryError, GapError, RollbackError
from countermand.log.anchor import Kind, Rev
from countermand.log.chain import Candidate
from countermand.log.entry import Entry
from countermand.log.freshness import Instant
from countermand.log.state import MAX_RIVALS, LogState
from tests.signer import NOW_MS, Signer
from tests.unit.log.helpers import DAY_MS, details, feed, followed, held, later, read_snapshot, session

LATE = later(100)
FORGED = 10**6
"""Sessions from here on are named only by forged entries."""


def history(count: int) -> Signer:
    """Revocations and cutoffs, some twice, some that expire before LATE and some that do not."""
    signer = Signer()
    for number in range(1, count + 1):
        if number % 4 == 0:
            signer.append(Kind.CUTOFF, "subject:alice", at_ms=NOW_MS - number)
        else:
            expires_at_ms = NOW_MS - DAY_MS if number % 5 == 0 else NOW_MS + number * DAY_MS
            signer.append(Kind.SESSION, session(number % 9), expires_at_ms=expires_at_ms)
    return signer


SIGNER = history(12)
IN_ORDER = followed(SIGNER, LATE)


@dataclass(frozen=True)
class Forgery:
    """One forged candidate for `seq`; `after` chooses whether it follows the true link before it."""

    seq: int
    number: int
    after: bool

    def candidate(self) -> Candidate:
        entry = Entry(1, self.seq, Kind.SESSION, session(FORGED + self.number), NOW_MS)
        previous = SIGNER.links[self.seq - 1] if self.after else bytes([self.number]) * 32
        return Candidate(self.seq, previous, entry.to_bytes())


seqs = st.integers(1, SIGNER.seq)
forgeries = st.builds(Forgery, seqs, st.integers(0, 5), st.booleans()).map(Forgery.candidate)
altered = st.builds(lambda seq, other: replace(SIGNER.candidates[seq - 1], seq=other), seqs, st.integers(0, 14))
true_candidates = seqs.map(lambda seq: SIGNER.candidates[seq - 1])
checkpoints = st.builds(
    lambda seq, late: SIGNER.checkpoint(NOW_MS - late, seq), st.integers(0, SIGNER.seq), st.integers(0, 3)
)
arrivals = st.lists(st.one_of(true_candidates, forgeries, altered, checkpoints), max_size=60)


def arrive(state: LogState, record: Candidate | bytes) -> Rev | None:
    """Give one record to the state; return the position of a checkpoint that it believed."""
    if isinstance(record, Candidate):
        state.add(record)
        return None
    with suppress(RollbackError):
        state.accept(record, LATE)
        return Rev(1, int.from_bytes(record[25:33]))
    return None


def step(state: LogState) -> list[Entry]:
    try:
        return state.advance()
    except (GapError, ForgedEntryError):
        return []


@given(arrivals, st.randoms(use_true_random=False))
def test_any_order_and_repetition_with_forged_rivals_ends_as_in_order(
    records: list[Candidate | bytes], random: Random
) -> None:
    state = LogState(SIGNER.pin)
    covered, applied = Rev(1, 0), []
    for record in records:
        covered = max(covered, arrive(state, record) or covered)
        while done := step(state):
            applied += done
        assert state.rev <= covered
        assert applied == SIGNER.entries[: state.rev.seq]
        assert state.link == SIGNER.links[state.rev.seq]

    rest = list(SIGNER.candidates)
    random.shuffle(rest)
    applied += feed(state, rest, [SIGNER.checkpoint()], LATE)

    assert applied == SIGNER.entries
    assert held(state)[:4] == held(IN_ORDER)[:4]
    assert state.freshness.applied_at_ms == NOW_MS
    assert (state._candidates.keys() & range(SIGNER.seq + 1), state._waiting) == (set(), {})


@given(st.integers(0, SIGNER.seq), st.integers(0, SIGNER.seq), arrivals)
def test_a_snapshot_at_any_moment_ends_in_the_same_set(before: int, at: int, records: list[Candidate | bytes]) -> None:
    state = LogState(SIGNER.pin)
    feed(state, SIGNER.candidates[:before], [SIGNER.checkpoint(NOW_MS - 50, before)], LATE)
    for record in records:
        arrive(state, record)
    with suppress(RollbackError):
        state.load(read_snapshot(SIGNER.snapshot(seq=at), SIGNER), LATE)
    feed(state, SIGNER.candidates, [SIGNER.checkpoint()], LATE)

    assert (state.rev, state.link) == (IN_ORDER.rev, IN_ORDER.link)
    assert details(state._revoked).keys() == details(IN_ORDER._revoked).keys()
    assert state._revoked._cutoffs == IN_ORDER._revoked._cutoffs
    assert state.freshness.applied_at_ms == NOW_MS


class LivingLog(RuleBasedStateMachine):
    """An authority that goes on revoking, a network that loses and forges, and a replica whose beliefs are checked."""

    def __init__(self) -> None:
        super().__init__()
        self.signer = Signer()
        self.state = LogState(self.signer.pin)
        self.now = Instant(NOW_MS, 0)
        self.sent: list[tuple[int, bytes]] = [(0, self.signer.checkpoint())]
        self.accepted = 0
        self.applied: list[Entry] = []

    @rule(number=st.integers(0, 20), hours=st.none() | st.integers(24, 60))
    def revoke(self, number: int, hours: int | None) -> None:
        expires_at_ms = None if hours is None else self.now.wall_ms + hours * 3_600_000
        self.signer.append(Kind.SESSION, session(number), at_ms=self.now.wall_ms, expires_at_ms=expires_at_ms)

    @rule(ms=st.sampled_from([0, 1_000, 3_600_000]))
    def heartbeat(self, ms: int) -> None:
        self.now = Instant(self.now.wall_ms + ms, self.now.boot_ms + ms)
        self.sent.append((self.signer.seq, self.signer.checkpoint(self.now.wall_ms)))

    @rule(data=st.data())
    def deliver_an_entry(self, data: st.DataObject) -> None:
        if self.signer.candidates:
            self.state.add(data.draw(st.sampled_from(self.signer.candidates)))

    @rule(data=st.data(), number=st.integers(0, MAX_RIVALS))
    def deliver_a_forged_entry(self, data: st.DataObject, number: int) -> None:
        seq = data.draw(st.integers(1, self.signer.seq + 2))
        entry = Entry(1, seq, Kind.SESSION, session(FORGED + number), NOW_MS)
        self.state.add(Candidate(seq, self.signer.links[min(seq - 1, self.signer.seq)], entry.to_bytes()))

    @rule(data=st.data())
    def deliver_a_checkpoint(self, data: st.DataObject) -> None:
        seq, signed = data.draw(st.sampled_from(self.sent))
        with suppress(RollbackError):
            self.state.accept(signed, self.now)
            self.accepted = max(self.accepted, seq)

    @rule()
    def deliver_everything(self) -> None:
        for candidate in self.signer.candidates:
            self.state.add(candidate)
        seq, signed = self.sent[-1]
        self.state.accept(signed, self.now)
        self.accepted = max(self.accepted, seq)
        while done := self.state.advance():
            self.applied += done
        assert self.state.rev.seq == self.accepted == seq

    @rule()
    def advance(self) -> None:
        self.applied += step(self.state)

    @invariant()
    def nothing_is_believed_that_no_checkpoint_covers(self) -> None:
        assert self.state.rev.seq <= self.accepted
        assert self.applied == self.signer.entries[: self.state.rev.seq]

    @invariant()
    def what_is_applied_and_has_not_expired_is_revoked(self) -> None:
        keys = {
            entry.key
            for entry in self.applied
            if entry.expires_at_ms is None or entry.expires_at_ms + 1_000 >= self.now.wall_ms
        }
        assert all(self.state.seq_of(key) is not None for key in keys)
        assert details(self.state._revoked).keys() <= {entry.key for entry in self.applied}

    @invariant()
    def freshness_is_never_newer_than_what_is_missing(self) -> None:
        """Whatever the authority had revoked by the time that the state claims to know, it has applied."""
        known_at_ms = self.state.freshness.applied_at_ms
        assert all(entry.seq <= self.state.rev.seq for entry in self.signer.entries if entry.at_ms < known_at_ms)


def test_a_living_log_is_followed_truly_whatever_the_network_does() -> None:
    run_state_machine_as_test(LivingLog, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))
