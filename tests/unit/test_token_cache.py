"""Tokens that come again: no signature for them, and no answer that is older than the question."""

import asyncio
import logging
from typing import Any

import pytest

from countermand.enforce.decision import Allow, Code, Requirements
from countermand.enforce.guard import Guard
from countermand.errors import ExpiredTokenError, KeysError
from countermand.log.anchor import Kind
from countermand.tokens.cache import VerifiedToken, VerifiedTokens
from countermand.tokens.jwks import KeySet
from tests.unit.guarded import DELEGATED_TEXT, SECRETS, TOKEN_TEXT, Keys, Log, denied, guard, revoked
from tests.unit.mandates import (
    APPLICATION,
    ED25519,
    ES256,
    ISSUER,
    KEYS,
    NOW_S,
    OTHER_ES256,
    SESSION,
    claims_json,
    read,
    sign,
)

pytestmark = pytest.mark.anyio

BY_ED25519 = sign(claims_json(), ED25519)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Rotating(Keys):
    """A source whose set can be changed."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = KEYS

    async def key_set(self, key_id: str | None) -> KeySet:
        await super().key_set(key_id)
        return self.keys


class Clock:
    def __init__(self) -> None:
        self.now_s: float = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def log() -> Log:
    log = Log()
    log.publish()
    return log


async def warm(log: Log, token: str = TOKEN_TEXT, **options: Any) -> Guard:
    """A guard over the log's replica that has let `token` pass."""
    made = guard(log.replica, **options)
    log.on_applied = made.on_applied
    assert isinstance(await made.decide(token), Allow)
    assert made._tokens.get(token) is not None
    return made


def verified(token: str = TOKEN_TEXT, keys: KeySet = KEYS) -> VerifiedToken:
    mandate = read(token)
    return VerifiedToken.of(mandate, keys)


# What is remembered


async def test_a_token_that_was_verified_is_not_verified_again(log: Log) -> None:
    warmed = await warm(log)
    warmed._tokens.add("never signed", verified())

    assert isinstance(await warmed.decide("never signed"), Allow)


async def test_the_second_decision_gives_the_same_mandate(log: Log) -> None:
    warmed = await warm(log)

    decisions = [await warmed.decide(TOKEN_TEXT) for _ in range(2)]

    assert decisions[0] == decisions[1] == Allow(read(TOKEN_TEXT))


@pytest.mark.parametrize(
    "token",
    [
        "a.b.c",
        TOKEN_TEXT[:-4],
        sign(claims_json(), OTHER_ES256),
        sign(claims_json(exp=NOW_S - 11)),
        sign(claims_json(iss="https://other.example")),
        sign(claims_json(aud="https://other.example")),
        sign(claims_json(path=[7])),
    ],
)
async def test_a_token_that_was_refused_is_not_remembered(log: Log, token: str) -> None:
    refusing = guard(log.replica)

    denied(await refusing.decide(token))

    assert len(refusing._tokens) == 0


async def test_what_one_guard_verified_another_has_not() -> None:
    warmed, other = guard(), guard(audience="https://other.example")
    assert await warmed.decide(TOKEN_TEXT)

    assert denied(await other.decide(TOKEN_TEXT)).reason == "wrong_audience"


# What is asked anew


@pytest.mark.parametrize(("kind", "id_"), [(Kind.SESSION, SESSION), (Kind.APPLICATION, APPLICATION)])
async def test_a_remembered_token_is_ended_by_a_revocation(log: Log, kind: Kind, id_: str) -> None:
    warmed = await warm(log)

    log.revoke(kind, id_)

    assert denied(await warmed.decide(TOKEN_TEXT)).reason == f"{kind.text}:{id_}"


async def test_a_remembered_token_is_ended_by_a_store() -> None:
    store = revoked()
    warmed = guard(store)
    assert await warmed.decide(TOKEN_TEXT)

    store.mark_revoked(SESSION)

    assert denied(await warmed.decide(TOKEN_TEXT)).code is Code.SESSION_REVOKED


