"""The relay: brings the ledger to a way that may lose it, and finds out what the way has lost.

    1. Entries go in order; the checkpoint last, in one step with the entries that it covers, and on the last of them.
    2. Where the way ends is what the furthest checkpoint of ours says, verified, and nobody has written since. Where
       that contradicts the ledger, nothing is written.
    3. A snapshot lies under what is there: whoever cannot find an entry starts from it. It is laid anew once a minute
       while the ledger grows, so that whatever happened to what lies above is mended by then; and at once when
       something is gone. Making it takes seconds where there is much: nothing waits for it but a way that is empty.
    4. Consumers of the documented messages know no snapshot. For them, what may have been lost is published again, and
       descendants are told, at a bounded rate that no entry waits behind.

Source: docs/protocol.md, "Redis".
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from countermand.authority.descendants import Descendants, Page
from countermand.authority.heartbeat import Heartbeat, SignedCheckpoint
from countermand.authority.keys import Keys
from countermand.authority.ledger import DAY_MS, HOUR_MS, Ledger
from countermand.authority.reader import LedgerReader
from countermand.errors import BadAnswerError, BusyError, CountermandError, UnconfirmedError
from countermand.log.chain import Candidate
from countermand.log.checkpoint import claimed_rev
from countermand.log.entry import Entry
from countermand.log.freshness import Instant
from countermand.log.ports import LogWriter, Written
from countermand.log.wire import documented_fields, signed_messages, to_fields

BASE_MS: Final = 60_000
"""How old a snapshot may be when the ledger has grown; and how long it took to make it, as often as is said below."""
BASE_TIMES: Final = 50
REFRESH_MS: Final = DAY_MS // 2
"""How often the snapshot is laid anew at the least, and what outlives a consumer's memory is published again."""
AGAIN_MS: Final = 5_000
"""How often what may be lost is published again, at the most, and once after the other."""
TRIM_MS: Final = 60_000
KEPT_MS: Final = DAY_MS + HOUR_MS
"""Nothing younger is trimmed: a day, and an hour for clocks that differ."""
TRICKLE_S: Final = 0.2
TRICKLE: Final = 500
"""Messages in TRICKLE_S, of what no entry may wait behind: of descendants, and of what is published again."""
ATTEMPTS: Final = 10
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0

