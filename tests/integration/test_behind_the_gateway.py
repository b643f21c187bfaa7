"""Services that know nothing of tokens, behind the gateway: what is open ends with its token, also with nginx in front.

An MCP server and its official client, server-sent events, a web socket.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import SubscriptionLost
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import TextContent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from countermand.settings import ReplicaSettings, RouteSettings
from countermand.wiring.gateway import guards_of, serve_gateway
from countermand.wiring.serve import bound
from tests.examples import served
from tests.integration.agents import Agent, dying, open_agent
from tests.proxies import nginx_before_gateway
from tests.running import Running, authority_running, until

pytestmark = pytest.mark.anyio

AUDIENCE = "https://api.example"
LIMIT_S = 1.0
"""Ten times what it should take, for a machine that does something else."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def service() -> Starlette:
    """An app that trusts whoever reaches it, and its headers."""
    server = MCPServer("notes")

    @server.tool()
    async def whoami(context: Context) -> str:
        return str((context.headers or {}).get("x-countermand-subject"))

    async def ticks(_request: Request) -> StreamingResponse:
        async def tick() -> AsyncIterator[bytes]:
            while True:
                yield b"data: tick\n\n"
                await asyncio.sleep(0.02)

        return StreamingResponse(tick(), media_type="text/event-stream")

    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(f"hello {socket.headers['x-countermand-subject']}")
        async for text in socket.iter_text():
            await socket.send_text(text)

    app = server.streamable_http_app()
    app.router.routes += [Route("/ticks", ticks), WebSocketRoute("/echo", echo)]
    return app


@dataclass(frozen=True)
class Front:
    """What clients reach, and an agent that may pass."""

    running: Running
    url: str
    agent: Agent

    def connection(self, token: str) -> connect:
        address = self.url.replace("http:", "ws:") + "/echo"
        return connect(address, additional_headers={"authorization": f"Bearer {token}"})

    @asynccontextmanager
    async def ticks(self, token: str) -> AsyncIterator[httpx2.Response]:
        headers = {"authorization": f"Bearer {token}"}
        async with (
            httpx2.AsyncClient(base_url=self.url, timeout=30) as http,
            http.stream("GET", "/ticks", headers=headers) as stream,
        ):
            assert stream.status_code == 200
            yield stream

    @asynccontextmanager
    async def mcp(self, token: str) -> AsyncIterator[Client]:
        async with (
            httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=30) as http,
            Client(streamable_http_client(f"{self.url}/mcp", http_client=http)) as client,
        ):
            yield client


@pytest.fixture(params=["the gateway", "nginx before it"])
async def front(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Front]:
    async with authority_running(tmp_path) as running, _forwarded(running) as gateway:
        agent = await open_agent(running, "alice", AUDIENCE)
        if request.param == "the gateway":
            await until(_passes(gateway, agent.token), "the gateway's replica is fresh")
            yield Front(running, gateway, agent)
            return
        with nginx_before_gateway(tmp_path, urlsplit(gateway).port or 0) as port:
            url = f"http://127.0.0.1:{port}"
            await until(_passes(url, agent.token), "the gateway's replica is fresh")
            yield Front(running, url, agent)


@asynccontextmanager
async def _forwarded(running: Running) -> AsyncIterator[str]:
    replica = ReplicaSettings(running.url, running.url, running.replica_key, running.data.pin.read_text())
    with bound("127.0.0.1", 0) as (listener, upstream):
        routes = [RouteSettings(upstream=upstream, audience=AUDIENCE)]
        async with (
            served(service(), listener),
            serve_gateway(routes, guards_of(routes, replica), "127.0.0.1", 0, 1_000_000) as url,
        ):
            yield url


def _passes(url: str, token: str) -> Callable[[], Awaitable[bool]]:
    async def passes() -> bool:
        async with httpx2.AsyncClient() as http:
            answer = await http.get(f"{url}/nothing", headers={"authorization": f"Bearer {token}"})
        return answer.status_code == 404

    return passes


async def whoami(client: Client) -> str:
    (said,) = (await client.call_tool("whoami")).content
    assert isinstance(said, TextContent)
    return said.text


async def test_all_that_is_open_ends_when_the_agent_is_revoked(front: Front) -> None:
    token = front.agent.token
    async with (
        front.mcp(token) as client,
        client.listen(tools_list_changed=True) as events,
        front.ticks(token) as ticks,
        front.connection(token) as socket,
    ):
        assert await whoami(client) == "alice"
        assert await socket.recv() == "hello alice"
        await front.running.client.revoke("agent", front.agent.id, "the test")
        answered_s = time.monotonic()
        with pytest.raises(SubscriptionLost):
            await anext(events)
        with pytest.raises(httpx2.RemoteProtocolError):
            await ticks.aread()
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        took_s = time.monotonic() - answered_s
        with pytest.raises(MCPError):
            await whoami(client)
    assert took_s < LIMIT_S, f"{took_s * 1000:.0f} ms from the answer to the end of all three"
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "session_revoked")
    async with httpx2.AsyncClient() as http:
        refused = await http.post(f"{front.url}/mcp", headers=front.agent.headers)
    assert (refused.status_code, refused.json()["error"]) == (401, "session_revoked")
    assert "session_revoked" in refused.headers["www-authenticate"]


async def test_all_that_is_open_ends_when_the_token_expires(front: Front) -> None:
    token = dying(front.running, front.agent.token, 2)
    async with (
        front.mcp(token) as client,
        client.listen(tools_list_changed=True) as events,
        front.ticks(token) as ticks,
        front.connection(token) as socket,
    ):
        assert await socket.recv() == "hello alice"
        with pytest.raises(SubscriptionLost):
            await anext(events)
        with pytest.raises(httpx2.RemoteProtocolError):
            await ticks.aread()
        with pytest.raises(ConnectionClosed):
            await socket.recv()
