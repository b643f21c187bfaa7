"""A revocation store in this process, for one process: others do not see what it holds.

Memory follows what is live. Every entry stands once in a heap, under a time that is never after its expiry; each mark
looks at a bounded number of those that are due and drops or reschedules them. Marking again therefore adds nothing to
the heap, however often it happens.
Source: the documented `InMemoryRevocationStore`.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from typing import ClassVar, Final

from countermand.errors import StoreFullError
from countermand.stores.contract import DEFAULT_REVOCATION_TTL_MS, check_anchor, check_positive, check_sid

SWEEP_STEPS: Final = 256
"""How many due entries one mark looks at: a fraction of a millisecond, and far more than the one that it adds."""


def monotonic_ms() -> int:
    """Milliseconds since a fixed point, never set back. Linux counts suspended time; elsewhere entries outlast it."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    return time.monotonic_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class _Entry:
    """In force before `expires_ms`. `due_ms` is its time in the heap: never later, and earlier once it was extended."""

    expires_ms: int
    due_ms: int


class InMemoryRevocationStore:
    """A `RevocationStore` of at most `max_entries` live entries; None means no bound.

    At the bound, `mark_revoked` of a new anchor raises StoreFullError: to drop an entry would un-revoke it. `clock_ms`
    is a monotonic clock in milliseconds.

    Raises:
        InvalidValueError: `default_ttl_ms` or `max_entries` is zero or negative.
        TypeError: either is no int.
    """

    blocking: ClassVar[bool] = False

    def __init__(
        self,
        default_ttl_ms: int = DEFAULT_REVOCATION_TTL_MS,
        max_entries: int | None = None,
        *,
        clock_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        check_positive("default_ttl_ms", default_ttl_ms)
        if max_entries is not None:
            check_positive("max_entries", max_entries)
        self._default_ttl_ms = default_ttl_ms
        self._max_entries = max_entries
        self._clock_ms = clock_ms
        self._lock = threading.Lock()
        # Written under the lock alone. An entry's heap item is (due_ms, sid); any other item was left by an entry that
        # an asker dropped, and is due already.
        self._entries: dict[str, _Entry] = {}
        self._heap: list[tuple[int, str]] = []

    def is_revoked(self, sid: str) -> bool:
        """See `RevocationStore.is_revoked`. Drops the entry if its time is up."""
        # No lock: dict.get is one atomic step (by the GIL, or by the dict's own lock where there is no GIL), entries
        # never change once they are made, and the answer is the one that held at that step.
        entry = self._entries.get(sid)
        if entry is None:
            check_sid(sid)
            return False
        now_ms = self._clock_ms()
        return now_ms < entry.expires_ms or self._is_still_revoked(sid, now_ms)

    def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None:
        """See `RevocationStore.mark_revoked`."""
        check_anchor(sid)
        if ttl_ms is None:
            ttl_ms = self._default_ttl_ms
        check_positive("ttl_ms", ttl_ms)
        with self._lock:
            # Read in here: whoever waited for the lock starts the time when it has it, not before.
            now_ms = self._clock_ms()
            self._sweep(now_ms)
            self._put(sid, now_ms + ttl_ms, now_ms)

    def _is_still_revoked(self, sid: str, now_ms: int) -> bool:
        """Drop the entry that was found expired, unless `sid` has been marked again since."""
        with self._lock:
            entry = self._entries.get(sid)
            if entry is not None and now_ms < entry.expires_ms:
                return True
            self._entries.pop(sid, None)
            return False

    def _put(self, sid: str, expires_ms: int, now_ms: int) -> None:
        known = self._entries.get(sid)
        if known is None:
            self._make_room(now_ms)
            heappush(self._heap, (expires_ms, sid))
            self._entries[sid] = _Entry(expires_ms, due_ms=expires_ms)
        elif known.expires_ms < expires_ms:
            self._entries[sid] = _Entry(expires_ms, known.due_ms)

    def _make_room(self, now_ms: int) -> None:
        """Sweep until one more entry fits. Long only where many entries were extended, once for each extension."""
        if self._max_entries is None:
            return
        while len(self._entries) >= self._max_entries:
            if not self._sweep_one(now_ms):
                raise StoreFullError(f"the store holds {self._max_entries} live entries, as many as it may")

    def _sweep(self, now_ms: int) -> None:
        for _ in range(SWEEP_STEPS):
            if not self._sweep_one(now_ms):
                return

    def _sweep_one(self, now_ms: int) -> bool:
        """Drop or reschedule the item due first. False if none is due."""
        if not self._heap or now_ms < self._heap[0][0]:
            return False
        due_ms, sid = self._heap[0]
        entry = self._entries.get(sid)
        if entry is None or entry.due_ms != due_ms:
            heappop(self._heap)
        elif entry.expires_ms <= now_ms:
            heappop(self._heap)
            del self._entries[sid]
        else:
            heapreplace(self._heap, (entry.expires_ms, sid))
            self._entries[sid] = _Entry(entry.expires_ms, due_ms=entry.expires_ms)
        return True
