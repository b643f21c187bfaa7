"""Cutoffs: which tokens one entry ends. In doubt it ends the token."""

from collections.abc import Sequence

import pytest

from countermand.errors import LogError, MalformedError, UnknownKindError
from countermand.log.anchor import Anchor, Anchors, Kind, Rev
from countermand.log.entry import Entry
from countermand.log.revoked import RevokedSet
from countermand.log.state import LogState
from countermand.log.verdict import Revoked
from tests.signer import NOW_MS, Signer
from tests.unit.log.helpers import NOW, TOLERANCE_MS, anchors, followed, read_snapshot, session

NOW_S = NOW_MS // 1000
ALICE = Anchor(Kind.SUBJECT, "alice")
BOB = Anchor(Kind.SUBJECT, "bob")
APP = Anchor(Kind.APPLICATION, "app_" + "1" * 32)
SESSION = Anchor(Kind.SESSION, session(1))
EVERYONE = Anchor(Kind.CUTOFF, "all")


def cutoff(
    target: str = "subject:alice",
    *,
    seq: int = 10,
    generation: int = 1,
    at_ms: int = NOW_MS,
    before_ms: int | None = None,
    issuer: str = "",
) -> Entry:
    return Entry(generation, seq, Kind.CUTOFF, target, at_ms, issuer=issuer, issued_before_ms=before_ms)


def found(entries: Sequence[Entry], token: Anchors, now_ms: int = NOW_MS) -> Revoked | None:
    revoked = RevokedSet()
    for entry in entries:
        revoked.add_entry(entry)
    return revoked.find(token, now_ms, TOLERANCE_MS)


def ends(entry: Entry, token: Anchors, now_ms: int = NOW_MS) -> bool:
    return found([entry], token, now_ms) is not None


# As of now


@pytest.mark.parametrize(
    ("rev", "ended"),
    [
        (Rev(1, 0), True),
        (Rev(1, 9), True),
        (Rev(1, 10), False),
        (Rev(1, 11), False),
        (Rev(2, 0), False),
        (Rev(0, 99), True),
    ],
)
@pytest.mark.parametrize("issued_at_s", [0, NOW_S, NOW_S + 10**6, None])
def test_as_of_now_goes_by_the_position_at_minting_and_needs_no_clock(
    rev: Rev, ended: bool, issued_at_s: float | None
) -> None:
    assert ends(cutoff(), anchors(ALICE, issued_at_s=issued_at_s, rev=rev)) is ended


def test_the_answer_names_the_target_and_the_entry() -> None:
    token = anchors(SESSION, ALICE, APP, issued_at_s=NOW_S, rev=Rev(1, 1))

    assert found([cutoff("subject:alice")], token) == Revoked(ALICE, 10)
    assert found([cutoff(f"application:{APP.id}")], token) == Revoked(APP, 10)
    assert found([cutoff("all")], token) == Revoked(EVERYONE, 10)


# Without a position, and for a given time, `iat` decides: floor(iat) <= ceil(T) + tolerance

EDGES = [
    # bound, iat, ended
    (NOW_MS, NOW_S - 5, True),
    (NOW_MS, NOW_S, True),
    (NOW_MS, NOW_S + 1, True),  # within the tolerance
    (NOW_MS, NOW_S + 1.999, True),  # floor
    (NOW_MS, NOW_S + 2, False),
    (NOW_MS + 1, NOW_S + 2, True),  # ceil
    (NOW_MS + 1, NOW_S + 2.5, True),
    (NOW_MS + 999, NOW_S + 2.999, True),
    (NOW_MS + 999, NOW_S + 3, False),
    (NOW_MS + 1_000, NOW_S + 2, True),
    (NOW_MS + 1_000, NOW_S + 3, False),
    (NOW_MS - 1, NOW_S + 1.5, True),
    (NOW_MS - 1_000, NOW_S + 1, False),
    (1, 2.0, True),
    (1, 3.0, False),
]


