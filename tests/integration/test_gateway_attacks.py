"""What a client may try with the bytes of a request: a table of tricks, and what the service behind sees of them.

Each is sent with a good token. Whatever is refused never reaches the service, and whatever came behind it on the same
connection is not read. Source: RFC 9112 §11.2 (request smuggling); CVE-2026-30851 (identity headers).
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from countermand.enforce.identity import NOBODY
from countermand.wiring import protocols
from tests.integration.gateways import AUTHORIZED, Client, Front, Recorder, fronting, listening, request
from tests.running import until
from tests.unit.guarded import SECRETS

pytestmark = pytest.mark.anyio

SMUGGLED = request("GET /smuggled")
CHUNKED = b"transfer-encoding: chunked\r\n"
SOCKET = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
KEY = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@dataclass(frozen=True, slots=True)
class Stage:
    url: str
    service: Recorder


@pytest.fixture(scope="module")
async def front() -> AsyncIterator[Front]:
    async with fronting() as served:
        yield served


@pytest.fixture
async def stage(front: Front) -> AsyncIterator[Stage]:
    service = Recorder()
    async with listening(service) as upstream, front.to(upstream) as url:
        yield Stage(url, service)


PATHS = {
    "one dot": "/a/./b",
    "two dots": "/a/../b",
    "dots at the end": "/a/..",
    "an encoded dot": "/a/%2e%2E/b",
    "half an encoded dot": "/a/.%2e",
    "dots with parameters": "/a/..;x=1/b",
    "dots with encoded parameters": "/a/..%3bx/b",
    "parameters": "/admin;x=1/b",
    "an encoded slash": "/a/..%2fb",
    "an encoded slash in capitals": "/a%2Fb",
    "a backslash": "/a\\..\\b",
    "an encoded backslash": "/a%5c..",
    "an empty segment": "/a//b",
    "an empty first segment": "//evil.example/b",
    "NUL": "/a%00b",
    "an encoded line feed": "/a%0d%0ab",
    "an encoded DEL": "/a%7fb",
    "half an escape": "/a%2",
    "no escape": "/a%zz",
    "an escape of IIS": "/a/%u002e%u002e/b",
    "an overlong slash": "/a/..%c0%afb",
    "no UTF-8": "/a%e9",
    "a fragment": "/a#b",
    "a fragment in the query": "/a?b#c",
    "the absolute form": "http://evil.example/a",
    "the absolute form without a path": "http://evil.example",
    "the authority's form": "evil.example:80",
    "an asterisk": "*",
    "no slash": "a/b",
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("more", [b"", SOCKET + KEY], ids=["HTTP", "web socket"])
async def test_a_path_that_could_be_read_in_two_ways_is_refused(stage: Stage, path: str, more: bytes) -> None:
    async with Client.of(stage.url) as client:
        client.send(request(f"GET {path}", more, SMUGGLED))
        answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert stage.service.received == b""


REFUSED = {
    "two lengths": request("POST /", b"content-length: 5\r\ncontent-length: 5\r\n", b"hello"),
    "two other lengths": request("POST /", b"content-length: 5\r\ncontent-length: 0\r\n", b"hello"),
    "a list of lengths": request("POST /", b"content-length: 5, 5\r\n", b"hello"),
    "a length with a sign": request("POST /", b"content-length: +5\r\n", b"hello"),
    "a negative length": request("POST /", b"content-length: -5\r\n", b"hello"),
    "a length in hexadecimal": request("POST /", b"content-length: 0x5\r\n", b"hello"),
    "an endless length": request("POST /", b"content-length: 99999999999999999999\r\n", b"hello"),
    "a length of many digits": request("POST /", b"content-length: " + b"0" * 5000 + b"5\r\n", b"hello"),
    "a length and chunks": request("POST /", b"content-length: 5\r\n" + CHUNKED, b"0\r\n\r\n"),
    "chunks and a length": request("POST /", CHUNKED + b"content-length: 5\r\n", b"0\r\n\r\n"),
    "another encoding": request("POST /", b"transfer-encoding: gzip\r\n", b"0\r\n\r\n"),
    "an encoding that looks like chunks": request("POST /", b"transfer-encoding: xchunked\r\n", b"0\r\n\r\n"),
    "chunks behind another encoding": request("POST /", b"transfer-encoding: gzip, chunked\r\n", b"0\r\n\r\n"),
    "chunks before another encoding": request("POST /", b"transfer-encoding: chunked, identity\r\n", b"0\r\n\r\n"),
    "chunks twice": request("POST /", CHUNKED + CHUNKED, b"0\r\n\r\n"),
    "chunks and identity": request("POST /", CHUNKED + b"transfer-encoding: identity\r\n", b"0\r\n\r\n"),
    "a space before the colon": request("POST /", b"transfer-encoding : chunked\r\n", b"0\r\n\r\n"),
    "a tab in a value": request("POST /", b"transfer-encoding: \x0bchunked\r\n", b"0\r\n\r\n"),
    "a folded encoding": request("POST /", b"transfer-encoding:\r\n chunked\r\n", b"0\r\n\r\n"),
    "a folded header": request("GET /", b"x-countermand-subject: a\r\n\tlice\r\n"),
    "a line that ends in LF": request("GET /", b"x: a\ny: b\r\n"),
    "a line that ends in CR": request("GET /", b"x: a\ry: b\r\n"),
    "only LF": request("GET /").replace(b"\r\n", b"\n"),
    "NUL in a value": request("GET /", b"x: a\x00b\r\n"),
    "a header without a name": request("GET /", b": a\r\n"),
    "a tab in a name": request("GET /", b"x\ty: a\r\n"),
    "brackets in a name": request("GET /", b"x(y): a\r\n"),
    "a header that is no UTF-8": request("GET /", b"x: caf\xe9\r\n"),
    "a space before the first header": b"GET / HTTP/1.1\r\n x: y\r\n" + AUTHORIZED + b"\r\n",
    "two hosts": request("GET /", b"host: evil.example\r\n"),
    "a host with a path": request("GET /").replace(b"host: api.example", b"host: api.example/evil"),
    "no host": request("GET /").replace(b"host: api.example\r\n", b""),
    "a path beyond ASCII": request("GET /caf\xe9"),
    "a query beyond ASCII": request("GET /?caf\xe9"),
    "CONNECT": request("CONNECT evil.example:80"),
    "TRACE": request("TRACE /"),
    "HTTP/1.0": request("GET /").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/1.2": request("GET /").replace(b"HTTP/1.1", b"HTTP/1.2"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
    "an upgrade to HTTP/2": request("GET /", b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\n"),
    "an upgrade without its connection": request("GET /", b"upgrade: websocket\r\n"),
    "a web socket by POST": request("POST /", SOCKET + KEY + b"content-length: 5\r\n", b"hello"),
    "a web socket with a body": request("GET /", SOCKET + KEY + b"content-length: 5\r\n", b"hello"),
    "a web socket without a key": request("GET /", SOCKET),
    "a web socket with a long line": request("GET /", SOCKET + KEY + b"cookie: " + b"a" * 10_000 + b"\r\n"),
}


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED)
async def test_what_two_servers_could_read_in_two_ways_reaches_no_service(stage: Stage, sent: bytes) -> None:
    async with Client.of(stage.url) as client:
        client.send(sent + SMUGGLED)
        answer = await client.rest()
    assert re.match(rb"HTTP/1.1 (4|501|505)|$", answer)
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert stage.service.received == b""
    assert not [secret for secret in SECRETS if secret.encode() in answer]


BODIES = {
    "a chunk that ends elsewhere": b"5\r\nhelloX\r\n0\r\n\r\n",
    "a chunk that ends in LF": b"5\nhello\r\n0\r\n\r\n",
    "a size in another form": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "an endless size": b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "a size with a space": b"5 \r\nhello\r\n0\r\n\r\n",
    "a trailer that is folded": b"0\r\nx: a\r\n b\r\n\r\n",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_a_body_that_breaks_its_own_rules_is_never_whole(stage: Stage, body: bytes) -> None:
    async with Client.of(stage.url) as client:
        client.send(request("POST /begun", CHUNKED, body + SMUGGLED))
        answer = await client.rest()
    assert answer == b""
    assert stage.service.requests in ([], ["POST /begun"])
    assert b"\r\n0\r\n\r\n" not in stage.service.received


async def test_what_follows_a_body_is_a_request_of_its_own_with_a_token_of_its_own(stage: Stage) -> None:
    hidden = b"GET /hidden HTTP/1.1\r\nhost: x\r\n\r\n"
    async with Client.of(stage.url) as client:
        client.send(request("POST /one", b"content-length: %d\r\n" % len(hidden), hidden) + hidden + SMUGGLED)
        assert (await client.answer())[0] == 200
        assert (await client.answer())[0] == 401
        assert (await client.answer())[0] == 200
    assert [line for line in stage.service.requests if line != "GET /hidden"] == ["POST /one", "GET /smuggled"]
    assert stage.service.received.count(b"GET /hidden") == 1  # the body, as a body


async def test_a_length_arrives_in_its_plainest_form(stage: Stage) -> None:
    async with Client.of(stage.url) as client:
        client.send(request("POST /", b"content-length: 0005\r\n", b"hello"))
        assert (await client.answer())[0] == 200
    assert stage.service.headers["content-length"] == "5"


async def test_chunks_arrive_as_chunks_without_extensions_and_trailers(stage: Stage) -> None:
    body = b"5;evil=1\r\nhello\r\n0;evil=2\r\nauthorization: evil\r\nx-countermand-subject: evil\r\n\r\n"
    async with Client.of(stage.url) as client:
        client.send(request("POST /one", CHUNKED, body))
        assert (await client.answer())[0] == 200
    assert stage.service.received.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    assert b"evil" not in stage.service.received


SPOOFS = [
    *("X-Countermand-Subject", "x-countermand-subject", "X_Countermand_Subject", "x_countermand-SUBJECT"),
    *("X.Countermand.Subject", "X-Countermand-Anything", "X-Countermand-", "x~countermand*subject"),
    *("X-Forwarded-For", "X_Forwarded_For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded"),
    *("X-Forwarded-Prefix", "X-Forwarded-Uri", "X-Forwarded-User", "X_Forwarded_Port", "X-Real-IP"),
    *(
        "X-Original-URL",
        "X_Original_URL",
        "X-Rewrite-URL",
        "X-Original-URI",
        "X-HTTP-Method-Override",
        "X-Method-Override",
    ),
    *("X_Request_Id", "Transfer_Encoding", "Content_Length", "Proxy-Authorization", "Keep-Alive", "TE", "Trailer"),
]


@pytest.mark.parametrize("name", SPOOFS)
async def test_no_client_writes_a_header_that_is_the_gateways_own(stage: Stage, name: str) -> None:
    async with Client.of(stage.url) as client:
        client.send(request("GET /", f"{name}: evil\r\n{name}: evil\r\n".encode()))
        assert (await client.answer())[0] == 200
    assert b"evil" not in stage.service.received
    headers = stage.service.headers
    assert {header for header in headers if "countermand" in header} == set(NOBODY)
    assert headers["x-countermand-subject"] == "alice"
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("127.0.0.1", "http")
    assert headers["x-forwarded-host"] == "api.example"


@pytest.mark.parametrize(
    "named",
    ["x-countermand-subject", "X-Countermand-Subject, host", "content-length, x-request-id", "close, x-request-id"],
)
async def test_no_client_takes_a_header_of_the_gateways_away(stage: Stage, named: str) -> None:
    more = f"connection: {named}, x-mine\r\nx-mine: gone\r\ncontent-length: 5\r\n".encode()
    async with Client.of(stage.url) as client:
        client.send(request("POST /", more, b"hello"))
        assert (await client.answer())[0] == 200
    headers = stage.service.headers
    assert set(NOBODY) | {"host", "x-request-id"} <= set(headers)
    assert headers["content-length"] == "5"
    assert "x-mine" not in headers


async def test_the_token_ends_at_the_gateway_and_there_is_only_one(stage: Stage) -> None:
    async with Client.of(stage.url) as client:
        client.send(request("GET /"))
        assert (await client.answer())[0] == 200
    assert "authorization" not in stage.service.headers
    stage.service.received = b""
    async with Client.of(stage.url) as client:
        client.send(request("GET /", b"authorization: Bearer another\r\n"))
        assert (await client.answer())[0] == 401
    assert stage.service.received == b""


async def test_only_the_long_head_of_a_request_is_refused(stage: Stage) -> None:
    fits = b"x: " + b"a" * 60_000 + b"\r\n"
    async with Client.of(stage.url) as client:
        client.send(request("GET /", fits))
        assert (await client.answer())[0] == 200
    for more in (fits + fits, b"x: y\r\n" * protocols.MAX_HEADERS, b"x: y\r\n" * 20_000):
        async with Client.of(stage.url) as client:
            client.send(request("GET /", more))
            assert (await client.rest()).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /",
        request("GET /")[:-2] + b"x: ",
        request("POST /", CHUNKED, b"0\r\nx: "),
        request("POST /", CHUNKED, b"5;"),
    ],
    ids=["the line", "a header", "a trailer", "an extension of a chunk"],
)
async def test_nothing_that_does_not_end_is_kept(stage: Stage, begun: bytes) -> None:
    async with Client.of(stage.url) as client:
        client.send(begun)
        sent = 0
        while not client.reader.at_eof() and sent < 100 * protocols.MAX_HEAD_BYTES:
            client.send(b"a" * 65_536)
            sent += 65_536
            try:
                await client.writer.drain()
            except ConnectionError:
                break
    assert sent < 100 * protocols.MAX_HEAD_BYTES


@pytest.mark.parametrize("begun", [b"", b"GET /", request("GET /")[:-2]], ids=["nothing", "a word", "all but a line"])
async def test_a_head_that_does_not_come_ends_the_connection(
    stage: Stage, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "HEAD_S", 0.1)
    async with Client.of(stage.url) as client:
        client.send(begun)
        assert await client.rest() == b""


async def test_what_follows_the_last_request_of_a_connection_is_not_read(stage: Stage) -> None:
    async with Client.of(stage.url) as client:
        client.send(request("GET /last", b"connection: close\r\n") + SMUGGLED)
        assert (await client.rest()).count(b"HTTP/1.1 200 ") == 1
    assert stage.service.requests == ["GET /last"]


async def test_garbage_behind_a_request_is_not_answered_within_its_answer(stage: Stage) -> None:
    async with Client.of(stage.url) as client:
        client.send(request("GET /") + b"\x00\x00\r\n\r\n")
        assert await client.rest() == b""
    await until(lambda: stage.service.requests == ["GET /"], "the service hears of the request, and of nothing else")
