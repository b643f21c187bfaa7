"""What callers of the authority get. Times are milliseconds since 1970, UTC."""

from dataclasses import dataclass
from enum import StrEnum

from countermand.log.anchor import Kind


class Role(StrEnum):
    """What a caller may do. An administrator may do everything."""

    ADMINISTRATOR = "administrator"
    REPLICA = "replica"


class SubjectType(StrEnum):
    """What a subject is; `sub_type` in a mandate."""

    USER = "user"
    APPLICATION = "application"


@dataclass(frozen=True, slots=True)
class Application:
    """A client to which mandates are issued; `client_id` in a mandate."""

    id: str
    name: str
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class Session:
    """A subject session: the original authenticated context of a user or a service."""

    id: str
    subject: str
    subject_type: SubjectType
    application_id: str
    created_at_ms: int
    expires_at_ms: int
    revoked_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Some sessions, and after which id the next page begins; None on the last."""

    sessions: list[Session]
    next: str | None


@dataclass(frozen=True, slots=True)
class Revocation:
    """Entry `seq` of the ledger. `is_new` is False where it stood there before this call."""

    seq: int
    generation: int
    kind: Kind
    id: str
    reason: str
    at_ms: int
    is_new: bool


@dataclass(frozen=True, slots=True)
class IssuedMandate:
    """A mandate for its holder. The token is a secret: it is in no `repr`."""

    token: str
    expires_in_s: int

    def __repr__(self) -> str:
        return f"IssuedMandate(expires_in_s={self.expires_in_s})"
