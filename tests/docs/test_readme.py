"""The README's Python runs as it stands there; only the port is a free one."""

import re
from pathlib import Path
from typing import Annotated, Any

import biscuit_auth
import httpx2
import pytest
from fastapi import FastAPI, Security
from fastmcp import FastMCP
from flask import Flask
from mcp.server.mcpserver import MCPServer

import countermand
from countermand.tokens.mandate import Mandate
from tests.integration.commands import typed
from tests.running import authority_running, until
from tests.unit.guarded import TOKEN_TEXT, guard
from tests.unit.mandates import AUDIENCE, claims_json, sign

README = Path(__file__).parent.parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def block(beginning: str) -> str:
    (found,) = (text for text in BLOCKS if text.startswith(beginning))
    return str(found)


async def test_every_block_is_run_by_a_test_here() -> None:
    assert {text.splitlines()[0] for text in BLOCKS} == {
        "import countermand",
        "import logging",
        "from countermand import Biscuits",
        "from caracalai_revocation import InMemoryRevocationStore",
        "from countermand.enforce.fastapi import protect",
        "from countermand.enforce.mcp import MandateVerifier, auth_settings",
        "from countermand.enforce.fastmcp import MandateAuth",
        "from countermand.enforce.wsgi import requires",
    }


@pytest.mark.parametrize(("listed", "code"), [("", None), ("this", "session_revoked")])
async def test_biscuits_are_taken_as_shown(monkeypatch: pytest.MonkeyPatch, listed: str, code: str | None) -> None:
    pair = biscuit_auth.KeyPair()
    builder = biscuit_auth.BiscuitBuilder('user("alice"); right("alice", "/notes", "read")')
    token = builder.build(pair.private_key)
    monkeypatch.setenv("COUNTERMAND_REVOKED_IDS", token.revocation_ids[0] if listed else "")
    names: dict[str, Any] = {"countermand": countermand, "root_key": repr(pair.public_key)}
    exec(block("from countermand import Biscuits"), names)  # noqa: S102 - the README is ours

    decision = await names["guard"].decide(token.to_base64(), facts={"method": "GET", "path": "/notes"})

    assert getattr(decision, "code", None) == code


async def test_the_documented_store_works_as_shown() -> None:
    exec(block("from caracalai_revocation"), {})  # noqa: S102 - the README is ours


async def test_decisions_are_written_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block("import logging"), names)  # noqa: S102 - the README is ours
    logger = names["decisions"]
    try:
        decision = await guard().decide(None, request_id="job-1")
    finally:
        logger.removeHandler(names["handler"])
        logger.setLevel("NOTSET")
        names["handler"].close()
    assert not decision
    told = await typed("explain", "job-1", "--log", tmp_path / "service.log")
    assert "denied: 401 missing_token" in told.stdout


async def hello(scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["countermand.mandate"].subject.encode()})


async def test_three_lines_protect_an_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with authority_running(tmp_path) as running:
        monkeypatch.setenv("COUNTERMAND_API_KEY", running.replica_key)
        monkeypatch.setenv("COUNTERMAND_PIN", str(running.authority.pin))
        names: dict[str, Any] = {"app": hello}
        shown = block("import countermand")
        assert "http://127.0.0.1:8420" in shown
        exec(shown.replace("http://127.0.0.1:8420", running.url), names)  # noqa: S102 - ours, on a free port
        authority = running.client
        async with (
            names["guard"] as guard,
            httpx2.AsyncClient(transport=httpx2.ASGITransport(names["app"]), base_url="http://service") as service,
        ):
            application = await authority.create_application("readme")
            session = await authority.open_session(application["id"], "alice")
            token = await authority.issue_mandate(session["id"], "resource://api")
            headers = {"authorization": f"Bearer {token}"}

            async def answers(status: int) -> bool:
                return (await service.get("/", headers=headers)).status_code == status

            assert guard is names["guard"]
            await until(lambda: answers(200), "the application lets the mandate in")
            await authority.revoke("session", session["id"], "the README said so")
            await until(lambda: answers(401), "the application rejects the mandate")


async def answers(app: Any, method: str, path: str, **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=AUDIENCE) as http:
        return await http.request(method, path, headers=headers)


async def test_a_fastapi_app_is_protected_route_by_route() -> None:
    app = FastAPI()
    names: dict[str, Any] = {"app": app, "guard": guard(), "Annotated": Annotated}
    exec(block("from countermand.enforce.fastapi"), names | {"Mandate": Mandate, "Security": Security})  # noqa: S102 - ours
    good = sign(claims_json(scope="notes:read"))
    for token, status in ((good, 200), (TOKEN_TEXT, 403), ("nonsense", 401)):
        answer = await answers(app, "GET", "/notes", authorization=f"Bearer {token}")
        assert answer.status_code == status
    assert (await answers(app, "GET", "/notes", authorization=f"Bearer {good}")).json() == "the notes of alice"


@pytest.mark.parametrize(
    ("beginning", "names"),
    [
        ("from countermand.enforce.mcp", {"MCPServer": MCPServer}),
        ("from countermand.enforce.fastmcp", {"FastMCP": FastMCP}),
    ],
)
async def test_an_mcp_server_is_protected(beginning: str, names: dict[str, Any]) -> None:
    names = names | {"guard": guard(audience=f"{AUDIENCE}/mcp")}
    exec(block(beginning), names)  # noqa: S102 - ours
    app = names.get("app") or names["server"].http_app()
    refused = await answers(app, "POST", "/mcp", authorization="Bearer nonsense")
    metadata = await answers(app, "GET", "/.well-known/oauth-protected-resource/mcp")
    assert refused.json()["error"] == "invalid_token"
    assert str(metadata.url) in refused.headers["www-authenticate"]
    assert metadata.json()["resource"] == f"{AUDIENCE}/mcp"


def test_a_flask_app_is_protected() -> None:
    app, guarding = Flask("notes"), guard()
    exec(block("from countermand.enforce.wsgi"), names := {"app": app, "guard": guarding})  # noqa: S102 - ours
    client = app.test_client()

    @app.get("/notes")
    @names["requires"](guarding, required_scopes=["notes:read"])  # type: ignore[untyped-decorator,operator]
    def notes() -> str:
        return "notes"

    try:
        for token, status in ((sign(claims_json(scope="notes:read")), 200), (TOKEN_TEXT, 403), ("nonsense", 401)):
            assert client.get("/notes", headers={"authorization": f"Bearer {token}"}).status_code == status
    finally:
        guarding.close()
