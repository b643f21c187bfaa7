"""How a documented store is asked: only True and False are answers, and one that may block is asked in a thread."""

import asyncio
import logging
import threading

import pytest

from countermand.enforce.decision import Allow, Code
from countermand.enforce.revocations import StoreRevocations
from countermand.log.verdict import CLEAR, Revoked, Unknown
from tests.unit.guarded import DELEGATED_TEXT, TOKEN_TEXT, Store, denied, guard, revoked
from tests.unit.mandates import AGENT, EDGE, GRANT, PARENT_EDGE, ROOT, SESSION, TOKEN, read

pytestmark = pytest.mark.anyio

ANCHORS = read(TOKEN_TEXT).anchors


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_store_that_raises_lets_nothing_pass() -> None:
    def fail(sid: str) -> bool:
        raise OSError(sid)

    deny = denied(await guard(Store(fail)).decide(TOKEN_TEXT))

    assert (deny.code, deny.reason) == (Code.REVOCATION_UNAVAILABLE, "store_error")


async def test_the_log_tells_once_that_a_store_fails_and_once_that_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    failing = True

    def answer(sid: str) -> bool:
        if failing:
            raise OSError(sid)
        return False

    flaky = guard(Store(answer))
    for state in (True, True, False, False):
        failing = state
        await flaky.decide(TOKEN_TEXT)

    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == [
        "the revocation store does not answer: tokens are refused (OSError)",
        "the revocation store answers again",
    ]


@pytest.mark.parametrize("answer", [None, 0, 1, "", "no", b"1", object()])
async def test_only_true_and_false_are_answers_of_a_store(answer: object) -> None:
    deny = denied(await guard(Store(lambda _: answer)).decide(TOKEN_TEXT))

    assert (deny.code, deny.reason) == (Code.REVOCATION_UNAVAILABLE, "store_error")


async def test_a_store_that_turns_out_to_be_async_lets_nothing_pass() -> None:
    async def answer() -> bool:
        return False

    deny = denied(await guard(Store(lambda _: answer())).decide(TOKEN_TEXT))

    assert (deny.code, deny.reason) == (Code.REVOCATION_UNAVAILABLE, "store_error")


async def test_a_store_that_may_block_is_asked_off_the_event_loop_in_one_hop() -> None:
    store = Store(lambda _: False)

    assert isinstance(await guard(store).decide(DELEGATED_TEXT), Allow)

    assert set(store.asked) >= {SESSION, ROOT, AGENT, EDGE, PARENT_EDGE, GRANT, TOKEN}
    assert len(store.asked) == len(set(store.asked))
    assert len(store.threads) == 1
    assert threading.get_ident() not in store.threads


async def test_a_store_that_never_blocks_is_asked_where_we_are() -> None:
    class Quick(Store):
        blocking = False

    store = Quick(lambda _: False)

    assert isinstance(await guard(store).decide(TOKEN_TEXT), Allow)
    assert store.threads == {threading.get_ident()}


async def test_a_store_that_does_not_come_back_costs_one_bounded_wait() -> None:
    release = threading.Event()
    store = Store(lambda _: not release.wait())
    try:
        async with asyncio.timeout(30):
            verdicts = await StoreRevocations(store, timeout_s=0.01).ask([(ANCHORS, None), (ANCHORS, None)])
    finally:
        release.set()

    assert list(verdicts) == [Unknown("store_timeout")] * 2
    await asyncio.get_running_loop().shutdown_default_executor()
    assert store.asked.count(SESSION) == 1, "nobody waits for the second answer, and it is not asked for"


async def test_a_store_is_asked_no_more_once_it_has_said_yes() -> None:
    store = Store(lambda sid: sid == ANCHORS.path[1].id)

    (verdict,) = await StoreRevocations(store).ask([(ANCHORS, None)])

    assert verdict == Revoked(ANCHORS.path[1], 0)
    assert store.asked == [ANCHORS.path[0].id, ANCHORS.path[1].id]


async def test_where_a_staleness_is_required_a_store_can_only_say_what_is_revoked() -> None:
    assert await StoreRevocations(revoked()).ask([(ANCHORS, None), (ANCHORS, 10)]) == [CLEAR, Unknown("no_staleness")]
    assert isinstance(StoreRevocations(revoked(SESSION)).check(ANCHORS, 10), Revoked)
