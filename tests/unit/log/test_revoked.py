"""The set of what is revoked: what it answers, what it costs, and that a reader may ask while the writer forgets."""

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from countermand.log.anchor import Anchor, Anchors, Kind, anchor_key, own_id
from countermand.log.entry import Entry
from countermand.log.revoked import HOUR_MS, NEVER, RevokedSet
from countermand.log.verdict import CLEAR, Clear, Revoked
from tests.signer import NOW_MS
from tests.unit.log.helpers import TOLERANCE_MS, session

PATH = tuple(Anchor(kind, own_id(kind, bytes(16))) for kind in (Kind.SESSION, Kind.AGENT, Kind.DELEGATION, Kind.GRANT))


def find(revoked: RevokedSet, token: Anchors) -> Revoked | None:
    return revoked.find(token, NOW_MS, TOLERANCE_MS)


def test_an_empty_set_ends_nothing() -> None:
    assert find(RevokedSet(), Anchors(PATH)) is None
    assert find(RevokedSet(), Anchors(())) is None
    assert len(RevokedSet()) == 0


def test_any_revoked_anchor_of_the_path_ends_the_token_and_the_root_is_named_first() -> None:
    revoked = RevokedSet()
    for seq, anchor in enumerate(reversed(PATH), 1):
        revoked.add(anchor.key, seq, NEVER)
        assert find(revoked, Anchors(PATH)) == Revoked(anchor, seq)
    assert find(revoked, Anchors(PATH[::-1])) == Revoked(PATH[-1], 1)


def test_a_key_of_one_kind_is_not_one_of_another() -> None:
    revoked = RevokedSet()
    revoked.add_entry(Entry(1, 1, Kind.SESSION, session(1), NOW_MS))
    revoked.add_entry(Entry(1, 2, Kind.SUBJECT, "alice", NOW_MS))

    assert find(revoked, Anchors((Anchor(Kind.SESSION, session(1)),))) is not None
    assert find(revoked, Anchors((Anchor(Kind.AGENT, session(1)),))) is None
    assert find(revoked, Anchors((Anchor(Kind.APPLICATION, "alice"), Anchor(Kind.SUBJECT, "Alice")))) is None


def test_a_foreign_id_is_not_one_of_our_own() -> None:
    revoked = RevokedSet()
    revoked.add_entry(Entry(1, 1, Kind.SESSION, session(1), NOW_MS, issuer="https://idp.example"))

    assert find(revoked, Anchors((Anchor(Kind.SESSION, session(1)),))) is None
    assert find(revoked, Anchors((Anchor(Kind.SESSION, session(1), "https://other.example"),))) is None
    assert find(revoked, Anchors((Anchor(Kind.SESSION, session(1), "https://idp.example"),))) is not None


def test_what_is_forgotten_between_two_looks_leaves_the_cutoffs_in_force() -> None:
    """The writer may forget the anchor after the reader has seen that one is held."""
    revoked = RevokedSet()
    revoked.add(PATH[0].key, 1, 10)
    revoked.add_entry(Entry(1, 2, Kind.CUTOFF, "all", NOW_MS))

    held_none = revoked.holds_none

    def forget_after(keys: tuple[bytes, ...]) -> bool:
        answer = held_none(keys)
        revoked.forget(11 * HOUR_MS)
        return answer

    revoked.holds_none = forget_after  # type: ignore[assignment]  # the moment between two bytecodes
    assert find(revoked, Anchors(PATH)) == Revoked(Anchor(Kind.CUTOFF, "all"), 2)


def between_all_bytecodes(look: Callable[[], None], write: Callable[[], None]) -> int:
    """Call `look` between any two bytecodes of `write`, as a reader in another thread could; return how often."""
    looks = 0

    def trace(frame: FrameType, _event: str, _argument: Any) -> Any:
        nonlocal looks
        frame.f_trace_opcodes = True
        look()
        looks += 1
        return trace

    tracer = sys.gettrace()
    sys.settrace(trace)
    try:
        write()
    finally:
        sys.settrace(tracer)
    return looks


