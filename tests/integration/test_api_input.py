"""Whatever is sent to the API: the caller is told what is wrong in a problem document, and never what was sent."""

import json
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from countermand.authority.model import SubjectType
from tests.integration.biscuits import mint, plain_id
from tests.integration.problems import refused, refused_as_input
from tests.looking import looking_into
from tests.running import PROOF, Running
from tests.unit.mandates import LOOSE_JSON

pytestmark = pytest.mark.anyio

CANARY: Final = "c4n4ry0f7h3c411er"
JSON: Final = {"content-type": "application/json"}
ZEROS: Final = "0" * 32
PATHS: Final = [
    "/v1/applications",
    "/v1/sessions",
    f"/v1/sessions/ses_{ZEROS}/mandates",
    "/v1/revocations",
    "/v1/agents",
    "/v1/grants",
    "/v1/delegations",
    "/v1/cutoffs",
    f"/v1/applications/app_{ZEROS}/keys",
    "/v1/biscuit/revocations",
    "/v1/biscuits",
]
VALID: Final[dict[str, dict[str, Any]]] = {
    PATHS[0]: {"name": "notes"},
    PATHS[1]: {"application_id": "app_1", "subject": "alice", "subject_type": "user", "lifetime_s": 60},
    PATHS[2]: {"audience": ["https://api.example"], "scope": ["read"]},
    PATHS[3]: {"kind": "session", "id": f"ses_{ZEROS}", "reason": "because", "bare": False, "dry_run": False},
    PATHS[4]: {"application_id": "app_1", "name": "worker", "session_id": f"ses_{ZEROS}", "lifetime_s": 60},
    PATHS[5]: {
        "application_id": "app_1",
        "subject": "alice",
        "scope": ["read"],
        "audience": ["https://api.example"],
        "lifetime_s": 60,
    },
    PATHS[6]: {
        "source_id": f"agt_{ZEROS}",
        "target_id": f"agt_{'1' * 32}",
        "scope": ["read"],
        "audience": ["https://api.example"],
        "lifetime_s": 60,
        "depth": 0,
    },
    PATHS[7]: {"target": "subject:nobody", "issuer": "https://other.example", "reason": "because", "dry_run": False},
    PATHS[8]: {"name": "for a test"},
    PATHS[9]: {"token": mint(), "reason": "because", "dry_run": False},
    PATHS[10]: {"ids": [plain_id()], "session_id": f"ses_{ZEROS}", "expires_at": "2100-01-01T00:00:00Z"},
}
TYPES: Final[dict[str, type]] = {"ids": list, "lifetime_s": int, "depth": int, "bare": bool, "dry_run": bool}
"""Of the fields that are no text."""
MAX_BODY_BYTES: Final = 65_536


@pytest.fixture(scope="module")
async def admin(shared: Running, http: httpx2.AsyncClient) -> AsyncIterator[httpx2.AsyncClient]:
    http.headers["authorization"] = f"Bearer {shared.admin_key}"
    yield http
    del http.headers["authorization"]


@pytest.fixture
async def right(shared: Running) -> dict[str, Any]:
    """What stands: ids by the fields that name them, and by the prefix of an id in a path; what nobody has ended."""
    opening = shared.authority.service.opening
    application = await opening.create_application("notes")
    session = await opening.open_session(application.id, "alice", SubjectType.USER, 60)
    await opening.create_grant(application.id, "alice", ["read"], ["https://api.example"], 60)
    source, target = [await opening.start_agent(application.id, "worker", 60, session_id=session.id) for _ in range(2)]
    return {
        "application_id": application.id,
        "session_id": session.id,
        "source_id": source.id,
        "target_id": target.id,
        "id": session.id,
        "app_": application.id,
        "ses_": session.id,
        "token": mint(),
        "ids": [plain_id()],
    }


def _changed(path: str) -> st.SearchStrategy[Any]:
    """Nearly what `path` takes: some of its fields replaced, or one more."""
    valid = VALID[path]
    replaced = st.dictionaries(st.sampled_from(sorted(valid)), LOOSE_JSON, min_size=1)
    added = st.dictionaries(st.text(st.characters()), LOOSE_JSON, min_size=1, max_size=2)
    return (replaced | added).map(lambda changes: valid | changes)


