"""Who calls in the demo: real HTTP clients, each with a mandate of its own."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import httpx2

from countermand.errors import CountermandError
from countermand.transport.http import open_client

PERIOD_S: Final = 0.2
RENEW_S: Final = 600.0
"""A mandate lives 15 minutes, and is renewed in time."""
RETRY_S: Final = 10.0
LISTEN_AGAIN_S: Final = 1.0
SILENCE_S: Final = 5.0
"""A service that says nothing for so long does not answer."""

Outcome: TypeAlias = tuple[int, str]
"""A status, and the error's code; empty for a success. Status 0: no answer, or none to its end."""

ACCEPTED: Final = (200, "")
REJECTED: Final = (401, "session_revoked")
CUT: Final = (0, "closed")

OnChange: TypeAlias = Callable[["Client", Outcome], None]


def ignore(_client: "Client", _outcome: Outcome) -> None:
    """Hear of a change, and do nothing."""


class Holder:
    """Keeps one agent's mandate, and gets another before it expires.

    `mint` gets one from the session's own down, never from the one before: each exchange adds a token to the path, and
    a path has an end.
    """

    def __init__(self, mint: Callable[[], Awaitable[str]]) -> None:
        self.mint = mint
        self._token = ""
        self._renew_at_s = 0.0

    async def token(self) -> str:
        """Return the mandate; the old one, where no other is to be had: it will be refused, and that is to be seen."""
        now_s = time.monotonic()
        if not self._token:
            self._token, self._renew_at_s = await self.mint(), now_s + RENEW_S
        elif now_s > self._renew_at_s:
            self._renew_at_s = now_s + RETRY_S
            with suppress(CountermandError):
                self._token, self._renew_at_s = await self.mint(), now_s + RENEW_S
        return self._token


@dataclass(eq=False)
class Client:
    """One agent's client. `on_change` hears of each new outcome; `first_s` says when each was first seen."""

    name: str
    holder: Holder = field(repr=False)
    on_change: OnChange = field(default=ignore, repr=False)
    period_s: float = PERIOD_S
    outcome: Outcome | None = None
    calls: Counter[Outcome] = field(default_factory=Counter)
    first_s: dict[Outcome, float] = field(default_factory=dict)
    _heard: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    async def until(self, wanted: Outcome) -> float:
        """Wait until the answer was `wanted`; return when it first was, by the monotonic clock in seconds."""
        while wanted not in self.first_s:
            await self.heard()
        return self.first_s[wanted]

    async def heard(self) -> None:
        """Wait for the next outcome."""
        await self._heard.wait()

    def hear(self, outcome: Outcome) -> None:
        """Note an outcome."""
        self.calls[outcome] += 1
        if outcome != self.outcome:
            self.outcome = outcome
            self.first_s.setdefault(outcome, time.monotonic())
            self.on_change(self, outcome)
        heard, self._heard = self._heard, asyncio.Event()
        heard.set()


class Caller(Client):
    """It calls the tool several times a second."""

    async def run(self, url: str) -> None:
        """Call, for ever."""
        async with open_client(SILENCE_S) as client:
            while True:
                token = await self.holder.token()
                self.hear(await _call(client, url, token))
                await asyncio.sleep(self.period_s)


class Listener(Client):
    """It holds a stream of server-sent events open. Accepted: an event came."""

    async def run(self, url: str) -> None:
        """Listen, and again where the stream ends, for ever."""
        async with open_client(SILENCE_S) as client:
            while True:
                await self._listen(client, f"{url}/events", await self.holder.token())
                await asyncio.sleep(LISTEN_AGAIN_S)

    async def _listen(self, client: httpx2.AsyncClient, url: str, token: str) -> None:
        try:
            async with client.stream("GET", url, headers=_bearer(token)) as response:
                if not response.is_success:
                    await response.aread()
                    self.hear(_outcome(response))
                    return
                async for _event in response.aiter_raw():
                    self.hear(ACCEPTED)
        except httpx2.RemoteProtocolError:  # it ended without its last chunk
            self.hear(CUT)
        except httpx2.HTTPError as error:
            self.hear((0, type(error).__name__))


async def _call(client: httpx2.AsyncClient, url: str, token: str) -> Outcome:
    try:
        return _outcome(await client.get(url, headers=_bearer(token)))
    except httpx2.HTTPError as error:
        return 0, type(error).__name__


def _outcome(response: httpx2.Response) -> Outcome:
    return response.status_code, "" if response.is_success else str(response.json().get("error", ""))


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}
