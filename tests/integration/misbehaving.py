"""A server on a real socket that answers as a test tells it to: late, endless, broken or not at all."""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Misbehaving:
    """`requests` are the heads that came, `closed` is set when the other side has hung up for the first time."""

    url: str = ""
    requests: list[str] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def misbehaving(behave: Behaviour) -> AsyncIterator[Misbehaving]:
    """Serve every connection with one request and `behave`, and then hang up."""
    server = Misbehaving()
    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(_serve(server, behave, reader, writer)))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0)  # the transports say goodbye in a callback


async def _serve(
    server: Misbehaving, behave: Behaviour, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        server.requests.append((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"))
        answering = asyncio.ensure_future(behave(writer))
        hearing = asyncio.ensure_future(reader.read())
        try:
            await asyncio.wait([answering, hearing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if hearing.done():
                server.closed.set()
            for part in (answering, hearing):
                part.cancel()
            await asyncio.gather(answering, hearing, return_exceptions=True)
    finally:
        writer.transport.close()


def head(status: str = "200 OK", **headers: str) -> bytes:
    """The head of an answer; `content_type` is written `content-type`."""
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def says(*parts: bytes) -> Behaviour:
    """Send these bytes, and hang up."""

    async def behave(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return behave


def says_for_ever(start: bytes, again: bytes) -> Behaviour:
    """Send `start`, then `again` and again."""

    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(again)
            await writer.drain()

    return behave


def trickles(data: bytes, size: int, every_s: float) -> Behaviour:
    """Send `data` in pieces of `size` bytes, and stay."""

    async def behave(writer: asyncio.StreamWriter) -> None:
        for at in range(0, len(data), size):
            writer.write(data[at : at + size])
            await asyncio.sleep(every_s)
        await silence(writer)

    return behave


async def silence(_writer: asyncio.StreamWriter) -> None:
    """Accept, and never answer."""
    await asyncio.Event().wait()


async def hangs_up(_writer: asyncio.StreamWriter) -> None:
    """Close the connection without a word."""


def everything_said(error: BaseException, records: list[logging.LogRecord]) -> str:
    """Whatever of `error` and the log could be printed anywhere, with its causes, attributes and arguments."""
    chain: list[str] = []
    link: BaseException | None = error
    while link is not None:
        chain += [repr(link), repr(vars(link))]
        link = link.__cause__ or link.__context__
    logged = [record.getMessage() + repr(record.args) for record in records]
    return "\n".join([*traceback.format_exception(error), *chain, *logged])
