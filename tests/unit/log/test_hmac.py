"""The documented `_sig`: its known answers, and the messages that are neither signed nor accepted."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countermand.errors import MalformedError
from countermand.log.hmac import signature_holds, stream_signature

KEY = bytes.fromhex("0123456789abcdef" * 4)
STREAM = "caracal.sessions.revoke"
KNOWN = [
    (
        "audit:events",
        {"action": "transfer", "amount": "100"},
        "c06ccc579e026c31a97a04f203981b236a3c88041712e9b46242e8762da23d75",
    ),
    (
        "audit:events",
        {"active": "true", "count": "0", "name": ""},
        "dd36b85d880107b52155410569f95436acd8b5a656bba83e37c4b0196fb32ae1",
    ),
    (
        STREAM,
        {
            "outbox_id": "outbox-1",
            "zone_id": "zone-1",
            "session_id": "authority-record-1",
            "reason": "grant_revoked",
            "grant_id": "grant-1",
        },
        "0980ad867829e5e23b77ea97b1fc0c080dce11700761236b88bc4145020155b1",
    ),
]
FIELDS = KNOWN[2][1]
SIGNED = FIELDS | {"_sig": KNOWN[2][2]}

plain = st.text(max_size=10).filter(lambda text: "\n" not in text)
names = plain.filter(lambda name: "=" not in name and name != "_sig")


@pytest.mark.parametrize(("stream", "fields", "signature"), KNOWN)
def test_the_known_answers(stream: str, fields: dict[str, str], signature: str) -> None:
    assert stream_signature(KEY, stream, fields) == signature
    assert stream_signature(KEY, stream, dict(reversed(fields.items()))) == signature
    assert stream_signature(KEY, stream, fields | {"_sig": "anything"}) == signature
    assert signature_holds(KEY, stream, fields | {"_sig": signature})


@pytest.mark.parametrize(
    "claimed", ["", "é", "\ud800", "0" * 64, KNOWN[2][2].upper(), KNOWN[2][2][:-1], KNOWN[2][2] + " "]
)
def test_any_other_signature_does_not_hold(claimed: str) -> None:
    assert not signature_holds(KEY, STREAM, FIELDS | {"_sig": claimed})


def test_a_missing_signature_does_not_hold() -> None:
    assert not signature_holds(KEY, STREAM, FIELDS)
    assert not signature_holds(KEY, STREAM, {})


def test_it_holds_for_this_key_this_stream_and_these_fields_alone() -> None:
    assert signature_holds(KEY, STREAM, SIGNED)
    assert not signature_holds(KEY[:-1], STREAM, SIGNED)
    assert not signature_holds(KEY, "audit:events", SIGNED)
    assert not signature_holds(KEY, STREAM, SIGNED | {"sid": "another"})
    assert not signature_holds(KEY, STREAM, SIGNED | {"session_id": "another"})
    assert not signature_holds(KEY, STREAM, {name: SIGNED[name] for name in SIGNED if name != "grant_id"})


AMBIGUOUS = [
    ("s", {"reason": "x\nsid=ses_1"}),
    ("s", {"reason\nsid": "x"}),
    ("s", {"reason=x": "y"}),
    ("s\nreason=x", {"sid": "y"}),
]


@pytest.mark.parametrize(("stream", "fields"), AMBIGUOUS)
def test_a_message_that_could_be_cut_into_other_fields_is_not_signed(stream: str, fields: dict[str, str]) -> None:
    with pytest.raises(MalformedError):
        stream_signature(KEY, stream, fields)


@pytest.mark.parametrize(("stream", "fields"), AMBIGUOUS)
def test_nor_is_it_accepted_though_its_tag_is_right(stream: str, fields: dict[str, str]) -> None:
    text = f"{stream}\n" + "".join(f"{name}={fields[name]}\n" for name in sorted(fields))
    tag = hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest()
    assert not signature_holds(KEY, stream, fields | {"_sig": tag})


@given(plain, st.dictionaries(names, plain, max_size=4), plain, st.dictionaries(names, plain, max_size=4))
def test_two_messages_have_one_signature_only_if_they_are_one(
    stream: str, fields: dict[str, str], other_stream: str, other: dict[str, str]
) -> None:
    signatures = stream_signature(KEY, stream, fields), stream_signature(KEY, other_stream, other)
    assert (signatures[0] == signatures[1]) == ((stream, fields) == (other_stream, other))


@given(st.dictionaries(st.text(max_size=8), st.text(st.characters(codec=None), max_size=8)))
def test_any_message_is_answered(fields: dict[str, str]) -> None:
    assert not signature_holds(KEY, STREAM, fields)
