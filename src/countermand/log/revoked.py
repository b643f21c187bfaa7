"""What is revoked, held so that asking costs one pass over a token's keys.

Nothing here is verified: `state` is the only writer. Entries are forgotten by the authority's time alone, and expiry is
kept in whole hours, rounded up: forgetting late is safe, and a few hundred hours keep a million entries small.
Source: docs/protocol.md, "Forgetting" and "Cutoffs".
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from countermand.log.anchor import Anchors, Kind, Rev, anchor_key
from countermand.log.entry import Entry
from countermand.log.verdict import Revoked

HOUR_MS: Final = 3_600_000
NEVER: Final = 2**24 - 1
"""The hour that does not come (it would be in the year 3883)."""

_CUTOFF = Kind.CUTOFF
_NO_REV = Rev(0, 0)
_NOTHING: Final[Mapping[bytes, int]] = {}


def expiry_hour(expires_at_ms: int | None) -> int:
    """Return the hour since 1970, rounded up, after which an entry may be forgotten; NEVER for None."""
    if expires_at_ms is None:
        return NEVER
    hour = -(-expires_at_ms // HOUR_MS)
    return hour if hour < NEVER else NEVER  # noqa: FURB136 - asked for each entry, and `min` takes three times as long


@dataclass(frozen=True, slots=True)
class Cutoff:
    """All cutoffs for one target, as one: the maximum of each bound.

    `rev` ends mandates minted before that ledger position, `rev_at_ms` tokens without a position issued up to then;
    `before_ms` ends any token issued up to then. Times are milliseconds since 1970, 0 where there is no such bound.
    """

    rev: Rev = _NO_REV
    rev_at_ms: int = 0
    before_ms: int = 0
    before_seq: int = 0
    hour: int = 0

    @classmethod
    def of(cls, rev: Rev, at_ms: int, issued_before_ms: int | None, hour: int) -> "Cutoff":
        """Return one entry's cutoff."""
        if issued_before_ms is None:
            return cls(rev=rev, rev_at_ms=at_ms, hour=hour)
        return cls(before_ms=issued_before_ms, before_seq=rev.seq, hour=hour)

    def __or__(self, other: "Cutoff") -> "Cutoff":
        before = max((self.before_ms, self.before_seq), (other.before_ms, other.before_seq))
        return Cutoff(
            max(self.rev, other.rev), max(self.rev_at_ms, other.rev_at_ms), *before, max(self.hour, other.hour)
        )

    def ends(self, anchors: Anchors, now_ms: int, tolerance_ms: int) -> int | None:
        """Return the seq of the entry that ends a token with these anchors, None if it stands."""
        if anchors.rev is not None and anchors.rev < self.rev:
            return self.rev.seq
        if self.before_ms and _issued_by(self.before_ms, anchors.issued_at_s, now_ms, tolerance_ms):
            return self.before_seq
        if self.rev_at_ms and anchors.rev is None:
            return self.rev.seq if _issued_by(self.rev_at_ms, anchors.issued_at_s, now_ms, tolerance_ms) else None
        return None


