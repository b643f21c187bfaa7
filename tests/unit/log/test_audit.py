"""Exports of an audit: whatever a line holds, it is read or refused; and the bytes of a row are injective."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from countermand.errors import MalformedError, UnknownKeyError
from countermand.log.anchor import Rev
from countermand.log.audit import (
    TEXTS,
    AuditProof,
    AuditRow,
    ChainedRow,
    Seal,
    audit_genesis,
    next_audit_link,
    parse_line,
    to_line,
)
from countermand.log.chain import LogId, genesis
from countermand.log.checkpoint import Checkpoint, Pin
from countermand.log.codec import MAX_MS

WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=40)
NUMBERS = st.integers(1, MAX_MS)


@st.composite
def rows(draw: st.DrawFn) -> AuditRow:
    texts = {name: draw(WORDS) for name in TEXTS}
    return AuditRow(number=draw(NUMBERS), at_ms=draw(NUMBERS), seq=draw(st.none() | NUMBERS), **texts)


RECORDS = st.builds(ChainedRow, rows(), st.binary(min_size=32, max_size=32)) | st.builds(
    Seal, st.integers(0, MAX_MS), st.binary(max_size=200)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["row", "seal", "number", "link"]) | st.text(), inner)
    ),
)


@given(RECORDS)
def test_what_is_written_is_read(record: ChainedRow | Seal) -> None:
    line = to_line(record)
    assert line.isascii()
    assert "\n" not in line
    assert parse_line(line) == record


@given(rows(), rows())
def test_two_rows_have_the_same_bytes_only_if_they_are_the_same(one: AuditRow, other: AuditRow) -> None:
    assert (one.to_bytes() == other.to_bytes()) is (one == other)


@given(rows(), st.sampled_from(TEXTS), st.sampled_from(TEXTS))
def test_what_moves_from_one_text_to_the_next_changes_the_bytes(row: AuditRow, one: str, other: str) -> None:
    values = {name: getattr(row, name) for name in AuditRow.__slots__}
    moved = AuditRow(**values | {one: values[other], other: values[one]})
    assert (moved.to_bytes() == row.to_bytes()) is (values[one] == values[other])


@given(st.text() | JSON.map(json.dumps))
def test_any_other_line_is_refused(line: str) -> None:
    with pytest.raises(MalformedError):
        parse_line(line)


@given(RECORDS, st.data())
def test_a_line_with_any_field_changed_to_anything_is_read_or_refused(
    record: ChainedRow | Seal, data: st.DataObject
) -> None:
    [(kind, values)] = json.loads(to_line(record)).items()
    name = data.draw(st.sampled_from(sorted(values)))
    try:
        parse_line(json.dumps({kind: values | {name: data.draw(JSON)}}))
    except MalformedError:
        return


def test_a_line_that_never_ends_is_refused() -> None:
    for line in ("x" * 65_537, "[" * 60_000, "9" * 60_000):
        with pytest.raises(MalformedError):
            parse_line(line)


def _chain(pin: Pin, count: int) -> list[ChainedRow]:
    link, chained = audit_genesis(pin.log_id), []
    for number in range(1, count + 1):
        row = AuditRow(number=number, at_ms=number, seq=None, **dict.fromkeys(TEXTS, "text"))
        link = next_audit_link(link, row.to_bytes())
        chained.append(ChainedRow(row, link))
    return chained


def _seal(pin: Pin, chained: ChainedRow, key: Ed25519PrivateKey) -> Seal:
    rev = Rev(1, 0)
    checkpoint = Checkpoint(pin.log_id, rev, genesis(pin.log_id, 1), chained.row.number, chained.link)
    return Seal(chained.row.number, checkpoint.sign(key))


def test_a_seal_from_before_a_rotation_is_passed_over_once_a_later_one_proves_the_rows() -> None:
    retired, present = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    pin = Pin.of(LogId(bytes(16)), present.public_key())
    one, two = _chain(pin, 2)
    proof = AuditProof(pin)
    for record in (one, _seal(pin, one, retired)):
        proof.add(record)
    with pytest.raises(UnknownKeyError):
        proof.finish()
    for record in (two, _seal(pin, two, present)):
        proof.add(record)
    proof.finish()
    assert proof.sealed is not None
    assert proof.sealed[0] == 2
