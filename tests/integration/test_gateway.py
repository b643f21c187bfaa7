"""A gateway forwards what it is given, as it comes; what goes wrong behind it is never taken for an answer."""

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from countermand.enforce.gateway import forward
from countermand.log.verdict import Unknown
from countermand.wiring import protocols
from tests.certificates import CertificateAuthority
from tests.integration.gateways import MAX_BODY, OK, Client, Front, Recorder, fronting, listening, request
from tests.running import DEADLINE_S
from tests.unit.guarded import SECRETS, Answers, Keys, guard, revoked
from tests.unit.mandates import CLAIMS

pytestmark = pytest.mark.anyio

CHUNKED = b"transfer-encoding: chunked\r\n"
SESSION_ID = CLAIMS.session_id or ""


@pytest.fixture(scope="module")
async def front() -> AsyncIterator[Front]:
    async with fronting() as served:
        yield served


@pytest.fixture
def service() -> Recorder:
    return Recorder()


@pytest.fixture
async def url(front: Front, service: Recorder) -> AsyncIterator[str]:
    async with listening(service) as upstream, front.to(upstream) as gateway:
        yield gateway


async def _ask(url: str, sent: bytes) -> tuple[int, bytes]:
    async with Client.of(url) as client:
        client.send(sent)
        return await client.answer()


def _error(answer: bytes) -> str:
    said = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert said["error_description"]
    return str(said["error"])


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize(
    "target", ["/", "/a%20b/%C3%A9?x=%2F..&y=[1]&z=a+b", "/a.b/..c/...", "/?", "/x?http://y//z/../"]
)
async def test_method_path_and_query_go_on_as_they_came(url: str, service: Recorder, method: str, target: str) -> None:
    assert (await _ask(url, request(f"{method} {target}")))[0] == 200
    assert service.requests == [f"{method} {target.removesuffix('?')}"]


async def test_headers_go_on_as_they_came_and_none_is_added_that_is_not_announced(url: str, service: Recorder) -> None:
    more = b"Cookie: a=b; c\r\nx-one: 1\r\naccept: */*\r\nX-One: caf\xc3\xa9\t2 \r\norigin: null\r\nrange: bytes=0-\r\n"
    assert (await _ask(url, request("GET /", more)))[0] == 200
    pairs = service.pairs(service.received.partition(b"\r\n")[2].removesuffix(b"\r\n\r\n"))
    assert [(name, value) for name, value in pairs if not name.startswith("x-countermand-")] == [
        ("host", pairs[0][1]),
        ("cookie", "a=b; c"),
        ("x-one", "1"),
        ("accept", "*/*"),
        ("x-one", "café\t2"),
        ("origin", "null"),
        ("range", "bytes=0-"),
        ("x-request-id", "0" * 32),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "api.example"),
        ("x-forwarded-proto", "http"),
    ]


async def test_an_answer_comes_back_as_it_was_but_for_what_concerns_one_connection(url: str, service: Recorder) -> None:
    service.answer = (
        b"HTTP/1.1 418 Short\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nserver: x\r\nconnection: close, x-mine\r\n"
        b"content-encoding: gzip\r\nx-request-id: theirs\r\nx-mine: 1\r\nkeep-alive: timeout=5\r\nlocation: http://y/\r\n"
        b"content-length: 5\r\n\r\n\x1f\x8b\x00\xff\n"
    )
    status, answer = await _ask(url, request("GET /"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (status, body) == (418, b"\x1f\x8b\x00\xff\n")
    assert [line for line in head.split(b"\r\n")[1:] if not line.startswith(b"date: ")] == [
        b"set-cookie: a=1",
        b"set-cookie: b=2",
        b"server: x",
        b"content-encoding: gzip",
        b"location: http://y/",
        b"content-length: 5",
        b"x-request-id: " + b"0" * 32,
    ]


@pytest.mark.parametrize(
    ("method", "answered", "expected"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", b"content-length: 1000\r\n"),
        ("HEAD", b"HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n", b"HTTP/1.1 404 "),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 204 "),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\netag: x\r\n\r\n", b"etag: x\r\n"),
        ("DELETE", b"HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 205 "),
    ],
)
async def test_an_answer_without_a_body_leaves_the_connection_in_order(
    url: str, service: Recorder, method: str, answered: bytes, expected: bytes
) -> None:
    service.answer = answered
    async with Client.of(url) as client:
        client.send(request(f"{method} /"))
        assert expected in await client.head()
        service.answer = OK
        client.send(request("GET /next"))
        status, answer = await client.answer()
    assert (status, answer.partition(b"\r\n\r\n")[2]) == (200, b"ok")


async def test_informational_answers_are_the_gateways_affair(url: str, service: Recorder) -> None:
    service.answer = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK
    status, answer = await _ask(url, request("GET /"))
    assert status == 200
    assert answer.endswith(b"\r\n\r\nok")


async def test_who_waits_to_be_told_to_go_on_is_told_once_it_is_let_in(url: str, service: Recorder) -> None:
    head = request("POST /", b"expect: 100-continue\r\ncontent-length: 5\r\n")
    async with Client.of(url) as client:
        client.send(head)
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"hello")
        assert (await client.answer())[0] == 200
    assert "expect" not in service.headers
    async with Client.of(url) as client:
        client.send(head.replace(b"Bearer ", b"Bearer x"))
        assert (await client.answer())[0] == 401


