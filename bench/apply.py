"""Entries applied a second: proven against a signed checkpoint, parsed, and in force."""

import hashlib
import time

from bench.harness import Row, race
from bench.log import BATCH, ENTRIES, BenchLog, Part
from countermand.log.entry import Entry


class _Turn:
    """One part of the log, and what each contender does with it."""

    def __init__(self, log: BenchLog) -> None:
        self._log = log
        self._parts = log.parts()
        self._part = Part([], b"")
        self._held: dict[bytes, int] = {}
        self._keys: list[bytes] = []

    def begin(self) -> None:
        self._part = next(self._parts)
        self._keys = [Entry.parse(candidate.entry).key for candidate in self._part.candidates]
        self._log.keys.update(self._keys)

    def apply(self) -> float:
        began_s = time.perf_counter()
        self._log.apply(self._part)
        return time.perf_counter() - began_s

    def hash(self) -> float:
        began_s = time.perf_counter()
        for candidate in self._part.candidates:
            hashlib.sha256(candidate.entry).digest()
        return time.perf_counter() - began_s

    def insert(self) -> float:
        held = self._held
        began_s = time.perf_counter()
        for seq, key in enumerate(self._keys):
            held[key] = seq
        return time.perf_counter() - began_s


def measure(log: BenchLog) -> list[Row]:
    """Fill the replica of `log`, and return what that cost."""
    turn = _Turn(log)
    contenders = {
        "ours": turn.apply,
        "SHA-256 of the same bytes": turn.hash,
        "insertion into a dictionary": turn.insert,
    }
    medians_s = race(contenders, rounds=ENTRIES // BATCH, before=turn.begin)
    per_s = {name: BATCH / median_s for name, median_s in medians_s.items()}
    return [Row("entries applied", "a second", per_s.pop("ours"), per_s, "150,000 wanted")]
