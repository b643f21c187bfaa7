"""`explain`, on the log of a real server that follows a real authority."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from countermand.enforce.trace import JsonLines, Outcome, Record
from countermand.transport.http import open_client
from countermand.wiring.serve import bound, serving
from tests.integration.commands import in_a_thread, typed
from tests.integration.rooms import AUDIENCE
from tests.running import DEADLINE_S, Running, until

pytestmark = pytest.mark.anyio

CUT = "session_revoked"
NOWHERE = {"COUNTERMAND_DATA_DIR": "/nowhere"}
"""No authority is configured."""


async def _ticks() -> AsyncIterator[bytes]:
    while True:
        yield b"tick\n"
        await asyncio.sleep(0.01)


async def _stream(_request: Request) -> StreamingResponse:
    return StreamingResponse(_ticks())


async def _greet(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.scope["countermand.request_id"])


@asynccontextmanager
async def service_of(running: Running) -> AsyncIterator[httpx2.AsyncClient]:
    """Give a client of a server that is guarded as the README shows."""
    app = running.guard(AUDIENCE).asgi(Starlette(routes=[Route("/", _greet), Route("/stream", _stream)]))
    with bound("127.0.0.1", 0) as (listener, url):
        async with serving(app, listener), open_client(10, url=url) as http:
            yield http


@pytest.fixture
def log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Path]:
    """The service's own log, at DEBUG, with the lines of others between."""
    path = tmp_path / "service.log"
    caplog.set_level(logging.DEBUG)
    handler = logging.FileHandler(path)
    handler.setFormatter(JsonLines())
    logging.getLogger().addHandler(handler)
    yield path
    logging.getLogger().removeHandler(handler)
    handler.close()


async def _mandate(running: Running) -> tuple[str, str]:
    application = await running.client.create_application("notes")
    session = await running.client.open_session(application["id"], "alice")
    return session["id"], await running.client.issue_mandate(session["id"], AUDIENCE)


async def _let_in(http: httpx2.AsyncClient, headers: dict[str, str]) -> None:
    async def passes() -> bool:
        return (await http.get("/", headers=headers)).status_code == 200

    await until(passes, "the service lets the mandate in")


async def _refused(http: httpx2.AsyncClient, headers: dict[str, str]) -> str:
    """Call until that is refused; return the id of that answer."""
    answers: list[httpx2.Response] = []

    async def refuses() -> bool:
        answers.append(await http.get("/", headers=headers))
        return answers[-1].status_code == 401

    await until(refuses, "the revocation is enforced")
    return answers[-1].headers["x-request-id"]


def _holds(log: Path, *secrets: str) -> bool:
    written = log.read_text()
    return any(secret in written for secret in secrets)


async def test_a_revoked_call_is_explained_by_the_id_of_its_answer(running: Running, log: Path) -> None:
    session, token = await _mandate(running)
    headers = {"authorization": f"Bearer {token}"}
    async with service_of(running) as http, asyncio.timeout(2 * DEADLINE_S):
        await _let_in(http, headers)
        passed = await http.get("/", headers=headers | {"x-request-id": "good-1"})
        assert passed.text == passed.headers["x-request-id"] == "good-1"
        entry = await running.client.revoke("session", session, "the laptop was stolen")
        id_ = await _refused(http, headers)

        told = await typed("explain", id_, "--log", log, "--data-dir", running.data.path)
        as_json = await typed("explain", id_, "--json", "--log", log, "--data-dir", running.data.path)
        alone = await in_a_thread("explain", id_, given=await asyncio.to_thread(log.read_text), **NOWHERE)
        before = await typed("explain", "good-1", "--log", log)

    lines = [line.strip() for line in told.stdout.splitlines()]
    assert lines[0].endswith("denied: 401 session_revoked")
    why = f"the token rests on session {session}, which is ended: entry {entry['seq']} of the ledger ends it"
    assert lines[1:3] == [f"why     {why}", "reason  the laptop was stolen"]
    assert lines[3].startswith("known   what was known of revocations was ")
    assert lines[4].endswith(f", session {session}")
    assert lines[5] == "helps   do not use the token again: start a new session"
    record = json.loads(as_json.stdout)
    assert (record["seq"], record["anchor_id"]) == (entry["seq"], session)
    assert record["revocation_reason"] == "the laptop was stolen"
    without_reason = [line for line in told.stdout.splitlines() if "stolen" not in line]
    assert (alone.returncode, alone.stderr, alone.stdout.splitlines()) == (0, "", without_reason)
    assert "let in" in before.stdout
    assert _holds(log, id_)
    assert not _holds(log, *token.split(".")[1:], running.replica_key.split("_")[2])


async def test_a_stream_that_was_cut_is_explained_by_the_id_that_it_began_with(running: Running, log: Path) -> None:
    session, token = await _mandate(running)
    headers = {"authorization": f"Bearer {token}", "x-request-id": "stream-1"}
    async with service_of(running) as http, asyncio.timeout(2 * DEADLINE_S):
        await _let_in(http, {"authorization": f"Bearer {token}"})
        async with http.stream("GET", "/stream", headers=headers) as response:
            assert response.headers["x-request-id"] == "stream-1"
            await running.client.revoke("session", session)
            with pytest.raises(httpx2.RemoteProtocolError):
                await response.aread()
    told = await typed("explain", "stream-1", "--log", log)
    heads = [line.partition("Z  ")[2] for line in told.stdout.splitlines() if not line.startswith(" ")]
    assert heads == ["let in", "cut, while it was in flight: 401 session_revoked"]
    assert f"the token rests on session {session}" in told.stdout


