"""Whatever a service is made with: where we cannot know, its answer is 503 to try again, never 500, and never open."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import Depends, FastAPI
from fastmcp import FastMCP
from flask import Flask
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from countermand.enforce.fastapi import protect
from countermand.enforce.fastmcp import MandateAuth
from countermand.enforce.forward_auth import ForwardAuth
from countermand.enforce.guard import Guard
from countermand.enforce.mcp import MandateVerifier, auth_settings
from countermand.errors import KeysError
from countermand.log.verdict import CLEAR, Unknown
from countermand.tokens.mandate import Mandate
from tests.unit.guarded import TOKEN_TEXT, Answers, Following, Keys, guard

pytestmark = pytest.mark.anyio

Ask = Callable[[], Awaitable[httpx2.Response]]
HEADERS = {"authorization": f"Bearer {TOKEN_TEXT}"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def asgi(app: Any, method: str = "GET", path: str = "/") -> Ask:
    async def ask() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://service") as http:
            return await http.request(method, path, headers=HEADERS)

    return ask


def starlette(guarding: Guard) -> Ask:
    async def hello(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    return asgi(guarding.asgi(Starlette(routes=[Route("/", hello)])))


def fastapi(guarding: Guard) -> Ask:
    app = FastAPI()
    mandates = protect(app, guarding)

    @app.get("/")
    async def hello(_mandate: Annotated[Mandate, Depends(mandates)]) -> str:
        return "hello"

    return asgi(app)


def mcp(guarding: Guard) -> Ask:
    server = MCPServer("hello", token_verifier=MandateVerifier(guarding), auth=auth_settings(guarding))
    return asgi(guarding.asgi(server.streamable_http_app()), "POST", "/mcp")


def fastmcp(guarding: Guard) -> Ask:
    return asgi(FastMCP("hello", auth=MandateAuth(guarding)).http_app(), "POST", "/mcp")


def flask(guarding: Guard) -> Ask:
    app = Flask("hello")
    app.wsgi_app = guarding.wsgi(app.wsgi_app)  # type: ignore[method-assign]  # that is where Flask wants it
    app.get("/")(lambda: "hello")

    async def ask() -> httpx2.Response:
        try:
            answer = app.test_client().get("/", headers=HEADERS)
        finally:
            guarding.close()
        return httpx2.Response(answer.status_code, headers=list(answer.headers), content=answer.data)

    return ask


ADAPTERS = [starlette, fastapi, mcp, fastmcp, flask]


def stale() -> Guard:
    return guard(Answers(Unknown("stale")))


def without_keys() -> Guard:
    return guard(Answers(CLEAR), keys=Keys(KeysError("none")))


def without_a_way() -> Guard:
    following = Following()
    following.failure = OSError("no route to host")
    return guard(Answers(CLEAR), background=following)


FAULTS = {stale: "revocation_unavailable", without_keys: "keys_unavailable", without_a_way: "revocation_unavailable"}


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.__name__)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_where_we_cannot_know_the_answer_is_503(
    adapter: Callable[[Guard], Ask], fault: Callable[[], Guard]
) -> None:
    answer = await adapter(fault())()
    assert (answer.status_code, answer.json()["error"]) == (503, FAULTS[fault])
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_forward_auth_says_403_for_proxies_make_500_of_503(fault: Callable[[], Guard]) -> None:
    answer = await asgi(ForwardAuth(fault()))()
    assert (answer.status_code, answer.json()["error"]) == (403, FAULTS[fault])
    assert answer.headers["retry-after"] == "1"
