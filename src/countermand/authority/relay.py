"""The relay: brings the ledger to a way that may lose it, over one connection after another."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from countermand.authority.heartbeat import SignedCheckpoint
from countermand.authority.publication import Publication
from countermand.authority.source import Source, Stream
from countermand.authority.way import Way
from countermand.errors import CountermandError
from countermand.log.freshness import Instant
from countermand.log.ports import LogWriter

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0


class Relay:
    """Publishes on the way that `open_writer` opens, while `run` runs. One relay for each way."""

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
        self.way = Way()
        self._open_writer = open_writer
        self._clock = clock

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
                    await Publication(self.source, self.stream, self.way, writer, self._clock).run()
            except CountermandError as error:
                heartbeat.may_lead = False  # another may have a way where we have none
                pause_s = FIRST_PAUSE_S if self.way.error is None else min(2 * pause_s, LONGEST_PAUSE_S)
                self.way.fails(error)
                await asyncio.sleep(pause_s)
                heartbeat.may_lead = True
                heartbeat.sign_soon()
