"""No route without a key: every route that the application has, against every wrong way to ask for it."""

import re
from dataclasses import fields
from typing import Any, Final

import httpx2
import pytest
from fastapi import Depends, FastAPI
from fastapi.routing import iter_route_contexts

from countermand.authority.model import Role
from countermand.authority.service import Authority
from countermand.server import problem
from countermand.server.app import create_app
from countermand.server.caller import requires
from tests.integration.problems import refused
from tests.looking import looking_into
from tests.running import Running

pytestmark = pytest.mark.anyio

METADATA: Final = "/.well-known/oauth-authorization-server"
PUBLIC: Final = {
    ("GET", "/.well-known/jwks.json"),
    ("GET", METADATA),
    ("GET", "/openapi.json"),
    ("HEAD", "/openapi.json"),
}
"""What may be read without a key. A route that is neither here nor protected fails."""
FOR_REPLICAS: Final = {("GET", "/v1/log"), ("GET", "/v1/log/snapshot")}
FOR_CLIENTS: Final = {("POST", f"/oauth2/{name}") for name in ("token", "revoke", "introspect")}
"""What takes an application's key by HTTP Basic: see test_oauth_input."""


def _app() -> FastAPI:
    """The application. It is never called, so it needs nothing behind it."""
    nothing: Any = None
    return create_app(Authority(*[nothing] * len(fields(Authority))), nothing, nothing, "https://authority.example")


def _filled(path: str) -> str:
    return re.sub(r"\{\w+\}", "ses_" + "0" * 32, re.sub(r"\{seq(:int)?\}", "1", path))


def _all_routes() -> list[tuple[str, str]]:
    """Every method and path of the application."""
    found: list[tuple[str, str]] = []
    for context in iter_route_contexts(_app().routes):
        assert context.path, "a route of another kind: teach this test to ask it"
        assert context.methods, "a route of another kind: teach this test to ask it"
        found.extend((method, _filled(context.path)) for method in context.methods)
    return sorted(found)


ROUTES: Final = _all_routes()
PROTECTED: Final = [route for route in ROUTES if route not in PUBLIC | FOR_CLIENTS]
FOR_ADMINISTRATORS: Final = [route for route in PROTECTED if route not in FOR_REPLICAS]

Headers = list[tuple[str, str]]


def _wrong(key: str) -> dict[str, Headers]:
    """Ways to ask that must not work, made of a key that would."""
    return {
        "no header": [],
        "an empty header": [("authorization", "")],
        "the scheme alone": [("authorization", "Bearer")],
        "the key alone": [("authorization", key)],
        "another scheme": [("authorization", f"Basic {key}")],
        "a key cut short": [("authorization", f"Bearer {key[:-1]}")],
        "a key with more behind it": [("authorization", f"Bearer {key}0")],
        "another key": [("authorization", f"Bearer {key[:21]}{'0' * 64}")],
        "two keys in one": [("authorization", f"Bearer {key}, Bearer {key}")],
        "two headers, both right": [("authorization", f"Bearer {key}")] * 2,
        "two headers, the first right": [("authorization", f"Bearer {key}"), ("authorization", "Bearer x")],
        "two headers, the last right": [("authorization", "Bearer x"), ("authorization", f"Bearer {key}")],
        "in another header": [("x-authorization", f"Bearer {key}"), ("proxy-authorization", f"Bearer {key}")],
        "in a cookie": [("cookie", f"access_token={key}; authorization=Bearer {key}")],
    }


async def _ask(http: httpx2.AsyncClient, route: tuple[str, str], headers: Headers) -> httpx2.Response:
    """Ask, with a body where one may be; read no further than the head of an answer that does not end."""
    method, path = route
    async with http.stream(method, path, headers=headers, json={} if method == "POST" else None) as response:
        if response.headers.get("content-type", "").startswith("application/"):
            await response.aread()
        return response


def test_every_route_that_is_documented_is_asked_here() -> None:
    documented = {
        (method.upper(), _filled(path)) for path, methods in _app().openapi()["paths"].items() for method in methods
    }
    assert documented <= set(ROUTES)
    assert set(ROUTES) >= PUBLIC | FOR_REPLICAS | FOR_CLIENTS
    assert len(FOR_ADMINISTRATORS) >= 17


