"""The stores that the contract suite runs against. To add one, write how it is opened and append it to CASES."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import pytest
import redis

from countermand.log.anchor import Kind, kind_of
from countermand.log.freshness import Instant
from countermand.log.state import LogState
from countermand.replica.replica import Replica
from countermand.stores.contract import RevocationStore
from countermand.stores.memory import InMemoryRevocationStore
from countermand.stores.redis import DEFAULT_KEY_PREFIX, RedisRevocationStore
from countermand.stores.static import StaticRevocationStore
from tests.redis_server import RedisServer
from tests.signer import Signer

DEADLINE_S: Final = 20.0
"""For what takes milliseconds, on a machine that does something else."""
DAY_MS: Final = 86_400_000


class HeldClock:
    """A monotonic clock in milliseconds that moves when told to."""

    def __init__(self, now_ms: int = 1_000_000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, ms: int) -> None:
        self.now_ms += ms


class Time(Protocol):
    """The time by which one store's entries expire."""

    short_ms: int
    """Long enough to ask in between, and short enough to be waited for."""

    def pass_(self, ms: int) -> None:
        """Let `ms` go by, of which there are few if it is real time."""
        ...

    def ends_after(self, sid: str, ms: int) -> None:
        """Fail unless the entry of `sid` stands for `ms` from now and not longer. A short time is over afterwards."""
        ...

    def end(self, sid: str) -> None:
        """Wait for the end of a short entry of `sid`, without asking the store."""
        ...


class HeldTime:
    """The time of a store that reads a held clock."""

    short_ms = 1000

    def __init__(self, clock: HeldClock, store: RevocationStore) -> None:
        self._clock = clock
        self._store = store

    def pass_(self, ms: int) -> None:
        self._clock.advance(ms)

    def ends_after(self, sid: str, ms: int) -> None:
        assert self._store.is_revoked(sid) is True
        self._clock.advance(ms - 1)
        assert self._store.is_revoked(sid) is True
        self._clock.advance(1)
        assert self._store.is_revoked(sid) is False

    def end(self, sid: str) -> None:
        del sid
        self._clock.advance(5 * self.short_ms)


class RedisTime:
    """The time of a real server. It is asked how long an entry will stand; short ones are seen to end, no sooner."""

    short_ms = 60

    def __init__(self, client: "redis.Redis", store: RevocationStore) -> None:
        self._client = client
        self._store = store
        self._opened_s = time.monotonic()

    def pass_(self, ms: int) -> None:
        time.sleep(ms / 1000)

    def ends_after(self, sid: str, ms: int) -> None:
        before_s = time.monotonic()
        left_ms = self._left_ms(sid)
        if left_ms == -2:
            assert (before_s - self._opened_s) * 1000 >= ms, "it has ended before its time"
        else:
            assert ms - DEADLINE_S * 1000 <= left_ms <= ms
        if ms <= self.short_ms:
            self._ends(sid, before_s + left_ms / 1000)

    def end(self, sid: str) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while self._left_ms(sid) != -2:
            assert time.monotonic() < deadline_s, "the entry does not end"

    def _left_ms(self, sid: str) -> int:
        return int(self._client.pttl(DEFAULT_KEY_PREFIX + sid))

    def _ends(self, sid: str, not_before_s: float) -> None:
        while self._store.is_revoked(sid):
            assert time.monotonic() < not_before_s + DEADLINE_S, "the entry does not end"
        assert time.monotonic() > not_before_s - 0.001, "it has ended before its time"


@dataclass(frozen=True, slots=True)
class Opened:
    """An empty store that can answer, the way in which an anchor comes to be revoked in it, and its time."""

    store: RevocationStore
    revoke: Callable[[str], None]
    time: Time


@dataclass(frozen=True, slots=True)
class Case:
    """One implementation. One that is not `writable` is fed another way, and only answers."""

    name: str
    open: Callable[[pytest.FixtureRequest], Opened]
    writable: bool
    blocking: bool
    batches: bool = False

    def __str__(self) -> str:
        return self.name


def open_memory(_request: pytest.FixtureRequest) -> Opened:
    clock = HeldClock()
    store = InMemoryRevocationStore(clock_ms=clock)
    return Opened(store, store.mark_revoked, HeldTime(clock, store))


def open_redis(request: pytest.FixtureRequest) -> Opened:
    """A server that the module shares, emptied."""
    server: RedisServer = request.getfixturevalue("redis_server")
    client = server.client()
    request.addfinalizer(client.close)
    client.flushall()
    store = RedisRevocationStore(client)
    return Opened(store, store.mark_revoked, RedisTime(client, store))


def open_static(request: pytest.FixtureRequest) -> Opened:
    """A list in a file, which whoever revokes writes anew beside it."""
    clock = HeldClock()
    path: Path = request.getfixturevalue("tmp_path") / "revoked"
    path.write_text("# nothing yet\n")

    def revoke(sid: str) -> None:
        new = path.with_suffix(".new")
        new.write_text(path.read_text() + sid + "\n")
        new.replace(path)
        clock.advance(1000)

    store = StaticRevocationStore.from_file(path, clock_s=lambda: clock() / 1000, wall_s=lambda: math.inf)
    return Opened(store, revoke, HeldTime(clock, store))


def open_replica(_request: pytest.FixtureRequest) -> Opened:
    """A replica of a real log, which has just heard from its authority."""
    clock = HeldClock()

    def now() -> Instant:
        return Instant(clock(), clock())

    def revoke(sid: str) -> None:
        state.add(signer.append(kind_of(sid) or Kind.SESSION, sid, at_ms=clock()))
        hear()

    def hear() -> None:
        state.accept(signer.checkpoint(clock()), now())
        state.advance()

    signer = Signer()
    state = LogState(signer.pin)
    replica = Replica(state, now, local=True)
    hear()
    return Opened(replica, revoke, HeldTime(clock, replica))


CASES = [
    Case("memory", open_memory, writable=True, blocking=False),
    Case("redis", open_redis, writable=True, blocking=True, batches=True),
    Case("static", open_static, writable=False, blocking=False),
    Case("replica", open_replica, writable=False, blocking=False),
]
WRITABLE = [case for case in CASES if case.writable]
BATCHING = [case for case in CASES if case.batches]
READ_ONLY = [case for case in CASES if not case.writable]
