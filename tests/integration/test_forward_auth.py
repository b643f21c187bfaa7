"""Forward auth as it is run: the command, on real sockets, beside an authority; and clients that do not behave."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import httpx2
import pytest

from countermand.cli.client import AuthorityClient
from countermand.enforce.forward_auth import ForwardAuth
from countermand.enforce.identity import NOBODY
from countermand.errors import ConfigurationError
from countermand.settings import DataDir, ReplicaSettings
from countermand.transport.http import open_client
from countermand.wiring import protocols
from countermand.wiring.protocols import MAX_HEAD_BYTES, HeadsOnly
from countermand.wiring.serve import bound, serving
from tests.integration.behind_proxies import BEARER, Head, request
from tests.integration.commands import lines_until, running, typed
from tests.integration.rooms import AUDIENCE
from tests.redis_server import free_port
from tests.running import DEADLINE_S, ServerProcess, until
from tests.signer import Signer
from tests.unit.guarded import TOKEN_TEXT, guard

pytestmark = pytest.mark.anyio

STALE_S = "2.5"
LIMIT_S = 0.2


@asynccontextmanager
async def command_beside(
    server: ServerProcess, *options: str, told: list[str] | None = None
) -> AsyncIterator[httpx2.AsyncClient]:
    """Run `countermand forward-auth` beside an authority; give a client of it. What it says later is in `told`."""
    words = ("--audience", AUDIENCE, "--port", "0", *options)
    with running("forward-auth", "--data-dir", server.data.path, *words) as process:
        said = await asyncio.to_thread(lines_until, process, "forward auth")
        assert process.stdout is not None
        reading = asyncio.create_task(asyncio.to_thread(([] if told is None else told).extend, process.stdout))
        async with open_client(10, url=said[-1].split()[-1]) as http:
            yield http
        process.terminate()
        assert await asyncio.to_thread(process.wait, DEADLINE_S) == 0
        await reading


def answers(http: httpx2.AsyncClient, token: str, status: int, error: str = "") -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        answer = await http.get("/", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code in {200, 401, 403}
        assert set(NOBODY) <= set(answer.headers)
        return answer.status_code == status and answer.headers.get("x-countermand-error", "") == error

    return asked


async def test_the_command_lets_pass_what_is_good_and_refuses_what_is_revoked_and_what_it_cannot_know(
    tmp_path: Path,
) -> None:
    async with (
        ServerProcess(tmp_path) as server,
        AuthorityClient.open(server.client_settings()) as admin,
        command_beside(server, "--max-staleness", STALE_S) as http,
        command_beside(server, "--scope", "read", "--scope", "write") as stricter,
    ):
        application = await admin.create_application("behind a proxy")
        sessions = [await admin.open_session(application["id"], name) for name in ("alice", "bob")]
        alice, bob = [await admin.issue_mandate(session["id"], AUDIENCE) for session in sessions]
        await until(answers(http, alice, 200), "the replica is ready")
        passed = await http.get("/", headers={"authorization": f"Bearer {alice}"})
        assert passed.headers["x-countermand-subject"] == "alice"
        assert passed.headers["x-countermand-session-id"] == sessions[0]["id"]
        await until(answers(stricter, alice, 403, "insufficient_scope"), "the other one needs scopes")

        await admin.revoke("session", sessions[0]["id"])
        await until(answers(http, alice, 401, "session_revoked"), "the revoked session is refused")
        assert (await http.get("/", headers={"authorization": f"Bearer {bob}"})).status_code == 200

        server.kill()
        await until(answers(http, bob, 403, "revocation_unavailable"), "without an authority nobody is let in")
        assert await answers(http, alice, 401, "session_revoked")()


async def test_the_command_says_what_it_refuses_and_can_be_scraped(tmp_path: Path) -> None:
    port, told = free_port(), list[str]()
    async with (
        ServerProcess(tmp_path) as server,
        AuthorityClient.open(server.client_settings()) as admin,
        command_beside(server, "--metrics-port", str(port), told=told) as http,
        open_client(10, url=f"http://127.0.0.1:{port}") as prometheus,
    ):
        application = await admin.create_application("behind a proxy")
        session = await admin.open_session(application["id"], "alice")
        token = await admin.issue_mandate(session["id"], AUDIENCE)
        await until(answers(http, token, 200), "the replica is ready")
        refused = await http.get("/", headers={"authorization": "Bearer nonsense"})
        scraped = (await prometheus.get("/metrics")).text

    counted = re.findall(r'countermand_decisions_total\{(.*outcome="denied".*)\} (.*)', scraped)
    assert any('code="invalid_token"' in labels and float(count) == 1 for labels, count in counted)
    assert "countermand_staleness_seconds" in scraped
    assert "process_resident_memory_bytes" in scraped
    lines = [json.loads(line)["decision"] for line in told if line.startswith("{")]
    (denied,) = [line for line in lines if line["request_id"] == refused.headers["x-request-id"]]
    assert (denied["outcome"], denied["code"], denied["status"]) == ("denied", "invalid_token", 401)
    assert token.split(".")[1] not in "".join(told) + scraped


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "--audience"),
        (("--audience", AUDIENCE, "--max-staleness", "2"), "max_staleness is over 2 seconds"),
        (("--audience", AUDIENCE, "--url", "redis://127.0.0.1"), "name the issuer with --issuer"),
        (("--audience", AUDIENCE, "--url", "http://127.0.0.1:1"), "a replica needs an API key and a pin"),
        (("--audience", AUDIENCE, "--metrics-port", "1", "--host", "192.0.2.1"), "cannot be listened on"),
        (("--audience", AUDIENCE, "--scope", "two words"), "a required scope is one printable ASCII word"),
        (("--audience", AUDIENCE), "no authority has run in"),
    ],
)
async def test_what_cannot_work_is_said_at_the_start(tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    data = DataDir(tmp_path)
    if words[2:]:
        for path, text in {
            data.url: "http://127.0.0.1:1",
            data.replica_key: "key",
            data.pin: str(Signer().pin),
        }.items():
            path.write_text(text)
    done = await typed("forward-auth", "--data-dir", tmp_path, *words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_key_of_the_data_directory_goes_to_the_authority_that_is_there(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    for path, text in {data.url: "http://127.0.0.1:8420", data.replica_key: "key", data.pin: "pin"}.items():
        path.write_text(text + "\n")
    here = ReplicaSettings.read(None, None, tmp_path, {})
    assert (here.url, here.issuer, here.api_key, here.pin) == (here.url, "http://127.0.0.1:8420", "key", "pin")
    assert "key" not in repr(here).replace("api_key", "")
    there = ReplicaSettings.read("https://authority.example", None, tmp_path, {})
    assert (there.issuer, there.api_key, there.pin) == ("https://authority.example", None, None)
    environ = {"COUNTERMAND_URL": "rediss://r", "COUNTERMAND_ISSUER": "https://i.example", "COUNTERMAND_PIN": "p"}
    named = ReplicaSettings.read(None, None, tmp_path, environ)
    assert (named.url, named.issuer, named.api_key, named.pin) == ("rediss://r", "https://i.example", None, "p")
    with pytest.raises(ConfigurationError, match="--issuer"):
        ReplicaSettings.read("rediss://r", None, tmp_path, {})


SMALL_BYTES = 4_096


@asynccontextmanager
async def connected(
    protocol: type[HeadsOnly] = HeadsOnly,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Give a raw connection to forward auth, as it is served; what the two send is soon too much for its buffers."""
    with bound("127.0.0.1", 0) as (listener, _), socket.socket() as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
        client.connect(listener.getsockname())
        async with serving(ForwardAuth(guard()), listener, protocol), asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection(sock=client)
            try:
                yield reader, writer
            finally:
                writer.close()


