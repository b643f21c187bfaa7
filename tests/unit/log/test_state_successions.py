"""From one generation to the next: only by the authority's signed word, and never with less than was held before."""

import pytest
from hypothesis import given

from countermand.errors import (
    BadSignatureError,
    ForkError,
    GenerationError,
    LogError,
    RollbackError,
    UnknownKeyError,
    UnknownVersionError,
    WrongLogError,
)
from countermand.log.anchor import EVERYONE, Kind, Rev
from countermand.log.checkpoint import Pin
from countermand.log.freshness import Freshness
from countermand.log.keyset import sign_keyset
from countermand.log.snapshot import make_snapshot
from countermand.log.state import LogState
from countermand.log.succession import Succession
from tests.signer import KEY, LOG_ID, NOW_MS, OTHER_KEY, OTHER_LOG_ID, Signer
from tests.unit.log.helpers import (
    DAY_MS,
    NOW,
    anchors,
    drain,
    feed,
    followed,
    held,
    later,
    numbers,
    read_snapshot,
    session,
    signer_of,
)
from tests.unit.log.strategies import mutated

SIGNER = signer_of(3)
SUCCESSION = SIGNER.succession()


def restored(signer: Signer, seq: int, begins_at: int) -> tuple[Succession, Signer]:
    """The authority, restored to entry `seq` and recovered: the succession, and who signs from then on."""
    succession = signer.succession(begins_at)
    return succession, signer.fork(seq).succeeded(succession)


def moved(state: LogState, succession: Succession, signer: Signer, at_ms: int = NOW_MS + 10) -> None:
    """Lead `state` to the next generation."""
    state.succeed(succession.sign(KEY))
    state.load(read_snapshot(signer.snapshot(at_ms), signer), later(10))


def test_the_snapshot_of_the_next_generation_leads_there_and_what_was_held_stays_held() -> None:
    old = signer_of(5)
    state = followed(old)
    succession, new = restored(old, 2, 5)
    new.append(Kind.SESSION, session(6))

    moved(state, succession, new)

    assert (state.rev, state.link) == (Rev(2, 6), new.links[-1])
    assert numbers(state, 9) == {1, 2, 3, 4, 5, 6}
    assert state.freshness == Freshness(NOW_MS, NOW_MS, NOW), "a snapshot brings none"

    new.append(Kind.SESSION, session(7))
    assert feed(state, new.candidates, [new.checkpoint(NOW_MS + 20)], later(20)) == new.entries[-1:]
    assert state.freshness.applied_at_ms == NOW_MS + 20
    assert not state.is_succeeded


def test_a_succession_alone_changes_nothing_but_what_may_be_loaded() -> None:
    state = followed(SIGNER)
    before = held(state)
    new = SIGNER.succeeded(SUCCESSION)

    for _ in range(3):
        state.succeed(SUCCESSION.sign(KEY))

    assert state.is_succeeded
    with pytest.raises(GenerationError):
        state.accept(new.checkpoint(NOW_MS + 1), NOW)
    assert feed(state, checkpoints=[SIGNER.checkpoint()]) == []
    assert held(state) == before


def test_what_waits_of_the_old_generation_is_let_go() -> None:
    """An entry of it that nobody covered must not pass for one of the new, nor shut it out."""
    old = signer_of(6)
    state = LogState(old.pin)
    feed(state, old.candidates[:3], [old.checkpoint(seq=3)])
    for candidate in old.candidates:
        state.add(candidate)
    state.accept(old.checkpoint(seq=6), NOW)
    succession, new = restored(old.fork(3), 3, 3)

    moved(state, succession, new)

    assert numbers(state, 9) == {1, 2, 3}
    assert drain(state) == []
    for number in (14, 15):
        new.append(Kind.SESSION, session(number))
    assert feed(state, new.candidates, [new.checkpoint()], later(20)) == new.entries[-2:]


def test_a_replica_that_has_seen_more_than_any_witness_goes_on_from_a_smaller_number() -> None:
    old = signer_of(9)
    state = followed(old)
    succession, new = restored(old.fork(5), 5, 5)

    moved(state, succession, new)

    assert state.rev == Rev(2, 5)
    assert numbers(state, 9) == set(range(1, 10))
    new.append(Kind.SESSION, session(10))
    feed(state, new.candidates, [new.checkpoint(NOW_MS + 20)], later(20))
    assert state.rev == Rev(2, 6)


def test_what_is_held_from_before_is_forgotten_when_it_expires() -> None:
    old = Signer()
    old.append(Kind.SESSION, session(1), expires_at_ms=NOW_MS + DAY_MS)
    state = followed(old)
    succession, new = restored(old, 0, 1)
    moved(state, succession, new)

    feed(state, checkpoints=[new.checkpoint(NOW_MS + 3 * DAY_MS)], now=later(3 * DAY_MS))

    assert numbers(state, 1) == set()


