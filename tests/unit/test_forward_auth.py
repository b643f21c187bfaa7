"""What a proxy is answered: 200, 401 or 403, always with every identity header, whatever it asks."""

import logging
from collections.abc import Iterable
from typing import Any

import httpx2
import pytest

from countermand.enforce import forward_auth
from countermand.enforce.asgi import Message, Scope
from countermand.enforce.decision import NOTHING_REQUIRED, Requirements
from countermand.enforce.forward_auth import ForwardAuth, parse_requirements
from countermand.enforce.guard import Guard
from countermand.enforce.identity import NOBODY, identity
from countermand.errors import ConfigurationError, KeysError
from countermand.log.anchor import Kind
from countermand.log.verdict import CLEAR, Unknown
from tests.unit import biscuit_guards
from tests.unit.guarded import (
    DELEGATED_TEXT,
    FOREIGN_TEXT,
    SECRETS,
    TOKEN_TEXT,
    UNREACHABLE,
    Answers,
    Following,
    Keys,
    Log,
    guard,
    revoked,
)
from tests.unit.mandates import AUDIENCE, FOREIGN, ISSUER, SESSION, read, sign

pytestmark = pytest.mark.anyio

BEARER = ("Authorization", f"Bearer {TOKEN_TEXT}")
REQUIRED = Requirements.of(required_scopes=["admin"])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def ask(
    app: Any, *headers: tuple[str, str], path: str = "/", method: str = "GET", content: bytes = b""
) -> httpx2.Response:
    """Ask, and look at what holds for every answer."""
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as client:
        answer = await client.request(method, f"http://auth.example{path}", headers=list(headers), content=content)
    assert answer.status_code in {200, 401, 403}
    assert len(answer.headers.get_list("x-request-id")) == (answer.headers.get("x-countermand-error") != "internal")
    for name in NOBODY:
        assert len(answer.headers.get_list(name)) == 1
    if answer.status_code != 200:
        assert {answer.headers[name] for name in NOBODY} == {""}
        assert answer.headers["cache-control"] == "no-store"
        assert all(secret not in answer.text + str(answer.headers) for secret in SECRETS)
    return answer


def bearer(token: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {token}")


@pytest.mark.parametrize("token", [TOKEN_TEXT, DELEGATED_TEXT, FOREIGN_TEXT, sign(FOREIGN | {"sub": "zoë % ü"})])
async def test_a_good_token_is_answered_with_who_acts(token: str) -> None:
    app = ForwardAuth(guard())
    for _ in range(2):
        answer = await ask(app, bearer(token))
        assert (answer.status_code, answer.content) == (200, b"")
        assert {name: answer.headers[name] for name in NOBODY} == identity(read(token))
        assert answer.headers["cache-control"] == "no-store", "a decision that somebody keeps is a revocation unseen"


DENIALS: dict[str, tuple[Guard, tuple[tuple[str, str], ...], int]] = {
    "missing_token": (guard(), (), 401),
    "invalid_token": (guard(), (bearer("made.up.token"),), 401),
    "session_revoked": (guard(revoked(SESSION)), (BEARER,), 401),
    "insufficient_scope": (guard(requirements=REQUIRED), (BEARER,), 403),
    "session_required": (guard(requirements=Requirements.of(require_session=True)), (bearer(FOREIGN_TEXT),), 403),
    "delegation_required": (guard(requirements=Requirements.of(require_delegation=True)), (BEARER,), 403),
    "hop_count_exceeded": (guard(requirements=Requirements.of(max_hops=1)), (bearer(DELEGATED_TEXT),), 403),
    "revocation_unavailable": (guard(Answers(Unknown("stale"))), (BEARER,), 403),
    "keys_unavailable": (guard(keys=Keys(KeysError("none"))), (BEARER,), 403),
}


@pytest.mark.parametrize("code", DENIALS)
async def test_a_denial_is_401_or_403_and_says_why(code: str) -> None:
    guarded, headers, status = DENIALS[code]
    answer = await ask(ForwardAuth(guarded), *headers)
    assert (answer.status_code, answer.json()["error"], answer.headers["x-countermand-error"]) == (status, code, code)
    assert answer.headers["content-length"] == str(len(answer.content))
    if code.endswith("_unavailable"):
        assert answer.headers["retry-after"] == "1"
        assert "www-authenticate" not in answer.headers
    else:
        assert answer.headers["www-authenticate"].startswith("Bearer ")
        assert "retry-after" not in answer.headers


async def test_of_two_tokens_none_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "countermand.decision")
    answer = await ask(ForwardAuth(guard()), BEARER, ("authorization", "Bearer other"))
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")
    assert "two_headers" in caplog.text


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "MADE-UP"])
async def test_the_method_and_the_body_say_nothing(method: str) -> None:
    app = ForwardAuth(guard())
    assert (await ask(app, BEARER, method=method, content=b"scope=none")).status_code == 200
    answer = await ask(app, method=method, content=b"scope=none")
    assert (answer.status_code, bool(answer.content)) == (401, method != "HEAD")


