"""Checkpoints: signed every second, and with every revocation.

The rules, each from an attack:
    1. The time is taken before the head is read, so a checkpoint never claims more than it knows.
    2. Every checkpoint costs one committed transaction; nothing is signed from memory, and nothing before the commit.
    3. Where wall clock and boot clock disagree on how much time has passed, nothing is signed, and we say so.

The transaction that revokes is as good as any, for it has written, and locked the head: when it is answered, its
checkpoint is on its way.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import case, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.database import Database
from countermand.authority.ledger import Appended, Head, Ledger
from countermand.errors import AuthorityError, ClockError
from countermand.log.anchor import Rev
from countermand.log.checkpoint import Checkpoint
from countermand.log.freshness import Instant
from countermand.log.state import CLOCK_TOLERANCE_MS

INTERVAL_S: Final = 1.0

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint and its signed bytes."""

    checkpoint: Checkpoint
    signed: bytes


class Heartbeat:
    """Signs checkpoints while `run` runs, and tells all who wait for the next."""

    def __init__(
        self, database: Database, ledger: Ledger, key: Ed25519PrivateKey, clock: Callable[[], Instant]
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._key = key
        self._clock = clock
        self._last_signed: Instant | None = None
        self._newest: SignedCheckpoint | None = None
        self._wanted = asyncio.Event()
        self._came = asyncio.Event()
        self._closed = False

    def sign_soon(self) -> None:
        """Ask for a checkpoint now; many requests make one."""
        self._wanted.set()

    def close(self) -> None:
        """Sign no more, and end every wait for a checkpoint."""
        self._closed = True
        self._came.set()
        self._wanted.set()

    async def after(self, seen: SignedCheckpoint | None) -> SignedCheckpoint | None:
        """Return the newest checkpoint once it is another than `seen`; None when no more will come."""
        while not self._closed:
            if self._newest is not None and self._newest is not seen:
                return self._newest
            await self._came.wait()
        return None

    async def run(self) -> None:
        """Sign, for ever. A failure is logged, and tried again a second later."""
        try:
            while not self._closed:
                self._wanted.clear()
                try:
                    self._announce(await self.sign())
                except AuthorityError as error:
                    _log.error("no checkpoint: %s", error, extra={"code": error.code})
                await self._pause()
        finally:
            self.close()

    async def sign(self) -> SignedCheckpoint:
        """Return a checkpoint of this moment. Raises: ClockError, DataError, BusyError."""
        now = self._clock()
        self._check(now)
        head = await self._database.write(lambda connection: self._beat(connection, now))
        return self._signed(head, now)

    async def commit(self, work: Callable[[AsyncConnection], Awaitable[tuple[_T, Sequence[Appended]]]]) -> _T:
        """Return what `work` returns beside the entries that it appends; a checkpoint of them is on its way.

        It is one transaction that may write. Where nothing can be signed, it is committed all the same.
        Raises: as Database.write.
        """
        now = self._clock()
        try:
            result, appended = await self._database.write(work)
        except asyncio.CancelledError:
            self.sign_soon()  # whoever gives up does not stop the commit
            raise
        if appended:
            self._ledger.remember([one.candidate for one in appended])
            self._sign_appended(appended[-1], now)
        return result

    def _sign_appended(self, last: Appended, now: Instant) -> None:
        try:
            self._check(now)
        except ClockError:
            self.sign_soon()  # it fails as well, and says why
        else:
            self._announce(self._signed(Head(last.entry.rev, last.candidate.link), now))

    async def _beat(self, connection: AsyncConnection, now: Instant) -> Head:
        """Note the time, which never goes back in the database, and read the head. It writes every time: rule 2."""
        noted = tables.heartbeat.c.at_ms
        later = case((noted < now.wall_ms, now.wall_ms), else_=noted)
        await connection.execute(update(tables.heartbeat).values(at_ms=later))
        return await self._ledger.head(connection)

    def _signed(self, head: Head, now: Instant) -> SignedCheckpoint:
        checkpoint = Checkpoint(self._ledger.log_id, head.rev, head.link, now.wall_ms)
        self._last_signed = now
        return SignedCheckpoint(checkpoint, checkpoint.sign(self._key))

    def _check(self, now: Instant) -> None:
        last = self._last_signed
        if last is None:
            return
        disagreement_ms = abs((now.wall_ms - last.wall_ms) - (now.boot_ms - last.boot_ms))
        if disagreement_ms > CLOCK_TOLERANCE_MS:
            raise ClockError(
                f"the wall clock jumped by {disagreement_ms} ms against the boot clock: set it right, or start again"
            )

    def _announce(self, signed: SignedCheckpoint) -> None:
        if self._newest is not None and _order(signed) < _order(self._newest):
            return  # a later commit was quicker
        self._newest = signed
        came, self._came = self._came, asyncio.Event()
        came.set()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(INTERVAL_S):
                await self._wanted.wait()
        except TimeoutError:
            return


def _order(signed: SignedCheckpoint) -> tuple[Rev, int]:
    return signed.checkpoint.rev, signed.checkpoint.at_ms
