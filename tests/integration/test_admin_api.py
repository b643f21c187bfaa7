"""The admin API over HTTP: what each endpoint does, and with which words it refuses."""

import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from countermand.authority import database as database_module
from countermand.tokens.jwks import parse_jwks
from countermand.transport.http import open_client
from tests.integration.problems import refused
from tests.integration.rooms import insert_sessions, rooms_open
from tests.looking import held, looking_into
from tests.running import Running, authority_running

pytestmark = pytest.mark.anyio

UNKNOWN = "ses_" + "0" * 32
AUDIENCE = "https://api.example"


@pytest.fixture
async def admin(shared: Running, http: httpx2.AsyncClient) -> AsyncIterator[httpx2.AsyncClient]:
    http.headers["authorization"] = f"Bearer {shared.admin_key}"
    yield http
    del http.headers["authorization"]


async def _application(admin: httpx2.AsyncClient) -> str:
    return str((await admin.post("/v1/applications", json={"name": "notes"})).json()["id"])


async def _session(admin: httpx2.AsyncClient, **fields: Any) -> dict[str, Any]:
    body = {"application_id": await _application(admin), "subject": "alice"} | fields
    response = await admin.post("/v1/sessions", json=body)
    assert response.status_code == 201
    session: dict[str, Any] = response.json()
    return session


def _is_now(text: str) -> bool:
    return abs(datetime.now(UTC) - datetime.fromisoformat(text)) < timedelta(seconds=30)


async def test_an_application_is_registered(admin: httpx2.AsyncClient) -> None:
    response = await admin.post("/v1/applications", json={"name": "Zoë's notes"})
    assert response.status_code == 201
    body = response.json()
    assert set(body) == {"id", "name", "created_at", "revoked_at", "stands", "labels"}
    assert (body["name"], body["revoked_at"], body["labels"]) == ("Zoë's notes", None, [])
    assert body["id"].startswith("app_")
    assert _is_now(body["created_at"])
    assert body["created_at"].endswith("Z")


async def test_a_session_is_opened_for_half_a_day_unless_told_otherwise(admin: httpx2.AsyncClient) -> None:
    session = await _session(admin, subject="zoë@example")
    assert set(session) == {
        "id",
        "subject",
        "subject_type",
        "application_id",
        "parent_id",
        "created_at",
        "expires_at",
        "revoked_at",
        "stands",
        "labels",
    }
    assert (session["subject"], session["subject_type"]) == ("zoë@example", "user")
    assert (session["parent_id"], session["revoked_at"], session["stands"]) == (None, None, True)
    created, expires = (datetime.fromisoformat(session[name]) for name in ("created_at", "expires_at"))
    assert _is_now(session["created_at"])
    assert expires - created == timedelta(hours=12)


async def test_a_session_is_opened_as_it_was_asked_for_and_reads_back_the_same(admin: httpx2.AsyncClient) -> None:
    session = await _session(admin, subject_type="application", lifetime_s=366 * 86_400)
    assert session["subject_type"] == "application"
    response = await admin.get(f"/v1/sessions/{session['id']}")
    assert response.status_code == 200
    body = response.json()
    assert [(node["kind"], node["id"]) for node in body.pop("lineage")] == [("application", session["application_id"])]
    assert body == session


async def test_a_mandate_is_minted_and_no_cache_may_keep_it(admin: httpx2.AsyncClient) -> None:
    session = await _session(admin)
    response = await admin.post(
        f"/v1/sessions/{session['id']}/mandates", json={"audience": [AUDIENCE], "scope": ["b", "a"]}
    )
    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    body = response.json()
    assert body.pop("access_token").count(".") == 2
    assert body == {"token_type": "Bearer", "expires_in": 900, "scope": "a b"}


async def test_a_revocation_is_answered_with_its_entry_and_again_with_the_one_that_stands(
    admin: httpx2.AsyncClient,
) -> None:
    session = await _session(admin)
    first = await admin.post(
        "/v1/revocations", json={"kind": "session", "id": session["id"], "reason": "laptop stolen"}
    )
    assert first.status_code == 201
    entry = first.json()
    assert set(entry) == {
        "seq",
        "generation",
        "kind",
        "id",
        "issuer",
        "reason",
        "revoked_at",
        "is_new",
        "reach",
    }
    assert (entry["kind"], entry["id"], entry["generation"]) == ("session", session["id"], 1)
    assert (entry["issuer"], entry["reason"], entry["is_new"]) == ("", "laptop stolen", True)
    assert entry["reach"] == {"counts": {"session": 1}, "is_whole": True}
    assert entry["seq"] >= 1
    assert _is_now(entry["revoked_at"])

    again = await admin.post("/v1/revocations", json={"kind": "session", "id": session["id"], "reason": "another"})
    assert again.status_code == 200
    assert again.json() == entry | {"is_new": False, "reach": {"counts": {}, "is_whole": True}}, "it ended nothing more"
    shown = (await admin.get(f"/v1/sessions/{session['id']}")).json()
    assert shown.items() >= (session | {"revoked_at": entry["revoked_at"], "stands": False}).items()


async def test_a_revoked_session_mints_nothing(admin: httpx2.AsyncClient) -> None:
    session = await _session(admin)
    await admin.post("/v1/revocations", json={"kind": "session", "id": session["id"]})
    response = await admin.post(f"/v1/sessions/{session['id']}/mandates", json={"audience": [AUDIENCE]})
    assert refused(response, 409, "not_active") == f"the session {session['id']} has ended"


