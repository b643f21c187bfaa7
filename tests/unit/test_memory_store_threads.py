"""What the in-memory store promises to many threads at once."""

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from countermand.errors import StoreFullError
from countermand.stores.memory import InMemoryRevocationStore
from tests.contract.stores import HeldClock

THREADS = 8
T = TypeVar("T")


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


def held(store: InMemoryRevocationStore) -> tuple[int, int]:
    """How many entries the store holds in memory, live or not, and how many items its heap has."""
    return len(store._entries), len(store._heap)


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def in_threads(work: Callable[[int], T]) -> list[T]:
    """Start `work(0)` … `work(7)` at once and return their results; raises what any of them raised."""
    start = threading.Barrier(THREADS, timeout=10)

    def run(n: int) -> T:
        start.wait()
        return work(n)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS), timeout=60))


def test_every_mark_of_every_thread_counts_at_once(restless: None, clock: HeldClock) -> None:
    store = InMemoryRevocationStore(clock_ms=clock)

    def mark_and_ask(thread: int) -> None:
        for n in range(2000):
            store.mark_revoked(f"{thread}-{n}")
            assert store.is_revoked(f"{thread}-{n}")

    in_threads(mark_and_ask)

    assert held(store) == (THREADS * 2000, THREADS * 2000)
    assert all(store.is_revoked(f"{thread}-{n}") for thread in range(THREADS) for n in range(2000))


def test_threads_that_mark_one_anchor_leave_it_the_longest_ttl(restless: None, clock: HeldClock) -> None:
    store = InMemoryRevocationStore(clock_ms=clock)
    longest_ttl_ms = 2000 * THREADS

    def mark(thread: int) -> None:
        for n in range(2000):
            store.mark_revoked("a", 1 + n * THREADS + thread)

    in_threads(mark)

    clock.advance(longest_ttl_ms - 1)
    assert store.is_revoked("a")
    clock.advance(1)
    assert not store.is_revoked("a")


def test_threads_together_never_pass_the_bound(restless: None, clock: HeldClock) -> None:
    store = InMemoryRevocationStore(max_entries=1000, clock_ms=clock)

    def mark(thread: int) -> int:
        refused = 0
        for n in range(1000):
            try:
                store.mark_revoked(f"{thread}-{n}")
            except StoreFullError:
                refused += 1
        return refused

    assert sum(in_threads(mark)) == THREADS * 1000 - 1000
    assert held(store) == (1000, 1000)


def test_while_entries_expire_are_asked_about_and_come_back_no_live_one_is_lost(restless: None) -> None:
    # Every reading of the clock is a millisecond later, so entries expire between any two steps of any thread.
    ticks = iter(range(10**9))
    lock = threading.Lock()

    def ticking() -> int:
        with lock:
            return next(ticks)

    store = InMemoryRevocationStore(clock_ms=ticking)

    def churn(thread: int) -> None:
        for n in range(1000):
            store.mark_revoked(f"short-{n % 7}", 5)
            store.is_revoked(f"short-{(n + thread) % 7}")
            store.mark_revoked(f"long-{n % 50}", 10**9)
            assert store.is_revoked(f"long-{n % 50}")

    in_threads(churn)

    assert all(store.is_revoked(f"long-{n}") for n in range(50))
    assert max(held(store)) <= 50 + 7


def test_an_anchor_marked_again_just_after_it_was_found_expired_stays_revoked() -> None:
    clock = HeldClock()
    interrupt: list[Callable[[], None]] = []

    def clock_with_an_interruption() -> int:
        now_ms = clock()
        if interrupt:
            interrupt.pop()()
        return now_ms

    store = InMemoryRevocationStore(clock_ms=clock_with_an_interruption)
    store.mark_revoked("a", 1000)
    clock.advance(1000)
    # is_revoked has found the entry and asks for the time, when another thread marks the anchor again.
    interrupt.append(lambda: store.mark_revoked("a", 1000))

    assert store.is_revoked("a")
    assert store.is_revoked("a")


def test_asking_does_not_wait_for_a_thread_that_marks() -> None:
    marking, asked = threading.Event(), threading.Event()

    def clock_ms() -> int:
        if threading.current_thread() is marker:
            marking.set()
            assert asked.wait(10)
        return 0

    store = InMemoryRevocationStore(clock_ms=clock_ms)
    marker = threading.Thread(target=store.mark_revoked, args=("b",))
    store.mark_revoked("a")
    marker.start()
    assert marking.wait(10)

    answers: list[bool] = []
    asker = threading.Thread(target=lambda: answers.extend(store.is_revoked(sid) for sid in "abc"), daemon=True)
    asker.start()
    asker.join(5)
    asked.set()
    marker.join(10)

    assert answers == [True, False, False]
    assert store.is_revoked("b")
