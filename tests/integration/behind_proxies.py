"""A service behind a proxy that asks forward auth: it notes every byte of a head, and its clients write their own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from countermand.enforce.forward_auth import ForwardAuth
from countermand.enforce.gate import ASGIApp, Receive, Scope, Send
from countermand.wiring.protocols import HeadsOnly
from countermand.wiring.serve import bound, serving
from tests.proxies import Kind, proxy_running
from tests.running import DEADLINE_S
from tests.unit.guarded import TOKEN_TEXT, Log, guard

BEARER: Final = f"Authorization: Bearer {TOKEN_TEXT}".encode()
SWITCHING: Final = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
EVENTS: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
LINES: Final = EVENTS.replace(b"text/event-stream", b"application/x-ndjson")
HELLO: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"


@dataclass(frozen=True, slots=True)
class Head:
    """A head as it came: its first line, and its fields in order, with nothing done to their names."""

    line: bytes
    fields: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def of(cls, data: bytes) -> "Head":
        line, *rest = data.removesuffix(b"\r\n\r\n").split(b"\r\n")
        return cls(line, tuple((name, value.strip()) for name, _, value in (one.partition(b":") for one in rest)))

    @property
    def status(self) -> int:
        return int(self.line.split(b" ")[1])

    def all(self, name: str) -> list[bytes]:
        """Return every value of a field."""
        return [value for given, value in self.fields if given.lower() == name.encode()]

    def identity(self) -> dict[bytes, list[bytes]]:
        """Return what a service of the careless sort reads as identity: to it `_` and `-` are one, and so is case."""
        found: dict[bytes, list[bytes]] = {}
        for name, value in self.fields:
            plain = name.strip().lower().replace(b"_", b"-")
            if b"countermand" in plain and value:
                found.setdefault(plain, []).append(value)
        return found


@dataclass(slots=True)
class World:
    """What stands on both sides of a proxy. `auth` is what answers it; `goes_on` lets a stream of events go on."""

    log: Log = field(init=False)
    auth: ASGIApp = field(init=False)
    seen: list[Head] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin anew, behind the same proxy: nothing is revoked, and nothing was seen."""
        self.log = Log()
        self.log.publish()
        self.auth = ForwardAuth(guard(self.log.replica))
        self.seen.clear()
        self.bodies.clear()
        self.goes_on.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Be the service, for one request."""
        try:
            head = Head.of(await reader.readuntil(b"\r\n\r\n"))
            self.seen.append(head)
            self.bodies.append(await _body(head, reader))
            await self._answer(head, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # nobody is there any more
        finally:
            writer.close()

    async def _answer(self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b" /socket " in head.line and [value.lower() for value in head.all("connection")] == [b"upgrade"]:
            writer.write(SWITCHING)
            while data := await reader.read(100):
                writer.write(data.upper())
        elif b" /events " in head.line or b" /lines " in head.line:
            writer.write((EVENTS if b"events" in head.line else LINES) + b"data: 1\n\n")
            await self.goes_on.wait()
            writer.write(b"data: 2\n\n")
        else:
            writer.write(HELLO)
        await writer.drain()

    async def ask(self, *lines: bytes, first: bytes = b"GET / HTTP/1.1", body: bytes = b"") -> tuple[Head, bytes]:
        """Send a request of these lines, and return the head and the body of its answer."""
        async with asyncio.timeout(DEADLINE_S), self.connected() as (reader, writer):
            writer.write(request(*lines, first=first) + body)
            head = Head.of(await reader.readuntil(b"\r\n\r\n"))
            return head, await reader.read()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Give a connection to the proxy."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()


async def _body(head: Head, reader: asyncio.StreamReader) -> bytes:
    """Return a body as it came, with its chunks and trailers."""
    if not head.all("transfer-encoding"):
        return await reader.readexactly(int(*head.all("content-length") or [b"0"]))
    body = line = await reader.readline()
    while int(line, 16):
        body += await reader.readexactly(int(line, 16) + 2)
        body += (line := await reader.readline())
    while line != b"\r\n":
        body += (line := await reader.readline())
    return body


def request(*lines: bytes, first: bytes = b"GET / HTTP/1.1", close: bool = True) -> bytes:
    """Return the head of a request."""
    base: Sequence[bytes] = (first, b"Host: api.example", *([b"Connection: close"] if close else []))
    return b"\r\n".join([*base, *lines, b"", b""])


@asynccontextmanager
async def world_behind(kind: Kind, path: Path) -> AsyncIterator[World]:
    """Run a service behind a proxy, and forward auth beside it."""
    world = World()

    async def current(scope: Scope, receive: Receive, send: Send) -> None:
        await world.auth(scope, receive, send)

    service = await asyncio.start_server(world.serve, "127.0.0.1", 0)
    service_port = service.sockets[0].getsockname()[1]
    with bound("127.0.0.1", 0) as (listener, _):
        async with service, serving(current, listener, HeadsOnly):
            auth_port = listener.getsockname()[1]
            with proxy_running(kind, path, auth=auth_port, service=service_port) as world.port:
                yield world