def test_who_has_applied_nothing_may_begin_with_any_generation() -> None:
    new = SIGNER.succeeded(SUCCESSION)
    state = LogState(SIGNER.pin)

    state.load(read_snapshot(new.snapshot(), new), NOW)

    assert state.rev == Rev(2, 3)
    feed(state, checkpoints=[new.checkpoint()])
    assert state.freshness.applied_at_ms == NOW_MS


def test_who_has_applied_something_needs_the_succession() -> None:
    state = followed(SIGNER)
    new = SIGNER.succeeded(SUCCESSION)
    before = held(state)

    with pytest.raises(GenerationError):
        state.load(read_snapshot(new.snapshot(), new), NOW)

    assert held(state) == before


def test_a_succession_leads_to_its_own_generation_and_to_no_later_one() -> None:
    second = SIGNER.succeeded(SUCCESSION)
    last = second.succession()
    third = second.succeeded(last)
    state = followed(SIGNER)
    state.succeed(SUCCESSION.sign(KEY))

    with pytest.raises(GenerationError):
        state.load(read_snapshot(third.snapshot(), third), NOW)
    moved(state, last, third)

    assert state.rev == Rev(3, 3)


# Attacks


def refuses(state: LogState, record: bytes, error: type[LogError]) -> None:
    before = held(state), state.is_succeeded
    with pytest.raises(error) as refusal:
        state.succeed(record)
    assert type(refusal.value) is error
    assert (held(state), state.is_succeeded) == before


def test_a_succession_by_a_foreign_key_of_another_log_or_for_another_purpose_is_refused() -> None:
    state = followed(SIGNER)
    refuses(state, SUCCESSION.sign(OTHER_KEY), UnknownKeyError)
    refuses(state, Signer(OTHER_LOG_ID).succession().sign(KEY), WrongLogError)
    refuses(state, SIGNER.checkpoint(), UnknownVersionError)
    body = SUCCESSION.sign(KEY)[:-64]
    for context in (b"", b"countermand checkpoint v2\n", b"countermand snapshot v1\n"):
        refuses(state, body + KEY.sign(context + body), BadSignatureError)


def test_a_succession_is_no_checkpoint() -> None:
    with pytest.raises(UnknownVersionError):
        followed(SIGNER).accept(SUCCESSION.sign(KEY), NOW)


def test_an_old_succession_is_refused_once_a_later_generation_is_known() -> None:
    second = SIGNER.succeeded(SUCCESSION)
    last = second.succession()
    state = followed(SIGNER)
    state.succeed(last.sign(KEY))
    refuses(state, SUCCESSION.sign(KEY), RollbackError)
    moved(state, last, second.succeeded(last))
    refuses(state, SUCCESSION.sign(KEY), RollbackError)


def test_one_generation_with_two_beginnings_is_a_fork() -> None:
    state = followed(SIGNER)
    state.succeed(SUCCESSION.sign(KEY))
    for other in (SIGNER.succession(at_ms=NOW_MS + 1), SIGNER.succession(40), signer_of(4).succession()):
        refuses(state, other.sign(KEY), ForkError)
    moved(state, SUCCESSION, SIGNER.succeeded(SUCCESSION))
    refuses(state, SIGNER.succession(40).sign(KEY), ForkError)


@pytest.mark.parametrize("begins_at", [3, 40])
def test_a_snapshot_of_the_generation_that_begins_elsewhere_is_a_fork(begins_at: int) -> None:
    state = followed(SIGNER)
    state.succeed(SIGNER.succession(begins_at).sign(KEY))
    other = SIGNER.succeeded(SIGNER.succession(begins_at, NOW_MS + 1))
    if begins_at > 3:
        other.base -= 1
    before = held(state)

    with pytest.raises(ForkError):
        state.load(read_snapshot(other.snapshot(), other), NOW)

    assert held(state) == before


def test_nothing_of_the_old_generation_counts_any_more() -> None:
    old = signer_of(5)
    state = LogState(old.pin)
    feed(state, old.candidates[:3], [old.checkpoint(seq=3)])
    succession, new = restored(old.fork(3), 3, 3)
    moved(state, succession, new)
    before = held(state)

    for record in (old.checkpoint(NOW_MS + 900), old.checkpoint(NOW_MS + 900, 3)):
        with pytest.raises(RollbackError):
            state.accept(record, NOW)
    with pytest.raises(RollbackError):
        state.load(read_snapshot(old.snapshot(), old), NOW)
    for candidate in old.candidates:
        state.add(candidate)
    assert drain(state) == []
    assert held(state) == before


