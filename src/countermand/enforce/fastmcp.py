"""The guard of a FastMCP server.

    server = FastMCP("notes", auth=MandateAuth(guard))

The guard stands before all that the server serves, and is asked about every request that carries a token. From then on
it answers, and ends streams. What carries none is let through to routes of your own, and not to the MCP endpoint.
Source: the MCP specification, "Authorization"; RFC 9728.
"""

from fastmcp.server.auth import AccessToken, AuthProvider
from pydantic import AnyHttpUrl, Field
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from countermand.enforce.asgi import GuardMiddleware
from countermand.enforce.asking import asking
from countermand.enforce.guard import Guard
from countermand.enforce.mcp import token_fields
from countermand.errors import ConfigurationError


class MandateToken(AccessToken):
    """Who acts, as FastMCP has it (`get_access_token`). The token itself is not shown where this is printed."""

    token: str = Field(repr=False)


class MandateAuth(AuthProvider):
    """Lets in whom `guard` lets in. Its audience is the URL of the MCP endpoint, or there is no metadata."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    async def verify_token(self, token: str) -> MandateToken:
        """Return who acts. Raises: DeniedError; ConfigurationError, outside a server that serves `get_middleware`."""
        current = asking(self._guard)
        if current is None:
            raise ConfigurationError("the request did not come by way of the guard")
        return MandateToken(**token_fields(token, await current.ask(), self._guard.audience))

    def get_middleware(self) -> list[Middleware]:
        """Return FastMCP's own, behind the guard."""
        return [Middleware(GuardMiddleware, guard=self._guard, on_demand=True), *super().get_middleware()]

    def get_routes(self, mcp_path: str | None = None) -> list[Route]:
        """Return the route of the metadata, which FastMCP then names in its challenges."""
        self.set_mcp_path(mcp_path)
        resource = self._guard.resource
        if resource is None:
            return []

        async def tell(_request: Request) -> Response:
            return Response(resource.metadata, headers=dict(resource.headers))

        return [Route(resource.path, tell)]

    def _get_resource_url(self, path: str | None = None) -> AnyHttpUrl | None:  # noqa: ARG002 - FastMCP's signature
        return AnyHttpUrl(self._guard.audience) if self._guard.resource is not None else None
