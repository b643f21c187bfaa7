"""The guard before a WSGI app: what reaches the app, and what is answered instead."""

import json
from collections.abc import Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countermand.enforce.asgi import MANDATE_KEY, REQUEST_ID_KEY
from countermand.enforce.decision import Requirements
from countermand.enforce.guard import Guard
from countermand.enforce.wsgi import requires
from countermand.errors import ConfigurationError, DeniedError
from countermand.log.verdict import CLEAR, Unknown
from tests.unit.denials import DENIALS, METADATA
from tests.unit.guarded import SECRETS, TOKEN_TEXT, Answers, guard, revoked
from tests.unit.mandates import ISSUER, SESSION
from tests.unit.wsgi_served import PLAIN, Greeting, Served, request, served

NEW_ID = "0" * 32
"""The random bytes of these tests are zeros."""
PATH = "/.well-known/oauth-protected-resource"


@pytest.fixture
def app() -> Greeting:
    return Greeting()


def test_a_good_token_reaches_the_app_with_its_mandate_and_the_id_of_the_request(app: Greeting) -> None:
    answer = served(guard(), app)

    assert (answer.status, answer.body) == (200, b"hello")
    assert app.environs[0][MANDATE_KEY].subject == "alice"
    assert app.environs[0][REQUEST_ID_KEY] == answer.headers["x-request-id"] == NEW_ID


def test_a_mandate_that_somebody_else_put_into_the_environ_is_replaced(app: Greeting) -> None:
    served(guard(), app, request() | {MANDATE_KEY: "made up"})

    assert app.environs[0][MANDATE_KEY].subject == "alice"


@pytest.mark.parametrize("code", DENIALS)
def test_every_denial_has_its_status_headers_and_body(app: Greeting, code: str) -> None:
    denying, requirements, token, status, challenge = DENIALS[code]

    answer = served(denying, app, request(token), requirements)

    assert answer.status == status
    said = json.loads(answer.body)
    assert (sorted(said), said["error"]) == (["error", "error_description", "error_hint"], code)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"] == NEW_ID
    challenged = (
        f'{challenge}, resource_metadata="{METADATA}"' if challenge else f'Bearer resource_metadata="{METADATA}"'
    )
    assert answer.headers.get("www-authenticate", "") == ("" if status == 503 else challenged)
    assert answer.headers.get("retry-after") == ("1" if status == 503 else None)
    assert app.environs == []
    assert not [secret for secret in SECRETS if secret in str(answer.body) + str(answer.headers)]


def test_what_the_call_to_wsgi_requires_must_be_met(app: Greeting) -> None:
    guarding = guard()

    answer = Served(guarding.wsgi(app, required_scopes=["admin"]), request())

    guarding.close()
    assert (answer.status, app.environs) == (403, [])


def test_requirements_that_the_guard_cannot_answer_for_are_refused_at_once(app: Greeting) -> None:
    for make in (lambda: guard().wsgi(app, max_staleness_s=10), lambda: requires(guard(), required_scopes="read")):
        with pytest.raises(ConfigurationError):
            make()


def test_head_is_answered_without_a_body(app: Greeting) -> None:
    answer = served(guard(), app, request(None, REQUEST_METHOD="HEAD"))

    assert (answer.status, answer.body) == (401, b"")
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   "])
def test_the_scheme_is_read_in_any_case(app: Greeting, scheme: str) -> None:
    assert served(guard(), app, request(None, HTTP_AUTHORIZATION=scheme + TOKEN_TEXT)).status == 200


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "missing_token"),
        ("Bearer", "missing_token"),
        ("Bearer  ", "missing_token"),
        ("Basic " + TOKEN_TEXT, "missing_token"),
        (TOKEN_TEXT, "missing_token"),
        ("Bearer\t" + TOKEN_TEXT, "missing_token"),
        ("Bearer \xff\xfe", "invalid_token"),
        ("Bearer " + TOKEN_TEXT + "\xe4", "invalid_token"),
        ("Bearer " + TOKEN_TEXT + " x", "invalid_token"),
        ("Bearer " + "a" * 1_000_000, "invalid_token"),
    ],
)
def test_any_other_header_carries_no_token_or_no_good_one(app: Greeting, header: str, code: str) -> None:
    answer = served(guard(), app, request(None, HTTP_AUTHORIZATION=header))

    assert (answer.status, json.loads(answer.body)["error"]) == (401, code)
    assert app.environs == []