@pytest.mark.parametrize("target", ["all", "subject:alice", f"application:{APPLICATION}"])
async def test_a_remembered_token_is_ended_by_a_cutoff(log: Log, target: str) -> None:
    warmed = await warm(log)

    log.revoke(Kind.CUTOFF, target, issued_before_ms=NOW_S * 1000)

    assert denied(await warmed.decide(TOKEN_TEXT)).code is Code.SESSION_REVOKED


async def test_a_remembered_token_is_ended_by_what_a_snapshot_brings(log: Log) -> None:
    warmed = await warm(log)
    log.signer.append(Kind.SESSION, SESSION)

    log.publish_snapshot()

    assert denied(await warmed.decide(TOKEN_TEXT)).code is Code.SESSION_REVOKED


async def test_a_remembered_token_does_not_pass_when_the_replica_is_stale(log: Log) -> None:
    warmed = await warm(log)
    log.passed_ms += 15_000

    assert isinstance(await warmed.decide(TOKEN_TEXT), Allow)
    assert denied(await warmed.decide(TOKEN_TEXT, Requirements(max_staleness_s=10))).reason == "stale"
    log.passed_ms += 15_000
    assert denied(await warmed.decide(TOKEN_TEXT)).reason == "stale"


async def test_a_remembered_token_must_meet_what_is_required_now(log: Log) -> None:
    warmed = await warm(log)

    deny = denied(await warmed.decide(TOKEN_TEXT, Requirements.of(required_scopes=["admin"])))

    assert deny.code is Code.INSUFFICIENT_SCOPE


# Its time


@pytest.mark.parametrize(("passed_s", "passes"), [(0, True), (909.9, True), (910, False), (-10, True), (-10.1, False)])
async def test_a_remembered_token_ends_with_its_leeway_and_does_not_begin_before_it(
    log: Log, passed_s: float, passes: bool
) -> None:
    clock = Clock()
    warmed = await warm(log, clock_s=clock)
    clock.now_s += passed_s

    decision = await warmed.decide(TOKEN_TEXT)

    assert isinstance(decision, Allow) if passes else denied(decision).reason == "expired_token"


@pytest.mark.parametrize(
    "changes", [{}, {"nbf": NOW_S + 5}, {"nbf": NOW_S - 50.5}, {"iat": NOW_S + 0.25, "nbf": NOW_S}]
)
def test_what_is_remembered_is_good_exactly_while_it_would_be_verified(changes: dict[str, float]) -> None:
    token = sign(claims_json(**changes))
    known = verified(token)

    for now_s in (*range(NOW_S - 20, NOW_S + 20), *range(NOW_S + 900, NOW_S + 920), NOW_S - 9.75, NOW_S + 909.999):
        try:
            read(token, now_s=now_s)
        except ExpiredTokenError:
            assert not known.is_good(KEYS, now_s)
        else:
            assert known.is_good(KEYS, now_s)


def test_a_clock_that_gives_no_number_makes_nothing_good() -> None:
    assert not verified().is_good(KEYS, float("nan"))


# Its key


async def test_under_another_set_of_keys_it_is_verified_again(log: Log) -> None:
    source = Rotating()
    warmed = await warm(log, keys=source)
    source.keys = KeySet((*KEYS.keys, OTHER_ES256.verifying_key()))

    assert isinstance(await warmed.decide(TOKEN_TEXT), Allow)
    again = warmed._tokens.get(TOKEN_TEXT)
    assert again is not None
    assert again.keys is source.keys


async def test_the_same_keys_fetched_again_cost_no_signature(log: Log) -> None:
    source = Rotating()
    warmed = await warm(log, keys=source)
    known = warmed._tokens.get(TOKEN_TEXT)
    source.keys = KeySet(KEYS.keys)

    assert isinstance(await warmed.decide(TOKEN_TEXT), Allow)
    assert warmed._tokens.get(TOKEN_TEXT) is known


async def test_a_key_that_its_issuer_no_longer_publishes_ends_what_it_signed(log: Log) -> None:
    source = Rotating()
    warmed = await warm(log, keys=source)
    source.keys = KeySet((ED25519.verifying_key(),))

    assert denied(await warmed.decide(TOKEN_TEXT)).reason == "unknown_token_key"


