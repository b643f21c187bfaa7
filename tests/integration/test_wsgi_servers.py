"""WSGI apps behind the guard on real servers: Flask on a server with a thread for each request; services that fork."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.simple_server import make_server as make_plain_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import httpx2
import pytest
from werkzeug.serving import make_server as make_werkzeug_server

from countermand.transport.http import open_client
from tests.examples import EXAMPLES, SERVICE, run_text
from tests.integration import forking
from tests.integration.commands import environ
from tests.integration.streams import LIMIT_S, Reader, new_subject
from tests.running import DEADLINE_S, Running, until

pytestmark = pytest.mark.anyio


class _ThreadingServer(ThreadingMixIn, WSGIServer):
    pass


class _Silent(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _werkzeug(app: WSGIApplication) -> Any:
    return make_werkzeug_server("127.0.0.1", 0, app, threaded=True)


def _wsgiref(app: WSGIApplication) -> Any:
    return make_plain_server("127.0.0.1", 0, app, _ThreadingServer, _Silent)


@contextmanager
def _running(server: Any) -> Iterator[str]:
    """Run a server in a thread; give its URL. In the end it waits for its requests: who asks late wakes the guard."""
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@asynccontextmanager
async def _flask_example(running: Running) -> AsyncIterator[httpx2.AsyncClient]:
    """Serve the example; give a client."""
    names = run_text((EXAMPLES / "flask_app.py").read_text("utf-8"), running, SERVICE, __name__="flask_app")
    with _running(_werkzeug(names["app"])) as url:
        async with open_client(10, url=url) as http:
            yield http
    await asyncio.to_thread(names["guard"].close)


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_the_first_request_passes_and_none_after_the_revocation(
    shared: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with _flask_example(shared) as http:
        session, token = await new_subject(shared, "alice", SERVICE)
        _, writing = await new_subject(shared, "bob", SERVICE, ["notes:write"])

        first = await http.get("/whoami", headers=_bearer(token))
        assert (first.status_code, first.text) == (200, "alice")
        assert (await http.get("/whoami")).json()["error"] == "missing_token"
        refused = await http.post("/notes", headers=_bearer(token))
        assert (refused.status_code, refused.json()["error"]) == (403, "insufficient_scope")
        assert 'scope="notes:write"' in refused.headers["www-authenticate"]
        assert (await http.post("/notes", headers=_bearer(writing))).status_code == 201

        await shared.client.revoke("session", session, "the test")
        await until(_answers(http, token, "session_revoked"), "it is refused", LIMIT_S)
        assert (await http.post("/notes", headers=_bearer(writing))).status_code == 201
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def _answers(http: httpx2.AsyncClient, token: str, code: str) -> Callable[[], Any]:
    async def answers() -> bool:
        answer = await http.get("/whoami", headers=_bearer(token))
        return answer.status_code == 401 and bool(answer.json()["error"] == code)

    return answers


async def test_a_stream_is_cut_when_the_revocation_is_answered_and_another_goes_on(
    shared: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with _flask_example(shared) as http, asyncio.timeout(DEADLINE_S):
        (ended, ended_token), (_, good_token) = [await new_subject(shared, name, SERVICE) for name in ("alice", "bob")]
        cut, other = Reader(http, ended_token, "/ticks"), Reader(http, good_token, "/ticks")
        reading = [asyncio.create_task(reader.run()) for reader in (cut, other)]
        await until(lambda: min(cut.chunks, other.chunks) > 3, "both streams run")

        await shared.client.revoke("session", ended, "the test")
        answered_s = time.monotonic()
        await reading[0]

        took_s = cut.ended_s - answered_s
        assert took_s < LIMIT_S, f"{took_s * 1000:.0f} ms from the answer to the end of the stream"
        assert isinstance(cut.end, httpx2.RemoteProtocolError)
        assert "incomplete" in str(cut.end)
        before = other.chunks
        await until(lambda: other.chunks > before + 3, "the other stream goes on")
        reading[1].cancel()
        await asyncio.wait(reading)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("server", [_werkzeug, _wsgiref])
async def test_an_answer_of_a_length_ends_short_of_it(
    shared: Running, server: Callable[[WSGIApplication], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    guard = shared.guard(SERVICE)
    session, token = await new_subject(shared, "alice", SERVICE)
    begun, revoked = threading.Event(), threading.Event()

    def app(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("content-type", "text/plain"), ("content-length", "1000000")])
        for _ in range(1000):
            yield b"." * 1000
            begun.set()
            revoked.wait()

    async def is_refused() -> bool:
        return not await guard.decide(token)

    with _running(server(guard.wsgi(app))) as url:
        async with open_client(10, url=url) as http:
            reader = Reader(http, token)
            reading = asyncio.create_task(reader.run())
            await until(begun.is_set, "it has begun")
            await shared.client.revoke("session", session, "the test")
            await until(is_refused, "the replica knows it", LIMIT_S)
            revoked.set()
            await reading
    await asyncio.to_thread(guard.close)
    assert isinstance(reader.end, httpx2.RemoteProtocolError)
    assert capfd.readouterr().err.count("Traceback") == 0


class _Forking:
    """The service in `forking`, as a process."""

    def __init__(self, running: Running, used: str) -> None:
        known = {"COUNTERMAND_API_KEY": running.replica_key, "COUNTERMAND_PIN": running.data.pin.read_text().strip()}
        self._process = subprocess.Popen(
            [sys.executable, forking.__file__, running.url, SERVICE, used],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ(**known, PYTHONPATH=":".join(sys.path)),
        )

    async def serve(self, token: str) -> str:
        """Have one request served; return by whom, and with which status."""
        return await asyncio.to_thread(self._serve, token)

    def _serve(self, token: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{token}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    async def end(self) -> tuple[int, str]:
        """Wait for its end; return its exit code, and what it complained of."""
        _, complaints = await asyncio.to_thread(self._process.communicate, timeout=DEADLINE_S)
        return self._process.returncode, complaints


@pytest.mark.parametrize("used", ["used", "unused"])
async def test_a_service_that_forks_is_guarded_in_parent_and_child(shared: Running, used: str) -> None:
    (ended, ended_token), (_, good_token) = [await new_subject(shared, name, SERVICE) for name in ("alice", "bob")]
    before = len(await shared.authority.service.replicas.all())
    service = _Forking(shared, used)

    async def child_refuses() -> bool:
        return await service.serve(ended_token) == "child 401 Unauthorized"

    async with asyncio.timeout(DEADLINE_S):
        if used == "used":
            assert await service.serve(ended_token) == "before 200 OK"
        assert await service.serve(ended_token) == "child 200 OK"
        await shared.client.revoke("session", ended, "the test")
        await until(child_refuses, "the child follows the log", LIMIT_S)
        assert await service.serve(good_token) == "child 200 OK"
        assert await service.serve("") == "child 401 Unauthorized"
        assert await service.serve(good_token) == "parent 200 OK"
        assert await service.end() == (0, "")

    async def are_two() -> bool:
        return len(await shared.authority.service.replicas.all()) - before == 2

    await until(are_two, "each process is a replica of its own")
