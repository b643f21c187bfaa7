"""The set of what is revoked: what it answers, what it costs, and that a reader may ask while the writer forgets."""

import tracemalloc

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

    held_none = revoked._holds_none

    def forget_after(keys: tuple[bytes, ...]) -> bool:
        answer = held_none(keys)
        revoked.forget(11 * HOUR_MS)
        return answer

    revoked._holds_none = forget_after  # type: ignore[assignment]  # the moment between two bytecodes
    assert find(revoked, Anchors(PATH)) == Revoked(Anchor(Kind.CUTOFF, "all"), 2)


def test_a_path_is_looked_up_by_the_keys_of_its_anchors() -> None:
    token = Anchors(PATH)
    assert token.keys == tuple(anchor_key(anchor.kind, "", anchor.id) for anchor in PATH)
    assert [str(target) for target, _ in token.cutoff_targets] == ["cutoff:all"]


def test_clear_is_one_value() -> None:
    assert Clear() == CLEAR


def test_a_hundred_thousand_entries_take_at_most_200_bytes_each() -> None:
    count = 100_000
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        revoked = RevokedSet()
        for number in range(count):
            revoked.add(b"\1" + number.to_bytes(16), 10**6 + number, 500_000 + number % 24)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(revoked) == count
    assert (after - before) / count <= 200
