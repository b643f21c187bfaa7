"""A FastAPI app whose routes say what they need: the example, over real HTTP and web sockets."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import Depends, FastAPI, Request, Response
from starlette.middleware.base import RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from countermand.enforce.fastapi import protect
from countermand.errors import ConfigurationError
from countermand.tokens.mandate import Mandate
from tests.examples import example_served
from tests.integration.agents import Agent, dying, open_agent
from tests.running import Running, authority_running, until
from tests.unit.guarded import TOKEN_TEXT, guard

pytestmark = pytest.mark.anyio

LIMIT_S = 1.0
"""Ten times what it should take, for a machine that does something else."""


class Service:
    """The example, and an agent that may call it."""

    def __init__(self, running: Running, url: str, names: dict[str, Any], agent: Agent) -> None:
        self.running = running
        self.url = url
        self.guard = names["guard"]
        self.agent = agent

    async def get(self, path: str, token: str | None = None) -> httpx2.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        async with httpx2.AsyncClient(base_url=self.url) as http:
            return await http.get(path, headers=headers)

    def socket(self, token: str) -> connect:
        address = self.url.replace("http:", "ws:") + "/echo"
        return connect(address, additional_headers={"authorization": f"Bearer {token}"})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with authority_running(tmp_path) as running, example_served("fastapi_app", running) as (url, names):
        agent = await open_agent(running, "alice", url, ["read", "notes:read"])

        async def passes() -> bool:
            return bool(await names["guard"].decide(agent.token))

        await until(passes, "the replica is ready")
        yield Service(running, url, names, agent)


async def test_each_route_has_what_it_asks_for(service: Service) -> None:
    reader = await open_agent(service.running, "bob", service.url, ["read"])
    assert (await service.get("/")).json() == "welcome"
    assert (await service.get("/whoami", service.agent.token)).json() == "alice"
    assert (await service.get("/notes", service.agent.token)).json() == "notes of alice"

    for path, token, status, code in (
        ("/whoami", None, 401, "missing_token"),
        ("/whoami", "nonsense", 401, "invalid_token"),
        ("/notes", reader.token, 403, "insufficient_scope"),
    ):
        refused = await service.get(path, token)
        assert (refused.status_code, refused.json()["error"]) == (status, code)
        assert "resource_metadata" in refused.headers["www-authenticate"]
    assert 'scope="notes:read"' in (await service.get("/notes", reader.token)).headers["www-authenticate"]


async def test_what_is_open_ends_when_the_agent_is_revoked(service: Service) -> None:
    async with (
        service.socket(service.agent.token) as socket,
        httpx2.AsyncClient(base_url=service.url) as http,
        http.stream("GET", "/ticks", headers=service.agent.headers) as ticks,
    ):
        assert await socket.recv() == "hello alice"
        await socket.send("said")
        assert await socket.recv() == "said"
        await service.running.client.revoke("agent", service.agent.id, "the test")
        answered_s = time.monotonic()
        with pytest.raises(httpx2.RemoteProtocolError):
            await ticks.aread()
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        took_s = time.monotonic() - answered_s
    assert took_s < LIMIT_S, f"{took_s * 1000:.0f} ms from the answer to the end of both"
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "session_revoked")
    assert (await service.get("/whoami", service.agent.token)).json()["error"] == "session_revoked"
    with pytest.raises(InvalidStatus):
        await service.socket(service.agent.token).__aenter__()


async def test_what_is_open_ends_when_the_token_expires(service: Service) -> None:
    async with service.socket(dying(service.running, service.agent.token)) as socket:
        assert await socket.recv() == "hello alice"
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "invalid_token")


async def test_where_we_cannot_know_the_answer_is_503_and_open_routes_are_open(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never() -> None:
        raise OSError("the authority cannot be reached")

    await service.guard.aclose()
    monkeypatch.setattr(service.guard._background, "start", never)
    refused = await service.get("/whoami", service.agent.token)
    assert (refused.status_code, refused.json()["error"]) == (503, "revocation_unavailable")
    assert refused.headers["retry-after"] == "1"
    assert (await service.get("/")).status_code == 200


def app_of(*, protected: bool = True) -> FastAPI:
    app, guarding = FastAPI(), guard()
    mandates = protect(app if protected else FastAPI(), guarding)
    agents = mandates.requiring(require_delegation=True, required_scopes=["read"])

    @app.get("/agents")
    async def agent(mandate: Annotated[Mandate, Depends(agents)]) -> str:
        return mandate.subject

    @app.get("/open")
    async def open_() -> str:
        return "open"

    return app


async def ask(app: FastAPI, path: str) -> httpx2.Response:
    headers = {"authorization": f"Bearer {TOKEN_TEXT}"}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://service") as http:
        return await http.get(path, headers=headers)


async def test_a_route_may_require_more_than_scopes() -> None:
    refused = await ask(app_of(), "/agents")
    assert (refused.status_code, refused.json()["error"]) == (403, "delegation_required")


async def test_the_documentation_says_which_routes_need_a_mandate() -> None:
    described = (await ask(app_of(), "/openapi.json")).json()
    assert described["paths"]["/agents"]["get"]["security"] == [{"mandate": []}]
    assert "security" not in described["paths"]["/open"]["get"]
    scheme = described["components"]["securitySchemes"]["mandate"]
    assert (scheme["type"], scheme["scheme"], scheme["bearerFormat"]) == ("http", "bearer", "JWT")


async def test_a_dependency_in_an_app_that_is_not_protected_lets_nobody_in() -> None:
    with pytest.raises(ConfigurationError, match=r"protect\(app, guard\)"):
        await ask(app_of(protected=False), "/agents")


def test_a_requirement_that_cannot_be_met_is_said_where_it_is_written() -> None:
    with pytest.raises(ConfigurationError):
        protect(FastAPI(), guard()).requiring(max_staleness_s=5)


async def passes(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


async def test_middleware_that_would_finish_what_is_cut_may_not_stand_before_the_guard() -> None:
    app = app_of()
    app.middleware("http")(passes)
    with pytest.raises(ConfigurationError, match="after"):
        await ask(app, "/open")


async def test_other_middleware_may_and_that_one_behind_it() -> None:
    app = FastAPI()
    app.middleware("http")(passes)
    protect(app, guard())
    app.add_middleware(CORSMiddleware, allow_origins=["https://page.example"])
    assert (await ask(app, "/openapi.json")).status_code == 200