async def test_connections_to_the_service_are_used_again(url: str, service: Recorder) -> None:
    for _ in range(5):
        assert (await _ask(url, request("POST /", b"content-length: 5\r\n", b"hello")))[0] == 200
    assert service.connections == 1


async def test_a_connection_that_the_service_closed_meanwhile_is_not_noticed(front: Front) -> None:
    served = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        await reader.readuntil(b"\r\n\r\n")
        served += 1
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")  # and then goes, without a word

    async with listening(once) as upstream, front.to(upstream) as url, Client.of(url) as client:
        for _ in range(3):
            client.send(request("GET /"))
            assert (await client.answer())[0] == 200
        assert served == 3
        client.send(request("POST /"))
        status, answer = await client.answer()
        assert (status, _error(answer)) == (502, "bad_gateway")  # it may have been done: nobody repeats it


@pytest.mark.parametrize("head", [OK, b"HTTP/1.1 304 Not Modified\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"])
@pytest.mark.parametrize(
    "more", [b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nPOISON", b"PO", b"HTTP/1.1 408 Late\r\n\r\n"]
)
async def test_what_nobody_asked_for_is_nobodys_answer(front: Front, head: bytes, more: bytes) -> None:
    poisoned = asyncio.Event()

    async def poison(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        await going_on.wait()
        writer.write(more)
        await writer.drain()
        poisoned.set()
        await reader.read()

    async with listening(poison) as upstream, front.to(upstream) as url:
        for _ in range(3):
            going_on = asyncio.Event()
            poisoned.clear()
            status, answer = await _ask(url, request("GET /"))
            assert (status, b"POISON" in answer) == (int(head[9:12]), False)
            going_on.set()
            await asyncio.wait_for(poisoned.wait(), DEADLINE_S)
            await _turns()


async def _turns() -> None:
    """Let the event loop read what has arrived."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_whoever_dies_of_a_request_is_not_asked_again(front: Front) -> None:
    asked = 0

    async def dies(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1

    async with listening(dies) as upstream, front.to(upstream) as url:
        assert (await _ask(url, request("GET /")))[0] == 502
    assert asked == 1


async def test_a_body_streams_in_and_an_answer_out_at_the_same_time(front: Front) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n" + CHUNKED + b"\r\n")
        while size := int(await reader.readline(), 16):
            data = await reader.readexactly(size + 2)
            writer.write(b"%x\r\n" % size + data)
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async with listening(echo) as upstream, front.to(upstream) as url, Client.of(url) as client:
        client.send(request("POST /", CHUNKED))
        assert b"transfer-encoding: chunked" in await client.head()
        for word in (b"one", b"two", b"three"):
            client.send(b"%x\r\n%b\r\n" % (len(word), word))
            async with asyncio.timeout(DEADLINE_S):
                assert await client.reader.readexactly(len(word) + 5) == b"%x\r\n%b\r\n" % (len(word), word)
        client.send(b"0\r\n\r\n")
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"


async def test_nobody_is_given_more_than_it_takes(front: Front) -> None:
    """Neither a service that does not read, nor a client: what lies between is bounded."""
    sent, let_go = 0, asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        while not let_go.is_set():
            writer.write(b"a" * 65_536)
            sent += 65_536
            await writer.drain()

    async with listening(flood) as upstream, front.to(upstream) as url, Client.of(url) as client:
        client.send(request("GET /"))
        await client.head()
        before = -1
        while before != sent:  # until nothing moves any more
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 40_000_000
        let_go.set()


async def test_a_client_that_takes_nothing_is_let_go(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "STALL_S", 0.2)
    lost = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b"a" * 65_536)
                await writer.drain()
        lost.set()

    async with listening(flood) as upstream, front.to(upstream) as url, Client.of(url) as client:
        client.send(request("GET /"))
        await asyncio.wait_for(lost.wait(), DEADLINE_S)


@pytest.mark.parametrize(
    "answered",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nx y: z\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\x00b\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"\x16\x03\x01\x00\xa5",
    ],
)
async def test_what_is_no_answer_is_502(front: Front, answered: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answered)

    async with listening(speak) as upstream, front.to(upstream) as url:
        status, answer = await _ask(url, request("GET /"))
    assert (status, _error(answer)) == (502, "bad_gateway")
    assert not [record for record in caplog.records if record.exc_info]
    assert not [secret for secret in SECRETS if secret in caplog.text]


async def test_a_service_that_is_not_there_is_502(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    async with listening(Recorder()) as upstream:
        pass
    async with front.to(upstream) as url:
        status, answer = await _ask(url, request("POST /", b"content-length: 5\r\n", b"hello"))
    assert (status, _error(answer)) == (502, "bad_gateway")
    assert upstream in caplog.text


async def test_a_service_whose_certificate_nobody_vouches_for_is_502(front: Front, tmp_path: Path) -> None:
    certificate = CertificateAuthority(tmp_path, "nobody").issue("service")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.certificate, certificate.key)
    service = Recorder()
    async with listening(service, context) as upstream, front.to(upstream) as url:
        status, answer = await _ask(url, request("GET /"))
    assert (status, _error(answer)) == (502, "bad_gateway")
    assert service.received == b""


BROKEN = {
    "a length": b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhello",
    "chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "half a chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nhello",
}


@pytest.mark.parametrize("answered", BROKEN.values(), ids=BROKEN)
async def test_an_answer_that_breaks_off_never_looks_whole(
    front: Front, answered: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answered)

    async with listening(break_off) as upstream, front.to(upstream) as url, Client.of(url) as client:
        client.send(request("GET /"))
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"hello" in body
    assert b"content-length: 1000" in head or not body.endswith(b"0\r\n\r\n")
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


async def test_an_answer_that_does_not_come_is_504(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "ANSWER_S", 0.1)
    lost = asyncio.Event()

    async def think(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()
        lost.set()

    async with listening(think) as upstream, front.to(upstream) as url:
        for sent in (request("GET /"), request("POST /", b"content-length: 5\r\n", b"hello")):
            lost.clear()
            status, answer = await _ask(url, sent)
            assert (status, _error(answer)) == (504, "gateway_timeout")
            await asyncio.wait_for(lost.wait(), DEADLINE_S)


async def test_a_service_that_does_not_read_is_504(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "ANSWER_S", 0.2)

    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # it has it
        await asyncio.sleep(DEADLINE_S)

    async with (
        listening(refuse) as upstream,
        front.to(upstream, max_body=100_000_000) as url,
        Client.of(url) as client,
    ):
        client.send(request("POST /", b"content-length: 50000000\r\n"))
        flooding = asyncio.create_task(_flood(client))
        status, answer = await client.answer()
        flooding.cancel()
    assert (status, _error(answer)) == (504, "gateway_timeout")


async def _flood(client: Client) -> None:
    with suppress(ConnectionError):
        while True:
            client.send(b"a" * 65_536)
            await client.writer.drain()


@pytest.mark.parametrize("body", [b"", b"5\r\nhel"], ids=["nothing", "a part"])
async def test_a_body_that_does_not_come_is_408(
    url: str, service: Recorder, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "BODY_S", 0.1)
    async with Client.of(url) as client:
        client.send(request("POST /", CHUNKED, body))
        status, answer = await client.answer()
        assert (status, _error(answer)) == (408, "body_too_slow")
        assert await client.rest() == b""
    await asyncio.wait_for(service.lost.wait(), DEADLINE_S)
    assert b"\r\n0\r\n\r\n" not in service.received


async def test_a_body_that_is_too_long_is_413_and_never_arrives_whole(url: str, service: Recorder) -> None:
    async with Client.of(url) as client:
        client.send(request("POST /", b"content-length: %d\r\n" % (MAX_BODY + 1)))
        status, answer = await client.answer()
        assert (status, _error(answer)) == (413, "body_too_large")
    assert service.received == b""
    async with Client.of(url) as client:
        client.send(request("POST /", CHUNKED, b"%x\r\n%b\r\n0\r\n\r\n" % (MAX_BODY + 1, b"a" * (MAX_BODY + 1))))
        status, answer = await client.answer()
        assert (status, _error(answer)) == (413, "body_too_large")
    await asyncio.wait_for(service.lost.wait(), DEADLINE_S)
    assert b"\r\n0\r\n\r\n" not in service.received
    assert (await _ask(url, request("POST /", b"content-length: %d\r\n" % MAX_BODY, b"a" * MAX_BODY)))[0] == 200


@pytest.mark.parametrize("sent", [request("GET /"), request("POST /", CHUNKED, b"5\r\nhello\r\n")])
async def test_a_client_that_goes_takes_its_request_with_it(front: Front, sent: bytes) -> None:
    begun, rest = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def think(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        rest.set_result(await reader.read())

    async with listening(think) as upstream, front.to(upstream) as url:
        async with Client.of(url) as client:
            client.send(sent)
            await asyncio.wait_for(begun.wait(), DEADLINE_S)
        assert not (await asyncio.wait_for(rest, DEADLINE_S)).endswith(b"0\r\n\r\n")


async def test_a_client_that_goes_is_not_waited_for_by_a_service_that_takes_nothing(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "ANSWER_S", 0.5)
    ended = asyncio.Event()
    running = forward.Exchange.run

    async def run(exchange: forward.Exchange) -> None:
        try:
            await running(exchange)
        finally:
            ended.set()

    async def begins_and_reads_no_more(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a socket's
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")
        await ended.wait()

    monkeypatch.setattr(forward.Exchange, "run", run)
    async with listening(begins_and_reads_no_more) as upstream, front.to(upstream, max_body=10**9) as url:
        async with Client.of(url) as client:
            client.send(request("POST /", b"content-length: 100000000\r\n", b"a" * 30_000_000))
            async with asyncio.timeout(DEADLINE_S):
                await client.reader.readuntil(b"data: 1\n\n")
            client.writer.transport.abort()
        await asyncio.wait_for(ended.wait(), DEADLINE_S)


async def test_a_client_that_goes_ends_a_silent_stream(front: Front) -> None:
    lost = asyncio.Event()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")
        await reader.read()
        lost.set()

    async with listening(stream) as upstream, front.to(upstream) as url:
        async with Client.of(url) as client:
            client.send(request("GET /"))
            async with asyncio.timeout(DEADLINE_S):
                await client.reader.readuntil(b"data: 1\n\n")
        await asyncio.wait_for(lost.wait(), DEADLINE_S)


@pytest.mark.parametrize(
    ("revocations", "status", "code"),
    [
        (Answers(Unknown("stale")), 503, "revocation_unavailable"),
        (Answers(RuntimeError("broken")), 503, "revocation_unavailable"),
        (revoked(SESSION_ID), 401, "session_revoked"),
    ],
)
async def test_whoever_cannot_know_forwards_nothing(
    front: Front, service: Recorder, revocations: Answers, status: int, code: str
) -> None:
    async with listening(service) as upstream, front.to(upstream, guarded=guard(revocations)) as url:
        answered, answer = await _ask(url, request("GET /"))
    assert (answered, _error(answer)) == (status, code)
    assert (b"\r\nretry-after: 1\r\n" in answer) is (status == 503)
    assert service.received == b""


async def test_without_keys_nothing_is_forwarded(front: Front, service: Recorder) -> None:
    blind = guard(keys=Keys(RuntimeError("no keys")))
    async with listening(service) as upstream, front.to(upstream, guarded=blind) as url:
        status, answer = await _ask(url, request("GET /"))
    assert (status, _error(answer)) == (503, "keys_unavailable")
    assert service.received == b""
