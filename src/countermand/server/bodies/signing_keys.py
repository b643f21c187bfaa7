"""Signing keys."""

from typing import Annotated

from pydantic import BaseModel, Field

from countermand.authority.model import KeyState, Purpose
from countermand.authority.rotation import LONGEST_WAIT_S
from countermand.server.bodies.parts import Answer, Body, CreatedAt, Time, TimeOrNone


class NewRotation(Body):
    """`wait_s`: how long before the new key signs, at the least; if left out, what its purpose needs."""

    purpose: Annotated[Purpose, Field(strict=False)]
    wait_s: Annotated[int | None, Field(ge=0, le=LONGEST_WAIT_S)] = None
    force: bool = False


class Withdrawal(Body):
    reason: str = ""


class SigningKeyOut(Answer):
    id: str
    purpose: Purpose
    algorithm: str
    state: KeyState
    created_at: CreatedAt
    since: Annotated[Time, Field(validation_alias="since_ms")]
    switch_at: Annotated[TimeOrNone, Field(validation_alias="switch_at_ms")]


class SigningKeysOut(BaseModel):
    """`keyset`: the version of the newest one; `pin`: what a new replica is told to believe."""

    keys: list[SigningKeyOut]
    keyset: int
    pin: str
