"""Biscuits: revoked by token, and registered for what they are to end with."""

from typing import Annotated

from pydantic import Field

from countermand.authority.registering import MOST
from countermand.log.codec import MAX_MS
from countermand.server.bodies.parts import Answer, Body, InstantText, ms_of

_Block = Annotated[int, Field(ge=0, le=MAX_MS)]


class NewBiscuitRevocation(Body):
    """`block` null is the last: this token and what derives from it. Block 0 is the whole family."""

    token: Annotated[str, Field(repr=False)]
    block: _Block | None = None
    reason: str = ""
    dry_run: bool = False


class NewBiscuits(Body):
    """Revocation ids in hex, for a session or a subject of an application. Without `expires_at` nobody knows it."""

    ids: Annotated[list[str], Field(min_length=1, max_length=MOST)]
    session_id: str | None = None
    application_id: str | None = None
    subject: str | None = None
    expires_at: InstantText | None = None

    @property
    def expires_at_ms(self) -> int | None:
        """`expires_at` as `ms_of` reads it."""
        return ms_of("expires_at", self.expires_at)


class BiscuitsOut(Answer):
    """The ids in their canonical form, each once; and how many of them were registered anew."""

    ids: list[str]
    new: int
