"""A log of revocations as it would travel, what follows it, and tokens that none of them reaches."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from countermand.log.anchor import Anchor, Anchors, Kind, Rev, own_id
from countermand.log.chain import Candidate, LogId, genesis, next_link
from countermand.log.checkpoint import Checkpoint, Pin
from countermand.log.entry import Entry
from countermand.log.snapshot import make_snapshot
from countermand.log.state import LogState
from countermand.replica.replica import Replica
from countermand.wiring import system_clock

ENTRIES: Final = 1_000_000
BATCH: Final = 1_000
DAY_MS: Final = 86_400_000
LOG_ID: Final = LogId(bytes(16))
KINDS: Final = (Kind.SESSION, Kind.AGENT, Kind.DELEGATION, Kind.GRANT)

_random = random.Random(1)  # noqa: S311 - the same ids in every run


@dataclass(frozen=True, slots=True)
class Part:
    """Some entries in a row, and the checkpoint that covers them."""

    candidates: list[Candidate]
    checkpoint: bytes


class BenchLog:
    """An authority's log, and a replica of it. Entries expire over a day, as a day of revocations would."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self._seq = 0
        self._link = genesis(LOG_ID, 1)
        self.keys: set[bytes] = set()
        """What the replica holds, for those who would hold no more than a set."""
        self.state = LogState(Pin.of(LOG_ID, self._key.public_key()))
        self.replica = Replica(self.state, system_clock, local=True)  # local: ready with the first checkpoint

    def parts(self) -> Iterator[Part]:
        """Yield ENTRIES entries, BATCH at a time."""
        for _ in range(ENTRIES // BATCH):
            yield self.part(BATCH)

    def part(self, size: int) -> Part:
        """Append `size` entries."""
        return Part([self._append(kind, new_id(kind)) for kind in islice(cycle(KINDS), size)], self._checkpoint())

    def apply(self, part: Part) -> None:
        """Apply one part to the replica."""
        for candidate in part.candidates:
            self.state.add(candidate)
        self.state.accept(part.checkpoint, system_clock())
        while self.state.advance():
            pass

    def heartbeat(self) -> None:
        """Let the replica hear a checkpoint: it refuses what it has not heard of for half a minute."""
        self.apply(Part([], self._checkpoint()))

    def cut_off(self, target: str) -> None:
        """Apply a cutoff as of now."""
        self.apply(Part([self._append(Kind.CUTOFF, target)], self._checkpoint()))

    def snapshot(self, size: int) -> bytes:
        """Return a snapshot of `size` entries, with which the log begins: nobody has the chain below it."""
        entries = [self._entry(kind, new_id(kind)) for kind in islice(cycle(KINDS), size)]
        return make_snapshot(self._head(), entries, self._key)

    def _append(self, kind: Kind, id_: str) -> Candidate:
        data = self._entry(kind, id_).to_bytes()
        candidate = Candidate(self._seq, self._link, data)
        self._link = next_link(self._link, data)
        return candidate

    def _entry(self, kind: Kind, id_: str) -> Entry:
        self._seq += 1
        now_ms = time.time_ns() // 1_000_000
        expires_at_ms = now_ms + DAY_MS + DAY_MS * self._seq // ENTRIES
        return Entry(1, self._seq, kind, id_, now_ms, "signed out", expires_at_ms=expires_at_ms)

    def _head(self) -> Checkpoint:
        return Checkpoint(LOG_ID, Rev(1, self._seq), self._link, time.time_ns() // 1_000_000)

    def _checkpoint(self) -> bytes:
        return self._head().sign(self._key)


def new_id(kind: Kind) -> str:
    """Return an id that nobody had before."""
    return own_id(kind, _random.randbytes(16))


def new_anchors(count: int) -> Anchors:
    """Return what a token with `count` anchors would be revoked by."""
    path = [Anchor(kind, new_id(kind)) for kind in (KINDS[number % len(KINDS)] for number in range(count))]
    return Anchors(tuple(path), time.time(), Rev(1, 1))
