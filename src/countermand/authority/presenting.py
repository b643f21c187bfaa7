"""Tokens that are presented: to be ended by their holder, or, of mandates, to hear whether they stand.

Nothing that a token says counts before its signature held: a forged one ends nothing, and is told apart from no other
that does not stand. Source: RFC 7009; RFC 7662; docs/adr/0010 and 0019.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority.biscuits import Biscuits
from countermand.authority.database import Database
from countermand.authority.ledger import Ledger, read_head
from countermand.authority.lineage import Lineage, kept_ids, load
from countermand.authority.minting import Minting
from countermand.authority.revoking import Revoking
from countermand.errors import ForbiddenError, NotActiveError, NotFoundError, TokenError
from countermand.log.anchor import Kind
from countermand.log.freshness import Instant
from countermand.tokens.mandate import Mandate

REASON: Final = "ended by its holder"
"""What the ledger says of a token that was ended by the application which presented it."""


class Presenting:
    """Ends tokens for their holders, and says which mandates stand."""

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        minting: Minting,
        revoking: Revoking,
        biscuits: Biscuits,
        clock: Callable[[], Instant],
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._minting = minting
        self._revoking = revoking
        self._biscuits = biscuits
        self._clock = clock

    async def end(self, client_id: str, token: str) -> None:
        """End a mandate that was issued to an application, and all that it was exchanged for; nothing above it.

        Its entry is in the ledger when this returns. A Biscuit is held by whoever presents it, and its last block ends
        with what derives from it. What is no token of ours, or has ended, is ended already.

        Raises:
            ForbiddenError: it was issued to another application, and goes on.
            UnsupportedTokenError: it could be a Biscuit, and none can be verified here.
        """
        async with self._database.read() as connection:
            mandate, now_ms = await self._read(connection, token)
            has_ended = False
            if mandate is not None:
                if mandate.client_id != client_id:
                    raise ForbiddenError("the token was issued to another application, which alone may end it")
                has_ended = await self._ledger.revoked_among(connection, mandate.all_anchors(), now_ms) is not None
        if mandate is None:
            await self._biscuits.end(token, REASON)
        elif has_ended:
            await self._revoking.confirm()
        else:
            await self._revoking.revoke(Kind.TOKEN, mandate.token_id or "", REASON, urgent=False)

    async def find_standing(self, token: str, client_id: str | None = None) -> Mandate | None:
        """Return the mandate that `token` is, if it stands; None whatever else it is.

        With `client_id` only if it was issued to that application. It stands if a guard that has applied the whole
        ledger lets it pass, and all that it rests on is in the database and has not ended.

        Raises:
            DisputedError: it may have ended all the same, by an entry that the ledger has lost.
        """
        async with self._database.read() as connection:
            mandate, now_ms = await self._read(connection, token)
            if mandate is None or client_id not in {None, mandate.client_id}:
                return None
            if await self._ledger.revoked_among(connection, mandate.all_anchors(), now_ms) is not None:
                return None
            if not await self._stands(connection, mandate, now_ms):
                return None
            (await read_head(connection)).require_undisputed()
            return mandate

    async def _read(self, connection: AsyncConnection, token: str) -> tuple[Mandate | None, int]:
        """Return the mandate if it is one of ours and within its time; and the time, which never goes back here."""
        now_ms = await self._ledger.time(connection, self._clock().wall_ms)
        try:
            return self._minting.read(token, now_ms), now_ms
        except TokenError:
            return None, now_ms

    async def _stands(self, connection: AsyncConnection, mandate: Mandate, now_ms: int) -> bool:
        """Whether all that it rests on does. A grant that was closed ends nothing that was minted."""
        try:
            lineage = await load(connection, kept_ids(mandate.anchors.path), lock=False)
            minted_by = Lineage([replace(row, closed_at_ms=None) for row in lineage.rows])
            await minted_by.require_standing(connection, self._ledger, now_ms)
        except (NotFoundError, NotActiveError):
            return False
        return True
