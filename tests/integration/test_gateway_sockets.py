"""Web sockets through a gateway: messages, closes and back-pressure both ways, and an end where the token ends."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from countermand.enforce.gateway import sockets
from countermand.enforce.gateway.upstream import MAX_MESSAGE_BYTES
from countermand.enforce.guard import Guard
from countermand.log.verdict import CLEAR, Revoked, Unknown
from countermand.wiring import gateway
from tests.integration.gateways import Front, fronting, listening
from tests.running import DEADLINE_S
from tests.unit.guarded import TOKEN_TEXT, Answers, guard, revoked
from tests.unit.mandates import CLAIMS

pytestmark = pytest.mark.anyio

BEARER: Final = {"authorization": f"Bearer {TOKEN_TEXT}"}
Handler = Callable[[ServerConnection], Awaitable[None]]


@pytest.fixture(scope="module")
async def front() -> AsyncIterator[Front]:
    async with fronting() as served:
        yield served


@asynccontextmanager
async def _through(front: Front, handler: Handler, guarded: Guard | None = None, **options: Any) -> AsyncIterator[str]:
    """Serve `handler` behind a gateway; give the URL."""
    async with serve(handler, "127.0.0.1", 0, compression=None, **options) as server:
        port = server.sockets[0].getsockname()[1]
        async with front.to(f"http://127.0.0.1:{port}", guarded=guarded) as url:
            yield url.replace("http", "ws")


def _client(url: str, headers: Mapping[str, str] = BEARER, **options: Any) -> connect:
    return connect(url, additional_headers=headers, proxy=None, **options)


async def _echo(socket: ServerConnection) -> None:
    async for message in socket:
        await socket.send(message)


async def _closed(socket: ClientConnection | ServerConnection) -> tuple[int, str]:
    """Wait for the end; return code and reason of the close that came."""
    async with asyncio.timeout(DEADLINE_S):
        try:
            while True:
                await socket.recv()
        except ConnectionClosed as end:
            return (end.rcvd.code, end.rcvd.reason) if end.rcvd else (1006, "")


async def test_messages_go_both_ways_as_they_are(front: Front) -> None:
    async with _through(front, _echo) as url, _client(url) as socket:
        for message in ("text", "caf\xe9 \U0001f600", "", b"\x00\xff", b"", "a" * 1_000_000, b"b" * 1_000_000):
            await socket.send(message)
            assert await socket.recv() == message


async def test_the_service_hears_who_acts_and_chooses_the_subprotocol(front: Front) -> None:
    async def tell(socket: ServerConnection) -> None:
        request = socket.request
        assert request is not None
        await socket.send(json.dumps([request.path, *request.headers.raw_items()]))

    headers = BEARER | {"x-countermand-subject": "mallory", "cookie": "a=b"}
    offered = [Subprotocol("one"), Subprotocol("two")]
    async with (
        _through(front, tell, subprotocols=[Subprotocol("two")]) as url,
        _client(f"{url}/a%20b?c=d", headers, subprotocols=offered) as socket,
    ):
        path, *pairs = json.loads(await socket.recv())
        assert socket.subprotocol == "two"
    heard = {name.lower(): value for name, value in pairs}
    assert path == "/a%20b?c=d"
    assert (heard["x-countermand-subject"], heard["cookie"]) == ("alice", "a=b")
    assert "authorization" not in heard
    assert len(pairs) == len(heard)


@pytest.mark.parametrize(
    ("code", "reason", "arrives"),
    [(1000, "", 1000), (1001, "away", 1001), (1008, "no", 1008), (1011, "", 1011), (4321, "caf\xe9", 4321)],
)
async def test_a_close_arrives_on_the_other_side(front: Front, code: int, reason: str, arrives: int) -> None:
    async def close(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.close(code, reason)

    heard = asyncio.get_running_loop().create_future()

    async def hear(socket: ServerConnection) -> None:
        heard.set_result(await _closed(socket))

    async with _through(front, close) as url, _client(url) as socket:
        await socket.send("go")
        assert await _closed(socket) == (arrives, reason)
    async with _through(front, hear) as url:
        async with _client(url) as socket:
            await socket.close(code, reason)
        assert await asyncio.wait_for(heard, DEADLINE_S) == (arrives, reason)


async def test_whoever_vanishes_is_known_to_have_gone(front: Front) -> None:
    heard = asyncio.get_running_loop().create_future()

    async def hear(socket: ServerConnection) -> None:
        heard.set_result(await _closed(socket))

    async def vanish(socket: ServerConnection) -> None:
        socket.transport.abort()

    async with _through(front, hear) as url:
        async with _client(url) as socket:
            socket.transport.abort()
        await asyncio.wait_for(heard, DEADLINE_S)
    async with _through(front, vanish) as url, _client(url) as socket:
        assert await _closed(socket) == (sockets.BROKEN_UPSTREAM, "")


async def test_a_message_that_is_too_long_ends_the_socket_on_both_sides(front: Front) -> None:
    heard = asyncio.get_running_loop().create_future()

    async def hear(socket: ServerConnection) -> None:
        heard.set_result(await _closed(socket))

    async def overdo(socket: ServerConnection) -> None:
        await socket.send(b"a" * (MAX_MESSAGE_BYTES + 1))
        await socket.wait_closed()

    async with _through(front, hear) as url, _client(url) as socket:
        with suppress(ConnectionClosed):
            await socket.send(b"a" * (MAX_MESSAGE_BYTES + 1))
        assert (await _closed(socket))[0] == 1009
        assert (await asyncio.wait_for(heard, DEADLINE_S))[0] == 1009
    async with _through(front, overdo) as url, _client(url, max_size=None) as socket:
        assert await _closed(socket) == (sockets.BROKEN_UPSTREAM, "")


async def test_nobody_is_given_more_messages_than_it_takes(front: Front) -> None:
    sent = 0

    async def flood(socket: ServerConnection) -> None:
        nonlocal sent
        while True:
            await socket.send(b"a" * 100_000)
            sent += 100_000

    async with _through(front, flood) as url, _client(url, max_queue=1) as socket:
        await socket.recv()
        before = -1
        while before != sent:  # until nothing moves any more
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 40_000_000
        for _ in range(sent // 100_000):
            await socket.recv()
        socket.transport.abort()


async def test_a_service_that_takes_no_messages_is_let_go(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "TAKE_S", 0.5)
    over = asyncio.Event()

    async def sits(socket: ServerConnection) -> None:
        socket.transport.pause_reading()
        await over.wait()
        socket.transport.abort()

    async with _through(front, sits) as url, _client(url) as socket:
        flood = asyncio.create_task(_flood(socket))
        try:
            assert await _closed(socket) == (sockets.BROKEN_UPSTREAM, "")
        finally:
            flood.cancel()
            over.set()


async def _flood(socket: ClientConnection) -> None:
    with suppress(ConnectionClosed):
        while True:
            await socket.send(b"a" * 100_000)


async def test_the_pings_of_who_reads_nothing_are_not_answered_for_ever(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    connection_made = gateway._Sockets.connection_made

    def making(protocol: Any, transport: Any) -> None:
        made.append(transport)
        connection_made(protocol, transport)

    async def sits(socket: ServerConnection) -> None:
        await socket.wait_closed()

    monkeypatch.setattr(gateway._Sockets, "connection_made", making)
    async with _through(front, sits) as url, _client(url, ping_interval=None) as socket:
        socket.transport.pause_reading()
        ping = b"\x89\xfd\0\0\0\0" + b"a" * 125
        for _ in range(100):
            socket.transport.write(ping * 2_000)
            while socket.transport.get_write_buffer_size():  # noqa: ASYNC110 - a transport has no event
                await asyncio.sleep(0)
        assert made[0].get_write_buffer_size() < 1_000_000, "of 26 MB"
        socket.transport.abort()


async def test_pings_are_each_sides_own_affair(front: Front) -> None:
    async with _through(front, _echo, ping_interval=0.05, ping_timeout=1) as url, _client(url) as socket:
        async with asyncio.timeout(DEADLINE_S):
            await (await socket.ping())
        await socket.send("still here")
        assert await socket.recv() == "still here"


@pytest.mark.parametrize(
    ("answered", "status"),
    [
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", 403),
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", 503),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 502),
        (b"HTTP/1.1 307 Elsewhere\r\nlocation: http://127.0.0.1:%d/\r\ncontent-length: 0\r\n\r\n", 502),
        (b"HTTP/1.1 101 Go\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: x\r\n\r\n", 502),
        (b"nonsense\r\n\r\n", 502),
        (b"", 502),
    ],
)
async def test_a_handshake_that_fails_behind_the_gateway_fails_before_it(
    front: Front, answered: bytes, status: int
) -> None:
    asked = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        port = writer.get_extra_info("sockname")[1]
        writer.write(answered % port if b"%d" in answered else answered)

    async with listening(refuse) as upstream, front.to(upstream) as url:
        with pytest.raises(InvalidStatus) as refused:
            await _client(url.replace("http", "ws"))
    assert refused.value.response.status_code == status
    assert "error_description" in json.loads(refused.value.response.body or b"")
    assert asked == (1 if answered else 2)  # one that is closed without a word may only have been an old connection


async def test_a_handshake_that_takes_too_long_is_504(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "HANDSHAKE_S", 0.1)

    async def think(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(think) as upstream, front.to(upstream) as url:
        with pytest.raises(InvalidStatus) as refused:
            await _client(url.replace("http", "ws"))
    assert refused.value.response.status_code == 504


@pytest.mark.parametrize(
    ("headers", "guarded"),
    [
        ({}, guard()),
        ({"authorization": "Bearer x"}, guard()),
        (BEARER, guard(revoked(CLAIMS.session_id or ""))),
        (BEARER, guard(Answers(Unknown("stale")))),
    ],
)
async def test_without_a_good_token_no_socket_is_opened(front: Front, headers: dict[str, str], guarded: Guard) -> None:
    asked = False

    async def note(_socket: ServerConnection) -> None:
        nonlocal asked
        asked = True

    async with _through(front, note, guarded) as url:
        with pytest.raises(InvalidStatus):
            await _client(url, headers)
    assert not asked


async def test_a_socket_is_cut_on_both_sides_when_its_token_is_revoked(front: Front) -> None:
    heard = asyncio.get_running_loop().create_future()

    async def tick(socket: ServerConnection) -> None:
        await socket.send("open")
        heard.set_result(await _closed(socket))

    revocations = Answers(CLEAR)
    guarded = guard(revocations)
    async with _through(front, tick, guarded) as url, _client(url) as socket:
        assert await socket.recv() == "open"
        anchor = next(iter(CLAIMS.path))
        revocations.verdict = Revoked(anchor, 1)
        guarded.on_applied(())
        assert await _closed(socket) == (1008, "session_revoked")
        assert await asyncio.wait_for(heard, DEADLINE_S) == (1006, "")
