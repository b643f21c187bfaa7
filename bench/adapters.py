"""A request through each adapter, with a token seen before and with a new one, beside the same app open to all.

In one process and without sockets: what is measured is the adapter, and the framework's own work for a request.
"""

import asyncio
import io
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Annotated, Any, Final, TypeAlias
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

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


Asks: TypeAlias = Callable[[Sequence[str]], float]
"""Sends a request with each token, and returns the seconds for one."""


class _Anybody:
    """A verifier of the SDK's that lets everybody in."""

    async def verify_token(self, token: str) -> AccessToken:
        return AccessToken(token=token, client_id="anybody", scopes=[])


def measure(log: BenchLog) -> list[Row]:
    """Return a warm and a cold row for each adapter."""
    issuer = Issuer()
    with asyncio.Runner() as runner:

        def asgi(app: ASGIApp) -> Asks:
            return lambda texts: runner.run(_ask(app, texts))

        adapters = {
            "ASGI": (asgi(issuer.guard(log).asgi(_hello)), asgi(_hello)),
            "FastAPI, a dependency": (asgi(_fastapi(issuer, log)), asgi(_open_fastapi())),
            "MCP, the official SDK": (asgi(_mcp(issuer, log)), asgi(_open_mcp())),
            "FastMCP": (asgi(_fastmcp(issuer, log)), asgi(_open_mcp())),
        }
        rows = [row for name, asked in adapters.items() for row in _rows(name, *asked, issuer=issuer, log=log)]
    threaded = issuer.guard(log)
    by_wsgi = partial(_ask_wsgi, threaded.wsgi(_hello_wsgi)), partial(_ask_wsgi, _hello_wsgi)
    rows += _rows("WSGI", *by_wsgi, issuer=issuer, log=log)
    threaded.close()
    return rows


def _rows(name: str, guarded: Asks, unguarded: Asks, *, issuer: Issuer, log: BenchLog) -> list[Row]:
    warm, cold = issuer.tokens(1) * WARM, iter([issuer.tokens(COLD) for _ in range(ROUNDS)])
    contenders = {
        "warm": lambda: guarded(warm),
        "cold": lambda: guarded(next(cold)),
        OPEN: lambda: unguarded(warm),
    }
    medians = race(contenders, rounds=ROUNDS, before=log.heartbeat)
    beside = {OPEN: medians[OPEN] * MICRO}
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


def _hello_wsgi(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"hello"]


def _ask_wsgi(app: WSGIApplication, texts: Sequence[str]) -> float:
    """Send a request with each token; return the seconds for one."""
    statuses: list[str] = []

    def start_response(status: str, *_rest: Any) -> Any:
        statuses.append(status)

    began_s = time.perf_counter()
    for text in texts:
        environ = {"REQUEST_METHOD": "GET", "wsgi.input": io.BytesIO(), "HTTP_AUTHORIZATION": f"Bearer {text}"}
        answer = app(environ, start_response)
        b"".join(answer)
        if hasattr(answer, "close"):
            answer.close()
    taken_s = time.perf_counter() - began_s
    if statuses != ["200 OK"] * len(texts):
        raise RuntimeError("a token of the bench was denied")
    return taken_s / len(texts)