@pytest.mark.parametrize("comma", [",", ", "])
@pytest.mark.parametrize("other", [f"Bearer {TOKEN_TEXT}", "Bearer x", "Bearer", "Basic eDp5", "x", ""])
def test_two_headers_that_the_server_has_joined_are_no_token_in_either_order(
    app: Greeting, other: str, comma: str
) -> None:
    good = f"Bearer {TOKEN_TEXT}"

    for headers in ((good, other), (other, good)):
        answer = served(guard(), app, request(None, HTTP_AUTHORIZATION=comma.join(headers)))
        assert answer.status == 401
    assert app.environs == []


@pytest.mark.parametrize("name", ["HTTP_PROXY_AUTHORIZATION", "HTTP_X_AUTHORIZATION", "AUTHORIZATION"])
def test_no_other_header_carries_a_token_nor_does_the_query(app: Greeting, name: str) -> None:
    query = {"QUERY_STRING": f"access_token={TOKEN_TEXT}"}

    answer = served(guard(), app, request(None) | {name: f"Bearer {TOKEN_TEXT}"} | query)

    assert json.loads(answer.body)["error"] == "missing_token"


@given(st.text(st.characters(max_codepoint=255)) | st.text(st.characters(max_codepoint=255)).map("Bearer ".__add__))
def test_no_header_ever_passes_or_raises(header: str) -> None:
    app = Greeting()

    assert Served(GUARDING.wsgi(app), request(None, HTTP_AUTHORIZATION=header)).status == 401
    assert app.environs == []


GUARDING = guard()


@pytest.fixture(scope="module", autouse=True)
def closed_at_the_end() -> Any:
    yield
    GUARDING.close()


# The id of a request


@pytest.mark.parametrize(
    ("given_id", "id_"),
    [("job-1", "job-1"), ("a,b", NEW_ID), ("a, b", NEW_ID), ("", NEW_ID), ("x" * 65, NEW_ID), ("a\xe4", NEW_ID)],
)
def test_a_request_keeps_the_id_that_it_came_with_if_it_is_one(app: Greeting, given_id: str, id_: str) -> None:
    answers = [served(guard(), app, request(token, HTTP_X_REQUEST_ID=given_id)) for token in (TOKEN_TEXT, None)]

    assert [answer.headers["x-request-id"] for answer in answers] == [id_, id_]
    assert app.environs[0][REQUEST_ID_KEY] == id_


def test_the_id_of_a_guard_before_this_one_goes_before_the_callers(app: Greeting) -> None:
    answer = served(guard(), app, request(HTTP_X_REQUEST_ID="theirs") | {REQUEST_ID_KEY: "ours"})

    assert answer.headers["x-request-id"] == "ours"


def test_an_id_of_the_apps_own_does_not_reach_the_client() -> None:
    def app(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [*PLAIN, ("X-Request-Id", "its-own")])
        return [b""]

    assert served(guard(), app).headers["x-request-id"] == NEW_ID


# What the resource says of itself


def test_anybody_may_read_the_metadata_and_nothing_else(app: Greeting) -> None:
    told = served(guard(), app, request(None, PATH_INFO=PATH))
    mounted = served(guard(), app, request(None, SCRIPT_NAME="/.well-known", PATH_INFO="/oauth-protected-resource"))
    head = served(guard(), app, request(None, PATH_INFO=PATH, REQUEST_METHOD="HEAD"))
    others = [
        served(guard(), app, request(None, PATH_INFO=PATH, REQUEST_METHOD="POST")),
        served(guard(), app, request(None, PATH_INFO=PATH + "/")),
        served(guard(), app, request(None, SCRIPT_NAME="/api", PATH_INFO=PATH)),
    ]

    assert (told.status, json.loads(told.body)["authorization_servers"]) == (200, [ISSUER])
    assert (told.headers["content-type"], told.headers["x-request-id"]) == ("application/json", NEW_ID)
    assert "max-age" in told.headers["cache-control"]
    assert mounted.body == told.body
    assert (head.status, head.body) == (200, b"")
    assert [other.status for other in others] == [401, 401, 401]
    assert app.environs == []


# Whatever cannot be known


def test_a_replica_that_is_stale_and_then_fresh_again_is_answered_for_each_time(app: Greeting) -> None:
    answers = Answers(Unknown("stale"))
    guarding = guard(answers)

    refused = served(guarding, app)
    answers.verdict = CLEAR
    let_in = served(guarding, app)

    assert (refused.status, refused.headers["retry-after"], let_in.status) == (503, "1", 200)


