"""The routes of a gateway: which guard a request has to pass, and which upstream it then reaches.

The longest path under which a request lies decides, by whole segments in any case, and before anybody is asked who
acts. A request that could be read in two ways has no route. Anybody may read what a resource says of itself.
Source: RFC 9728 §3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from countermand.enforce.asgi import ASGIApp, GuardMiddleware, Receive, Scope, Send
from countermand.enforce.decision import NOTHING_REQUIRED, Requirements
from countermand.enforce.gateway.forward import Exchange
from countermand.enforce.gateway.head import problem_with, values_of
from countermand.enforce.gateway.problem import NO_ROUTE
from countermand.enforce.gateway.sockets import forward_socket
from countermand.enforce.gateway.upstream import Upstream
from countermand.enforce.guard import Guard
from countermand.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Route:
    """What lies under `path` goes to `upstream`, if `guard` lets it in and it meets `requirements`."""

    path: str
    upstream: Upstream
    guard: Guard
    requirements: Requirements = NOTHING_REQUIRED


class Forward:
    """An app that forwards whatever reaches it. It stands behind a guard, which says who acts."""

    def __init__(self, upstream: Upstream, max_body: int) -> None:
        self._upstream = upstream
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request, or one web socket."""
        if scope["type"] == "websocket":
            await forward_socket(self._upstream, scope, receive, send)
        else:
            await Exchange(self._upstream, self._max_body, scope, receive, send).run()


class Gateway:
    """The app. The guards run for as long as whoever serves it lets them.

    Raises:
        ConfigurationError: a path that no request could lie under, or twice the same.
    """

    def __init__(self, routes: Sequence[Route], max_body: int) -> None:
        self._apps: dict[str, ASGIApp] = {}
        self._resources: dict[str, list[tuple[str, ASGIApp]]] = {}
        for route in sorted(routes, key=lambda route: len(route.path), reverse=True):
            prefix = _prefix(route.path).lower()
            if prefix in self._apps:
                raise ConfigurationError(f"two routes have the path {route.path}")
            app = GuardMiddleware(Forward(route.upstream, max_body), route.guard, route.requirements)
            self._apps[prefix] = app
            if route.guard.resource is not None:
                found = self._resources.setdefault(route.guard.resource.path, [])
                found.append((route.guard.resource.metadata_url, app))
        if not self._apps:
            raise ConfigurationError("a gateway has a route")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request take its route, or answer it. Raises: ConfigurationError, for a scope of another type."""
        if scope["type"] not in {"http", "websocket"}:
            raise ConfigurationError("a gateway knows the scopes http and websocket")
        problem = problem_with(scope)
        if problem is not None:
            await problem.answer(scope, send)
            return
        app = self._find(scope)
        if app is None:
            await NO_ROUTE.answer(scope, send)
        else:
            await app(scope, receive, send)

    def _find(self, scope: Scope) -> ASGIApp | None:
        path = unquote(scope["raw_path"].decode())
        if path in self._resources and scope.get("method") in {"GET", "HEAD"}:
            return self._resource(path, values_of(scope["headers"], b"host")[0].decode())
        folded = path.lower()  # to some services case says nothing
        for prefix, app in self._apps.items():
            if folded == prefix or folded.startswith(f"{prefix}/"):
                return app
        return None

    def _resource(self, path: str, host: str) -> ASGIApp:
        """Return who says what the resource at this path is; where there are several, on this host."""
        found = self._resources[path]
        return next((app for url, app in found if url.split("/")[2] == host), found[0][1])


def _prefix(path: str) -> str:
    """Return what a path under this one begins with. Raises: ConfigurationError."""
    scope = {"http_version": "1.1", "type": "http", "query_string": b"", "headers": [(b"host", b"x")]}
    if not path.isascii() or "%" in path or problem_with(scope | {"raw_path": path.encode()}) is not None:
        raise ConfigurationError("a route's path begins with a slash, and has none but plain segments")
    return path.rstrip("/")
