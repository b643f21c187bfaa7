"""The reader of a log: among any lines whatever it finds the records of one request, and holds no more than a line."""

import io
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from countermand.cli.explaining import MAX_LINE_BYTES, records_of
from countermand.enforce.trace import Outcome, Record
from tests.unit.mandates import JSON

ID = "job-1"
RECORD = Record(request_id=ID, outcome=Outcome.DENIED, at_ms=1, code="session_revoked", status=401, seq=7)


def line(record: Record = RECORD, **more: object) -> bytes:
    return json.dumps({"message": "denied", "decision": record.to_fields() | more}).encode()


def read(*lines: bytes) -> list[Record]:
    return list(records_of(io.BytesIO(b"\n".join(lines)), ID))


FOREIGN = st.binary(max_size=200) | st.text().map(str.encode) | JSON.map(lambda value: json.dumps(value).encode())
TORN = st.integers(0, len(line()) - 1).map(lambda end: line()[:end])
NAMING_IT = st.builds(lambda before, after: before + b"job-1" + after, st.binary(), st.binary())
WITH_ITS_FIELDS = JSON.map(lambda value: json.dumps({"decision": value, "about": ID}).encode())


@given(st.lists(FOREIGN | TORN | NAMING_IT | WITH_ITS_FIELDS), st.lists(FOREIGN | TORN | NAMING_IT))
def test_a_record_is_found_between_any_lines_whatever(before: list[bytes], after: list[bytes]) -> None:
    assert read(*before, line(), *after, line()) == [RECORD, RECORD]


@given(st.dictionaries(st.sampled_from(sorted(Record.__dataclass_fields__)), JSON))
def test_a_record_with_wrong_fields_is_passed_over_or_read(fields: dict[str, Any]) -> None:
    assert read(line(**{"request_id": ID, **fields}), line())[-1] == RECORD


def test_only_the_records_of_that_very_id_are_found() -> None:
    others = [
        Record(request_id=id_, outcome=Outcome.ALLOWED, at_ms=1, token_id=ID) for id_ in ("", "job-11", "a-job-1")
    ]
    assert read(*map(line, others)) == []


def test_lines_of_windows_are_read_and_fields_of_a_newer_version_passed_over() -> None:
    assert read(line(region="eu") + b"\r", line()) == [RECORD] * 2


def test_nesting_that_no_parser_follows_is_passed_over() -> None:
    assert read(b'{"job-1": ' * 9_000, line()) == [RECORD]


def test_a_line_that_is_longer_than_any_record_is_passed_over_whatever_its_parts_are() -> None:
    long = line().ljust(MAX_LINE_BYTES) + line().ljust(MAX_LINE_BYTES) + line()
    just = line().ljust(MAX_LINE_BYTES - 1)
    assert read(long, just, b"x" * 3 * MAX_LINE_BYTES, line()) == [RECORD] * 2


class Endless(io.BytesIO):
    """A log of one line that never ends until 100 MB were read, and that is read in small parts only."""

    def __init__(self) -> None:
        super().__init__(b"")
        self.left = 100 * 2**20

    def readline(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert 0 < size <= MAX_LINE_BYTES
        given_bytes = min(size, self.left)
        self.left -= given_bytes
        return b"x" * given_bytes


def test_what_has_no_lines_is_read_in_parts() -> None:
    log = Endless()
    assert list(records_of(log, ID)) == []
    assert log.left == 0
