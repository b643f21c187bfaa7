"""Recovery: a ledger that witnesses contradict is taken up again, as another generation.

    1. What witnesses hold and the ledger does not is proven by the chain, back from what we signed, and appended again:
       as new entries, and what they name and is still here is marked as revoked. Where the chain comes to a signed
       snapshot, that says the rest: of ids of our own making in full, of others only a hash, which is not enough.
    2. The new generation begins above every number that anybody has seen, by a signed succession.
    3. What nobody holds any more cannot be known. So everything that was opened or issued before is cut off, unless an
       operator answers for it; and that is refused where witnesses have seen entries that cannot be had.
    4. Replicas go by the last keyset that they have seen, and never back. So those that witnesses hold are taken up,
       as far as their keys are ours; where a later one is not, nothing is done: what we would sign is refused.

It is one transaction: it has happened whole, or not at all, and happens once.
Source: docs/protocol.md, "Succession"; docs/adr/0014.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.appending import Act, Draft, Step
from countermand.authority.cascade import begin_cascades
from countermand.authority.database import Database
from countermand.authority.heartbeat import Change, Heartbeat
from countermand.authority.keysets import LaterKeysets
from countermand.authority.ledger import Head, Ledger, read_head
from countermand.authority.lineage import WORDS, Row
from countermand.authority.model import Purpose, Recovered, Seen
from countermand.authority.registered import Debt, Registered, mark
from countermand.authority.rotation import Rotation
from countermand.authority.witnesses import TELL_S, Testimony, Told
from countermand.errors import BusyError, DataError, InvalidValueError, LogError, TransportError, UnreachableError
from countermand.log.anchor import EVERYONE, OWN_KEY_BYTES, PREFIXES, Kind, Rev, own_id
from countermand.log.chain import Candidate
from countermand.log.checkpoint import Checkpoint, Pin
from countermand.log.entry import Entry
from countermand.log.freshness import Instant
from countermand.log.revoked import HOUR_MS, NEVER, RevokedSet
from countermand.log.snapshot import Snapshot, SnapshotReader
from countermand.log.succession import Succession


@dataclass(slots=True)
class _Heard:
    """What witnesses answered, unverified: by their names the checkpoints, and all that they hold."""

    checkpoints: dict[str, Sequence[bytes]] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Found:
    """Where the ledger ends, what contradicts it, and what of entries and keysets behind that somebody still holds.

    `pin`: whose word on positions counts.
    """

    head: Head
    testimonies: frozenset[Testimony]
    seen: tuple[Seen, ...]
    furthest: tuple[Rev, bytes]
    highest_seq: int
    lost: tuple[Entry, ...]
    missing: int
    pin: Pin
    later: LaterKeysets

    def report(self, begun: int | None, *, is_cut_off: bool) -> Recovered:
        """Return this for whoever asked for it."""
        rev = self.head.rev
        return Recovered(
            rev.generation,
            rev.seq,
            self.seen,
            len(self.lost),
            self.missing,
            begun=begun,
            is_cut_off=is_cut_off,
            keyset=self.later.pin.version if self.later.signed else None,
            missing_keys=self.later.missing,
        )


class Recovery:
    """Finds out what the ledger has lost, and takes it up again."""

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        heartbeat: Heartbeat,
        rotation: Rotation,
        registered: Registered,
        issuer: str,
        clock: Callable[[], Instant],
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._heartbeat = heartbeat
        self._rotation = rotation
        self._registered = registered
        self._issuer = issuer
        self._witnesses = heartbeat.witnesses
        self._clock = clock

    async def recover(self, *, keep_sessions: bool = False, force: bool = False, dry_run: bool = False) -> Recovered:
        """Begin another generation where the head is disputed, or the register has forgotten a keyset.

        Say what was found, and what this did or would do. `force`: also where neither is so, without the witnesses that
        do not answer, and without the keysets whose keys are not ours. `keep_sessions`: cut off nothing; an operator
        answers for it that nothing was revoked which no witness saw.

        Raises:
            UnreachableError: a witness does not answer.
            InvalidValueError: sessions cannot be kept, for entries are missing.
            DataError: witnesses hold a keyset of keys that are not ours, or have no files here.
            BusyError.
        """
        await self._rotation.refresh()  # another process may have withdrawn a key: whose word counts is known anew
        found = await self._find(await self._ask(force=force))
        if found.later.missing and not (force or dry_run):
            raise _without_files(found.later.missing)
        if not (found.head.is_disputed or found.later.signed or force):
            return found.report(None, is_cut_off=False)
        if keep_sessions and found.missing:
            raise InvalidValueError(
                f"witnesses have seen {found.missing} entries or more that nobody can tell: what they ended would live "
                "again, so sessions cannot be kept"
            )
        begun = found.furthest[0].generation + 1
        if not dry_run:
            await self._heartbeat.commit(
                lambda connection: self._begin(connection, found, keep_sessions=keep_sessions), urgent=True, alone=True
            )
            await self._rotation.refresh()
            self._heartbeat.sign_soon()
            await self._registered.finish_all()
        return found.report(begun, is_cut_off=not keep_sessions)

    async def _ask(self, *, force: bool) -> _Heard:
        """Return what witnesses have seen and what they hold; what contradicts the ledger is kept as well."""
        await self._witnesses.compare()
        heard = _Heard()
        for witness in self._witnesses.witnesses:
            try:
                async with asyncio.timeout(TELL_S):
                    signed = await witness.furthest()
                    if signed:  # whether it is ours, the keysets say
                        heard.checkpoints[witness.name] = signed
                        heard.told.append(await witness.told())
            except (TimeoutError, TransportError) as error:
                if not force:
                    raise UnreachableError(f"{witness.name} does not answer, and may hold what was lost") from error
        return heard

    async def _find(self, heard: _Heard) -> _Found:
        async with self._database.read() as connection:
            later = await self._rotation.find_later(connection, [one.keysets for one in heard.told])
        pin = self._witnesses.pin.without(later.left_out)
        pool = _Pool(heard.told, pin, self._witnesses.pin)
        said = self._testimonies(heard, pin)
        async with self._database.read(within_s=None) as connection:
            head = await read_head(connection)
            kept = await self._witnesses.testimonies(connection, pin)
            testimonies = list(dict.fromkeys((*kept, *said)))  # a witness may have lost what it once proved
            seen: list[Seen] = []
            missing = 0
            for one in testimonies:
                rev, contradicts = one.checkpoint.rev, bool(await self._witnesses.lack(connection, one.signed))
                seen.append(Seen(one.witness, rev.generation, rev.seq, contradicts=contradicts))
                if contradicts:
                    missing = max(missing, await self._walk(connection, head, one.checkpoint, pool))
            lost = sorted(pool.lost.values(), key=lambda entry: entry.rev)
            for snapshot in pool.below.values():
                named, unnamed = await self._read_snapshot(snapshot, head, lost)
                lost[:0] = named
                missing += unnamed
            unknown = tuple([entry for entry in lost if not await self._is_known(connection, entry)])
        positions = [(head.rev, head.link), *((one.checkpoint.rev, one.checkpoint.link) for one in testimonies)]
        highest_seq = max(rev.seq for rev, _ in positions)
        furthest = max(positions)
        return _Found(head, frozenset(testimonies), tuple(seen), furthest, highest_seq, unknown, missing, pin, later)

    def _testimonies(self, heard: _Heard, pin: Pin) -> Iterable[Testimony]:
        """Return the furthest word of each witness that a key of `pin` has signed."""
        for witness, signed in heard.checkpoints.items():
            furthest = self._witnesses.furthest(signed, pin)
            if furthest is not None:
                yield Testimony(witness, furthest)

    async def _walk(self, connection: AsyncConnection, head: Head, seen: Checkpoint, pool: "_Pool") -> int:
        """Find in `pool` what leads from a position that a witness has seen back to what the ledger holds.

        Where that ends too early, the last snapshot on the way says the rest. Return how many are missing, at least.
        """
        rev, link = seen.rev, seen.link
        passed: Snapshot | None = None
        while link not in pool.lost and not await self._is_ours(connection, head, rev, link):
            passed = pool.snapshots.get(link, passed)
            candidate, succession = pool.entry(rev.seq, link), pool.successions.get(link)
            if candidate is not None:
                pool.lost[link] = _read(candidate)
                rev, link = Rev(rev.generation, rev.seq - 1), candidate.previous
            elif succession is not None:
                rev, link = succession.ended, succession.ended_link
            elif passed is not None:
                pool.below[passed.header.checkpoint.link] = passed
                break
            else:
                return max(1, rev.seq - head.rev.seq)
        return 0

    async def _read_snapshot(self, snapshot: Snapshot, head: Head, lost: list[Entry]) -> tuple[list[Entry], int]:
        """Return what of our own a snapshot revokes beyond the ledger and `lost`, and how much else it does."""
        ours = RevokedSet()
        for data in await self._ledger.in_force(0, head.rev.seq):
            ours.add_entry(Entry.parse(data))
        for entry in lost:
            ours.add_entry(entry)
        at = snapshot.header.checkpoint
        named: list[Entry] = []
        unnamed = 0
        for key, hour in snapshot.revoked.beyond(ours):
            kind = Kind(key[0])
            if len(key) == OWN_KEY_BYTES and kind in PREFIXES:
                id_, expires_at_ms = own_id(kind, key[1:]), None if hour == NEVER else hour * HOUR_MS
                reason = "found in a snapshot"
                rev = at.rev
                named.append(Entry(rev.generation, rev.seq, kind, id_, at.at_ms, reason, expires_at_ms=expires_at_ms))
            else:
                unnamed += 1
        return named, unnamed

    async def _is_ours(self, connection: AsyncConnection, head: Head, rev: Rev, link: bytes) -> bool:
        return rev <= head.rev and await self._ledger.link_at(connection, rev) == link

    async def _is_known(self, connection: AsyncConnection, entry: Entry) -> bool:
        """Whether the ledger revokes the same already. Of cutoffs, each is another."""
        if entry.kind is Kind.CUTOFF:
            return False
        if entry.kind is Kind.BISCUIT:  # one that is forgotten sooner is not the same
            found = await self._ledger.find_lasting(connection, entry.kind, {entry.id}, entry.expires_at_ms)
            return found is not None
        return await self._ledger.find(connection, entry.kind, entry.id, entry.issuer) is not None

    async def _owe(self, connection: AsyncConnection, found: _Found, now_ms: int, *, keep_sessions: bool) -> None:
        """Mark Biscuits that are revoked, and note as jobs those that end with what is."""
        await self._registered.close(connection)  # before any of theirs is locked
        await mark(connection, [entry.id for entry in found.lost if entry.kind is Kind.BISCUIT], now_ms)
        debts = [Debt(_anchor(one), _before_ms(one), one.reason) for one in found.lost if not one.issuer]
        if not keep_sessions:
            debts.append(Debt(EVERYONE, None, "the ledger was recovered"))
        await self._registered.owe(connection, debts, now_ms)

    async def _begin(self, connection: AsyncConnection, found: _Found, *, keep_sessions: bool) -> Change[None]:
        """Mark what is revoked, then lock the head and begin the generation; return what is to be appended to it."""
        await self._rotation.hold(connection)
        if self._witnesses.pin.without(found.later.left_out) != found.pin:
            raise BusyError("the keys have changed meanwhile: try again")
        now_ms = await self._ledger.time(connection, self._clock().wall_ms)
        for id_ in sorted({entry.id for entry in found.lost if entry.kind in WORDS and not entry.issuer}):
            await _mark(connection, id_, now_ms)
        await self._owe(connection, found, now_ms, keep_sessions=keep_sessions)
        for entry in found.lost:
            if entry.kind is Kind.KEY and entry.issuer == self._issuer:  # the register has forgotten it too
                await self._rotation.withdraw_mandate_key(connection, entry.id)
        recovered_keys = await self._rotation.take_up(connection, found.later)
        expires_at_ms = await self._ledger.expiry(connection, now_ms)
        steps: list[Step] = [Act("ledger.recover", str(self._ledger.log_id)), *recovered_keys]
        steps += [_again(entry, now_ms, expires_at_ms) for entry in found.lost]
        locked = (await connection.execute(select(tables.head).with_for_update())).one()
        if (Rev(locked.generation, locked.seq), locked.link) != (found.head.rev, found.head.link):
            raise BusyError("the ledger went on meanwhile: try again")
        if not found.testimonies.issuperset(await self._witnesses.testimonies(connection, found.pin)):
            raise BusyError("a witness has spoken meanwhile: try again")
        ended, ended_link = found.furthest
        succession = Succession(self._ledger.log_id, ended, ended_link, found.highest_seq, now_ms)
        await self._ledger.begin(connection, succession)
        await connection.execute(delete(tables.testimonies))
        if not keep_sessions:
            reason = f"the ledger was recovered: generation {succession.rev.generation}"
            steps.append(Draft(kind=Kind.CUTOFF, id=EVERYONE, at_ms=now_ms, expires_at_ms=None, reason=reason))
        return Change(lambda _entries: None, steps)


def _anchor(entry: Entry) -> str:
    return entry.id if entry.kind is Kind.CUTOFF else f"{entry.kind.text}:{entry.id}"


def _without_files(ids: Iterable[str]) -> DataError:
    files = ", ".join(f"{Purpose.CHECKPOINT.value}-{id_}.pem" for id_ in ids)
    return DataError(
        f"replicas go by a later keyset that witnesses hold, and we cannot: put {files} into this process's keys "
        "directory and recover again; force it where nobody of yours has made them, or they were withdrawn"
    )


def _again(entry: Entry, now_ms: int, expires_at_ms: int) -> Draft:
    """Return what was lost as a new entry, kept no shorter than it was to be, and no shorter than any new one.

    A cutoff "as of now" was of its own time: as of now it would end what was issued since.
    """
    lasts_ms = None if entry.expires_at_ms is None else max(entry.expires_at_ms, expires_at_ms)
    return Draft(
        kind=entry.kind,
        id=entry.id,
        at_ms=now_ms,
        expires_at_ms=lasts_ms,
        reason=entry.reason,
        issuer=entry.issuer,
        issued_before_ms=_before_ms(entry),
    )


def _before_ms(entry: Entry) -> int | None:
    return entry.issued_before_ms or (entry.at_ms if entry.kind is Kind.CUTOFF else None)


class _Pool:
    """What witnesses hold together, and what of it was lost: entries by their links, and snapshots that say the rest.

    A candidate is proven by the link that it makes, whatever else by its signature: a snapshot by a key of `pin`. A
    succession makes a link as well, and a key of `ever` is enough.
    """

    def __init__(self, told: Iterable[Told], pin: Pin, ever: Pin) -> None:
        self._candidates: defaultdict[int, set[Candidate]] = defaultdict(set)
        self.successions: dict[bytes, Succession] = {}
        self.snapshots: dict[bytes, Snapshot] = {}
        self.lost: dict[bytes, Entry] = {}
        self.below: dict[bytes, Snapshot] = {}
        for one in told:
            reader = SnapshotReader(pin)
            with suppress(LogError):
                reader.feed(one.snapshot)
                snapshot = reader.finish()
                self.snapshots[snapshot.header.checkpoint.link] = snapshot
            for candidate in one.candidates:
                self._candidates[candidate.seq].add(candidate)
            for signed in one.successions:
                with suppress(LogError):
                    succession = Succession.verify(signed, ever)
                    self.successions[succession.link] = succession

    def entry(self, seq: int, link: bytes) -> Candidate | None:
        """Return the entry `seq` that makes `link`."""
        return next((one for one in self._candidates.get(seq, ()) if one.link == link), None)


def _read(candidate: Candidate) -> Entry:
    """Return a proven entry. Raises: DataError."""
    try:
        return Entry.parse(candidate.entry)
    except LogError as error:
        raise DataError(f"entry {candidate.seq} was made by a newer countermand: run that one") from error


async def _mark(connection: AsyncConnection, id_: str, now_ms: int) -> None:
    """Mark an anchor as revoked, if it is still here and stands; have its descendants told."""
    anchors = tables.anchors
    columns = (await connection.execute(select(anchors).where(anchors.c.id == id_).with_for_update())).first()
    row = None if columns is None else Row.of(columns)
    if row is not None and row.revoked_at_ms is None:
        await connection.execute(update(anchors).where(anchors.c.number == row.number).values(revoked_at_ms=now_ms))
        await begin_cascades(connection, [row.number])
