"""What the in-memory store promises beyond the contract, to one caller at a time."""

import inspect
import time
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from countermand.errors import InvalidValueError, StoreFullError
from countermand.stores import memory
from countermand.stores.contract import RevocationStore, is_blocking
from countermand.stores.memory import InMemoryRevocationStore, monotonic_ms
from tests.contract.stores import HeldClock


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


def held(store: InMemoryRevocationStore) -> tuple[int, int]:
    """How many entries the store holds in memory, live or not, and how many items its heap has."""
    return len(store._entries), len(store._heap)


# Names and defaults


def test_the_documented_signatures_stand() -> None:
    assert str(inspect.signature(RevocationStore.is_revoked)) == "(self, sid: str) -> bool"
    assert str(inspect.signature(RevocationStore.mark_revoked)) == "(self, sid: str, ttl_ms: int | None = None) -> None"
    for name in ("is_revoked", "mark_revoked"):
        ours, documented = (getattr(owner, name) for owner in (InMemoryRevocationStore, RevocationStore))
        assert inspect.signature(ours) == inspect.signature(documented)


def test_the_constructor_takes_the_documented_options_in_order_and_a_clock_by_name_only() -> None:
    parameters = inspect.signature(InMemoryRevocationStore).parameters.values()

    assert [(p.name, p.default, p.kind.name) for p in parameters] == [
        ("default_ttl_ms", 86_400_000, "POSITIONAL_OR_KEYWORD"),
        ("max_entries", None, "POSITIONAL_OR_KEYWORD"),
        ("clock_ms", monotonic_ms, "KEYWORD_ONLY"),
    ]


def test_a_store_that_does_not_say_is_taken_to_block() -> None:
    class Silent:
        pass

    class Quick:
        blocking: ClassVar[bool] = False

    class Wrapper:
        def __getattr__(self, name: str) -> object:
            return getattr(Quick(), name)

    class Odd:
        blocking = 0

    assert is_blocking(Silent())
    assert not is_blocking(Quick())
    assert is_blocking(Wrapper())
    assert is_blocking(Odd())
    assert not is_blocking(InMemoryRevocationStore())


# Configuration


@pytest.mark.parametrize("number", [0, -1])
def test_a_default_or_a_bound_of_zero_or_less_is_refused(number: int) -> None:
    with pytest.raises(InvalidValueError, match="default_ttl_ms"):
        InMemoryRevocationStore(default_ttl_ms=number)
    with pytest.raises(InvalidValueError, match="max_entries"):
        InMemoryRevocationStore(max_entries=number)


@pytest.mark.parametrize("number", [True, 1.5, "1"], ids=repr)
def test_a_default_or_a_bound_that_is_no_int_is_refused(number: Any) -> None:
    with pytest.raises(TypeError, match="default_ttl_ms"):
        InMemoryRevocationStore(default_ttl_ms=number)
    with pytest.raises(TypeError, match="max_entries"):
        InMemoryRevocationStore(max_entries=number)


def test_no_default_is_a_type_error() -> None:
    nothing: Any = None
    with pytest.raises(TypeError):
        InMemoryRevocationStore(default_ttl_ms=nothing)


def test_a_refused_value_is_a_value_error_to_those_who_know_only_the_documents() -> None:
    with pytest.raises(ValueError, match="not empty"):
        InMemoryRevocationStore().mark_revoked("")


def test_an_entry_without_a_ttl_gets_the_default_of_its_store(clock: HeldClock) -> None:
    store = InMemoryRevocationStore(5000, clock_ms=clock)
    store.mark_revoked("a")

    clock.advance(4999)
    assert store.is_revoked("a")
    clock.advance(1)
    assert not store.is_revoked("a")


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that counts suspended time")
def test_the_real_clock_counts_suspended_time() -> None:
    before, now, after = (
        time.clock_gettime(time.CLOCK_BOOTTIME),
        monotonic_ms(),
        time.clock_gettime(time.CLOCK_BOOTTIME),
    )

    assert int(before * 1000) - 1 <= now <= after * 1000 + 1


def test_with_the_real_clock_an_entry_is_in_force_at_once() -> None:
    store = InMemoryRevocationStore()
    store.mark_revoked("a")

    assert store.is_revoked("a")


# Memory follows what is live


