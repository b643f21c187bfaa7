"""An authority whose database is restored, and a witness who remembers what the backup forgets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from countermand.authority.witnesses import Told
from tests.backups import Memory, put_back
from tests.integration.rooms import Rooms, rooms_open


async def remembered(rooms: Rooms, memory: Memory) -> None:
    """Let `memory` hold all that a way holds on which everything was published."""
    signed = await rooms.heartbeat.sign()
    begun = await rooms.reader.succession(signed.checkpoint.rev.generation)
    held = [*memory.holds.successions, *([begun] if begun else [])]
    known = {candidate.entry: candidate for candidate in [*memory.holds.candidates, *await rooms.candidates()]}
    memory.checkpoints = [signed.signed]
    memory.holds = Told(list(known.values()), held, keysets=rooms.keys.register.keysets)


@asynccontextmanager
async def remembering(path: Path, memory: Memory) -> AsyncIterator[Rooms]:
    """Give an authority; what is in its ledger at the end of the block is remembered."""
    async with rooms_open(path) as rooms:
        yield rooms
        await remembered(rooms, memory)


@asynccontextmanager
async def reopened(path: Path, rooms: Rooms, memory: Memory, backup: str = "backup.db") -> AsyncIterator[Rooms]:
    """Give the authority as it is after the backup was put back in the place of `rooms`, which is closed."""
    put_back(path / backup, rooms.data)
    async with rooms_open(path, witnesses=[memory], clock=rooms.clock) as opened:
        yield opened
