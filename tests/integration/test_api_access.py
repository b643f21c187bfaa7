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
"""What may be read without a key."""
FOR_CLIENTS: Final = {("POST", f"/oauth2/{name}") for name in ("token", "revoke", "introspect")}
"""What takes an application's key by HTTP Basic: see test_oauth_input."""
READERS: Final = frozenset({Role.READER, Role.OPERATOR, Role.ADMINISTRATOR})
OPERATORS: Final = frozenset({Role.OPERATOR, Role.ADMINISTRATOR})
ADMINISTRATORS: Final = frozenset({Role.ADMINISTRATOR})
REPLICAS: Final = frozenset({Role.REPLICA, Role.ADMINISTRATOR})
MAY: Final = {
    ("GET", "/v1/agents"): READERS,
    ("GET", "/v1/agents/{agent_id}"): READERS,
    ("GET", "/v1/applications"): READERS,
    ("GET", "/v1/applications/{application_id}"): READERS,
    ("GET", "/v1/audit"): READERS,
    ("GET", "/v1/biscuit/revoked"): READERS | REPLICAS,
    ("HEAD", "/v1/biscuit/revoked"): READERS | REPLICAS,
    ("GET", "/v1/delegations"): READERS,
    ("GET", "/v1/delegations/{delegation_id}"): READERS,
    ("GET", "/v1/grants"): READERS,
    ("GET", "/v1/grants/{grant_id}"): READERS,
    ("GET", "/v1/keys"): READERS,
    ("GET", "/v1/replicas"): READERS,
    ("GET", "/v1/revocations"): READERS,
    ("GET", "/v1/revocations/{seq}"): READERS,
    ("GET", "/v1/revocations/{seq}/receipt"): READERS,
    ("GET", "/v1/sessions"): READERS,
    ("GET", "/v1/signing-keys"): READERS,
    ("GET", "/v1/sessions/{session_id}"): READERS,
    ("GET", "/v1/tree/{anchor_id}"): READERS,
    ("GET", "/v1/log"): REPLICAS,
    ("GET", "/v1/log/snapshot"): REPLICAS,
    ("POST", "/v1/replicas"): REPLICAS,
    ("POST", "/v1/biscuit/revocations"): OPERATORS,
    ("POST", "/v1/biscuits"): ADMINISTRATORS | {Role.APPLICATION},
    ("POST", "/v1/cutoffs"): OPERATORS,
    ("POST", "/v1/grants/{grant_id}/close"): OPERATORS,
    ("POST", "/v1/revocations"): OPERATORS,
    ("POST", "/v1/revocations/by-filter"): OPERATORS,
    ("POST", "/v1/agents"): ADMINISTRATORS,
    ("POST", "/v1/applications"): ADMINISTRATORS,
    ("POST", "/v1/applications/{application_id}/keys"): ADMINISTRATORS,
    ("POST", "/v1/delegations"): ADMINISTRATORS,
    ("POST", "/v1/grants"): ADMINISTRATORS,
    ("POST", "/v1/keys"): ADMINISTRATORS,
    ("POST", "/v1/ledger/recovery"): ADMINISTRATORS,
    ("POST", "/v1/keys/{key_id}/revoke"): ADMINISTRATORS,
    ("POST", "/v1/sessions"): ADMINISTRATORS,
    ("POST", "/v1/signing-keys/rotate"): ADMINISTRATORS,
    ("POST", "/v1/signing-keys/{key_id}/withdraw"): ADMINISTRATORS,
    ("POST", "/v1/sessions/{session_id}/mandates"): ADMINISTRATORS,
}
"""Who may use a route. One that is in none of these tables fails."""


def _app() -> FastAPI:
    """The application. It is never called, so it needs nothing behind it."""
    nothing: Any = None
    everything = Authority(*[nothing] * len(fields(Authority)))
    return create_app(everything, nothing, nothing, "https://authority.example", nothing)


def _filled(path: str, id_: str = "ses_" + "0" * 32) -> str:
    return re.sub(r"\{\w+\}", id_, path.replace("{seq}", "1"))


def _all_routes() -> list[tuple[str, str]]:
    """Every method and path of the application, as the route has it."""
    found: list[tuple[str, str]] = []
    for context in iter_route_contexts(_app().routes):
        assert context.path, "a route of another kind: teach this test to ask it"
        assert context.methods, "a route of another kind: teach this test to ask it"
        path = context.path.replace(":int}", "}")  # as it is documented
        found.extend((method, path) for method in context.methods)
    return sorted(found)


