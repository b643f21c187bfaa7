"""What does not work for a while: said once, and tried again after longer and longer pauses."""

import logging
import math
from collections.abc import Callable
from typing import Final

from countermand.errors import CountermandError

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
SERVER_CODES: Final = frozenset({
    *("ASK", "BUSY", "BUSYGROUP", "CLUSTERDOWN", "CROSSSLOT", "ERR", "EXECABORT", "LOADING", "MASTERDOWN", "MISCONF"),
    *("MOVED", "NOAUTH", "NOGROUP", "NOPERM", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN", "UNBLOCKED", "UNKILLABLE"),
    *("WRONGPASS", "WRONGTYPE"),
})  # fmt: skip
"""Words with which a Redis server begins an error."""

_log = logging.getLogger(__name__)


def describe(error: BaseException) -> str:
    """Return the type of an error, or of its cause, and a server's code; its text may hold a password or an anchor."""
    cause = error.__cause__ or error
    text = cause.args[0] if cause.args and isinstance(cause.args[0], str) else ""
    code = text.partition(" ")[0]
    return f"{type(cause).__name__} {code}" if code in SERVER_CODES else type(cause).__name__


class Outage:
    """Whether `work`, named in the log, fails at the moment, and when it is to be tried again.

    `clock_s` is a monotonic clock; `random` gives numbers from 0 to 1, to spread the attempts of many replicas.
    """

    def __init__(self, work: str, clock_s: Callable[[], float], random: Callable[[], float]) -> None:
        self._work = work
        self._clock_s = clock_s
        self._random = random
        self._pause_s = 0.0
        self.retry_at_s = math.inf  # as long as it is not on

    @property
    def is_on(self) -> bool:
        """Whether it fails."""
        return self._pause_s > 0

    @property
    def rests(self) -> bool:
        """Whether it fails, and is not to be tried again yet."""
        return self.is_on and self._clock_s() < self.retry_at_s

    def failed(self, error: Exception) -> float:
        """Note a failure; return how long to wait before the next attempt. Only the first of a row is logged."""
        if not self.is_on:
            code = error.code if isinstance(error, CountermandError) else None
            _log.warning("%s fails: %s", self._work, describe(error), extra={"code": code})
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S) or FIRST_PAUSE_S
        pause_s = self._pause_s * (1 + self._random()) / 2
        self.retry_at_s = self._clock_s() + pause_s
        return pause_s

    def over(self, since_s: float = math.inf) -> None:
        """Note that it works; unless it has failed at `since_s` or later, or was to be left alone then."""
        if self.is_on and self.retry_at_s <= since_s:
            _log.info("%s works again", self._work)
            self._pause_s, self.retry_at_s = 0.0, math.inf
