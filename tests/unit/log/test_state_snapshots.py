"""Attacks with snapshots: old, mixed, altered, cut. A snapshot brings revocations, and no freshness."""

import hashlib
from dataclasses import replace

import pytest

from countermand.errors import (
    BadSignatureError,
    ForkError,
    GenerationError,
    LogError,
    MalformedError,
    PostdatedError,
    RollbackError,
    SnapshotMismatchError,
    UnknownKeyError,
    UnknownKindError,
    UnknownVersionError,
    WrongLogError,
)
from countermand.log.anchor import Anchor, Kind, Rev
from countermand.log.checkpoint import SIGNATURE_BYTES
from countermand.log.freshness import Freshness, Instant
from countermand.log.snapshot import HEADER_BYTES, MAX_BODY_BYTES, SnapshotHeader, SnapshotReader, make_snapshot
from countermand.log.state import LogState
from tests.signer import KEY, NOW_MS, OTHER_KEY, OTHER_LOG_ID, Signer
from tests.unit.log.helpers import (
    DAY_MS,
    NOW,
    TOLERANCE_MS,
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

NOTHING = Freshness(0, 0, Instant(0, 0))


def loaded(signer: Signer, data: bytes) -> LogState:
    state = LogState(signer.pin)
    state.load(read_snapshot(data, signer), NOW)
    return state


def sign_body(signer: Signer, body: bytes, count: int) -> bytes:
    header = SnapshotHeader(signer.at(NOW_MS), count, len(body), hashlib.sha256(body).digest())
    return header.sign(signer.key) + body


# What a snapshot brings


def test_a_snapshot_brings_all_revocations_and_the_position_and_no_freshness() -> None:
    signer = signer_of(9)
    signer.append(Kind.CUTOFF, "subject:alice")
    state = loaded(signer, signer.snapshot())

    assert (state.rev, state.link, len(state)) == (Rev(1, 10), signer.links[10], 10)
    assert numbers(state, 20) == set(range(1, 10))
    assert state.find(anchors(Anchor(Kind.SUBJECT, "alice")), NOW_MS) is not None
    assert state.freshness == NOTHING


def test_after_a_snapshot_its_own_checkpoint_gives_freshness() -> None:
    signer = signer_of(3)
    state = loaded(signer, signer.snapshot())

    assert feed(state, checkpoints=[signer.checkpoint()]) == []
    assert state.freshness.applied_at_ms == NOW_MS


def test_after_a_snapshot_the_log_goes_on_from_its_position() -> None:
    signer = signer_of(5)
    state = loaded(signer, signer.snapshot(seq=3))

    assert feed(state, signer.candidates, [signer.checkpoint()]) == signer.entries[3:]
    assert numbers(state, 9) == {1, 2, 3, 4, 5}


def test_a_snapshot_closes_a_gap_and_what_waited_behind_it_is_applied() -> None:
    signer = signer_of(6)
    state = LogState(signer.pin)
    for candidate in signer.candidates[4:]:
        state.add(candidate)
    state.accept(signer.checkpoint(NOW_MS, 2), later(0))
    state.accept(signer.checkpoint(NOW_MS, 4), later(0))
    state.accept(signer.checkpoint(NOW_MS, 6), later(0))

    state.load(read_snapshot(signer.snapshot(seq=4), signer), NOW)

    assert drain(state) == signer.entries[4:]
    assert numbers(state, 9) == {1, 2, 3, 4, 5, 6}
    assert (state._candidates, state._waiting) == ({}, {})


def test_a_checkpoint_that_waited_for_just_the_snapshots_position_gives_freshness() -> None:
    signer = signer_of(6)
    state = LogState(signer.pin)
    state.accept(signer.checkpoint(NOW_MS, 4), later(0))

    state.load(read_snapshot(signer.snapshot(seq=4), signer), NOW)

    assert drain(state) == []
    assert state.freshness.applied_at_ms == NOW_MS


def test_nothing_is_kept_of_what_a_snapshot_covers() -> None:
    signer = signer_of(6)
    state = LogState(signer.pin)
    for candidate in signer.candidates[1:]:
        state.add(candidate)
    for seq in (2, 3, 4):
        state.accept(signer.checkpoint(seq=seq), later(0))

    state.load(read_snapshot(signer.snapshot(seq=4), signer), NOW)

    assert (set(state._candidates), set(state._waiting)) == ({5, 6}, {4})


def test_what_is_held_stays_held_when_a_snapshot_does_not_name_it() -> None:
    signer = Signer()
    signer.append(Kind.SESSION, session(1), expires_at_ms=NOW_MS + DAY_MS)
    signer.append(Kind.CUTOFF, "subject:alice", expires_at_ms=NOW_MS + DAY_MS)
    state = followed(signer)
    signer.append(Kind.SESSION, session(3))

    state.load(read_snapshot(signer.snapshot(NOW_MS + DAY_MS + 1), signer), later(DAY_MS + 1))

    assert numbers(state, 5) == {1, 3}
    assert state.find(anchors(Anchor(Kind.SUBJECT, "alice")), NOW_MS) is not None


def test_a_snapshot_is_the_same_whatever_the_order_of_its_entries() -> None:
    signer = signer_of(300)
    assert make_snapshot(signer.at(NOW_MS), reversed(signer.entries), KEY) == signer.snapshot()


def test_an_id_of_our_own_making_takes_24_bytes_or_less() -> None:
    seq = 2**28 - 1
    entry = replace(signer_of(1).entries[0], seq=seq, expires_at_ms=NOW_MS + 400 * DAY_MS)
    assert len(make_snapshot(signer_of(1).at(NOW_MS), [entry], KEY)) - HEADER_BYTES == 24


# Old, foreign


def test_an_old_snapshot_is_refused() -> None:
    signer = signer_of(5)
    state = followed(signer)
    before = held(state)
    for seq in range(5):
        old = read_snapshot(signer.snapshot(NOW_MS + DAY_MS, seq), signer)
        with pytest.raises(RollbackError):
            state.load(old, later(DAY_MS))
    assert held(state) == before


def test_a_snapshot_of_another_history_is_a_fork() -> None:
    signer = signer_of(3)
    other = signer.fork(2)
    other.append(Kind.SESSION, session(77))
    waiting = LogState(signer.pin)
    waiting.accept(signer.checkpoint(), later(0))
    for state in (followed(signer), waiting):
        before = held(state)
        with pytest.raises(ForkError):
            state.load(read_snapshot(other.snapshot(NOW_MS + 1), signer), later(1))
        assert held(state) == before


@pytest.mark.parametrize(("generation", "error"), [(2, GenerationError), (0, RollbackError)])
def test_a_snapshot_of_another_generation_is_refused(generation: int, error: type[LogError]) -> None:
    state = followed(signer_of(1))
    other = Signer(generation=generation)
    for number in range(5):
        other.append_bytes(bytes([number]))

    with pytest.raises(error):
        state.load(read_snapshot(other.snapshot(), other), NOW)


def test_a_snapshot_of_another_log_or_another_key_is_refused_at_its_header() -> None:
    signer = signer_of(2)
    others = {Signer(OTHER_LOG_ID): WrongLogError, Signer(key=OTHER_KEY): UnknownKeyError}
    for other, error in others.items():
        with pytest.raises(error):
            SnapshotReader(signer.pin).feed(other.snapshot()[:HEADER_BYTES])


def test_a_header_that_the_right_key_signed_for_another_purpose_is_refused() -> None:
    signer = signer_of(2)
    body = signer.snapshot()[: HEADER_BYTES - SIGNATURE_BYTES]
    for context in (b"", b"countermand checkpoint v2\n", b"countermand snapshot v2\n"):
        with pytest.raises(BadSignatureError):
            SnapshotReader(signer.pin).feed(body + KEY.sign(context + body))


def test_a_checkpoint_in_the_place_of_the_header_is_refused() -> None:
    signer = signer_of(2)
    with pytest.raises(LogError):
        read_snapshot(signer.checkpoint() + signer.snapshot()[HEADER_BYTES:], signer)
    with pytest.raises(LogError):
        read_snapshot(signer.checkpoint(), signer)


# Postdated


def test_a_postdated_snapshot_is_refused_since_it_leaves_out_what_is_still_in_force() -> None:
    signer = Signer()
    signer.append(Kind.SESSION, session(1), expires_at_ms=NOW_MS + DAY_MS)
    state = LogState(signer.pin)
    postdated = read_snapshot(signer.snapshot(NOW_MS + 2 * DAY_MS), signer)
    assert postdated.header.count == 0

    before = held(state)
    with pytest.raises(PostdatedError):
        state.load(postdated, NOW)
    assert held(state) == before

    feed(state, signer.candidates, [signer.checkpoint()])
    assert numbers(state, 1) == {1}


def test_a_snapshot_exactly_at_the_tolerance_is_loaded_and_one_millisecond_more_is_not() -> None:
    signer = signer_of(2)
    state = LogState(signer.pin)
    with pytest.raises(PostdatedError):
        state.load(read_snapshot(signer.snapshot(NOW_MS + TOLERANCE_MS + 1), signer), NOW)
    assert numbers(state, 2) == set()

    state.load(read_snapshot(signer.snapshot(NOW_MS + TOLERANCE_MS), signer), NOW)
    assert numbers(state, 2) == {1, 2}


# Mixed and altered


def test_the_header_of_one_snapshot_with_the_body_of_another_is_refused() -> None:
    signer = signer_of(3)
    one = signer.snapshot()
    signer.append(Kind.SESSION, session(9))
    longer = signer.snapshot()
    other = signer.fork(2)
    other.append(Kind.SESSION, session(77))
    same_length = other.snapshot()
    assert len(same_length) == len(one)
    for body in (longer, same_length):
        with pytest.raises(SnapshotMismatchError):
            read_snapshot(one[:HEADER_BYTES] + body[HEADER_BYTES:], signer)


def test_every_single_flipped_bit_of_a_snapshot_is_refused() -> None:
    signer = signer_of(3)
    signer.append(Kind.SUBJECT, "alice")
    signer.append(Kind.CUTOFF, "all")
    true = signer.snapshot()
    for bit in range(len(true) * 8):
        record = bytearray(true)
        record[bit // 8] ^= 1 << bit % 8
        with pytest.raises(LogError):
            read_snapshot(bytes(record), signer)


def test_a_snapshot_cut_or_lengthened_anywhere_is_refused() -> None:
    signer = signer_of(3)
    true = signer.snapshot()
    for length in range(len(true)):
        with pytest.raises(MalformedError if length < HEADER_BYTES else SnapshotMismatchError):
            read_snapshot(true[:length], signer)
    with pytest.raises(SnapshotMismatchError):
        read_snapshot(true + b"\0", signer)


def test_a_snapshot_may_come_in_any_split() -> None:
    signer = signer_of(4)
    true = signer.snapshot()
    for size in (1, 7, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 1):
        reader = SnapshotReader(signer.pin)
        for start in range(0, len(true), size):
            reader.feed(true[start : start + size])
        snapshot = reader.finish()
        assert snapshot.header.count == len(snapshot.revoked) == 4


def test_a_stranger_is_refused_before_a_byte_of_the_body_is_read() -> None:
    reader = SnapshotReader(signer_of(1).pin)
    reader.feed(bytes([1]) * (HEADER_BYTES - 1))
    with pytest.raises(LogError):
        reader.feed(b"\1")


def test_more_bytes_than_the_header_signs_are_refused_as_they_come() -> None:
    signer = signer_of(1)
    reader = SnapshotReader(signer.pin)
    reader.feed(signer.snapshot())
    with pytest.raises(SnapshotMismatchError):
        reader.feed(b"\0")


def test_a_snapshot_of_another_version_says_so() -> None:
    with pytest.raises(UnknownVersionError):
        read_snapshot(b"\2" + bytes(HEADER_BYTES), signer_of(1))


def test_a_header_that_announces_more_than_any_snapshot_holds_is_refused_though_signed() -> None:
    signer = signer_of(1)
    header = SnapshotHeader(signer.at(NOW_MS), 1, MAX_BODY_BYTES + 1, bytes(32)).sign(KEY)
    with pytest.raises(MalformedError):
        SnapshotReader(signer.pin).feed(header)


# The authority signed records that cannot be read: nothing of them is applied

OWN = bytes([1]) + bytes(16)
HASHED = bytes([0x88]) + bytes(32)
UNREADABLE = {
    "an unknown kind": (OWN + b"\1\0" + bytes([99]) + bytes(16) + b"\1\0", 2, UnknownKindError),
    "kind 0": (bytes([0]) + bytes(16) + b"\1\0", 1, UnknownKindError),
    "seq 0": (OWN + b"\0\0", 1, MalformedError),
    "an hour out of range": (OWN + b"\1\x80\x80\x80\x08", 1, MalformedError),
    "a number not in its shortest form": (OWN + b"\x81\x00\0", 1, MalformedError),
    "a number over 2**53 - 1": (OWN + b"\xff" * 7 + b"\x7f\0", 1, MalformedError),
    "a number without end": (OWN + b"\xff" * 12, 1, MalformedError),
    "a record cut short": (OWN + b"\1\0" + HASHED, 2, MalformedError),
    "fewer records than counted": (OWN + b"\1\0", 2, MalformedError),
    "more records than counted": ((OWN + b"\1\0") * 2, 1, MalformedError),
    "a cutoff without its bounds": (bytes([0x8A]) + bytes(32) + b"\1\0", 1, MalformedError),
}


@pytest.mark.parametrize("case", list(UNREADABLE))
def test_a_signed_body_that_cannot_be_read_changes_nothing(case: str) -> None:
    body, count, error = UNREADABLE[case]
    signer = signer_of(2)
    state = followed(signer)
    before = held(state)
    signer.append(Kind.SESSION, session(3))

    with pytest.raises(error) as refusal:
        state.load(read_snapshot(sign_body(signer, body, count), signer), NOW)

    assert type(refusal.value) is error
    assert held(state) == before
