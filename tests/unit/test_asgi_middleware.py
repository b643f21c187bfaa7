"""The guard before an ASGI app: what reaches the app, what is answered instead, and who is started and closed when."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from countermand.enforce.asgi import MANDATE_KEY, GuardMiddleware, Message, Receive, Scope, Send
from countermand.enforce.bearer import challenge
from countermand.enforce.decision import Code, Deny, Requirements
from countermand.errors import ConfigurationError
from tests.unit.denials import DENIALS, METADATA
from tests.unit.guarded import ID_HEADER, SECRETS, TOKEN_TEXT, Following, guard

pytestmark = pytest.mark.anyio

BEARER = ("Authorization", f"Bearer {TOKEN_TEXT}")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class App:
    """An app that notes what reaches it, and greets."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture
def app() -> App:
    return App()


async def ask(
    guarded: Any, headers: Iterable[tuple[str, str]] = (), *, method: str = "GET", path: str = "/"
) -> httpx2.Response:
    transport = httpx2.ASGITransport(guarded)
    async with httpx2.AsyncClient(transport=transport, base_url="http://api.example") as client:
        return await client.request(method, path, headers=list(headers))


async def call(guarded: Any, scope: Scope, *received: Message) -> list[Message]:
    """What `guarded` sends for a raw scope, when the server sends `received` and then nothing more."""
    sent: list[Message] = []
    waiting = list(received)

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await guarded(scope, receive, send)
    return sent


def socket(*headers: tuple[bytes, bytes]) -> Scope:
    return {"type": "websocket", "path": "/", "query_string": b"", "headers": headers}


async def test_a_good_token_reaches_the_app_with_its_mandate(app: App) -> None:
    answer = await ask(guard().asgi(app), [BEARER])

    assert (answer.status_code, answer.text) == (200, "hello")
    assert app.scopes[0][MANDATE_KEY].subject == "alice"
    assert app.scopes[0]["state"]["mandate"] is app.scopes[0][MANDATE_KEY]


async def test_a_mandate_that_somebody_else_put_into_the_scope_is_replaced(app: App) -> None:
    scope: Scope = {
        "type": "http",
        "method": "GET",
        "headers": [(b"authorization", f"Bearer {TOKEN_TEXT}".encode())],
        MANDATE_KEY: "made up",
        "state": {"mandate": "made up", "kept": 1},
    }

    await call(guard().asgi(app), scope)

    assert app.scopes[0][MANDATE_KEY].subject == "alice"
    assert app.scopes[0]["state"] == {"mandate": app.scopes[0][MANDATE_KEY], "kept": 1}


@pytest.mark.parametrize("code", DENIALS)
async def test_every_denial_has_its_status_headers_and_body(app: App, code: str) -> None:
    denying, requirements, token, status, challenge = DENIALS[code]
    headers = [("Authorization", f"Bearer {token}")] if token else []

    answer = await ask(GuardMiddleware(app, denying, requirements), headers)

    assert answer.status_code == status
    assert sorted(answer.json()) == ["error", "error_description", "error_hint"]
    assert answer.json()["error"] == code
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["cache-control"] == "no-store"
    said = f'{challenge}, resource_metadata="{METADATA}"' if challenge else f'Bearer resource_metadata="{METADATA}"'
    assert answer.headers.get("www-authenticate", "") == ("" if status == 503 else said)
    assert answer.headers.get("retry-after") == ("1" if status == 503 else None)
    assert app.scopes == []
    assert not [secret for secret in SECRETS if secret in answer.text + str(answer.headers)]


@pytest.mark.parametrize("code", DENIALS)
async def test_every_denial_closes_a_web_socket_before_it_is_accepted(app: App, code: str) -> None:
    denying, requirements, token, status, _ = DENIALS[code]
    scope = socket((b"authorization", f"Bearer {token}".encode())) if token else socket()

    sent = await call(GuardMiddleware(app, denying, requirements), scope)

    assert sent == [{"type": "websocket.close", "code": 1013 if status == 503 else 1008, "reason": code}]
    assert app.scopes == []


async def test_a_good_token_opens_a_web_socket(app: App) -> None:
    sent = await call(guard().asgi(app), socket((b"authorization", f"Bearer {TOKEN_TEXT}".encode())))

    assert sent == [{"type": "websocket.accept", "headers": [ID_HEADER]}]
    assert app.scopes[0][MANDATE_KEY].subject == "alice"


async def test_without_a_token_the_challenge_names_scopes_and_metadata_and_no_error(app: App) -> None:
    guarded = guard().asgi(app, required_scopes=["read"])

    answer = await ask(guarded)

    assert answer.headers["www-authenticate"] == f'Bearer scope="read", resource_metadata="{METADATA}"'


