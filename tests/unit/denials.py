"""A request for every denial, and how it is answered."""

from typing import Final

from countermand.enforce.decision import Requirements
from countermand.enforce.guard import Guard
from countermand.errors import KeysError
from countermand.log.verdict import Unknown
from tests.unit.guarded import DELEGATED_TEXT, TOKEN_TEXT, Answers, Keys, guard, revoked
from tests.unit.mandates import AUDIENCE, FOREIGN, SESSION, sign

METADATA: Final = f"{AUDIENCE}/.well-known/oauth-protected-resource"

DENIALS: Final[dict[str, tuple[Guard, Requirements | None, str | None, int, str]]] = {
    "missing_token": (guard(), None, None, 401, ""),
    "invalid_token": (
        guard(),
        None,
        "a.b.c",
        401,
        'Bearer error="invalid_token", error_description="the token is not a signed JWT"',
    ),
    "session_revoked": (
        guard(revoked(SESSION)),
        None,
        TOKEN_TEXT,
        401,
        ('Bearer error="session_revoked", error_description="the authority on which the token rests was revoked"'),
    ),
    "insufficient_scope": (
        guard(),
        Requirements.of(required_scopes=["write", "admin"]),
        TOKEN_TEXT,
        403,
        (
            'Bearer error="insufficient_scope", error_description="the token lacks a scope that the request needs", '
            'scope="admin write"'
        ),
    ),
    "session_required": (
        guard(),
        Requirements.of(require_session=True),
        sign(FOREIGN),
        403,
        'Bearer error="session_required", error_description="the request needs a token that belongs to a session"',
    ),
    "delegation_required": (
        guard(),
        Requirements.of(require_delegation=True),
        TOKEN_TEXT,
        403,
        'Bearer error="delegation_required", error_description="the request needs a token that was delegated"',
    ),
    "hop_count_exceeded": (
        guard(),
        Requirements.of(max_hops=1),
        DELEGATED_TEXT,
        403,
        (
            'Bearer error="hop_count_exceeded", '
            'error_description="the token was delegated more often than the request allows"'
        ),
    ),
    "revocation_unavailable": (guard(Answers(Unknown("stale"))), None, TOKEN_TEXT, 503, ""),
    "keys_unavailable": (guard(keys=Keys(KeysError("none"))), None, TOKEN_TEXT, 503, ""),
}
"""By code: who denies, what is required, by which token; the status, and the challenge before its metadata."""