async def test_an_answer_has_the_id_of_the_request_or_a_new_one() -> None:
    app = ForwardAuth(guard())
    for headers, id_ in {
        (): "0" * 32,
        (("X-Request-Id", "req-1"),): "req-1",
        (("X-Request-Id", "two words"),): "0" * 32,
        (("X-Request-Id", "one"), ("X-Request-Id", "two")): "0" * 32,
    }.items():
        for token in (BEARER, bearer("none")):
            answer = await ask(app, token, *headers)
            assert answer.headers.get_list("x-request-id") == [id_]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/scope=read", 200),
        ("/scope=read&scope=write&max_staleness=10", 200),
        ("/scope=%72ead", 200),
        ("/scope=admin", 403),
        ("/scope=read&scope=admin", 403),
        ("/scope=admin/scope=read?scope=read", 403),
        ("/scope=admin//", 403),
        ("/scope=read/anything/of/the/client's?scope=admin&x", 200),
        ("/-/anything", 200),
        ("/?scope=admin", 200),
    ],
)
async def test_the_first_segment_of_the_path_says_what_is_required_and_nothing_else_does(
    path: str, status: int
) -> None:
    app = ForwardAuth(guard(Answers(CLEAR)))
    for _ in range(2):
        answer = await ask(app, BEARER, ("X-Forwarded-Uri", "/scope=none"), path=path)
        assert answer.status_code == status
        assert status == 200 or answer.json()["error"] == "insufficient_scope"


@pytest.mark.parametrize("path", ["/", "/scope=read", "/max_staleness=10", "/scope=read/x"])
async def test_it_can_only_add_to_what_the_guard_requires(path: str) -> None:
    app = ForwardAuth(guard(Answers(CLEAR), requirements=REQUIRED))
    assert (await ask(app, BEARER, path=path)).json()["error"] == "insufficient_scope"


async def test_a_bound_of_staleness_reaches_the_replica() -> None:
    log = Log()
    log.publish()
    log.passed_ms = 10_000
    app = ForwardAuth(guard(log.replica))
    assert (await ask(app, BEARER)).status_code == 200
    answer = await ask(app, BEARER, path="/max_staleness=5&max_staleness=25")
    assert (answer.status_code, answer.json()["error"]) == (403, "revocation_unavailable")


NO_REQUIREMENTS = [
    "",
    *("scope", "scope=", "scope=a b", "scope=a+b", 'scope=a"', "scope=%ff", "scope=é", "Scope=a", "scopes=a", "=a"),
    *("scope=a&", "&scope=a", "scope=a&&scope=b", "auth", "..", "%2f"),
    *("max_staleness=", "max_staleness=2", "max_staleness=nan", "max_staleness=inf", "max_staleness=ten", "a=b"),
]


