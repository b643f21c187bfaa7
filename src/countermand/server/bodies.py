"""What the admin API takes and gives, as JSON. Times are RFC 3339: UTC in answers, with any offset in requests."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from countermand.authority.checks import LONGEST_S, MAX_DEPTH, MAX_LABEL_CHARS, MAX_LABELS
from countermand.authority.model import (
    IssuedMandate,
    KeyState,
    NewApiKey,
    Purpose,
    ReportedReplica,
    Role,
    SubjectType,
)
from countermand.authority.rotation import LONGEST_WAIT_S
from countermand.authority.trail import AuditPage
from countermand.errors import InvalidValueError
from countermand.log.anchor import Kind
from countermand.log.codec import MAX_MS

_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"

_T = TypeVar("_T")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _instant_of(ms: int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)


def _by_text(counts: Mapping[Kind, int]) -> dict[str, int]:
    return {kind.text: count for kind, count in counts.items()}


def ms_of(name: str, instant: str | None) -> int | None:
    """Return an instant in milliseconds since 1970; a part of one counts as a whole one, so as to end no less.

    Raises: InvalidValueError, where it is no instant; a time without an offset is none.
    """
    if instant is None:
        return None
    is_instant = _RFC_3339.fullmatch(instant) is not None  # what reads it reads more than that
    try:
        moment = datetime.fromisoformat(instant.upper() if is_instant else "")
    except ValueError:
        raise InvalidValueError(f"{name} is an instant such as 2030-01-31T23:59:59Z") from None
    return -((_EPOCH - moment) // timedelta(milliseconds=1))


Life = Annotated[int, Field(ge=1, le=LONGEST_S)]
Audience = Annotated[list[str], Field(min_length=1)]
InstantText = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Label = Annotated[str, Field(min_length=1, max_length=MAX_LABEL_CHARS)]
Labels = Annotated[list[Label], Field(max_length=MAX_LABELS)]

_Time = BeforeValidator(_instant_of)
_CreatedAt = Annotated[datetime, _Time, Field(validation_alias="created_at_ms")]
_ExpiresAt = Annotated[datetime, _Time, Field(validation_alias="expires_at_ms")]
_ClosedAt = Annotated[datetime | None, _Time, Field(validation_alias="closed_at_ms")]
_RevokedAt = Annotated[datetime | None, _Time, Field(validation_alias="revoked_at_ms")]
_Scope = Annotated[list[str], Field(validation_alias="scopes")]
_KindText = Annotated[str, BeforeValidator(lambda kind: kind.text)]


class _Body(BaseModel):
    """What a caller sends: an unknown field is an error, and a number in quotes is no number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NewApplication(_Body):
    name: str
    labels: Labels = []


class NewKey(_Body):
    name: str = "made over the admin API"
    lifetime_s: Life | None = None


class NewApiKeyBody(_Body):
    """Without `lifetime_s` the key never expires."""

    role: Literal["reader", "operator", "administrator", "replica"]
    name: str
    lifetime_s: Life | None = None


class Why(_Body):
    reason: str = ""


class NewSession(_Body):
    application_id: str
    subject: str | None = None
    subject_type: Annotated[SubjectType, Field(strict=False)] = SubjectType.USER
    lifetime_s: Life = 43_200
    parent_id: str | None = None
    labels: Labels = []


class NewMandate(_Body):
    audience: Audience
    scope: list[str] = []


class NewAgent(_Body):
    application_id: str
    name: str
    session_id: str | None = None
    parent_id: str | None = None
    delegation_id: str | None = None
    lifetime_s: Life = 3_600
    labels: Labels = []


class NewGrant(_Body):
    application_id: str
    subject: str
    scope: list[str]
    audience: Audience
    lifetime_s: Life = 31_536_000
    labels: Labels = []


class NewDelegation(_Body):
    source_id: str
    target_id: str
    scope: list[str]
    audience: Audience
    lifetime_s: Life = 3_600
    depth: Annotated[int, Field(ge=0, le=MAX_DEPTH)] = 0
    parent_id: str | None = None
    labels: Labels = []


class NewRevocation(_Body):
    """`issuer` is for what another issuer named; `bare` for what documented tokens name by one namespace for all."""

    kind: Literal["session", "agent", "delegation", "grant", "application", "token", "subject", "key"]
    id: str
    issuer: str = ""
    bare: bool = False
    reason: str = ""
    dry_run: bool = False


class NewCutoff(_Body):
    target: str
    issuer: str = ""
    issued_before: InstantText | None = None
    reason: str = ""
    dry_run: bool = False

    @property
    def before_ms(self) -> int | None:
        """`issued_before` as `ms_of` reads it."""
        return ms_of("issued_before", self.issued_before)


