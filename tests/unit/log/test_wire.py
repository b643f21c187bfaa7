"""An entry as documented text fields: what consumers read, what replicas read, and what is refused."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countermand.errors import LogError, MalformedError
from countermand.log import codec, wire
from countermand.log.anchor import Kind, own_id
from countermand.log.chain import Candidate
from countermand.log.entry import Entry
from tests.signer import NOW_MS, Signer
from tests.unit.log.strategies import entries

LINK = bytes(range(32))


def fields_of(kind: Kind, id_: str, reason: str = "", issuer: str = "") -> dict[str, str]:
    return wire.to_fields(LINK, Entry(1, 1, kind, id_, NOW_MS, reason, issuer).to_bytes())


@given(st.binary(min_size=32, max_size=32), entries)
def test_fields_carry_the_candidate_and_are_ascii_text_without_a_newline(previous: bytes, entry: Entry) -> None:
    fields = wire.to_fields(previous, entry.to_bytes())

    assert wire.from_fields(fields) == Candidate(entry.seq, previous, entry.to_bytes())
    for name, value in fields.items():
        assert name.isascii()
        assert value.isascii()
        assert value.isprintable()
        assert "=" not in name
    assert fields["session_id"]
    assert fields["zone_id"] == "default"
    assert set(fields) <= {
        *("zone_id", "session_id", "reason", "sid", "agent_session_id", "delegation_edge_id", "grant_id"),
        *("cm_seq", "cm_prev", "cm_entry"),
    }


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (Kind.SESSION, "sid"),
        (Kind.AGENT, "agent_session_id"),
        (Kind.DELEGATION, "delegation_edge_id"),
        (Kind.GRANT, "grant_id"),
        (Kind.TOKEN, None),
        (Kind.APPLICATION, None),
    ],
)
def test_every_anchor_stands_in_session_id_and_beside_it_in_the_field_of_its_kind(
    kind: Kind, field: str | None
) -> None:
    id_ = own_id(kind, bytes(16))
    documented = {"zone_id": "default", "session_id": id_, "reason": "grant_revoked"}
    fields = fields_of(kind, id_, "grant_revoked")

    assert {name: value for name, value in fields.items() if not name.startswith("cm_")} == (
        documented | ({field: id_} if field else {})
    )


def test_a_foreign_id_stands_there_hashed_with_its_issuer() -> None:
    digest = hashlib.sha256(b"\x00\x00\x00\x0bhttps://idp" + b"abc").hexdigest()
    assert fields_of(Kind.SESSION, "abc", issuer="https://idp")["sid"] == f"sha256:{digest}"
    assert fields_of(Kind.SESSION, "abc")["sid"] == "abc"


def test_an_id_that_is_not_ascii_stands_there_hashed() -> None:
    digest = hashlib.sha256(bytes(4) + "zoë".encode()).hexdigest()
    assert fields_of(Kind.SUBJECT, "zoë")["session_id"] == f"sha256:{digest}"


def test_a_reason_that_is_not_ascii_is_escaped() -> None:
    assert fields_of(Kind.SUBJECT, "x", "départ 🔑")["reason"] == "d\\xe9part \\U0001f511"


def test_other_fields_are_ignored() -> None:
    fields = fields_of(Kind.SUBJECT, "x")
    assert wire.from_fields(fields | {"_sig": "é", "outbox_id": 7, "new": None}) == wire.from_fields(fields)


GOOD = fields_of(Kind.SUBJECT, "x")
BAD_FIELDS: list[tuple[str, Any]] = [
    *[("cm_seq", value) for value in ("", "0", "01", "-1", "+1", " 1", "1\n", "1.0", "1e3", "\u0661", "1" * 17)],
    ("cm_prev", ""),
    ("cm_prev", codec.to_base64(bytes(31))),
    ("cm_prev", codec.to_base64(bytes(33))),
    ("cm_prev", GOOD["cm_prev"] + "="),
    ("cm_entry", "*"),
    ("cm_entry", GOOD["cm_entry"] + "\n"),
    ("cm_entry", "A" * 4_000),
]
NO_TEXTS: list[Any] = [None, 1, 1.5, True, b"1", [], {}, "\ud800"]
BAD_FIELDS += [(name, value) for name in ("cm_seq", "cm_prev", "cm_entry") for value in NO_TEXTS]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS, ids=lambda value: ascii(value)[:20])
def test_a_field_that_is_not_what_it_should_be_is_refused(name: str, value: object) -> None:
    with pytest.raises(MalformedError):
        wire.from_fields(GOOD | {name: value})


@pytest.mark.parametrize("name", ["cm_seq", "cm_prev", "cm_entry"])
def test_a_missing_field_is_refused_by_name(name: str) -> None:
    with pytest.raises(MalformedError, match=name):
        wire.from_fields({other: value for other, value in GOOD.items() if other != name})


def test_what_is_no_entry_is_never_written() -> None:
    with pytest.raises(LogError):
        wire.to_fields(LINK, Signer().checkpoint())
