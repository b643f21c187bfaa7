"""Streams on real sockets behind a real server: cut as soon as the revocation is answered."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from countermand.enforce.guard import Guard
from countermand.transport.http import open_client
from countermand.wiring.serve import bound, serving
from tests.integration.rooms import AUDIENCE
from tests.integration.streams import LIMIT_S, Reader, lets_pass, new_subject
from tests.running import DEADLINE_S, Running, until

pytestmark = pytest.mark.anyio


async def _ticks() -> AsyncIterator[bytes]:
    while True:
        yield b"tick\n"
        await asyncio.sleep(0.01)


async def _stream(_request: Request) -> StreamingResponse:
    return StreamingResponse(_ticks())


def _embedded(running: Running) -> Guard:
    return running.authority.guard(AUDIENCE)


def _remote(running: Running) -> Guard:
    return running.guard(AUDIENCE)


@asynccontextmanager
async def _served(guard: Guard) -> AsyncIterator[httpx2.AsyncClient]:
    """Give a client of a real server whose every answer is a stream without end."""
    app = guard.asgi(Starlette(routes=[Route("/", _stream)]))
    with bound("127.0.0.1", 0) as (listener, url):
        async with serving(app, listener), open_client(10, url=url) as http:
            yield http


@pytest.mark.parametrize("guard_of", [_embedded, _remote])
async def test_a_stream_is_cut_when_the_revocation_is_answered_and_another_goes_on(
    running: Running,
    guard_of: Callable[[Running], Guard],
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard = guard_of(running)
    async with _served(guard) as http, asyncio.timeout(DEADLINE_S):
        (ended, ended_token), (_, good_token) = [await new_subject(running, name) for name in ("alice", "bob")]
        await until(lets_pass(guard, good_token), "the replica is ready")
        cut, other = Reader(http, ended_token), Reader(http, good_token)
        reading = [asyncio.create_task(reader.run()) for reader in (cut, other)]
        await until(lambda: min(cut.chunks, other.chunks) > 3, "both streams run")

        await running.client.revoke("session", ended, "the test")
        answered_s = time.monotonic()
        await reading[0]

        took_s = cut.ended_s - answered_s
        assert took_s < LIMIT_S, f"{took_s * 1000:.0f} ms from the answer to the end of the stream"
        assert isinstance(cut.end, httpx2.RemoteProtocolError)
        assert "incomplete" in str(cut.end)
        before = other.chunks
        await until(lambda: other.chunks > before + 3, "the other stream goes on")
        assert guard.in_flight == 1
        again = await http.get("/", headers={"authorization": f"Bearer {ended_token}"})
        assert again.json()["error"] == "session_revoked"
        reading[1].cancel()
        await asyncio.wait(reading)
        await until(lambda: guard.in_flight == 0, "a client that leaves is not in flight")
    told = [record for record in caplog.records if record.name.startswith("uvicorn")]
    assert {record.getMessage() for record in told} <= {"ASGI callable returned without completing response."}
    assert not [record for record in told if record.exc_info]


async def test_a_stream_is_cut_when_everyone_is_cut_off(running: Running) -> None:
    guard = _embedded(running)
    async with _served(guard) as http, asyncio.timeout(DEADLINE_S):
        _, token = await new_subject(running, "alice")
        await until(lets_pass(guard, token), "the replica is ready")
        reader = Reader(http, token)
        reading = asyncio.create_task(reader.run())
        await until(lambda: reader.chunks > 3, "the stream runs")

        await running.client.cut_off("all")
        answered_s = time.monotonic()
        await reading

        assert reader.ended_s - answered_s < LIMIT_S
        assert isinstance(reader.end, httpx2.RemoteProtocolError)