def test_expired_entries_are_swept_by_later_marks_of_other_anchors(clock: HeldClock) -> None:
    store = InMemoryRevocationStore(clock_ms=clock)
    for n in range(100_000):
        store.mark_revoked(f"short-{n}", 1000)
    clock.advance(1000)

    store.mark_revoked("long-0")
    assert held(store)[0] <= 100_000 + 1 - memory.SWEEP_STEPS
    for n in range(1, 100_000 // memory.SWEEP_STEPS + 1):
        store.mark_revoked(f"long-{n}")

    assert held(store) == (391, 391)
    assert all(store.is_revoked(f"long-{n}") for n in range(391))


def test_one_mark_sweeps_a_bounded_number_of_entries(clock: HeldClock) -> None:
    store = InMemoryRevocationStore(clock_ms=clock)
    for n in range(10_000):
        store.mark_revoked(f"short-{n}", 1000)
    clock.advance(1000)

    store.mark_revoked("one more")

    assert held(store)[0] == 10_001 - memory.SWEEP_STEPS


def test_an_expired_entry_is_dropped_when_it_is_asked_about(clock: HeldClock) -> None:
    store = InMemoryRevocationStore(clock_ms=clock)
    store.mark_revoked("a", 1000)
    store.mark_revoked("b", 1000)
    clock.advance(1000)

    assert not store.is_revoked("a")

    assert set(store._entries) == {"b"}


def test_a_steady_stream_of_marks_holds_no_more_than_what_is_live(clock: HeldClock) -> None:
    store = InMemoryRevocationStore(default_ttl_ms=100, clock_ms=clock)

    for n in range(20_000):
        store.mark_revoked(f"a-{n}")
        clock.advance(1)
        assert max(held(store)) <= 101


def test_marking_one_anchor_over_and_over_takes_no_memory(clock: HeldClock) -> None:
    store = InMemoryRevocationStore(clock_ms=clock)

    for _ in range(10_000):
        store.mark_revoked("a")
        clock.advance(1)

    assert held(store) == (1, 1)


def test_dropping_and_marking_one_anchor_over_and_over_takes_no_memory(clock: HeldClock) -> None:
    store = InMemoryRevocationStore(clock_ms=clock)

    for _ in range(10_000):
        store.mark_revoked("a", 10)
        clock.advance(10)
        assert not store.is_revoked("a")

    assert max(held(store)) <= 1


# The bound


def test_at_the_bound_a_new_anchor_is_refused_and_nothing_is_evicted(clock: HeldClock) -> None:
    store = InMemoryRevocationStore(max_entries=2, clock_ms=clock)
    store.mark_revoked("a")
    store.mark_revoked("b")

    with pytest.raises(StoreFullError):
        store.mark_revoked("c")

    assert [store.is_revoked(sid) for sid in "abc"] == [True, True, False]


def test_at_the_bound_a_present_anchor_can_be_extended(clock: HeldClock) -> None:
    store = InMemoryRevocationStore(max_entries=2, clock_ms=clock)
    store.mark_revoked("a", 1000)
    store.mark_revoked("b", 1000)
    store.mark_revoked("a", 2000)

    clock.advance(1999)

    assert [store.is_revoked(sid) for sid in "ab"] == [True, False]


def test_only_live_entries_count_towards_the_bound(clock: HeldClock) -> None:
    store = InMemoryRevocationStore(max_entries=3, clock_ms=clock)
    store.mark_revoked("a", 1000)
    store.mark_revoked("b", 3000)
    store.mark_revoked("c", 2000)
    clock.advance(1000)

    store.mark_revoked("d")
    with pytest.raises(StoreFullError):
        store.mark_revoked("e")

    assert [store.is_revoked(sid) for sid in "abcde"] == [False, True, True, True, False]


def test_an_expired_entry_behind_more_extended_ones_than_one_sweep_sees_still_makes_room(clock: HeldClock) -> None:
    extended = 3 * memory.SWEEP_STEPS
    store = InMemoryRevocationStore(max_entries=extended + 1, clock_ms=clock)
    for n in range(extended):
        store.mark_revoked(f"extended-{n}", 1000)
        store.mark_revoked(f"extended-{n}", 9000)
    store.mark_revoked("expires", 1001)
    clock.advance(1001)

    store.mark_revoked("new")

    assert store.is_revoked("new")
    assert all(store.is_revoked(f"extended-{n}") for n in range(extended))
    with pytest.raises(StoreFullError):
        store.mark_revoked("one too many")


# Against a plain model

BOUND = 4
SIDS = st.sampled_from(["a", "b", "c", "d", "e", "f"])


class Model(RuleBasedStateMachine):
    """The store, and beside it a dict of expiries that is never swept."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = HeldClock()
        self.store = InMemoryRevocationStore(max_entries=BOUND, clock_ms=self.clock)
        self.expiries: dict[str, int] = {}

    def live(self) -> set[str]:
        return {sid for sid, expires_ms in self.expiries.items() if self.clock.now_ms < expires_ms}

    @rule(sid=SIDS, ttl_ms=st.integers(1, 50))
    def mark(self, sid: str, ttl_ms: int) -> None:
        live = self.live()
        if sid not in live and len(live) == BOUND:
            with pytest.raises(StoreFullError):
                self.store.mark_revoked(sid, ttl_ms)
            return
        self.store.mark_revoked(sid, ttl_ms)
        self.expiries[sid] = max(self.expiries.get(sid, 0), self.clock.now_ms + ttl_ms)

    @rule(ms=st.integers(1, 30))
    def wait(self, ms: int) -> None:
        self.clock.advance(ms)

    @rule(sid=SIDS)
    def ask(self, sid: str) -> None:
        assert self.store.is_revoked(sid) is (sid in self.live())

    @precondition(lambda self: self.live())
    @rule()
    def wait_until_the_next_expiry(self) -> None:
        self.clock.now_ms = min(self.expiries[sid] for sid in self.live())

    @invariant()
    def holds_every_live_entry_and_no_more_than_the_bound(self) -> None:
        assert self.live() <= set(self.store._entries)
        assert len(self.store._entries) <= BOUND

    @invariant()
    def every_entry_stands_in_the_heap_in_time(self) -> None:
        for sid, entry in self.store._entries.items():
            assert entry.due_ms <= entry.expires_ms
            assert self.store._heap.count((entry.due_ms, sid)) == 1

    @invariant()
    def whatever_else_is_in_the_heap_is_due(self) -> None:
        entries = {(entry.due_ms, sid) for sid, entry in self.store._entries.items()}
        assert all(item in entries or item[0] <= self.clock.now_ms for item in self.store._heap)


@pytest.mark.parametrize("sweep_steps", [0, 1, 256])
def test_however_far_the_sweep_lags_it_answers_like_a_plain_table(
    monkeypatch: pytest.MonkeyPatch, sweep_steps: int
) -> None:
    monkeypatch.setattr(memory, "SWEEP_STEPS", sweep_steps)

    run_state_machine_as_test(Model, settings=settings(max_examples=100, stateful_step_count=40, deadline=None))
