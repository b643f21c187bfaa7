"""Whatever a service is made with: where we cannot know, its answer is 503 to try again, never 500, and never open.

And each takes a Biscuit as it takes a mandate, on the same route.
"""

import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
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

from countermand.enforce.biscuits import Biscuits
from countermand.enforce.fastapi import protect
from countermand.enforce.fastmcp import MandateAuth
from countermand.enforce.forward_auth import ForwardAuth
from countermand.enforce.guard import Guard
from countermand.enforce.mcp import MandateVerifier, auth_settings
from countermand.enforce.revocations import AnyRevocations
from countermand.errors import KeysError
from countermand.log.verdict import CLEAR, Unknown
from countermand.tokens.biscuit import Biscuit
from countermand.tokens.mandate import Mandate, mint
from tests.biscuits import ROOT_KEY, compiled, sign
from tests.unit import biscuit_guards
from tests.unit.biscuit_guards import POLICY
from tests.unit.guarded import TOKEN_TEXT, Answers, Following, Keys, guard, revoked
from tests.unit.mandates import CLAIMS, ES256

pytestmark = pytest.mark.anyio

Ask = Callable[[str], Awaitable[httpx2.Response]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def bearing(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def asgi(app: Any, method: str = "GET", path: str = "/", *, within: Any = None) -> Ask:
    """Ask `app`, while `within` runs: what it is made of, if that must be started."""

    async def ask(token: str) -> httpx2.Response:
        started = nullcontext() if within is None else within.router.lifespan_context(within)
        async with started, httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://service") as http:
            return await http.request(method, path, headers=bearing(token))

    return ask


def starlette(guarding: Guard) -> Ask:
    async def hello(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    return asgi(guarding.asgi(Starlette(routes=[Route("/", hello)])))


def fastapi(guarding: Guard) -> Ask:
    app = FastAPI()
    mandates = protect(app, guarding)

    @app.get("/")
    async def hello(_holder: Annotated[Mandate | Biscuit, Depends(mandates)]) -> str:
        return "hello"

    return asgi(app)


def mcp(guarding: Guard) -> Ask:
    server = MCPServer("hello", token_verifier=MandateVerifier(guarding), auth=auth_settings(guarding))
    app = server.streamable_http_app()
    return asgi(guarding.asgi(app), "POST", "/mcp", within=app)


def fastmcp(guarding: Guard) -> Ask:
    app = FastMCP("hello", auth=MandateAuth(guarding)).http_app()
    return asgi(app, "POST", "/mcp", within=app)


def flask(guarding: Guard) -> Ask:
    app = Flask("hello")
    app.wsgi_app = guarding.wsgi(app.wsgi_app)  # type: ignore[method-assign]  # that is where Flask wants it
    app.get("/")(lambda: "hello")

    async def ask(token: str) -> httpx2.Response:
        try:
            answer = app.test_client().get("/", headers=bearing(token))
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
    answer = await adapter(fault())(TOKEN_TEXT)
    assert (answer.status_code, answer.json()["error"]) == (503, FAULTS[fault])
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_forward_auth_says_403_for_proxies_make_500_of_503(fault: Callable[[], Guard]) -> None:
    answer = await asgi(ForwardAuth(fault()))(TOKEN_TEXT)
    assert (answer.status_code, answer.json()["error"]) == (403, FAULTS[fault])
    assert answer.headers["retry-after"] == "1"


# Biscuits


BISCUIT_TEXT = biscuit_guards.TOKEN_TEXT
IDS = biscuit_guards.verified(BISCUIT_TEXT).revocation_ids


def both(revocations: AnyRevocations, policy: str = POLICY, **options: Any) -> Guard:
    return guard(revocations, biscuits=Biscuits(ROOT_KEY, policy), **options)


def forward_auth(guarding: Guard) -> Ask:
    return asgi(ForwardAuth(guarding))


EVERY = pytest.mark.parametrize("adapter", [*ADAPTERS, forward_auth], ids=lambda adapter: adapter.__name__)


def lasting() -> dict[str, str]:
    """Tokens of either kind that are good now by every clock: some servers look at their own."""
    now_s = int(time.time())
    until = datetime.fromtimestamp(now_s + 900, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    biscuit = sign(compiled('user("alice"); scope("read")', f"check if time($now), $now < {until}"))
    return {
        "mandate": mint(replace(CLAIMS, issued_at_s=now_s, expires_at_s=now_s + 900), ES256),
        "biscuit": str(biscuit),
        "biscuit without an end": BISCUIT_TEXT,
    }


@EVERY
@pytest.mark.parametrize("kind", lasting())
async def test_a_good_token_of_either_kind_is_let_in(adapter: Callable[[Guard], Ask], kind: str) -> None:
    answer = await adapter(both(Answers(CLEAR), clock_s=time.time))(lasting()[kind])
    assert answer.status_code not in {401, 403, 503}
    assert "www-authenticate" not in answer.headers


@EVERY
@pytest.mark.parametrize("id_", IDS, ids=["first", "middle", "last"])
async def test_a_biscuit_of_which_any_id_is_revoked_is_refused(adapter: Callable[[Guard], Ask], id_: str) -> None:
    answer = await adapter(both(revoked(id_)))(BISCUIT_TEXT)
    assert (answer.status_code, answer.json()["error"]) == (401, "session_revoked")
    assert "session_revoked" in answer.headers["www-authenticate"]


@EVERY
async def test_a_biscuit_that_the_policy_does_not_allow_is_refused(adapter: Callable[[Guard], Ask]) -> None:
    answer = await adapter(both(Answers(CLEAR), 'allow if user("bob")'))(BISCUIT_TEXT)
    assert (answer.status_code, answer.json()["error"]) == (403, "insufficient_scope")


@EVERY
async def test_a_biscuit_is_no_token_where_none_are_accepted(adapter: Callable[[Guard], Ask]) -> None:
    answer = await adapter(guard(Answers(CLEAR)))(BISCUIT_TEXT)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.__name__)
async def test_of_a_biscuit_too_we_say_when_we_cannot_know(adapter: Callable[[Guard], Ask]) -> None:
    answer = await adapter(both(Answers(Unknown("stale"))))(BISCUIT_TEXT)
    assert (answer.status_code, answer.json()["error"]) == (503, "revocation_unavailable")
    assert answer.headers["retry-after"] == "1"


async def test_forward_auth_of_a_biscuit_says_403_for_proxies_make_500_of_503() -> None:
    answer = await forward_auth(both(Answers(Unknown("stale"))))(BISCUIT_TEXT)
    assert (answer.status_code, answer.json()["error"]) == (403, "revocation_unavailable")


async def test_without_keys_for_mandates_a_biscuit_passes() -> None:
    guarding = guard(Answers(CLEAR), keys=Keys(KeysError("none")), biscuits=Biscuits(ROOT_KEY, POLICY))
    assert (await starlette(guarding)(BISCUIT_TEXT)).status_code == 200
    assert (await starlette(guarding)(TOKEN_TEXT)).status_code == 503