@pytest.mark.parametrize(("bound_ms", "issued_at_s", "ended"), EDGES)
def test_the_edges_of_the_second_for_a_token_without_a_position(bound_ms: int, issued_at_s: float, ended: bool) -> None:
    token = anchors(ALICE, issued_at_s=issued_at_s)
    late_ms = NOW_MS + 60_000
    assert ends(cutoff(at_ms=bound_ms), token, late_ms) is ended
    assert ends(cutoff(before_ms=bound_ms), token, late_ms) is ended


@pytest.mark.parametrize(("bound_ms", "issued_at_s", "ended"), EDGES)
def test_for_an_earlier_time_a_position_does_not_save_a_token(bound_ms: int, issued_at_s: float, ended: bool) -> None:
    token = anchors(ALICE, issued_at_s=issued_at_s, rev=Rev(1, 10**6))
    assert ends(cutoff(before_ms=bound_ms), token, NOW_MS + 60_000) is ended


def test_for_an_earlier_time_an_old_position_does_not_end_a_token() -> None:
    token = anchors(ALICE, issued_at_s=NOW_S, rev=Rev(1, 1))
    assert not ends(cutoff(before_ms=NOW_MS - 60_000), token)


def test_a_token_that_does_not_say_when_it_was_issued_is_ended() -> None:
    token = anchors(ALICE, issued_at_s=None)
    assert ends(cutoff(), token)
    assert ends(cutoff(before_ms=1), token)
    assert ends(cutoff(before_ms=1), anchors(ALICE, issued_at_s=None, rev=Rev(1, 99)))


def test_a_token_that_says_it_was_issued_in_the_future_is_ended() -> None:
    long_ago = cutoff(before_ms=NOW_MS - 10**9)
    edge_s = NOW_S + TOLERANCE_MS / 1000
    assert not ends(long_ago, anchors(ALICE, issued_at_s=edge_s))
    for issued_at_s in (edge_s + 0.001, edge_s + 3600, 1e300, float("inf")):
        assert ends(long_ago, anchors(ALICE, issued_at_s=issued_at_s))
        assert ends(cutoff(at_ms=NOW_MS - 10**9), anchors(ALICE, issued_at_s=issued_at_s))


# Whom it reaches


@pytest.mark.parametrize("target", ["subject:alice", f"application:{APP.id}", "all"])
@pytest.mark.parametrize("before_ms", [None, NOW_MS])
def test_it_reaches_every_subject_and_application_of_the_path_and_everyone(target: str, before_ms: int | None) -> None:
    path = (BOB, SESSION, ALICE, APP)
    assert ends(cutoff(target, before_ms=before_ms), anchors(*path, issued_at_s=NOW_S))


@pytest.mark.parametrize("target", ["subject:bob", "application:alice", "subject:alic", "subject:ALICE"])
def test_it_reaches_nobody_else(target: str) -> None:
    assert not ends(cutoff(target), anchors(SESSION, ALICE, APP, issued_at_s=0))


def test_a_session_whose_id_reads_like_a_target_is_none() -> None:
    assert not ends(cutoff(), anchors(Anchor(Kind.SESSION, "alice"), Anchor(Kind.SESSION, "subject:alice")))


def test_everyone_is_everyone_even_a_token_without_a_path() -> None:
    assert ends(cutoff("all"), anchors(issued_at_s=0))


def test_a_cutoff_of_one_issuers_subject_does_not_reach_anothers_of_the_same_name() -> None:
    foreign = Anchor(Kind.SUBJECT, "alice", "https://idp.example")
    entry = cutoff(issuer="https://idp.example")
    assert ends(entry, anchors(foreign))
    assert not ends(entry, anchors(ALICE))
    assert not ends(cutoff(), anchors(foreign))


def test_a_cutoff_is_not_a_revocation_of_its_target() -> None:
    """What is minted after it stands."""
    assert not ends(cutoff(), anchors(ALICE, issued_at_s=NOW_S, rev=Rev(1, 10)))


