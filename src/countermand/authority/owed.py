"""What is owed to consumers of the documented messages, who know no snapshot.

What may have been lost is published again, and descendants are told, at a bounded rate that no entry waits behind.
Source: docs/protocol.md, "Redis".
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Final

from countermand.authority.descendants import Page
from countermand.authority.ledger import DAY_MS
from countermand.authority.source import Messages, Source, Stream
from countermand.errors import BusyError, UnconfirmedError
from countermand.log.entry import Entry
from countermand.log.freshness import Instant
from countermand.log.wire import documented_fields

AGAIN_MS: Final = 5_000
"""How often what may be lost is published again, at the most, and once after the other."""
REFRESH_MS: Final = DAY_MS // 2
"""How often what outlives a consumer's memory of a day is published again."""
TRICKLE_S: Final = 0.2
TRICKLE: Final = 500
"""Messages in TRICKLE_S, of what no entry may wait behind: of descendants, and of what is published again."""


class Owed:
    """What is owed on a way, whatever connection there is: with `all_in_force`, all of that."""

    def __init__(self) -> None:
        self.all_in_force = True  # nobody knows what was lost before
        self._published_again_ms: int | None = None
        self._refreshed_ms: int | None = None

    def may_publish_again(self, now_ms: int) -> bool:
        """Whether all in force is owed, and it is long enough since this was last answered so. Then it no longer is."""
        last_ms = self._published_again_ms
        if not self.all_in_force or (last_ms is not None and now_ms - last_ms < AGAIN_MS):
            return False
        self._published_again_ms = self._refreshed_ms = now_ms
        self.all_in_force = False
        return True

    def may_refresh(self, now_ms: int) -> bool:
        """The same of what outlives a consumer's memory."""
        last_ms = self._refreshed_ms
        if last_ms is not None and now_ms - last_ms < REFRESH_MS:
            return False
        self._refreshed_ms = now_ms
        return True


class Trickle:
    """What one connection tells consumers beside the entries. `tell` appends, or returns False where it cannot now."""

    def __init__(self, source: Source, stream: Stream, owed: Owed, tell: Callable[[Messages], Awaitable[bool]]) -> None:
        self._ledger = source.ledger
        self._descendants = source.descendants
        self._stream = stream
        self._owed = owed
        self._tell = tell
        self._again: AsyncGenerator[Messages, None] | None = None
        self._unsent: Messages = []  # of that

    async def run(self) -> None:
        """Tell descendants, and publish again what may be lost: a page of each at a time."""
        while True:
            await asyncio.sleep(TRICKLE_S)
            await self._read_again()
            await self._tell_descendants()
            await self._tell_again()

    async def begin(self, now: Instant, seq: int) -> None:
        """Begin to publish again what is owed of the entries up to `seq`, unless that goes on already."""
        if self._again is None and self._owed.may_publish_again(now.boot_ms):
            self._again = self._in_force(seq, now.wall_ms)
            await self._descendants.reopen(now.wall_ms - DAY_MS)
        if self._again is None and self._owed.may_refresh(now.boot_ms):
            self._again = self._in_force(seq, now.wall_ms + REFRESH_MS)

    def stop(self) -> None:
        """Owe what was not yet published again: the next connection begins anew."""
        self._owed.all_in_force |= self._again is not None

    async def _in_force(self, seq: int, lasting_ms: int) -> AsyncGenerator[Messages, None]:
        """Yield what is in force until then as documented messages, which replicas pass over."""
        async for page in self._ledger.pages(0, seq, lasting_ms=lasting_ms):
            entries = [Entry.parse(candidate.entry) for candidate in page]
            for start in range(0, len(entries), TRICKLE):
                yield [
                    message
                    for entry in entries[start : start + TRICKLE]
                    for message in self._stream.messages(f"entry-{entry.seq}", documented_fields(entry, entry.reason))
                ]

    async def _read_again(self) -> None:
        """Have the next messages ready. The history may be long in which nothing is in force: nobody waits for it."""
        again = self._again
        if again is not None and not self._unsent:
            self._unsent = await anext(again, [])
            self._again = again if self._unsent else None

    async def _tell_again(self) -> None:
        if self._unsent and await self._tell(self._unsent):
            self._unsent = []

    async def _tell_descendants(self) -> None:
        """Tell a page. Nobody waits for the database meanwhile; a page whose end cannot be noted now is told again."""
        page = await self._descendants.next()
        if page is not None and await self._tell(self._told(page)):
            with suppress(BusyError, UnconfirmedError):
                await self._descendants.done(page)

    def _told(self, page: Page) -> Messages:
        reason = f"{page.root.kind.text} revoked"
        return [
            message
            for anchor in page.anchors
            for message in self._stream.messages(f"below-{page.number}", documented_fields(anchor, reason))
        ]
