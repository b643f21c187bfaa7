"""Whoever calls an OAuth endpoint, and whatever is no form of one: each is answered in the words of RFC 6749."""

import asyncio
import base64
import gzip
import json
from collections.abc import Callable
from typing import Final
from urllib.parse import urlencode

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.exchanging import FORM, INTROSPECT, REVOKE, TOKEN, Fleet, Pairs, altered, basic, form
from tests.integration.problems import refused_by_oauth
from tests.running import Running

pytestmark = pytest.mark.anyio

ZEROS: Final = "0" * 32
PATHS: Final = [TOKEN, REVOKE, INTROSPECT]
BY_BASIC: Final = "this needs an application's id and one of its keys, by HTTP Basic"
BY_EITHER: Final = "this needs an application's id and one of its keys by HTTP Basic, or a key that may read as Bearer"

each_path: Final = pytest.mark.parametrize("path", PATHS)


def _right(fleet: Fleet, path: str) -> Pairs:
    """What is answered with 200 there, and ends nothing."""
    if path == TOKEN:
        return form(fleet.token, agent_session_id=fleet.agents[0])
    return [("token", altered(fleet.token))]


def _refused(response: httpx2.Response, path: str) -> None:
    """Check that whoever called is not known, and hears how to be."""
    sentence = refused_by_oauth(response, 401, "invalid_client")
    assert sentence == (BY_EITHER if path == INTROSPECT else BY_BASIC)
    schemes = ["Basic", "Bearer"] if path == INTROSPECT else ["Basic"]
    assert response.headers["www-authenticate"] == ", ".join(f'{scheme} realm="countermand"' for scheme in schemes)


@each_path
@pytest.mark.parametrize(
    "type_", [FORM, f"{FORM}; charset=UTF-8", f'{FORM.upper()};charset="utf-8"', f"{FORM} ; charset=utf-8"]
)
async def test_a_form_in_utf_8_is_read_however_its_type_is_written(kept: Fleet, path: str, type_: str) -> None:
    response = await kept.desk.post(_right(kept, path), path, **{"content-type": type_})
    assert response.status_code == 200


TYPES: Final = {
    "another charset": f"{FORM}; charset=iso-8859-1",
    "a charset of nothing": f"{FORM}; charset=",
    "another parameter": f"{FORM}; boundary=x",
    "JSON": "application/json",
    "text": "text/plain",
    "a form of parts": "multipart/form-data; boundary=x",
    "nearly": f"{FORM}ed",
    "nothing": "",
}


@each_path
@pytest.mark.parametrize("type_", TYPES.values(), ids=TYPES)
async def test_what_does_not_say_that_it_is_a_form_in_utf_8_is_refused(kept: Fleet, path: str, type_: str) -> None:
    response = await kept.desk.post(_right(kept, path), path, **{"content-type": type_})
    refused_by_oauth(response, 400, "invalid_request")


@each_path
async def test_a_body_without_a_type_or_with_two_is_refused(kept: Fleet, path: str) -> None:
    right = ("authorization", basic(kept.desk.id, kept.desk.secret))
    for types in ([], [("content-type", FORM)] * 2, [("content-type", FORM), ("content-type", "application/json")]):
        response = await kept.desk.http.post(path, content=b"a=b", headers=[right, *types])
        refused_by_oauth(response, 400, "invalid_request")


BODIES: Final[dict[str, Callable[[bytes], bytes]]] = {
    "nothing": lambda _: b"",
    "JSON": lambda right: json.dumps({"form": right.decode()}).encode(),
    "compressed": gzip.compress,
    "a name alone": lambda right: right + b"&unknown",
    "two ampersands": lambda right: right.replace(b"&", b"&&", 1),
    "not ASCII": lambda right: right + "&unknown=ü".encode(),
    "escapes that are no UTF-8": lambda right: right + b"&unknown=%ff%fe",
    "an escaped surrogate": lambda right: right + b"&unknown=%ed%a0%80",
    "too many parameters": lambda right: right + b"".join(b"&p%d=1" % number for number in range(64)),
}


