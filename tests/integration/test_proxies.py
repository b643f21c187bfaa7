"""Forward auth behind nginx and Caddy, with the configurations in `deploy/`, byte by byte."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from countermand.enforce.forward_auth import ForwardAuth
from countermand.enforce.identity import NOBODY, identity
from countermand.log.anchor import Kind as Anchored
from countermand.wiring.serve import bound
from tests.integration.behind_proxies import BEARER, Head, World, request, world_behind
from tests.proxies import KINDS, Kind, proxy_running
from tests.running import DEADLINE_S
from tests.unit.guarded import DELEGATED_TEXT, TOKEN_TEXT, UNREACHABLE, Keys, guard
from tests.unit.mandates import AUDIENCE, CLAIMS, FOREIGN, SESSION, read, sign

pytestmark = pytest.mark.anyio

ALICE = {name.encode(): [value.encode()] for name, value in identity(read(TOKEN_TEXT)).items() if value}
"""What the service may read of who acts: no more, no less."""


@pytest.fixture(scope="module", params=KINDS)
async def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    kind: Kind = request.param
    async with world_behind(kind, tmp_path_factory.mktemp(kind)) as world:
        yield world


@pytest.fixture
def world(opened: World) -> World:
    """The proxy of the module, and all else new."""
    opened.begin()
    return opened


def error_of(body: bytes) -> str:
    return str(json.loads(body)["error"])


async def test_a_good_token_reaches_the_service_as_an_identity_and_not_as_a_token(world: World) -> None:
    answer, body = await world.ask(BEARER)
    assert (answer.status, body) == (200, b"hello")
    (seen,) = world.seen
    assert seen.identity() == ALICE
    assert seen.all("authorization") == []
    assert TOKEN_TEXT.encode() not in b"".join(value for _, value in seen.fields)


async def test_the_next_request_of_a_revoked_session_is_refused(world: World) -> None:
    assert (await world.ask(BEARER))[0].status == 200
    world.log.revoke(Anchored.SESSION, SESSION)
    answer, body = await world.ask(BEARER)
    assert (answer.status, error_of(body)) == (401, "session_revoked")
    (challenge,) = answer.all("www-authenticate")
    assert challenge.startswith(b'Bearer error="session_revoked"')
    assert challenge.endswith(f'resource_metadata="{AUDIENCE}/.well-known/oauth-protected-resource"'.encode())
    assert len(world.seen) == 1


async def test_without_a_token_a_client_learns_where_to_get_one_and_may_read_it(world: World) -> None:
    answer, _ = await world.ask()
    assert answer.status == 401
    assert answer.all("www-authenticate") == [
        f'Bearer resource_metadata="{AUDIENCE}/.well-known/oauth-protected-resource"'.encode()
    ]
    found, body = await world.ask(first=b"GET /.well-known/oauth-protected-resource HTTP/1.1")
    assert (found.status, json.loads(body)["resource"]) == (200, AUDIENCE)
    assert world.seen == []


async def test_a_route_may_need_more_and_says_what(world: World) -> None:
    answer, body = await world.ask(BEARER, first=b"GET /admin/x HTTP/1.1")
    assert (answer.status, error_of(body)) == (403, "insufficient_scope")
    assert b'scope="admin"' in answer.all("www-authenticate")[0]
    assert world.seen == []


async def test_where_the_replica_is_stale_the_client_is_told_to_try_again(world: World) -> None:
    world.log.passed_ms = 60_000
    await refused_for_now(world, "revocation_unavailable")


async def test_where_there_are_no_keys_the_client_is_told_to_try_again(world: World) -> None:
    world.auth = ForwardAuth(guard(world.log.replica, keys=Keys(UNREACHABLE)))
    await refused_for_now(world, "keys_unavailable")


async def refused_for_now(world: World, error: str) -> None:
    answer, body = await world.ask(BEARER)
    assert (answer.status, error_of(body)) == (503, error)
    assert answer.all("retry-after") == [b"1"]
    assert answer.all("www-authenticate") == []
    assert world.seen == []


@pytest.mark.parametrize("kind", KINDS)
async def test_without_forward_auth_nobody_is_let_in(kind: Kind, tmp_path: Path) -> None:
    world = World()
    service = await asyncio.start_server(world.serve, "127.0.0.1", 0)
    with bound("127.0.0.1", 0) as (listener, _):
        nobody = listener.getsockname()[1]
    async with service:
        port = service.sockets[0].getsockname()[1]
        with proxy_running(kind, tmp_path, auth=nobody, service=port) as world.port:
            answer, _ = await world.ask(BEARER)
    assert (answer.status, answer.all("retry-after")) == {"nginx": (503, [b"1"]), "caddy": (502, [])}[kind]
    assert world.seen == []


async def test_the_largest_identity_passes(world: World) -> None:
    claims = FOREIGN | {"scope": " ".join(f"{number:03}" + "é" * 40 for number in range(138))}
    token = sign(json.dumps(claims, ensure_ascii=False).encode())
    assert 15_500 < len(token) < 16_384
    answer, _ = await world.ask(f"Authorization: Bearer {token}".encode())
    assert answer.status == 200
    assert len(world.seen[0].identity()[b"x-countermand-scope"][0]) > 33_000


NAME = b"X-Countermand-Subject"
SPOOFED = {
    "plain": NAME + b": evil",
    "lower": NAME.lower() + b": evil",
    "mixed": b"x-CounterMand-sUBJECT: evil",
    "twice": NAME + b": evil\r\n" + NAME + b": evil",
    "twice in two cases": NAME + b": evil\r\n" + NAME.lower() + b": evil",
    "underscores": b"X_Countermand_Subject: evil",
    "an underscore": b"X-Countermand_Subject: evil",
    "another underscore": b"x_countermand-subject: evil",
    "underscores beside it": b"X_COUNTERMAND_SUBJECT: evil\r\n" + NAME + b": evil",
    "folded": NAME + b": a\r\n evil",
    "folded in another": b"X-Other: a\r\n " + NAME + b": evil",
    "folded with a tab": b"X-Other: a\r\n\t" + NAME + b": evil",
    "a space before the colon": NAME + b" : evil",
    "a tab before the colon": NAME + b"\t: evil",
    "a tab after the colon": NAME + b":\tevil",
    "a space before the name": b" " + NAME + b": evil",
    "a bare line feed": b"X-Other: a\n" + NAME + b": evil",
    "a bare carriage return": b"X-Other: a\r" + NAME + b": evil",
    "a zero byte": b"X-Countermand-Subject\x00: evil",
    "one that is nobody's": b"X-Countermand-Agent-Session-Id: evil",
    "one that is nobody's with underscores": b"X_Countermand_Agent_Session_Id: evil",
    "named by Connection": b"Connection: close, X-Countermand-Subject",
    "named by Connection in another case": b"Connection: x-countermand-subject",
    "the token named by Connection": b"Connection: Authorization",
    "requirements": b"X-Forwarded-Uri: /scope=none\r\nX-Original-Url: /scope=none",
}


def assert_nobody_lied(world: World) -> None:
    """Whatever reached the service names alice and nobody else, and has no token."""
    for head in world.seen:
        assert head.identity() == ALICE
        assert head.all("authorization") == []


@pytest.mark.parametrize("lines", SPOOFED.values(), ids=SPOOFED)
@pytest.mark.parametrize("where", ["before the token", "after it"])
async def test_no_identity_of_the_clients_reaches_the_service(world: World, lines: bytes, where: str) -> None:
    sent = (lines, BEARER) if where == "before the token" else (BEARER, lines)
    answer, _ = await world.ask(*sent)
    assert answer.status == 200 or 400 <= answer.status < 500
    assert len(world.seen) == (answer.status == 200)
    assert_nobody_lied(world)


@pytest.mark.parametrize("name", NOBODY)
async def test_each_identity_header_is_the_guards_or_is_not_there(world: World, name: str) -> None:
    answer, _ = await world.ask(f"{name}: evil".encode(), BEARER)
    assert answer.status == 200
    assert_nobody_lied(world)


async def test_the_id_of_a_request_is_a_word(world: World) -> None:
    await world.ask(b"X-Request-Id: evil evil", BEARER)
    (id_,) = world.seen[0].all("x-request-id")
    assert len(id_) == 32


TWO_TOKENS = {
    "two": (BEARER, BEARER),
    "another first": (b"Authorization: Bearer other", BEARER),
    "another last": (BEARER, b"Authorization: Basic YTpi"),
    "in two cases": (BEARER, BEARER.replace(b"Authorization", b"authorization")),
    "with a comma": (BEARER + b", Bearer other",),
    "folded": (b"Authorization: Bearer other\r\n " + TOKEN_TEXT.encode(),),
}


@pytest.mark.parametrize("lines", TWO_TOKENS.values(), ids=TWO_TOKENS)
async def test_of_two_tokens_none_is_taken(world: World, lines: tuple[bytes, ...]) -> None:
    answer, _ = await world.ask(*lines)
    assert answer.status in {400, 401}
    assert world.seen == []


async def test_a_second_token_under_a_name_with_an_underscore_changes_nothing(world: World) -> None:
    answer, _ = await world.ask(BEARER, b"HTTP_AUTHORIZATION: Bearer evil", b"Authorization_: Bearer evil")
    assert answer.status == 200
    assert_nobody_lied(world)
    assert b"evil" not in b"".join(value for _, value in world.seen[0].fields)


PATHS = {
    b"/a/../admin/x": {400, 403},
    b"/a/..%2fadmin/x": {400, 403},
    b"/a/%2e%2e/admin/x": {400, 403},
    b"/%61dmin/x": {403},
    b"//admin/x": {400, 403},
    b"/./admin/x": {400, 403},
    b"/admin/../admin/x": {400, 403},
    b"/admin//x": {400, 403},
    b"/admin/x?scope=none": {403},
    b"/admin%2fx": {403},
    b"/admin/%2e%2e/x": {200, 400},
    b"/admin/../x": {200, 400},
    b"/.countermand/": {404, 200},
    b"/.countermand/scope=none": {404, 200},
    b"/?scope=none&max_staleness=x": {200},
    b"/scope=none": {200},
    b"/a%00b": {200, 400},
    b"/%zz": {200, 400},
    b"http://api.example/admin/x": {403},
}


@pytest.mark.parametrize("path", PATHS, ids=bytes.decode)
async def test_no_way_to_write_a_path_gets_by_what_it_needs(world: World, path: bytes) -> None:
    answer, _ = await world.ask(BEARER, first=b"GET " + path + b" HTTP/1.1")
    assert answer.status in PATHS[path]
    assert len(world.seen) == (answer.status == 200)
    for head in world.seen:
        assert b"admin" not in head.line.lower()
        assert b".." not in head.line
    assert_nobody_lied(world)


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: api.example\r\n" + NAME + b": evil\r\n\r\n"
SHAPES = {
    "both lengths": (b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "two lengths": (b"Content-Length: 0", b"Content-Length: 5"),
    "a list of lengths": (b"Content-Length: 0, 5",),
    "a signed length": (b"Content-Length: +0",),
    "an encoding with a space": (b"Transfer-Encoding : chunked",),
    "an encoding that is none": (b"Transfer-Encoding: xchunked",),
    "two encodings": (b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
    "a length with an underscore": (b"Content_Length: 5",),
    "chunks": (b"Transfer-Encoding: chunked",),
}


@pytest.mark.parametrize("lines", SHAPES.values(), ids=SHAPES)
async def test_no_request_is_smuggled_past_the_question(world: World, lines: tuple[bytes, ...]) -> None:
    async with asyncio.timeout(DEADLINE_S), world.connected() as (reader, writer):
        writer.write(request(*lines, BEARER, first=b"POST / HTTP/1.1", close=False) + b"0\r\n\r\n" + SMUGGLED)
        writer.write(request())
        with suppress(ConnectionError):  # refused while more was on its way
            await reader.read()
    assert all(b"smuggled" not in head.line for head in world.seen)
    assert_nobody_lied(world)


async def test_trailers_name_nobody(world: World) -> None:
    lines = (b"Transfer-Encoding: chunked", b"Trailer: " + NAME)
    body = b"0\r\n" + NAME + b": evil\r\n\r\n"
    await world.ask(BEARER, *lines, first=b"POST / HTTP/1.1", body=body)
    assert_nobody_lied(world)
    assert b"evil" not in b"".join(world.bodies)


@pytest.mark.parametrize("path", [b"/events", b"/lines"])
async def test_events_and_other_streams_reach_the_client_as_they_happen(world: World, path: bytes) -> None:
    async with asyncio.timeout(DEADLINE_S), world.connected() as (reader, writer):
        writer.write(request(BEARER, first=b"GET " + path + b" HTTP/1.1"))
        assert Head.of(await reader.readuntil(b"\r\n\r\n")).status == 200
        await reader.readuntil(b"data: 1\n\n")
        world.goes_on.set()
        await reader.readuntil(b"data: 2\n\n")


UPGRADE = (
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: " + b"A" * 24,
)


async def test_a_web_socket_passes_after_the_question(world: World) -> None:
    async with asyncio.timeout(DEADLINE_S), world.connected() as (reader, writer):
        writer.write(request(BEARER, *UPGRADE, first=b"GET /socket HTTP/1.1", close=False))
        assert Head.of(await reader.readuntil(b"\r\n\r\n")).status == 101
        for word in (b"one", b"two"):
            writer.write(word)
            assert await reader.readexactly(3) == word.upper()
    assert_nobody_lied(world)


@pytest.mark.parametrize("to", [b"h2c", b"h2c, websocket", b"websocket, h2c", b"websocketx", b"TLS/1.0"])
async def test_no_other_upgrade_reaches_the_service(world: World, to: bytes) -> None:
    settings = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + to, b"HTTP2-Settings: AAMAAABkAAQAAP__")
    answer, _ = await world.ask(BEARER, *settings)
    assert answer.status == 200
    assert [value for head in world.seen for value in head.all("upgrade") if value] == []


async def test_a_web_socket_without_a_token_is_refused_and_the_next_question_is_answered(world: World) -> None:
    for _ in range(3):
        answer, _ = await world.ask(*UPGRADE, first=b"GET /socket HTTP/1.1")
        assert answer.status == 401
        assert (await world.ask(BEARER))[0].status == 200
    assert all(b"socket" not in head.line for head in world.seen)


async def test_an_open_stream_goes_on_after_the_revocation_and_only_the_next_request_is_refused(world: World) -> None:
    """What forward auth cannot do."""
    async with asyncio.timeout(DEADLINE_S), world.connected() as (reader, writer):
        writer.write(request(BEARER, first=b"GET /events HTTP/1.1"))
        await reader.readuntil(b"data: 1\n\n")
        world.log.revoke(Anchored.SESSION, SESSION)
        assert (await world.ask(BEARER))[0].status == 401
        world.goes_on.set()
        await reader.readuntil(b"data: 2\n\n")


BODIES = {
    "of a length": (b"Content-Length: 3", b"abc"),
    "in chunks": (b"Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("body", BODIES)
async def test_every_method_is_asked_about_and_bodies_reach_the_service_alone(
    world: World, method: str, body: str
) -> None:
    line, sent = BODIES[body]
    first = f"{method} / HTTP/1.1".encode()
    for _ in range(3):  # a question that had a body would spoil those after it
        assert (await world.ask(line, first=first, body=sent))[0].status == 401
        assert world.seen == []
    answer, _ = await world.ask(BEARER, line, first=first, body=sent)
    assert answer.status == 200
    assert b"abc" in world.bodies[0]


async def test_one_after_the_other_has_an_identity_of_its_own(world: World) -> None:
    delegated = f"Authorization: Bearer {DELEGATED_TEXT}".encode()
    for line in (BEARER, delegated, BEARER):
        await world.ask(line)
    agents = [head.all("x-countermand-agent-session-id") for head in world.seen]
    assert agents[1] == [identity(read(DELEGATED_TEXT))["x-countermand-agent-session-id"].encode()]
    assert {*map(tuple, (agents[0], agents[2]))} <= {(), (b"",)}
    assert world.seen[1].all("x-countermand-client-id") == [CLAIMS.client_id.encode()]
