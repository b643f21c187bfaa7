"""A gateway on a real socket before a guard of the unit tests, and services behind it that speak in raw bytes."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

from countermand.enforce.asgi import Receive, Scope, Send
from countermand.enforce.gateway.routes import Gateway, Route
from countermand.enforce.gateway.upstream import Upstream, open_clients
from countermand.enforce.guard import Guard
from countermand.wiring.gateway import serving_gateway
from countermand.wiring.serve import bound
from tests.running import DEADLINE_S
from tests.unit.guarded import TOKEN_TEXT, guard

MAX_BODY: Final = 100_000
AUTHORIZED: Final = b"host: api.example\r\nauthorization: Bearer " + TOKEN_TEXT.encode() + b"\r\n"
OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


def request(line: str, more: bytes = b"", body: bytes = b"") -> bytes:
    """The bytes of a request with a good token."""
    return f"{line} HTTP/1.1\r\n".encode() + AUTHORIZED + more + b"\r\n" + body


class Recorder:
    """A service that records every byte, and says `answer` whenever a request has come as its head says."""

    def __init__(self) -> None:
        self.answer = OK
        self.received = b""
        self.connections = 0
        self.lost = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                await self._request(reader)
                writer.write(self.answer)
                await writer.drain()
        except asyncio.IncompleteReadError as end:
            self.received += end.partial
        finally:
            self.lost.set()

    async def _request(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.received += head
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
        if b"content-length" in lines:
            self.received += await reader.readexactly(int(lines[b"content-length"]))
        elif lines.get(b"transfer-encoding") == b"chunked":
            self.received += await reader.readuntil(b"\r\n0\r\n\r\n")

    @property
    def requests(self) -> list[str]:
        """The lines with which requests began."""
        lines = self.received.decode("latin-1").split("\r\n")
        return [line.removesuffix(" HTTP/1.1") for line in lines if line.endswith(" HTTP/1.1")]

    @property
    def headers(self) -> dict[str, str]:
        """Those of the last request."""
        head = self.received.rpartition(b" HTTP/1.1\r\n")[2].partition(b"\r\n\r\n")[0]
        return {name.lower(): value for name, value in self.pairs(head)}

    @staticmethod
    def pairs(head: bytes) -> list[tuple[str, str]]:
        return [(name, value) for name, _, value in (line.partition(": ") for line in head.decode().split("\r\n"))]


@asynccontextmanager
async def listening(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Run a service that talks so on every connection; give its URL."""
    open_: set[asyncio.StreamWriter] = set()

    async def talking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_.add(writer)
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            open_.discard(writer)

    server = await asyncio.start_server(talking, "127.0.0.1", 0, limit=2**20, ssl=tls)
    async with server:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for writer in open_:
            writer.close()


class Front:
    """What the tests of a module serve once, since to stop takes a while; each puts a gateway of its own behind it."""

    def __init__(self) -> None:
        self.url = ""
        self._gateway: Gateway | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._gateway is not None
        await self._gateway(scope, receive, send)

    @asynccontextmanager
    async def to(self, *upstreams: str, guarded: Guard | None = None, max_body: int = MAX_BODY) -> AsyncIterator[str]:
        """Forward to the first of `upstreams`, and to each other under /1, /2 and so on; give the gateway's URL."""
        one = guarded or guard()
        async with open_clients() as clients:
            routes = [
                Route(f"/{number or ''}", Upstream(upstream, clients), one) for number, upstream in enumerate(upstreams)
            ]
            self._gateway = Gateway(routes, max_body)
            yield self.url


@asynccontextmanager
async def fronting() -> AsyncIterator[Front]:
    """Serve a front."""
    front = Front()
    with bound("127.0.0.1", 0) as (listener, front.url):
        async with serving_gateway(front, listener):
            yield front


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def of(cls, url: str) -> AsyncIterator["Client"]:
        host, _, port = url.removeprefix("http://").rpartition(":")
        client = cls(*await asyncio.open_connection(host, int(port)))
        try:
            yield client
        finally:
            client.writer.close()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self) -> tuple[int, bytes]:
        """Read an answer that says how long it is; return its status, and all of it."""
        head = await self.head()
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
        body = await self.reader.readexactly(int(lines.get(b"content-length", b"0")))
        return int(head.split(b" ")[1]), head + body

    async def rest(self) -> bytes:
        """Read until the gateway closes the connection, however it does."""
        received = b""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while data := await self.reader.read(65_536):
                    received += data
        except ConnectionError:
            pass
        return received


async def tick(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer; at /stream with an event after the other."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        if not head.startswith(b"GET /stream"):
            writer.write(OK)
            continue
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        while not reader.at_eof():
            writer.write(b"9\r\ndata: 1\n\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)