def test_a_postdated_snapshot_of_the_next_generation_is_refused_and_changes_nothing() -> None:
    state = followed(SIGNER)
    state.succeed(SUCCESSION.sign(KEY))
    new = SIGNER.succeeded(SUCCESSION)
    before = held(state)

    with pytest.raises(LogError):
        state.load(read_snapshot(new.snapshot(NOW_MS + DAY_MS), new), NOW)

    assert held(state) == before


@given(mutated(SUCCESSION.sign(KEY)))
def test_an_altered_succession_is_refused_or_is_the_same(data: bytes) -> None:
    state = followed(SIGNER)
    try:
        state.succeed(data)
    except LogError:
        assert not state.is_succeeded
    else:
        assert data == SUCCESSION.sign(KEY)


def test_two_recoveries_that_differ_in_anything_have_no_link_in_common() -> None:
    ended, link = SUCCESSION.ended, SUCCESSION.ended_link
    others = [
        SUCCESSION,
        Succession(OTHER_LOG_ID, ended, link, 3, NOW_MS),
        Succession(LOG_ID, Rev(2, 3), link, 3, NOW_MS),
        Succession(LOG_ID, Rev(1, 2), link, 3, NOW_MS),
        Succession(LOG_ID, ended, bytes(32), 3, NOW_MS),
        Succession(LOG_ID, ended, link, 4, NOW_MS),
        Succession(LOG_ID, ended, link, 3, NOW_MS + 1),
    ]
    assert len({one.link for one in others}) == len(others)


# Cutoffs


def test_a_cutoff_of_a_later_generation_ends_what_was_minted_in_an_earlier_one_whatever_its_number() -> None:
    new = SIGNER.succeeded(SUCCESSION)
    new.append(Kind.CUTOFF, EVERYONE, at_ms=NOW_MS)
    state = LogState(Pin.of(LOG_ID, KEY.public_key()))
    state.load(read_snapshot(make_snapshot(new.at(NOW_MS), new.entries, KEY), new), NOW)

    for minted, ended in ((Rev(1, 900), True), (Rev(2, 3), True), (Rev(2, 4), False), (Rev(3, 0), False)):
        assert (state.find(anchors(rev=minted), NOW_MS) is not None) is ended, minted


# What others are shown


def test_a_state_can_prove_what_it_has_applied() -> None:
    assert LogState(SIGNER.pin).proof is None
    state = LogState(SIGNER.pin)
    feed(state, SIGNER.candidates, [SIGNER.checkpoint()])
    assert state.proof == SIGNER.checkpoint()
    with pytest.raises(RollbackError):
        state.accept(SIGNER.checkpoint(seq=1), NOW)
    assert state.proof == SIGNER.checkpoint()


def test_a_succession_that_no_key_speaks_for_any_more_leads_nowhere_until_it_is_signed_again() -> None:
    state = followed(SIGNER)
    stolen = SIGNER.succession(90)
    state.succeed(stolen.sign(KEY))
    state.rekey(sign_keyset(Pin.of(LOG_ID, KEY.public_key(), OTHER_KEY.public_key(), version=1), KEY))
    before = state.is_succeeded
    state.rekey(sign_keyset(Pin.of(LOG_ID, OTHER_KEY.public_key(), version=2), OTHER_KEY))
    assert (before, state.is_succeeded) == (True, False)
    with pytest.raises(UnknownKeyError):
        state.succeed(stolen.sign(KEY))

    state.succeed(SUCCESSION.sign(OTHER_KEY))
    new = SIGNER.succeeded(SUCCESSION)
    state.load(read_snapshot(new.snapshot(NOW_MS + 10), new), later(10))
    assert state.rev == SUCCESSION.rev


def test_a_succession_that_both_keys_have_signed_outlives_the_first() -> None:
    state = followed(SIGNER)
    state.rekey(sign_keyset(Pin.of(LOG_ID, KEY.public_key(), OTHER_KEY.public_key(), version=1), KEY))
    for key in (KEY, OTHER_KEY):
        state.succeed(SUCCESSION.sign(key))
    state.rekey(sign_keyset(Pin.of(LOG_ID, OTHER_KEY.public_key(), version=2), OTHER_KEY))
    assert state.is_succeeded


def test_a_generation_gives_no_freshness_to_who_was_told_of_its_end() -> None:
    """Of two authorities from one backup, the one that was succeeded may sign on, and knows nothing of the other."""
    state = followed(SIGNER)
    state.succeed(SUCCESSION.sign(KEY))
    left_behind = signer_of(4)

    assert feed(state, checkpoints=[SIGNER.checkpoint(NOW_MS + 800)], now=later(900)) == []
    applied = feed(state, left_behind.candidates, [left_behind.checkpoint(NOW_MS + 900)], later(900))

    assert applied == left_behind.entries[-1:], "what it revokes is revoked"
    assert state.freshness == Freshness(NOW_MS, NOW_MS, NOW)
    assert state.is_succeeded
