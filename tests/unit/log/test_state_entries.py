"""Attacks with entries: forged, rival, altered, missing, unreadable, of another history."""

from dataclasses import replace

import pytest

from countermand.errors import (
    BacklogError,
    ForgedEntryError,
    ForkError,
    GapError,
    LogError,
    MalformedError,
    UnknownKindError,
    UnknownVersionError,
)
from countermand.log import wire
from countermand.log.anchor import Kind, Rev
from countermand.log.chain import Candidate
from countermand.log.entry import Entry
from countermand.log.state import MAX_AHEAD, MAX_RIVALS, LogState
from tests.signer import NOW_MS, OTHER_LOG_ID, Signer
from tests.unit.log.helpers import NOW, feed, followed, held, later, numbers, read_snapshot, session, signer_of


def forged(true: Candidate, number: int = 666) -> Candidate:
    """What an attacker on the way would send in the place of `true`: a well-formed entry after the same link."""
    entry = Entry.parse(true.entry)
    return Candidate(true.seq, true.previous, replace(entry, id=session(number)).to_bytes())


def refused(state: LogState, error: type[LogError]) -> LogError:
    """Assert that `state` goes no further, and changes nothing by trying again."""
    before = held(state)
    with pytest.raises(error) as refusal:
        state.advance()
    with pytest.raises(error):
        state.advance()
    assert type(refusal.value) is error
    assert held(state) == before
    return refusal.value


# Nothing is believed that no checkpoint covers


def test_an_entry_is_not_believed_before_a_checkpoint_covers_it() -> None:
    signer = signer_of(2)
    state = LogState(signer.pin)

    assert feed(state, signer.candidates) == []
    assert numbers(state, 2) == set()
    assert feed(state, checkpoints=[signer.checkpoint(seq=1)]) == signer.entries[:1]
    assert numbers(state, 2) == {1}


def test_a_forged_entry_under_a_true_checkpoint_is_refused_and_the_true_one_still_wins() -> None:
    signer = signer_of(3)
    state = LogState(signer.pin)
    first, second, third = signer.candidates
    state.add(first)
    state.add(forged(second))
    state.add(third)
    state.accept(signer.checkpoint(), later(0))

    refusal = refused(state, ForgedEntryError)

    assert isinstance(refusal, ForgedEntryError)
    assert refusal.seq == 2
    assert (state.rev, len(state)) == (Rev(1, 0), 0)
    assert feed(state, [second]) == signer.entries


@pytest.mark.parametrize("true_first", [True, False])
def test_a_rival_beside_the_true_entry_has_no_effect_in_either_order(true_first: bool) -> None:
    signer = signer_of(3)
    state = LogState(signer.pin)
    for true in signer.candidates:
        for candidate in (true, forged(true))[:: 1 if true_first else -1]:
            state.add(candidate)

    assert feed(state, checkpoints=[signer.checkpoint()]) == signer.entries
    assert numbers(state, 666) == {1, 2, 3}


def test_a_rival_with_the_true_bytes_after_another_link_has_no_effect() -> None:
    signer = signer_of(2)
    state = LogState(signer.pin)
    state.add(replace(signer.candidates[1], previous=bytes(32)))

    assert feed(state, signer.candidates, [signer.checkpoint()]) == signer.entries


def test_a_whole_forged_chain_beside_the_true_one_has_no_effect() -> None:
    signer = signer_of(5)
    attacker = Signer()
    for number in range(600, 605):
        attacker.append(Kind.SESSION, session(number))
    state = LogState(signer.pin)

    assert feed(state, [*attacker.candidates, *signer.candidates], [signer.checkpoint()]) == signer.entries


@pytest.mark.parametrize("before", range(MAX_RIVALS))
def test_the_true_entry_is_found_anywhere_among_as_many_rivals_as_are_held(before: int) -> None:
    signer = signer_of(1)
    (true,) = signer.candidates
    rivals = [forged(true, 600 + number) for number in range(MAX_RIVALS - 1)]
    state = LogState(signer.pin)

    assert feed(state, [*rivals[:before], true, *rivals[before:]], [signer.checkpoint()]) == signer.entries


def test_more_rivals_than_are_held_push_the_true_entry_out_until_it_comes_again() -> None:
    signer = signer_of(1)
    (true,) = signer.candidates
    state = LogState(signer.pin)
    feed(state, [true, *(forged(true, 600 + number) for number in range(MAX_RIVALS * 3))])
    state.accept(signer.checkpoint(), later(0))

    refused(state, ForgedEntryError)

    assert len(state._candidates[1]) == MAX_RIVALS
    assert feed(state, [true]) == signer.entries


def test_a_repeated_candidate_takes_no_room() -> None:
    signer = signer_of(1)
    (true,) = signer.candidates
    state = LogState(signer.pin)
    feed(state, [true, *[forged(true)] * 50])

    assert len(state._candidates[1]) == 2


