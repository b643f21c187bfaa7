"""A way on which the ledger is published: what is known of it, whatever connection there is."""

import logging
from dataclasses import dataclass

from countermand.authority.ledger import DAY_MS
from countermand.authority.owed import Owed
from countermand.errors import CountermandError
from countermand.log.ports import Written

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Ends:
    """The first and the last message that the way is asked for, and when they were appended."""

    first: str = ""
    last: str = ""
    first_ms: int = 0
    last_ms: int = 0

    def note(self, appended: Written, now_ms: int) -> None:
        """Take note of what `appended` names."""
        if appended.first != self.first:
            self.first, self.first_ms = appended.first, now_ms
        if appended.last != self.last:
            self.last, self.last_ms = appended.last, now_ms

    def forget(self, now_ms: int) -> None:
        """Ask no more for what is a day old: it will be trimmed."""
        if now_ms - self.first_ms > DAY_MS:
            self.first = ""
        if now_ms - self.last_ms > DAY_MS:
            self.last = ""


class Way:
    """`losses` counts how often something was found to be gone; `error` is the code of what stands in the way now."""

    def __init__(self) -> None:
        self.losses = 0
        self.error: str | None = None
        self.published_seq: int | None = None  # None: nothing yet
        self.ends = Ends()
        self.owed = Owed()

    def works(self, seq: int) -> None:
        """Take note that all up to entry `seq` is published."""
        if self.error is not None:
            _log.warning("the log is published again")
        self.error = None
        self.published_seq = seq

    def lost(self) -> None:
        """Take note that something is gone."""
        self.losses += 1
        self.owed.all_in_force = True
        _log.warning("a part of what was published is gone: a snapshot is laid, and what is in force published again")

    def fails(self, error: CountermandError) -> None:
        """Take note of what stands in the way."""
        if error.code != self.error:
            _log.error("the log is not published: %s", error, extra={"code": error.code})
        self.error = error.code
