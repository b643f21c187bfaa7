"""Attacks with checkpoints: old, foreign, altered, postdated. A refusal changes nothing that was believed before."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from countermand.errors import (
    BadSignatureError,
    ForkError,
    GenerationError,
    InvalidValueError,
    LogError,
    MalformedError,
    RollbackError,
    UnknownKeyError,
    UnknownVersionError,
    WrongLogError,
)
from countermand.log.anchor import Kind, Rev
from countermand.log.chain import genesis
from countermand.log.checkpoint import CHECKPOINT_BYTES, SIGNATURE_BYTES, Pin, key_id, parse_checkpoint
from countermand.log.freshness import Freshness, Instant
from countermand.log.snapshot import HEADER_BYTES
from countermand.log.state import MAX_WAITING, LogState
from countermand.tokens.keys import SigningKey
from tests.signer import KEY, LOG_ID, NOW_MS, OTHER_KEY, OTHER_LOG_ID, Signer
from tests.unit.log.helpers import DAY_MS, NOW, TOLERANCE_MS, drain, feed, followed, held, later, session, signer_of


@pytest.fixture
def signer() -> Signer:
    return signer_of(3)


@pytest.fixture
def state(signer: Signer) -> LogState:
    return followed(signer)


def refused(state: LogState, checkpoint: bytes, error: type[LogError], now: Instant = NOW) -> None:
    """Assert that `state` refuses the checkpoint and believes what it believed before."""
    before = held(state)
    with pytest.raises(error) as refusal:
        state.accept(checkpoint, now)
    assert type(refusal.value) is error
    assert drain(state) == []
    assert held(state) == before


def test_a_new_state_believes_nothing_and_stands_at_the_start_of_generation_1() -> None:
    signer = Signer()
    state = LogState(signer.pin)

    assert (state.rev, state.link, len(state)) == (Rev(1, 0), genesis(LOG_ID, 1), 0)
    assert state.freshness.staleness_ms(NOW) == NOW.wall_ms
    assert drain(state) == []


def test_a_pin_without_a_key_is_refused() -> None:
    with pytest.raises(InvalidValueError):
        LogState(Pin.of(LOG_ID))


def test_a_true_checkpoint_applies_its_entries_and_gives_freshness(signer: Signer) -> None:
    state = LogState(signer.pin)

    applied = feed(state, signer.candidates, [signer.checkpoint()])

    assert applied == signer.entries
    assert (state.rev, state.link, len(state)) == (Rev(1, 3), signer.links[3], 3)
    assert state.freshness == Freshness(NOW_MS, NOW_MS, NOW)


def test_a_checkpoint_of_an_empty_log_gives_freshness() -> None:
    signer = Signer()
    state = LogState(signer.pin)

    assert feed(state, checkpoints=[signer.checkpoint()]) == []
    assert state.freshness.staleness_ms(NOW) == 0


def test_every_pinned_key_speaks_for_the_log(signer: Signer) -> None:
    state = LogState(Pin.of(LOG_ID, OTHER_KEY.public_key(), KEY.public_key()))

    assert feed(state, signer.candidates, [signer.at(NOW_MS).sign(OTHER_KEY)]) == signer.entries
    feed(state, checkpoints=[signer.at(NOW_MS + 1).sign(KEY)])
    assert state.freshness.applied_at_ms == NOW_MS + 1


# Rollback


@pytest.mark.parametrize("seq", [0, 1, 2])
@pytest.mark.parametrize("at_ms", [NOW_MS - DAY_MS, NOW_MS, NOW_MS + TOLERANCE_MS])
def test_a_checkpoint_of_an_older_seq_is_refused_however_new_it_says_it_is(
    signer: Signer, state: LogState, seq: int, at_ms: int
) -> None:
    refused(state, signer.checkpoint(at_ms, seq), RollbackError)


def test_an_older_checkpoint_of_the_same_seq_takes_no_freshness_away(signer: Signer, state: LogState) -> None:
    feed(state, checkpoints=[signer.checkpoint(NOW_MS - 5_000)], now=later(7))

    assert state.freshness == Freshness(NOW_MS, NOW_MS, NOW)


def test_a_newer_checkpoint_of_the_same_seq_gives_freshness(signer: Signer, state: LogState) -> None:
    feed(state, checkpoints=[signer.checkpoint(NOW_MS + 900)], now=later(950))

    assert state.freshness == Freshness(NOW_MS + 900, NOW_MS + 900, later(950))


def test_a_checkpoint_may_be_repeated_without_effect(signer: Signer, state: LogState) -> None:
    before = held(state)
    for ms in (1, 2, 3):
        assert feed(state, checkpoints=[signer.checkpoint()], now=later(ms)) == []
    assert held(state) == before


# Another log, another key, another purpose, another generation


def test_a_checkpoint_of_another_log_by_the_same_key_is_refused(state: LogState) -> None:
    refused(state, Signer(OTHER_LOG_ID).checkpoint(), WrongLogError)


def test_a_checkpoint_by_another_key_is_refused(signer: Signer, state: LogState) -> None:
    refused(state, signer.at(NOW_MS).sign(OTHER_KEY), UnknownKeyError)


def test_a_checkpoint_by_another_key_that_names_ours_is_refused(signer: Signer, state: LogState) -> None:
    record = bytearray(signer.at(NOW_MS + 1).sign(OTHER_KEY))
    record[-SIGNATURE_BYTES - 16 : -SIGNATURE_BYTES] = key_id(KEY.public_key())

    refused(state, bytes(record), BadSignatureError)


def test_a_checkpoint_by_a_mandate_key_is_refused(signer: Signer, state: LogState) -> None:
    mandates = SigningKey.generate("Ed25519").private
    assert isinstance(mandates, Ed25519PrivateKey)

    refused(state, signer.at(NOW_MS).sign(mandates), UnknownKeyError)


@pytest.mark.parametrize(
    "context",
    [
        b"countermand snapshot v1\n",
        b"countermand genesis v1\n",
        b"countermand link v1\n",
        b"countermand checkpoint v1\n",
    ],
)
def test_a_checkpoint_that_the_right_key_signed_for_another_purpose_is_refused(
    signer: Signer, state: LogState, context: bytes
) -> None:
    body = signer.checkpoint(NOW_MS + 1)[:-SIGNATURE_BYTES]

    refused(state, body + KEY.sign(context + body), BadSignatureError)


def test_a_checkpoint_that_the_right_key_signed_without_a_purpose_is_refused(signer: Signer, state: LogState) -> None:
    """As a token's library would, if a log's key were used for mandates."""
    body = signer.checkpoint(NOW_MS + 1)[:-SIGNATURE_BYTES]

    refused(state, body + KEY.sign(body), BadSignatureError)


def test_a_snapshots_header_is_no_checkpoint_and_a_checkpoint_is_no_snapshots_header(
    signer: Signer, state: LogState
) -> None:
    checkpoint, header = signer.checkpoint(NOW_MS + 1), signer.snapshot(NOW_MS + 1)[:HEADER_BYTES]
    refused(state, header, UnknownVersionError)
    # The same length, and a signature that holds, for the other purpose.
    body = checkpoint[:-SIGNATURE_BYTES]
    refused(state, body + header[-SIGNATURE_BYTES:], BadSignatureError)
    refused(state, body + KEY.sign(b"countermand snapshot v1\n" + body), BadSignatureError)


def test_a_checkpoint_of_a_higher_generation_is_refused_without_a_succession(state: LogState) -> None:
    other = Signer(generation=2)
    refused(state, other.checkpoint(NOW_MS + 1), GenerationError)
    other.append(Kind.SESSION, session(1))
    refused(state, other.checkpoint(NOW_MS + 1), GenerationError)


def test_a_checkpoint_of_a_lower_generation_is_refused_whatever_its_seq(state: LogState) -> None:
    other = Signer(generation=0)
    for number in range(5):
        other.append_bytes(number.to_bytes(50))

    refused(state, other.checkpoint(NOW_MS + 1), RollbackError)


def test_another_link_for_the_applied_seq_is_a_fork_however_new(signer: Signer, state: LogState) -> None:
    other = signer.fork(2)
    other.append(Kind.SESSION, session(77))

    refused(state, other.checkpoint(NOW_MS + 900), ForkError)


# Altered bytes


def test_every_single_flipped_bit_of_a_checkpoint_is_refused(signer: Signer, state: LogState) -> None:
    true = signer.checkpoint(NOW_MS + 1)
    before = held(state)
    for bit in range(len(true) * 8):
        record = bytearray(true)
        record[bit // 8] ^= 1 << bit % 8
        with pytest.raises(LogError):
            state.accept(bytes(record), NOW)
    assert drain(state) == []
    assert held(state) == before
    state.accept(true, NOW)


def test_a_checkpoint_cut_or_lengthened_anywhere_is_refused(signer: Signer, state: LogState) -> None:
    true = signer.checkpoint(NOW_MS + 1)
    assert len(true) == CHECKPOINT_BYTES == 185
    for length in range(len(true)):
        refused(state, true[:length], MalformedError)
    refused(state, true + b"\0", MalformedError)
    refused(state, true + true, MalformedError)


def test_a_checkpoint_of_another_version_says_so(signer: Signer, state: LogState) -> None:
    refused(state, b"\1" + signer.checkpoint()[1:], UnknownVersionError)
    refused(state, b"\1 of any length", UnknownVersionError)


def test_what_a_checkpoint_claims_can_be_read_before_it_is_verified_and_is_not_a_checkpoint(signer: Signer) -> None:
    unverified = parse_checkpoint(signer.checkpoint())

    assert unverified.claimed == signer.at(NOW_MS)
    assert unverified.verify(signer.pin) == signer.at(NOW_MS)
    with pytest.raises(UnknownKeyError):
        unverified.verify(Pin.of(LOG_ID, OTHER_KEY.public_key()))


# Postdated


def test_a_postdated_checkpoint_delivers_its_entries_and_no_freshness_and_forgets_nothing() -> None:
    signer = Signer()
    state = LogState(signer.pin)
    signer.append(Kind.SESSION, session(1), expires_at_ms=NOW_MS + DAY_MS)
    feed(state, signer.candidates, [signer.checkpoint()])
    signer.append(Kind.SESSION, session(2))

    applied = feed(state, signer.candidates, [signer.checkpoint(NOW_MS + 2 * DAY_MS)], now=later(10))

    assert applied == signer.entries[1:]
    assert len(state) == 2
    assert state.freshness == Freshness(NOW_MS, NOW_MS, NOW)


def test_a_checkpoint_exactly_at_the_tolerance_counts_and_one_millisecond_more_does_not(signer: Signer) -> None:
    for ahead_ms, counts in ((TOLERANCE_MS, True), (TOLERANCE_MS + 1, False)):
        state = followed(signer)
        feed(state, checkpoints=[signer.checkpoint(NOW_MS + ahead_ms)])
        assert (state.freshness.applied_at_ms == NOW_MS + ahead_ms) is counts
        assert (state.freshness.newest_at_ms == NOW_MS + ahead_ms) is counts


def test_a_postdated_checkpoint_counts_once_its_time_has_come(signer: Signer, state: LogState) -> None:
    postdated = signer.checkpoint(NOW_MS + 60_000)
    feed(state, checkpoints=[postdated])
    feed(state, checkpoints=[postdated], now=later(59_000))

    assert state.freshness == Freshness(NOW_MS + 60_000, NOW_MS + 60_000, later(59_000))


@pytest.mark.parametrize("timely_first", [True, False])
def test_a_postdated_checkpoint_does_not_displace_a_timely_one_of_the_same_seq(
    signer: Signer, timely_first: bool
) -> None:
    state = LogState(signer.pin)
    pair = [signer.checkpoint(NOW_MS), signer.checkpoint(NOW_MS + DAY_MS)]

    feed(state, signer.candidates, pair if timely_first else pair[::-1])

    assert state.freshness == Freshness(NOW_MS, NOW_MS, NOW)


def test_of_two_waiting_checkpoints_of_one_seq_the_newer_gives_the_freshness(signer: Signer) -> None:
    for order in (1, -1):
        state = LogState(signer.pin)
        feed(state, signer.candidates, [signer.checkpoint(NOW_MS - 5), signer.checkpoint(NOW_MS)][::order])
        assert state.freshness.applied_at_ms == NOW_MS


# Waiting checkpoints are bounded


def test_of_too_many_waiting_checkpoints_the_ones_that_cover_most_stay() -> None:
    signer = signer_of(MAX_WAITING + 10)
    state = LogState(signer.pin)
    for seq in range(1, signer.seq + 1):
        state.accept(signer.checkpoint(NOW_MS, seq), NOW)

    assert sorted(state._waiting) == list(range(11, signer.seq + 1))
    assert feed(state, signer.candidates) == signer.entries
