"""A resource server beside the rooms of an authority: a real replica that applies what was signed, and a real guard."""

import os
from typing import Final

from countermand.enforce.decision import Allow, Decision
from countermand.enforce.guard import Guard
from countermand.log.state import LogState
from countermand.replica.replica import Replica
from countermand.tokens.jwks import StaticKeys
from tests.integration.rooms import ISSUER, Rooms

TOOLS: Final = "https://tools.example"
"""The audience of every mandate here."""


class Verifier:
    """Decides by what the authority has signed up to the question."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._state = LogState(rooms.pin)
        keys = StaticKeys(rooms.service.minting.key_set)
        replica = Replica(self._state, rooms.clock, local=True)
        self._guard = Guard(
            keys,
            replica,
            issuer=ISSUER,
            audience=TOOLS,
            clock_s=lambda: self._rooms.clock.wall_ms / 1000,
            random=os.urandom,
        )

    async def apply(self) -> None:
        """Bring the replica to where the ledger is."""
        head = (await self._rooms.head()).rev.seq
        async for page in self._rooms.ledger.pages(self._state.rev.seq, head):
            for candidate in page:
                self._state.add(candidate)
        self._state.accept((await self._rooms.heartbeat.sign()).signed, self._rooms.clock())
        while self._state.advance():
            pass

    async def decide(self, token: str) -> Decision:
        """Return the guard's decision, by what the replica has applied."""
        return await self._guard.decide(token)

    async def passing(self, **tokens: str) -> set[str]:
        """Return the names of the tokens that pass, once all is applied."""
        await self.apply()
        return {name for name, token in tokens.items() if isinstance(await self.decide(token), Allow)}
