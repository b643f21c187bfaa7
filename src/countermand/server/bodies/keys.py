"""Keys for the API, and those with which applications ask for mandates."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field

from countermand.authority.model import NewApiKey, Role
from countermand.server.bodies.parts import Answer, Body, CreatedAt, ExpiresAtOrNone, Life, RevokedAt, TimeOrNone


class NewKey(Body):
    name: str = "made over the admin API"
    lifetime_s: Life | None = None


class NewApiKeyBody(Body):
    """Without `lifetime_s` the key never expires."""

    role: Literal["reader", "operator", "administrator", "replica"]
    name: str
    lifetime_s: Life | None = None


class Why(Body):
    reason: str = ""


class KeyOut(Answer):
    """The names of RFC 6749 §2.3.1. The secret is seen this once."""

    client_id: str
    client_secret: str


class ApiKeyOut(Answer):
    """`last_used_at` is exact to a minute or so."""

    id: str
    role: Role
    name: str
    application_id: str | None
    created_at: CreatedAt
    expires_at: ExpiresAtOrNone
    revoked_at: RevokedAt
    last_used_at: Annotated[TimeOrNone, Field(validation_alias="last_used_at_ms")]


class NewApiKeyOut(BaseModel):
    """The secret is seen this once."""

    key: ApiKeyOut
    secret: str

    @classmethod
    def of_new(cls, made: NewApiKey) -> Self:
        return cls(key=ApiKeyOut.of(made.key), secret=made.secret)


class ApiKeysOut(Answer):
    """`next` is for the query's `after`; None on the last page."""

    items: list[ApiKeyOut]
    next: str | None
