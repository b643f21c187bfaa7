"""The stores that the contract suite runs against. To add one, write how it is opened and append it to CASES."""

from collections.abc import Callable
from dataclasses import dataclass

from countermand.log.anchor import Kind, kind_of
from countermand.log.freshness import Instant
from countermand.log.state import LogState
from countermand.replica.replica import Replica
from countermand.stores.contract import RevocationStore
from countermand.stores.memory import InMemoryRevocationStore
from tests.signer import Signer


class HeldClock:
    """A monotonic clock in milliseconds that moves when told to."""

    def __init__(self, now_ms: int = 1_000_000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, ms: int) -> None:
        self.now_ms += ms


@dataclass(frozen=True, slots=True)
class Opened:
    """An empty store that can answer, and the way in which an anchor comes to be revoked in it."""

    store: RevocationStore
    revoke: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One implementation. One that is not `writable` is fed another way, and only answers."""

    name: str
    open: Callable[[HeldClock], Opened]
    writable: bool
    blocking: bool

    def __str__(self) -> str:
        return self.name


def open_memory(clock: HeldClock) -> Opened:
    store = InMemoryRevocationStore(clock_ms=clock)
    return Opened(store, store.mark_revoked)


def open_replica(clock: HeldClock) -> Opened:
    """A replica of a real log, which has just heard from its authority."""

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
    return Opened(replica, revoke)


CASES = [
    Case("memory", open_memory, writable=True, blocking=False),
    Case("replica", open_replica, writable=False, blocking=False),
]
WRITABLE = [case for case in CASES if case.writable]
READ_ONLY = [case for case in CASES if not case.writable]
