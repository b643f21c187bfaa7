"""Where the demo plays: an authority, a tool that it protects, and the fleet that calls it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from countermand.cli.callers import OnChange, ignore
from countermand.cli.client import AuthorityClient
from countermand.cli.fleet import AUDIENCE, Fleet, fleet_of
from countermand.enforce.asgi import Receive, Scope, Send
from countermand.settings import AuthoritySettings, ClientSettings
from countermand.wiring import connect
from countermand.wiring.authority import serve_authority
from countermand.wiring.serve import bound, endings_unsaid, serving
from countermand.wiring.tasks import beside

TICK_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that runs."""

    authority_url: str
    tool_url: str
    entries: int
    """How many revocations there were before."""
    client: AuthorityClient
    fleet: Fleet


@asynccontextmanager
async def staged(settings: AuthoritySettings, on_change: OnChange = ignore) -> AsyncIterator[Stage]:
    """Run an authority, a tool that it protects, and the fleet, until the block ends."""
    async with serve_authority(settings) as (authority, url):
        api_key = settings.data.replica_key.read_text("utf-8").strip()
        guard = connect(url, issuer=authority.issuer, audience=AUDIENCE, api_key=api_key, pin=str(authority.pin))
        admin = ClientSettings(url, settings.data.admin_key.read_text("utf-8").strip())
        with bound(settings.host, 0) as (listener, tool_url), endings_unsaid():
            async with (
                serving(guard.asgi(tool), listener),
                AuthorityClient.open(admin) as client,
                fleet_of(client, url, on_change) as fleet,
                beside(*(one.run(tool_url) for one in fleet.clients)),
            ):
                yield Stage(url, tool_url, authority.entries, client, fleet)


async def tool(scope: Scope, receive: Receive, send: Send) -> None:
    """The protected tool, for whoever the guard lets in: a greeting, and at /events one after the other."""
    mandate = scope["countermand.mandate"]
    greeting = json.dumps({"hello": mandate.subject, "agent": mandate.agent_session_id}).encode()
    if scope["path"] == "/events":
        await _start(send, b"text/event-stream")
        await _stream(b"data: " + greeting + b"\n\n", receive, send)
    else:
        await _start(send, b"application/json", (b"content-length", str(len(greeting)).encode()))
        await send({"type": "http.response.body", "body": greeting})


async def _start(send: Send, content_type: bytes, *headers: tuple[bytes, bytes]) -> None:
    all_headers = [(b"content-type", content_type), *headers]
    await send({"type": "http.response.start", "status": 200, "headers": all_headers})


async def _stream(event: bytes, receive: Receive, send: Send) -> None:
    """Send `event` again and again, until the client has gone."""
    is_there = True
    while is_there:
        await send({"type": "http.response.body", "body": event, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(TICK_S):
                while (await receive())["type"] != "http.disconnect":
                    pass
                is_there = False
