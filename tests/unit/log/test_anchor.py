"""Anchors and log ids: their texts, their keys, and what is refused as one."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countermand.errors import InvalidValueError, LogError, MalformedError, UnknownKindError
from countermand.log.anchor import (
    MAX_TEXT_BYTES,
    PREFIXES,
    Anchor,
    Anchors,
    BiscuitAnchors,
    Kind,
    anchor_key,
    kind_numbered,
    kind_of,
    own_id,
)
from countermand.log.chain import LogId
from countermand.log.checkpoint import Pin
from tests.signer import KEY, LOG_ID, OTHER_KEY
from tests.unit.log.strategies import anchors_


def test_the_kinds_have_fixed_numbers_and_names() -> None:
    assert {kind.text: int(kind) for kind in Kind} == {
        "session": 1,
        "agent": 2,
        "delegation": 3,
        "grant": 4,
        "token": 5,
        "biscuit": 6,
        "application": 7,
        "subject": 8,
        "key": 9,
        "cutoff": 10,
    }
    for kind in Kind:
        assert Kind.parse(kind.text) is kind
        assert kind_numbered(int(kind)) is kind


@pytest.mark.parametrize("text", ["", "Session", "SESSION", "session ", "sessions", "1"])
def test_no_other_text_names_a_kind(text: str) -> None:
    with pytest.raises(UnknownKindError):
        Kind.parse(text)


@pytest.mark.parametrize("kind", list(PREFIXES))
def test_an_id_of_our_own_making_has_a_prefix_and_128_bits(kind: Kind) -> None:
    id_ = own_id(kind, bytes(range(16)))
    assert id_ == PREFIXES[kind] + "000102030405060708090a0b0c0d0e0f"
    assert kind_of(id_) is kind
    assert anchor_key(kind, "", id_) == bytes([kind, *range(16)])


@pytest.mark.parametrize("length", [0, 15, 17])
def test_an_id_is_made_of_16_bytes(length: int) -> None:
    with pytest.raises(InvalidValueError):
        own_id(Kind.SESSION, bytes(length))


NOT_OWN = [
    "",
    "ses_",
    "ses_" + "0" * 31,
    "ses_" + "0" * 33,
    "ses_" + "A" * 32,
    "xyz_" + "0" * 32,
    "ses_" + "0" * 32 + "\n",
]


@pytest.mark.parametrize("id_", [*NOT_OWN, "ses_" + "\u0660" * 32, "ses_" + "0 " * 16])
def test_anything_else_is_a_foreign_id_and_is_hashed(id_: str) -> None:
    assert kind_of(id_) is None
    digest = hashlib.sha256(bytes(4) + id_.encode()).digest()
    assert anchor_key(Kind.SESSION, "", id_) == b"\1" + digest


def test_an_own_id_under_another_kind_or_with_an_issuer_is_hashed() -> None:
    id_ = own_id(Kind.SESSION, bytes(16))
    assert len(anchor_key(Kind.SESSION, "", id_)) == 17
    assert len(anchor_key(Kind.AGENT, "", id_)) == 33
    assert len(anchor_key(Kind.SESSION, "https://idp.example", id_)) == 33


def test_issuer_and_id_cannot_be_shifted_into_each_other() -> None:
    assert anchor_key(Kind.TOKEN, "ab", "c") != anchor_key(Kind.TOKEN, "a", "bc")
    assert anchor_key(Kind.TOKEN, "", "abc") != anchor_key(Kind.TOKEN, "abc", "")


@given(anchors_, anchors_)
def test_two_anchors_have_one_key_only_if_they_are_one(one: Anchor, other: Anchor) -> None:
    assert (one.key == other.key) == (one == other)


@given(anchors_)
def test_a_path_text_gives_its_anchor_back(anchor: Anchor) -> None:
    assert Anchor.parse(str(anchor)) == Anchor(anchor.kind, anchor.id)


def test_only_the_first_colon_divides() -> None:
    assert Anchor.parse("subject:urn:x:y") == Anchor(Kind.SUBJECT, "urn:x:y")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", MalformedError),
        ("session", MalformedError),
        ("session:", MalformedError),
        (":x", UnknownKindError),
        ("tenant:x", UnknownKindError),
        ("session:a\nb", MalformedError),
        ("session:a\x7f", MalformedError),
        ("session:a\x85", MalformedError),
        ("session:a\u2028", MalformedError),
        ("session:\ud800", MalformedError),
        ("session:" + "x" * 513, MalformedError),
        ("session:" + "é" * 257, MalformedError),
    ],
)
def test_what_is_no_anchor_is_refused(text: str, error: type[LogError]) -> None:
    with pytest.raises(error) as refusal:
        Anchor.parse(text)
    assert type(refusal.value) is error


@pytest.mark.parametrize("id_", ["x" * MAX_TEXT_BYTES, "é" * 256, "a b", "\u00a0", "\u200b", "🔑", '"\\='])
def test_what_has_no_control_character_and_512_bytes_is_an_id(id_: str) -> None:
    assert Anchor(Kind.SUBJECT, id_).id == id_


def test_an_issuer_is_held_to_the_same_rules() -> None:
    for issuer in ("\n", "x" * 513, "\udfff"):
        with pytest.raises(MalformedError):
            Anchor(Kind.SUBJECT, "alice", issuer)


# Log id and pin


@given(st.binary(min_size=16, max_size=16))
def test_a_log_id_is_written_and_read(raw: bytes) -> None:
    assert LogId.parse(str(LogId(raw))) == LogId(raw)


@pytest.mark.parametrize("text", ["", "log_", "log_" + "a" * 31, "log_" + "A" * 32, "log_" + "a" * 32 + "\n", "x" * 36])
def test_any_other_text_is_no_log_id(text: str) -> None:
    with pytest.raises(MalformedError):
        LogId.parse(text)


def test_a_log_id_has_16_bytes() -> None:
    with pytest.raises(InvalidValueError):
        LogId(bytes(15))


def test_a_pin_is_written_and_read_with_all_its_keys() -> None:
    pin = Pin.of(LOG_ID, KEY.public_key(), OTHER_KEY.public_key())
    text = str(pin)
    assert text.startswith(f"{LOG_ID}/")
    assert text.count(",") == 1
    assert str(Pin.parse(text)) == text
    assert str(Pin.parse(f"  {text}\n")) == text
    assert Pin.parse(text).keys.keys() == pin.keys.keys()


ONE = str(Pin.of(LOG_ID, KEY.public_key()))


@pytest.mark.parametrize(
    "text",
    [
        "",
        str(LOG_ID),
        f"{LOG_ID}/",
        ONE[:-1],
        ONE + "=",
        ONE + "A",
        ONE + ",",
        ONE.upper(),
        ONE.replace("/", ":"),
        ONE[:-1] + "é",
        ONE[:-1] + chr(ord(ONE[-1]) + 1),  # the same bytes, spelled with stray last bits
    ],
)
def test_any_other_text_is_no_pin(text: str) -> None:
    with pytest.raises(MalformedError):
        Pin.parse(text)


@given(st.lists(st.binary(min_size=64, max_size=72).map(bytes.hex), max_size=5), st.none() | st.integers(0, 2**40))
def test_the_anchors_of_a_biscuit_are_those_of_its_ids(ids: list[str], issued_at_s: int | None) -> None:
    anchors = BiscuitAnchors(tuple(ids), issued_at_s)
    plain = Anchors(tuple(Anchor(Kind.BISCUIT, id_) for id_ in ids), issued_at_s)

    assert anchors.keys == plain.keys
    assert anchors.path == plain.path
    assert anchors.path is anchors.path
    assert anchors.cutoff_targets == plain.cutoff_targets
    assert (anchors.issued_at_s, anchors.rev) == (plain.issued_at_s, None)
    assert hash(anchors) == hash(plain)
    assert anchors == BiscuitAnchors(tuple(ids), issued_at_s)
