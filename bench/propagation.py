"""From the answer of a revocation to the first rejection, and to the end of the stream that was open.

An embedded authority, a service that it protects and their clients, all in this process and over real HTTP. A stream
may end, and a call be rejected, before the answer has come: that counts as 0.
"""

import asyncio
import logging
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2

from bench.harness import Row
from countermand.cli.client import AuthorityClient
from countermand.enforce.asgi import Receive, Scope, Send
from countermand.settings import AuthoritySettings, ClientSettings, DataDir
from countermand.transport.http import open_client
from countermand.wiring import connect
from countermand.wiring.authority import serve_authority
from countermand.wiring.serve import bound, serving

ROUNDS: Final = 300
WARM_UP: Final = 20
AUDIENCE: Final = "resource://bench"
DEADLINE_S: Final = 20
PAUSE_S: Final = 0.001
"""Between two calls: everything here shares one event loop."""
MILLI: Final = 1e3


@dataclass(frozen=True, slots=True)
class _Stage:
    authority: AuthorityClient
    service: httpx2.AsyncClient
    application_id: str


@dataclass(frozen=True, slots=True)
class _Times:
    """Of one revocation, in seconds: until it was answered, and from then on."""

    answered: float
    rejected: float
    closed: float


def measure() -> list[Row]:
    """Return p50 and p99 of each."""
    logging.disable(logging.ERROR)  # to uvicorn a stream that is cut is an error
    times = asyncio.run(_measure())
    return [
        *_rows("a revocation, until it is answered", [one.answered for one in times]),
        *_rows("from its answer to the rejection", [one.rejected for one in times]),
        *_rows("from its answer to the closed stream", [one.closed for one in times], "100 wanted"),
    ]


def _rows(what: str, taken_s: list[float], wanted: str = "") -> list[Row]:
    percentiles = statistics.quantiles(taken_s, n=100)
    return [Row(f"{what}, p{number}", "ms", percentiles[number - 1] * MILLI, {}, wanted) for number in (50, 99)]


async def _measure() -> list[_Times]:
    async with _staged() as stage:
        times = [await _round(stage) for _ in range(WARM_UP + ROUNDS)]
    return times[WARM_UP:]


@asynccontextmanager
async def _staged() -> AsyncIterator[_Stage]:
    with tempfile.TemporaryDirectory(prefix="countermand-bench-") as directory:
        settings = AuthoritySettings(DataDir(Path(directory) / "data"), port=0)
        async with serve_authority(settings) as (authority, url):
            api_key = settings.data.replica_key.read_text("utf-8").strip()
            guard = connect(url, issuer=authority.issuer, audience=AUDIENCE, api_key=api_key, pin=str(authority.pin))
            admin = ClientSettings(url, settings.data.admin_key.read_text("utf-8").strip())
            with bound(settings.host, 0) as (listener, service_url):
                async with (
                    serving(guard.asgi(_service), listener),
                    AuthorityClient.open(admin) as client,
                    open_client(10, url=service_url) as service,
                ):
                    application = await client.create_application("bench")
                    yield _Stage(client, service, application["id"])


async def _round(stage: _Stage) -> _Times:
    session_id = str((await stage.authority.open_session(stage.application_id, "alice"))["id"])
    headers = {"authorization": f"Bearer {await stage.authority.issue_mandate(session_id, AUDIENCE)}"}
    await _until(stage, headers, httpx2.codes.OK)  # at first the replica has only begun
    opened = asyncio.Event()
    stream = asyncio.create_task(_stream(stage.service, headers, opened))
    await opened.wait()
    began_s = time.perf_counter()
    await stage.authority.revoke("session", session_id)
    answered_s = time.perf_counter()
    rejected_s = await _until(stage, headers, httpx2.codes.UNAUTHORIZED)
    closed_s = await stream
    return _Times(answered_s - began_s, rejected_s - answered_s, max(0.0, closed_s - answered_s))


async def _until(stage: _Stage, headers: dict[str, str], status: int) -> float:
    """Call until the answer is `status`; return when it came."""
    async with asyncio.timeout(DEADLINE_S):
        while (await stage.service.get("/", headers=headers)).status_code != status:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(PAUSE_S)
    return time.perf_counter()


async def _stream(client: httpx2.AsyncClient, headers: dict[str, str], opened: asyncio.Event) -> float:
    """Read the endless stream; return when it ended."""
    try:
        async with client.stream("GET", "/stream", headers=headers, timeout=None) as response:
            async for _chunk in response.aiter_raw():
                opened.set()
    except httpx2.RemoteProtocolError:
        pass  # without its last chunk: that is how it is cut
    return time.perf_counter()


async def _service(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer; at /stream with one chunk, and no end."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    endless = scope["path"] == "/stream"
    await send({"type": "http.response.body", "body": b"hello\n", "more_body": endless})
    while endless and (await receive())["type"] != "http.disconnect":
        pass
