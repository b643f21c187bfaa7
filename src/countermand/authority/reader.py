"""The ledger as a log that can be followed: in one process directly, over HTTP by the server's feed."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final, NoReturn

from countermand.authority.heartbeat import Heartbeat, SignedCheckpoint
from countermand.authority.keys import Keys
from countermand.authority.ledger import Ledger
from countermand.errors import UnreachableError
from countermand.log.anchor import Rev
from countermand.log.checkpoint import Checkpoint
from countermand.log.entry import Entry
from countermand.log.ports import Batch
from countermand.log.snapshot import make_snapshot
from countermand.log.state import FIRST_GENERATION
from countermand.log.succession import Succession

SNAPSHOT_ENTRIES: Final = 1_000
"""How far a snapshot may lie behind the head before a new one is made; the feed brings the rest."""
CHUNK_BYTES: Final = 65_536


class LedgerReader:
    """A `LogReader` on the ledger itself."""

    def __init__(self, ledger: Ledger, heartbeat: Heartbeat, keys: Keys) -> None:
        self._ledger = ledger
        self._heartbeat = heartbeat
        self._keys = keys
        self._snapshot: tuple[Checkpoint, bytes] | None = None
        self._snapshot_key_id = ""
        self._making: asyncio.Task[None] | None = None
        self._succession: Succession | None = None

    async def follow(self, after: int) -> AsyncGenerator[Batch, None]:
        """Yield the entries after `after` as checkpoints cover them; end when the authority stops."""
        seen: SignedCheckpoint | None = None
        known, told = 0, b""
        while (seen := await self._heartbeat.after(seen)) is not None:
            begun = await self.succession(seen.checkpoint.rev.generation) or b""
            keysets = self._keys.register.keysets[known:]
            if keysets or begun != told:  # those of a new key come with the keyset that brings it
                known, told = known + len(keysets), begun
                yield Batch(keysets=keysets, successions=(begun,) if begun else ())
            async for page in self._ledger.pages(after, seen.checkpoint.rev.seq):
                yield Batch(candidates=page)
            after = max(after, seen.checkpoint.rev.seq)
            yield Batch(checkpoints=(seen.signed,))

    async def snapshot(self) -> AsyncGenerator[bytes, None]:
        """Yield a snapshot at most 1,000 entries behind.

        Raises: UnreachableError, when the authority stops; DataError, where the key that signs is not here.
        """
        _, data = await self._made(behind=SNAPSHOT_ENTRIES)
        for start in range(0, len(data), CHUNK_BYTES):
            yield data[start : start + CHUNK_BYTES]

    async def succession(self, generation: int) -> bytes | None:
        """Return the signed record of how `generation` began; None for the first. Raises: BusyError, DataError."""
        if generation == FIRST_GENERATION:
            return None
        if self._succession is None or self._succession.rev.generation != generation:
            self._succession = await self._ledger.begun(generation)
        return self._succession.sign(self._keys.checkpoint) if self._succession else None

    async def newest_snapshot(self) -> tuple[Checkpoint, bytes]:
        """Return a snapshot of all entries, and where it lies. Raises: as `snapshot`."""
        return await self._made(behind=0)

    async def _made(self, *, behind: int) -> tuple[Checkpoint, bytes]:
        newest = await self._heartbeat.after(None)
        if newest is None:
            raise UnreachableError("the authority is stopping")
        at = newest.checkpoint
        while (
            self._snapshot is None
            or _is_far(self._snapshot[0].rev, at.rev, behind)
            or self._snapshot_key_id != self._keys.checkpoint_id  # the key before is about to leave
        ):
            if self._making is None:
                self._making = asyncio.create_task(self._make(at))
                self._making.add_done_callback(_retrieved)
            await asyncio.shield(self._making)  # of a million entries it takes longer than one caller may wait
        return self._snapshot

    async def _make(self, at: Checkpoint) -> None:
        """Keep a snapshot of `at`, whoever still waits for it. Raises: UnreachableError, when the authority stops."""
        try:
            async with asyncio.TaskGroup() as group:
                stop = group.create_task(self._stop())
                held = await self._ledger.in_force(at.at_ms, at.rev.seq)
                key_id, key = self._keys.checkpoint_id, self._keys.checkpoint
                data = await asyncio.to_thread(make_snapshot, at, map(Entry.parse, held), key)
                self._snapshot, self._snapshot_key_id = (at, data), key_id
                stop.cancel()
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            self._making = None

    async def _stop(self) -> NoReturn:
        seen: SignedCheckpoint | None = None
        while (seen := await self._heartbeat.after(seen)) is not None:
            pass
        raise UnreachableError("the authority is stopping")


def _is_far(snapshot: Rev, head: Rev, behind: int) -> bool:
    return snapshot.generation != head.generation or head.seq - snapshot.seq > behind


def _retrieved(task: asyncio.Task[None]) -> None:
    """Take note of an error for which nobody waits any longer."""
    if not task.cancelled():
        task.exception()