def test_a_revoked_anchor_is_named_before_a_cutoff_and_the_root_before_the_leaf() -> None:
    leaf = Anchor(Kind.AGENT, "agt_" + "2" * 32)
    token = anchors(SESSION, ALICE, leaf, rev=Rev(1, 0))
    entries = [
        cutoff("all", seq=1),
        Entry(1, 2, Kind.AGENT, leaf.id, NOW_MS),
        Entry(1, 3, Kind.SESSION, SESSION.id, NOW_MS),
    ]

    assert found(entries[:1], token) == Revoked(EVERYONE, 1)
    assert found(entries[:2], token) == Revoked(leaf, 2)
    assert found(entries, token) == Revoked(SESSION, 3)


# The maximum over all of them


@pytest.mark.parametrize("order", [1, -1])
def test_a_weaker_cutoff_takes_nothing_from_a_stronger_one(order: int) -> None:
    entries = [
        cutoff(seq=10, at_ms=NOW_MS - 20_000),
        cutoff(seq=20, at_ms=NOW_MS - 10_000),
        cutoff(seq=30, before_ms=NOW_MS - 40_000),
        cutoff(seq=40, before_ms=NOW_MS - 60_000),
    ][::order]

    assert found(entries, anchors(ALICE, issued_at_s=NOW_S, rev=Rev(1, 19))) == Revoked(ALICE, 20)
    assert found(entries, anchors(ALICE, issued_at_s=NOW_S, rev=Rev(1, 20))) is None
    assert found(entries, anchors(ALICE, issued_at_s=NOW_S - 50, rev=Rev(1, 99))) == Revoked(ALICE, 30)
    assert found(entries, anchors(ALICE, issued_at_s=NOW_S - 10)) == Revoked(ALICE, 20)
    assert found(entries, anchors(ALICE, issued_at_s=NOW_S - 8)) is None


@pytest.mark.parametrize("target", ["subject:alice", f"application:{APP.id}", "all"])
def test_the_strongest_level_decides(target: str) -> None:
    levels = ["subject:alice", f"application:{APP.id}", "all"]
    entries = [cutoff(level, seq=50 if level == target else 5) for level in levels]
    answer = found(entries, anchors(ALICE, APP, issued_at_s=NOW_S, rev=Rev(1, 20)))
    assert answer is not None
    assert answer.seq == 50


# The entry


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("alice", MalformedError),
        ("", MalformedError),
        ("subject:", MalformedError),
        ("ALL", MalformedError),
        ("cutoff:all", MalformedError),
        (f"session:{session(1)}", MalformedError),
        ("tenant:x", UnknownKindError),
    ],
)
def test_a_cutoff_for_anything_else_is_refused(target: str, error: type[LogError]) -> None:
    with pytest.raises(error):
        cutoff(target)


def test_a_cutoff_for_everyone_has_no_issuer() -> None:
    """No token would ever look for it, and it would end nothing."""
    with pytest.raises(MalformedError):
        cutoff("all", issuer="https://idp.example")


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.CUTOFF])
def test_only_a_cutoff_has_a_time_before_which(kind: Kind) -> None:
    with pytest.raises(MalformedError):
        Entry(1, 1, kind, "x", NOW_MS, issued_before_ms=1)


def test_a_snapshot_carries_every_bound_of_a_cutoff() -> None:
    signer = Signer()
    signer.append(Kind.CUTOFF, "subject:alice", at_ms=NOW_MS - 5_000)
    signer.append(Kind.CUTOFF, "subject:alice", issued_before_ms=NOW_MS - 9_000)
    signer.append(Kind.CUTOFF, "subject:alice", at_ms=NOW_MS - 4_000, issuer="https://idp.example")

    loaded = read_snapshot(signer.snapshot(), signer).revoked

    assert loaded._cutoffs == followed(signer)._revoked._cutoffs
    assert len(loaded) == 2


def test_the_state_says_whether_a_cutoff_is_in_force_whichever_way_it_came() -> None:
    signer = Signer()
    signer.append(Kind.SESSION, SESSION.id)
    assert followed(signer).has_cutoffs is False
    signer.append(Kind.CUTOFF, "all")
    loaded = LogState(signer.pin)
    loaded.load(read_snapshot(signer.snapshot(), signer), NOW)
    for state in (followed(signer), loaded):
        assert state.has_cutoffs is True
        assert state.find(anchors(BOB), NOW_MS) == Revoked(EVERYONE, 2)
