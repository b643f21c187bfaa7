"""The guard of a server that is made with the official MCP SDK.

    server = MCPServer("notes", token_verifier=MandateVerifier(guard), auth=auth_settings(guard))
    app = guard.asgi(server.streamable_http_app())

The guard before the app decides, answers, and ends streams; here the SDK is told who acts. Without the guard before it
the SDK hears of nobody: it could not say that we cannot know, and would go on feeding a stream whose token has ended.
Source: the MCP specification, "Authorization"; RFC 9728.
"""

import logging
import math
from typing import Any

from mcp.server.auth.provider import AccessToken, TokenVerifier
from mcp.server.auth.settings import AuthSettings
from pydantic import AnyHttpUrl, Field, ValidationError

from countermand.enforce.asking import asking
from countermand.enforce.guard import Guard
from countermand.errors import ConfigurationError
from countermand.tokens.cache import Holder
from countermand.tokens.mandate import LEEWAY_S, Mandate

_log = logging.getLogger(__name__)


class MandateToken(AccessToken):
    """Who acts, as the SDK has it (`get_access_token`). The token itself is not shown where this is printed."""

    token: str = Field(repr=False)


class MandateVerifier(TokenVerifier):
    """Tells the SDK who acts, by the word of `guard`, which stands before the app."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def verify_token(self, token: str) -> MandateToken | None:
        """Return who acts, None if the request did not come by way of the guard. Raises: DeniedError."""
        current = asking(self._guard)
        if current is None:
            _log.error("a request did not come by way of the guard: serve guard.asgi(app), not the app")
            return None
        return MandateToken(**token_fields(token, await current.ask(), self._guard.audience))


def auth_settings(guard: Guard) -> AuthSettings:
    """Return what the SDK wants to know about the resource. The guard checks its audience, and its scopes.

    Raises:
        ConfigurationError: the issuer is no URL.
    """
    try:
        return AuthSettings(
            issuer_url=AnyHttpUrl(guard.issuer),
            resource_server_url=AnyHttpUrl(guard.audience) if guard.resource is not None else None,
            validate_token_resource=False if guard.resource is not None else None,
        )
    except ValidationError:
        raise ConfigurationError("an MCP server of the SDK names an issuer: an http or https URL") from None


def token_fields(token: str, holder: Holder, audience: str) -> dict[str, Any]:
    """Return the fields of an AccessToken. It expires when the guard says so: after the leeway."""
    common = {"token": token, "scopes": sorted(holder.scopes), "resource": audience, "subject": holder.subject}
    if not isinstance(holder, Mandate):
        client_id = holder.subject or holder.revocation_ids[0]  # the SDK tells by it whose a session is
        return common | {"client_id": client_id, "expires_at": holder.expires_at_s, "claims": {}}
    return common | {
        "client_id": holder.client_id or holder.subject,
        "expires_at": math.ceil(holder.expires_at_s + LEEWAY_S),
        "claims": dict(holder.claims),
    }