async def test_an_expired_session_mints_nothing_and_can_still_be_revoked(
    shared: Running, admin: httpx2.AsyncClient
) -> None:
    session = await _session(admin)
    async with looking_into(shared.data) as look:
        await look.execute("UPDATE anchors SET expires_at_ms = created_at_ms - 1 WHERE id = :id", id=session["id"])
    response = await admin.post(f"/v1/sessions/{session['id']}/mandates", json={"audience": [AUDIENCE]})
    assert refused(response, 409, "not_active") == f"the session {session['id']} has ended"
    response = await admin.post("/v1/revocations", json={"kind": "session", "id": session["id"]})
    assert response.status_code == 201


async def test_the_keys_need_no_credential_and_may_be_kept_for_a_minute(
    shared: Running, http: httpx2.AsyncClient
) -> None:
    response = await http.get("/.well-known/jwks.json")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/jwk-set+json"
    assert response.headers["cache-control"] == "public, max-age=60"
    assert parse_jwks(response.content) == shared.authority.service.minting.key_set
    assert not {"d", "k", "p", "q"} & set(response.json()["keys"][0]), "no private number"


REFUSED: list[tuple[str, str, str, Any, int, str]] = [
    ("no application", "POST", "/v1/sessions", {"application_id": "app_1", "subject": "a"}, 404, "not_found"),
    ("no session to read", "GET", f"/v1/sessions/{UNKNOWN}", None, 404, "not_found"),
    ("no id of a session", "GET", "/v1/sessions/alice", None, 404, "not_found"),
    ("no session to mint on", "POST", f"/v1/sessions/{UNKNOWN}/mandates", {"audience": ["a"]}, 404, "not_found"),
    ("no session to revoke", "POST", "/v1/revocations", {"kind": "session", "id": UNKNOWN}, 404, "not_found"),
    ("nothing at this path", "GET", "/v1/nothing", None, 404, "not_found"),
    ("a slash too many", "GET", "/v1/sessions/", None, 404, "not_found"),
    ("no such method", "DELETE", "/v1/revocations", None, 405, "method_not_allowed"),
    ("another kind", "POST", "/v1/revocations", {"kind": "cutoff", "id": "all"}, 422, "invalid_value"),
    ("no kind", "POST", "/v1/revocations", {"id": UNKNOWN}, 422, "invalid_value"),
    ("no body", "POST", "/v1/applications", None, 422, "invalid_value"),
    ("no name", "POST", "/v1/applications", {"name": ""}, 422, "invalid_value"),
    ("a long name", "POST", "/v1/applications", {"name": "é" * 129}, 422, "invalid_value"),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
async def test_what_cannot_be_done_is_refused_in_a_problem_document(
    admin: httpx2.AsyncClient, method: str, path: str, body: Any, status: int, code: str
) -> None:
    response = await admin.request(method, path, json=body)
    refused(response, status, code)
    if status == 405:
        assert response.headers["allow"] == "GET, POST", "of both routes at this path"


@pytest.mark.parametrize("count", [0, 100, 101, 250])
async def test_paging_through_the_sessions_loses_none_and_repeats_none(tmp_path: Path, count: int) -> None:
    ids: list[str] = []
    async with rooms_open(tmp_path) as rooms:
        if count:
            ids = await insert_sessions(rooms.database, count)
    ids.reverse()  # newest first
    pages: list[list[str]] = []
    async with authority_running(tmp_path) as running:
        headers = {"authorization": f"Bearer {running.admin_key}"}
        async with open_client(10, url=running.url, headers=headers) as admin:
            place: dict[str, str] | None = {}
            while place is not None:
                page = (await admin.get("/v1/sessions", params=place)).json()
                pages.append([session["id"] for session in page["items"]])
                place = {"after": page["next"]} if page["next"] else None
    assert [id_ for page in pages for id_ in page] == ids
    assert [len(page) for page in pages] == ([100] * (count // 100) + [count % 100] if count % 100 else [count])


async def test_a_database_held_by_another_program_is_answered_with_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "WAIT_S", 0.1)
    async with authority_running(tmp_path) as running:
        headers = {"authorization": f"Bearer {running.admin_key}"}
        async with open_client(10, url=running.url, headers=headers) as admin:
            async with held(running.data):
                response = await admin.post("/v1/applications", json={"name": "notes"})
            refused(response, 503, "busy")
            assert response.headers["retry-after"] == "1"
            assert (await admin.post("/v1/applications", json={"name": "notes"})).status_code == 201


async def test_a_failure_of_the_authority_says_nothing_to_the_caller_and_all_to_the_log(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"authorization": f"Bearer {running.admin_key}"}
    async with open_client(10, url=running.url, headers=headers) as admin:
        session = await _session(admin)
        revocation = {"kind": "session", "id": session["id"]}
        await admin.post("/v1/revocations", json=revocation)
        async with looking_into(running.data) as look:
            [(data,)] = await look.execute("SELECT data FROM entries")
            await look.execute("UPDATE entries SET data = :damaged", damaged=b"\xff" + data[1:])
        caplog.clear()
        response = await admin.post("/v1/revocations", json=revocation)
        assert refused(response, 500, "internal_error") == "the authority failed; its log says why"
    [logged] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert logged.exc_info is not None
    assert "UnknownVersionError" in caplog.text
    assert running.admin_key.split("_")[2] not in caplog.text
