"""The API client: what it sends, and what it makes of answers that are none."""

import json
from collections.abc import Callable

import httpx2
import pytest

from countermand.cli.client import ApplicationClient, AuthorityClient
from countermand.errors import BadAnswerError, NotFoundError, RefusedError, UnreachableError

pytestmark = pytest.mark.anyio

Answer = Callable[[httpx2.Request], httpx2.Response]
TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def http(answer: Answer) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.MockTransport(answer), base_url="http://authority.example")


async def test_an_id_stays_one_segment_of_the_path() -> None:
    asked = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.raw_path)
        return httpx2.Response(404, json={"detail": "there is nothing of this id"})

    async with http(answer) as client:
        with pytest.raises(NotFoundError, match="nothing of this id"):
            await AuthorityClient(client).tree("../log?x=1#y")
    assert asked == [b"/v1/tree/..%2Flog%3Fx%3D1%23y"]


async def test_what_is_left_out_is_not_sent() -> None:
    sent = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(json.loads(request.content))
        return httpx2.Response(200, json={"seq": 1, "reach": {"counts": {}, "is_whole": True}})

    async with http(answer) as client:
        await AuthorityClient(client).revoke("session", "ses_1")
        await AuthorityClient(client).revoke("token", "j", "why", issuer="https://idp.example", dry_run=True)
        await AuthorityClient(client).cut_off("all")
        await AuthorityClient(client).revoke_biscuit("En0K")
        await AuthorityClient(client).revoke_biscuit("En0K", 0, "why", dry_run=True)
    assert sent == [
        {"kind": "session", "id": "ses_1"},
        {"kind": "token", "id": "j", "reason": "why", "issuer": "https://idp.example", "dry_run": True},
        {"target": "all"},
        {"token": "En0K"},
        {"token": "En0K", "block": 0, "reason": "why", "dry_run": True},
    ]


@pytest.mark.parametrize("content", [b"", b"[]", b"hello", b"{}", b"null"])
async def test_an_answer_that_is_no_authoritys_is_an_error(content: bytes) -> None:
    async with http(lambda _: httpx2.Response(200, content=content)) as client:
        with pytest.raises(BadAnswerError, match="is not an authority"):
            await AuthorityClient(client).revoke("session", "ses_1")
        with pytest.raises(BadAnswerError, match="is not an authority"):
            await ApplicationClient(client, "app_1", "secret").exchange(TOKEN, "resource://x")


async def test_an_application_authenticates_as_rfc_6749_wants_it() -> None:
    seen = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append((request.headers["authorization"], dict(httpx2.QueryParams(request.content.decode()))))
        return httpx2.Response(200, json={"access_token": "new"})

    async with http(answer) as client:
        token = await ApplicationClient(client, "app:1", "a b").exchange(TOKEN, "resource://x", agent_id="agt_1")
    assert token == "new"
    ((authorization, form),) = seen
    assert authorization == "Basic YXBwJTNBMTphJTIwYg=="  # app%3A1:a%20b
    assert form == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": TOKEN,
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "audience": "resource://x",
        "agent_session_id": "agt_1",
    }


@pytest.mark.parametrize(("status", "error"), [(400, RefusedError), (401, RefusedError), (503, BadAnswerError)])
async def test_a_refused_exchange_is_an_error_without_the_token(status: int, error: type[Exception]) -> None:
    refusal = {"error": "invalid_request", "error_description": "it has ended"}
    async with http(lambda _: httpx2.Response(status, json=refusal)) as client:
        with pytest.raises(error, match="invalid_request: it has ended") as raised:
            await ApplicationClient(client, "app_1", "secret").exchange(TOKEN, "resource://x")
    assert TOKEN not in str(raised.value)


async def test_no_answer_is_an_error_of_ours() -> None:
    def fails(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused", request=request)

    async with http(fails) as client:
        with pytest.raises(UnreachableError, match="did not answer: ConnectError"):
            await ApplicationClient(client, "app_1", "secret").exchange(TOKEN, "resource://x")
        with pytest.raises(UnreachableError, match="did not answer: ConnectError"):
            await AuthorityClient(client).tree("ses_1")
