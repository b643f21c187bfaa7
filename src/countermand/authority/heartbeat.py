"""Checkpoints: signed every second, and with every revocation.

The rules, each from an attack:
    1. The time is taken before the head is read, so a checkpoint never claims more than it knows.
    2. Every checkpoint costs one committed transaction; nothing is signed from memory, and nothing before the commit.
    3. Where wall clock and boot clock disagree on how much time has passed, nothing is signed, and we say so.
    4. Before the first checkpoint, and when this may be another database, the witnesses are asked. Where one of them
       contradicts the ledger, or what was signed here is not in it, nothing is signed or appended until it is mended.

The transaction that revokes is as good as any, for it has written, and locked the head: when it is answered, its
checkpoint is on its way.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Self, TypeVar

from sqlalchemy import case, false, null, or_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import audit, tables
from countermand.authority.appending import Appended, Step, append, audit_end
from countermand.authority.database import Database, Work
from countermand.authority.keys import Keys
from countermand.authority.ledger import Head, Ledger, read_head
from countermand.authority.witnesses import Witnesses
from countermand.errors import AuthorityError, BusyError, ClockError, DataError, DisputedError, UnconfirmedError
from countermand.log.anchor import Rev
from countermand.log.audit import AuditEnd
from countermand.log.checkpoint import Checkpoint
from countermand.log.entry import Entry
from countermand.log.freshness import Instant
from countermand.log.state import CLOCK_TOLERANCE_MS

INTERVAL_S: Final = 1.0
LONGEST_MS: Final = 1_000
"""A revocation that takes longer is an alarm."""
ALARM_MS: Final = 10_000
"""How often that alarm is raised, at the most."""
LEASE_MS: Final = 2_000
"""How long nobody else relays after whoever does has last said so."""

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class _UnaskedError(BusyError):
    """The witnesses were not asked of the database that is called `identity`."""

    def __init__(self, identity: str) -> None:
        super().__init__("the authority's database is another than before")
        self.identity = identity


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint and its signed bytes; it signs row `audited` of the audit."""

    checkpoint: Checkpoint
    signed: bytes
    audited: int


@dataclass(frozen=True, slots=True)
class Change(Generic[_T]):
    """What a transaction wants appended, and what its caller is answered once the entries have their numbers."""

    answer: Callable[[Sequence[Entry]], _T]
    steps: Sequence[Step] = ()

    @classmethod
    def none(cls, answer: _T) -> Self:
        """Return the change that appends nothing."""
        return cls(lambda _entries: answer)


@dataclass(frozen=True, slots=True)
class _Beat:
    """What one heartbeat has seen, up to which row of the audit a kept checkpoint signs, and whether we may relay."""

    head: Head
    audited: AuditEnd
    sealed: int
    leads: bool


