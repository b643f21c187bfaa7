"""Witnesses: who else has seen the ledger, and whether it is still the one that they saw.

A database that was restored from a backup has forgotten revocations, and two that were restored from one backup make
two histories. Neither can be seen from within. So what was signed before, and lies elsewhere, is compared with the
ledger: what goes beyond it, has another link at one position, or is by a key that the register has forgotten,
contradicts it. From then on the head is disputed, for every process of this authority and over restarts, until
`recovery` has begun another generation.

A witness proves what it says by a checkpoint that we signed. Nobody who cannot sign can stop us.
Source: docs/protocol.md, "Succession"; docs/adr/0014.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import dataclass
from typing import Final, Protocol

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.database import Database, beginning_with
from countermand.authority.keys import Keys
from countermand.authority.ledger import Ledger, read_head
from countermand.errors import BadAnswerError, CountermandError, DisputedError, LogError
from countermand.log.chain import Candidate
from countermand.log.checkpoint import Checkpoint, Pin, claimed_rev, parse_checkpoint
from countermand.log.freshness import Instant
from countermand.log.ports import Batch, LogWriter

WAIT_S: Final = 5.0
"""How long a start waits for a witness. One that comes later is still heard before anything is published over it."""
TELL_S: Final = 60.0
"""How long a witness may take to tell all that it holds."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """What a witness holds, unverified: candidates for entries, successions, a snapshot or no bytes, and keysets."""

    candidates: Sequence[Candidate] = ()
    successions: Sequence[bytes] = ()
    snapshot: bytes = b""
    keysets: Sequence[bytes] = ()


class Witness(Protocol):
    """Something that has seen the ledger, and outlives its database. Every method raises only TransportError."""

    @property
    def name(self) -> str:
        """What an operator calls it."""
        ...

    async def furthest(self) -> Sequence[bytes]:
        """Return signed checkpoints, unverified, the furthest among them."""
        ...

    async def told(self) -> Told:
        """Return all that it holds."""
        ...


class LogHolder(Protocol):
    """What reads a way on which the log was published, though nobody writes there now. Raises only TransportError."""

    def held(self) -> AsyncGenerator[Batch, None]:
        """Yield every entry, every succession and every keyset that is there, and end."""
        ...

    def snapshot(self) -> AsyncGenerator[bytes, None]:
        """See LogReader.snapshot."""
        ...


class LogWitness:
    """A way on which the log was published: it holds checkpoints, the entries of a day, and a snapshot below them."""

    def __init__(
        self,
        name: str,
        open_writer: Callable[[], AbstractAsyncContextManager[LogWriter]],
        holder: LogHolder,
    ) -> None:
        self.name = name
        self._open_writer = open_writer
        self._holder = holder

    async def furthest(self) -> Sequence[bytes]:
        """See Witness.furthest."""
        async with self._open_writer() as writer:
            return (await writer.look()).checkpoints

    async def told(self) -> Told:
        """See Witness.told."""
        candidates: list[Candidate] = []
        successions: set[bytes] = set()
        keysets: list[bytes] = []
        async with aclosing(self._holder.held()) as batches:
            async for batch in batches:
                candidates += batch.candidates
                successions.update(batch.successions)
                keysets += batch.keysets
        snapshot = bytearray()
        with suppress(BadAnswerError):  # there is none
            async with aclosing(self._holder.snapshot()) as chunks:
                async for chunk in chunks:
                    snapshot += chunk
        return Told(candidates, tuple(successions), bytes(snapshot), keysets)


@dataclass(frozen=True, slots=True)
class Testimony:
    """A checkpoint of ours, as it was signed, and which witness holds it."""

    witness: str
    signed: bytes

    @property
    def checkpoint(self) -> Checkpoint:
        """What it says."""
        return parse_checkpoint(self.signed).claimed


class Witnesses:
    """All who are asked, or report by themselves. What contradicts the ledger is kept in the database."""

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        keys: Keys,
        witnesses: Sequence[Witness],
        clock: Callable[[], Instant],
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._keys = keys
        self._clock = clock
        self.witnesses = witnesses

    @property
    def pin(self) -> Pin:
        """Whose word is heard: every key's that ever signed here, and was not withdrawn."""
        return self._keys.witnessed

    async def compare(self) -> None:
        """Ask every witness, and dispute the head where one contradicts it. One that does not answer is passed over."""
        self._keys.look_for_files()
        for witness in self.witnesses:
            await self._ask(witness)

    async def hear(self, witness: str, signed: Iterable[bytes]) -> None:
        """Compare the furthest of these checkpoints that we signed; older generations are settled.

        Raises: DisputedError, where it contradicts the ledger; that is kept. BusyError, DataError.
        """
        furthest = self.furthest(signed)
        if furthest is None:
            return
        async with self._database.read() as connection:
            if not await self.lack(connection, furthest):
                return
        with beginning_with(None):  # the request in which we hear this is not done by that
            await self._database.write(lambda connection: self._dispute(connection, witness, furthest))
        raise DisputedError

    async def lack(self, connection: AsyncConnection, signed: bytes) -> str:
        """Return what the database does not hold of a checkpoint of ours; empty, where nothing. See Ledger.agrees."""
        unverified = parse_checkpoint(signed)
        rev, link = unverified.claimed.rev, unverified.claimed.link
        if not await self._ledger.agrees(connection, rev, link):
            return "the ledger does not hold that"
        if await self._keys.registers(connection, unverified.signer.hex()):
            return ""
        is_settled = rev.generation < (await read_head(connection)).rev.generation
        return "" if is_settled else "the register does not hold the key that signed it"

    def furthest(self, signed: Iterable[bytes], pin: Pin | None = None) -> bytes | None:
        """Return the furthest of these checkpoints that we signed; of those alone that a key of `pin` did, if given."""
        return next((one for one in sorted(signed, key=claimed_rev, reverse=True) if self._is_ours(one, pin)), None)

    async def note_report(self, replica_id: str, signed: bytes) -> None:
        """Take note of the newest checkpoint that a replica has applied, which proves its position.

        Raises: as `hear`.
        """
        await self.hear(f"replica {replica_id}", [signed])

    async def testimonies(self, connection: AsyncConnection, pin: Pin) -> list[Testimony]:
        """Return what is kept of what contradicts the ledger and was said by a key of `pin`.

        Another key is withdrawn since, or is about to be.
        """
        rows = (await connection.execute(select(tables.testimonies))).all()
        return [Testimony(row.witness, row.signed) for row in rows if self._is_ours(row.signed, pin)]

    def _is_ours(self, signed: bytes, pin: Pin | None = None) -> bool:
        try:
            parse_checkpoint(signed).verify(pin or self.pin)
        except LogError:
            return False
        return True

    async def _ask(self, witness: Witness) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                signed = await witness.furthest()
        except (TimeoutError, CountermandError) as error:
            reason = str(error) or f"no answer within {WAIT_S:g} s"
            _log.warning("%s cannot say whether the ledger is whole, and we go on: %s", witness.name, reason)
            return
        with suppress(DisputedError):  # it is kept, and stops whoever signs
            await self.hear(witness.name, signed)

    async def _dispute(self, connection: AsyncConnection, witness: str, signed: bytes) -> None:
        """Keep a testimony, and dispute the head; unless it was mended since it was looked at.

        The head is locked first: whoever mends it clears away what is kept under the same lock.
        """
        await connection.execute(select(tables.head).with_for_update())
        lack = await self.lack(connection, signed)
        if not lack:
            return
        rev = claimed_rev(signed)
        now_ms = self._clock().wall_ms
        kept = tables.testimonies
        known = (await connection.execute(select(kept.c.signed).where(kept.c.witness == witness))).scalar()
        if known is not None and claimed_rev(known) >= rev and self._is_ours(known):
            return
        await connection.execute(delete(kept).where(kept.c.witness == witness))
        await connection.execute(insert(kept).values(witness=witness, signed=signed, heard_at_ms=now_ms))
        head = tables.head
        await connection.execute(update(head).where(head.c.disputed_at_ms.is_(None)).values(disputed_at_ms=now_ms))
        _log.error(
            "%s has seen %d.%d, and %s: %s",
            witness,
            rev.generation,
            rev.seq,
            lack,
            DisputedError(),
            extra={"code": DisputedError.code},
        )
