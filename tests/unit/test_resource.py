"""What a resource says of itself, and to whom: RFC 9728."""

import json
from typing import Any
from urllib.parse import unquote

import httpx2
import pytest

from countermand.enforce.asgi import Message, Scope
from countermand.enforce.resource import ProtectedResource
from tests.unit.guarded import guard
from tests.unit.mandates import AUDIENCE, ISSUER

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("audience", "metadata_url"),
    [
        ("https://api.example", "https://api.example/.well-known/oauth-protected-resource"),
        ("https://api.example/", "https://api.example/.well-known/oauth-protected-resource"),
        ("http://127.0.0.1:8000/mcp", "http://127.0.0.1:8000/.well-known/oauth-protected-resource/mcp"),
        ("https://[::1]/a/b/", "https://[::1]/.well-known/oauth-protected-resource/a/b/"),
        ("https://api.example/a%20b", "https://api.example/.well-known/oauth-protected-resource/a%20b"),
    ],
)
def test_the_document_stands_between_host_and_path(audience: str, metadata_url: str) -> None:
    resource = ProtectedResource.of(audience, ISSUER, ["write", "read"])
    assert resource is not None
    assert resource.metadata_url == metadata_url
    assert unquote(metadata_url).endswith(resource.path)
    assert json.loads(resource.metadata) == {
        "resource": audience,
        "authorization_servers": [ISSUER],
        "bearer_methods_supported": ["header"],
        "scopes_supported": ["read", "write"],
    }


@pytest.mark.parametrize(
    "audience",
    [
        *("resource://api", "api", "ftp://api.example", "https://", "https:///path", "https://api.example?x", "//x"),
        *("https://api.example/#x", 'https://api.example/"', "https://api.example/\r\nx: y", "https://api.example/\n"),
        *("https://api.example/a b", "https://bücher.example", "https://api.example\\"),
    ],
)
def test_what_is_no_url_of_a_resource_has_no_document(audience: str) -> None:
    assert ProtectedResource.of(audience, ISSUER, []) is None


async def refuses(scope: Scope, receive: Any, send: Any) -> None:
    raise AssertionError("nobody may come here")


async def test_anybody_may_read_it_and_nothing_else() -> None:
    app = guard().asgi(refuses)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=AUDIENCE) as client:
        path = "/.well-known/oauth-protected-resource"
        told = await client.get(path)
        head = await client.head(path)
        others = [await client.post(path), await client.get(path + "/"), await client.get(path + "/x")]
    assert told.status_code == 200
    assert told.json()["authorization_servers"] == [ISSUER]
    assert told.headers["content-type"] == "application/json"
    assert told.headers["access-control-allow-origin"] == "*"
    assert "max-age" in told.headers["cache-control"]
    assert (head.status_code, head.content) == (200, b"")
    assert [other.status_code for other in others] == [401, 401, 401]


@pytest.mark.parametrize("path", ["/mcp/", "/a%20b/mcp", "/a"])
async def test_it_is_found_where_a_challenge_says(path: str) -> None:
    app = guard(audience=AUDIENCE + path).asgi(refuses)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=AUDIENCE) as client:
        challenge = (await client.get("/")).headers["www-authenticate"]
        found = await client.get(challenge.partition('resource_metadata="')[2].partition('"')[0])
    assert found.json()["resource"] == AUDIENCE + path


async def test_a_web_socket_at_its_path_is_guarded_like_any_other() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/.well-known/oauth-protected-resource", "headers": []}
    await guard().asgi(refuses)(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_an_audience_that_is_no_url_has_no_metadata_in_its_challenge() -> None:
    app = guard(audience="resource://api").asgi(refuses)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=AUDIENCE) as client:
        answers = [await client.get("/"), await client.get("/.well-known/oauth-protected-resource")]
    assert [answer.headers["www-authenticate"] for answer in answers] == ["Bearer", "Bearer"]
