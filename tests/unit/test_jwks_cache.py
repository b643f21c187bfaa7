"""When an issuer is asked for its keys, how often, and what its failures cost."""

import asyncio
import logging
from collections.abc import Callable

import pytest

from countermand.errors import InvalidValueError, KeysError, UnreachableError
from countermand.tokens import jwks
from countermand.tokens.jwks import JwksCache, KeySet, KeySource, StaticKeys
from countermand.tokens.mandate import SigningKey
from tests.unit.mandates import ED25519, ES256, OTHER_ES256

pytestmark = pytest.mark.anyio

OLD = KeySet((ES256.verifying_key(),))
NEW = KeySet((ES256.verifying_key(), OTHER_ES256.verifying_key()))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Issuer:
    """What a fetch would reach: a document or a failure, a count of requests, and a gate that can be shut."""

    def __init__(self) -> None:
        self.answer: KeySet | Exception | bytes = OLD
        self.requests = 0
        self.now_s = 1_000.0
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self) -> bytes:
        self.requests += 1
        self.asked.set()
        await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer if isinstance(self.answer, bytes) else self.answer.to_json()

    def clock_s(self) -> float:
        return self.now_s


@pytest.fixture
async def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
async def cache(issuer: Issuer) -> JwksCache:
    return JwksCache(issuer.fetch, issuer.clock_s)