Messages: TypeAlias = list[dict[str, str]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stream:
    """The documented stream's name, and the keys with which messages are signed: none, or several in a rotation."""

    name: str
    keys: Sequence[bytes] = ()

    def messages(self, outbox_id: str, fields: Mapping[str, str]) -> Messages:
        """Return the messages that say `fields`, one for each key."""
        return signed_messages(self.name, {**fields, "outbox_id": outbox_id}, self.keys)


@dataclass(frozen=True, slots=True)
class Source:
    """What is published: the ledger, its checkpoints, snapshots and keysets, and descendants that are to be told."""

    ledger: Ledger
    heartbeat: Heartbeat
    log: LedgerReader
    descendants: Descendants
    keys: Keys


@dataclass(slots=True)
class _Ends:
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


class Relay:
    """Publishes on the way that `open_writer` opens, while `run` runs. One relay for each way.

    `losses` counts how often something was found to be gone; `error` is the code of what stands in the way now.
    """

    def __init__(
        self,
        source: Source,
        stream: Stream,
        open_writer: Callable[[], AbstractAsyncContextManager[LogWriter]],
        clock: Callable[[], Instant],
    ) -> None:
        self.source = source
        self.source.heartbeat.may_lead = True
        self.stream = stream
        self.losses = 0
        self.error: str | None = None
        self.published_seq: int | None = None  # None: nothing yet
        self.ends = _Ends()  # they outlive a connection, as does what may have been lost with it
        self.owes = True  # to consumers, all that is in force: nobody knows what was lost before
        self._open_writer = open_writer
        self._clock = clock
        self._published_again_ms: int | None = None
        self._refreshed_ms: int | None = None

    async def run(self) -> None:
        """Publish until the heartbeat ends, while no other process does. A broken way is tried again, for ever."""
        pause_s = FIRST_PAUSE_S
        seen: SignedCheckpoint | None = None
        heartbeat = self.source.heartbeat
        while (seen := await heartbeat.after(seen)) is not None:
            if not heartbeat.leads:
                continue
            try:
                async with self._open_writer() as writer:
                    await _Publication(self, writer).run()
            except CountermandError as error:
                heartbeat.may_lead = False  # another may have a way where we have none
                pause_s = FIRST_PAUSE_S if self.error is None else min(2 * pause_s, LONGEST_PAUSE_S)
                self._note(error)
                await asyncio.sleep(pause_s)
                heartbeat.may_lead = True
                heartbeat.sign_soon()

    def now_ms(self) -> int:
        """Return milliseconds that never step."""
        return self._clock().boot_ms

    def wall_ms(self) -> int:
        """Return milliseconds since 1970, UTC."""
        return self._clock().wall_ms

    def works(self, seq: int) -> None:
        """Take note that all up to entry `seq` is published."""
        if self.error is not None:
            _log.warning("the log is published again")
        self.error = None
        self.published_seq = seq

    def lost(self) -> None:
        """Take note that something is gone."""
        self.losses += 1
        self.owes = True
        _log.warning("a part of what was published is gone: a snapshot is laid, and what is in force published again")

    def may_publish_again(self) -> bool:
        """Whether all in force is owed, and it is long enough since this was last answered so. Then it no longer is."""
        now_ms, last_ms = self.now_ms(), self._published_again_ms
        if not self.owes or (last_ms is not None and now_ms - last_ms < AGAIN_MS):
            return False
        self._published_again_ms = self._refreshed_ms = now_ms
        self.owes = False
        return True

    def may_refresh(self) -> bool:
        """The same of what outlives a consumer's memory."""
        now_ms, last_ms = self.now_ms(), self._refreshed_ms
        if last_ms is not None and now_ms - last_ms < REFRESH_MS:
            return False
        self._refreshed_ms = now_ms
        return True

    def _note(self, error: CountermandError) -> None:
        if error.code != self.error:
            _log.error("the log is not published: %s", error, extra={"code": error.code})
        self.error = error.code


class _Publication:
    """What one connection publishes. Only the holder of `_turn` writes, and knows where the way ends."""

    def __init__(self, relay: Relay, writer: LogWriter) -> None:
        self._relay = relay
        self._source = relay.source
        self._stream = relay.stream
        self._writer = writer
        self._turn = asyncio.Lock()
        self._place: Written | None = None  # None: to be looked up
        self._generation: int | None = None  # of what is on the way; None: not known
        self._seq: int | None = None  # every entry up to here is on the way, or under the snapshot; None: not known
        self._keysets = 0  # how many are on the way
        self._base_seq = 0  # where the snapshot lies
        self._base_key_id = ""  # and who signed it
        self._base_ms: int | None = None  # and when it was laid; None: by nobody that we know
        self._base_took_ms = 0
        self._base_wanted = asyncio.Event()
        self._repeats = False  # what lies above the snapshot, once it is laid: a part of it is gone
        self._trimmed_ms = 0  # never
        self._again: AsyncGenerator[Messages, None] | None = None
        self._unsent: Messages = []  # of that

    async def run(self) -> None:
        """Publish until the heartbeat ends, or another process leads. Raises: as the writer and the ledger."""
        try:
            async with asyncio.TaskGroup() as tasks:
                beside = [tasks.create_task(work) for work in (self._trickle(), self._lay_bases())]
                await self._publish()
                for task in beside:
                    task.cancel()
        except BaseExceptionGroup as failed:  # whoever runs this knows errors, and no groups of them
            raise failed.exceptions[0] from None
        finally:
            self._relay.owes |= self._again is not None

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
            if not (place.is_whole and (place.has_snapshot or self._base_ms is None)):
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
                self._relay.works(self._seq)
                await self._keep()
                return
        raise BadAnswerError("another writer comes before us again and again")

    def _enter(self, generation: int) -> None:
        """Begin anew where another generation has begun: it is followed from its snapshot on."""
        if self._generation not in {None, generation}:
            self._seq = self._base_ms = None
            self._relay.owes = True
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
            self._base_ms = None
        else:
            self._generation, self._seq = claimed_rev(known).generation, claimed_rev(known).seq
        return self._lost(place) if self._misses(known) else replace(place, checkpoints=())

    def _misses(self, known: bytes | None) -> bool:
        """Whether checkpoints are gone that were published: all, or the last, as by a failover."""
        published_seq = self._relay.published_seq
        return published_seq is not None and (known is None or claimed_rev(known).seq < published_seq)

    def _lost(self, place: Written) -> Written:
        """Have a snapshot laid, and what lies above it repeated."""
        if not self._repeats:
            self._relay.lost()
        self._repeats = True
        self._relay.ends = _Ends()
        self._base_wanted.set()
        return replace(place, checkpoints=(), is_whole=True, has_snapshot=True)

    async def _lay_bases(self) -> None:
        while True:
            await self._base_wanted.wait()
            began_ms = self._relay.now_ms()
            key_id = self._source.keys.checkpoint_id
            at, data = await self._source.log.newest_snapshot()
            await self._put_keysets()
            await self._writer.put_snapshot(data)
            async with self._turn:
                if self._repeats and self._seq is not None:
                    self._seq = min(self._seq, at.rev.seq)
                self._base_key_id = key_id
                self._base_seq, self._base_ms = at.rev.seq, self._relay.now_ms()
                self._base_took_ms = self._base_ms - began_ms
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
        now_ms, ends = self._relay.now_ms(), self._relay.ends
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
        now_ms = self._relay.now_ms()
        if self._wants_base(now_ms):
            self._base_wanted.set()
        if now_ms - self._trimmed_ms >= TRIM_MS:
            self._trimmed_ms = now_ms
            await self._put_keysets()
            await self._writer.trim(self._relay.wall_ms() - KEPT_MS)
        if self._again is None and self._relay.may_publish_again():
            self._again = self._in_force()
            await self._source.descendants.reopen(self._relay.wall_ms() - DAY_MS)
        if self._again is None and self._relay.may_refresh():
            self._again = self._in_force(longer_than_ms=REFRESH_MS)

    def _wants_base(self, now_ms: int) -> bool:
        if self._base_ms is None or self._base_key_id != self._source.keys.checkpoint_id:
            return True
        age_ms = now_ms - self._base_ms
        has_grown = self._seq is not None and self._seq > self._base_seq
        return age_ms > REFRESH_MS or (has_grown and age_ms > max(BASE_MS, BASE_TIMES * self._base_took_ms))

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

    async def _in_force(self, *, longer_than_ms: int = 0) -> AsyncGenerator[Messages, None]:
        """Yield what is in force as documented messages, which replicas pass over."""
        lasting_ms = self._relay.wall_ms() + longer_than_ms
        async for page in self._source.ledger.pages(0, self._seq or 0, lasting_ms=lasting_ms):
            entries = [Entry.parse(candidate.entry) for candidate in page]
            for start in range(0, len(entries), TRICKLE):
                yield [
                    message
                    for entry in entries[start : start + TRICKLE]
                    for message in self._stream.messages(f"entry-{entry.seq}", documented_fields(entry, entry.reason))
                ]

    async def _trickle(self) -> None:
        """Tell descendants, and publish again what may be lost: a page of each at a time."""
        while True:
            await asyncio.sleep(TRICKLE_S)
            await self._read_again()
            await self._tell_descendants()
            async with self._turn:
                await self._tell_again()

    async def _tell_descendants(self) -> None:
        """Tell a page. Nobody waits for the database meanwhile; a page whose end cannot be noted now is told again."""
        page = await self._source.descendants.next()
        if page is None:
            return
        async with self._turn:
            told = await self._tell(self._told(page))
        if told:
            with suppress(BusyError, UnconfirmedError):
                await self._source.descendants.done(page)

    async def _read_again(self) -> None:
        """Have the next messages ready. The history may be long in which nothing is in force: nobody waits for it."""
        again = self._again
        if again is not None and not self._unsent:
            self._unsent = await anext(again, [])
            self._again = again if self._unsent else None

    async def _tell_again(self) -> None:
        if self._unsent and await self._tell(self._unsent):
            self._unsent = []

    async def _tell(self, messages: Messages) -> bool:
        """Append what no checkpoint covers; look first, and again, where somebody else has written."""
        for _ in range(ATTEMPTS):
            self._place = await self._append(messages, None, self._place or await self._look())
            if self._place is not None:
                return True
        return False

    def _told(self, page: Page) -> Messages:
        reason = f"{page.root.kind.text} revoked"
        return [
            message
            for anchor in page.anchors
            for message in self._stream.messages(f"below-{page.number}", documented_fields(anchor, reason))
        ]
