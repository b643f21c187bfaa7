"""A circuit breaker: who waits for a server that does not answer, and who need not."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from countermand.errors import StoreError
from countermand.stores.breaker import LONG_S, PAUSE_S, CircuitBreaker
from tests.unit.redis_clients import HeldClock

LONGEST_S = 4.0
DEADLINE_S = 20.0


class Question:
    """It takes `takes_s` by `clock`, and fails as long as `failure` says so. It counts how often it was asked."""

    def __init__(self, clock: HeldClock) -> None:
        self.clock = clock
        self.takes_s = 0.0
        self.failure: BaseException | None = None
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        self.clock.now_s += self.takes_s
        if self.failure is not None:
            raise self.failure
        return "an answer"


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def question(clock: HeldClock) -> Question:
    return Question(clock)


@pytest.fixture
def breaker(clock: HeldClock) -> CircuitBreaker:
    return CircuitBreaker(8, LONGEST_S, clock)


def fail(breaker: CircuitBreaker, question: Question, takes_s: float = LONG_S) -> None:
    """Have it asked, and fail."""
    question.takes_s, question.failure = takes_s, TimeoutError()
    with pytest.raises(TimeoutError):
        breaker.call(question)


def recover(question: Question) -> None:
    question.takes_s, question.failure = 0.0, None


def is_turned_away(breaker: CircuitBreaker, question: Callable[[], str]) -> bool:
    try:
        breaker.call(question)
    except StoreError:
        return True
    return False


def test_it_gives_the_answer_however_long_that_took(breaker: CircuitBreaker, question: Question) -> None:
    question.takes_s = 10 * LONG_S

    assert [breaker.call(question) for _ in range(3)] == ["an answer"] * 3


def test_after_a_long_wait_nobody_asks_for_a_while_and_then_one(
    breaker: CircuitBreaker, question: Question, clock: HeldClock
) -> None:
    fail(breaker, question)

    assert all(is_turned_away(breaker, question) for _ in range(5))
    clock.now_s += 0.99 * PAUSE_S
    assert is_turned_away(breaker, question)
    assert question.asked == 1

    clock.now_s += 0.01 * PAUSE_S
    fail(breaker, question)
    assert is_turned_away(breaker, question)


def test_an_answer_ends_it(breaker: CircuitBreaker, question: Question, clock: HeldClock) -> None:
    fail(breaker, question)
    clock.now_s += PAUSE_S
    recover(question)

    assert not any(is_turned_away(breaker, question) for _ in range(5))


@pytest.mark.parametrize("before_s", [0, LONG_S], ids=["at first", "after a pause"])
def test_a_quick_failure_turns_nobody_away(
    breaker: CircuitBreaker, question: Question, clock: HeldClock, before_s: float
) -> None:
    fail(breaker, question, before_s)
    clock.now_s += PAUSE_S

    for _ in range(5):
        fail(breaker, question, 0.9 * LONG_S)


def test_who_must_asks_in_a_pause_too_and_its_answer_ends_it(breaker: CircuitBreaker, question: Question) -> None:
    fail(breaker, question)

    with pytest.raises(TimeoutError):
        breaker.call(question, always=True)
    assert is_turned_away(breaker, question)

    recover(question)
    assert breaker.call(question, always=True) == "an answer"
    assert not is_turned_away(breaker, question)


@contextmanager
def held(breaker: CircuitBreaker, count: int = 1) -> Iterator[None]:
    """Have `count` questions wait for an answer."""
    release = threading.Event()
    waiting = threading.Barrier(count + 1, timeout=DEADLINE_S)

    def wait() -> None:
        waiting.wait()
        assert release.wait(DEADLINE_S)

    with ThreadPoolExecutor(count) as pool:
        calls = [pool.submit(breaker.call, wait) for _ in range(count)]
        waiting.wait()
        yield
        release.set()
    for call in calls:
        call.result()


def test_while_one_tries_again_the_others_do_not_wait(
    breaker: CircuitBreaker, question: Question, clock: HeldClock
) -> None:
    fail(breaker, question)
    recover(question)
    clock.now_s += PAUSE_S

    with held(breaker):
        assert all(is_turned_away(breaker, question) for _ in range(5))
    assert not is_turned_away(breaker, question)


def test_of_many_who_come_when_it_is_over_one_tries_again(question: Question, clock: HeldClock) -> None:
    def slowly() -> float:
        time.sleep(0.002)  # other threads run meanwhile
        return clock.now_s

    breaker = CircuitBreaker(8, LONGEST_S, slowly)
    fail(breaker, question)
    clock.now_s += PAUSE_S
    start = threading.Barrier(8, timeout=DEADLINE_S)
    all_have_come = threading.Barrier(8, timeout=DEADLINE_S)

    def wait() -> str:
        all_have_come.wait()
        return "an answer"

    def come(_number: int) -> bool:
        start.wait()
        turned_away = is_turned_away(breaker, wait)
        if turned_away:
            all_have_come.wait()
        return turned_away

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(come, range(8))) == [False] + [True] * 7


def test_one_who_tries_and_never_comes_back_is_not_waited_for(
    breaker: CircuitBreaker, question: Question, clock: HeldClock
) -> None:
    fail(breaker, question)
    clock.now_s += PAUSE_S
    question.failure = SystemExit()
    with pytest.raises(SystemExit):
        breaker.call(question)
    recover(question)

    assert is_turned_away(breaker, question)
    clock.now_s += LONGEST_S + PAUSE_S
    assert not is_turned_away(breaker, question)


def test_there_are_so_many_places_and_who_finds_none_waits_for_one(question: Question, clock: HeldClock) -> None:
    breaker = CircuitBreaker(2, 0.05, clock)

    with held(breaker, 2):
        assert is_turned_away(breaker, question)
    assert [breaker.call(question) for _ in range(5)] == ["an answer"] * 5

    breaker = CircuitBreaker(2, DEADLINE_S, clock)
    with ThreadPoolExecutor(1) as pool, held(breaker, 2):
        answer = pool.submit(breaker.call, question)
    assert answer.result(DEADLINE_S) == "an answer"
