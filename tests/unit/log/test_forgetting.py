"""When a revocation is forgotten: only when an accepted checkpoint is later than its expiry, never by a local clock."""

import pytest

from countermand.log.anchor import Anchor, Kind, Rev, anchor_key
from countermand.log.freshness import Instant
from countermand.log.revoked import HOUR_MS, NEVER, Cutoff, RevokedSet, expiry_hour
from countermand.log.state import LogState
from tests.signer import NOW_MS, Signer
from tests.unit.log.helpers import (
    DAY_MS,
    TOLERANCE_MS,
    anchors,
    feed,
    followed,
    later,
    numbers,
    read_snapshot,
    session,
)

HOUR = NOW_MS // HOUR_MS
assert HOUR * HOUR_MS == NOW_MS, "these tests count in whole hours from NOW"


def expiring(*expiries: int | None) -> Signer:
    """An authority that has revoked session n until the n-th of `expiries`."""
    signer = Signer()
    for number, expires_at_ms in enumerate(expiries, 1):
        signer.append(Kind.SESSION, session(number), expires_at_ms=expires_at_ms)
    return signer


def heartbeat(state: LogState, signer: Signer, ms: int) -> None:
    """A checkpoint `ms` after NOW, on time."""
    feed(state, checkpoints=[signer.checkpoint(NOW_MS + ms)], now=later(ms))


def test_a_checkpoint_later_than_expiry_and_tolerance_forgets_and_not_a_millisecond_before() -> None:
    signer = expiring(NOW_MS + DAY_MS, NOW_MS + 2 * DAY_MS)
    state = followed(signer)

    heartbeat(state, signer, DAY_MS + TOLERANCE_MS)
    assert numbers(state, 2) == {1, 2}
    heartbeat(state, signer, DAY_MS + TOLERANCE_MS + 1)
    assert (numbers(state, 2), len(state)) == ({2}, 1)


def test_an_expiry_within_an_hour_counts_to_the_hours_end() -> None:
    signer = expiring(NOW_MS + DAY_MS + 1)
    state = followed(signer)

    heartbeat(state, signer, DAY_MS + HOUR_MS + TOLERANCE_MS)
    assert numbers(state, 1) == {1}
    heartbeat(state, signer, DAY_MS + HOUR_MS + TOLERANCE_MS + 1)
    assert numbers(state, 1) == set()


def test_what_has_no_expiry_is_never_forgotten() -> None:
    signer = expiring(None)
    signer.append(Kind.CUTOFF, "all")
    state = followed(signer)

    feed(state, checkpoints=[signer.checkpoint(2**53 - 1)], now=Instant(2**53 - 1, 0))

    assert state.freshness.applied_at_ms == 2**53 - 1
    assert len(state) == 2


def test_the_local_clock_forgets_nothing() -> None:
    signer = expiring(NOW_MS + DAY_MS)
    state = followed(signer)

    feed(state, checkpoints=[signer.checkpoint(NOW_MS + 1)], now=later(1_000 * DAY_MS))

    assert state.find(anchors(Anchor(Kind.SESSION, session(1))), NOW_MS + 1_000 * DAY_MS) is not None


def test_a_checkpoint_whose_entries_are_missing_forgets_nothing() -> None:
    signer = expiring(NOW_MS + DAY_MS)
    state = followed(signer)
    signer.append(Kind.SESSION, session(2))

    state.accept(signer.checkpoint(NOW_MS + 9 * DAY_MS), later(9 * DAY_MS))

    assert numbers(state, 1) == {1}


def test_a_snapshot_forgets_nothing() -> None:
    signer = expiring(NOW_MS + DAY_MS)
    state = followed(signer)

    state.load(read_snapshot(signer.snapshot(NOW_MS + 9 * DAY_MS), signer), later(9 * DAY_MS))

    assert numbers(state, 1) == {1}


def test_an_entry_that_comes_after_its_own_expiry_is_forgotten_with_the_checkpoint_that_covers_it() -> None:
    signer = expiring(NOW_MS + DAY_MS)
    state = LogState(signer.pin)

    applied = feed(state, signer.candidates, [signer.checkpoint(NOW_MS + 2 * DAY_MS)], later(2 * DAY_MS))

    assert (applied, len(state)) == (signer.entries, 0)


