"""Keysets: who holds a key that spoke before may hand on to others, once, in order, for this log; nobody else may."""

from collections.abc import Sequence

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from countermand.errors import (
    BadSignatureError,
    CountermandError,
    KeysetError,
    LogError,
    MalformedError,
    UnknownKeyError,
    WrongLogError,
)
from countermand.log.chain import LogId
from countermand.log.checkpoint import Pin
from countermand.log.feed import FeedParser, keyset_event
from countermand.log.keyset import (
    MAX_DOCUMENT_BYTES,
    MAX_KEYS,
    MAX_KEYSET_BYTES,
    parse_keyset,
    sign_keyset,
    split_keysets,
)
from countermand.log.snapshot import SnapshotReader
from countermand.log.state import LogState
from tests.signer import KEY, LOG_ID, OTHER_KEY, OTHER_LOG_ID, Signer
from tests.unit.log.helpers import NOW, drain, later, signer_of
from tests.unit.log.strategies import mutated

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(100, 110)]
PIN = Pin.of(LOG_ID, KEY.public_key())


def keyset(version: int, keys: Sequence[Ed25519PrivateKey], by: Ed25519PrivateKey, log_id: LogId = LOG_ID) -> bytes:
    return sign_keyset(Pin.of(log_id, *(key.public_key() for key in keys), version=version), by)


# KEY alone, then with the next one, then the next one alone; and so on to KEYS[1].
CHAIN = [
    keyset(1, [KEY, KEYS[0]], KEY),
    keyset(2, [KEYS[0]], KEYS[0]),
    keyset(3, [KEYS[0], KEYS[1]], KEYS[0]),
    keyset(4, [KEYS[1]], KEYS[1]),
]


def state_after(*keysets: bytes) -> LogState:
    state = LogState(PIN)
    for signed in keysets:
        state.rekey(signed)
    return state


def accepts(state: LogState, key: Ed25519PrivateKey) -> bool:
    """Whether a checkpoint by `key` is believed."""
    try:
        state.accept(Signer(key=key).checkpoint(), NOW)
    except UnknownKeyError:
        return False
    return True


def test_a_chain_from_the_pin_leads_to_the_newest_keys_and_away_from_the_oldest() -> None:
    state = LogState(PIN)
    believed = [[accepts(state, key) for key in (KEY, KEYS[0], KEYS[1])]]
    for signed in CHAIN:
        state.rekey(signed)
        believed.append([accepts(state, key) for key in (KEY, KEYS[0], KEYS[1])])
    assert believed == [
        [True, False, False],
        [True, True, False],
        [False, True, False],
        [False, True, True],
        [False, False, True],
    ]


def test_a_pin_of_a_later_version_goes_on_from_there() -> None:
    pin = parse_keyset(CHAIN[1]).claimed
    assert Pin.parse(str(pin)) == pin
    assert str(pin).startswith(f"{LOG_ID}/2/")
    state = LogState(pin)
    for signed in CHAIN:
        state.rekey(signed)
    assert state.pin == parse_keyset(CHAIN[-1]).claimed


def test_what_is_held_already_or_lower_changes_nothing_whoever_signed_it() -> None:
    state = state_after(*CHAIN)
    for version in range(1, 5):
        state.rekey(keyset(version, [KEY], KEY))
        state.rekey(keyset(version, [OTHER_KEY], KEYS[1]))
    assert state.pin == parse_keyset(CHAIN[-1]).claimed


@pytest.mark.parametrize(
    ("signed", "error"),
    [
        (keyset(1, [OTHER_KEY], OTHER_KEY), UnknownKeyError),
        (keyset(2, [KEYS[0]], KEY), KeysetError),
        (keyset(1, [KEYS[0]], KEY, OTHER_LOG_ID), WrongLogError),
        (keyset(1, [KEYS[0]], KEY)[:-1] + b"\0", BadSignatureError),
        (Signer().checkpoint(), CountermandError),
        (b"", MalformedError),
    ],
    ids=["a foreign key", "a gap", "another log", "another signature", "a checkpoint", "nothing"],
)
def test_a_keyset_that_does_not_follow_is_refused_and_changes_nothing(
    signed: bytes, error: type[CountermandError]
) -> None:
    state = LogState(PIN)
    with pytest.raises(error):
        state.rekey(signed)
    assert state.pin == PIN