class NewRecovery(_Body):
    """`force`: also where nothing disputes the ledger, and without witnesses that do not answer."""

    keep_sessions: bool = False
    force: bool = False
    dry_run: bool = False


class _Answer(BaseModel):
    """What a caller gets, read from the attributes of a value of the authority's model."""

    model_config = ConfigDict(from_attributes=True)

    @classmethod
    def of(cls, value: object) -> Self:
        return cls.model_validate(value)


class NodeOut(_Answer):
    id: str
    kind: _KindText
    name: str
    parent_id: str | None
    target_id: str | None
    expires_at: Annotated[datetime | None, _Time, Field(validation_alias="expires_at_ms")]
    revoked_at: _RevokedAt
    stands: bool


class _AnchoredOut(_Answer):
    """`stands` is false once it has expired, or it or what it rests on is revoked or cut off."""

    id: str
    created_at: _CreatedAt
    revoked_at: _RevokedAt
    stands: bool
    labels: list[str]


class _LineageOut(_Answer):
    """`lineage` is all that it rests on, root first."""

    lineage: list[NodeOut]


class _PageOut(_Answer, Generic[_T]):
    """Newest first. `next` is for the query's `after`; null on the last page, which alone tells that it is the last."""

    items: list[_T]
    next: str | None


class ApplicationOut(_AnchoredOut):
    name: str


class ApplicationRead(ApplicationOut, _LineageOut):
    pass


class ApplicationsOut(_PageOut[ApplicationOut]):
    pass


class KeyOut(_Answer):
    """The names of RFC 6749 §2.3.1. The secret is seen this once."""

    client_id: str
    client_secret: str


class ApiKeyOut(_Answer):
    """`last_used_at` is exact to a minute or so."""

    id: str
    role: Role
    name: str
    application_id: str | None
    created_at: _CreatedAt
    expires_at: Annotated[datetime | None, _Time, Field(validation_alias="expires_at_ms")]
    revoked_at: _RevokedAt
    last_used_at: Annotated[datetime | None, _Time, Field(validation_alias="last_used_at_ms")]


class NewApiKeyOut(BaseModel):
    """The secret is seen this once."""

    key: ApiKeyOut
    secret: str

    @classmethod
    def of_new(cls, made: NewApiKey) -> Self:
        return cls(key=ApiKeyOut.of(made.key), secret=made.secret)


class ApiKeysOut(_Answer):
    """`next` is for the query's `after`; None on the last page."""

    items: list[ApiKeyOut]
    next: str | None


class AuditRowOut(BaseModel):
    """What is hashed has one spelling: so the time is a number, in milliseconds since 1970, UTC, and `link` is hex."""

    number: int
    at_ms: int
    seq: int | None
    action: str
    target: str
    issuer: str
    reason: str
    role: str
    key_id: str
    application_id: str
    remote: str
    request_id: str
    link: str


class SealOut(BaseModel):
    """A checkpoint in base64url that signs the link of row `number`."""

    number: int
    checkpoint: str


class AuditOut(BaseModel):
    """`next` is for the query's `after`; None on the last page."""

    rows: list[AuditRowOut]
    seals: list[SealOut]
    next: int | None

    @classmethod
    def of_page(cls, page: AuditPage) -> Self:
        rows = [AuditRowOut(**row.to_json()) for row in page.rows]
        return cls(rows=rows, seals=[SealOut(**seal.to_json()) for seal in page.seals], next=page.next)


class SessionOut(_AnchoredOut):
    subject: str
    subject_type: SubjectType
    application_id: str
    parent_id: str | None
    expires_at: _ExpiresAt


class SessionRead(SessionOut, _LineageOut):
    pass


class SessionsOut(_PageOut[SessionOut]):
    pass


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


class OAuthErrorOut(BaseModel):
    """The names of RFC 6749 §5.2."""

    error: str
    error_description: str


class AgentOut(_AnchoredOut):
    name: str
    application_id: str
    session_id: str
    parent_id: str | None
    delegation_id: str | None
    is_delegated: bool
    expires_at: _ExpiresAt


class AgentRead(AgentOut, _LineageOut):
    pass


class AgentsOut(_PageOut[AgentOut]):
    pass


class GrantOut(_AnchoredOut):
    subject: str
    application_id: str
    scope: _Scope
    audience: list[str]
    expires_at: _ExpiresAt
    closed_at: _ClosedAt


class GrantRead(GrantOut, _LineageOut):
    pass


class GrantsOut(_PageOut[GrantOut]):
    pass


class DelegationOut(_AnchoredOut):
    source_id: str
    target_id: str
    parent_id: str | None
    grant_id: str
    scope: _Scope
    audience: list[str]
    depth: int
    expires_at: _ExpiresAt