async def test_without_the_keys_nothing_passes_that_is_remembered(log: Log) -> None:
    source = Rotating()
    warmed = await warm(log, keys=source)
    source.failure = KeysError("none")

    assert denied(await warmed.decide(TOKEN_TEXT)).code is Code.KEYS_UNAVAILABLE


async def test_a_withdrawn_key_empties_what_it_signed_and_nothing_else(log: Log) -> None:
    warmed = await warm(log)
    for token in (DELEGATED_TEXT, BY_ED25519):
        assert await warmed.decide(token)

    log.revoke(Kind.KEY, ES256.kid)

    assert warmed._tokens.get(TOKEN_TEXT) is warmed._tokens.get(DELEGATED_TEXT) is None
    assert warmed._tokens.get(BY_ED25519) is not None
    assert denied(await warmed.decide(TOKEN_TEXT)).reason == f"key:{ES256.kid}"
    assert isinstance(await warmed.decide(BY_ED25519), Allow)


@pytest.mark.parametrize("issuer", ["", ISSUER])
async def test_a_token_remembered_after_its_key_was_withdrawn_is_refused_all_the_same(log: Log, issuer: str) -> None:
    """It was being verified in another thread while the entry was applied."""
    warmed = await warm(log)
    known = warmed._tokens.get(TOKEN_TEXT)
    assert known is not None
    log.signer.append(Kind.KEY, ES256.kid, issuer=issuer)
    log.publish()
    warmed._tokens.add(TOKEN_TEXT, known)

    assert denied(await warmed.decide(TOKEN_TEXT)).reason == f"key:{ES256.kid}"


# Its bounds


def test_it_holds_a_number_of_tokens_and_the_first_in_is_the_first_out() -> None:
    tokens = VerifiedTokens(max_entries=3)
    for text in ("a", "b", "c", "d", "e"):
        tokens.add(text, verified())

    assert len(tokens) == 3
    assert [text for text in "abcde" if tokens.get(text)] == ["c", "d", "e"]


def test_it_holds_a_number_of_bytes() -> None:
    tokens = VerifiedTokens(max_bytes=10)
    for text in ("aaaa", "bbbb", "cccc"):
        tokens.add(text, verified())
    assert [text for text in ("aaaa", "bbbb", "cccc") if tokens.get(text)] == ["bbbb", "cccc"]

    tokens.add("d" * 10, verified())
    assert len(tokens) == 1
    tokens.add("e" * 11, verified())
    assert len(tokens) == 0


def test_what_is_dropped_or_replaced_no_longer_counts() -> None:
    tokens = VerifiedTokens(max_entries=2, max_bytes=8)
    for _ in range(10):
        tokens.add("aaaa", verified())
        tokens.forget_key(ES256.kid)
        tokens.add("bbbb", verified())
        tokens.add("bbbb", verified())
    tokens.add("cccc", verified())

    assert [text for text in ("bbbb", "cccc") if tokens.get(text)] == ["bbbb", "cccc"]


async def test_threads_may_add_and_forget_at_once() -> None:
    tokens = VerifiedTokens(max_entries=50)
    known = verified()

    def add(prefix: str) -> None:
        for number in range(2_000):
            tokens.add(f"{prefix}{number}", known)
            tokens.get(f"{prefix}{number - 1}")

    def forget() -> None:
        for _ in range(300):
            tokens.forget_key(ES256.kid)

    await asyncio.gather(*(asyncio.to_thread(add, prefix) for prefix in "ab"), asyncio.to_thread(forget))

    tokens.forget_key(ES256.kid)
    assert len(tokens) == tokens._bytes == 0


async def test_no_part_of_a_token_is_seen_in_what_is_remembered(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    warmed = await warm(log)
    log.revoke(Kind.KEY, ES256.kid)
    await warmed.decide(TOKEN_TEXT)
    told = repr((warmed._tokens, warmed._in_flight, verified())) + caplog.text

    assert not [secret for secret in SECRETS if secret in told]
