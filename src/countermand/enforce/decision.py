"""What the guard answers, and what a request must meet.

A denial is a value. Its code is stable, its words tell a client what to do and nothing about anybody else.
Source: docs/protocol.md, "Answers"; RFC 6749 §3.3 (scopes).
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias, TypedDict, TypeVar, Unpack

from countermand.errors import ConfigurationError
from countermand.log.verdict import Revoked, Unknown
from countermand.tokens.cache import Holder
from countermand.tokens.mandate import Mandate

_Bound = TypeVar("_Bound", int, float)

_LEAST_STALENESS_S: Final = 2  # a checkpoint comes every second, and clocks may differ by one
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


class Code(StrEnum):
    """Why a token may not act."""

    MISSING_TOKEN = "missing_token"  # noqa: S105  # a code, not a password
    INVALID_TOKEN = "invalid_token"  # noqa: S105  # a code, not a password
    SESSION_REVOKED = "session_revoked"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    SESSION_REQUIRED = "session_required"
    DELEGATION_REQUIRED = "delegation_required"
    HOP_COUNT_EXCEEDED = "hop_count_exceeded"
    REVOCATION_UNAVAILABLE = "revocation_unavailable"
    KEYS_UNAVAILABLE = "keys_unavailable"


class _Words(NamedTuple):
    description: str
    hint: str


HTTP_STATUS: Final[Mapping[Code, int]] = MappingProxyType(
    {
        Code.MISSING_TOKEN: 401,
        Code.INVALID_TOKEN: 401,
        Code.SESSION_REVOKED: 401,
        Code.INSUFFICIENT_SCOPE: 403,
        Code.SESSION_REQUIRED: 403,
        Code.DELEGATION_REQUIRED: 403,
        Code.HOP_COUNT_EXCEEDED: 403,
        Code.REVOCATION_UNAVAILABLE: 503,
        Code.KEYS_UNAVAILABLE: 503,
    }
)

_WORDS: Final[Mapping[Code, _Words]] = {
    Code.MISSING_TOKEN: _Words(
        "the request carries no bearer token",
        "send one header, Authorization: Bearer, followed by the token",
    ),
    Code.INVALID_TOKEN: _Words(
        "the token is not accepted here",
        "get a new token from the issuer, for this audience",
    ),
    Code.SESSION_REVOKED: _Words(
        "the authority on which the token rests was revoked",
        "do not use the token again: start a new session",
    ),
    Code.INSUFFICIENT_SCOPE: _Words(
        "the token lacks a scope that the request needs",
        "get a token with every scope that the answer names",
    ),
    Code.SESSION_REQUIRED: _Words(
        "the request needs a token that belongs to a session",
        "get a token by way of a session",
    ),
    Code.DELEGATION_REQUIRED: _Words(
        "the request needs a token that was delegated",
        "get a token by way of a delegation",
    ),
    Code.HOP_COUNT_EXCEEDED: _Words(
        "the token was delegated more often than the request allows",
        "get a token with fewer delegations behind it",
    ),
    Code.REVOCATION_UNAVAILABLE: _Words(
        "whether the token was revoked cannot be known now",
        "the token may be good: try again in a second",
    ),
    Code.KEYS_UNAVAILABLE: _Words(
        "the keys that would prove the token cannot be had now",
        "the token may be good: try again in a second",
    ),
}


@dataclass(slots=True, unsafe_hash=True)  # every decision makes one: `frozen` takes over twice as long
class Allow:
    """The token may act now, with the authority of `holder`."""

    holder: Final[Holder]

    @property
    def mandate(self) -> Mandate:
        """Who acts, at a guard that accepts mandates alone. Raises: TypeError, if it is a Biscuit."""
        if not isinstance(self.holder, Mandate):
            raise TypeError("the token is a Biscuit: ask for the `holder`")
        return self.holder


@dataclass(frozen=True, slots=True)
class Deny:
    """The token may not act. False where a truth value is asked.

    `scopes` are those that the request needs, for the codes that speak of them. `reason` is for logs and says more than
    a client is told: the error's code, the revoked anchor, what is required and not met, or why we cannot know.
    `ended_by` is what revoked the token, where that is why.
    """

    code: Code
    description: str
    hint: str
    scopes: tuple[str, ...] = ()
    reason: str = ""
    ended_by: Revoked | None = None

    def __bool__(self) -> Literal[False]:
        return False

    @classmethod
    def of(
        cls, code: Code, *, description: str = "", hint: str = "", scopes: Iterable[str] = (), reason: str = ""
    ) -> Self:
        """Return the denial in its usual words, or with another `description` or `hint`."""
        words = _WORDS[code]
        return cls(code, description or words.description, hint or words.hint, tuple(sorted(scopes)), reason)

    @classmethod
    def by(cls, verdict: Revoked | Unknown) -> Self:
        """Return the denial that such an answer about revocations leads to."""
        if isinstance(verdict, Revoked):
            words = _WORDS[Code.SESSION_REVOKED]
            return cls(Code.SESSION_REVOKED, *words, reason=str(verdict.anchor), ended_by=verdict)
        return cls.of(Code.REVOCATION_UNAVAILABLE, reason=verdict.reason)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return HTTP_STATUS[self.code]

    @property
    def may_pass_later(self) -> bool:
        """True where nothing is wrong with the token as far as we know: we cannot know."""
        return self.status == 503


Decision: TypeAlias = Allow | Deny


class RequirementOptions(TypedDict, total=False):
    """What a request must meet, as keyword arguments; see Requirements."""

    required_scopes: Iterable[str]
    require_session: bool
    require_delegation: bool
    max_hops: int | None
    max_staleness_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a token must meet beside being good.

    It must hold every scope; belong to a subject session (`sid`); be acting by a delegation; be delegated at most
    `max_hops` times. `max_staleness_s` bounds the age of what is known of revocations; None means the replica's own
    bound, and a number over 2 can only tighten it.

    Raises:
        ConfigurationError: a value that no token could meet, or that is no limit.
    """

    required_scopes: frozenset[str] = field(default_factory=frozenset)
    require_session: bool = False
    require_delegation: bool = False
    max_hops: int | None = None
    max_staleness_s: float | None = None

    def __post_init__(self) -> None:
        for scope in self.required_scopes:
            if not _SCOPE.fullmatch(scope):
                raise ConfigurationError("a required scope is one printable ASCII word without quotes or backslashes")
        if self.max_hops is not None and (isinstance(self.max_hops, bool) or self.max_hops < 0):
            raise ConfigurationError("max_hops is a number from 0, or None")
        if self.max_staleness_s is not None and not _LEAST_STALENESS_S < self.max_staleness_s < math.inf:
            raise ConfigurationError("max_staleness_s is over 2 seconds and finite, or None for the replica's own")

    @classmethod
    def of(cls, **options: Unpack[RequirementOptions]) -> Self:
        """Return the requirements that the documented keyword arguments name. Raises: ConfigurationError."""
        scopes = options.get("required_scopes", ())
        if isinstance(scopes, str):  # its letters would be taken for scopes
            raise ConfigurationError("required_scopes is a collection of scopes, not one text")
        return cls(**{**options, "required_scopes": frozenset(scopes)})  # type: ignore[arg-type]  # see RequirementOptions

    def __and__(self, other: "Requirements") -> "Requirements":
        """Return what meets both: the strictest of each. What adds nothing leaves the very object that was there."""
        if other == NOTHING_REQUIRED:
            return self
        if self == NOTHING_REQUIRED:
            return other
        return Requirements(
            required_scopes=self.required_scopes | other.required_scopes,
            require_session=self.require_session or other.require_session,
            require_delegation=self.require_delegation or other.require_delegation,
            max_hops=_least(self.max_hops, other.max_hops),
            max_staleness_s=_least(self.max_staleness_s, other.max_staleness_s),
        )


