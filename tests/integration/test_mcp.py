"""MCP servers that only holders of a mandate may call: the example servers, and the official client, over real HTTP."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import SubscriptionLost
from mcp.types import TextContent

from tests.examples import example_served
from tests.integration.agents import Agent, dying, open_agent
from tests.running import Running, authority_running, until

pytestmark = pytest.mark.anyio

LIMIT_S = 1.0
"""Ten times what it should take, for a machine that does something else."""

only_sdk = pytest.mark.parametrize("service", ["mcp_server"], indirect=True)  # FastMCP has no subscriptions yet


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True)
class Service:
    """An example server behind its guard, and an agent that may call it."""

    running: Running
    url: str
    names: dict[str, Any]
    agent: Agent

    @property
    def mcp(self) -> str:
        return f"{self.url}/mcp"


@pytest.fixture(params=["mcp_server", "fastmcp_server"])
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    async with authority_running(tmp_path) as running, example_served(request.param, running) as (url, names):
        agent = await open_agent(running, "alice", f"{url}/mcp")

        async def passes() -> bool:
            return bool(await names["guard"].decide(agent.token))

        await until(passes, "the replica is ready")
        yield Service(running, url, names, agent)


@asynccontextmanager
async def client_of(service: Service, token: str, **options: Any) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=30) as http,
        Client(streamable_http_client(service.mcp, http_client=http), **options) as client,
    ):
        yield client


async def whoami(client: Client) -> str:
    (said,) = (await client.call_tool("whoami")).content
    assert isinstance(said, TextContent)
    return said.text


LIST: Final = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


async def post(service: Service, headers: dict[str, str] | None = None, body: Any = LIST) -> httpx2.Response:
    """Send what any client could."""
    usual = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    async with httpx2.AsyncClient() as http:
        return await http.post(service.mcp, json=body, headers=usual | (headers or {}))


async def test_a_tool_is_told_who_calls_until_the_agent_is_revoked(service: Service) -> None:
    async with client_of(service, service.agent.token) as client:
        assert await whoami(client) == "alice"
        await service.running.client.revoke("agent", service.agent.id, "the test")
        refused = await post(service, service.agent.headers)
        with pytest.raises(MCPError):
            await whoami(client)
    assert refused.status_code == 401
    assert refused.json()["error"] == "session_revoked"
    assert "session_revoked" in refused.headers["www-authenticate"]


@only_sdk
async def test_an_open_subscription_is_closed_when_the_agent_is_revoked(service: Service) -> None:
    async with client_of(service, service.agent.token) as client, client.listen(tools_list_changed=True) as events:
        await service.running.client.revoke("agent", service.agent.id, "the test")
        answered_s = time.monotonic()
        with pytest.raises(SubscriptionLost):
            await anext(events)
        took_s = time.monotonic() - answered_s
    assert took_s < LIMIT_S, f"{took_s * 1000:.0f} ms from the answer to the end of the stream"


@only_sdk
async def test_an_open_subscription_is_closed_when_the_token_expires(service: Service) -> None:
    token = dying(service.running, service.agent.token)
    async with client_of(service, token) as client, client.listen(tools_list_changed=True) as events:
        with pytest.raises(SubscriptionLost):
            await anext(events)


@asynccontextmanager
async def stream_of(service: Service, token: str) -> AsyncIterator[httpx2.Response]:
    """Open a session, and the stream on which such a server says what it likes (2025-11-25 and before)."""
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    headers = {"authorization": f"Bearer {token}"}
    began = await post(service, headers, {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello})
    headers |= {"mcp-session-id": began.headers["mcp-session-id"], "accept": "text/event-stream"}
    async with httpx2.AsyncClient(timeout=30) as http, http.stream("GET", service.mcp, headers=headers) as stream:
        assert stream.status_code == 200
        yield stream


async def test_an_open_stream_is_closed_when_the_agent_is_revoked(service: Service) -> None:
    async with stream_of(service, service.agent.token) as stream:
        await service.running.client.revoke("agent", service.agent.id, "the test")
        answered_s = time.monotonic()
        with pytest.raises(httpx2.RemoteProtocolError):
            await stream.aread()
        took_s = time.monotonic() - answered_s
    assert took_s < LIMIT_S, f"{took_s * 1000:.0f} ms from the answer to the end of the stream"


async def test_an_open_stream_is_closed_when_the_token_expires(service: Service) -> None:
    token = dying(service.running, service.agent.token)
    async with stream_of(service, token) as stream:
        with pytest.raises(httpx2.RemoteProtocolError):
            await stream.aread()
    refused = await post(service, {"authorization": f"Bearer {token}"})
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_token")


async def test_who_has_no_token_for_this_server_is_told_where_to_get_one(service: Service) -> None:
    other = await open_agent(service.running, "bob", "https://elsewhere.example")
    for refused, code in ((await post(service), None), (await post(service, other.headers), "invalid_token")):
        assert refused.status_code == 401
        challenge = refused.headers["www-authenticate"]
        assert code is None or f'error="{code}"' in challenge
        async with httpx2.AsyncClient() as http:
            metadata = await http.get(challenge.partition('resource_metadata="')[2].partition('"')[0])
        assert metadata.json()["resource"] == service.mcp
        assert metadata.json()["authorization_servers"] == [service.running.url]


async def test_where_we_cannot_know_the_answer_is_503(service: Service) -> None:
    await service.names["guard"].aclose()
    service.names["guard"]._background.start = _never
    refused = await post(service, service.agent.headers)
    assert (refused.status_code, refused.json()["error"]) == (503, "revocation_unavailable")
    assert refused.headers["retry-after"] == "1"


async def _never() -> None:
    raise OSError("the authority cannot be reached")