def _issued_by(bound_ms: int, issued_at_s: float | None, now_ms: int, tolerance_ms: int) -> bool:
    """Whether a token counts as issued by `bound_ms`. In doubt it does: whole seconds, no `iat`, or a future one."""
    if issued_at_s is None or issued_at_s * 1000 > now_ms + tolerance_ms:
        return True
    return int(issued_at_s // 1) * 1000 <= -(-bound_ms // 1000) * 1000 + tolerance_ms


class RevokedSet:
    """The keys of all revoked anchors, and all cutoffs. One writer; any number of readers in other threads.

    One set decides: a token that stands touches nothing else. The seq of each key lies beside it, under the hour until
    which the key is held. A seq is written before its key joins the set, and goes when the key has left the set or has
    a seq under a later hour: so a key in the set has a seq at every moment, and no reader can miss what is in force.
    """

    __slots__ = ("_cutoffs", "_extended", "_held", "_seqs", "has_cutoffs", "holds_none")

    def __init__(self) -> None:
        self._held: set[bytes] = set()
        self.holds_none = self._held.isdisjoint  # one call into C for all keys of a token
        self._seqs: dict[int, dict[bytes, int]] = {}  # hour -> key -> seq
        self._extended: set[bytes] = set()  # the few keys that stand under several hours, of which the latest counts
        self._cutoffs: dict[bytes, Cutoff] = {}
        self.has_cutoffs = False

    def __len__(self) -> int:
        return len(self._held) + len(self._cutoffs)

    def add(self, key: bytes, seq: int, hour: int) -> None:
        """Hold `key` until `hour`. Where it is held already, the later hour wins; of equal ones, the first."""
        seqs = self._seqs.get(hour)
        if seqs is None:
            seqs = self._seqs[hour] = {}
        if key in self._held:
            if key in seqs or self._hour_of(key) > hour:
                return
            self._extended.add(key)
        seqs[key] = seq
        self._held.add(key)

    def add_many(self, seqs: Mapping[bytes, int], hour: int) -> None:
        """Hold each key until `hour`, as `add` does; quicker where none of them is held."""
        if not self._held.isdisjoint(seqs):
            for key, seq in seqs.items():
                self.add(key, seq, hour)
            return
        self._seqs.setdefault(hour, {}).update(seqs)
        self._held.update(seqs)

    def add_cutoff(self, key: bytes, cutoff: Cutoff) -> None:
        """Hold `cutoff` beside what is in force for the same target."""
        self.has_cutoffs = True
        self._cutoffs[key] = self._cutoffs.get(key, Cutoff()) | cutoff

    def add_entry(self, entry: Entry) -> None:
        """Hold what `entry` revokes."""
        hour = expiry_hour(entry.expires_at_ms)
        key = anchor_key(entry.kind, entry.issuer, entry.id)
        if entry.kind is _CUTOFF:
            self.add_cutoff(key, Cutoff.of(entry.rev, entry.at_ms, entry.issued_before_ms, hour))
        else:
            self.add(key, entry.seq, hour)

    def add_all(self, other: "RevokedSet") -> None:
        """Hold all that `other` holds."""
        for hour, seqs in other._seqs.items():  # noqa: SLF001 - a set of its own kind
            for key in seqs.keys() - self._seqs.get(hour, _NOTHING).keys():  # mostly none, and then at once
                self.add(key, seqs[key], hour)
        for key, cutoff in other._cutoffs.items():  # noqa: SLF001 - a set of its own kind
            self.add_cutoff(key, cutoff)

    def forget(self, until_ms: int) -> None:
        """Drop what expired before `until_ms`, which the authority's clock has passed."""
        for hour in [hour for hour in self._seqs if hour != NEVER and hour * HOUR_MS < until_ms]:
            for key in self._seqs[hour]:
                if key not in self._extended or self._hour_of(key) == hour:
                    self._held.discard(key)
                    self._extended.discard(key)
            del self._seqs[hour]
        for key, cutoff in list(self._cutoffs.items()):
            if cutoff.hour != NEVER and cutoff.hour * HOUR_MS < until_ms:
                del self._cutoffs[key]
        self.has_cutoffs = bool(self._cutoffs)

    def _hour_of(self, key: bytes) -> int:
        """Return the latest hour under which a held key stands."""
        return max(hour for hour, seqs in self._seqs.items() if key in seqs)

    def seq_of(self, key: bytes) -> int | None:
        """Return the entry that revokes `key`, None where it is not revoked."""
        while key in self._held:  # again only where the writer moved it to a later hour while we looked
            for hour in sorted(self._seqs, reverse=True):
                seq = self._seqs.get(hour, _NOTHING).get(key)
                if seq is not None:
                    return seq
        return None

    def beyond(self, other: "RevokedSet") -> Iterator[tuple[bytes, int]]:
        """Yield the keys that this holds longer than `other`, with their hours; of cutoffs, those that go further."""
        for hour, seqs in self._seqs.items():
            for key in seqs.keys() - other._seqs.get(hour, _NOTHING).keys():  # noqa: SLF001 - a set of its own kind
                held = key in other._held and other._hour_of(key) > hour  # noqa: SLF001 - as above
                if not held and (key not in self._extended or self._hour_of(key) == hour):
                    yield key, hour
        for key, cutoff in self._cutoffs.items():
            theirs = other._cutoffs.get(key, Cutoff())  # noqa: SLF001 - a set of its own kind
            if theirs | cutoff != theirs:
                yield key, cutoff.hour

    def find(self, anchors: Anchors, now_ms: int, tolerance_ms: int) -> Revoked | None:
        """Return what ends a token with these anchors: the first revoked one, root first; else a cutoff.

        `now_ms` is only for telling a future `iat`.
        """
        if not self.holds_none(anchors.keys):
            for anchor in anchors.path:
                seq = self.seq_of(anchor.key)
                if seq is not None:  # None for all: forgotten by the writer since the line above
                    return Revoked(anchor, seq)
        return self.find_cutoff(anchors, now_ms, tolerance_ms) if self._cutoffs else None

    def find_cutoff(self, anchors: Anchors, now_ms: int, tolerance_ms: int) -> Revoked | None:
        """Return the cutoff that ends a token with these anchors, if one does: everyone's first, then root first."""
        for anchor, key in anchors.cutoff_targets:
            cutoff = self._cutoffs.get(key)
            seq = cutoff.ends(anchors, now_ms, tolerance_ms) if cutoff else None
            if seq is not None:
                return Revoked(anchor, seq)
        return None
