"""Whatever is sent to the API: the caller is told what is wrong in a problem document, and never what was sent."""

import json
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.problems import refused, refused_as_input
from tests.integration.rooms import file_of
from tests.running import Running
from tests.unit.mandates import LOOSE_JSON

pytestmark = pytest.mark.anyio

CANARY: Final = "c4n4ry0f7h3c411er"
JSON: Final = {"content-type": "application/json"}
PATHS: Final = ["/v1/applications", "/v1/sessions", "/v1/sessions/ses_" + "0" * 32 + "/mandates", "/v1/revocations"]
VALID: Final[dict[str, dict[str, Any]]] = {
    PATHS[0]: {"name": "notes"},
    PATHS[1]: {"application_id": "app_1", "subject": "alice", "subject_type": "user", "lifetime_s": 60},
    PATHS[2]: {"audience": ["https://api.example"], "scope": ["read"]},
    PATHS[3]: {"kind": "session", "id": "ses_" + "0" * 32, "reason": "because"},
}
MAX_BODY_BYTES: Final = 65_536


@pytest.fixture(scope="module")
async def admin(shared: Running, http: httpx2.AsyncClient) -> AsyncIterator[httpx2.AsyncClient]:
    http.headers["authorization"] = f"Bearer {shared.admin_key}"
    yield http
    del http.headers["authorization"]


@pytest.fixture
async def session(shared: Running) -> str:
    application = await shared.client.create_application("notes")
    return str((await shared.client.open_session(application["id"], "alice"))["id"])


def _changed(path: str) -> st.SearchStrategy[Any]:
    """Nearly what `path` takes: some of its fields replaced, or one more."""
    valid = VALID[path]
    replaced = st.dictionaries(st.sampled_from(sorted(valid)), LOOSE_JSON, min_size=1)
    added = st.dictionaries(st.text(st.characters()), LOOSE_JSON, min_size=1, max_size=2)
    return (replaced | added).map(lambda changes: valid | changes)


def _request(path: str) -> st.SearchStrategy[tuple[str, Any]]:
    return st.tuples(st.just(path), _changed(path) | LOOSE_JSON)


@given(request=st.sampled_from(PATHS).flatmap(_request))
@settings(max_examples=500, deadline=None)
async def test_any_json_is_taken_or_refused_as_input(admin: httpx2.AsyncClient, request: tuple[str, Any]) -> None:
    path, body = request
    response = await admin.post(path, content=json.dumps(body), headers=JSON)
    if response.status_code == 201:
        assert set(body) <= set(VALID[path]), "only what is known is taken"
        assert all(isinstance(value, str) for name, value in body.items() if name != "lifetime_s")
    else:
        refused_as_input(response)


@pytest.mark.parametrize("path", PATHS)
@given(content=st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
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
    *((path, "unknown", 1) for path in PATHS),
]


@pytest.mark.parametrize(("path", "field", "value"), FIELDS)
async def test_a_field_that_is_not_what_it_should_be_is_refused_and_nothing_is_done(
    shared: Running, admin: httpx2.AsyncClient, session: str, path: str, field: str, value: Any
) -> None:
    """Everything else in the request is right, so that it is this that is refused."""
    application_id = (await shared.client.create_application("notes"))["id"]
    right = {"application_id": application_id} if path == PATHS[1] else {"id": session} if path == PATHS[3] else {}
    path = path.replace("ses_" + "0" * 32, session)
    before = await _counts(shared)
    response = await admin.post(path, content=json.dumps({**_valid(path), **right, field: value}), headers=JSON)
    expected = 404 if field == "application_id" else 422
    refused(response, expected)
    assert await _counts(shared) == before
    if expected == 422:
        changed = {name: good for name, good in {**_valid(path), **right}.items() if name != field}
        good = _valid(path).get(field)
        whole = changed if good is None else {**changed, field: right.get(field, good)}
        assert (await admin.post(path, json=whole)).status_code == 201, "with this field put right it is taken"


def _valid(path: str) -> dict[str, Any]:
    return VALID[PATHS[2] if path.endswith("/mandates") else path]


async def _counts(running: Running) -> list[int]:
    async with file_of(running.data.database) as file:
        return [
            file.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - the names stand below
            for table in ("applications", "sessions", "entries")
        ]


@pytest.mark.parametrize(
    "after", ["x" * 65, "x" * 10_000, "ses_" + "f" * 61], ids=["just too long", "ten kilobytes", "an id and more"]
)
async def test_a_place_in_the_list_that_is_too_long_is_refused(admin: httpx2.AsyncClient, after: str) -> None:
    assert "after" in refused(await admin.get("/v1/sessions", params={"after": after}), 422, "invalid_value")


@pytest.mark.parametrize("after", ["%00", "%FF", "%ED%A0%80", "'%20OR%201=1%20--", "~", "%F0%9F%92%A3"])
async def test_a_place_in_the_list_that_no_session_has_is_only_a_place(admin: httpx2.AsyncClient, after: str) -> None:
    assert (await admin.get(f"/v1/sessions?after={after}")).status_code == 200


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
