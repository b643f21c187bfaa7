"""The documented import name for checking mandates; the code is `countermand.enforce`.

Where no `keys` are given, they are those that the issuer publishes.
"""

from typing import Unpack

from countermand.enforce import authenticate as _face
from countermand.enforce.asgi import ASGIApp
from countermand.enforce.authenticate import AuthError, AuthResult, ErrorCode, Principal
from countermand.enforce.bearer import extract_bearer
from countermand.enforce.decision import RequirementOptions
from countermand.enforce.revocations import AnyRevocations
from countermand.published import refuse_twice
from countermand.tokens.jwks import KeySource
from countermand.wiring import keys_of

__all__ = [
    "AuthError",
    "AuthResult",
    "ErrorCode",
    "MandateMiddleware",
    "Principal",
    "authenticate",
    "extract_bearer",
]

refuse_twice("caracalai-transport-mcp")


async def authenticate(
    token: str | None,
    *,
    issuer: str,
    audience: str,
    revocations: AnyRevocations,
    keys: KeySource | None = None,
    **required: Unpack[RequirementOptions],
) -> AuthResult:
    """Return who acts by `token`, or why it may not act.

    Raises:
        ConfigurationError: the arguments beside `token` cannot work.
    """
    source = keys_of(issuer) if keys is None else keys
    return await _face.authenticate(
        token, issuer=issuer, audience=audience, revocations=revocations, keys=source, **required
    )


class MandateMiddleware(_face.MandateMiddleware):
    """An ASGI app behind a guard made of what `authenticate` takes.

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
        keys: KeySource | None = None,
        **required: Unpack[RequirementOptions],
    ) -> None:
        super().__init__(
            app,
            issuer=issuer,
            audience=audience,
            revocations=revocations,
            keys=keys_of(issuer) if keys is None else keys,
            **required,
        )