WRITES: dict[str, Callable[[RevokedSet], None]] = {
    "another key": lambda revoked: revoked.add(PATH[2].key, 9, 10),
    "until a later hour": lambda revoked: revoked.add(PATH[0].key, 9, 30),
    "until an earlier hour": lambda revoked: revoked.add(PATH[1].key, 9, 10),
    "forgetting others": lambda revoked: revoked.forget(11 * HOUR_MS),
    "forgetting most": lambda revoked: revoked.forget(21 * HOUR_MS),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_no_reader_misses_what_is_in_force_before_and_after_a_write(write: Callable[[RevokedSet], None]) -> None:
    revoked = RevokedSet()
    revoked.add(PATH[3].key, 1, 10)
    for key in (PATH[0].key, PATH[1].key):
        revoked.add(key, 2, 10)
        revoked.add(key, 3, 20)
    revoked.add(PATH[1].key, 4, NEVER)
    before = {anchor for anchor in PATH if find(revoked, Anchors((anchor,)))}
    seen: list[set[Anchor]] = []

    def look() -> None:
        seen.append({anchor for anchor in PATH if find(revoked, Anchors((anchor,)))})

    looks = between_all_bytecodes(look, lambda: write(revoked))

    after = {anchor for anchor in PATH if find(revoked, Anchors((anchor,)))}
    assert looks > 20
    assert all(before & after <= found <= before | after for found in seen)


def test_a_key_that_is_moved_to_a_later_hour_while_its_seq_is_sought_is_found() -> None:
    """The reader knows the hours, the writer adds a later one and forgets the one in which the reader will look."""
    revoked = RevokedSet()
    revoked.add(PATH[0].key, 1, 10)

    class Moved(dict[int, dict[bytes, int]]):
        moves = 0

        def __iter__(self) -> Any:
            hours = list(super().__iter__())
            if not self.moves:
                self.moves = 1
                revoked.add(PATH[0].key, 2, 20)
                revoked.forget(11 * HOUR_MS)
            return iter(hours)

    revoked._seqs = Moved(revoked._seqs)
    assert find(revoked, Anchors(PATH)) == Revoked(PATH[0], 2)


def test_a_key_is_held_once_however_often_its_hour_grows() -> None:
    revoked = RevokedSet()
    for hour in range(10, 20):
        revoked.add(PATH[0].key, hour, hour)
        assert (len(revoked), revoked.seq_of(PATH[0].key)) == (1, hour)
    revoked.forget(19 * HOUR_MS)
    assert find(revoked, Anchors(PATH)) == Revoked(PATH[0], 19)
    revoked.forget(19 * HOUR_MS + 1)
    assert (len(revoked), revoked._seqs, revoked._extended) == (0, {}, set())


def test_beyond_another_is_what_is_held_longer_and_each_key_once() -> None:
    ours, theirs = RevokedSet(), RevokedSet()
    only_ours, longer, alike, shorter, twice = (f"key {number}".encode() for number in range(5))
    for held, hours in ((ours, (10, 20, 10, 10, 10, 20)), (theirs, (0, 10, 10, 20, 0, 10))):
        for key, hour in zip((only_ours, longer, alike, shorter, twice, twice), hours, strict=True):
            if hour:
                held.add(key, 1, hour)
    assert sorted(ours.beyond(theirs)) == [(only_ours, 10), (longer, 20), (twice, 20)]
    assert list(theirs.beyond(ours)) == [(shorter, 20)]


def test_it_says_whether_a_cutoff_is_in_force() -> None:
    revoked, other = RevokedSet(), RevokedSet()
    other.add_entry(Entry(1, 2, Kind.CUTOFF, "all", NOW_MS, expires_at_ms=10 * HOUR_MS))
    writes: list[tuple[Callable[[], None], bool]] = [
        (lambda: revoked.add(PATH[0].key, 1, 10), False),
        (lambda: revoked.add_all(other), True),
        (lambda: revoked.forget(10 * HOUR_MS), True),
        (lambda: revoked.forget(10 * HOUR_MS + 1), False),
    ]
    for write, expected in writes:
        write()
        assert revoked.has_cutoffs is expected


def test_a_path_is_looked_up_by_the_keys_of_its_anchors() -> None:
    token = Anchors(PATH)
    assert token.keys == tuple(anchor_key(anchor.kind, "", anchor.id) for anchor in PATH)
    assert [str(target) for target, _ in token.cutoff_targets] == ["cutoff:all"]


def test_clear_is_one_value() -> None:
    assert Clear() == CLEAR


@pytest.mark.parametrize("hours", [1, 24])
@pytest.mark.parametrize("count", [100_000, 160_000])
def test_an_entry_takes_at_most_200_bytes(count: int, hours: int) -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        revoked = RevokedSet()
        for number in range(count):
            revoked.add(b"\1" + number.to_bytes(16), 10**6 + number, 500_000 + hours * number // count)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(revoked) == count
    assert (after - before) / count <= 200
