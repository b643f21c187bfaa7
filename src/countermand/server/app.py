"""Everything that the authority serves, as one ASGI application."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from countermand.authority.access import Access
from countermand.authority.service import Authority
from countermand.log.ports import LogReader
from countermand.server import problem
from countermand.server.api import admin_routers
from countermand.server.caller import Authentication
from countermand.server.feed import feed_router
from countermand.server.idempotency import Idempotency
from countermand.server.limit import BodyLimit
from countermand.server.oauth import oauth_router
from countermand.server.openapi import describe, operation_id
from countermand.server.replicas import reports_router
from countermand.server.trace import RequestIds

MAX_BODY_BYTES: Final = 65_536
KEYS_MAX_AGE_S: Final = 60


class _KeySetResponse(Response):
    media_type = "application/jwk-set+json"


_KEY_SET: Final[dict[str, Any]] = {
    "content": {
        _KeySetResponse.media_type: {
            "schema": {
                "type": "object",
                "required": ["keys"],
                "properties": {"keys": {"type": "array", "items": {"type": "object"}}},
            }
        }
    }
}


def create_app(
    authority: Authority, access: Access, log: LogReader, issuer: str, random: Callable[[int], bytes]
) -> FastAPI:
    """Return the application, which others reach at `issuer`.

    It opens nothing and closes nothing: what it is given outlives it. `random` gives as many random bytes as it is
    asked for, for the ids of requests.
    """
    app = FastAPI(
        title="Countermand",
        version=version("countermand"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
    )
    describe(app)
    app.add_middleware(Idempotency, once=authority.once)
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)
    app.add_middleware(Authentication, access=access)
    app.add_middleware(RequestIds, random=random)  # what is added last comes first
    problem.install(app)
    for router in (
        reports_router(authority.replicas),  # a path is looked for in their order, and nobody asks as often as replicas
        *admin_routers(authority, access),
        oauth_router(authority, access, issuer),
        feed_router(log),
    ):
        app.include_router(router)

    @app.get("/.well-known/jwks.json", response_class=_KeySetResponse, responses={200: _KEY_SET})
    async def keys(_request: Request) -> Response:
        """The keys that verify mandates (RFC 7517)."""
        headers = {"cache-control": f"public, max-age={KEYS_MAX_AGE_S}"}
        return _KeySetResponse(authority.minting.key_set.to_json(), headers=headers)

    return app
