"""Every parser, fed anything, answers or raises from our tree: no input ends a replica."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countermand.errors import LogError
from countermand.log import codec, wire
from countermand.log.anchor import Anchor
from countermand.log.chain import Candidate, LogId
from countermand.log.checkpoint import Pin, parse_checkpoint
from countermand.log.entry import Entry
from countermand.log.feed import EventParser, FeedParser
from countermand.log.freshness import Instant
from countermand.log.state import LogState
from countermand.log.succession import Succession
from tests.signer import KEY, LOG_ID, NOW_MS, Signer
from tests.unit.log.helpers import NOW, drain, held, read_snapshot, signer_of
from tests.unit.log.strategies import entries, mutated

SIGNER = signer_of(3)
PIN = SIGNER.pin


def read_events(data: bytes) -> None:
    list(EventParser().feed(data))


BYTES_PARSERS: dict[str, Callable[[bytes], object]] = {
    "entry": Entry.parse,
    "checkpoint": lambda data: parse_checkpoint(data).verify(PIN),
    "succession": lambda data: Succession.verify(data, PIN),
    "snapshot": lambda data: read_snapshot(data, SIGNER),
    "base64url": codec.from_base64,
    "events": read_events,
    "feed": lambda data: FeedParser().feed(data),
}
TEXT_PARSERS: dict[str, Callable[[str], object]] = {
    "pin": Pin.parse,
    "log id": LogId.parse,
    "anchor": Anchor.parse,
    "base64url": codec.from_base64,
}
FIELDS = wire.to_fields(SIGNER.candidates[0].previous, SIGNER.candidates[0].entry)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.binary(max_size=8),
    st.text(st.characters(codec=None), max_size=60),
    st.lists(st.integers(), max_size=2),
    st.sampled_from(sorted(FIELDS.values())),
)

every_bytes_parser = pytest.mark.parametrize("parser", BYTES_PARSERS.values(), ids=BYTES_PARSERS)
every_text_parser = pytest.mark.parametrize("parser", TEXT_PARSERS.values(), ids=TEXT_PARSERS)


def answers_or_refuses(parse: Callable[[], object]) -> None:
    message = ""
    try:
        parse()
    except LogError as refusal:
        message = str(refusal)
    assert len(message) < 200


@every_bytes_parser
@given(st.one_of(st.binary(max_size=400), st.binary(max_size=400).map(lambda data: b"\1" + data)))
def test_any_bytes(parser: Callable[[bytes], object], data: bytes) -> None:
    answers_or_refuses(lambda: parser(data))


@every_text_parser
@given(st.text(st.characters(codec=None), max_size=120))
def test_any_text(parser: Callable[[str], object], text: str) -> None:
    answers_or_refuses(lambda: parser(text))


@given(st.one_of(mutated(f"{LOG_ID}/{str(PIN)[37:]}".encode()), st.binary(min_size=32, max_size=32)))
def test_any_pin_like_text_and_any_32_bytes_as_a_key(data: bytes) -> None:
    answers_or_refuses(lambda: Pin.parse(data.decode(errors="surrogateescape")))
    answers_or_refuses(lambda: Pin.parse(f"{LOG_ID}/{codec.to_base64(data)}"))


@given(st.one_of(mutated(b"subject:alice"), mutated(b"session:ses_" + b"0" * 32)))
def test_altered_anchors(data: bytes) -> None:
    answers_or_refuses(lambda: Anchor.parse(data.decode(errors="surrogateescape")))


@given(st.dictionaries(st.sampled_from([*sorted(FIELDS), "x"]), VALUES))
def test_any_fields(changed: dict[str, object]) -> None:
    answers_or_refuses(lambda: wire.from_fields(changed))
    answers_or_refuses(lambda: wire.from_fields(FIELDS | changed))


@given(entries, st.data())
def test_altered_entries(entry: Entry, data: st.DataObject) -> None:
    altered = data.draw(mutated(entry.to_bytes()))
    answers_or_refuses(lambda: Entry.parse(altered))
    answers_or_refuses(lambda: wire.to_fields(bytes(32), altered))


@given(mutated(SIGNER.checkpoint()))
def test_an_altered_checkpoint_is_refused_or_is_the_same(data: bytes) -> None:
    state = LogState(PIN)
    try:
        state.accept(data, NOW)
    except LogError:
        assert held(state) == held(LogState(PIN))
    else:
        assert data == SIGNER.checkpoint()


@given(mutated(SIGNER.snapshot()))
def test_an_altered_snapshot_is_refused_or_is_the_same(data: bytes) -> None:
    try:
        read_snapshot(data, SIGNER)
    except LogError:
        return
    assert data == SIGNER.snapshot()


@given(st.data())
def test_whatever_the_authority_signs_as_entries_or_as_a_snapshot_is_applied_or_refused(data: st.DataObject) -> None:
    """A key in wrong hands can lie; it cannot make a replica fail in a way that nobody handles."""
    signer = Signer()
    true = signer_of(1).candidates[0].entry
    for _ in range(data.draw(st.integers(1, 4))):
        signer.append_bytes(data.draw(st.one_of(entries.map(Entry.to_bytes), mutated(true), st.binary(max_size=60))))
    state = LogState(signer.pin)
    for candidate in signer.candidates:
        state.add(candidate)
    state.accept(signer.checkpoint(data.draw(st.integers(0, 2**53 - 1))), NOW)
    answers_or_refuses(lambda: drain(state))


@given(st.integers(1, 2**53 - 1), st.binary(max_size=40), st.binary(max_size=80))
def test_any_candidate(seq: int, previous: bytes, entry: bytes) -> None:
    state = LogState(PIN)
    answers_or_refuses(lambda: state.add(Candidate(seq, previous, entry)))
    state.accept(SIGNER.checkpoint(NOW_MS), Instant(NOW_MS, 0))
    answers_or_refuses(lambda: drain(state))
    assert len(state) == 0


def test_no_error_of_a_pin_shows_its_text() -> None:
    """A private key pasted in its place must not reach a log."""
    secret = codec.to_base64(KEY.private_bytes_raw())
    for text in (secret, f"{LOG_ID}/{secret}{secret}", f"{LOG_ID}/{secret}="):
        with pytest.raises(LogError) as refusal:
            Pin.parse(text)
        assert secret not in str(refusal.value)