def test_what_a_snapshot_brought_is_forgotten_in_its_time() -> None:
    signer = expiring(NOW_MS + DAY_MS, None)
    signer.append(Kind.CUTOFF, "all", expires_at_ms=NOW_MS + DAY_MS)
    state = LogState(signer.pin)
    state.load(read_snapshot(signer.snapshot(), signer), later(0))

    heartbeat(state, signer, DAY_MS + TOLERANCE_MS)
    assert len(state) == 3
    heartbeat(state, signer, DAY_MS + TOLERANCE_MS + 1)
    assert (len(state), numbers(state, 2)) == (1, {2})


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("longer", [NOW_MS + 3 * DAY_MS, None])
def test_revoked_twice_the_later_expiry_wins_in_any_order(order: int, longer: int | None) -> None:
    signer = Signer()
    for expires_at_ms in (NOW_MS + DAY_MS, longer)[::order]:
        signer.append(Kind.SESSION, session(1), expires_at_ms=expires_at_ms)
        signer.append(Kind.CUTOFF, "subject:alice", expires_at_ms=expires_at_ms)
    state = followed(signer)

    heartbeat(state, signer, 2 * DAY_MS)
    assert len(state) == 2
    heartbeat(state, signer, 4 * DAY_MS)
    assert len(state) == (2 if longer is None else 0)


# The set alone

KEYS = [anchor_key(Kind.SESSION, "", session(number)) for number in range(4)]


@pytest.mark.parametrize(
    ("expires_at_ms", "hour"),
    [
        (1, 1),
        (HOUR_MS - 1, 1),
        (HOUR_MS, 1),
        (HOUR_MS + 1, 2),
        ((NEVER - 1) * HOUR_MS, NEVER - 1),
        ((NEVER - 1) * HOUR_MS + 1, NEVER),
        (2**53 - 1, NEVER),
        (None, NEVER),
    ],
)
def test_an_expiry_is_rounded_up_to_the_hour_and_never_past_never(expires_at_ms: int | None, hour: int) -> None:
    assert expiry_hour(expires_at_ms) == hour


def test_the_later_hour_wins_with_its_seq_and_of_equal_ones_the_first() -> None:
    revoked = RevokedSet()
    revoked.add(KEYS[0], 1, 10)
    revoked.add(KEYS[0], 2, 10)
    assert revoked.seq_of(KEYS[0]) == 1
    revoked.add(KEYS[0], 3, 11)
    revoked.add(KEYS[0], 4, 9)
    assert (revoked.seq_of(KEYS[0]), len(revoked)) == (3, 1)
    revoked.forget(10 * HOUR_MS + 1)
    assert revoked.seq_of(KEYS[0]) == 3
    revoked.forget(11 * HOUR_MS)
    assert revoked.seq_of(KEYS[0]) == 3
    revoked.forget(11 * HOUR_MS + 1)
    assert (revoked.seq_of(KEYS[0]), len(revoked)) == (None, 0)


def test_what_was_forgotten_can_be_revoked_again() -> None:
    revoked = RevokedSet()
    revoked.add(KEYS[0], 1, 10)
    revoked.forget(11 * HOUR_MS)
    revoked.add(KEYS[0], 2, 20)
    revoked.forget(12 * HOUR_MS)
    assert revoked.seq_of(KEYS[0]) == 2
    revoked.forget(21 * HOUR_MS)
    assert len(revoked) == 0


def test_adding_another_set_keeps_the_later_expiry_of_both() -> None:
    ours, theirs = RevokedSet(), RevokedSet()
    ours.add(KEYS[0], 1, 10)
    ours.add(KEYS[1], 2, 30)
    theirs.add(KEYS[0], 3, 20)
    theirs.add(KEYS[1], 4, 20)
    theirs.add(KEYS[2], 5, NEVER)
    ours.add_cutoff(KEYS[3], Cutoff(rev=Rev(1, 6), rev_at_ms=60, hour=10))
    theirs.add_cutoff(KEYS[3], Cutoff(before_ms=70, before_seq=7, hour=30))

    ours.add_all(theirs)

    assert [ours.seq_of(key) for key in KEYS[:3]] == [3, 2, 5]
    assert ours._cutoffs[KEYS[3]] == Cutoff(Rev(1, 6), 60, 70, 7, 30)
    ours.forget(20 * HOUR_MS + 1)
    assert [ours.seq_of(key) for key in KEYS[:3]] == [None, 2, 5]
    ours.forget(10**18)
    assert len(ours) == 1
