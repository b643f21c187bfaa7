"""Biscuits ended one by one: by a bare id, by the token itself, or by whoever holds it.

    1. An id is made canonical before anything is looked up or written: all forms of it are one Biscuit.
    2. What a token says counts once its signatures held: the ids of a forged one end nobody.
    3. An entry is never forgotten, unless the token's own checks say until when anything that carries the id can pass.
       Where one stands that would be forgotten sooner, a longer one is appended: for replicas the later hour counts.
    4. A holder ends the last id of what it holds, never one of an ancestor.

Source: docs/protocol.md, "Biscuit"; docs/adr/0019.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority.appending import Draft
from countermand.authority.checks import check_biscuit_id, check_reason
from countermand.authority.database import Database
from countermand.authority.heartbeat import Change, Heartbeat
from countermand.authority.ledger import Ledger
from countermand.authority.model import NOTHING, Preview, Revocation
from countermand.authority.registered import expiry_of, mark, until_ms
from countermand.authority.views import revocation_of
from countermand.errors import InvalidValueError, TokenError, UnknownTokenKeyError, UnsupportedTokenError
from countermand.log.anchor import Kind
from countermand.log.freshness import Instant
from countermand.tokens.mandate import LEEWAY_S

QUIET_MS: Final = 60_000
"""How often it is logged, at the most, that a root key is not known."""

_log = logging.getLogger(__name__)


class VerifiedBiscuit(Protocol):
    """A Biscuit whose signatures held."""

    @property
    def revocation_ids(self) -> Sequence[str]:
        """The canonical id of every block, that of block 0 first."""

    def ends_at_s(self, block: int) -> int | None:
        """Return after which second since 1970 nothing passes that carries this block's id; None: nobody knows."""


BiscuitReader: TypeAlias = Callable[[str], VerifiedBiscuit]
"""Opens a token and verifies it by the issuer's root keys. Raises: TokenError."""


class Biscuits:
    """Ends Biscuits. `read` None: there are no root keys, and no token can be verified."""

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        heartbeat: Heartbeat,
        read: BiscuitReader | None,
        clock: Callable[[], Instant],
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._heartbeat = heartbeat
        self._reader = read
        self._clock = clock
        self._quiet_until_ms = 0

    async def revoke(self, id_: str, reason: str = "") -> Revocation:
        """Revoke whatever carries this id: a block, and all that was appended to it. The entry is never forgotten.

        Raises: InvalidValueError, where it is no id, or for a reason that the ledger may not hold.
        """
        check_reason(reason)
        return await self._revoke(check_biscuit_id(id_), reason, None, urgent=True)

    async def preview(self, id_: str) -> Preview:
        """Say what `revoke` would end: nothing that is counted. Raises: as `revoke`."""
        check_biscuit_id(id_)
        return Preview(await self._ledger.count(), NOTHING)

    async def revoke_token(self, token: str, block: int | None = None, reason: str = "") -> Revocation:
        """Revoke a block of a token, and all that carries it: the last, if none is named; block 0 is the family.

        Raises:
            InvalidValueError: it has no such block, or a reason that the ledger may not hold.
            TokenError: it is no token of an issuer whose keys are known here.
        """
        check_reason(reason)
        id_, lasts_ms = self._choose(token, block)
        return await self._revoke(id_, reason, lasts_ms, urgent=True)

    async def preview_token(self, token: str, block: int | None = None, reason: str = "") -> Preview:
        """Say what `revoke_token` would end: nothing that is counted. Raises: as `revoke_token`."""
        check_reason(reason)
        self._choose(token, block)
        return Preview(await self._ledger.count(), NOTHING)

    async def end(self, token: str, reason: str) -> None:
        """End a token, and what derives from it, for whoever holds it. Its entry is in the ledger when this returns.

        What is no token of an issuer known here, or has ended, is ended already. That one names a root key which is not
        known is logged, once in a while.

        Raises: UnsupportedTokenError, where no root keys are known at all, and it could be a Biscuit.
        """
        biscuit = self._presented(token)
        if biscuit is None:
            return
        last = len(biscuit.revocation_ids) - 1
        ends_at_s = biscuit.ends_at_s(last)
        async with self._database.read() as connection:
            now_ms = await self._ledger.time(connection, self._clock().wall_ms)
            if ends_at_s is not None and (ends_at_s + LEEWAY_S) * 1000 < now_ms:
                return
        ids = biscuit.revocation_ids
        await self._revoke(ids[last], reason, _until_ms(ends_at_s), ids, urgent=False)

    def _choose(self, token: str, block: int | None) -> tuple[str, int | None]:
        """Return the id of a block, and until when its entry must last. Raises: as `revoke_token`."""
        biscuit = self._read(token)
        ids = biscuit.revocation_ids
        if block is None:
            block = len(ids) - 1
        if not 0 <= block < len(ids):
            raise InvalidValueError(f"the token has no such block: its last is {len(ids) - 1}")
        return ids[block], _until_ms(biscuit.ends_at_s(block))

    def _read(self, token: str) -> VerifiedBiscuit:
        """Return the token, verified. Raises: TokenError."""
        if self._reader is None:
            raise UnknownTokenKeyError("no root keys of Biscuits are known here: COUNTERMAND_BISCUIT_KEYS names them")
        return self._reader(token)

    def _presented(self, token: str) -> VerifiedBiscuit | None:
        """Return the token, verified; None where it is none of an issuer known here. Raises: UnsupportedTokenError."""
        if self._reader is None:
            if "." in token:  # a mandate has them, and a Biscuit has none
                return None
            raise UnsupportedTokenError("no Biscuit can be verified here: the authority knows no root keys of any")
        try:
            return self._reader(token)
        except UnknownTokenKeyError:
            self._warn()
        except TokenError:
            pass
        return None

    def _warn(self) -> None:
        now_ms = self._clock().boot_ms
        if now_ms >= self._quiet_until_ms:
            self._quiet_until_ms = now_ms + QUIET_MS
            _log.warning(
                "a Biscuit was not ended by its holder: COUNTERMAND_BISCUIT_KEYS has no key of the id it names"
            )

    async def _revoke(
        self, id_: str, reason: str, lasts_ms: int | None, enough: Sequence[str] = (), *, urgent: bool
    ) -> Revocation:
        """Revoke an id, unless an entry stands for it, or for one of `enough`, that lasts as long; None: for ever."""

        async def work(connection: AsyncConnection) -> Change[Revocation]:
            await self._database.lock(connection, f"{Kind.BISCUIT.text}::{id_}")  # there may be no row to lock
            now_ms = await self._ledger.time(connection, self._clock().wall_ms)
            await mark(connection, [id_], now_ms)  # before the ledger is asked: whoever ends it too has written there
            known = await self._ledger.find_lasting(connection, Kind.BISCUIT, {id_, *enough}, lasts_ms)
            if known is not None:
                return Change.none(revocation_of(known, NOTHING, is_new=False))
            expires_at_ms = expiry_of(lasts_ms, now_ms, await self._ledger.retention_ms(connection))
            draft = Draft(kind=Kind.BISCUIT, id=id_, at_ms=now_ms, expires_at_ms=expires_at_ms, reason=reason)
            return Change(lambda entries: revocation_of(entries[0], NOTHING), (draft,))

        return await self._heartbeat.commit(work, urgent=urgent)


def _until_ms(ends_at_s: int | None) -> int | None:
    return until_ms(None if ends_at_s is None else ends_at_s * 1000)