@each_path
@pytest.mark.parametrize("change", BODIES.values(), ids=BODIES)
async def test_a_body_that_is_no_form_is_refused(kept: Fleet, path: str, change: Callable[[bytes], bytes]) -> None:
    right = urlencode([*_right(kept, path), ("more", "1")]).encode()
    headers = {"authorization": basic(kept.desk.id, kept.desk.secret), "content-type": FORM}
    response = await kept.desk.http.post(path, content=right, headers=headers)
    assert response.status_code == 200
    response = await kept.desk.http.post(path, content=change(right), headers=headers)
    refused_by_oauth(response, 400, "invalid_request")


@each_path
@pytest.mark.parametrize("name", ["client_secret", "client_assertion"])
async def test_a_client_that_authenticates_twice_is_refused(kept: Fleet, path: str, name: str) -> None:
    response = await kept.desk.post([*_right(kept, path), (name, kept.desk.secret)], path)
    refused_by_oauth(response, 400, "invalid_request")
    assert kept.desk.secret not in response.text


@pytest.mark.parametrize("path", [REVOKE, INTROSPECT])
async def test_a_token_is_given_once_and_in_the_body(kept: Fleet, path: str) -> None:
    given = ("token", altered(kept.token))
    for pairs in ([given, given], [given, ("token", "x")], [("token", "")], [("token_type_hint", "access_token")]):
        refused_by_oauth(await kept.desk.post(pairs, path), 400, "invalid_request")
    headers = {"authorization": basic(kept.desk.id, kept.desk.secret), "content-type": FORM}
    response = await kept.desk.http.post(path, params=dict([given]), content=b"unknown=1", headers=headers)
    refused_by_oauth(response, 400, "invalid_request")


@pytest.mark.parametrize("path", [REVOKE, INTROSPECT])
async def test_a_hint_changes_nothing(kept: Fleet, path: str) -> None:
    for hint in ("access_token", "refresh_token", "", "x" * 1000):
        pairs = [*_right(kept, path), ("token_type_hint", hint), ("unknown", "1")]
        assert (await kept.desk.post(pairs, path)).status_code == 200
    pairs = [*_right(kept, path), ("token_type_hint", "access_token"), ("token_type_hint", "access_token")]
    refused_by_oauth(await kept.desk.post(pairs, path), 400, "invalid_request")


def _credentials(fleet: Fleet, running: Running) -> dict[str, list[str]]:
    """Authorization headers that must not work, made of some that would."""
    id_, secret = fleet.desk.id, fleet.desk.secret
    right = basic(id_, secret)
    return {
        "none": [],
        "an empty one": [""],
        "the scheme alone": ["Basic"],
        "the key as Bearer": [f"Bearer {secret}"],
        "the pair as Bearer": [right.replace("Basic", "Bearer")],
        "the key alone": [basic(secret, "")],
        "no secret": [basic(id_, "")],
        "no id": [basic("", secret)],
        "a wrong secret": [basic(id_, f"{secret[:-1]}{'0' if secret[-1] != '0' else '1'}")],
        "a secret cut short": [basic(id_, secret[:-1])],
        "the other way round": [basic(secret, id_)],
        "another application's id": [basic(fleet.worker.id, secret)],
        "another application's key": [basic(id_, fleet.worker.secret)],
        "no application": [basic(f"app_{ZEROS}", secret)],
        "an administrator's key": [basic(id_, running.admin_key)],
        "an administrator's key alone": [basic("", running.admin_key)],
        "a replica's key": [basic(id_, running.replica_key)],
        "not base64": [f"Basic {id_}:{secret}"],
        "base64 with a line end in it": [f"{right[:20]} {right[20:]}"],
        "base64 cut short": [right[:-1]],
        "the alphabet of URLs": ["Basic _-_-"],
        "no colon": ["Basic " + base64.b64encode(b"x").decode()],
        "two, both right": [right, right],
        "two, one right": [right, "Basic x"],
        "two in one": [f"{right}, {right}"],
        "not ASCII": ["Basic " + base64.b64encode(f"{id_}:{secret}ü".encode()).decode()],
    }