ROUTES: Final = _all_routes()
PROTECTED: Final = [route for route in ROUTES if route not in PUBLIC | FOR_CLIENTS]

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
    method, path = route[0], _filled(route[1])
    async with http.stream(method, path, headers=headers, json={} if method == "POST" else None) as response:
        if response.headers.get("content-type", "").startswith("application/"):
            await response.aread()
        return response


def _refused(response: httpx2.Response, status: int, code: str, sentence: str) -> None:
    """Check that it is refused in a sentence that begins so, where the method lets an answer have a body."""
    if response.request.method == "HEAD":
        assert (response.status_code, response.content) == (status, b"")
        assert response.headers["content-type"] == "application/problem+json"
    else:
        assert refused(response, status, code).startswith(sentence)


def test_every_route_that_is_documented_is_asked_here() -> None:
    documented = {(method.upper(), path) for path, methods in _app().openapi()["paths"].items() for method in methods}
    assert documented <= set(ROUTES)
    assert set(ROUTES) == PUBLIC | FOR_CLIENTS | set(MAY)


@pytest.mark.parametrize("route", PROTECTED, ids=" ".join)
async def test_no_way_to_ask_without_a_valid_key_opens_a_route(
    shared: Running, http: httpx2.AsyncClient, route: tuple[str, str]
) -> None:
    for headers in _wrong(shared.admin_key).values():
        response = await _ask(http, route, headers)
        _refused(response, 401, "unauthenticated", "this needs a valid API key")
        assert response.headers["www-authenticate"] == "Bearer"
        assert shared.admin_key.split("_")[2] not in response.text
    method, path = route[0], _filled(route[1])
    response = await http.request(method, path, params={"access_token": shared.admin_key, "api_key": shared.admin_key})
    assert response.status_code == 401, "nor a key in the URL"
    async with looking_into(shared.data) as look:
        for table in ("anchors", "entries"):
            assert await look.execute(f"SELECT count(*) FROM {table}") == [(0,)], "nothing was done"  # noqa: S608 - the names stand above
        acts = await look.execute("SELECT DISTINCT action, role FROM audit")
        assert acts == [("api_key.create", "authority")], "and of the first start there is a trace"


@pytest.fixture(scope="module")
async def keys(shared: Running) -> dict[Role, str]:
    """A key of every role."""
    access = shared.authority.access
    application = await shared.authority.service.opening.create_application("notes")
    made = [await access.create(role, "for a test") for role in Role if role is not Role.APPLICATION]
    made.append(await access.create_for(application.id, "for a test"))
    return {one.key.role: one.secret for one in made}


@pytest.mark.parametrize("route", sorted(MAY), ids=" ".join)
@pytest.mark.parametrize("role", Role)
async def test_a_route_opens_to_the_roles_that_may_use_it_and_to_no_other(
    http: httpx2.AsyncClient, keys: dict[Role, str], role: Role, route: tuple[str, str]
) -> None:
    response = await _ask(http, route, [("authorization", f"bearer {keys[role]}")])
    if role in MAY[route]:
        assert response.status_code not in {401, 403}
    else:
        _refused(response, 403, "forbidden", "this needs the role ")


async def test_who_may_not_ask_hears_the_same_of_what_exists_as_of_what_does_not(
    shared: Running, http: httpx2.AsyncClient, keys: dict[Role, str]
) -> None:
    application = (await shared.client.create_application("notes"))["id"]
    session = (await shared.client.open_session(application, "alice"))["id"]
    [key, *_] = (await shared.authority.access.keys()).items
    headers = {"authorization": f"Bearer {keys[Role.REPLICA]}"}
    asked = 0
    for method, path in MAY:
        if _filled(path, "") == _filled(path, "x"):
            continue  # it names no id
        answers = set()
        for id_ in (application, session, key.id, "ses_" + "0" * 32, "nothing"):
            response = await http.request(method, _filled(path, id_), headers=headers, json={})
            answers.add((response.status_code, refused(response)))
        assert len(answers) == 1, (method, path)
        asked += 1
    assert asked >= 10


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
async def test_every_answer_names_its_request(
    shared: Running, http: httpx2.AsyncClient, route: tuple[str, str]
) -> None:
    for key in (shared.admin_key, "none"):
        for given in ("job-7.a_b", "x" * 64):
            asked = [("authorization", f"Bearer {key}"), ("x-request-id", given)]
            assert (await _ask(http, route, asked)).headers["x-request-id"] == given
        strange = ["", "a b", "x" * 65, "-a", "a,b", "{}"]
        made = {
            (await _ask(http, route, [("authorization", f"Bearer {key}"), ("x-request-id", one)])).headers[
                "x-request-id"
            ]
            for one in strange
        }
        assert len(made) == len(strange)
        assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


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
