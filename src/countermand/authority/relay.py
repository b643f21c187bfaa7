"""The relay: brings the ledger to a way that may lose it, and finds out what the way has lost.

    1. Entries go in order; the checkpoint last, in one step with the entries that it covers.
    2. Where the way ends is what its newest checkpoint of ours says, verified, and nobody has written since.
    3. A snapshot lies under what is there: whoever cannot find an entry starts from it. It is laid anew as the ledger
       grows, and whenever something that lay above it is gone.
    4. Consumers of the documented messages know no snapshot. For them, what may have been lost is published again, and
       descendants are told, at a bounded rate that no entry waits behind.

Source: docs/protocol.md, "Redis".
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from countermand.authority.descendants import Descendants, Page
from countermand.authority.heartbeat import Heartbeat, SignedCheckpoint
from countermand.authority.ledger import DAY_MS, HOUR_MS, Ledger
from countermand.errors import CountermandError, LogError
from countermand.log.chain import Candidate
from countermand.log.checkpoint import Pin, parse_checkpoint
from countermand.log.entry import Entry
from countermand.log.freshness import Instant
from countermand.log.ports import LogReader, LogWriter, Written
from countermand.log.snapshot import HEADER_BYTES, SnapshotHeader
from countermand.log.wire import documented_fields, signed_messages, to_fields

GROWTH: Final = 10_000
"""How many entries may lie above the snapshot before it is laid anew."""
REFRESH_MS: Final = DAY_MS // 2
"""How often the snapshot is laid anew at the least, and what outlives a consumer's memory is published again."""
AGAIN_MS: Final = 600_000
"""How often what may be lost is published again, at the most."""
TRIM_MS: Final = 60_000
KEPT_MS: Final = DAY_MS + HOUR_MS
"""Nothing younger is trimmed: a day, and an hour for clocks that differ."""
TRICKLE_S: Final = 0.2
TRICKLE: Final = 500
"""Messages in TRICKLE_S, of what no entry may wait behind."""
ATTEMPTS: Final = 3
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
    """What is published: the ledger, its checkpoints and snapshots, and the descendants that are to be told."""

    ledger: Ledger
    heartbeat: Heartbeat
    log: LogReader
    descendants: Descendants
    pin: Pin


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
        self.stream = stream
        self.losses = 0
        self.error: str | None = None
        self._open_writer = open_writer
        self._clock = clock
        self._published_again_ms: int | None = None
        self._refreshed_ms: int | None = None

    async def run(self) -> None:
        """Publish until the heartbeat ends. A way that is broken is tried again, for ever."""
        pause_s = FIRST_PAUSE_S
        while await self.source.heartbeat.after(None) is not None:
            try:
                async with self._open_writer() as writer:
                    await _Publication(self, writer).run()
            except CountermandError as error:
                pause_s = FIRST_PAUSE_S if self.error is None else min(2 * pause_s, LONGEST_PAUSE_S)
                self._note(error)
                await asyncio.sleep(pause_s)

    def now_ms(self) -> int:
        """Return milliseconds that never step."""
        return self._clock().boot_ms

    def wall_ms(self) -> int:
        """Return milliseconds since 1970, UTC."""
        return self._clock().wall_ms

    def works(self) -> None:
        """Take note that something was published."""
        if self.error is not None:
            _log.warning("the log is published again")
        self.error = None

    def lost(self) -> None:
        """Take note that something is gone."""
        self.losses += 1
        _log.warning("a part of what was published is gone: a snapshot is laid, and what is in force published again")

    def may_publish_again(self) -> bool:
        """Whether it is long enough since this was last answered so."""
        now_ms, last_ms = self.now_ms(), self._published_again_ms
        if last_ms is not None and now_ms - last_ms < AGAIN_MS:
            return False
        self._published_again_ms = self._refreshed_ms = now_ms
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
        self._seq = 0  # every entry up to here is on the way, or under the snapshot
        self._base_seq = 0  # where the snapshot lies
        self._base_ms: int | None = None  # and when it was laid; None: by nobody that we know
        self._trimmed_ms = 0  # never
        self._again: AsyncGenerator[Messages, None] | None = None

    async def run(self) -> None:
        """Publish until the heartbeat ends. Raises: as the writer and the ledger."""
        try:
            async with asyncio.TaskGroup() as tasks:
                trickle = tasks.create_task(self._trickle())
                await self._publish()
                trickle.cancel()
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _publish(self) -> None:
        seen: SignedCheckpoint | None = None
        while (seen := await self._source.heartbeat.after(seen)) is not None:
            async with self._turn:
                await self._bring(seen)

    async def _bring(self, seen: SignedCheckpoint) -> None:
        """Append what follows up to `seen`; look first, and again, where somebody else has written."""
        for _ in range(ATTEMPTS):
            place = self._place or await self._look()
            if self._wants_base(place, seen):
                place = await self._lay_base(place)
            self._place = await self._append_through(seen, place)
            if self._place is not None:
                self._seq = max(self._seq, seen.checkpoint.rev.seq)
                self._relay.works()
                await self._keep()
                return

    async def _look(self) -> Written:
        """Return where the way ends. Where that is nowhere, all that is in force will be published for consumers."""
        place = await self._writer.look()
        known = next((seq for signed in place.checkpoints if (seq := self._verified(signed)) is not None), None)
        self._seq = known or 0
        if known is None or (known > 0 and not place.is_whole):
            self._publish_again()
        if known is None:
            self._base_ms = None
        return replace(place, checkpoints=(), is_whole=True)

    def _verified(self, signed: bytes) -> int | None:
        try:
            return parse_checkpoint(signed).verify(self._source.pin).rev.seq
        except LogError:
            return None

    def _wants_base(self, place: Written, seen: SignedCheckpoint) -> bool:
        is_old = self._base_ms is None or self._relay.now_ms() - self._base_ms > REFRESH_MS
        has_grown = seen.checkpoint.rev.seq - self._base_seq > GROWTH
        return is_old or has_grown or not (place.is_whole and place.has_snapshot)

    async def _lay_base(self, place: Written) -> Written:
        """Put a snapshot. Entries above it are published once more, so that all of them lie above it."""
        if not place.is_whole:
            self._relay.lost()
            self._publish_again()
        data = b"".join([chunk async for chunk in self._source.log.snapshot()])
        await self._writer.put_snapshot(data)
        base_seq = SnapshotHeader.verify(data[:HEADER_BYTES], self._source.pin).checkpoint.rev.seq
        is_first = self._base_ms is None and self._seq == 0
        self._seq = base_seq if is_first else min(self._seq, base_seq)
        self._base_seq, self._base_ms = base_seq, self._relay.now_ms()
        return replace(place, first="", last="", is_whole=True, has_snapshot=True)

    async def _append_through(self, seen: SignedCheckpoint, place: Written) -> Written | None:
        """Append the entries up to `seen`, and `seen` itself with the last of them. None: somebody else has written."""
        pending: Messages = []
        async for page in self._source.ledger.pages(self._seq, seen.checkpoint.rev.seq):
            if pending:
                appended = await self._writer.append(pending, None, place)
                if appended is None:
                    return None
                place = appended
            pending = [message for candidate in page for message in self._messages(candidate)]
        return await self._writer.append(pending, seen.signed, place)

    async def _keep(self) -> None:
        """Trim what is old; publish again what outlives a consumer's memory of a day."""
        now_ms = self._relay.now_ms()
        if now_ms - self._trimmed_ms >= TRIM_MS:
            self._trimmed_ms = now_ms
            await self._writer.trim(self._relay.wall_ms() - KEPT_MS)
        if self._again is None and self._relay.may_refresh():
            self._again = self._in_force(longer_than_ms=REFRESH_MS)

    def _messages(self, candidate: Candidate) -> Messages:
        return self._stream.messages(f"entry-{candidate.seq}", to_fields(candidate.previous, candidate.entry))

    def _publish_again(self) -> None:
        if self._relay.may_publish_again():
            self._again = self._in_force()

    async def _in_force(self, *, longer_than_ms: int = 0) -> AsyncGenerator[Messages, None]:
        """Yield what is in force as documented messages, which replicas pass over."""
        async for page in self._source.ledger.pages(0, self._seq):
            entries = [Entry.parse(candidate.entry) for candidate in page]
            until_ms = self._relay.wall_ms() + longer_than_ms
            lasting = [entry for entry in entries if entry.expires_at_ms is None or entry.expires_at_ms > until_ms]
            for start in range(0, len(lasting), TRICKLE):
                yield [
                    message
                    for entry in lasting[start : start + TRICKLE]
                    for message in self._stream.messages(f"entry-{entry.seq}", documented_fields(entry, entry.reason))
                ]

    async def _trickle(self) -> None:
        """Tell descendants, and publish again what may be lost: a page at a time."""
        while True:
            await asyncio.sleep(TRICKLE_S)
            async with self._turn:
                if self._place is not None:
                    self._place = await self._trickle_page(self._place)

    async def _trickle_page(self, place: Written) -> Written | None:
        page = await self._source.descendants.next()
        if page is not None:
            appended = await self._writer.append(self._told(page), None, place)
            if appended is not None:
                await self._source.descendants.done(page)
            return appended
        messages = await anext(self._again, None) if self._again is not None else None
        if messages is None:
            self._again = None
            return place
        return await self._writer.append(messages, None, place)

    def _told(self, page: Page) -> Messages:
        reason = f"{page.root.kind.text} revoked"
        return [
            message
            for anchor in page.anchors
            for message in self._stream.messages(f"below-{page.number}", documented_fields(anchor, reason))
        ]