def _request(path: str) -> st.SearchStrategy[tuple[str, Any]]:
    return st.tuples(st.just(path), _changed(path) | LOOSE_JSON)


@given(request=st.sampled_from(PATHS).flatmap(_request))
@settings(max_examples=500 if PROOF else 150, deadline=None)
async def test_any_json_is_taken_or_refused_as_input(admin: httpx2.AsyncClient, request: tuple[str, Any]) -> None:
    path, body = request
    response = await admin.post(path, content=json.dumps(body), headers=JSON)
    if response.status_code in {200, 201}:
        assert set(body) <= set(VALID[path]), "only what is known is taken"
        assert all(type(value) is TYPES.get(name, str) for name, value in body.items())
    else:
        refused_as_input(response)


@pytest.mark.parametrize("path", PATHS)
@given(content=st.binary(max_size=200))
@settings(max_examples=60 if PROOF else 15, deadline=None)
async def test_any_bytes_are_refused_as_input(admin: httpx2.AsyncClient, path: str, content: bytes) -> None:
    refused_as_input(await admin.post(path, content=content, headers=JSON))


BYTES: Final = {
    "nothing": b"",
    "not JSON": b"{",
    "text behind it": b'{"name":"notes"} x',
    "no UTF-8": b'{"name":"\xff\xfe"}',
    "UTF-8 of a surrogate": b'{"name":"\xed\xa0\x80"}',
    "open brackets": b"[" * 60_000,
    "nested lists": b"[" * 30_000 + b"]" * 30_000,
    "nested objects": b'{"name":' * 8_000 + b"1" + b"}" * 8_000,
    "a nested name": b'{"name":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "a long number": b'{"name":' + b"9" * 60_000 + b"}",
    "an endless number": b'{"name":1e999999}',
    "no number": b'{"name":NaN}',
    "the name twice": b'{"name":1,"name":2}',
    "null": b"null",
    "a number": b"7",
    "a text": b'"notes"',
    "a list": b'["notes"]',
    "many fields": json.dumps({f"field{n}": n for n in range(3_000)}).encode(),
    "a lone surrogate as a field": b'{"name":"notes","\\ud800":1}',
}


@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES)
@pytest.mark.parametrize("path", PATHS)
async def test_bytes_made_to_hurt_are_refused_as_input(admin: httpx2.AsyncClient, path: str, content: bytes) -> None:
    assert len(refused_as_input(await admin.post(path, content=content, headers=JSON))) < 1_000


@pytest.mark.parametrize("path", PATHS)
async def test_a_hundred_thousand_brackets_are_too_long_and_the_authority_lives_on(
    admin: httpx2.AsyncClient, path: str
) -> None:
    for content in (b"[" * 100_000, b"[" * 50_000 + b"]" * 50_000, b'{"name":' * 20_000):
        refused(await admin.post(path, content=content, headers=JSON), 413, "body_too_large")
    assert (await admin.get("/.well-known/jwks.json")).status_code == 200


async def test_a_body_of_the_largest_size_is_read_and_one_byte_more_is_refused(admin: httpx2.AsyncClient) -> None:
    """As declared, and in chunks that declare nothing."""

    async def chunks(content: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(content), 10_000):
            yield content[start : start + 10_000]

    largest = b'{"name":"notes"}'.ljust(MAX_BODY_BYTES)
    for content in (largest, chunks(largest)):
        assert (await admin.post("/v1/applications", content=content, headers=JSON)).status_code == 201
    for content in (largest + b" ", chunks(largest + b" ")):
        response = await admin.post("/v1/applications", content=content, headers=JSON)
        assert refused(response, 413, "body_too_large") == "the body is too long"


@pytest.mark.parametrize("content", [*BYTES.values(), b"x" * 100_000], ids=[*BYTES, "too long"])
@pytest.mark.parametrize("path", PATHS)
async def test_whoever_has_no_key_hears_of_that_and_nothing_of_the_body(
    http: httpx2.AsyncClient, path: str, content: bytes
) -> None:
    response = await http.post(path, content=content, headers={**JSON, "authorization": "Bearer x"})
    refused(response, 401, "unauthenticated")


