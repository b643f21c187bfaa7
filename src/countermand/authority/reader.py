"""The ledger as a log that can be followed: in one process directly, over HTTP by the server's feed."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from countermand.authority.heartbeat import Heartbeat, SignedCheckpoint
from countermand.authority.ledger import Ledger
from countermand.errors import UnreachableError
from countermand.log.checkpoint import Checkpoint
from countermand.log.entry import Entry
from countermand.log.ports import Batch
from countermand.log.snapshot import make_snapshot

SNAPSHOT_ENTRIES: Final = 1_000
"""How far a snapshot may lie behind the head before a new one is made; the feed brings the rest."""
CHUNK_BYTES: Final = 65_536


class LedgerReader:
    """A `LogReader` on the ledger itself."""

    def __init__(self, ledger: Ledger, heartbeat: Heartbeat, key: Ed25519PrivateKey) -> None:
        self._ledger = ledger
        self._heartbeat = heartbeat
        self._key = key
        self._snapshot: tuple[Checkpoint, bytes] | None = None
        self._making: asyncio.Task[None] | None = None

    async def follow(self, after: int) -> AsyncGenerator[Batch, None]:
        """Yield the entries after `after` as checkpoints cover them; end when the authority stops."""
        seen: SignedCheckpoint | None = None
        while (seen := await self._heartbeat.after(seen)) is not None:
            async for page in self._ledger.pages(after, seen.checkpoint.rev.seq):
                yield Batch(candidates=page)
            after = max(after, seen.checkpoint.rev.seq)
            yield Batch(checkpoints=(seen.signed,))

    async def snapshot(self) -> AsyncGenerator[bytes, None]:
        """Yield a snapshot at most 1,000 entries behind. Raises: UnreachableError, when the authority stops."""
        _, data = await self._made(behind=SNAPSHOT_ENTRIES)
        for start in range(0, len(data), CHUNK_BYTES):
            yield data[start : start + CHUNK_BYTES]

    async def newest_snapshot(self) -> tuple[Checkpoint, bytes]:
        """Return a snapshot of all entries, and where it lies. Raises: UnreachableError, when the authority stops."""
        return await self._made(behind=0)

    async def _made(self, *, behind: int) -> tuple[Checkpoint, bytes]:
        newest = await self._heartbeat.after(None)
        if newest is None:
            raise UnreachableError("the authority is stopping")
        at = newest.checkpoint
        while self._snapshot is None or at.rev.seq - self._snapshot[0].rev.seq > behind:
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
                data = await asyncio.to_thread(make_snapshot, at, map(Entry.parse, held), self._key)
                self._snapshot = (at, data)
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


def _retrieved(task: asyncio.Task[None]) -> None:
    """Take note of an error for which nobody waits any longer."""
    if not task.cancelled():
        task.exception()