@pytest.mark.parametrize("route", PROTECTED, ids=" ".join)
async def test_no_way_to_ask_without_a_valid_key_opens_a_route(
    shared: Running, http: httpx2.AsyncClient, route: tuple[str, str]
) -> None:
    for name, headers in _wrong(shared.admin_key).items():
        response = await _ask(http, route, headers)
        assert refused(response, 401, "unauthenticated") == "this needs a valid API key", name
        assert response.headers["www-authenticate"] == "Bearer"
        assert shared.admin_key.split("_")[2] not in response.text
    method, path = route
    response = await http.request(method, path, params={"access_token": shared.admin_key, "api_key": shared.admin_key})
    assert response.status_code == 401, "nor a key in the URL"
    async with looking_into(shared.data) as look:
        for table in ("anchors", "entries"):
            assert await look.execute(f"SELECT count(*) FROM {table}") == [(0,)], "nothing was done"  # noqa: S608 - the names stand above


@pytest.fixture(scope="module")
async def application_key(shared: Running) -> str:
    application = await shared.authority.service.opening.create_application("notes")
    return await shared.authority.access.create_for(application.id, "for a test")


@pytest.mark.parametrize("route", FOR_ADMINISTRATORS, ids=" ".join)
async def test_a_replica_and_an_application_may_not_use_the_admin_api(
    shared: Running, http: httpx2.AsyncClient, application_key: str, route: tuple[str, str]
) -> None:
    for key in (shared.replica_key, application_key):
        response = await _ask(http, route, [("authorization", f"Bearer {key}")])
        assert refused(response, 403, "forbidden") == "this needs the role administrator"


@pytest.mark.parametrize("route", sorted(FOR_REPLICAS), ids=" ".join)
async def test_an_application_may_not_read_the_log(
    http: httpx2.AsyncClient, application_key: str, route: tuple[str, str]
) -> None:
    response = await _ask(http, route, [("authorization", f"Bearer {application_key}")])
    assert refused(response, 403, "forbidden") == "this needs the role replica"


@pytest.mark.parametrize("route", PROTECTED, ids=" ".join)
async def test_an_administrator_may_use_everything(
    shared: Running, http: httpx2.AsyncClient, route: tuple[str, str]
) -> None:
    response = await _ask(http, route, [("authorization", f"bearer {shared.admin_key}")])
    assert response.status_code not in {401, 403}


@pytest.mark.parametrize("route", sorted(FOR_REPLICAS), ids=" ".join)
async def test_a_replica_may_read_the_log(shared: Running, http: httpx2.AsyncClient, route: tuple[str, str]) -> None:
    response = await _ask(http, route, [("authorization", f"Bearer {shared.replica_key}")])
    assert response.status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/nothing", "/v1//sessions", "/v1%2Fsessions", "/v1/../v1/sessions"]
)
async def test_below_v1_even_what_is_not_there_needs_a_key(http: httpx2.AsyncClient, path: str) -> None:
    for method in ("GET", "POST", "HEAD", "OPTIONS", "TRACE", "STRANGE"):
        response = await http.request(method, path)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["//v1/sessions", "/V1/sessions", "/v1sessions", "/%2Fv1/sessions", "/./v1sessions"])
async def test_a_path_that_only_looks_like_a_protected_one_leads_nowhere(http: httpx2.AsyncClient, path: str) -> None:
    refused(await http.get(path), 404, "not_found")


async def test_a_route_that_nothing_authenticates_lets_nobody_in() -> None:
    app = FastAPI()
    problem.install(app)
    app.get("/", dependencies=[Depends(requires(Role.REPLICA))])(lambda: None)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://authority.example") as client:
        refused(await client.get("/", headers={"authorization": "Bearer x"}), 401, "unauthenticated")


@pytest.mark.parametrize("route", sorted(PUBLIC), ids=" ".join)
async def test_what_is_public_needs_no_key_and_minds_no_wrong_one(
    http: httpx2.AsyncClient, route: tuple[str, str]
) -> None:
    for headers in ([], [("authorization", "Bearer wrong")]):
        assert (await http.request(*route, headers=headers)).status_code == 200