async def turns(count: int = 20) -> None:
    """Let every task that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_keys_are_fetched_at_first_use_and_kept_for_their_age(issuer: Issuer, cache: JwksCache) -> None:
    assert issuer.requests == 0
    assert await cache.key_set(ES256.kid) == OLD
    issuer.answer = NEW
    issuer.now_s += 299
    assert await cache.key_set(ES256.kid) == OLD
    assert await cache.key_set(None) == OLD
    assert issuer.requests == 1
    issuer.now_s += 1
    assert await cache.key_set(ES256.kid) == NEW
    assert issuer.requests == 2


async def test_a_new_key_is_fetched_when_a_token_names_it(issuer: Issuer, cache: JwksCache) -> None:
    await cache.key_set(ES256.kid)
    issuer.answer = NEW
    assert await cache.key_set(OTHER_ES256.kid) == NEW
    assert issuer.requests == 2


async def test_made_up_key_ids_cost_one_request_per_cooldown(issuer: Issuer, cache: JwksCache) -> None:
    await cache.key_set("made-up-0")
    assert issuer.requests == 1  # what was just fetched is not fetched again
    for number in range(100):
        assert await cache.key_set(f"made-up-{number}") == OLD
    assert issuer.requests == 2
    issuer.now_s += 9.9
    await cache.key_set("made-up")
    assert issuer.requests == 2
    issuer.now_s += 0.1
    await cache.key_set("made-up")
    assert issuer.requests == 3


async def test_callers_share_one_fetch(issuer: Issuer, cache: JwksCache) -> None:
    issuer.gate.clear()
    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(cache.key_set(ES256.kid)) for _ in range(50)]
        await turns()
        assert issuer.requests == 1
        issuer.gate.set()
    assert all(caller.result() is callers[0].result() for caller in callers)
    assert issuer.requests == 1


async def test_callers_with_one_new_key_wait_for_the_one_fetch_that_brings_it(issuer: Issuer, cache: JwksCache) -> None:
    await cache.key_set(ES256.kid)
    issuer.answer = NEW
    issuer.gate.clear()
    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(cache.key_set(OTHER_ES256.kid)) for _ in range(5)]
        await turns()
        assert await cache.key_set(ES256.kid) == OLD  # a known key waits for nobody
        issuer.gate.set()
    assert [caller.result() for caller in callers] == [NEW] * 5
    assert issuer.requests == 2


async def test_a_caller_that_is_cancelled_takes_nobody_with_it(issuer: Issuer, cache: JwksCache) -> None:
    issuer.gate.clear()
    first = asyncio.create_task(cache.key_set(ES256.kid))
    await issuer.asked.wait()
    second = asyncio.create_task(cache.key_set(ES256.kid))
    await turns()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    issuer.gate.set()
    assert await second == OLD
    assert issuer.requests == 1


@pytest.mark.parametrize(
    "failure", [UnreachableError("no answer"), OSError("no route"), TypeError("a fault"), b"", b'{"keys":[]}']
)
async def test_without_keys_a_failure_is_said_and_asked_about_once_a_second(
    issuer: Issuer, cache: JwksCache, failure: Exception | bytes
) -> None:
    issuer.answer = failure
    for _ in range(10):
        with pytest.raises(KeysError):
            await cache.key_set(ES256.kid)
    issuer.now_s += 0.9
    with pytest.raises(KeysError):
        await cache.key_set("made-up")
    assert issuer.requests == 1
    issuer.now_s += 0.1
    issuer.answer = OLD
    assert await cache.key_set(ES256.kid) == OLD
    assert issuer.requests == 2


async def test_a_failing_issuer_leaves_the_old_keys_and_one_line_in_the_log(
    issuer: Issuer, cache: JwksCache, caplog: pytest.LogCaptureFixture
) -> None:
    await cache.key_set(ES256.kid)
    issuer.answer = UnreachableError("no answer from https://user:secret@issuer.example")
    with caplog.at_level(logging.DEBUG):
        for _ in range(5):
            issuer.now_s += 300
            assert await cache.key_set(ES256.kid) == OLD
            await turns()
    assert issuer.requests == 6
    assert [(record.name, record.levelname) for record in caplog.records] == [("countermand.tokens.jwks", "WARNING")]
    assert "secret" not in caplog.text


async def test_only_the_first_failure_is_waited_for_while_old_keys_serve(issuer: Issuer, cache: JwksCache) -> None:
    await cache.key_set(ES256.kid)
    issuer.answer = OSError()
    issuer.now_s += 300
    await cache.key_set(ES256.kid)
    issuer.now_s += 1
    issuer.gate.clear()
    assert await cache.key_set(ES256.kid) == OLD  # with the gate shut, waiting would not end
    await issuer.asked.wait()
    issuer.answer = NEW
    issuer.gate.set()
    await turns()
    assert await cache.key_set(ES256.kid) == NEW
    assert issuer.requests == 3


async def test_recovery_is_logged_and_the_next_failure_again(
    issuer: Issuer, cache: JwksCache, caplog: pytest.LogCaptureFixture
) -> None:
    for answer in (OSError(), OLD, OSError()):
        issuer.answer = answer
        issuer.now_s += 300
        try:
            await cache.key_set(ES256.kid)
        except KeysError:
            assert answer is not OLD
    assert len(caplog.records) == 3


async def test_old_keys_serve_for_a_day_and_no_longer(issuer: Issuer, cache: JwksCache) -> None:
    await cache.key_set(ES256.kid)
    issuer.answer = OSError()
    issuer.now_s += 86_400
    assert await cache.key_set(ES256.kid) == OLD
    issuer.now_s += 1
    with pytest.raises(KeysError, match="OSError"):
        await cache.key_set(ES256.kid)
    issuer.now_s += 1
    issuer.answer = NEW
    assert await cache.key_set(ES256.kid) == NEW


async def test_keys_age_from_the_moment_they_were_asked_for(issuer: Issuer, cache: JwksCache) -> None:
    issuer.gate.clear()
    caller = asyncio.create_task(cache.key_set(ES256.kid))
    await issuer.asked.wait()
    issuer.now_s += 200
    issuer.gate.set()
    await caller
    issuer.now_s += 100
    await cache.key_set(ES256.kid)
    assert issuer.requests == 2


async def test_an_issuer_that_never_answers_costs_one_bounded_wait(
    issuer: Issuer, cache: JwksCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "FETCH_TIMEOUT_S", 0.01)
    issuer.gate.clear()
    async with asyncio.timeout(5):
        with pytest.raises(KeysError, match="TimeoutError"):
            await cache.key_set(ES256.kid)
        with pytest.raises(KeysError):
            await cache.key_set(ES256.kid)
    assert issuer.requests == 1


@pytest.mark.parametrize("held", [True, False])
def test_a_cache_outlives_a_loop_that_ended_in_the_middle_of_a_fetch(held: bool) -> None:
    issuer = Issuer()
    cache = JwksCache(issuer.fetch, issuer.clock_s)

    async def abandon() -> None:
        if held:
            await cache.key_set(None)
        issuer.gate.clear()
        issuer.asked.clear()
        caller = asyncio.create_task(cache.key_set("made-up"))
        await issuer.asked.wait()
        caller.cancel()

    asyncio.run(abandon())
    issuer.gate.set()
    assert asyncio.run(cache.key_set("made-up")) == OLD


@pytest.mark.parametrize("key", [ES256, ED25519])
async def test_static_keys_are_a_source_that_never_changes(key: SigningKey) -> None:
    source: KeySource = StaticKeys(OLD)
    assert await source.key_set(key.kid) is OLD


@pytest.mark.parametrize(
    "make",
    [
        lambda issuer: JwksCache(issuer.fetch, issuer.clock_s, max_age_s=0),
        lambda issuer: JwksCache(issuer.fetch, issuer.clock_s, cooldown_s=0),
        lambda issuer: JwksCache(issuer.fetch, issuer.clock_s, max_age_s=10, max_stale_s=9),
        lambda issuer: JwksCache(issuer.fetch, issuer.clock_s, max_age_s=float("nan")),
    ],
)
async def test_ages_that_cannot_work_are_refused(issuer: Issuer, make: Callable[[Issuer], JwksCache]) -> None:
    with pytest.raises(InvalidValueError):
        make(issuer)
