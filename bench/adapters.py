"""A request through each adapter, with a token seen before and with a new one, beside the same app open to all.

In one process and without sockets: what is measured is the adapter, and the framework's own work for a request.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend, RequireAuthMiddleware
from mcp.server.auth.provider import AccessToken
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.routing import Route

from bench.decide import Issuer
from bench.harness import MICRO, Row, race
from bench.log import BenchLog
from countermand.enforce.asgi import ASGIApp, Message, Receive, Scope, Send
from countermand.enforce.fastapi import protect
from countermand.enforce.fastmcp import MandateAuth
from countermand.enforce.mcp import MandateVerifier
from countermand.tokens.mandate import Mandate

WARM: Final = 1_000
COLD: Final = 200
ROUNDS: Final = 11
OPEN: Final = "the same app, open to all"
"""With whatever else its framework does for a request that carries a token."""


class _Anybody:
    """A verifier of the SDK's that lets everybody in."""

    async def verify_token(self, token: str) -> AccessToken:
        return AccessToken(token=token, client_id="anybody", scopes=[])


def measure(log: BenchLog) -> list[Row]:
    """Return a warm and a cold row for each adapter."""
    issuer = Issuer()
    adapters: dict[str, tuple[ASGIApp, ASGIApp]] = {
        "ASGI": (issuer.guard(log).asgi(_hello), _hello),
        "FastAPI, a dependency": (_fastapi(issuer, log), _open_fastapi()),
        "MCP, the official SDK": (_mcp(issuer, log), _open_mcp()),
        "FastMCP": (_fastmcp(issuer, log), _open_mcp()),
    }
    return [row for name, apps in adapters.items() for row in _rows(name, *apps, issuer=issuer, log=log)]


def _rows(name: str, guarded: ASGIApp, unguarded: ASGIApp, *, issuer: Issuer, log: BenchLog) -> list[Row]:
    warm, cold = issuer.tokens(1) * WARM, iter([issuer.tokens(COLD) for _ in range(ROUNDS)])
    with asyncio.Runner() as runner:
        contenders = {
            "warm": lambda: runner.run(_ask(guarded, warm)),
            "cold": lambda: runner.run(_ask(guarded, next(cold))),
            OPEN: lambda: runner.run(_ask(unguarded, warm)),
        }
        medians = race(contenders, rounds=ROUNDS, before=log.heartbeat)
    beside: Mapping[str, float | str] = {OPEN: medians[OPEN] * MICRO}
    return [Row(f"a request by {name}, {kind}", "µs", medians[kind] * MICRO, beside) for kind in ("warm", "cold")]


async def _hello(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def _fastapi(issuer: Issuer, log: BenchLog) -> FastAPI:
    app = FastAPI()
    mandates = protect(app, issuer.guard(log))

    @app.get("/")
    async def hello(_mandate: Annotated[Mandate, Depends(mandates)]) -> str:
        return "hello"

    return app


def _open_fastapi() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def hello() -> str:
        return "hello"

    return app


def _authenticated(*middleware: Middleware) -> Starlette:
    return Starlette(routes=[Route("/", RequireAuthMiddleware(_hello, []))], middleware=middleware)


def _open_mcp() -> ASGIApp:
    return _authenticated(Middleware(AuthenticationMiddleware, backend=BearerAuthBackend(_Anybody())))


def _mcp(issuer: Issuer, log: BenchLog) -> ASGIApp:
    guard = issuer.guard(log)
    backend = BearerAuthBackend(MandateVerifier(guard))
    return guard.asgi(_authenticated(Middleware(AuthenticationMiddleware, backend=backend)))


def _fastmcp(issuer: Issuer, log: BenchLog) -> ASGIApp:
    return _authenticated(*MandateAuth(issuer.guard(log)).get_middleware())


async def _ask(app: ASGIApp, texts: Sequence[str]) -> float:
    """Send a request with each token; return the seconds for one."""
    statuses: list[Any] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    began_s = time.perf_counter()
    for text in texts:
        await app(_scope(text), _receive, send)
    taken_s = time.perf_counter() - began_s
    if statuses != [200] * len(texts):
        raise RuntimeError("a token of the bench was denied")
    return taken_s / len(texts)


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def _scope(text: str) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(b"host", b"bench"), (b"authorization", f"Bearer {text}".encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
