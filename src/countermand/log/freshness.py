"""Freshness: how old a replica's knowledge is.

A wall clock may step and a replica may be frozen; so age is the larger of what two clocks say, and starts where the
authority's own word was accepted. Source: docs/protocol.md, "Staleness".
"""

from dataclasses import dataclass, replace
from typing import Final


@dataclass(slots=True, unsafe_hash=True)  # every decision makes one: `frozen` takes over twice as long
class Instant:
    """One reading of two clocks, in milliseconds.

    `wall_ms` is the time since 1970 (UTC); `boot_ms` comes from a clock that never steps and counts suspend.
    """

    wall_ms: Final[int]
    boot_ms: Final[int]


@dataclass(frozen=True, slots=True)
class Freshness:
    """What is known about the authority's time.

    `applied_at_ms` is the `at` of the newest checkpoint that is fully applied, `newest_at_ms` the newest accepted `at`,
    and `seen` when that one came.
    """

    applied_at_ms: int
    newest_at_ms: int
    seen: Instant

    def staleness_ms(self, now: Instant) -> int:
        """Return how old the applied knowledge is at `now`."""
        wall_ms, seen = now.wall_ms, self.seen
        by_wall_ms, by_boot_ms = wall_ms - seen.wall_ms, now.boot_ms - seen.boot_ms
        # asked in every decision, and `max` takes three times as long
        present_ms = self.newest_at_ms + (by_wall_ms if by_wall_ms > by_boot_ms else by_boot_ms)  # noqa: FURB136
        return (present_ms if present_ms > wall_ms else wall_ms) - self.applied_at_ms  # noqa: FURB136

    def with_newest(self, at_ms: int, now: Instant) -> "Freshness":
        """Return this with an accepted checkpoint of `at_ms`, if that is news."""
        return replace(self, newest_at_ms=at_ms, seen=now) if at_ms > self.newest_at_ms else self

    def with_applied(self, at_ms: int) -> "Freshness":
        """Return this with a checkpoint of `at_ms` fully applied."""
        return replace(self, applied_at_ms=max(at_ms, self.applied_at_ms))