def test_a_key_that_was_withdrawn_signs_no_keyset_more() -> None:
    state = state_after(*CHAIN[:2])
    for key in (KEY, KEYS[1]):
        with pytest.raises(UnknownKeyError):
            state.rekey(keyset(3, [KEY], key))
    assert state.pin.version == 2


def test_only_the_holder_of_a_key_before_can_say_which_come_next() -> None:
    """The keys that are named may not bring themselves in."""
    state = LogState(PIN)
    with pytest.raises(UnknownKeyError):
        state.rekey(keyset(1, [KEY, KEYS[0]], KEYS[0]))


def test_what_waits_by_the_word_of_a_withdrawn_key_is_let_go() -> None:
    """A thief's checkpoint waits for entries that he has not brought yet; the key is withdrawn, and he brings them."""
    stolen, true = signer_of(2), signer_of(1)
    state = LogState(PIN)
    state.accept(stolen.checkpoint(), NOW)
    state.rekey(keyset(1, [KEYS[0]], KEY))
    for candidate in stolen.candidates:
        state.add(candidate)
    assert drain(state) == []
    true.key = KEYS[0]
    state.accept(true.checkpoint(), later(1))
    assert [entry.seq for entry in drain(state)] == [1]


def test_a_snapshot_by_a_withdrawn_key_is_refused() -> None:
    reader = SnapshotReader(state_after(*CHAIN[:2]).pin)
    with pytest.raises(UnknownKeyError):
        reader.feed(signer_of(1).snapshot())


@given(mutated(CHAIN[0]))
def test_an_altered_keyset_is_refused_or_is_the_same(data: bytes) -> None:
    state = LogState(PIN)
    try:
        state.rekey(data)
    except LogError:
        assert state.pin == PIN
    else:
        assert data == CHAIN[0]


def test_every_flipped_bit_is_noticed() -> None:
    for at in range(8 * len(CHAIN[0])):
        flipped = bytearray(CHAIN[0])
        flipped[at // 8] ^= 1 << at % 8
        state = LogState(PIN)
        with pytest.raises(LogError):
            state.rekey(bytes(flipped))
        assert state.pin == PIN


@given(st.binary(max_size=600))
def test_any_bytes_are_split_or_refused(data: bytes) -> None:
    for document in (data, CHAIN[0] + data):
        try:
            records = split_keysets(document)
        except LogError:
            continue
        assert b"".join(records) == document


def test_a_document_gives_its_records_and_has_an_end() -> None:
    assert list(split_keysets(b"".join(CHAIN))) == CHAIN
    with pytest.raises(MalformedError):
        split_keysets(b"".join(CHAIN)[:-1])
    with pytest.raises(MalformedError):
        split_keysets(bytes(MAX_DOCUMENT_BYTES + 1))


@pytest.mark.parametrize("count", [0, MAX_KEYS + 1])
def test_none_and_too_many_keys_are_not_signed(count: int) -> None:
    with pytest.raises(MalformedError):
        keyset(1, KEYS[:count], KEY)


def test_version_0_is_a_pin_and_no_keyset() -> None:
    with pytest.raises(MalformedError):
        keyset(0, [KEY], KEY)


def test_the_largest_keyset_travels_as_an_event() -> None:
    largest = keyset(2**53 - 1, KEYS[:MAX_KEYS], KEY)
    assert len(largest) == MAX_KEYSET_BYTES
    assert FeedParser().feed(keyset_event(largest)).keysets == (largest,)


@pytest.mark.parametrize("text", ["0/", "01/", "-1/", "9007199254740992/", "1/1/", "/", "x/", "\uff11/", " 1/"])
def test_a_pin_with_another_spelling_of_its_version_is_refused(text: str) -> None:
    _, _, key = str(PIN).partition("/")
    with pytest.raises(MalformedError):
        Pin.parse(f"{LOG_ID}/{text}{key}")
