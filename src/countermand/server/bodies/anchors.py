"""Applications, sessions, agents, grants and delegations; what each rests on, and the tree of what rests on it."""

from typing import Annotated

from pydantic import Field

from countermand.authority.checks import MAX_DEPTH, MAX_LABELS
from countermand.authority.model import SubjectType
from countermand.server.bodies.parts import (
    Answer,
    Audience,
    Body,
    CreatedAt,
    ExpiresAt,
    ExpiresAtOrNone,
    KindText,
    Label,
    Life,
    PageOut,
    RevokedAt,
    TimeOrNone,
)

Labels = Annotated[list[Label], Field(max_length=MAX_LABELS)]

_ClosedAt = Annotated[TimeOrNone, Field(validation_alias="closed_at_ms")]
_Scope = Annotated[list[str], Field(validation_alias="scopes")]


class NewApplication(Body):
    name: str
    labels: Labels = []


class NewSession(Body):
    application_id: str
    subject: str | None = None
    subject_type: Annotated[SubjectType, Field(strict=False)] = SubjectType.USER
    lifetime_s: Life = 43_200
    parent_id: str | None = None
    labels: Labels = []


class NewAgent(Body):
    application_id: str
    name: str
    session_id: str | None = None
    parent_id: str | None = None
    delegation_id: str | None = None
    lifetime_s: Life = 3_600
    labels: Labels = []


class NewGrant(Body):
    application_id: str
    subject: str
    scope: list[str]
    audience: Audience
    lifetime_s: Life = 31_536_000
    labels: Labels = []


class NewDelegation(Body):
    source_id: str
    target_id: str
    scope: list[str]
    audience: Audience
    lifetime_s: Life = 3_600
    depth: Annotated[int, Field(ge=0, le=MAX_DEPTH)] = 0
    parent_id: str | None = None
    labels: Labels = []


class NodeOut(Answer):
    id: str
    kind: KindText
    name: str
    parent_id: str | None
    target_id: str | None
    expires_at: ExpiresAtOrNone
    revoked_at: RevokedAt
    stands: bool


class _AnchoredOut(Answer):
    """`stands` is false once it has expired, or it or what it rests on is revoked or cut off."""

    id: str
    created_at: CreatedAt
    revoked_at: RevokedAt
    stands: bool
    labels: list[str]


class _LineageOut(Answer):
    """`lineage` is all that it rests on, root first."""

    lineage: list[NodeOut]


class ApplicationOut(_AnchoredOut):
    name: str


class ApplicationRead(ApplicationOut, _LineageOut):
    pass


class ApplicationsOut(PageOut[ApplicationOut]):
    pass


class SessionOut(_AnchoredOut):
    subject: str
    subject_type: SubjectType
    application_id: str
    parent_id: str | None
    expires_at: ExpiresAt


class SessionRead(SessionOut, _LineageOut):
    pass


class SessionsOut(PageOut[SessionOut]):
    pass


class AgentOut(_AnchoredOut):
    name: str
    application_id: str
    session_id: str
    parent_id: str | None
    delegation_id: str | None
    is_delegated: bool
    expires_at: ExpiresAt


class AgentRead(AgentOut, _LineageOut):
    pass


class AgentsOut(PageOut[AgentOut]):
    pass


class GrantOut(_AnchoredOut):
    subject: str
    application_id: str
    scope: _Scope
    audience: list[str]
    expires_at: ExpiresAt
    closed_at: _ClosedAt


class GrantRead(GrantOut, _LineageOut):
    pass


class GrantsOut(PageOut[GrantOut]):
    pass


class DelegationOut(_AnchoredOut):
    source_id: str
    target_id: str
    parent_id: str | None
    grant_id: str
    scope: _Scope
    audience: list[str]
    depth: int
    expires_at: ExpiresAt


class DelegationRead(DelegationOut, _LineageOut):
    pass


class DelegationsOut(PageOut[DelegationOut]):
    pass


class TreeOut(Answer):
    """Every node after those that it rests on. `is_whole` False: there are more."""

    nodes: list[NodeOut]
    is_whole: bool
