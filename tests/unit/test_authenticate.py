"""The documented face: `caracalai_transport_mcp`."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request

import caracalai_transport_mcp
import countermand.enforce.authenticate as enforced
from caracalai_transport_mcp import AuthResult, ErrorCode, MandateMiddleware, authenticate, extract_bearer
from countermand import wiring
from countermand.enforce.decision import HTTP_STATUS
from countermand.errors import ConfigurationError, KeysError
from countermand.log.verdict import Unknown
from countermand.stores.memory import InMemoryRevocationStore
from countermand.tokens.jwks import StaticKeys
from countermand.tokens.mandate import mint
from tests.unit.guarded import SECRETS, TOKEN_TEXT, Answers, Keys, Store, revoked
from tests.unit.mandates import (
    AGENT,
    APPLICATION,
    AUDIENCE,
    CLAIMS,
    DELEGATED,
    EDGE,
    ES256,
    FOREIGN,
    ISSUER,
    KEYS,
    PARENT_EDGE,
    ROOT,
    SESSION,
    sign,
)

pytestmark = pytest.mark.anyio

NOW_S = CLAIMS.issued_at_s
TIMELESS = {"iat": NOW_S, "exp": 2**40}
"""The documented face reads the machine's own clock: its tokens live long."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def lasting(token_json: dict[str, Any]) -> str:
    return sign(token_json | TIMELESS)


PLAIN = lasting(CLAIMS.to_json())


async def ask(token: str | None, **options: Any) -> AuthResult:
    usual: dict[str, Any] = {"keys": StaticKeys(KEYS), "revocations": InMemoryRevocationStore()}
    return await authenticate(token, **{"issuer": ISSUER, "audience": AUDIENCE} | usual | options)


async def test_a_good_token_has_a_principal() -> None:
    result = await ask(lasting(DELEGATED.to_json()))

    assert result.ok
    assert result
    assert result.error is None
    principal = result.principal
    assert principal is not None
    assert (principal.subject, principal.client_id) == ("alice", APPLICATION)
    assert principal.scopes == {"read", "write"}
    assert (principal.session_id, principal.root_session_id) == (SESSION, ROOT)
    assert (principal.agent_session_id, principal.delegation_edge_id) == (AGENT, EDGE)
    assert (principal.delegation_path, principal.hop_count) == ((PARENT_EDGE, EDGE), 2)
    assert (principal.issuer, principal.audience, principal.expires_at) == (ISSUER, (AUDIENCE,), 2**40)
    assert principal.claims["zone_id"] == "default"


async def test_a_result_without_a_principal_is_false() -> None:
    result = await ask(None)

    assert not result.ok
    assert not result
    assert result.principal is None


@pytest.mark.parametrize(
    ("token", "options", "code"),
    [
        (None, {}, "missing_token"),
        ("", {}, "missing_token"),
        ("nonsense", {}, "invalid_token"),
        (mint(CLAIMS, ES256), {}, "invalid_token"),
        (PLAIN, {"audience": "https://other.example"}, "invalid_token"),
        (PLAIN, {"issuer": "https://other.example"}, "invalid_token"),
        (PLAIN, {"revocations": revoked(ROOT)}, "session_revoked"),
        (PLAIN, {"required_scopes": ("admin",)}, "insufficient_scope"),
        (PLAIN, {"required_scopes": ("admin",), "revocations": revoked(ROOT)}, "session_revoked"),
        (lasting(FOREIGN), {"require_session": True}, "session_required"),
        (PLAIN, {"require_delegation": True}, "delegation_required"),
        (lasting(DELEGATED.to_json()), {"max_hops": 1}, "hop_count_exceeded"),
        (PLAIN, {"revocations": Answers(Unknown("stale"))}, "revocation_unavailable"),
        (PLAIN, {"revocations": Store(lambda _: None)}, "revocation_unavailable"),
        (PLAIN, {"keys": Keys(KeysError("none"))}, "keys_unavailable"),
    ],
)
async def test_every_denial_is_an_error_with_words_and_never_raised(
    token: str | None, options: dict[str, Any], code: str
) -> None:
    error = (await ask(token, **options)).error

    assert error is not None
    assert error.code == code
    assert error.code is ErrorCode(code)
    assert error.description
    assert error.hint
    assert not [secret for secret in (*SECRETS, *PLAIN.split(".")[1:]) if secret in repr(error)]


