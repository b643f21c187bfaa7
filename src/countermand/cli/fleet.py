"""The demo's cast: an authority, a service that it protects, and for each subject a real HTTP client."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import httpx2

from countermand.cli.client import AuthorityClient
from countermand.enforce.asgi import Receive, Scope, Send
from countermand.errors import CountermandError
from countermand.settings import AuthoritySettings, ClientSettings
from countermand.wiring import connect
from countermand.wiring.serve import bound, serve_authority, serving
from countermand.wiring.tasks import beside

AUDIENCE: Final = "resource://demo"
SUBJECTS: Final = ("alice", "bob")
PERIOD_S: Final = 0.2
RENEW_S: Final = 600.0
"""A mandate lives 15 minutes, and is renewed in time."""

Outcome = tuple[int, str]
"""A status, and the error's code; empty for a success. Status 0: no answer."""


def _ignore(_caller: "Caller", _outcome: Outcome) -> None:
    pass


@dataclass
class Caller:
    """One subject's client: it holds a mandate and keeps calling. `on_change` hears of each new outcome."""

    subject: str
    session_id: str
    mint: Callable[[], Awaitable[str]] = field(repr=False)
    on_change: Callable[["Caller", Outcome], None] = field(default=_ignore, repr=False)
    period_s: float = PERIOD_S
    outcome: Outcome | None = None
    since_s: float = 0.0
    calls: Counter[Outcome] = field(default_factory=Counter)
    _heard: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    async def run(self, url: str) -> None:
        """Call, for ever."""
        token, minted_s = await self.mint(), time.monotonic()
        async with httpx2.AsyncClient(trust_env=False) as client:
            while True:
                if time.monotonic() - minted_s > RENEW_S:
                    token, minted_s = await self._renewed(token), time.monotonic()
                self._hear(await _call(client, url, token))
                await asyncio.sleep(self.period_s)

    async def until(self, wanted: Outcome) -> float:
        """Wait until the answer is `wanted`; return since when, by the monotonic clock in seconds."""
        while self.outcome != wanted:
            await self.called()
        return self.since_s

    async def called(self) -> None:
        """Wait for the next answer."""
        await self._heard.wait()

    def _hear(self, outcome: Outcome) -> None:
        self.calls[outcome] += 1
        if outcome != self.outcome:
            self.outcome, self.since_s = outcome, time.monotonic()
            self.on_change(self, outcome)
        heard, self._heard = self._heard, asyncio.Event()
        heard.set()

    async def _renewed(self, token: str) -> str:
        try:
            return await self.mint()
        except CountermandError:
            return token  # the session has ended: the old mandate goes on being refused


async def _call(client: httpx2.AsyncClient, url: str, token: str) -> Outcome:
    try:
        response = await client.get(url, headers={"authorization": f"Bearer {token}"})
    except httpx2.HTTPError as error:
        return 0, type(error).__name__
    return response.status_code, "" if response.is_success else str(response.json().get("error", ""))


@dataclass(frozen=True)
class Stage:
    """Everything that runs."""

    authority_url: str
    service_url: str
    entries: int
    client: AuthorityClient
    callers: tuple[Caller, ...]


@asynccontextmanager
async def staged(
    settings: AuthoritySettings, on_change: Callable[[Caller, Outcome], None] = _ignore
) -> AsyncIterator[Stage]:
    """Run an authority, a service that it protects, and a caller for each subject, until the block ends."""
    async with serve_authority(settings) as (authority, url):
        api_key = settings.data.replica_key.read_text("utf-8").strip()
        guard = connect(url, issuer=authority.issuer, audience=AUDIENCE, api_key=api_key, pin=str(authority.pin))
        admin = ClientSettings(url, settings.data.admin_key.read_text("utf-8").strip())
        with bound(settings.host, 0) as (listener, service_url):
            async with serving(guard.asgi(_service), listener), AuthorityClient.open(admin) as client:
                callers = await _open_sessions(client, on_change)
                async with beside(*(caller.run(service_url) for caller in callers)):
                    yield Stage(url, service_url, authority.entries, client, callers)


async def _open_sessions(client: AuthorityClient, on_change: Callable[[Caller, Outcome], None]) -> tuple[Caller, ...]:
    application = await client.create_application("demo")
    sessions = [await client.open_session(application["id"], subject) for subject in SUBJECTS]
    return tuple(
        Caller(session["subject"], session["id"], _minter(client, session["id"]), on_change) for session in sessions
    )


def _minter(client: AuthorityClient, session_id: str) -> Callable[[], Awaitable[str]]:
    return lambda: client.issue_mandate(session_id, AUDIENCE)


async def _service(scope: Scope, _receive: Receive, send: Send) -> None:
    """The protected service: it greets whoever the guard lets in."""
    greeting = json.dumps({"hello": scope["countermand.mandate"].subject}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(greeting)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": greeting})
