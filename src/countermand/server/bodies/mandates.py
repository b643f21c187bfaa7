"""Mandates, as the admin API and the token endpoint give them."""

from typing import Final, Literal, Self

from pydantic import BaseModel

from countermand.authority.model import IssuedMandate
from countermand.server.bodies.parts import Audience, Body

ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"


class NewMandate(Body):
    audience: Audience
    scope: list[str] = []


class MandateOut(BaseModel):
    """The names of RFC 6749 §5.1."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"
    expires_in: int
    scope: str

    @classmethod
    def of(cls, mandate: IssuedMandate) -> Self:
        return cls(access_token=mandate.token, expires_in=mandate.expires_in_s, scope=" ".join(mandate.scopes))


class ExchangeOut(MandateOut):
    """The names of RFC 8693 §2.2.1."""

    issued_token_type: str = ACCESS_TOKEN