def test_altered_documented_fields_beside_a_true_entry_have_no_effect() -> None:
    signer = signer_of(1)
    (true,) = signer.candidates
    fields = wire.to_fields(true.previous, true.entry)
    documented = {name: session(666) for name in fields if not name.startswith("cm_")}
    state = LogState(signer.pin)

    assert feed(state, [wire.from_fields(fields | documented)], [signer.checkpoint()]) == signer.entries
    assert numbers(state, 666) == {1}


def test_a_checkpoint_of_one_log_does_not_cover_the_entries_of_another() -> None:
    signer, other = signer_of(2), Signer(OTHER_LOG_ID)
    for number in (1, 2):
        other.append(Kind.SESSION, session(number))
    state = LogState(signer.pin)
    feed(state, other.candidates)
    state.accept(signer.checkpoint(), later(0))

    refused(state, ForgedEntryError)


# Older checkpoints do what newer ones cannot


def test_a_forged_entry_does_not_keep_an_older_checkpoint_from_being_applied() -> None:
    signer = signer_of(4)
    state = LogState(signer.pin)
    third = signer.candidates[2]
    for candidate in (*signer.candidates[:2], forged(third), signer.candidates[3]):
        state.add(candidate)
    for seq in (2, 3, 4):
        state.accept(signer.checkpoint(NOW_MS + seq, seq), later(10))

    assert state.advance() == signer.entries[:2]
    assert state.freshness.applied_at_ms == NOW_MS + 2
    refused(state, ForgedEntryError)
    assert feed(state, [third]) == signer.entries[2:]
    assert state.freshness.applied_at_ms == NOW_MS + 4


def test_a_heartbeat_counts_while_newer_entries_are_missing_and_the_gap_is_told() -> None:
    signer = signer_of(1)
    state = followed(signer)
    heartbeat = signer.checkpoint(NOW_MS + 500)
    signer.append(Kind.SESSION, session(2))
    state.accept(heartbeat, later(500))
    state.accept(signer.checkpoint(NOW_MS + 600), later(600))

    with pytest.raises(GapError):
        state.advance()
    assert state.freshness.applied_at_ms == NOW_MS + 500


# Gap and backlog


def test_a_gap_names_what_is_missing_and_closes_when_it_comes() -> None:
    signer = signer_of(6)
    state = LogState(signer.pin)
    missing = signer.candidates[2:4]
    for candidate in (*signer.candidates[:2], *signer.candidates[4:]):
        state.add(candidate)
    state.accept(signer.checkpoint(), later(0))

    refusal = refused(state, GapError)

    assert isinstance(refusal, GapError)
    assert (refusal.first, refusal.last) == (3, 6)
    assert feed(state, missing) == signer.entries


def test_the_gap_ends_at_the_nearest_checkpoint_that_waits() -> None:
    signer = signer_of(6)
    state = LogState(signer.pin)
    for seq in (6, 3, 5):
        state.accept(signer.checkpoint(seq=seq), later(0))

    with pytest.raises(GapError) as refusal:
        state.advance()
    assert (refusal.value.first, refusal.value.last) == (1, 3)


def test_an_entry_as_far_ahead_as_is_held_is_held_and_one_further_is_refused() -> None:
    signer = signer_of(1)
    state = followed(signer)
    (true,) = signer.candidates

    state.add(replace(true, seq=1 + MAX_AHEAD))
    with pytest.raises(BacklogError):
        state.add(replace(true, seq=2 + MAX_AHEAD))
    assert set(state._candidates) == {1 + MAX_AHEAD}


def test_more_bytes_than_are_held_let_every_candidate_go_and_what_comes_again_is_applied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signer = signer_of(4)
    size = len(signer.candidates[0].entry)
    monkeypatch.setattr("countermand.log.state.MAX_HELD_BYTES", 4 * size)
    state = LogState(signer.pin)
    feed(state, signer.candidates, [signer.checkpoint(seq=1)])
    assert state.rev == Rev(1, 1)
    state.add(Candidate(9, bytes(32), bytes(size)))

    with pytest.raises(BacklogError):
        state.add(Candidate(9, bytes(32), b"!"))
    assert (state._candidates, state._held_bytes) == ({}, 0)

    state.accept(signer.checkpoint(), later(0))
    refused(state, GapError)
    assert feed(state, signer.candidates) == signer.entries[1:]


@pytest.mark.parametrize("seq", [1, 2, 4])
def test_a_true_entry_before_a_flood_of_forged_ones_is_known_when_it_comes_again(seq: int) -> None:
    signer = signer_of(4)
    flood = [Candidate(seq, bytes(32), f"forged {number}".encode()) for number in range(3 * MAX_RIVALS)]
    way = [*signer.candidates[:seq], *flood, *signer.candidates[seq:]]
    state = LogState(signer.pin)
    for candidate in way:
        state.add(candidate)
    state.accept(signer.checkpoint(), later(0))
    refused(state, ForgedEntryError)

    assert feed(state, way) == signer.entries
    assert (state._wanted, state._candidates, state._held_bytes) == ({}, {}, 0)