NOTHING_REQUIRED: Final = Requirements()
NO_FACTS: Final[Mapping[str, Any]] = MappingProxyType({})
"""About a request, for Biscuits."""


def _least(one: _Bound | None, other: _Bound | None) -> _Bound | None:
    return other if one is None else one if other is None else min(one, other)


def unmet(required: Requirements, holder: Holder) -> Deny | None:
    """Return what is required and not met, the first of it; None if all is met.

    What a Biscuit belongs to is not known: it has no session, and no delegation.
    """
    mandate = holder if isinstance(holder, Mandate) else None
    if not required.required_scopes <= holder.scopes:
        scopes = required.required_scopes
        return Deny.of(Code.INSUFFICIENT_SCOPE, scopes=scopes, reason=f"required_scopes={' '.join(sorted(scopes))}")
    if required.require_session and (mandate is None or mandate.session_id is None):
        return Deny.of(Code.SESSION_REQUIRED, reason="require_session")
    if required.require_delegation and (mandate is None or mandate.delegation_edge_id is None):
        return Deny.of(Code.DELEGATION_REQUIRED, reason="require_delegation")
    if required.max_hops is not None and _hops(holder) > required.max_hops:
        return Deny.of(Code.HOP_COUNT_EXCEEDED, reason=f"max_hops={required.max_hops}")
    return None


def _hops(holder: Holder) -> int:
    """The most that any claim says: one that is missing must not make the way look shorter."""
    if not isinstance(holder, Mandate):
        return holder.hop_count
    return max(holder.hop_count, len(holder.delegation_path), int(holder.delegation_edge_id is not None))