@pytest.mark.parametrize("segment", NO_REQUIREMENTS)
def test_what_cannot_be_read_as_requirements_is_refused(segment: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_requirements(segment.encode())


def test_what_can_be_read() -> None:
    assert parse_requirements(b"scope=a%2Fb%26c&scope=d&max_staleness=9&max_staleness=10.5") == Requirements.of(
        required_scopes=["a/b&c", "d"], max_staleness_s=9
    )


@pytest.mark.parametrize("path", ["/", "/-", "/-/", "/-//scope=admin", "/-/scope=admin"])
async def test_a_url_may_say_that_it_adds_nothing(path: str) -> None:
    assert (await ask(ForwardAuth(guard()), BEARER, path=path)).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/x-scope",
        "/auth",
        "//scope=read",
        "//",
        "/-x/",
        "/*",
        "/scope=a&b=c/scope=read",
        "/.well-known/x",
        "/max_staleness=1",
    ],
)
async def test_a_url_that_says_nothing_lets_nobody_pass_and_is_logged_once(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = ForwardAuth(guard(Answers(CLEAR)))
    for _ in range(3):
        answer = await ask(app, BEARER, path=path)
        assert (answer.status_code, answer.headers["x-countermand-error"]) == (403, "configuration")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert (path.split("/")[1] or path) not in record.getMessage(), "it may be a client's, and hold a token"


async def test_what_is_remembered_of_urls_is_bounded_and_so_is_the_log(caplog: pytest.LogCaptureFixture) -> None:
    app = ForwardAuth(guard(Answers(CLEAR)))
    for number in range(3 * forward_auth.MAX_SEGMENTS):
        assert (await ask(app, BEARER, path=f"/made-up-{number}")).status_code == 403
    assert len(app._required) == forward_auth.MAX_SEGMENTS == len(caplog.records) + 1
    assert (await ask(app, BEARER, path="/scope=read")).status_code == 200
    assert (await ask(app, BEARER, path="/scope=admin")).json()["error"] == "insufficient_scope"


async def test_a_staleness_that_a_store_cannot_tell_is_refused() -> None:
    assert (await ask(ForwardAuth(guard()), BEARER, path="/max_staleness=10")).json()["error"] == "configuration"


async def test_the_document_of_the_resource_is_anybodys_and_names_nobody() -> None:
    answer = await ask(ForwardAuth(guard()), path="/.well-known/oauth-protected-resource")
    assert (answer.status_code, answer.json()["resource"]) == (200, AUDIENCE)
    assert answer.json()["authorization_servers"] == [ISSUER]
    assert {answer.headers[name] for name in NOBODY} == {""}
    app = ForwardAuth(guard(audience="resource://api"))
    assert (await ask(app, path="/.well-known/oauth-protected-resource")).json()["error"] == "configuration"


async def test_what_fails_within_is_a_refusal_and_no_500(caplog: pytest.LogCaptureFixture) -> None:
    failing = guard()
    failing.random = lambda _count: (_ for _ in ()).throw(RuntimeError(TOKEN_TEXT))
    answer = await ask(ForwardAuth(failing), BEARER)
    assert (answer.status_code, answer.json()["error"]) == (403, "internal")
    assert "RuntimeError" in caplog.text
    assert TOKEN_TEXT not in caplog.text


async def test_a_question_without_a_path_is_refused() -> None:
    sent = await call(ForwardAuth(guard()), {"type": "http", "method": "GET", "headers": [], "raw_path": b"*"})
    assert sent[0]["status"] == 403


async def call(app: Any, scope: Scope, received: Iterable[Message] = ()) -> list[Message]:
    sent: list[Message] = []
    waiting = iter(received)

    async def receive() -> Message:
        return next(waiting)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


@pytest.mark.parametrize("possible", [True, False])
async def test_a_server_that_can_answer_as_a_whole_says_the_same(possible: bool) -> None:
    given: list[bytes] = []

    def whole(lines: bytes) -> bool:
        given.append(lines)
        return possible

    scope = {"type": "http", "method": "GET", "raw_path": b"/", "headers": [(b"authorization", BEARER[1].encode())]}
    (plain, _) = await call(ForwardAuth(guard()), dict(scope))
    sent = await call(ForwardAuth(guard()), scope | {"extensions": {forward_auth.WHOLE_ANSWER: whole}})
    assert given == [b"".join(name + b": " + value + b"\r\n" for name, value in plain["headers"])]
    assert bool(sent) is not possible
    refused = {"type": "http", "method": "GET", "raw_path": b"/", "headers": []}
    sent = await call(ForwardAuth(guard()), refused | {"extensions": {forward_auth.WHOLE_ANSWER: whole}})
    assert (sent[0]["status"], len(given)) == (401, 1)


async def test_no_other_scope_is_answered() -> None:
    with pytest.raises(ConfigurationError):
        await call(ForwardAuth(guard()), {"type": "websocket", "headers": [], "raw_path": b"/"})


LIFE = ({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})


async def test_the_guard_runs_while_the_app_does() -> None:
    following = Following()
    sent = await call(ForwardAuth(guard(background=following)), {"type": "lifespan"}, LIFE)
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert (following.starts, following.running) == (1, False)


async def test_a_guard_that_does_not_start_keeps_the_app_from_starting() -> None:
    following = Following()
    following.failure = UNREACHABLE
    (sent,) = await call(ForwardAuth(guard(background=following)), {"type": "lifespan"}, LIFE)
    assert sent["type"] == "lifespan.startup.failed"
    assert sent["message"].endswith("(UnreachableError)")


@pytest.mark.parametrize("bound", ["MAX_ENTRIES", "MAX_BYTES"])
async def test_what_is_remembered_of_identities_is_bounded_and_never_anothers(
    monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(forward_auth, bound, {"MAX_ENTRIES": 5, "MAX_BYTES": 100}[bound])
    app = ForwardAuth(guard())
    tokens = {name: sign(FOREIGN | {"sub": name}) for name in map(str, range(12))}
    for _ in range(2):
        for name, token in tokens.items():
            assert (await ask(app, bearer(token))).headers["x-countermand-subject"] == name
            assert len(app._identities._known) <= 10


async def test_nothing_is_remembered_of_biscuits_which_their_holders_make_as_they_like() -> None:
    app = ForwardAuth(biscuit_guards.accepting())
    for _ in range(3):
        assert (await ask(app, bearer(biscuit_guards.TOKEN_TEXT))).headers["x-countermand-subject"] == "alice"
    assert not app._identities._known


async def test_who_is_let_in_and_revoked_is_refused_at_once() -> None:
    log = Log()
    log.publish()
    app = ForwardAuth(guard(log.replica))
    assert (await ask(app, BEARER)).status_code == 200
    log.revoke(Kind.SESSION, SESSION)
    assert (await ask(app, BEARER)).json()["error"] == "session_revoked"


def test_nothing_required_is_the_very_object() -> None:
    assert ForwardAuth(guard())._required == {b"-": NOTHING_REQUIRED}


@pytest.mark.parametrize("policy", ['allow if path("/")', 'deny if method("DELETE"); allow if true'])
def test_a_policy_that_asks_for_what_is_not_known_is_refused_at_the_start(policy: str) -> None:
    with pytest.raises(ConfigurationError, match="neither method nor path"):
        ForwardAuth(biscuit_guards.accepting(policy=policy))
    ForwardAuth(biscuit_guards.accepting(policy='allow if user("alice")'))
