"""A circuit breaker: a server that lets one question wait is not asked by all the others too."""

import threading
from collections.abc import Callable
from typing import Final, TypeVar

from countermand.errors import StoreError

LONG_S: Final = 0.25
"""A failure that took so long is a server that does not answer. What is refused at once is asked again at once."""
PAUSE_S: Final = 1.0

_T = TypeVar("_T")


class CircuitBreaker:
    """Lets at most `places` calls through at once, and after a failure that took long none for PAUSE_S; then one.

    That one has `longest_s` before another may try. Whoever is turned away, or waits so long for a place, gets a
    StoreError. `clock_s` is a monotonic clock in seconds. May be used from any thread.
    """

    def __init__(self, places: int, longest_s: float, clock_s: Callable[[], float]) -> None:
        self._places = threading.BoundedSemaphore(places)
        self._longest_s = longest_s
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._open_until_s: float | None = None

    def call(self, question: Callable[[], _T], *, always: bool = False) -> _T:
        """Return what `question` returns; with `always`, it is asked in a pause too. Raises: what it raises."""
        if not self._places.acquire(timeout=self._longest_s):
            raise StoreError("every connection is in use")
        try:  # who waited for a place does not wait once more for a server that has failed meanwhile
            if self._open_until_s is not None and not always:
                self._try_again()
            return self._timed(question)
        finally:
            self._places.release()

    def _try_again(self) -> None:
        with self._lock:
            until_s, now_s = self._open_until_s, self._clock_s()
            if until_s is not None and now_s < until_s:
                raise StoreError("not asked: it did not answer just now")
            self._open_until_s = now_s + self._longest_s + PAUSE_S

    def _timed(self, question: Callable[[], _T]) -> _T:
        began_s = self._clock_s()
        try:
            answer = question()
        except Exception:
            now_s = self._clock_s()
            self._open_until_s = now_s + PAUSE_S if now_s - began_s >= LONG_S else None
            raise
        self._open_until_s = None
        return answer
