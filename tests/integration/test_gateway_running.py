"""A gateway that runs: it follows an authority, cuts what is revoked, has routes from a file, and stops politely."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from countermand.errors import ConfigurationError
from countermand.settings import ReplicaSettings, RouteSettings
from countermand.wiring import gateway
from countermand.wiring.gateway import guards_of, serve_gateway
from tests.integration.commands import lines_until, typed
from tests.integration.commands import running as running_verb
from tests.integration.gateways import OK, Client, Recorder, listening, tick
from tests.running import DEADLINE_S, Running, until

pytestmark = pytest.mark.anyio

AUDIENCE: Final = "https://api.example"
OTHER: Final = "https://api.example/other"
ELSEWHERE: Final = "https://elsewhere.example"
LIMIT_S: Final = 1.0
"""Ten times what it should take, for a machine that does something else."""


def _replica(running: Running) -> ReplicaSettings:
    return ReplicaSettings(running.url, running.url, running.replica_key, running.data.pin.read_text())


@asynccontextmanager
async def _gateway(running: Running, *routes: RouteSettings) -> AsyncIterator[str]:
    async with serve_gateway(routes, guards_of(routes, _replica(running)), "127.0.0.1", 0, 1_000) as url:
        yield url


async def _subject(running: Running, audience: str = AUDIENCE, scope: tuple[str, ...] = ()) -> tuple[str, str]:
    """Open a session; return its id, and a mandate on it."""
    client = running.client
    application = (await client.create_application("notes"))["id"]
    if scope:
        await client.create_grant(application, "alice", scope, audience)
    session = str((await client.open_session(application, "alice"))["id"])
    return session, await client.issue_mandate(session, audience, scope)


def _get(path: str, token: str, more: str = "") -> bytes:
    bearer = f"authorization: Bearer {token}\r\n" if token else ""
    return f"GET {path} HTTP/1.1\r\nhost: api.example\r\n{bearer}{more}\r\n".encode()


async def _status(url: str, path: str, token: str = "") -> int:
    async with Client.of(url) as client:
        client.send(_get(path, token))
        return (await client.answer())[0]


async def _ready(url: str, path: str, token: str) -> None:
    async def passes() -> bool:
        return await _status(url, path, token) == 200

    await until(passes, "the gateway's replica is fresh")


@dataclass(frozen=True, slots=True)
class Stage:
    """One gateway with several routes. `here` is behind all but one, `there` behind /other. `lost` is set when a stream
    or a web socket of theirs has gone."""

    url: str
    here: Recorder
    there: Recorder
    lost: asyncio.Event


@pytest.fixture(scope="module")
async def stage(shared: Running) -> AsyncIterator[Stage]:
    here, there, lost = Recorder(), Recorder(), asyncio.Event()

    async def noted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await tick(reader, writer)
        finally:
            lost.set()

    async def tell(socket: ServerConnection) -> None:
        await socket.send("open")
        await socket.wait_closed()
        lost.set()

    async with (
        listening(here) as one,
        listening(there) as two,
        listening(noted) as ticking,
        serve(tell, "127.0.0.1", 0) as server,
    ):
        telling = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        routes = (
            RouteSettings(upstream=one, audience=AUDIENCE),
            RouteSettings(path="/admin/", upstream=one, audience=AUDIENCE, required_scopes=("admin",)),
            RouteSettings(path="/other", upstream=two, audience=OTHER, max_staleness_s=5, required_scopes=("read",)),
            RouteSettings(path="/stream", upstream=ticking, audience=AUDIENCE),
            RouteSettings(path="/socket", upstream=telling, audience=AUDIENCE),
            RouteSettings(path="/elsewhere", upstream=one, audience=ELSEWHERE),
        )
        async with _gateway(shared, *routes) as url:
            _, token = await _subject(shared)
            await _ready(url, "/", token)
            yield Stage(url, here, there, lost)


async def test_a_stream_ends_when_the_authority_has_answered_a_revocation(shared: Running, stage: Stage) -> None:
    session, token = await _subject(shared)
    async with Client.of(stage.url) as client:
        client.send(_get("/stream", token))
        async with asyncio.timeout(DEADLINE_S):
            for _ in range(3):
                await client.reader.readuntil(b"data: 1\n\n\r\n")
        stage.lost.clear()
        await shared.client.revoke("session", session)
        answered_s = time.monotonic()
        assert not (await client.rest()).endswith(b"0\r\n\r\n")
        await asyncio.wait_for(stage.lost.wait(), DEADLINE_S)
        assert time.monotonic() - answered_s < LIMIT_S
    assert await _status(stage.url, "/stream", token) == 401


async def test_a_web_socket_ends_when_the_authority_has_answered_a_revocation(shared: Running, stage: Stage) -> None:
    session, token = await _subject(shared)
    url, headers = stage.url.replace("http", "ws"), {"authorization": f"Bearer {token}"}
    async with connect(f"{url}/socket", additional_headers=headers, proxy=None) as socket:
        assert await socket.recv() == "open"
        stage.lost.clear()
        await shared.client.revoke("session", session)
        answered_s = time.monotonic()
        with pytest.raises(ConnectionClosed) as end:
            await asyncio.wait_for(socket.recv(), DEADLINE_S)
        await asyncio.wait_for(stage.lost.wait(), DEADLINE_S)
        assert time.monotonic() - answered_s < LIMIT_S
    assert end.value.rcvd is not None
    assert (end.value.rcvd.code, end.value.rcvd.reason) == (1008, "session_revoked")


async def test_each_route_has_its_service_its_audience_and_its_scopes(shared: Running, stage: Stage) -> None:
    _, plain = await _subject(shared)
    _, admin = await _subject(shared, scope=("admin",))
    _, other = await _subject(shared, OTHER, ("read",))
    for path in ("/admin", "/admin/", "/admin/x", "/ADMIN", "/Admin/x", "/%61dmin", "/adm%69n/x?y"):
        assert await _status(stage.url, path, plain) == 403
        assert await _status(stage.url, path, admin) == 200
    for path in ("/other", "/other/x", "/%6Fther/x"):
        assert await _status(stage.url, path, plain) == 401
        assert await _status(stage.url, path, other) == 200
    for path in ("/others", "/admin%3fx", "/x/admin"):
        assert await _status(stage.url, path, plain) == 200
        assert await _status(stage.url, path, other) == 401
        assert f"GET {path}" in stage.here.requests
    assert stage.there.requests == ["GET /other", "GET /other/x", "GET /%6Fther/x"]


async def test_a_revocation_reaches_every_audience(shared: Running, stage: Stage) -> None:
    session, token = await _subject(shared)
    elsewhere = await shared.client.issue_mandate(session, ELSEWHERE)
    assert await _status(stage.url, "/", token) == 200
    assert await _status(stage.url, "/elsewhere", elsewhere) == 200
    await shared.client.revoke("session", session)

    async def ended() -> bool:
        return (await _status(stage.url, "/", token), await _status(stage.url, "/elsewhere", elsewhere)) == (401, 401)

    await until(ended, "both are refused")


@pytest.mark.parametrize(
    ("path", "host", "resource"),
    [
        ("", "api.example", "https://api.example"),
        ("", "elsewhere.example", "https://elsewhere.example"),
        ("/other", "api.example", "https://api.example/other"),
        ("/other", "127.0.0.1:80", "https://api.example/other"),
    ],
)
async def test_each_resource_says_who_mints_its_tokens(
    shared: Running, stage: Stage, path: str, host: str, resource: str
) -> None:
    async with Client.of(stage.url) as client:
        client.send(f"GET /.well-known/oauth-protected-resource{path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        status, answer = await client.answer()
    assert status == 200
    said = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (said["resource"], said["authorization_servers"]) == (resource, [shared.url])
    assert said.get("scopes_supported") == (["read"] if resource == OTHER else None)


@pytest.mark.parametrize(
    ("routes", "sentence"),
    [
        ([{"upstream": "ftp://x"}], "an upstream is an http"),
        ([{"upstream": "http://x/path"}], "an upstream is an http"),
        ([{"upstream": "http://user:secret@x"}], "an upstream is an http"),
        ([{"path": "api"}], "a route's path begins with a slash"),
        ([{"path": "/a/../b"}], "a route's path begins with a slash"),
        ([{"path": "/a%20b"}], "a route's path begins with a slash"),
        ([{"path": "/a"}, {"path": "/a/"}], "two routes have the path"),
        ([{"required_scopes": ("a b",)}], "a required scope is one"),
        ([{"max_staleness_s": 1.0}], "max_staleness_s is over 2 seconds"),
        ([], "a gateway has a route"),
    ],
)
async def test_what_cannot_work_is_said_at_the_start(
    shared: Running, routes: list[dict[str, Any]], sentence: str
) -> None:
    made = [RouteSettings(**{"upstream": "http://127.0.0.1:9", "audience": AUDIENCE} | route) for route in routes]
    with pytest.raises(ConfigurationError, match=sentence) as refused:
        async with _gateway(shared, *made):
            pass
    assert "secret" not in str(refused.value)


@contextmanager
def _verb(*words: str | Path) -> Iterator[tuple[str, Any]]:
    """Run `countermand gateway`; give its URL, and the process."""
    with running_verb("gateway", "--port", "0", *words) as process:
        said = lines_until(process, "forwards")
        yield said[0].split()[1], process


async def test_the_command_forwards_and_stops_when_it_is_asked_to(shared: Running) -> None:
    async with listening(tick) as upstream:
        words = ("--upstream", upstream, "--audience", AUDIENCE, "--data-dir", shared.data.path)
        with _verb(*words) as (url, process):
            _, token = await _subject(shared)
            await _ready(url, "/", token)
            async with Client.of(url) as client:
                client.send(_get("/", token, "connection: close\r\n"))
                process.send_signal(signal.SIGTERM)
                assert (await client.rest()).startswith((b"HTTP/1.1 200 ", b""))
            await until(lambda: process.poll() is not None, "the gateway stops")
            assert process.returncode == 0


async def test_what_is_under_way_at_the_stop_has_its_grace(shared: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "GRACE_S", 1)
    begun, stopping = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if head.startswith(b"GET /slow"):
                begun.set()
                await stopping.wait()
            writer.write(OK)

    async with listening(slow) as upstream, listening(tick) as endless, AsyncExitStack() as stack:
        routes = (
            RouteSettings(upstream=upstream, audience=AUDIENCE),
            RouteSettings(path="/stream", upstream=endless, audience=AUDIENCE),
        )
        url = await stack.enter_async_context(_gateway(shared, *routes))
        _, token = await _subject(shared)
        await _ready(url, "/", token)
        async with Client.of(url) as one, Client.of(url) as other:
            one.send(_get("/slow", token))
            other.send(_get("/stream", token))
            await asyncio.wait_for(begun.wait(), DEADLINE_S)
            await other.head()
            stop = asyncio.create_task(stack.aclose())
            await until(lambda: _refuses(url), "nobody is let in any more")
            stopping.set()
            assert (await one.answer())[0] == 200
            assert not (await other.rest()).endswith(b"0\r\n\r\n")
            await asyncio.wait_for(stop, DEADLINE_S)


async def _refuses(url: str) -> bool:
    try:
        async with Client.of(url):
            return False
    except ConnectionError:
        return True


async def test_routes_come_from_a_file(shared: Running, tmp_path: Path) -> None:
    service = Recorder()
    async with listening(service) as upstream:
        config = tmp_path / "gateway.toml"
        config.write_text(f'[[route]]\npath = "/notes"\nupstream = "{upstream}"\naudience = "{AUDIENCE}"\n')
        with _verb("--config", config, "--data-dir", shared.data.path) as (url, _process):
            _, token = await _subject(shared)
            await _ready(url, "/notes", token)
            assert await _status(url, "/", token) == 404
            assert await _status(url, "/notesandmore", token) == 404


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "needs --upstream and --audience"),
        (("--upstream", "http://127.0.0.1:9"), "needs --upstream and --audience"),
        (("--config", "none.toml"), "none.toml cannot be read"),
        (("--config", "none.toml", "--scope", "read"), "the routes are in the file"),
        (("--upstream", "http://127.0.0.1:9", "--audience", "x", "--data-dir", "nowhere"), "no authority has run"),
        (("--upstream", "http://127.0.0.1:9", "--audience", "x", "--url", "redis://127.0.0.1:9"), "name the issuer"),
    ],
)
async def test_the_command_says_what_is_missing(words: tuple[str, ...], sentence: str) -> None:
    ended = await typed("gateway", *words)
    assert ended.returncode == 2
    assert sentence in ended.stderr
