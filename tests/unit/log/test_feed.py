"""The feed: server-sent events in any split of their bytes, and only what is well formed."""

import json
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countermand.errors import LogError, MalformedError
from countermand.log import feed, wire
from countermand.log.anchor import Kind
from countermand.log.chain import Candidate
from countermand.log.entry import Entry
from countermand.log.feed import MAX_EVENT_BYTES, Event, EventParser, FeedParser
from countermand.log.ports import Batch
from tests.signer import NOW_MS
from tests.unit.log.helpers import signer_of
from tests.unit.log.strategies import mutated

SIGNER = signer_of(3)
ENTRY_EVENTS = [feed.entry_event(candidate.previous, candidate.entry) for candidate in SIGNER.candidates]
STREAM = b": welcome\n\n" + b"".join(ENTRY_EVENTS) + feed.checkpoint_event(SIGNER.checkpoint()) + b":\n\n"
STREAMS = [STREAM, STREAM.replace(b"\n", b"\r\n")]


def chunks(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def events(pieces: Iterable[bytes]) -> list[Event]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)]


def records(pieces: Iterable[bytes]) -> Batch:
    parser = FeedParser()
    candidates: list[Candidate] = []
    checkpoints: list[bytes] = []
    for piece in pieces:
        batch = parser.feed(piece)
        candidates += batch.candidates
        checkpoints += batch.checkpoints
    return Batch(candidates, checkpoints)


TRUE = Batch(SIGNER.candidates, [SIGNER.checkpoint()])


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("size", [1, 2, 3, 100, 10**6])
def test_the_records_come_out_as_they_went_in(stream: bytes, size: int) -> None:
    assert records(chunks(stream, range(size, len(stream), size))) == TRUE


@given(st.sampled_from(STREAMS), st.data())
def test_the_split_of_the_bytes_makes_no_difference(stream: bytes, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    assert records(chunks(stream, cuts)) == TRUE


def outcome(pieces: Iterable[bytes]) -> list[Event] | str:
    try:
        return events(pieces)
    except LogError as refusal:
        return refusal.code


@given(
    st.lists(st.sampled_from([b"data: x", b"data", b"event:e", b":", b"\n", b"\r", b"\xff", b"\xc3", b"\xa9"])),
    st.data(),
)
def test_the_split_of_any_bytes_makes_no_difference(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    assert outcome(chunks(stream, cuts)) == outcome([stream])


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("over", [0, 1])
def test_an_event_of_the_largest_size_is_taken_in_any_split_and_a_byte_more_in_none(newline: bytes, over: int) -> None:
    line = b"data:" + b"x" * (MAX_EVENT_BYTES - 5 + over)
    stream = line + newline + newline
    expected: list[Event] | str = "malformed_record" if over else [Event("message", "x" * (MAX_EVENT_BYTES - 5))]
    for cut in (0, 1, len(line) - 1, len(line), len(line) + 1, len(stream) - 1):
        assert outcome(chunks(stream, [cut])) == expected


@pytest.mark.parametrize("event", [b": still here\n\n", b"data: x\n\n", b"event: x\n\n"])
def test_a_stream_of_small_events_may_go_on_for_ever(event: bytes) -> None:
    parser = EventParser()
    for _ in range(MAX_EVENT_BYTES // 4):
        assert len(list(parser.feed(event))) == event.count(b"data")


def test_many_lines_of_one_event_are_bounded_together() -> None:
    with pytest.raises(MalformedError):
        events([b"data:x\n"] * (MAX_EVENT_BYTES // 6 + 1))


def test_a_line_without_end_is_refused_as_it_grows() -> None:
    with pytest.raises(MalformedError):
        events([b"x"] * (MAX_EVENT_BYTES + 1))


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [Event("message", "a")]),
        (b"data:a\n\n", [Event("message", "a")]),
        (b"data:  a\n\n", [Event("message", " a")]),
        (b"data: a\ndata: b\n\n", [Event("message", "a\nb")]),
        (b"data\n\n", [Event("message", "")]),
        (b"event: x\n\ndata: a\n\n", [Event("message", "a")]),
        (b"event: x\ndata: a\n\ndata: b\n\n", [Event("x", "a"), Event("message", "b")]),
        (b"id: 7\nretry: 10\nother: z\nevent: x\ndata: a:b\n\n", [Event("x", "a:b")]),
        (b": comment\n\n", []),
        (b"data: a\n", []),
        (b"data: \xc3\xa9\r\n\r\n", [Event("message", "é")]),
        (b"", []),
    ],
)
def test_the_event_stream_format(stream: bytes, expected: list[Event]) -> None:
    assert events([stream]) == expected


def test_what_is_not_utf_8_is_refused() -> None:
    with pytest.raises(MalformedError):
        events([b"data: \xff\n\n"])


def test_unknown_types_of_event_are_passed_over() -> None:
    assert records([b"event: news\ndata: {}\n\n", STREAM]) == TRUE


def test_an_entrys_event_names_its_seq() -> None:
    assert b"\nid: 2\n" in ENTRY_EVENTS[1]


def test_the_largest_entry_makes_an_event_that_is_taken() -> None:
    for text in ('"' * 512, "\\" * 512, "\u0100" * 256, "\U0010ffff" * 128):
        entry = Entry(1, 1, Kind.SESSION, text, NOW_MS, text)
        event = feed.entry_event(bytes(32), entry.to_bytes())
        assert records([event]).candidates == [Candidate(1, bytes(32), entry.to_bytes())]


FIELDS = wire.to_fields(SIGNER.candidates[0].previous, SIGNER.candidates[0].entry)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '"text"',
        "[" * 5_000,
        '{"cm_seq":' + "1" * 5_000 + "}",
        json.dumps(FIELDS | {"cm_seq": 1}),
        json.dumps(FIELDS | {"cm_prev": None}),
        json.dumps(FIELDS | {"cm_entry": "\ud800"}),
    ],
)
def test_an_entrys_event_that_holds_no_entry_is_refused(data: str) -> None:
    with pytest.raises(MalformedError):
        records([f"event: entry\ndata: {data}\n\n".encode()])


@pytest.mark.parametrize("data", ["*", "A", "A" * 400, "AA\ndata: AA", "AA=="])
def test_a_checkpoints_event_that_is_not_base64url_is_refused(data: str) -> None:
    with pytest.raises(MalformedError):
        records([f"event: checkpoint\ndata: {data}\n\n".encode()])


@given(mutated(STREAM), st.data())
def test_an_altered_stream_gives_records_or_is_refused(stream: bytes, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=4))
    with suppress(LogError):
        records(chunks(stream, cuts))
