"""A Redis that answers in shapes that it never has: whatever comes, only errors of our tree are raised."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final

import pytest

from countermand.errors import CountermandError
from countermand.transport.redis import Keys, RedisLog, open_writer

pytestmark = pytest.mark.anyio

KEYS: Final = Keys.of()
CALLS: Final = 4


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


def array(*items: bytes) -> bytes:
    return b"*%d\r\n" % len(items) + b"".join(items)


def message(*fields: bytes, id_: bytes = bulk(b"1-1")) -> bytes:
    return array(array(id_, array(*fields)))


INTEGER: Final = b":5\r\n"
CHECKPOINT: Final = message(bulk(b"cm_checkpoint"), bulk(b"AAAA"))
STREAM: Final = bulk(KEYS.stream.encode())
SHAPES: Final = {
    "an integer": INTEGER,
    "nothing": b"$-1\r\n",
    "no array": b"*-1\r\n",
    "a text": bulk(b"hello"),
    "a status": b"+OK\r\n",
    "an empty array": b"*0\r\n",
    "an array of integers": array(INTEGER),
    "an array of nothing": array(b"$-1\r\n"),
    "an array of empty arrays": array(b"*0\r\n"),
    "a message without fields": array(array(bulk(b"1-1"), b"*-1\r\n")),
    "a message whose fields are an integer": array(array(bulk(b"1-1"), INTEGER)),
    "an id that is no text": message(bulk(b"x"), bulk(b"y"), id_=bulk(b"\xff\xfe")),
    "an id that is an integer": message(bulk(b"x"), bulk(b"y"), id_=INTEGER),
    "an id that is no number": message(bulk(b"cm_checkpoint"), bulk(b"AAAA"), id_=bulk(b"x-y")),
    "a name that is an array": message(array(bulk(b"cm_seq")), bulk(b"y")),
    "a number that is an integer": message(bulk(b"cm_seq"), INTEGER),
    "a checkpoint that is an integer": message(bulk(b"cm_checkpoint"), INTEGER),
    "a checkpoint that is an array": message(bulk(b"cm_checkpoint"), array(INTEGER)),
    "a name without a value": message(bulk(b"cm_seq")),
    "a stream without messages": array(array(STREAM, b"*0\r\n")),
    "another stream": array(array(bulk(b"other"), message(bulk(b"a"), bulk(b"b")))),
    "an entry of integers": array(array(STREAM, message(bulk(b"cm_seq"), INTEGER, bulk(b"cm_entry"), array()))),
    "arrays in arrays": b"*1\r\n" * 5_000 + INTEGER,
    "an error": b"-ERR x\r\n",
    "an error that is no text": b"-\xff\xfe\r\n",
    "a redirection to nowhere": b"-MOVED x y\r\n",
    "half a redirection": b"-ASK 1\r\n",
    "another protocol": b"HTTP/1.1 200 OK\r\n\r\n",
    "a number of five thousand digits": b":+" + b"9" * 5_000 + b"\r\n",
    "four texts": array(*[bulk(b"a")] * 4),
    "five integers": array(*[INTEGER] * 5),
    "five times nothing": array(*[b"$-1\r\n"] * 5),
    "five that are no text": array(*[bulk(b"\xff")] * 5),
}
GOOD: Final = {
    b"HELLO": b"-ERR unknown command\r\n",
    b"XREVRANGE": CHECKPOINT,
    b"XREAD": array(array(bulk(KEYS.checkpoints.encode()), CHECKPOINT)),
    b"EXISTS": INTEGER,
    b"GETRANGE": bulk(b"abc"),
    b"EVALSHA": array(bulk(b"1-1"), bulk(b""), bulk(b""), b":1\r\n", b":1\r\n"),
}


@asynccontextmanager
async def answering(command: bytes, shape: bytes) -> AsyncIterator[str]:
    """Run a server that answers `command` in this shape, and others as it should; give its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readline():
                words = [await _word(reader) for _ in range(int(head[1:]))]
                name = words[0].upper()
                writer.write(shape if name == command else GOOD.get(name, b"+OK\r\n"))
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"redis://127.0.0.1:{port}/0?protocol=2"
        server.close()


async def _word(reader: asyncio.StreamReader) -> bytes:
    length = int((await reader.readline())[1:])
    return (await reader.readexactly(length + 2))[:-2]


async def follow(url: str) -> None:
    async with aclosing(RedisLog(url, KEYS).follow(7)) as batches:
        for _ in range(CALLS):
            await anext(batches)


async def load(url: str) -> None:
    async with aclosing(RedisLog(url, KEYS).snapshot()) as chunks:
        for _ in range(CALLS):
            assert isinstance(await anext(chunks), bytes)


async def write(url: str) -> None:
    async with open_writer(url, KEYS) as writer:
        place = await writer.look()
        for _ in range(CALLS):
            place = await writer.append([{"a": "b"}], b"x", place) or place
        await writer.put_snapshot(b"x")
        await writer.trim(5)


ASKED: Final[list[tuple[Callable[[str], Awaitable[None]], bytes]]] = [
    *((follow, command) for command in (b"XREVRANGE", b"XREAD")),
    (load, b"GETRANGE"),
    *((write, command) for command in (b"XREVRANGE", b"EXISTS", b"EVALSHA", b"SET", b"XTRIM")),
]


@pytest.mark.parametrize(("ask", "command"), ASKED, ids=[f"{ask.__name__} {name.decode()}" for ask, name in ASKED])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
async def test_whatever_redis_answers_only_errors_of_our_tree_are_raised(
    ask: Callable[[str], Awaitable[None]], command: bytes, shape: bytes
) -> None:
    async with answering(command, shape) as url:
        with suppress(CountermandError, StopAsyncIteration, TimeoutError):
            async with asyncio.timeout(0.3):
                await ask(url)
