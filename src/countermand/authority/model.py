"""What callers of the authority give and get. Times are milliseconds since 1970, UTC."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from countermand.log.anchor import Kind, Rev

_T = TypeVar("_T")


class Role(StrEnum):
    """What a caller may do.

    A reader reads everything under /v1, and no secret; an operator also revokes, cuts off and closes grants. An
    administrator may do everything but act as an application. A replica reads what is revoked and nothing else, an
    application asks for mandates and registers Biscuits of its own.
    """

    READER = "reader"
    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"
    REPLICA = "replica"
    APPLICATION = "application"


class SubjectType(StrEnum):
    """What a subject is; `sub_type` in a mandate."""

    USER = "user"
    APPLICATION = "application"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key for the API, without what is secret of it. `last_used_at_ms` is exact to a minute or so."""

    id: str
    role: Role
    name: str
    application_id: str | None
    created_at_ms: int
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None
    last_used_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key on the only occasion on which it is seen whole. `secret` is in no `repr`."""

    key: ApiKey
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ApiKeyPage:
    """Some keys, and after which id the next page begins; None on the last."""

    items: list[ApiKey]
    next: str | None


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One anchor of a tree: `parent_id` is what it hangs from, `target_id` a delegation's; `stands`: see Anchored."""

    id: str
    kind: Kind
    name: str
    parent_id: str | None
    target_id: str | None
    expires_at_ms: int | None
    revoked_at_ms: int | None
    stands: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchored:
    """What all that is opened has. Labels are the caller's own words, to find it by.

    `stands` is false once it has expired, or it or what it rests on is revoked or cut off. `lineage` is what it rests
    on, root first; empty but where one is read by itself.
    """

    id: str
    created_at_ms: int
    revoked_at_ms: int | None
    stands: bool
    labels: tuple[str, ...]
    lineage: tuple[TreeNode, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Application(Anchored):
    """A client to which mandates are issued; `client_id` in a mandate."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Session(Anchored):
    """A subject session: the original authenticated context of a user or a service, or one derived from it."""

    subject: str
    subject_type: SubjectType
    application_id: str
    parent_id: str | None
    expires_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent(Anchored):
    """An agent session: an application at work on a subject session, or started by another agent of it.

    `delegation_id` is the edge under which it was started, and ends with it. It is delegated while it holds an inbound
    edge that stands; an edge that it holds ends nothing else of its authority.
    """

    name: str
    application_id: str
    session_id: str
    parent_id: str | None
    delegation_id: str | None
    is_delegated: bool
    expires_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant(Anchored):
    """A subject's leave for an application: which scopes, at which audience. Closed, it is good for nothing new."""

    subject: str
    application_id: str
    scopes: tuple[str, ...]
    audience: tuple[str, ...]
    expires_at_ms: int
    closed_at_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation(Anchored):
    """An edge: agent `source_id` hands agent `target_id` a part of what it has, by `parent_id` or else by its grant.

    `depth` is how many more edges may follow below this one.
    """

    source_id: str
    target_id: str
    parent_id: str | None
    grant_id: str
    scopes: tuple[str, ...]
    audience: tuple[str, ...]
    depth: int
    expires_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which anchors of one kind: those that have all of what is given. `opened_before_ms`: at that time or earlier."""

    kind: Kind
    label: str | None = None
    application_id: str | None = None
    subject: str | None = None
    parent_id: str | None = None
    session_id: str | None = None
    delegation_id: str | None = None
    source_id: str | None = None
    target_id: str | None = None
    grant_id: str | None = None
    opened_before_ms: int | None = None
    stands: bool | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[_T]):
    """Some of a list, newest first, and the place from which it goes on; None on the last page.

    A page that is not the last may hold fewer than were asked for, or none: what is looked at for it is bounded.
    """

    items: list[_T]
    next: str | None


@dataclass(frozen=True, slots=True)
class Tree:
    """An anchor and what rests on it, every node after those that it rests on. `is_whole` False: there is more."""

    nodes: list[TreeNode]
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Reach:
    """What a revocation ends: how many anchors of each kind that stood until then, itself among them.

    `is_whole` False: there are more, and the counting stopped. Tokens are not counted: they are not kept.
    """

    counts: Mapping[Kind, int]
    is_whole: bool = True


NOTHING = Reach({})
UNKNOWN = Reach({}, is_whole=False)


@dataclass(frozen=True, slots=True)
class Preview:
    """What a revocation would reach, seen when the ledger ended at `seq`."""

    seq: int
    reach: Reach


@dataclass(frozen=True, slots=True)
class Revocation:
    """Entry `seq` of the ledger, and what it reached. `is_new` is False where it stood there before this call.

    `last_seq`: the last entry that was made with it; None where none was.
    """

    seq: int
    generation: int
    kind: Kind
    id: str
    issuer: str
    reason: str
    at_ms: int
    is_new: bool
    reach: Reach = NOTHING
    last_seq: int | None = None


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one step of a revocation by filter has ended: `count` anchors, by entries from `first_seq` to `last_seq`.

    The Biscuits that were registered for them have their entries behind those of the anchors.

    `next` is the place from which to go on; None where all that matched has ended.
    """

    count: int
    first_seq: int | None
    last_seq: int | None
    reach: Reach
    next: str | None


@dataclass(frozen=True, slots=True)
class SweepPreview:
    """What such a step would end, seen when the ledger ended at `seq`."""

    seq: int
    count: int
    reach: Reach
    next: str | None


@dataclass(frozen=True, slots=True)
class Seen:
    """The furthest position of the log that a witness has seen; `contradicts`: the ledger does not hold that."""

    witness: str
    generation: int
    seq: int
    contradicts: bool


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a recovery found, and what it did, or would do.

    The ledger ended at `generation`.`seq`. `lost` entries are held by witnesses alone and are appended again; `missing`
    ones, at least, were seen, and nobody can tell them. `begun` is the new generation, None where none is needed;
    `is_cut_off`: what was opened or issued before is ended by it. `keyset` is the last that is taken up again, None
    where witnesses hold no later one; `missing_keys` are those of one later still, which cannot be, for want of files.
    """

    generation: int
    seq: int
    witnesses: tuple[Seen, ...]
    lost: int = 0
    missing: int = 0
    begun: int | None = None
    is_cut_off: bool = False
    keyset: int | None = None
    missing_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenExchange:
    """What an application asks for in exchange for a mandate (RFC 8693 §2.1). The token is a secret.

    The new mandate is for `agent_id`, by `delegation_id` where one is named; for the old one's holder where neither is.
    `scopes` None: all that may be had.
    """

    subject_token: str = field(repr=False)
    audience: tuple[str, ...]
    scopes: tuple[str, ...] | None = None
    agent_id: str | None = None
    delegation_id: str | None = None


@dataclass(frozen=True, slots=True)
class IssuedMandate:
    """A mandate for its holder. The token is a secret: it is in no `repr`."""

    token: str = field(repr=False)
    expires_in_s: int
    scopes: tuple[str, ...]


class Purpose(StrEnum):
    """What a signing key signs."""

    CHECKPOINT = "checkpoint"
    MANDATE = "mandate"


class KeyState(StrEnum):
    """Where a signing key stands. It is known to those who verify from `next` to `retiring`."""

    NEXT = "next"
    """It is made known, and signs nothing yet."""
    ACTIVE = "active"
    """The one that signs."""
    RETIRING = "retiring"
    """It signs nothing any more; what it has signed is still good."""
    RETIRED = "retired"
    """Nothing that it has signed is in use."""
    WITHDRAWN = "withdrawn"
    """Whatever it has signed, or will, is rejected."""


@dataclass(frozen=True, slots=True)
class RegisteredKey:
    """A signing key as the register has it. `switch_at_ms`: a next one signs no sooner."""

    id: str
    purpose: Purpose
    algorithm: str
    created_at_ms: int
    state: KeyState
    since_ms: int
    switch_at_ms: int | None = None
    public: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """What a replica says of itself: what it has applied, up to which keyset it follows, and when it refuses."""

    replica_id: str
    generation: int
    seq: int
    keyset: int
    strict: bool
    max_staleness_ms: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class ReportedReplica:
    """A replica's last report, the API key that it came with, and when; and when it first reported that position.

    `key_id` is empty for one in a process of the authority's own.
    """

    key_id: str
    report: ReplicaReport
    reported_at_ms: int
    moved_at_ms: int

    @property
    def rev(self) -> Rev:
        """Up to where it has applied the log."""
        return Rev(self.report.generation, self.report.seq)