@pytest.mark.parametrize("type_", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", None])
@pytest.mark.parametrize("path", PATHS)
async def test_a_body_that_does_not_say_that_it_is_json_is_refused(
    admin: httpx2.AsyncClient, path: str, type_: str | None
) -> None:
    """A form of a strange web page can send anything but this type without asking first."""
    headers = {} if type_ is None else {"content-type": type_}
    refused_as_input(await admin.post(path, content=json.dumps(VALID[path]), headers=headers))


NO_INSTANTS: Final[list[Any]] = [
    "",
    0,
    1_700_000_000,
    "1700000000",
    "2026-01-01",
    "2026-01-01T00:00:00",
    "2026-01-01 00:00:00Z",
    "2026-01-01T00:00Z",
    "2026-01-01T00:00:00,5Z",
    "2026-W01-1T00:00:00Z",
    "20260101T000000Z",
    "2026-02-30T00:00:00Z",
    "2026-01-01T24:00:01Z",
    "2026-01-01T00:00:60Z",
    "2026-01-01T00:00:00+24:00",
    "2026-01-01T00:00:00+0100",
    "2026-01-01T00:00:00 01:00",
    "٢٠٢٦-01-01T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "1969-12-31T23:59:59Z",
    "1970-01-01T00:00:00Z",
    "9999-12-31T23:59:59-14:00",
]

FIELDS: Final[list[tuple[str, str, Any]]] = [
    (PATHS[0], "name", None),
    (PATHS[0], "name", 7),
    (PATHS[0], "name", ["notes"]),
    (PATHS[0], "name", "a\x00b"),
    (PATHS[0], "name", "a\nb"),
    (PATHS[0], "name", "\x7f"),
    (PATHS[0], "name", "\u2028"),
    (PATHS[0], "name", "\ud800"),
    (PATHS[0], "name", "x" * 257),
    (PATHS[1], "subject", ""),
    (PATHS[1], "subject", "\udfff"),
    (PATHS[1], "subject", "a\x1b[31m"),
    (PATHS[1], "subject", "x" * 257),
    (PATHS[1], "subject", {"of": "nobody"}),
    (PATHS[1], "subject_type", "root"),
    (PATHS[1], "subject_type", "USER"),
    (PATHS[1], "subject_type", "\ud800"),
    (PATHS[1], "subject_type", None),
    (PATHS[1], "lifetime_s", 0),
    (PATHS[1], "lifetime_s", -1),
    (PATHS[1], "lifetime_s", 366 * 86_400 + 1),
    (PATHS[1], "lifetime_s", 10**400),
    (PATHS[1], "lifetime_s", "60"),
    (PATHS[1], "lifetime_s", 60.0),
    (PATHS[1], "lifetime_s", True),
    (PATHS[1], "application_id", "\ud800"),
    (PATHS[2], "audience", []),
    (PATHS[2], "audience", "https://api.example"),
    (PATHS[2], "audience", [""]),
    (PATHS[2], "audience", ["a", None]),
    (PATHS[2], "audience", ["\ud800"]),
    (PATHS[2], "audience", ["x" * 257]),
    (PATHS[2], "audience", [f"a{n}" for n in range(17)]),
    (PATHS[2], "scope", ["two words"]),
    (PATHS[2], "scope", ['a"b']),
    (PATHS[2], "scope", ["a\\b"]),
    (PATHS[2], "scope", ["é"]),
    (PATHS[2], "scope", [""]),
    (PATHS[2], "scope", "read"),
    (PATHS[2], "scope", [f"s{n}" for n in range(65)]),
    (PATHS[2], "scope", [f"{n:0256}" for n in range(64)]),
    (PATHS[3], "kind", "Session"),
    (PATHS[3], "kind", ["session"]),
    (PATHS[3], "id", None),
    (PATHS[3], "reason", "two\nlines"),
    (PATHS[3], "reason", "\x00"),
    (PATHS[3], "reason", "\ud800"),
    (PATHS[3], "reason", "x" * 513),
    (PATHS[3], "id", f"agt_{ZEROS}"),
    (PATHS[3], "bare", "no"),
    (PATHS[3], "bare", None),
    (PATHS[3], "issuer", "a\n"),
    (PATHS[3], "issuer", None),
    (PATHS[3], "dry_run", 0),
    (PATHS[4], "application_id", f"ses_{ZEROS}"),
    (PATHS[4], "name", ""),
    (PATHS[4], "name", "a\x00b"),
    (PATHS[4], "session_id", None),
    (PATHS[4], "session_id", "\ud800"),
    (PATHS[4], "session_id", f"ses_{ZEROS}"),
    (PATHS[4], "parent_id", f"agt_{ZEROS}"),
    (PATHS[4], "delegation_id", f"edg_{ZEROS}"),
    (PATHS[4], "lifetime_s", 0),
    (PATHS[4], "lifetime_s", 366 * 86_400 + 1),
    (PATHS[5], "application_id", f"app_{ZEROS}"),
    (PATHS[5], "subject", None),
    (PATHS[5], "subject", "x" * 257),
    (PATHS[5], "scope", None),
    (PATHS[5], "scope", ["two words"]),
    (PATHS[5], "audience", []),
    (PATHS[5], "audience", [f"a{n}" for n in range(17)]),
    (PATHS[5], "lifetime_s", "60"),
    (PATHS[6], "source_id", f"agt_{ZEROS}"),
    (PATHS[6], "source_id", None),
    (PATHS[6], "target_id", f"edg_{ZEROS}"),
    (PATHS[6], "parent_id", f"edg_{ZEROS}"),
    (PATHS[6], "parent_id", 1),
    (PATHS[6], "scope", "read"),
    (PATHS[6], "audience", None),
    (PATHS[6], "depth", -1),
    (PATHS[6], "depth", 33),
    (PATHS[6], "depth", "1"),
    (PATHS[6], "depth", True),
    (PATHS[7], "target", ""),
    (PATHS[7], "target", "everyone"),
    (PATHS[7], "target", "session:1"),
    (PATHS[7], "target", "subject:"),
    (PATHS[7], "target", "subject:a\n"),
    (PATHS[7], "target", "all"),
    (PATHS[7], "issuer", "a\x00"),
    (PATHS[7], "reason", "\ud800"),
    (PATHS[7], "dry_run", "yes"),
    *((PATHS[7], "issued_before", value) for value in NO_INSTANTS),
    (PATHS[8], "name", ""),
    (PATHS[8], "name", None),
    (PATHS[8], "name", "\u2028"),
    *((PATHS[9], "token", value) for value in (None, 7, "", "biscuit:", "x" * 20_000, "\x00", "\ud800", ["x"])),
    *((PATHS[9], "block", value) for value in (-1, 1, 33, 2**63, "0", 0.0, True, [0])),
    (PATHS[9], "reason", "two\nlines"),
    (PATHS[9], "dry_run", None),
    *((PATHS[10], "ids", value) for value in (None, [], "00" * 64, [7], [None], [""], ["zz" * 64], ["00" * 65])),
    (PATHS[10], "ids", [f"{number:0128x}" for number in range(101)]),
    (PATHS[10], "session_id", None),
    (PATHS[10], "session_id", "\ud800"),
    (PATHS[10], "session_id", f"ses_{ZEROS}"),
    (PATHS[10], "subject", "alice"),
    (PATHS[10], "application_id", 7),
    *((PATHS[10], "expires_at", value) for value in NO_INSTANTS[:-1]),
    (PATHS[10], "expires_at", "2020-01-01T00:00:00Z"),
    *((path, "unknown", 1) for path in PATHS),
]


@pytest.mark.parametrize(("path", "field", "value"), FIELDS)
async def test_a_field_that_is_not_what_it_should_be_is_refused_and_nothing_is_done(
    shared: Running, admin: httpx2.AsyncClient, right: dict[str, Any], path: str, field: str, value: Any
) -> None:
    """Everything else in the request is right, so that it is this that is refused."""
    valid = {name: right.get(name, good) for name, good in VALID[path].items()}
    for prefix in ("app_", "ses_"):
        path = path.replace(prefix + ZEROS, right[prefix])
    before = await _counts(shared)
    response = await admin.post(path, content=json.dumps({**valid, field: value}), headers=JSON)
    refused(response, _status(field, value))
    assert await _counts(shared) == before
    assert (await admin.post(path, json=valid)).status_code == 201, "with this field put right it is taken"


def _status(field: str, value: Any) -> int:
    """An id that names nothing is not found, unless it is named where none may be."""
    names_nothing = field.endswith("id") and isinstance(value, str)
    return 404 if names_nothing and (field, value[:4]) != ("parent_id", "agt_") and field != "delegation_id" else 422


async def _counts(running: Running) -> list[int]:
    async with looking_into(running.data) as look:
        tables = ("anchors", "api_keys", "biscuits", "entries")
        return [(await look.execute(f"SELECT count(*) FROM {table}"))[0][0] for table in tables]  # noqa: S608 - the names stand above


@pytest.mark.parametrize(
    "after", ["x" * 65, "x" * 10_000, "ses_" + "f" * 61], ids=["just too long", "ten kilobytes", "an id and more"]
)
async def test_a_place_in_the_list_that_is_too_long_is_refused(admin: httpx2.AsyncClient, after: str) -> None:
    assert "after" in refused(await admin.get("/v1/sessions", params={"after": after}), 422, "invalid_value")


@pytest.mark.parametrize(
    "after", ["", "0", "-1", "1.5", "A", "%00", "%FF", "%ED%A0%80", "'%20OR%201=1%20--", "~", "%F0%9F%92%A3"]
)
async def test_a_place_that_no_list_gave_is_refused(admin: httpx2.AsyncClient, after: str) -> None:
    refused(await admin.get(f"/v1/sessions?after={after}"), 422, "invalid_value")


@pytest.mark.parametrize("after", ["", "-1", "x", "1.5", "1e3", "٣", "%00", str(2**53), "9" * 5_000, "0x10"])
async def test_a_place_in_the_log_that_is_no_number_is_refused(admin: httpx2.AsyncClient, after: str) -> None:
    assert "after" in refused(await admin.get(f"/v1/log?after={after}"), 422, "invalid_value")


IDS: Final = [
    "x" * 10_000,
    "ses_" + "0" * 10_000,
    "\x00",
    "ses_" + "٣" * 32,
    "..",
    "SES_" + "0" * 32,
    "ses_" + "G" * 32,
]


@pytest.mark.parametrize("id_", IDS, ids=range(len(IDS)))
async def test_an_id_in_a_path_that_no_session_has_is_not_found(admin: httpx2.AsyncClient, id_: str) -> None:
    path = f"/v1/sessions/{quote(id_, safe='')}"
    refused(await admin.get(path), 404, "not_found")
    refused(await admin.post(f"{path}/mandates", json=VALID[PATHS[2]]), 404, "not_found")
    refused(await admin.post("/v1/revocations", json={"kind": "session", "id": id_}), 404, "not_found")


@pytest.mark.parametrize("path", PATHS)
async def test_no_refusal_repeats_what_was_sent(admin: httpx2.AsyncClient, path: str) -> None:
    bodies: list[Any] = [
        CANARY,
        [CANARY],
        {CANARY: CANARY},
        {**VALID[path], CANARY: 1},
        {**VALID[path], CANARY: {CANARY: [CANARY]}},
        *({**VALID[path], field: f"{CANARY}\n"} for field in VALID[path]),
        *({**VALID[path], field: {CANARY: CANARY}} for field in VALID[path]),
        *({**VALID[path], field: [f"{CANARY}\n"]} for field in VALID[path]),
    ]
    contents = [json.dumps(body).encode() for body in bodies] + [f'{{"{CANARY}"'.encode(), f'"{CANARY}\xff'.encode()]
    for content in contents:
        response = await admin.post(path, content=content, headers=JSON)
        refused_as_input(response)
        assert CANARY not in response.text
    for method, target in (
        ("GET", f"/v1/{CANARY}"),
        (CANARY.upper(), path),
        ("GET", f"/v1/sessions/{CANARY}"),
        ("GET", f"/v1/sessions?after={CANARY * 9}"),
        ("GET", f"/v1/log?after={CANARY}"),
    ):
        response = await admin.request(method, target)
        refused_as_input(response)
        assert CANARY.upper() not in response.text.upper()


@pytest.mark.parametrize("subject", ["zoë", "日本語", "🦊" * 64, "a b", "a'b\"c\\d", "x" * 256, "\u202e"])
async def test_subjects_of_any_script_work(shared: Running, admin: httpx2.AsyncClient, subject: str) -> None:
    application = await shared.client.create_application(subject)
    opened = await shared.client.open_session(application["id"], subject)
    assert (application["name"], opened["subject"]) == (subject, subject)
    assert (await admin.get(f"/v1/sessions/{opened['id']}")).json()["subject"] == subject
    await shared.client.issue_mandate(opened["id"], "https://api.example")
    assert (await shared.client.revoke("session", opened["id"], subject))["reason"] == subject
