"""How a documented store is asked: only True and False are answers, and one that may block is asked in a thread."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import pytest

from countermand.enforce.decision import Allow, Code
from countermand.enforce.revocations import PAGE, StoreRevocations
from countermand.errors import ConfigurationError, StoreError
from countermand.log.anchor import Anchor, Anchors, Kind
from countermand.log.verdict import CLEAR, Revoked, Unknown
from countermand.stores.memory import InMemoryRevocationStore
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


class OfGreenThreads(BaseException):
    """As their time-outs are."""


@pytest.mark.parametrize("fault", [SystemExit, KeyboardInterrupt, OfGreenThreads])
@pytest.mark.parametrize("kind", ["single", "batch", "quick"])
async def test_what_is_no_exception_leaves_and_is_never_a_pass(kind: str, fault: type[BaseException]) -> None:
    class Quick(Store):
        blocking = False

    def leave(*_: object) -> bool:
        raise fault

    store = {"single": Store(leave), "batch": BatchStore(leave, leave), "quick": Quick(leave)}[kind]

    with pytest.raises(fault):
        await guard(store).decide(TOKEN_TEXT)


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


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> ThreadPoolExecutor:
    """Threads that a test can wait for."""
    own = ThreadPoolExecutor(1)
    monkeypatch.setattr("countermand.enforce.revocations.THREADS.pool", own)
    return own


async def test_a_store_that_hangs_keeps_no_thread_of_anybody_else() -> None:
    release = threading.Event()
    store = StoreRevocations(Store(lambda _: not release.wait()), timeout_s=0.2)
    try:
        async with asyncio.timeout(30):
            verdicts = await asyncio.gather(*[store.ask([(ANCHORS, None)]) for _ in range(100)])
            assert await asyncio.to_thread(threading.get_ident) != threading.get_ident()
    finally:
        release.set()
    assert set(chain.from_iterable(verdicts)) == {Unknown("store_timeout")}


async def test_a_store_that_does_not_come_back_costs_one_bounded_wait(threads: ThreadPoolExecutor) -> None:
    release = threading.Event()
    store = Store(lambda _: not release.wait())
    try:
        async with asyncio.timeout(30):
            verdicts = await StoreRevocations(store, timeout_s=0.01).ask([(ANCHORS, None), (ANCHORS, None)])
    finally:
        release.set()

    assert list(verdicts) == [Unknown("store_timeout")] * 2
    threads.shutdown()
    assert store.asked.count(SESSION) == 1, "nobody waits for the second answer, and it is not asked for"


async def test_a_store_is_asked_no_more_once_it_has_said_yes() -> None:
    store = Store(lambda sid: sid == ANCHORS.path[1].id)

    (verdict,) = await StoreRevocations(store).ask([(ANCHORS, None)])

    assert verdict == Revoked(ANCHORS.path[1], 0)
    assert store.asked == [ANCHORS.path[0].id, ANCHORS.path[1].id]


async def test_where_a_staleness_is_required_a_store_can_only_say_what_is_revoked() -> None:
    assert await StoreRevocations(revoked()).ask([(ANCHORS, None), (ANCHORS, 10)]) == [CLEAR, Unknown("no_staleness")]
    assert isinstance(StoreRevocations(revoked(SESSION)).check(ANCHORS, 10), Revoked)


# Stores that answer batches


class BatchStore(Store):
    """A store that notes each batch; `answer_all` is called for it, and without one `answer` for each of its ids."""

    def __init__(self, answer: Callable[[str], Any], answer_all: Callable[[Sequence[str]], Any] | None = None) -> None:
        super().__init__(answer)
        self.answer_all = answer_all
        self.batches: list[Sequence[str]] = []

    def is_revoked(self, sid: str) -> bool:
        raise NotImplementedError

    def are_revoked(self, sids: Sequence[str]) -> Sequence[bool]:
        self.batches.append(sids)
        self.threads.add(threading.get_ident())
        if self.answer_all is not None:
            return self.answer_all(sids)  # type: ignore[no-any-return]  # some tests answer with nonsense
        return [self.answer(sid) for sid in sids]


def session(number: int) -> Anchor:
    return Anchor(Kind.SESSION, f"session-{number}")


def calls(count: int, *, ids_each: int) -> list[tuple[Anchors, None]]:
    """Calls by tokens of one root, with so many ids each."""
    return [
        (Anchors((Anchor(Kind.SESSION, "root"), *(session(n * ids_each + i) for i in range(1, ids_each)))), None)
        for n in range(count)
    ]


@pytest.mark.parametrize("answer", ["hunter2", StoreError("hunter2"), None])
async def test_what_is_no_answer_is_in_no_log(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    for store in (Store(lambda _: answer), BatchStore(lambda _: answer), BatchStore(print, lambda _: answer)):
        assert denied(await guard(store).decide(TOKEN_TEXT)).code == Code.REVOCATION_UNAVAILABLE

    assert "hunter2" not in caplog.text
    assert caplog.text.count("does not answer") == 3


async def test_a_store_that_answers_batches_is_asked_once_for_all_ids_of_a_token_off_the_event_loop() -> None:
    store = BatchStore(lambda _: False)

    assert isinstance(await guard(store).decide(DELEGATED_TEXT), Allow)

    (batch,) = store.batches
    assert set(batch) >= {SESSION, ROOT, AGENT, EDGE, PARENT_EDGE, GRANT, TOKEN}
    assert len(batch) == len(set(batch))
    assert threading.get_ident() not in store.threads


async def test_a_batch_store_that_never_blocks_is_asked_where_we_are() -> None:
    class Quick(BatchStore):
        blocking = False

    store = Quick(lambda _: False)

    assert isinstance(await guard(store).decide(TOKEN_TEXT), Allow)
    assert store.threads == {threading.get_ident()}
    assert len(store.batches) == 1


async def test_of_a_batch_the_first_that_is_revoked_decides_root_first() -> None:
    store = BatchStore(lambda sid: sid in {anchor.id for anchor in ANCHORS.path[1:]})

    (verdict,) = await StoreRevocations(store).ask([(ANCHORS, None)])

    assert verdict == Revoked(ANCHORS.path[1], 0)
    assert StoreRevocations(store).check(ANCHORS, 10) == verdict


async def test_calls_in_flight_are_asked_about_in_pages_and_about_each_id_once() -> None:
    store = BatchStore(lambda sid: sid in {"session-7", "session-2999"})

    verdicts = await StoreRevocations(store).ask(calls(600, ids_each=5))

    assert [len(batch) for batch in store.batches] == [PAGE, PAGE, 401]
    assert len({sid for batch in store.batches for sid in batch}) == 600 * 4 + 1
    assert [n for n, verdict in enumerate(verdicts) if verdict != CLEAR] == [1, 599]
    assert verdicts[1] == Revoked(session(7), 0)


async def test_a_token_with_more_ids_than_a_page_holds_is_asked_about_in_two() -> None:
    store = BatchStore(lambda sid: sid == "session-1500")

    verdicts = await StoreRevocations(store).ask(calls(1, ids_each=1600))

    assert [len(batch) for batch in store.batches] == [PAGE, 600]
    assert list(verdicts) == [Revoked(session(1500), 0)]


async def test_no_further_page_is_asked_for_once_the_answer_is_known() -> None:
    store = BatchStore(lambda sid: sid == "root")

    verdicts = await StoreRevocations(store).ask(calls(600, ids_each=5))

    assert [len(batch) for batch in store.batches] == [PAGE]
    assert set(verdicts) == {Revoked(Anchor(Kind.SESSION, "root"), 0)}


async def falsehoods() -> list[bool]:
    return []


@pytest.mark.parametrize(
    "answer_all",
    [
        lambda _: None,
        lambda _: False,
        lambda _: falsehoods(),
        lambda sids: [False] * (len(sids) - 1),
        lambda sids: [False] * (len(sids) + 1),
        lambda sids: [False] * (len(sids) - 1) + [None],
        lambda sids: [0] * len(sids),
        lambda sids: "0" * len(sids),
        lambda sids: bytes(len(sids)),
        lambda sids: dict.fromkeys(sids, False),
        lambda sids: dict.fromkeys(range(len(sids)), False),
        lambda _: {False},
        lambda sids: (False for _ in sids),
    ],
)
async def test_only_one_true_or_false_for_each_id_is_an_answer_to_a_batch(
    answer_all: Callable[[Sequence[str]], Any],
) -> None:
    deny = denied(await guard(BatchStore(lambda _: False, answer_all)).decide(TOKEN_TEXT))

    assert (deny.code, deny.reason) == (Code.REVOCATION_UNAVAILABLE, "store_error")


async def test_a_batch_store_that_raises_lets_nothing_pass_and_the_log_tells_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = True

    def answer_all(sids: Sequence[str]) -> list[bool]:
        if failing:
            raise StoreError("hunter2")
        return [False] * len(sids)

    flaky = guard(BatchStore(lambda _: False, answer_all))
    for state in (True, True, False):
        failing = state
        await flaky.decide(TOKEN_TEXT)

    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == [
        "the revocation store does not answer: tokens are refused (StoreError)",
        "the revocation store answers again",
    ]


async def test_a_page_that_is_not_answered_leaves_what_the_next_one_says() -> None:
    def answer_all(sids: Sequence[str]) -> list[bool]:
        if "session-1" in sids:
            raise StoreError
        return [False] * len(sids)

    questions = [(Anchors((session(number),)), None) for number in range(1, 2 * PAGE + 1)]
    verdicts = await StoreRevocations(BatchStore(lambda _: False, answer_all)).ask(questions)

    assert list(verdicts) == [Unknown("store_error")] * PAGE + [CLEAR] * PAGE


async def test_a_batch_store_that_does_not_come_back_costs_one_bounded_wait(threads: ThreadPoolExecutor) -> None:
    release = threading.Event()

    def answer_all(sids: Sequence[str]) -> list[bool]:
        release.wait()
        return [False] * len(sids)

    store = BatchStore(lambda _: False, answer_all)
    try:
        async with asyncio.timeout(30):
            verdicts = await StoreRevocations(store, timeout_s=0.01).ask(calls(600, ids_each=5))
    finally:
        release.set()

    assert set(verdicts) == {Unknown("store_timeout")}
    threads.shutdown()
    assert len(store.batches) == 1, "nobody waits for the next page, and it is not asked for"


class ByEach(BatchStore):
    """A subclass that knows more, and was written before there were batches."""

    def is_revoked(self, sid: str) -> bool:
        return sid == SESSION


async def test_a_subclass_that_changed_only_the_single_question_is_asked_by_it() -> None:
    store = ByEach(lambda _: False)
    replaced = BatchStore(lambda _: False)
    replaced.is_revoked = lambda sid: sid == SESSION  # type: ignore[method-assign]

    for asked in (store, replaced):
        assert denied(await guard(asked).decide(TOKEN_TEXT)).code == Code.SESSION_REVOKED
        assert asked.batches == []


def test_a_store_that_is_asked_for_batches_with_coroutines_is_refused() -> None:
    class Async(Store):
        async def are_revoked(self, sids: Sequence[str]) -> list[bool]:
            raise NotImplementedError

    with pytest.raises(ConfigurationError):
        guard(Async(lambda _: False))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_is_forked_after_a_store_was_asked_is_answered_by_threads_of_its_own() -> None:
    class Slow(InMemoryRevocationStore):
        blocking = True

    asked = StoreRevocations(Slow())
    question = Anchors((Anchor(Kind.SESSION, "ses_" + "0a" * 16),)), None
    assert list(asyncio.run(asked.ask([question]))) == [CLEAR]

    child = os.fork()
    if child == 0:
        signal.alarm(30)
        os._exit(0 if list(asyncio.run(asked.ask([question]))) == [CLEAR] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