def _log_of(path: Path, **fields: object) -> Path:
    record = Record(request_id="job-1", outcome=Outcome.DENIED, at_ms=1_764_365_400_000).to_fields() | fields
    path.write_text(json.dumps({"decision": record}) + "\n")
    return path


async def test_a_replica_that_had_not_heard_is_told_in_words(tmp_path: Path) -> None:
    stale = {"code": "revocation_unavailable", "status": 503, "reason": "stale", "staleness_ms": 42_000}
    told = await typed("explain", "job-1", "--log", _log_of(tmp_path / "log", max_staleness_s=5, **stale))
    assert (told.returncode, told.stdout.splitlines()) == (
        0,
        [
            "2025-11-28T21:30:00Z  denied: 503 revocation_unavailable",
            "  why     the replica had not heard from the authority for 42 s; the request allows 5 s",
            "  known   what was known of revocations was 42.0 s old",
            "  helps   the token may be good: try again in a second",
        ],
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"code": "insufficient_scope", "status": 403, "reason": "required_scopes=admin"}, "required_scopes=admin"),
        ({"code": "invalid_token", "status": 401, "reason": "expired_token"}, "expired token"),
        ({"code": "keys_unavailable", "status": 503}, "the keys of the issuer could not be had"),
        ({"code": "revocation_unavailable", "status": 503, "reason": "store_timeout"}, "did not answer in time"),
        (
            {"anchor_kind": "cutoff", "anchor_id": "all", "seq": 3, "status": 401, "code": CUT},
            "a cutoff for everybody: entry 3",
        ),
        ({"anchor_kind": "session", "anchor_id": "ses_1", "status": 401, "code": CUT}, "the revocation store says so"),
        (
            {"anchor_kind": "grant", "anchor_id": "g", "anchor_issuer": "https://i", "code": CUT, "status": 401},
            "g of https://i",
        ),
        ({"code": "of_tomorrow", "status": 418, "reason": "tea"}, "tea"),
    ],
)
async def test_every_denial_is_told(fields: dict[str, object], words: str, tmp_path: Path) -> None:
    told = await typed("explain", "job-1", "--log", _log_of(tmp_path / "log", **fields))
    assert told.returncode == 0
    assert f"denied: {fields['status']} {fields['code']}" in told.stdout
    assert words in told.stdout


async def test_what_a_stranger_wrote_into_the_log_moves_no_cursor_and_shows_no_token(tmp_path: Path) -> None:
    token = f"eyJ{'a' * 40}.{'b' * 40}.{'c' * 40}"
    log = _log_of(tmp_path / "log", reason="\x1b[2J\n\u202e", session_id=token, token_id=token)
    told = await typed("explain", "job-1", "--log", log)
    as_json = await typed("explain", "job-1", "--json", "--log", log)
    for printed in (told.stdout, as_json.stdout):
        assert not {"\x1b", "\u202e"} & set(printed)
        assert token not in printed
    assert "\\x1b[2J\\n\\u202e" in told.stdout


async def test_a_log_that_says_nothing_of_it_ends_with_1(tmp_path: Path) -> None:
    told = await typed("explain", "job-2", "--log", _log_of(tmp_path / "log"))
    assert (told.returncode, told.stdout, told.stderr.strip()) == (1, "", "the log says nothing of job-2")


async def test_what_is_no_id_and_what_is_no_log_is_a_wrong_use(tmp_path: Path) -> None:
    token = f"eyJ{'a' * 40}.{'b' * 40}.{'c' * 40}"
    for words in ((token,), ("a b",), ("job-1", "--log", tmp_path / "none"), ("job-1", "--data-dir", tmp_path)):
        done = await typed("explain", *words)
        assert done.returncode == 2
        assert token not in done.stderr + done.stdout


async def test_an_authority_that_does_not_answer_takes_away_the_reason_alone(running: Running, tmp_path: Path) -> None:
    log = _log_of(tmp_path / "log", anchor_kind="session", anchor_id="ses_1", seq=1, code="session_revoked", status=401)
    log.write_text(log.read_text() * 3)
    running.data.admin_key.write_text("cmk_none_none")
    told = await typed("explain", "job-1", "--log", log, "--data-dir", running.data.path)
    assert (told.returncode, told.stdout.count("entry 1 of the ledger ends it")) == (0, 3)
    assert told.stderr.count("the authority does not tell reasons") == 1


async def test_an_entry_that_is_about_something_else_gives_no_reason(running: Running, tmp_path: Path) -> None:
    entry = await running.client.revoke("session", "ses_other", "another story", bare=True)
    for seq in (entry["seq"], entry["seq"] + 1):
        await _gives_no_reason(running, tmp_path, seq)


async def _gives_no_reason(running: Running, tmp_path: Path, seq: int) -> None:
    fields = {"anchor_kind": "session", "anchor_id": "ses_1", "seq": seq}
    told = await typed(
        "explain", "job-1", "--log", _log_of(tmp_path / "log", **fields), "--data-dir", running.data.path
    )
    assert (told.returncode, told.stderr) == (0, "")
    assert "another story" not in told.stdout


async def test_the_reason_of_a_cutoff_is_told(running: Running, log: Path) -> None:
    _, token = await _mandate(running)
    headers = {"authorization": f"Bearer {token}", "x-request-id": "cut-1"}
    async with service_of(running) as http, asyncio.timeout(2 * DEADLINE_S):
        await _let_in(http, {"authorization": headers["authorization"]})
        await running.client.cut_off("subject:alice", reason="she left")
        assert await _refused(http, headers) == "cut-1"
    told = await typed("explain", "cut-1", "--log", log, "--data-dir", running.data.path)
    assert "the token rests on subject alice" in told.stdout
    assert "  reason  she left" in told.stdout.splitlines()
