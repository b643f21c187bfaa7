"""Clients that begin and do not go on: they are let go, and those that only wait are not."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from countermand.server import limit
from countermand.transport.http import open_client
from countermand.wiring import protocols
from tests.integration.problems import refused
from tests.running import DEADLINE_S, Running

pytestmark = pytest.mark.anyio

LIMIT_S = 0.2
PAUSE_S = 0.02
KEYS = b"GET /.well-known/jwks.json HTTP/1.1\r\nhost: x\r\n\r\n"


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def post(self, key: str, content: bytes) -> None:
        """Send the head of a request that promises 1,000 bytes, and `content` of them."""
        head = f"POST /v1/applications HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        self.send(f"{head}content-type: application/json\r\ncontent-length: 1000\r\n\r\n".encode() + content)

    async def answer(self) -> httpx2.Response:
        """Read one answer that says how long it is."""
        async with asyncio.timeout(DEADLINE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = httpx2.Headers([line.partition(": ")[::2] for line in head[1:] if line])
            content = await self.reader.readexactly(int(headers["content-length"]))
        return httpx2.Response(int(head[0].split(" ")[1]), headers=headers, content=content)

    async def drip(self) -> None:
        """Send a byte again and again, until the server closes the connection."""
        async with asyncio.timeout(DEADLINE_S):
            while not await self.closes_within(PAUSE_S):
                self.send(b"a")

    async def closes_within(self, limit_s: float) -> bool:
        """Whether the server closes the connection; it must send nothing."""
        try:
            async with asyncio.timeout(limit_s):
                assert await self.reader.read() == b""
        except ConnectionError:
            return True  # closed while a byte was on its way
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def _connected(running: Running) -> AsyncIterator[Client]:
    url = httpx2.URL(running.url)
    client = Client(*await asyncio.open_connection(url.host, url.port))
    try:
        yield client
    finally:
        client.writer.close()


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "HEAD_S", LIMIT_S)
    monkeypatch.setattr(limit, "BODY_S", LIMIT_S)


@pytest.mark.parametrize("begun", [b"", b"GET /", KEYS[:-2]], ids=["nothing", "a word", "all but its last line"])
async def test_a_head_that_does_not_end_ends_the_connection(shared: Running, begun: bytes) -> None:
    async with _connected(shared) as client:
        client.send(begun)
        assert await client.closes_within(DEADLINE_S)


async def test_a_head_that_comes_byte_by_byte_buys_no_time(shared: Running) -> None:
    async with _connected(shared) as client:
        client.send(b"GET /")
        await client.drip()


async def test_the_head_of_a_second_request_has_the_same_limit(shared: Running) -> None:
    async with _connected(shared) as client:
        client.send(KEYS)
        assert (await client.answer()).status_code == 200
        client.send(KEYS[:-2])
        assert await client.closes_within(DEADLINE_S)


async def test_between_two_requests_a_client_may_wait_longer(shared: Running) -> None:
    async with _connected(shared) as client:
        for _ in range(2):
            client.send(KEYS[:-2])
            client.send(KEYS[-2:])
            assert (await client.answer()).status_code == 200
            assert not await client.closes_within(3 * LIMIT_S)


async def test_a_feed_lasts_longer_than_every_limit(shared: Running) -> None:
    headers = {"authorization": f"Bearer {shared.replica_key}"}
    async with (
        open_client(10, url=shared.url, headers=headers) as client,
        client.stream("GET", "/v1/log") as response,
        asyncio.timeout(DEADLINE_S),
    ):
        chunks = response.aiter_raw()
        for _ in range(3):  # one comes every second
            assert b"checkpoint" in await anext(chunks)


@pytest.mark.parametrize("content", [b"", b'{"name":'], ids=["nothing", "a part"])
async def test_a_body_that_does_not_come_in_time_is_refused(shared: Running, content: bytes) -> None:
    async with _connected(shared) as client:
        client.post(shared.admin_key, content)
        assert refused(await client.answer(), 408, "body_too_slow") == "the body did not come in time"
        assert await client.closes_within(DEADLINE_S)


async def test_a_body_that_comes_byte_by_byte_buys_no_time(shared: Running) -> None:
    async with _connected(shared) as client:
        client.post(shared.admin_key, b"{")
        answer = asyncio.create_task(client.answer())
        while not (await asyncio.wait([answer], timeout=PAUSE_S))[0]:
            client.send(b" ")
        refused(await answer, 408, "body_too_slow")


async def test_whoever_has_no_key_is_answered_before_the_body_comes_and_cannot_stay_by_sending_it(
    shared: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit, "BODY_S", 3_600.0)  # it is not this that answers
    async with _connected(shared) as client:
        client.post("x", b"{")
        refused(await client.answer(), 401, "unauthenticated")
        await client.drip()


async def test_a_feed_whose_request_does_not_end_is_ended_without_a_traceback(
    shared: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with _connected(shared) as client:
        head = f"GET /v1/log HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {shared.replica_key}\r\n"
        client.send(f"{head}content-length: 9\r\n\r\n".encode())
        async with asyncio.timeout(DEADLINE_S):
            assert (await client.reader.read()).startswith(b"HTTP/1.1 200")
    assert not [record for record in caplog.records if record.levelno > logging.INFO and record.exc_info]