def test_a_snapshot_ends_the_search_for_what_it_covers() -> None:
    signer = signer_of(4)
    state = LogState(signer.pin)
    feed(state, [*signer.candidates[1:], Candidate(1, bytes(32), b"forged")], [])
    state.accept(signer.checkpoint(), later(0))
    refused(state, ForgedEntryError)
    assert state._wanted.keys() == {1}
    state.load(read_snapshot(signer.snapshot(), signer), NOW)
    assert state._wanted == {}


def test_the_bytes_held_are_counted_exactly() -> None:
    signer = signer_of(6)
    size = len(signer.candidates[0].entry)
    state = LogState(signer.pin)
    forgeries = [Candidate(2, bytes([length] * 32), bytes(length)) for length in range(1, MAX_RIVALS + 4)]

    feed(state, [*forgeries, *forgeries[-3:], *signer.candidates, *signer.candidates])
    assert state._held_bytes == 6 * size + sum(range(5, MAX_RIVALS + 4)), (
        "the newest eight for entry 2, the true one last"
    )

    feed(state, checkpoints=[signer.checkpoint(seq=3)])
    assert state._held_bytes == 3 * size
    state.load(read_snapshot(signer.snapshot(seq=5), signer), NOW)
    assert state._held_bytes == size
    feed(state, checkpoints=[signer.checkpoint()])
    assert state._held_bytes == 0


def test_what_is_applied_already_is_passed_over_whatever_it_claims() -> None:
    signer = signer_of(2)
    state = followed(signer)
    before = held(state)

    assert feed(state, [*signer.candidates, *map(forged, signer.candidates), Candidate(0, bytes(32), b"")]) == []
    assert held(state) == before
    assert state._candidates == {}


def test_nothing_is_kept_of_what_was_applied() -> None:
    state = followed(signer_of(50))
    assert (state._candidates, state._waiting) == ({}, {})


# Forks


def test_a_history_that_leaves_ours_before_our_head_is_a_fork() -> None:
    signer = signer_of(3)
    state = followed(signer)
    other = signer.fork(1)
    for number in (72, 73, 74, 75):
        other.append(Kind.SESSION, session(number))
    for candidate in other.candidates:
        state.add(candidate)
    state.accept(other.checkpoint(NOW_MS + 1), later(1))

    refused(state, ForkError)
    assert numbers(state, 80) == {1, 2, 3}


def test_two_signed_histories_for_one_seq_are_a_fork_before_either_is_applied() -> None:
    signer = signer_of(3)
    other = signer.fork(2)
    other.append(Kind.SESSION, session(77))
    state = LogState(signer.pin)
    state.accept(signer.checkpoint(), later(0))

    with pytest.raises(ForkError):
        state.accept(other.checkpoint(NOW_MS + 1), later(1))
    assert feed(state, [*other.candidates, *signer.candidates]) == signer.entries


# The authority signed what cannot be read


def unreadable(signer: Signer) -> dict[str, tuple[bytes, type[LogError]]]:
    entry = Entry(signer.generation, signer.seq + 1, Kind.SESSION, session(9), NOW_MS)
    data = entry.to_bytes()
    return {
        "unknown kind": (data[:1] + b"\x63" + data[2:], UnknownKindError),
        "kind 0": (data[:1] + b"\x00" + data[2:], UnknownKindError),
        "unknown version": (b"\x02" + data[1:], UnknownVersionError),
        "another seq": (replace(entry, seq=entry.seq + 1).to_bytes(), MalformedError),
        "an older seq": (replace(entry, seq=1).to_bytes(), MalformedError),
        "another generation": (replace(entry, generation=2).to_bytes(), MalformedError),
        "bytes after its end": (data + b"\x00", MalformedError),
        "nothing": (b"", MalformedError),
    }


@pytest.mark.parametrize("case", list(unreadable(signer_of(2))))
def test_an_entry_that_cannot_be_read_stops_the_state_behind_what_came_before_it(case: str) -> None:
    signer = signer_of(2)
    data, error = unreadable(signer)[case]
    signer.append_bytes(data)
    signer.append(Kind.SESSION, session(4))
    state = LogState(signer.pin)
    for candidate in signer.candidates:
        state.add(candidate)
    state.accept(signer.checkpoint(), later(0))

    assert state.advance() == signer.entries[:2]
    refused(state, error)

    assert (state.rev, numbers(state, 10)) == (Rev(1, 2), {1, 2})
    assert state.freshness.applied_at_ms == 0


def test_after_an_unknown_kind_nothing_later_is_applied_and_the_state_goes_stale() -> None:
    signer = signer_of(2)
    state = followed(signer)
    signer.append_bytes(unreadable(signer)["unknown kind"][0])
    for number in range(4, 30):
        signer.append(Kind.SESSION, session(number))
        state.accept(signer.checkpoint(NOW_MS + number * 1_000), later(number * 1_000))
        for candidate in signer.candidates:
            state.add(candidate)
        refused(state, UnknownKindError)

    assert state.rev == Rev(1, 2)
    assert state.freshness.staleness_ms(later(29_000)) == 29_000
