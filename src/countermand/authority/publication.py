"""What one connection publishes, and how it finds out what the way has lost.

    1. Entries go in order; the checkpoint last, in one step with the entries that it covers, and on the last of them.
    2. Where the way ends is what the furthest checkpoint of ours says, verified, and nobody has written since. Where
       that contradicts the ledger, nothing is written.
    3. A snapshot lies under what is there: whoever cannot find an entry starts from it. It is laid anew once a minute
       while the ledger grows, so that whatever happened to what lies above is mended by then; and at once when
       something is gone. Making it takes seconds where there is much: nothing waits for it but a way that is empty.
    4. Consumers of the documented messages know no snapshot. What is owed to them trickles: no entry waits behind it.

Source: docs/protocol.md, "Redis".
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from countermand.authority.heartbeat import SignedCheckpoint
from countermand.authority.ledger import DAY_MS, HOUR_MS
from countermand.authority.owed import REFRESH_MS, Trickle
from countermand.authority.source import Messages, Source, Stream
from countermand.authority.way import Ends, Way
from countermand.errors import BadAnswerError
from countermand.log.chain import Candidate
from countermand.log.checkpoint import claimed_rev
from countermand.log.freshness import Instant
from countermand.log.ports import LogWriter, Written
from countermand.log.wire import to_fields

BASE_MS: Final = 60_000
"""How old a snapshot may be when the ledger has grown; and how long it took to make it, as often as is said below."""
BASE_TIMES: Final = 50
TRIM_MS: Final = 60_000
KEPT_MS: Final = DAY_MS + HOUR_MS
"""Nothing younger is trimmed: a day, and an hour for clocks that differ."""
ATTEMPTS: Final = 10


@dataclass(frozen=True, slots=True)
class _Base:
    """A snapshot that we have laid: where, by whose signature, when, and how long it took to make it."""

    seq: int
    key_id: str
    laid_ms: int
    took_ms: int

    def is_due(self, now_ms: int, seq: int | None, key_id: str) -> bool:
        """Whether another is to be laid, where entries up to `seq` are on the way, and `key_id` signs."""
        age_ms = now_ms - self.laid_ms
        if key_id != self.key_id or age_ms > REFRESH_MS:
            return True
        has_grown = seq is not None and seq > self.seq
        return has_grown and age_ms > max(BASE_MS, BASE_TIMES * self.took_ms)


class Publication:
    """What one connection publishes. Only the holder of `_turn` writes, and knows where the way ends."""

    def __init__(
        self, source: Source, stream: Stream, way: Way, writer: LogWriter, clock: Callable[[], Instant]
    ) -> None:
        self._source = source
        self._stream = stream
        self._way = way
        self._writer = writer
        self._clock = clock
        self._trickle = Trickle(source, stream, way.owed, self._tell)
        self._turn = asyncio.Lock()
        self._place: Written | None = None  # None: to be looked up
        self._generation: int | None = None  # of what is on the way; None: not known
        self._seq: int | None = None  # every entry up to here is on the way, or under the snapshot; None: not known
        self._keysets = 0  # how many are on the way
        self._base: _Base | None = None  # what lies under that; None: laid by nobody that we know
        self._base_wanted = asyncio.Event()
        self._repeats = False  # what lies above the snapshot, once it is laid: a part of it is gone
        self._trimmed_ms = 0  # never

    async def run(self) -> None:
        """Publish until the heartbeat ends, or another process leads. Raises: as the writer and the ledger."""
        try:
            async with asyncio.TaskGroup() as tasks:
                beside = [tasks.create_task(work) for work in (self._trickle.run(), self._lay_bases())]
                await self._publish()
                for task in beside:
                    task.cancel()
        except BaseExceptionGroup as failed:  # whoever runs this knows errors, and no groups of them
            raise failed.exceptions[0] from None
        finally:
            self._trickle.stop()

    async def _publish(self) -> None:
        seen: SignedCheckpoint | None = None
        heartbeat = self._source.heartbeat
        while (seen := await heartbeat.after(seen)) is not None and heartbeat.leads:
            async with self._turn:
                await self._bring(seen)

    async def _bring(self, seen: SignedCheckpoint) -> None:
        """Append what follows up to `seen`; look first, and again, where somebody else has written."""
        for _ in range(ATTEMPTS):
            place = self._place or await self._look()
            if not (place.is_whole and (place.has_snapshot or self._base is None)):
                place = self._lost(place)
            seq, generation = seen.checkpoint.rev.seq, seen.checkpoint.rev.generation
            if self._generation is not None and generation < self._generation:
                return  # another process has begun the next one, and we have not heard
            self._enter(generation)
            if self._seq is None:
                self._seq = seq  # what was before comes with the snapshot
            if self._keysets < len(self._source.keys.register.keysets):
                await self._put_keysets()
            self._place = await self._append_through(seen, place)
            if self._place is not None:
                self._seq = max(self._seq, seq)
                self._way.works(self._seq)
                await self._keep()
                return
        raise BadAnswerError("another writer comes before us again and again")

    def _enter(self, generation: int) -> None:
        """Begin anew where another generation has begun: it is followed from its snapshot on."""
        if self._generation not in {None, generation}:
            self._seq = self._base = None
            self._way.owed.all_in_force = True
        self._generation = generation

    async def _put_keysets(self) -> None:
        """Put them before the first checkpoint by a new key, and again with whatever is mended: they are never lost."""
        keysets = self._source.keys.register.keysets
        if keysets:
            await self._writer.put_keysets(b"".join(keysets))
        self._keysets = len(keysets)

    async def _look(self) -> Written:
        """Return where the way ends. Raises: DisputedError, where that contradicts the ledger."""
        place, witnesses = await self._writer.look(), self._source.heartbeat.witnesses
        await witnesses.hear("redis", place.checkpoints)
        known = witnesses.furthest(place.checkpoints)
        if known is None:
            self._base = None
        else:
            self._generation, self._seq = claimed_rev(known).generation, claimed_rev(known).seq
        return self._lost(place) if self._misses(known) else replace(place, checkpoints=())

    def _misses(self, known: bytes | None) -> bool:
        """Whether checkpoints are gone that were published: all, or the last, as by a failover."""
        published_seq = self._way.published_seq
        return published_seq is not None and (known is None or claimed_rev(known).seq < published_seq)

    def _lost(self, place: Written) -> Written:
        """Have a snapshot laid, and what lies above it repeated."""
        if not self._repeats:
            self._way.lost()
        self._repeats = True
        self._way.ends = Ends()
        self._base_wanted.set()
        return replace(place, checkpoints=(), is_whole=True, has_snapshot=True)

    async def _lay_bases(self) -> None:
        while True:
            await self._base_wanted.wait()
            began_ms = self._clock().boot_ms
            key_id = self._source.keys.checkpoint_id
            at, data = await self._source.log.newest_snapshot()
            await self._put_keysets()
            await self._writer.put_snapshot(data)
            async with self._turn:
                if at.rev.generation < (self._generation or 0):
                    continue  # another has begun meanwhile, and is followed from its own
                if self._repeats and self._seq is not None:
                    self._seq = min(self._seq, at.rev.seq)
                now_ms = self._clock().boot_ms
                self._base = _Base(at.rev.seq, key_id, now_ms, now_ms - began_ms)
                if self._place is not None:
                    self._place = replace(self._place, has_snapshot=True)
                self._repeats = False
                self._base_wanted.clear()

    async def _append_through(self, seen: SignedCheckpoint, place: Written) -> Written | None:
        """Append the entries up to `seen`, and `seen` itself with the last of them. None: somebody else has written."""
        pending: list[Candidate] = []
        async for page in self._source.ledger.pages(self._seq or 0, seen.checkpoint.rev.seq):
            if pending:
                appended = await self._append(self._messages(pending), None, place)
                if appended is None:
                    return None
                place = appended
            pending = page
        succession = await self._source.log.succession(seen.checkpoint.rev.generation)
        return await self._append(self._messages(pending, seen.signed), seen.signed, place, succession)

    async def _append(
        self, messages: Messages, signed: bytes | None, place: Written, succession: bytes | None = None
    ) -> Written | None:
        """Append, and ask for what was appended before: once it is known to be gone, it stays so until it is mended."""
        now_ms, ends = self._clock().boot_ms, self._way.ends
        ends.forget(now_ms)
        appended = await self._writer.append(
            messages, signed, replace(place, first=ends.first, last=ends.last), succession
        )
        if appended is None:
            return None
        ends.note(appended, now_ms)
        return replace(appended, is_whole=appended.is_whole and place.is_whole)

    async def _keep(self) -> None:
        """Trim what is old; publish again what outlives a consumer's memory of a day; have a snapshot laid."""
        now = self._clock()
        if self._base is None or self._base.is_due(now.boot_ms, self._seq, self._source.keys.checkpoint_id):
            self._base_wanted.set()
        if now.boot_ms - self._trimmed_ms >= TRIM_MS:
            self._trimmed_ms = now.boot_ms
            await self._put_keysets()
            await self._writer.trim(now.wall_ms - KEPT_MS)
        await self._trickle.begin(now, self._seq or 0)

    def _messages(self, candidates: Sequence[Candidate], signed: bytes | None = None) -> Messages:
        """Return the messages of these entries; the last bears the checkpoint `signed` that covers them."""
        last = candidates[-1] if candidates else None
        return [
            message
            for candidate in candidates
            for message in self._stream.messages(
                f"entry-{candidate.seq}",
                to_fields(candidate.previous, candidate.entry, signed if candidate is last else None),
            )
        ]

    async def _tell(self, messages: Messages) -> bool:
        """Append what no checkpoint covers; look first, and again, where somebody else has written. False: not now."""
        async with self._turn:
            for _ in range(ATTEMPTS):
                self._place = await self._append(messages, None, self._place or await self._look())
                if self._place is not None:
                    return True
        return False