@pytest.mark.parametrize("verdict", [RuntimeError("a defect"), None, True, "clear"])
def test_revocations_that_fail_are_no_500(app: Greeting, verdict: Any) -> None:
    assert served(guard(Answers(verdict)), app).status == 503


# An app that asks


def asks(guarding: Guard, **requirements: Any) -> Any:
    """Return an app that has more to ask, and greets."""
    return requires(guarding, **requirements)(Greeting())


def test_on_demand_what_does_not_ask_is_open_to_anybody(app: Greeting) -> None:
    answer = served(guard(), app, request("nonsense"), on_demand=True)

    assert answer.status == 200
    assert MANDATE_KEY not in app.environs[0]


@pytest.mark.parametrize(
    ("revocations", "token", "status"),
    [
        (None, TOKEN_TEXT, 200),
        (None, None, 401),
        (None, "nonsense", 401),
        (revoked(SESSION), TOKEN_TEXT, 401),
        (Answers(Unknown("stale")), TOKEN_TEXT, 503),
    ],
)
def test_on_demand_what_asks_is_guarded(revocations: Any, token: str | None, status: int) -> None:
    guarding = guard(revocations)

    assert served(guarding, asks(guarding), request(token), on_demand=True).status == status


def test_what_the_middleware_requires_is_met_by_whoever_asks() -> None:
    guarding = guard()

    answer = served(guarding, asks(guarding), None, Requirements.of(required_scopes=["admin"]), on_demand=True)

    assert answer.status == 403


@pytest.mark.parametrize(("scope", "status"), [("read", 200), ("admin", 403)])
def test_behind_a_strict_guard_more_can_be_asked(scope: str, status: int) -> None:
    guarding = guard()

    answer = served(guarding, asks(guarding, required_scopes=[scope]))

    assert answer.status == status
    assert f'scope="{scope}"' in answer.headers.get("www-authenticate", f'scope="{scope}"')


def test_what_an_app_makes_of_a_denial_reaches_nobody(app: Greeting) -> None:
    guarding = guard()

    def answers_all_the_same(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        try:
            return asks(guarding, required_scopes=["admin"])(environ, start_response)
        except DeniedError:
            with pytest.raises(DeniedError):
                asks(guarding, required_scopes=["read"])(environ, start_response)
            write = start_response("500 Internal Server Error", PLAIN)
            with pytest.raises(ConnectionResetError):
                write(b"written")
            return app(environ, start_response)

    answer = served(guarding, answers_all_the_same)

    assert (answer.status, json.loads(answer.body)["error"]) == (403, "insufficient_scope")


def test_an_answer_that_has_begun_breaks_where_a_denial_comes() -> None:
    guarding = guard()

    def begins(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", PLAIN)(b"begun")
        return asks(guarding, required_scopes=["admin"])(environ, start_response)

    answer = served(guarding, begins)

    assert (answer.status, answer.body) == (200, b"begun")
    assert isinstance(answer.broke, ConnectionResetError)


@pytest.mark.parametrize(("scope", "status"), [("read", 200), ("admin", 403)])
def test_what_makes_the_chunks_may_ask_too(scope: str, status: int) -> None:
    guarding = guard()

    @requires(guarding, required_scopes=[scope])
    def made() -> bytes:
        return b"made"

    def chunks(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        yield made()

    assert served(guarding, chunks).status == status
    with pytest.raises(ConfigurationError):
        made()


@pytest.mark.parametrize("scopes", [("read", "write"), ("read", "admin")])
def test_asked_again_no_call_is_left_in_flight(scopes: tuple[str, ...]) -> None:
    guarding = guard()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        for scope in scopes[:-1]:
            requires(guarding, required_scopes=[scope])(lambda: None)()
        return asks(guarding, required_scopes=scopes[-1:])(environ, start_response)

    served(guarding, app)
    guarding.close()
    assert guarding.in_flight == 0


def test_who_asks_without_a_request_or_about_another_guards_is_told_what_is_missing() -> None:
    guarding, other = guard(), guard()

    with pytest.raises(ConfigurationError, match=r"guard\.wsgi"):
        asks(guarding)({}, lambda *_: None)
    with pytest.raises(ConfigurationError, match=r"guard\.wsgi"):
        served(other, asks(guarding))