async def passes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *lines: bytes) -> None:
    """Ask on a connection that goes on."""
    writer.write(request(BEARER, *lines, close=False))
    head = Head.of(await reader.readuntil(b"\r\n\r\n"))
    assert (head.status, head.all("x-countermand-subject"), head.all("content-length")) == (200, [b"alice"], [b"0"])


async def test_one_connection_serves_question_after_question_whatever_they_offer() -> None:
    async with connected() as (reader, writer):
        for lines in ((), (b"Connection: Upgrade", b"Upgrade: websocket"), (b"Expect: 100-continue",), ()):
            await passes(reader, writer, *lines)


class Noting(HeadsOnly):
    """One that notes whether it could answer as a whole."""

    answered: ClassVar[list[bool]] = []

    def _answer_whole(self, lines: bytes) -> bool:
        self.answered.append(super()._answer_whole(lines))
        return self.answered[-1]


async def test_whoever_asks_much_at_once_is_answered_in_turn_and_has_to_read() -> None:
    count = 2_000
    Noting.answered.clear()
    async with connected(Noting) as (reader, writer):
        for number in range(count):
            writer.write(request(BEARER, f"X-Request-Id: {number}".encode(), close=number == count - 1))
        await until(lambda: False in Noting.answered, "it waits for the client to read")
        assert len(Noting.answered) < count
        heads = [Head.of(head) for head in (await reader.read()).split(b"\r\n\r\n")[:-1]]
    assert [head.all("x-request-id") for head in heads] == [[b"%d" % number] for number in range(count)]
    assert {head.status for head in heads} == {200}
    assert [head.all("connection") for head in heads] == [[]] * (count - 1) + [[b"close"]]


async def pour(writer: asyncio.StreamWriter) -> None:
    """Send what never ends, until the connection is closed."""
    for _ in range(1_000):
        writer.write(b"a" * MAX_HEAD_BYTES)
        await writer.drain()


async def test_a_head_that_never_ends_closes_the_connection() -> None:
    for begun in (b"GET / HTTP/1.1\r\nx-long: ", b"GET / HTTP/1.1\r\n", b"GET /"):
        async with connected() as (reader, writer):
            await passes(reader, writer)
            writer.write(begun)
            with pytest.raises(ConnectionError):
                await pour(writer)


async def test_a_long_token_still_has_room() -> None:
    async with connected() as (reader, writer):
        for part in (b"GET / HTTP/1.1\r\nHost: x\r\nx-long: ", b"a" * 60_000, b"\r\n" + BEARER + b"\r\n\r\n"):
            writer.write(part)
            await writer.drain()
        assert Head.of(await reader.readuntil(b"\r\n\r\n")).status == 200


async def test_a_body_is_read_by_nobody_and_has_an_end() -> None:
    async with connected() as (reader, writer):
        await passes(reader, writer, b"Content-Length: 1000000000")
        with pytest.raises(ConnectionError):
            await pour(writer)


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_who_does_not_go_on_is_let_go(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "HEAD_S", LIMIT_S)
    async with connected() as (reader, writer):
        writer.write(begun)
        assert await reader.read() == b""
    async with connected() as (reader, writer):
        await passes(reader, writer)
        writer.write(begun or b"G")
        assert await reader.read() == b""


async def test_what_is_no_http_is_no_question() -> None:
    async with connected() as (reader, writer):
        writer.write(b"\x16\x03\x01" + TOKEN_TEXT.encode() + b"\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
