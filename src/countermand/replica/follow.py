"""The loop that keeps a replica fresh: read, verify, apply, and begin again when the way is broken.

It decides which refusals are normal. None of them ends the loop, and none is passed over in silence: what is not
applied gives no freshness, and a replica without freshness refuses.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Final

from countermand.errors import (
    BacklogError,
    CountermandError,
    ForgedEntryError,
    GapError,
    GenerationError,
    LogError,
    UnreachableError,
)
from countermand.log.chain import Candidate
from countermand.log.entry import Entry
from countermand.log.freshness import Instant
from countermand.log.ports import Batch, LogReader
from countermand.log.snapshot import SnapshotReader
from countermand.replica.replica import Replica

SILENCE_S: Final = 3.0
"""Without a word for this long the way counts as broken: a checkpoint comes every second."""
SNAPSHOT_S: Final = 60.0
"""How long a whole snapshot may take."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
WATCH_S: Final = 0.5

_log = logging.getLogger(__name__)


class Follower:
    """Keeps `replica` on the log that `reader` reads.

    `random` gives numbers from 0 to 1, to spread the reconnections of many replicas. `on_applied` is called with
    entries as soon as they are in force, and with none as soon as a snapshot is, which may bring any.
    """

    def __init__(
        self,
        replica: Replica,
        reader: LogReader,
        clock: Callable[[], Instant],
        random: Callable[[], float],
        *,
        on_applied: Callable[[Sequence[Entry]], None] = lambda _entries: None,
    ) -> None:
        self._replica = replica
        self._state = replica.state
        self._reader = reader
        self._clock = clock
        self._random = random
        self._on_applied = on_applied
        self._wants_snapshot = True

    async def run(self) -> None:
        """Follow, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._watch())

    async def _follow(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            before_ms = self._state.freshness.applied_at_ms
            try:
                await self._attempt()
            except CountermandError as error:
                self._note(error)
            if self._state.freshness.applied_at_ms > before_ms:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s * (0.5 + self._random()))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _watch(self) -> None:
        while True:
            self._replica.watch()
            await asyncio.sleep(WATCH_S)

    async def _attempt(self) -> None:
        """Follow until the way breaks; that always raises."""
        try:
            if self._wants_snapshot:
                await self._load()
            async with aclosing(self._reader.follow(self._state.rev.seq)) as batches:
                while True:
                    async with asyncio.timeout(SILENCE_S):
                        batch = await anext(batches)
                    self._take(batch)
        except TimeoutError:
            raise UnreachableError("the log fell silent") from None
        except StopAsyncIteration:
            raise UnreachableError("the log ended") from None

    async def _load(self) -> None:
        self._wants_snapshot = False  # where there is none to be had, the feed may do
        reader = SnapshotReader(self._state.pin)
        async with asyncio.timeout(SNAPSHOT_S), aclosing(self._reader.snapshot()) as chunks:
            async for chunk in chunks:
                reader.feed(chunk)
        snapshot = await asyncio.to_thread(reader.finish)
        if snapshot.header.checkpoint.rev > self._state.rev:
            self._state.load(snapshot, self._clock())
            self._on_applied(())

    def _take(self, batch: Batch) -> None:
        """Take the keysets, hold the candidates, believe the checkpoints, apply what they cover.

        A record that is refused is noted and stops no other one. What reading again may mend is raised.
        """
        before_ms = self._state.freshness.applied_at_ms
        for signed in batch.keysets:
            self._believe(self._state.rekey, signed)
        try:
            for candidate in batch.candidates:
                self._hold(candidate)
            for signed in batch.successions:
                self._believe(self._state.succeed, signed)
            for signed in batch.checkpoints:
                self._believe(self._accept, signed)
            if batch.checkpoints:
                self._advance()
        except (GapError, ForgedEntryError):
            if not batch.has_more:
                self._wants_snapshot = True
                raise
        except GenerationError:  # reading again brings the succession; and that leads to a snapshot alone
            self._wants_snapshot = self._state.is_succeeded
            raise
        if self._state.freshness.applied_at_ms > before_ms:
            self._replica.error = None

    def _hold(self, candidate: Candidate) -> None:
        """Hold what there is room for. Where there was none for a true one, a checkpoint will show the gap."""
        try:
            self._state.add(candidate)
        except BacklogError as error:
            self._note(error)

    def _accept(self, signed: bytes) -> None:
        self._state.accept(signed, self._clock())

    def _believe(self, take: Callable[[bytes], None], signed: bytes) -> None:
        try:
            take(signed)
        except GenerationError:
            raise
        except LogError as error:
            self._note(error)

    def _advance(self) -> None:
        while entries := self._state.advance():
            self._on_applied(entries)

    def _note(self, error: CountermandError) -> None:
        """Log a refusal once, until the replica is fresh again."""
        if error.code != self._replica.error:
            _log.warning("the log cannot be followed: %s", error, extra={"code": error.code})
        self._replica.error = error.code
