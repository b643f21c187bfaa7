"""An authority in memory: it appends real entries and signs real checkpoints and snapshots with a real key.

Like the repository simulator of python-tuf: a test asks it for true records, then withholds, mixes or forges them.
"""

from copy import copy
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from countermand.log.anchor import Kind, Rev
from countermand.log.chain import Candidate, LogId, genesis
from countermand.log.checkpoint import Checkpoint, Pin
from countermand.log.entry import Entry
from countermand.log.snapshot import make_snapshot
from countermand.log.succession import Succession

NOW_MS: Final = 1_800_000_000_000
LOG_ID: Final = LogId(bytes(range(0xA0, 0xB0)))
OTHER_LOG_ID: Final = LogId(bytes(range(0xB0, 0xC0)))
KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
OTHER_KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(33, 65)))


class Signer:
    """One log, its history so far, and the key that speaks for it."""

    def __init__(self, log_id: LogId = LOG_ID, key: Ed25519PrivateKey = KEY, generation: int = 1) -> None:
        self.log_id = log_id
        self.key = key
        self.generation = generation
        self.base = 0
        """Behind which number this generation began."""
        self.links: list[bytes] = [genesis(log_id, generation)]
        self.candidates: list[Candidate] = []
        self.entries: list[Entry] = []

    @property
    def pin(self) -> Pin:
        return Pin.of(self.log_id, self.key.public_key())

    @property
    def seq(self) -> int:
        return self.base + len(self.candidates)

    def append(
        self,
        kind: Kind,
        id_: str,
        *,
        at_ms: int = NOW_MS,
        reason: str = "",
        issuer: str = "",
        issued_before_ms: int | None = None,
        expires_at_ms: int | None = None,
    ) -> Candidate:
        """Revoke, and return the record as it would travel."""
        entry = Entry(self.generation, self.seq + 1, kind, id_, at_ms, reason, issuer, issued_before_ms, expires_at_ms)
        self.entries.append(entry)
        return self.append_bytes(entry.to_bytes())

    def append_bytes(self, data: bytes) -> Candidate:
        """Chain `data` as it is, whether or not it is an entry."""
        candidate = Candidate(self.seq + 1, self.links[-1], data)
        self.candidates.append(candidate)
        self.links.append(candidate.link)
        return candidate

    def at(self, at_ms: int, seq: int | None = None) -> Checkpoint:
        """Return the unsigned checkpoint of `seq`; None is the head."""
        seq = self.seq if seq is None else seq
        return Checkpoint(self.log_id, Rev(self.generation, seq), self.links[seq - self.base], at_ms)

    def checkpoint(self, at_ms: int = NOW_MS, seq: int | None = None) -> bytes:
        return self.at(at_ms, seq).sign(self.key)

    def snapshot(self, at_ms: int = NOW_MS, seq: int | None = None) -> bytes:
        """Return the signed snapshot of what was in force at `at_ms` and `seq`; None is the head."""
        checkpoint = self.at(at_ms, seq)
        in_force = [
            entry
            for entry in self.entries
            if entry.seq <= checkpoint.rev.seq and (entry.expires_at_ms is None or entry.expires_at_ms > at_ms)
        ]
        return make_snapshot(checkpoint, in_force, self.key)

    def succession(self, seq: int | None = None, at_ms: int = NOW_MS) -> Succession:
        """Return what ends this generation where it is now; the next begins behind `seq`, None for the head."""
        return Succession(self.log_id, Rev(self.generation, self.seq), self.links[-1], seq or self.seq, at_ms)

    def succeeded(self, succession: Succession) -> Self:
        """Return the authority in the generation that `succession` begins. All that was in force before still is."""
        other = copy(self)
        other.generation, other.base = succession.rev.generation, succession.rev.seq
        other.candidates, other.links, other.entries = [], [succession.link], list(self.entries)
        return other

    def fork(self, seq: int) -> Self:
        """Return an authority with the same key and the same history up to `seq`, free to write another one."""
        other = copy(self)
        other.candidates, other.links = self.candidates[:seq], self.links[: seq + 1]
        other.entries = [entry for entry in self.entries if entry.seq <= seq]
        return other
