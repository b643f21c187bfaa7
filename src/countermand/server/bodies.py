"""What the admin API takes and gives, as JSON. Times are RFC 3339, UTC."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from countermand.authority.model import Application, IssuedMandate, Revocation, Session, SubjectType
from countermand.authority.service import MAX_SESSION_S


class _Body(BaseModel):
    """What a caller sends: an unknown field is an error, and a number in quotes is no number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NewApplication(_Body):
    name: str


class NewSession(_Body):
    application_id: str
    subject: str
    subject_type: Annotated[SubjectType, Field(strict=False)] = SubjectType.USER
    lifetime_s: Annotated[int, Field(ge=1, le=MAX_SESSION_S)] = 43_200


class NewMandate(_Body):
    audience: Annotated[list[str], Field(min_length=1)]
    scope: list[str] = []


class NewRevocation(_Body):
    kind: Literal["session"]
    id: str
    reason: str = ""


class ApplicationOut(BaseModel):
    id: str
    name: str
    created_at: datetime

    @classmethod
    def of(cls, application: Application) -> "ApplicationOut":
        return cls(id=application.id, name=application.name, created_at=_instant(application.created_at_ms))


class SessionOut(BaseModel):
    id: str
    subject: str
    subject_type: SubjectType
    application_id: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None

    @classmethod
    def of(cls, session: Session) -> "SessionOut":
        return cls(
            id=session.id,
            subject=session.subject,
            subject_type=session.subject_type,
            application_id=session.application_id,
            created_at=_instant(session.created_at_ms),
            expires_at=_instant(session.expires_at_ms),
            revoked_at=None if session.revoked_at_ms is None else _instant(session.revoked_at_ms),
        )


class SessionsOut(BaseModel):
    """`next` is for the query's `after`; None on the last page."""

    sessions: list[SessionOut]
    next: str | None


class MandateOut(BaseModel):
    """The names of RFC 6749 §5.1."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"
    expires_in: int

    @classmethod
    def of(cls, mandate: IssuedMandate) -> "MandateOut":
        return cls(access_token=mandate.token, expires_in=mandate.expires_in_s)


class RevocationOut(BaseModel):
    """`seq` is the entry of the ledger: whoever has applied it enforces this."""

    seq: int
    generation: int
    kind: str
    id: str
    reason: str
    revoked_at: datetime
    is_new: bool

    @classmethod
    def of(cls, revocation: Revocation) -> "RevocationOut":
        return cls(
            seq=revocation.seq,
            generation=revocation.generation,
            kind=revocation.kind.text,
            id=revocation.id,
            reason=revocation.reason,
            revoked_at=_instant(revocation.at_ms),
            is_new=revocation.is_new,
        )


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
