"""Entries: one form for each, and each form one entry."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countermand.errors import LogError, MalformedError, UnknownKindError, UnknownVersionError
from countermand.log import codec
from countermand.log.anchor import Kind, Rev, anchor_key
from countermand.log.chain import next_link
from countermand.log.entry import MAX_ENTRY_BYTES, Entry
from tests.signer import NOW_MS
from tests.unit.log.helpers import session
from tests.unit.log.strategies import MAX, entries, mutated

ENTRY = Entry(1, 7, Kind.SESSION, session(7), NOW_MS, "left the company", expires_at_ms=NOW_MS + 1)


@given(entries)
def test_an_entry_is_written_and_read_without_loss(entry: Entry) -> None:
    data = entry.to_bytes()
    assert Entry.parse(data) == entry
    assert Entry.parse(data).to_bytes() == data


@given(entries, entries)
def test_two_entries_have_the_same_bytes_only_if_they_are_the_same(one: Entry, other: Entry) -> None:
    assert (one.to_bytes() == other.to_bytes()) == (one == other)


@given(entries, st.data())
def test_what_is_read_from_altered_bytes_has_those_bytes_and_no_others(entry: Entry, data: st.DataObject) -> None:
    altered = data.draw(mutated(entry.to_bytes()))
    try:
        read = Entry.parse(altered)
    except LogError:
        return
    assert read.to_bytes() == altered


@given(st.binary(min_size=32, max_size=32), entries, st.binary(min_size=32, max_size=32), entries)
def test_two_steps_of_the_chain_make_one_link_only_if_they_are_one(
    one_link: bytes, one: Entry, other_link: bytes, other: Entry
) -> None:
    links = next_link(one_link, one.to_bytes()), next_link(other_link, other.to_bytes())
    assert (links[0] == links[1]) == ((one_link, one) == (other_link, other))


def test_an_entry_knows_its_place_and_its_key() -> None:
    assert ENTRY.rev == Rev(1, 7)
    assert ENTRY.key == anchor_key(Kind.SESSION, "", session(7))


def test_an_entry_cut_or_lengthened_anywhere_is_refused() -> None:
    data = ENTRY.to_bytes()
    for length in range(len(data)):
        with pytest.raises(MalformedError):
            Entry.parse(data[:length])
    with pytest.raises(MalformedError):
        Entry.parse(data + b"\0")


def test_the_largest_entry_can_be_written_and_read() -> None:
    entry = Entry(MAX, MAX, Kind.SUBJECT, "é" * 256, MAX, "r" * 512, "i" * 512, expires_at_ms=MAX)
    assert len(entry.to_bytes()) <= MAX_ENTRY_BYTES
    assert Entry.parse(entry.to_bytes()) == entry


BAD_VALUES: list[dict[str, Any]] = [
    {"generation": 0},
    {"generation": -1},
    {"seq": 0},
    {"at_ms": 0},
    {"at_ms": -1},
    {"expires_at_ms": 0},
    {"expires_at_ms": -1},
    {"issued_before_ms": 1},
    {"kind": Kind.CUTOFF, "id": "all", "issued_before_ms": 0},
    {"kind": Kind.CUTOFF, "id": "all", "issued_before_ms": -1},
    {"id": ""},
    *({name: MAX + 1} for name in ("generation", "seq", "at_ms", "expires_at_ms")),
    *(
        {name: text}
        for name in ("id", "issuer", "reason")
        for text in ("a\nb", "\0", "\x9f", "\u2029", "\udc00", "x" * 513)
    ),
]


@pytest.mark.parametrize("values", BAD_VALUES, ids=lambda values: ascii(values)[:50])
def test_what_the_ledger_may_not_hold_is_never_written(values: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        replace(ENTRY, **values).to_bytes()


def at(offset: int, new: bytes) -> bytes:
    data = bytearray(ENTRY.to_bytes())
    data[offset : offset + len(new)] = new
    return bytes(data)


TOO_LARGE = (MAX + 1).to_bytes(8)
BAD_BYTES: dict[str, tuple[bytes, type[LogError]]] = {
    "nothing": (b"", MalformedError),
    "version 0": (at(0, b"\0"), UnknownVersionError),
    "version 2": (at(0, b"\2"), UnknownVersionError),
    "kind 0": (at(1, b"\0"), UnknownKindError),
    "kind 11": (at(1, b"\x0b"), UnknownKindError),
    "generation 0": (at(2, bytes(8)), MalformedError),
    "seq 0": (at(10, bytes(8)), MalformedError),
    "time 0": (at(18, bytes(8)), MalformedError),
    "generation too large": (at(2, TOO_LARGE), MalformedError),
    "seq too large": (at(10, TOO_LARGE), MalformedError),
    "time too large": (at(18, TOO_LARGE), MalformedError),
    "expiry too large": (at(26, TOO_LARGE), MalformedError),
    "issued_before too large": (at(34, TOO_LARGE), MalformedError),
    "issued_before on a session": (at(34, bytes(7) + b"\1"), MalformedError),
    "a length past the end": (at(42, b"\xff\xff"), MalformedError),
    "a text that is not UTF-8": (at(46, b"\xff"), MalformedError),
    "a surrogate in UTF-8": (at(46, b"\xed\xa0\x80"), MalformedError),
    "an overlong form of UTF-8": (at(46, b"\xc0\xaf"), MalformedError),
    "a newline": (at(46, b"\n"), MalformedError),
    "a C1 control": (at(46, b"\xc2\x85"), MalformedError),
    "too long": (ENTRY.to_bytes().ljust(MAX_ENTRY_BYTES + 1, b"x"), MalformedError),
    "no id": (at(44, b"\0\0")[:46] + b"\0\0", MalformedError),
}


@pytest.mark.parametrize("case", list(BAD_BYTES))
def test_bytes_that_are_no_entry_are_refused(case: str) -> None:
    data, error = BAD_BYTES[case]
    with pytest.raises(error) as refusal:
        Entry.parse(data)
    assert type(refusal.value) is error


def test_the_offsets_above_are_the_ones_of_the_format() -> None:
    assert Entry.parse(at(26, (NOW_MS + 5).to_bytes(8))) == replace(ENTRY, expires_at_ms=NOW_MS + 5)
    assert Entry.parse(at(46, b"agt_")).id == "agt_" + session(7)[4:]


# Numbers


@given(st.integers(0, MAX))
def test_a_varint_is_written_in_its_shortest_form_and_read(value: int) -> None:
    data = codec.varint(value)
    reader = codec.Reader(data + b"\xff")
    assert (reader.varint(), reader.at) == (value, len(data))
    assert len(data) == max(1, -(-value.bit_length() // 7))


@given(st.binary(max_size=10))
def test_no_number_has_two_forms(data: bytes) -> None:
    reader = codec.Reader(data)
    try:
        value = reader.varint()
    except MalformedError:
        return
    assert codec.varint(value) == data[: reader.at]


@pytest.mark.parametrize("value", [-1, MAX + 1])
def test_a_number_out_of_range_is_not_written(value: int) -> None:
    with pytest.raises(MalformedError):
        codec.varint(value)
    with pytest.raises(MalformedError):
        codec.number(value, 8)
    with pytest.raises(MalformedError):
        codec.number(256, 1)


@given(st.binary(max_size=60))
def test_base64url_is_written_and_read(data: bytes) -> None:
    text = codec.to_base64(data)
    assert "=" not in text
    assert codec.from_base64(text) == codec.from_base64(text.encode()) == data


@pytest.mark.parametrize("text", ["=", "A", "QQ==", "QR", "Q Q", "QQ\n", "+A", "/A", "é", "QQ=", "-+AA", "\ud800"])
def test_base64url_has_one_spelling(text: str) -> None:
    with pytest.raises(MalformedError):
        codec.from_base64(text)
