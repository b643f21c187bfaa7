"""Verified application: the only way for a record of the log into a replica.

    1. A candidate for an entry is held, bounded, and not believed.
    2. A checkpoint is believed if it is of the pinned log, signed by a pinned key, and not older than what is applied.
       The keys that are pinned are those of the newest keyset, one after the other.
    3. From the link that it signed, the chain is walked back through the candidates to the link applied here. What
       hashes is proven; what does not is forged; another history is a fork.
    4. Only then are the entries parsed and applied, in order, and only then does the checkpoint give freshness.
    5. The authority's time alone forgets entries.
    6. A signed succession leads to a higher generation, from its snapshot on. What is held stays held.

It never waits and never reads a clock. A refusal raises and changes nothing that was applied before.
Source: docs/protocol.md, "Application" and "Staleness".
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from countermand.errors import (
    BacklogError,
    ForgedEntryError,
    ForkError,
    GapError,
    GenerationError,
    InvalidValueError,
    LogError,
    MalformedError,
    PostdatedError,
    RollbackError,
)
from countermand.log.anchor import Anchors, Rev
from countermand.log.chain import Candidate, genesis, next_link
from countermand.log.checkpoint import Checkpoint, Pin, claimed_signer, parse_checkpoint
from countermand.log.entry import Entry
from countermand.log.freshness import Freshness, Instant
from countermand.log.keyset import parse_keyset
from countermand.log.revoked import RevokedSet
from countermand.log.snapshot import Snapshot
from countermand.log.succession import Succession
from countermand.log.verdict import Revoked

CLOCK_TOLERANCE_MS: Final = 1_000
MAX_AHEAD: Final = 65_536
"""How far past the applied entries a candidate may be; beyond, a snapshot is the shorter way."""
MAX_RIVALS: Final = 8
"""How many candidates for one seq are held; the newest stay."""
MAX_HELD_BYTES: Final = 64 * 2**20
"""How many bytes of entries all candidates together may have."""
MAX_WAITING: Final = 64
"""How many checkpoints wait for their entries; the newest stay."""
FIRST_GENERATION: Final = 1


@dataclass(frozen=True, slots=True)
class _Waiting:
    checkpoint: Checkpoint
    signed: bytes
    gives_freshness: bool


class LogState:
    """What one replica holds of the pinned log. One writer; `find` and `freshness` may be asked from any thread."""

    def __init__(self, pin: Pin) -> None:
        if not pin.keys:
            raise InvalidValueError("a pin without a key would accept nothing")
        self._pin = pin
        self._rev = Rev(FIRST_GENERATION, 0)
        self._link = genesis(pin.log_id, FIRST_GENERATION)
        self._revoked = RevokedSet()
        self._freshness = Freshness(0, 0, Instant(0, 0))
        self._candidates: dict[int, tuple[Candidate, ...]] = {}
        self._held_bytes = 0  # of the entries of all candidates
        self._through = 0  # every seq up to here is applied or has a candidate
        self._waiting: dict[int, _Waiting] = {}
        self._succession: Succession | None = None  # the newest: that of our generation, or the one that leads on
        self._led_by = b""  # it, as it was signed last
        self._proof: bytes | None = None
        self._wanted: dict[int, bytes] = {}  # the signed link of an entry of which only forgeries were held

    def __len__(self) -> int:
        """How many anchors and cutoffs are in force."""
        return len(self._revoked)

    @property
    def rev(self) -> Rev:
        """The position up to which every entry is applied."""
        return self._rev

    @property
    def link(self) -> bytes:
        """The chain's link at `rev`."""
        return self._link

    @property
    def pin(self) -> Pin:
        """What this state believes: at first what it was told, then what the keysets say."""
        return self._pin

    @property
    def is_succeeded(self) -> bool:
        """Whether another generation has begun: a snapshot of it, or of a later one, is the only way on."""
        return self._succession is not None and self._succession.rev.generation > self._rev.generation

    @property
    def proof(self) -> bytes | None:
        """The newest signed checkpoint that is fully applied: it proves to others what was seen here."""
        return self._proof

    @property
    def freshness(self) -> Freshness:
        """What is known about the authority's time. Read it before `find`, and the clock after."""
        return self._freshness

    @property
    def has_cutoffs(self) -> bool:
        """Whether a cutoff may be in force: without one, `find` has no use for the time."""
        return self._revoked.has_cutoffs

    def find(self, anchors: Anchors, now_ms: int) -> Revoked | None:
        """Return what ends a token with these anchors: a revoked anchor, else a cutoff.

        `now_ms` (wall clock) only tells a future `iat`.
        """
        revoked = self._revoked
        if not revoked.holds_none(anchors.keys):
            return revoked.find(anchors, now_ms, CLOCK_TOLERANCE_MS)
        return revoked.find_cutoff(anchors, now_ms, CLOCK_TOLERANCE_MS) if revoked.has_cutoffs else None

    def seq_of(self, key: bytes) -> int | None:
        """Return the entry that revokes the anchor with this key, None where none does."""
        return self._revoked.seq_of(key)

    def add(self, candidate: Candidate) -> None:
        """Hold `candidate` until a checkpoint decides. What is applied or known to be forged is passed over.

        Raises:
            BacklogError: too far ahead of what is applied; or too many bytes, and then every candidate is let go, since
                forgeries that stayed would shut out the true ones for ever.
        """
        ahead = candidate.seq - self._rev.seq
        if ahead <= 0:
            return
        if ahead > MAX_AHEAD:
            raise BacklogError(f"entry {candidate.seq} is more than {MAX_AHEAD} ahead of what is applied")
        rivals = self._candidates.get(candidate.seq, ())
        if candidate in rivals or (candidate.seq in self._wanted and candidate.link != self._wanted[candidate.seq]):
            return
        if len(rivals) == MAX_RIVALS:
            self._held_bytes -= len(rivals[0].entry)
            rivals = rivals[1:]
        self._candidates[candidate.seq] = (*rivals, candidate)
        self._held_bytes += len(candidate.entry)
        if self._held_bytes > MAX_HELD_BYTES:
            self._let_go(tuple(self._candidates))
            self._through = self._rev.seq
            raise BacklogError(f"the candidates have more than {MAX_HELD_BYTES} bytes")

    def rekey(self, signed: bytes) -> None:
        """Take the keys of the next keyset for those held, and let go of what waits by the word of another key.

        That is checkpoints that wait for entries, and a succession that waits for its snapshot. A keyset that is not
        above the one that is held changes nothing.

        Raises:
            MalformedError, UnknownVersionError: not a keyset.
            KeysetError: one before it was left out.
            WrongLogError, UnknownKeyError, BadSignatureError: not the authority's word.
        """
        keyset = parse_keyset(signed)
        if keyset.claimed.version > self._pin.version:
            self._pin = keyset.follow(self._pin)
            waiting = self._waiting.items()
            self._waiting = {seq: one for seq, one in waiting if claimed_signer(one.signed) in self._pin.keys}
            if self.is_succeeded:
                self._believe_again()

    def succeed(self, signed: bytes) -> None:
        """Believe a succession: a snapshot of the generation that it begins may be loaded. Repeats are passed over.

        Raises:
            MalformedError, UnknownVersionError: not a succession.
            WrongLogError, UnknownKeyError, BadSignatureError: not the authority's word.
            RollbackError, ForkError: its word, and at odds with what is believed.
        """
        succession = Succession.verify(signed, self._pin)
        known = self._succession
        newest = max(self._rev.generation, known.rev.generation if known else 0)
        if succession.rev.generation < newest:
            raise RollbackError(f"generation {newest} has begun, which is after {succession.rev.generation}")
        if known is not None and succession.rev.generation == known.rev.generation and succession != known:
            raise ForkError(f"generation {newest} has two beginnings")
        self._succession, self._led_by = succession, signed

    def accept(self, signed: bytes, now: Instant) -> None:
        """Believe a checkpoint, if there is every reason to. It is applied by `advance`.

        One from more than the tolerance ahead of `now`, or of a generation that is known to have ended, will deliver
        its entries and no freshness.

        Raises:
            MalformedError, UnknownVersionError: not a checkpoint.
            WrongLogError, UnknownKeyError, BadSignatureError: not the authority's word.
            GenerationError, RollbackError, ForkError: its word, and at odds with what is applied.
        """
        checkpoint = parse_checkpoint(signed).verify(self._pin)
        self._judge(checkpoint)
        timely = _is_timely(checkpoint, now) and not self.is_succeeded
        if timely:
            self._freshness = self._freshness.with_newest(checkpoint.at_ms, now)
        known = self._waiting.get(checkpoint.rev.seq)
        if known is None or not known.gives_freshness or (timely and checkpoint.at_ms > known.checkpoint.at_ms):
            self._waiting[checkpoint.rev.seq] = _Waiting(checkpoint, signed, timely)
        if len(self._waiting) > MAX_WAITING:
            del self._waiting[min(self._waiting)]

    def advance(self) -> list[Entry]:
        """Apply what the newest coverable checkpoint covers, and return it; repeat until it returns nothing.

        Raises, when no entry could be applied:
            GapError: a checkpoint waits, and entries before it have not come.
            ForgedEntryError: they came, and are not the ones that were signed.
            ForkError: they lead back to another history than ours.
            MalformedError, UnknownVersionError, UnknownKindError: the authority signed an entry that we cannot read.
        """
        self._through = self._reach()
        refusal: GapError | ForgedEntryError | None = None
        for seq in sorted(self._waiting, reverse=True):
            if isinstance(refusal, ForgedEntryError) and seq >= refusal.seq:
                continue  # it needs the same entry
            try:
                applied = self._cover(self._waiting[seq])
            except (GapError, ForgedEntryError) as missing:  # an older checkpoint may do without
                refusal = missing
                continue
            if applied:
                return applied
            break
        if refusal is not None:
            raise refusal
        return []

    def load(self, snapshot: Snapshot, now: Instant) -> None:
        """Jump to a verified snapshot, and keep its set as ours. What is held stays held until it expires.

        It may be of a higher generation where a succession leads there; or where nothing was ever applied, for whoever
        begins has nothing that it could lose.

        Raises:
            GenerationError, RollbackError, ForkError: at odds with what is applied.
            PostdatedError: from more than the tolerance ahead of `now`: what it leaves out may still be in force.
        """
        checkpoint = snapshot.header.checkpoint
        is_next = checkpoint.rev.generation > self._rev.generation and self._may_become(checkpoint)
        if not is_next:
            self._judge(checkpoint)
        if not _is_timely(checkpoint, now):
            raise PostdatedError(f"the snapshot is {checkpoint.at_ms - now.wall_ms} ms ahead of our clock")
        revoked = snapshot.revoked
        revoked.add_all(self._revoked)
        if is_next:  # nothing that waits is of this generation
            self._let_go(tuple(self._candidates))
            self._waiting, self._wanted, self._through = {}, {}, 0
        self._revoked, self._rev, self._link = revoked, checkpoint.rev, checkpoint.link
        self._through = max(self._through, checkpoint.rev.seq)
        self._let_go([seq for seq in self._candidates if seq <= checkpoint.rev.seq])
        self._waiting = {seq: waiting for seq, waiting in self._waiting.items() if seq >= checkpoint.rev.seq}
        self._wanted = {seq: link for seq, link in self._wanted.items() if seq > checkpoint.rev.seq}

    def _believe_again(self) -> None:
        """Let go of a succession that has led nowhere yet, and that no key speaks for any more: it comes again."""
        try:
            Succession.verify(self._led_by, self._pin)
        except LogError:
            self._succession = None

    def _reach(self) -> int:
        """Return the last seq up to which each is applied or has a candidate."""
        through = self._through
        while through + 1 in self._candidates:
            through += 1
        return through

    def _let_go(self, seqs: Iterable[int]) -> None:
        for seq in seqs:
            for rival in self._candidates.pop(seq, ()):
                self._held_bytes -= len(rival.entry)

    def _judge(self, checkpoint: Checkpoint) -> None:
        """Refuse the authority's word where it contradicts what is applied. Its `at` plays no part."""
        ours, theirs = self._rev, checkpoint.rev
        if theirs < ours:
            raise RollbackError(f"{theirs.generation}.{theirs.seq} is older than {ours.generation}.{ours.seq}")
        if theirs.generation > ours.generation:
            raise GenerationError(
                f"generation {theirs.generation} has begun, and what is applied is of {ours.generation}"
            )
        waiting = self._waiting.get(theirs.seq)
        known = self._link if theirs == ours else waiting.checkpoint.link if waiting else checkpoint.link
        if checkpoint.link != known:
            raise ForkError(f"entry {theirs.seq} has two histories")

    def _may_become(self, checkpoint: Checkpoint) -> bool:
        """Whether a snapshot of a higher generation may be loaded. Raises: ForkError, where it began elsewhere."""
        succession = self._succession
        if succession is None or succession.rev.generation != checkpoint.rev.generation:
            return self._rev == Rev(FIRST_GENERATION, 0)
        if checkpoint.rev < succession.rev or (checkpoint.rev == succession.rev and checkpoint.link != succession.link):
            raise ForkError(f"generation {checkpoint.rev.generation} has two beginnings")
        return True

    def _cover(self, waiting: _Waiting) -> list[Entry]:
        """Apply what one checkpoint covers and return it. Raises: as `advance`."""
        proven = self._prove(waiting.checkpoint)
        applied, refusal = self._apply(proven)
        if applied:
            seq = applied[-1].seq
            self._link = waiting.checkpoint.link if refusal is None else proven[len(applied)].previous
            self._rev = applied[-1].rev
            self._let_go(range(seq - len(applied) + 1, seq + 1))
            if self._wanted:
                self._wanted = {at: link for at, link in self._wanted.items() if at > seq}
        if refusal is None:
            self._settle(waiting)
        elif not applied:
            raise refusal
        return applied

    def _prove(self, checkpoint: Checkpoint) -> list[Candidate]:
        """Walk back from what was signed to what is applied; return the proven candidates in order."""
        if checkpoint.rev.seq > self._through:
            raise GapError(self._through + 1, checkpoint.rev.seq)
        proven: list[Candidate] = []
        link = checkpoint.link
        for seq in range(checkpoint.rev.seq, self._rev.seq, -1):
            for rival in self._candidates[seq]:
                if next_link(rival.previous, rival.entry) == link:
                    break
            else:
                self._wanted[seq] = link
                raise ForgedEntryError(seq)
            proven.append(rival)
            link = rival.previous
        if link != self._link:
            raise ForkError(f"entry {self._rev.seq} has two histories")
        proven.reverse()
        return proven

    def _apply(self, proven: list[Candidate]) -> tuple[list[Entry], LogError | None]:
        """Revoke what proven entries say, up to the first that cannot be read; return them, and why not."""
        applied: list[Entry] = []
        generation = self._rev.generation
        for candidate in proven:
            try:
                entry = Entry.parse(candidate.entry)
                if entry.seq != candidate.seq or entry.generation != generation:
                    raise MalformedError(f"entry {candidate.seq} says that it is {entry.generation}.{entry.seq}")
            except LogError as refusal:
                return applied, refusal
            self._revoked.add_entry(entry)
            applied.append(entry)
        return applied, None

    def _settle(self, applied: _Waiting) -> None:
        self._proof = applied.signed
        if applied.gives_freshness:
            at_ms = applied.checkpoint.at_ms
            self._freshness = self._freshness.with_applied(at_ms)
            self._revoked.forget(at_ms - CLOCK_TOLERANCE_MS)
        self._waiting = {seq: waiting for seq, waiting in self._waiting.items() if seq > applied.checkpoint.rev.seq}


def _is_timely(checkpoint: Checkpoint, now: Instant) -> bool:
    return checkpoint.at_ms <= now.wall_ms + CLOCK_TOLERANCE_MS