class DelegationRead(DelegationOut, _LineageOut):
    pass


class DelegationsOut(_PageOut[DelegationOut]):
    pass


class TreeOut(_Answer):
    """Every node after those that it rests on. `is_whole` False: there are more."""

    nodes: list[NodeOut]
    is_whole: bool


class ReachOut(_Answer):
    """How many of each kind that stood until then. `is_whole` False: there are more."""

    counts: Annotated[dict[str, int], BeforeValidator(_by_text)]
    is_whole: bool


class PreviewOut(_Answer):
    """What a revocation would reach; `seq` is where the ledger ended when it was looked up."""

    dry_run: Literal[True] = True
    seq: int
    reach: ReachOut


class RevocationOut(_Answer):
    """`seq` is the entry of the ledger: whoever has applied it enforces this."""

    seq: int
    generation: int
    kind: _KindText
    id: str
    issuer: str
    reason: str
    revoked_at: Annotated[datetime, _Time, Field(validation_alias="at_ms")]
    is_new: bool
    reach: ReachOut


class EntryOut(_Answer):
    """An entry of the ledger. Without `expires_at` it is in force for ever."""

    seq: int
    generation: int
    kind: _KindText
    id: str
    issuer: str
    reason: str
    revoked_at: Annotated[datetime, _Time, Field(validation_alias="at_ms")]
    issued_before: Annotated[datetime | None, _Time, Field(validation_alias="issued_before_ms")]
    expires_at: Annotated[datetime | None, _Time, Field(validation_alias="expires_at_ms")]


class EntriesOut(_PageOut[EntryOut]):
    pass


class RevocationsOut(_Answer):
    """What has ended: `count` entries, from `first_seq` to `last_seq`. Unless `next` is null there is more: go on."""

    count: int
    first_seq: int | None
    last_seq: int | None
    reach: ReachOut
    next: str | None


class RevocationsPreviewOut(_Answer):
    """What would end; `seq` is where the ledger ended when it was looked up."""

    dry_run: Literal[True] = True
    seq: int
    count: int
    reach: ReachOut
    next: str | None


class SeenOut(_Answer):
    witness: str
    generation: int
    seq: int
    contradicts: bool


class RecoveredOut(_Answer):
    """`begun` is the new generation; None where none was needed. Of a dry run, what it would be."""

    generation: int
    seq: int
    witnesses: list[SeenOut]
    lost: int
    missing: int
    begun: int | None
    is_cut_off: bool


class NewRotation(_Body):
    """`wait_s`: how long before the new key signs, at the least; if left out, what its purpose needs."""

    purpose: Annotated[Purpose, Field(strict=False)]
    wait_s: Annotated[int | None, Field(ge=0, le=LONGEST_WAIT_S)] = None
    force: bool = False


class Withdrawal(_Body):
    reason: str = ""


class SigningKeyOut(_Answer):
    id: str
    purpose: Purpose
    algorithm: str
    state: KeyState
    created_at: _CreatedAt
    since: Annotated[datetime, _Time, Field(validation_alias="since_ms")]
    switch_at: Annotated[datetime | None, _Time, Field(validation_alias="switch_at_ms")]


class SigningKeysOut(BaseModel):
    """`keyset`: the version of the newest one; `pin`: what a new replica is told to believe."""

    keys: list[SigningKeyOut]
    keyset: int
    pin: str


class NewReport(_Body):
    """`proof`: the newest signed checkpoint that is applied, in base64url."""

    replica_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]
    generation: Annotated[int, Field(ge=1, le=MAX_MS)]
    seq: Annotated[int, Field(ge=0, le=MAX_MS)]
    keyset: Annotated[int, Field(ge=0, le=MAX_MS)]
    strict: bool
    max_staleness_ms: Annotated[int, Field(ge=1, le=MAX_MS)]
    at_ms: Annotated[int, Field(ge=0, le=MAX_MS)]
    proof: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]*$", max_length=1024)] = ""


class ReplicaOut(BaseModel):
    """`key_id` is the API key that it reports with; it is `live` if it did so within the last minute."""

    replica_id: str
    key_id: str
    generation: int
    seq: int
    keyset: int
    strict: bool
    max_staleness_ms: int
    reported_at: Annotated[datetime, _Time]
    live: bool

    @classmethod
    def of_report(cls, reported: ReportedReplica, *, live: bool) -> Self:
        """Return what the API says of a replica."""
        said = asdict(reported.report)
        return cls.model_validate(
            said | {"key_id": reported.key_id, "reported_at": reported.reported_at_ms, "live": live}
        )


class ReplicasOut(BaseModel):
    items: list[ReplicaOut]
