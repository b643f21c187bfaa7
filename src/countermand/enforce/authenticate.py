"""The documented face: one call for one token, with a result to look at.

Source: the documented `authenticate`.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self, TypeAlias, Unpack

from countermand.enforce.asgi import ASGIApp, GuardMiddleware
from countermand.enforce.decision import Code, Deny, RequirementOptions, Requirements
from countermand.enforce.guard import Guard
from countermand.enforce.revocations import AnyRevocations
from countermand.tokens.jwks import KeySource
from countermand.tokens.mandate import Mandate

ErrorCode: TypeAlias = Code


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who acts, by a token that may. `session_id` is the claim `sid`; `expires_at` is in seconds since 1970, UTC."""

    subject: str
    client_id: str | None
    scopes: frozenset[str]
    session_id: str | None
    root_session_id: str | None
    agent_session_id: str | None
    delegation_edge_id: str | None
    delegation_path: tuple[str, ...]
    hop_count: int
    issuer: str
    audience: tuple[str, ...]
    expires_at: float
    claims: Mapping[str, object] = field(repr=False, compare=False)

    @classmethod
    def of(cls, mandate: Mandate) -> Self:
        """Return who acts by `mandate`."""
        return cls(
            subject=mandate.subject,
            client_id=mandate.client_id,
            scopes=mandate.scopes,
            session_id=mandate.session_id,
            root_session_id=mandate.root_session_id,
            agent_session_id=mandate.agent_session_id,
            delegation_edge_id=mandate.delegation_edge_id,
            delegation_path=mandate.delegation_path,
            hop_count=mandate.hop_count,
            issuer=mandate.issuer,
            audience=mandate.audience,
            expires_at=mandate.expires_at_s,
            claims=mandate.claims,
        )


@dataclass(frozen=True, slots=True)
class AuthError:
    """Why the token may not act, and what its holder can do."""

    code: ErrorCode
    description: str
    hint: str


@dataclass(frozen=True, slots=True)
class AuthResult:
    """Either `principal` or `error`, the other is None. As a truth value it is `ok`."""

    principal: Principal | None
    error: AuthError | None

    @property
    def ok(self) -> bool:
        """True if the token may act."""
        return self.error is None and self.principal is not None

    def __bool__(self) -> bool:
        return self.ok


async def authenticate(
    token: str | None,
    *,
    issuer: str,
    audience: str,
    revocations: AnyRevocations,
    keys: KeySource,
    clock_s: Callable[[], float] = time.time,
    **required: Unpack[RequirementOptions],
) -> AuthResult:
    """Return who acts by `token`, or why it may not act; see Guard.decide for the checks and their order.

    Nothing is kept from call to call, so each costs a signature: a busy service keeps a guard, or the middleware.

    Raises:
        ConfigurationError: the arguments beside `token` cannot work.
    """
    requirements = Requirements.of(**required)
    guard = Guard(
        keys,
        revocations,
        issuer=issuer,
        audience=audience,
        clock_s=clock_s,
        random=os.urandom,
        requirements=requirements,
    )
    decision = await guard.decide(token)
    if isinstance(decision, Deny):
        return AuthResult(None, AuthError(decision.code, decision.description, decision.hint))
    return AuthResult(Principal.of(decision.mandate), None)


class MandateMiddleware(GuardMiddleware):
    """An ASGI app behind a guard of its own, made of what `authenticate` takes.

    Raises:
        ConfigurationError: the arguments cannot work.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        issuer: str,
        audience: str,
        revocations: AnyRevocations,
        keys: KeySource,
        clock_s: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = os.urandom,
        **required: Unpack[RequirementOptions],
    ) -> None:
        guard = Guard(
            keys,
            revocations,
            issuer=issuer,
            audience=audience,
            clock_s=clock_s,
            random=random,
            requirements=Requirements.of(**required),
        )
        super().__init__(app, guard)