class Heartbeat:
    """Signs checkpoints while `run` runs, and tells all who wait for the next.

    Of several processes on one database each has its own. The one that `leads` relays: an economy, no more, for a relay
    looks whether another has written before it writes. Set `may_lead` where there is a way to relay on, and it works.
    """

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        keys: Keys,
        clock: Callable[[], Instant],
        witnesses: Witnesses,
        process_id: str = "",
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._keys = keys
        self.witnesses = witnesses
        self._asked: str | None = None  # the database of which the witnesses were asked
        self._highest: SignedCheckpoint | None = None
        self._clock = clock
        self._process_id = process_id
        self._slow: list[int] = []  # since the last alarm, how long they took
        self._quiet_until_ms = 0
        self._agrees = True  # the database with us, on the time and on what was audited, when last seen
        self.may_lead = False
        self.leads = False
        self._last_signed: Instant | None = None
        self._newest: SignedCheckpoint | None = None
        self._beaten: _Beat | None = None  # what the last heartbeat has seen
        self._sealed = 0  # up to which row of the audit a kept checkpoint signs, when last seen
        self._wanted = asyncio.Event()
        self._came = asyncio.Event()
        self._closed = False

    @property
    def newest(self) -> SignedCheckpoint | None:
        """The newest checkpoint; None where nothing was signed yet."""
        return self._newest

    def sign_soon(self) -> None:
        """Ask for a checkpoint now; many requests make one."""
        self._wanted.set()

    def heard(self, seq: int) -> None:
        """Take note that the ledger ends at `seq` by now; another process may have appended."""
        if self._newest is None or self._newest.checkpoint.rev.seq < seq:
            self.sign_soon()

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
                    if isinstance(error, DisputedError):
                        self._newest = None  # whoever comes now is told nothing
                    _log.error("no checkpoint: %s", error, extra={"code": error.code})
                await self._pause()
        finally:
            self.close()

    async def sign(self) -> SignedCheckpoint:
        """Return a checkpoint of this moment. Raises: ClockError, DisputedError, DataError, BusyError."""
        now, highest = self._clock(), self._highest
        self._check(now)
        if highest is not None:
            await self._require_own(highest)
        beat = await self._write(lambda connection: self._beat(connection, now), urgent=True)
        self._sealed, self._beaten, self.leads = beat.sealed, beat, beat.leads
        return self._signed(beat.head, beat.audited, now)

    async def commit(
        self, work: Callable[[AsyncConnection], Awaitable[Change[_T]]], *, urgent: bool, alone: bool = False
    ) -> _T:
        """Append what `work` wants, and return its answer; a checkpoint of that is on its way.

        It is one transaction that may write. Where the clocks let nothing be signed, it is committed all the same.
        Raises: as Database.write; DisputedError, where the ledger is not what was signed or witnessed.
        """

        async def appending(connection: AsyncConnection) -> tuple[_T, Sequence[Appended], AuditEnd | None]:
            change = await work(connection)
            if not change.steps:
                await self._database.confirm(connection)  # what others have committed is read, and may be unconfirmed
                return change.answer(()), (), None
            appended, audited = await append(self._database, connection, change.steps, now.wall_ms)
            return change.answer([one.entry for one in appended]), appended, audited

        now, highest = self._clock(), self._highest
        try:
            answer, appended, audited = await self._write(appending, urgent=urgent, alone=alone)
        except (asyncio.CancelledError, UnconfirmedError):
            self.sign_soon()  # whoever gives up does not stop the commit
            raise
        finally:
            self._complain_after(now)
        if audited is not None and appended and not alone:  # a recovery may change who signs, and asks for it then
            if highest is not None and appended[0].entry.rev <= highest.checkpoint.rev:
                self.sign_soon()  # which finds out, and makes it known
                raise DisputedError
            self._ledger.remember([one.candidate for one in appended])
            self._sign_appended(appended[-1], audited, now)
        return answer

    def _complain_after(self, began: Instant) -> None:
        """Raise the alarm where a revocation took long; once in a while, for all that did."""
        now_ms = self._clock().boot_ms
        if now_ms - began.boot_ms <= LONGEST_MS:
            return
        self._slow.append(now_ms - began.boot_ms)
        if now_ms >= self._quiet_until_ms:
            _log.error("%d revocations took up to %d ms of the database", len(self._slow), max(self._slow))
            self._quiet_until_ms = now_ms + ALARM_MS
            self._slow.clear()

    def _sign_appended(self, last: Appended, audited: AuditEnd, now: Instant) -> None:
        try:
            self._check(now)
            if self._agrees:
                self._announce(self._signed(Head(last.entry.rev, last.candidate.link), audited, now))
        except (ClockError, DataError):
            self.sign_soon()  # it fails as well, and says why

    async def _write(self, work: Work[_T], *, urgent: bool, alone: bool = False) -> _T:
        """Write, where the witnesses were asked of this very database; else ask them first. Raises: as Database.write.

        It is looked at in the transaction: between two of them a standby may be promoted.
        """

        async def checked(connection: AsyncConnection) -> _T:
            identity = await self._database.identity(connection)
            if identity != self._asked:
                raise _UnaskedError(identity)
            return await work(connection)

        try:
            return await self._database.write(checked, urgent=urgent, alone=alone)
        except _UnaskedError as unasked:
            await self.witnesses.compare()
            self._asked = unasked.identity
        return await self._database.write(checked, urgent=urgent, alone=alone)

    async def _require_own(self, highest: SignedCheckpoint) -> None:
        """Refuse a ledger without what was signed here: another was restored beneath us. Raises: DisputedError."""
        await self.witnesses.hear("this process", [highest.signed])

    async def _beat(self, connection: AsyncConnection, now: Instant) -> "_Beat":
        """Note the time, which never goes back in the database; read the heads, and which key signs.

        It writes every time: rule 2.
        """
        noted, relay, relay_at_ms = tables.heartbeat.c.at_ms, tables.heartbeat.c.relay, tables.heartbeat.c.relay_at_ms
        later = case((noted < now.wall_ms, now.wall_ms), else_=noted)
        ours = relay == self._process_id
        vacant = or_(relay.is_(None), relay_at_ms < now.wall_ms - LEASE_MS, relay_at_ms > now.wall_ms + LEASE_MS)
        mine = or_(ours, vacant) if self.may_lead else false()
        leader = case((mine, self._process_id), (ours, null()), else_=relay)
        led_at_ms = case((mine, now.wall_ms), else_=relay_at_ms)
        values = update(tables.heartbeat).values(at_ms=later, relay=leader, relay_at_ms=led_at_ms)
        leads = (await connection.execute(values.returning(relay))).scalar_one() == self._process_id
        await self._keys.look(connection)
        _ = self._keys.checkpoint  # whoever cannot sign has nothing to relay, and gives the lease up
        head = (await read_head(connection)).require_undisputed()
        audited = await audit_end(connection)
        await self._require_audited(connection, head)
        self._compare(await self._database.clock_ms(connection), now)
        return _Beat(head, audited, await self._seal(connection), leads)

    async def _require_audited(self, connection: AsyncConnection, head: Head) -> None:
        """Refuse an audit that was rewritten beneath us; a recovery begins with another one. Raises: DataError."""
        before = self._beaten
        if before is None or before.head.rev.generation != head.rev.generation:
            return
        try:
            await audit.require_unchanged(connection, before.audited)
        except DataError:
            self._agrees = False
            raise

    async def _seal(self, connection: AsyncConnection) -> int:
        """Keep the newest checkpoint, if it signs more of the audit than any that is kept; return how far one does."""
        newest = self._newest
        if newest is None or newest.audited <= self._sealed:
            return self._sealed
        return await audit.seal(connection, newest.audited, newest.checkpoint.at_ms, newest.signed)

    def _compare(self, database_ms: int | None, before: Instant) -> None:
        """Refuse a database's clock that is not ours, within the tolerance. Raises: ClockError."""
        after_ms = self._clock().wall_ms if database_ms is not None else 0
        self._agrees = database_ms is None or (
            before.wall_ms - CLOCK_TOLERANCE_MS <= database_ms <= after_ms + CLOCK_TOLERANCE_MS
        )
        if not self._agrees:
            raise ClockError("the database's clock and ours are more than a second apart: set the wrong one right")

    def _signed(self, head: Head, audited: AuditEnd, now: Instant) -> SignedCheckpoint:
        checkpoint = Checkpoint(self._ledger.log_id, head.rev, head.link, now.wall_ms, audited.link)
        self._last_signed = now
        signed = SignedCheckpoint(checkpoint, checkpoint.sign(self._keys.checkpoint), audited.number)
        if self._highest is None or _order(self._highest) < _order(signed):
            self._highest = signed
        return signed

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
