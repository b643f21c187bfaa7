"""Biscuits: revoked by token."""

from typing import Annotated

from pydantic import Field

from countermand.log.codec import MAX_MS
from countermand.server.bodies.parts import Body

_Block = Annotated[int, Field(ge=0, le=MAX_MS)]


class NewBiscuitRevocation(Body):
    """`block` null is the last: this token and what derives from it. Block 0 is the whole family."""

    token: Annotated[str, Field(repr=False)]
    block: _Block | None = None
    reason: str = ""
    dry_run: bool = False
