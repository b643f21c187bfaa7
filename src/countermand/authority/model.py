"""What callers of the authority give and get. Times are milliseconds since 1970, UTC."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from countermand.log.anchor import Kind


class Role(StrEnum):
    """What a caller may do. An administrator may do everything but act as an application."""

    ADMINISTRATOR = "administrator"
    REPLICA = "replica"
    APPLICATION = "application"


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
    revoked_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A subject session: the original authenticated context of a user or a service, or one derived from it.

    `stands` is false once it has expired, or it or what it rests on is revoked or cut off.
    """

    id: str
    subject: str
    subject_type: SubjectType
    application_id: str
    parent_id: str | None
    created_at_ms: int
    expires_at_ms: int
    revoked_at_ms: int | None
    stands: bool


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent session: an application at work on a subject session, or started by another agent of it.

    `delegation_id` is the edge under which it was started, and ends with it. It is delegated while it holds an inbound
    edge that stands; an edge that it holds ends nothing else of its authority.
    """

    id: str
    name: str
    application_id: str
    session_id: str
    parent_id: str | None
    delegation_id: str | None
    is_delegated: bool
    created_at_ms: int
    expires_at_ms: int
    revoked_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """A subject's leave for an application: which scopes, at which audience. Closed, it is good for nothing new."""

    id: str
    subject: str
    application_id: str
    scopes: tuple[str, ...]
    audience: tuple[str, ...]
    created_at_ms: int
    expires_at_ms: int
    closed_at_ms: int | None = None
    revoked_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Delegation:
    """An edge: agent `source_id` hands agent `target_id` a part of what it has, by `parent_id` or else by its grant.

    `depth` is how many more edges may follow below this one.
    """

    id: str
    source_id: str
    target_id: str
    parent_id: str | None
    grant_id: str
    scopes: tuple[str, ...]
    audience: tuple[str, ...]
    depth: int
    created_at_ms: int
    expires_at_ms: int
    revoked_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Some sessions, and after which id the next page begins; None on the last."""

    sessions: list[Session]
    next: str | None


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One anchor of a tree: `parent_id` is what it hangs from, `target_id` a delegation's; `stands`: see Session."""

    id: str
    kind: Kind
    name: str
    parent_id: str | None
    target_id: str | None
    expires_at_ms: int | None
    revoked_at_ms: int | None
    stands: bool


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
    """Entry `seq` of the ledger, and what it reached. `is_new` is False where it stood there before this call."""

    seq: int
    generation: int
    kind: Kind
    id: str
    issuer: str
    reason: str
    at_ms: int
    is_new: bool
    reach: Reach = NOTHING


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
