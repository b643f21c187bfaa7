"""The authorization server's metadata: where its endpoints are, and what they take. Every member is true.

Source: RFC 8414.
"""

from typing import Any, Final
from urllib.parse import unquote, urlsplit

from fastapi import APIRouter
from starlette.responses import JSONResponse

from countermand.server.oauth.token import GRANT_TYPES

WELL_KNOWN: Final = "/.well-known/oauth-authorization-server"
MAX_AGE_S: Final = 3_600

_BASIC: Final = ["client_secret_basic"]


def metadata_router(issuer: str) -> APIRouter:
    """Return the routes of the metadata of `issuer`, a URL without a slash at its end.

    With a path it has two: for a proxy that takes the path away, and where RFC 8414 §3.1 puts it.
    """
    router = APIRouter()
    headers = {"cache-control": f"public, max-age={MAX_AGE_S}"}

    async def metadata() -> JSONResponse:
        """Where the endpoints are, and what they take (RFC 8414)."""
        return JSONResponse(metadata_of(issuer), headers=headers)

    router.add_api_route(WELL_KNOWN, metadata, response_model=dict[str, Any])
    path = unquote(urlsplit(issuer).path)
    if path:
        router.add_api_route(f"{WELL_KNOWN}{path}", metadata, response_model=dict[str, Any], include_in_schema=False)
    return router


def metadata_of(issuer: str) -> dict[str, Any]:
    """Return the members of RFC 8414 §2."""
    return {
        "issuer": issuer,
        "token_endpoint": f"{issuer}/oauth2/token",
        "token_endpoint_auth_methods_supported": _BASIC,
        "revocation_endpoint": f"{issuer}/oauth2/revoke",
        "revocation_endpoint_auth_methods_supported": _BASIC,
        "introspection_endpoint": f"{issuer}/oauth2/introspect",
        "introspection_endpoint_auth_methods_supported": [*_BASIC, "Bearer"],
        "jwks_uri": f"{issuer}/.well-known/jwks.json",
        "grant_types_supported": list(GRANT_TYPES),
        "response_types_supported": [],  # required, and there is no authorization endpoint that would answer
    }
