"""Streams without an end, and who reads them; whose tokens are revoked meanwhile."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import httpx2

from countermand.enforce.guard import Guard
from tests.integration.rooms import AUDIENCE
from tests.running import Running

LIMIT_S: Final = 1.0
"""Ten times what it should take, for a machine that does something else."""


class Reader:
    """A client that reads a stream to its end, and notes how that was."""

    def __init__(self, http: httpx2.AsyncClient, token: str, path: str = "/") -> None:
        self.chunks = 0
        self.end: Exception | None = None
        self.ended_s = 0.0
        self._http = http
        self._path = path
        self._token = token

    async def run(self) -> None:
        try:
            headers = {"authorization": f"Bearer {self._token}"}
            async with self._http.stream("GET", self._path, headers=headers) as response:
                response.raise_for_status()
                async for _ in response.aiter_raw():
                    self.chunks += 1
        except httpx2.HTTPError as error:
            self.end = error
        self.ended_s = time.monotonic()


async def new_subject(
    running: Running, name: str, audience: str = AUDIENCE, scope: Sequence[str] = ()
) -> tuple[str, str]:
    """Return a session, and a mandate on it."""
    application = await running.client.create_application(name)
    session = await running.client.open_session(application["id"], name)
    return session["id"], await running.client.issue_mandate(session["id"], audience, scope)


def lets_pass(guard: Guard, token: str) -> Callable[[], Awaitable[bool]]:
    """Return the question whether the token may act."""

    async def passes() -> bool:
        return bool(await guard.decide(token))

    return passes
