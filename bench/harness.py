"""Turns, medians, rows. What runs is given as functions that return how long one operation took, in seconds."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

ROUNDS: Final = 31
MICRO: Final = 1e6

Contender = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was measured, and the same by others. Of `unit`; what could not be measured says why."""

    what: str
    unit: str
    ours: float
    peers: Mapping[str, float | str]
    wanted: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the row with its ratios: ours to each peer's."""
        peers = {
            name: {"missing": value} if isinstance(value, str) else {"value": value, "ratio": self.ours / value}
            for name, value in self.peers.items()
        }
        return {"what": self.what, "unit": self.unit, "ours": self.ours, "wanted": self.wanted, "peers": peers}

    def lines(self) -> Iterator[str]:
        """Yield the row as text: ours, and a line for each peer."""
        yield f"{self.what:<58}{_shown(self.ours):>12} {self.unit:<12}{self.wanted}"
        for name, value in self.peers.items():
            if isinstance(value, str):
                yield f"    NOT MEASURED: {name}: {value}"
            else:
                yield f"    {name:<54}{_shown(value):>12} {self.unit:<12}ours is {self.ours / value:.3g} times that"


def race(
    contenders: Mapping[str, Contender], *, rounds: int = ROUNDS, before: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Return each contender's median. They take turns; each round begins with another one, after `before`."""
    names = list(contenders)
    taken_s: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        before()
        first = number % len(names)
        for name in names[first:] + names[:first]:
            taken_s[name].append(contenders[name]())
    return {name: statistics.median(times_s) for name, times_s in taken_s.items()}


def each(operations: int, run: Callable[[], object]) -> Contender:
    """Return what measures `run`, which does that many operations."""

    def measured() -> float:
        began_s = time.perf_counter()
        run()
        return (time.perf_counter() - began_s) / operations

    return measured


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