@each_path
async def test_no_way_but_one_to_authenticate_lets_a_client_in(shared: Running, kept: Fleet, path: str) -> None:
    body = urlencode(_right(kept, path))
    for name, values in _credentials(kept, shared).items():
        headers = [("content-type", FORM), *(("authorization", value) for value in values)]
        response = await kept.desk.http.post(path, content=body, headers=headers)
        assert response.status_code == 401, name
        _refused(response, path)
    for scheme in ("Basic", "basic", "BASIC"):
        headers = [
            ("content-type", FORM),
            ("authorization", basic(kept.desk.id, kept.desk.secret).replace("Basic", scheme)),
        ]
        assert (await kept.desk.http.post(path, content=body, headers=headers)).status_code == 200


@pytest.mark.parametrize("path", [TOKEN, REVOKE])
async def test_no_key_of_a_role_is_an_applications(shared: Running, kept: Fleet, path: str) -> None:
    for key in (shared.admin_key, shared.replica_key):
        _refused(await kept.desk.post(_right(kept, path), path, authorization=f"Bearer {key}"), path)


@each_path
async def test_credentials_in_the_form_are_none(kept: Fleet, path: str) -> None:
    pairs = [*_right(kept, path), ("client_id", kept.desk.id), ("client_secret", kept.desk.secret)]
    _refused(await kept.desk.http.post(path, data=dict(pairs)), path)


@each_path
async def test_credentials_are_escaped_as_in_a_form_before_they_are_encoded(kept: Fleet, path: str) -> None:
    escaped = "".join(f"%{byte:02X}" for byte in kept.desk.secret.encode())
    pair = base64.b64encode(f"{kept.desk.id}:{escaped}".encode()).decode()
    response = await kept.desk.post(_right(kept, path), path, authorization=f"Basic {pair}")
    assert response.status_code == 200


@each_path
async def test_whoever_is_no_client_hears_of_that_and_nothing_of_the_body(http: httpx2.AsyncClient, path: str) -> None:
    for content in (b"", b"{", b"a=b&a=b", b"x" * 100_000):
        _refused(await http.post(path, content=content, headers={"content-type": "application/json"}), path)


@each_path
async def test_nothing_of_a_body_is_read_before_the_client_is_known(shared: Running, path: str) -> None:
    """The body is declared and never sent: whoever waited for it would not answer."""
    host, port = shared.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {FORM}\r\nContent-Length: 9\r\n\r\n".encode())
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    writer.close()
    await writer.wait_closed()


@each_path
async def test_a_body_that_is_too_long_is_refused(kept: Fleet, path: str) -> None:
    response = await kept.desk.post([("token", "x" * 66_000)], path)
    refused_by_oauth(response, 413, "invalid_request")


@each_path
async def test_a_body_that_breaks_off_is_no_failure_of_the_authority(
    shared: Running, kept: Fleet, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = shared.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"Authorization: {basic(kept.desk.id, kept.desk.secret)}\r\nContent-Type: {FORM}\r\nContent-Length: 9\r\n"
    writer.write(f"POST {path} HTTP/1.1\r\nHost: a\r\n{head}\r\na=".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await kept.desk.post(_right(kept, path), path)).status_code == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@each_path
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
async def test_each_takes_only_a_post(kept: Fleet, path: str, method: str) -> None:
    headers = {"authorization": basic(kept.desk.id, kept.desk.secret)}
    response = await kept.desk.http.request(method, path, headers=headers)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


@each_path
@given(body=st.binary(max_size=200) | st.text("grant_typescope=&%+;0aF", max_size=60).map(str.encode))
@settings(max_examples=100, deadline=None)
async def test_any_bytes_are_answered_with_a_refusal(kept: Fleet, path: str, body: bytes) -> None:
    headers = {"authorization": basic(kept.desk.id, kept.desk.secret), "content-type": FORM}
    refused_by_oauth(await kept.desk.http.post(path, content=body, headers=headers), 400)


HEADER: Final = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=80)
CREDENTIALS: Final = st.binary(max_size=60).map(lambda pair: base64.b64encode(pair).decode())


@each_path
@given(header=HEADER | CREDENTIALS.map("Basic {}".format) | CREDENTIALS.map("Bearer {}".format))
@settings(max_examples=100, deadline=None)
async def test_any_authorization_header_is_answered_with_a_refusal(
    http: httpx2.AsyncClient, path: str, header: str
) -> None:
    headers = [(b"authorization", header.strip().encode("latin-1")), (b"content-type", FORM.encode())]
    _refused(await http.post(path, content=b"a=b", headers=headers), path)