async def test_head_is_answered_without_a_body(app: App) -> None:
    sent = await call(guard().asgi(app), {"type": "http", "method": "HEAD", "headers": []})

    assert sent[0]["status"] == 401
    assert sent[1:] == [{"type": "http.response.body", "body": b""}]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
@pytest.mark.parametrize("spaces", [" ", "   "])
async def test_the_scheme_is_read_in_any_case(app: App, scheme: str, spaces: str) -> None:
    answer = await ask(guard().asgi(app), [("Authorization", f"{scheme}{spaces}{TOKEN_TEXT}")])

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b"", "missing_token"),
        (b"Bearer", "missing_token"),
        (b"Bearer  ", "missing_token"),
        (b"Basic " + TOKEN_TEXT.encode(), "missing_token"),
        (TOKEN_TEXT.encode(), "missing_token"),
        (b"Bearer\t" + TOKEN_TEXT.encode(), "missing_token"),
        (b"Bearer \xff\xfe", "invalid_token"),
        (b"Bearer " + TOKEN_TEXT.encode() + b"\xe4", "invalid_token"),
        (b"Bearer " + TOKEN_TEXT.encode() + b" x", "invalid_token"),
        (b"Bearer " + TOKEN_TEXT.encode() + b", Bearer " + TOKEN_TEXT.encode(), "invalid_token"),
        (b"Bearer " + b"a" * 1_000_000, "invalid_token"),
    ],
)
async def test_any_other_header_carries_no_token_or_no_good_one(app: App, header: bytes, code: str) -> None:
    scope: Scope = {"type": "http", "method": "GET", "headers": [(b"authorization", header)]}

    start, body = await call(guard().asgi(app), scope)

    assert start["status"] == 401
    assert json.loads(body["body"])["error"] == code
    assert app.scopes == []


@pytest.mark.parametrize("other", [TOKEN_TEXT, "x"])
async def test_two_authorization_headers_are_refused_even_if_both_are_good(app: App, other: str) -> None:
    answer = await ask(guard().asgi(app), [BEARER, ("authorization", f"Bearer {other}")])

    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")
    assert app.scopes == []


async def test_two_authorization_headers_are_seen_in_any_case(app: App) -> None:
    names = (b"Authorization", b"AUTHORIZATION")
    headers = [(name, f"Bearer {TOKEN_TEXT}".encode()) for name in names]

    start, _ = await call(guard().asgi(app), {"type": "http", "method": "GET", "headers": headers})

    assert start["status"] == 401
    assert app.scopes == []


def test_words_that_cannot_stand_in_a_header_are_replaced() -> None:
    deny = Deny.of(Code.INVALID_TOKEN, description='a "b"\\\r\nx-c: ü')

    assert challenge(deny) == 'Bearer error="invalid_token", error_description="a ?b????x-c: ?"'


async def test_a_token_in_the_query_string_is_no_token(app: App) -> None:
    answer = await ask(guard().asgi(app), path=f"/?access_token={TOKEN_TEXT}")

    assert answer.json()["error"] == "missing_token"


async def test_a_scope_that_nobody_knows_is_not_let_in(app: App) -> None:
    with pytest.raises(ConfigurationError):
        await call(guard().asgi(app), {"type": "webtransport", "headers": [(b"authorization", b"x")]})

    assert app.scopes == []


def test_requirements_that_the_guard_cannot_answer_for_are_refused_at_once(app: App) -> None:
    with pytest.raises(ConfigurationError):
        guard().asgi(app, max_staleness_s=10)


@given(st.lists(st.tuples(st.just(b"authorization") | st.binary(), st.binary() | st.binary().map(b"Bearer ".__add__))))
def test_no_headers_ever_pass_or_raise(headers: list[tuple[bytes, bytes]]) -> None:
    app = App()
    guarded = guard().asgi(app)

    for scope in ({"type": "http", "method": "GET", "headers": headers}, socket(*headers)):
        sent = asyncio.run(call(guarded, scope))
        assert sent[0].get("status") == 401 or sent[0].get("code") == 1008
    assert app.scopes == []


async def greet(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.state.mandate.subject)


async def test_starlette_takes_it_by_add_middleware() -> None:
    app = Starlette(routes=[Route("/", greet)])
    app.add_middleware(GuardMiddleware, guard=guard(), requirements=Requirements.of(required_scopes=["read"]))

    assert (await ask(app, [BEARER])).text == "alice"
    assert (await ask(app)).status_code == 401


async def test_fastapi_takes_it_by_add_middleware() -> None:
    app = FastAPI()
    app.add_middleware(GuardMiddleware, guard=guard())
    app.get("/")(greet)

    assert (await ask(app, [BEARER])).text == "alice"
    assert (await ask(app)).status_code == 401


async def test_where_the_server_sends_no_lifespan_the_first_request_starts_the_guard(app: App) -> None:
    background = Following()

    assert (await ask(guard(background=background).asgi(app), [BEARER])).status_code == 200
    assert background.running