def test_every_code_of_the_table_is_an_error_code() -> None:
    assert set(ErrorCode) == set(HTTP_STATUS)


async def test_leaving_out_the_revocations_is_a_type_error(app: FastAPI) -> None:
    with pytest.raises(TypeError, match="revocations"):
        await authenticate(PLAIN, issuer=ISSUER, audience=AUDIENCE)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="revocations"):
        MandateMiddleware(app, issuer=ISSUER, audience=AUDIENCE)  # type: ignore[call-arg]


async def test_revocations_that_cannot_be_asked_are_refused_with_or_without_a_token(app: FastAPI) -> None:
    nothing: Any = None
    for token in (None, PLAIN):
        with pytest.raises(ConfigurationError):
            await ask(token, revocations=nothing)
    with pytest.raises(ConfigurationError):
        MandateMiddleware(app, issuer=ISSUER, audience=AUDIENCE, revocations=nothing, keys=StaticKeys(KEYS))


async def test_a_misspelt_requirement_is_a_type_error_and_not_passed_over() -> None:
    with pytest.raises(TypeError, match="require_sesion"):
        await ask(PLAIN, require_sesion=True)


async def test_without_keys_those_that_the_issuer_publishes_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert vars(caracalai_transport_mcp)["keys_of"] is wiring.keys_of

    monkeypatch.setattr(caracalai_transport_mcp, "keys_of", {ISSUER: StaticKeys(KEYS)}.__getitem__)

    assert (await ask(PLAIN, keys=None)).ok


async def test_time_is_an_argument_where_the_face_is_ours() -> None:
    result = await enforced.authenticate(
        TOKEN_TEXT,
        issuer=ISSUER,
        audience=AUDIENCE,
        revocations=InMemoryRevocationStore(),
        keys=StaticKeys(KEYS),
        clock_s=lambda: NOW_S,
    )

    assert result.ok


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer a.b.c", "a.b.c"),
        ("bearer  a.b.c ", "a.b.c"),
        ("Basic a.b.c", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Bearera.b.c", None),
        ("", None),
        (None, None),
    ],
)
def test_a_bearer_token_is_extracted_from_a_header(header: str | None, token: str | None) -> None:
    assert extract_bearer(header) == token


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def greet(request: Request) -> str:
        return str(request.state.mandate.subject)

    return app


async def test_the_middleware_is_added_with_what_authenticate_takes(app: FastAPI) -> None:
    store = InMemoryRevocationStore()
    app.add_middleware(
        MandateMiddleware,
        issuer=ISSUER,
        audience=AUDIENCE,
        revocations=store,
        keys=StaticKeys(KEYS),
        required_scopes=("read",),
    )

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://api.example") as client:
        answers = [await client.get("/", headers={"Authorization": f"Bearer {PLAIN}"})]
        store.mark_revoked(SESSION)
        answers.append(await client.get("/", headers={"Authorization": f"Bearer {PLAIN}"}))
        answers.append(await client.get("/"))

    assert [answer.status_code for answer in answers] == [200, 401, 401]
    assert answers[0].json() == "alice"
    assert answers[1].json()["error"] == "session_revoked"
    assert answers[2].headers["www-authenticate"] == (
        'Bearer scope="read", resource_metadata="https://api.example/.well-known/oauth-protected-resource"'
    )


def test_the_documented_name_refuses_to_be_imported_beside_the_published_one(tmp_path: Path) -> None:
    info = tmp_path / "caracalai_transport_mcp-1.2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: caracalai-transport-mcp\nVersion: 1.2.3\n")

    done = subprocess.run(
        [sys.executable, "-c", "import caracalai_transport_mcp"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode != 0
    assert "ImportError: caracalai-transport-mcp and countermand are both installed" in done.stderr
