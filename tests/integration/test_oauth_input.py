"""Whatever is sent to the token endpoint: it answers in the words of RFC 6749, and never in the sender's."""

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator, Callable
from typing import Final
from urllib.parse import urlencode

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.admin import AUDIENCE, administering
from tests.integration.exchanging import (
    ACCESS_TOKEN,
    EXCHANGE,
    FORM,
    JWT,
    Fleet,
    Pairs,
    altered,
    basic,
    form,
    new_fleet,
)
from tests.integration.problems import refused_by_oauth
from tests.running import Running

pytestmark = pytest.mark.anyio

ZEROS: Final = "0" * 32


@pytest.fixture(scope="module")
async def kept(shared: Running, http: httpx2.AsyncClient) -> AsyncIterator[Fleet]:
    """No test here changes it."""
    async with administering(shared) as opened:
        yield await new_fleet(opened, http)


async def test_unknown_parameters_and_those_without_a_value_are_ignored(kept: Fleet) -> None:
    pairs = form(kept.token, agent_session_id=kept.agents[0])
    more = [
        ("unknown", "1"),
        ("client_id", kept.desk.id),
        ("delegation_edge_id", ""),
        ("scope", ""),
        ("actor_token", ""),
    ]
    assert (await kept.desk.post(pairs + more)).status_code == 200


@pytest.mark.parametrize(
    "type_", [FORM, f"{FORM}; charset=UTF-8", f'{FORM.upper()};charset="utf-8"', f"{FORM} ; charset=utf-8"]
)
async def test_a_form_in_utf_8_is_read_however_its_type_is_written(kept: Fleet, type_: str) -> None:
    pairs = form(kept.token, agent_session_id=kept.agents[0])
    assert (await kept.desk.post(pairs, **{"content-type": type_})).status_code == 200


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


@pytest.mark.parametrize("type_", TYPES.values(), ids=TYPES)
async def test_what_does_not_say_that_it_is_a_form_in_utf_8_is_refused(kept: Fleet, type_: str) -> None:
    pairs = form(kept.token, agent_session_id=kept.agents[0])
    refused_by_oauth(await kept.desk.post(pairs, **{"content-type": type_}), 400, "invalid_request")


async def test_a_body_without_a_type_or_with_two_is_refused(kept: Fleet) -> None:
    right = ("authorization", basic(kept.desk.id, kept.desk.secret))
    for types in ([], [("content-type", FORM)] * 2, [("content-type", FORM), ("content-type", "application/json")]):
        response = await kept.desk.http.post("/oauth2/token", content=b"a=b", headers=[right, *types])
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
    "too many parameters": lambda right: right + b"".join(b"&p%d=1" % number for number in range(60)),
}


@pytest.mark.parametrize("change", BODIES.values(), ids=BODIES)
async def test_a_body_that_is_no_form_is_refused(kept: Fleet, change: Callable[[bytes], bytes]) -> None:
    right = urlencode(form(kept.token, agent_session_id=kept.agents[0])).encode()
    headers = {"authorization": basic(kept.desk.id, kept.desk.secret), "content-type": FORM}
    response = await kept.desk.http.post("/oauth2/token", content=right, headers=headers)
    assert response.status_code == 200
    response = await kept.desk.http.post("/oauth2/token", content=change(right), headers=headers)
    refused_by_oauth(response, 400, "invalid_request")


WRONG: Final[dict[str, tuple[dict[str, str | None], str]]] = {
    "no grant_type": ({"grant_type": None}, "invalid_request"),
    "an empty grant_type": ({"grant_type": ""}, "invalid_request"),
    "another grant_type": ({"grant_type": "authorization_code"}, "unsupported_grant_type"),
    "no subject_token": ({"subject_token": None}, "invalid_request"),
    "no subject_token_type": ({"subject_token_type": None}, "invalid_request"),
    "an id token": ({"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"}, "invalid_request"),
    "a refresh token wanted": (
        {"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"},
        "invalid_request",
    ),
    "an actor_token": ({"actor_token": "x", "actor_token_type": JWT}, "invalid_request"),
    "an actor_token_type": ({"actor_token_type": JWT}, "invalid_request"),
    "a secret in the form, too": ({"client_secret": "x"}, "invalid_request"),
    "an assertion, too": ({"client_assertion": "x"}, "invalid_request"),
    "no audience": ({"audience": None}, "invalid_request"),
    "an audience of two lines": ({"audience": "a\nb"}, "invalid_request"),
    "a long audience": ({"audience": "x" * 257}, "invalid_request"),
    "an audience that was not given": ({"audience": "https://b.example"}, "invalid_target"),
    "one more audience than was given": ({"resource": "https://b.example"}, "invalid_target"),
    "a scope that was not given": ({"scope": "read delete"}, "invalid_scope"),
    "a scope with two spaces": ({"scope": "read  write"}, "invalid_scope"),
    "a scope with a tab": ({"scope": "read\twrite"}, "invalid_scope"),
    "a scope with a quote": ({"scope": 'read"'}, "invalid_scope"),
    "a scope of other letters": ({"scope": "lesen-ü"}, "invalid_scope"),
    "too many scopes": ({"scope": " ".join(f"s{n}" for n in range(65))}, "invalid_request"),
    "no agent of this id": ({"agent_session_id": f"agt_{ZEROS}"}, "invalid_request"),
    "no id of an agent": ({"agent_session_id": "worker"}, "invalid_request"),
    "no edge of this id": ({"delegation_edge_id": f"edg_{ZEROS}"}, "invalid_request"),
    "no id of an edge": ({"delegation_edge_id": f"agt_{ZEROS}"}, "invalid_request"),
}


@pytest.mark.parametrize(("changes", "code"), WRONG.values(), ids=WRONG)
async def test_a_form_that_asks_for_what_cannot_be_is_refused(
    kept: Fleet, changes: dict[str, str | None], code: str
) -> None:
    response = await kept.desk.ask(kept.token, **changes)
    refused_by_oauth(response, 400, code)
    sent = [value for value in changes.values() if value and len(value) > 12 and value not in (JWT, ACCESS_TOKEN)]
    assert not any(value in response.text for value in sent), "what was sent is not repeated"


async def test_parameters_in_the_url_are_none(kept: Fleet) -> None:
    """They would be in the log of whoever is on the way."""
    headers = {"authorization": basic(kept.desk.id, kept.desk.secret), "content-type": FORM}
    response = await kept.desk.http.post(
        "/oauth2/token", params=dict(form(kept.token)), content=b"unknown=1", headers=headers
    )
    refused_by_oauth(response, 400, "invalid_request")


@pytest.mark.parametrize(
    "name",
    [
        *("grant_type", "subject_token", "subject_token_type", "requested_token_type"),
        *("scope", "agent_session_id", "delegation_edge_id", "unknown"),
    ],
)
async def test_a_parameter_is_given_once(kept: Fleet, name: str) -> None:
    pairs = form(kept.token, agent_session_id=kept.agents[0], requested_token_type=JWT, scope="read", unknown="1")
    value = dict(pairs).get(name, "x")
    pairs = [pair for pair in pairs if pair[0] != name]
    response = await kept.desk.post([*pairs, (name, value), (name, value)])
    refused_by_oauth(response, 400, "invalid_request")
    response = await kept.desk.post([(name, value), *pairs, (name, "another")])
    refused_by_oauth(response, 400, "invalid_request")


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


async def test_no_way_but_one_to_authenticate_lets_a_client_in(shared: Running, kept: Fleet) -> None:
    body = urlencode(form(kept.token, agent_session_id=kept.agents[0]))
    for name, values in _credentials(kept, shared).items():
        headers = [("content-type", FORM), *(("authorization", value) for value in values)]
        response = await kept.desk.http.post("/oauth2/token", content=body, headers=headers)
        sentence = refused_by_oauth(response, 401, "invalid_client")
        assert sentence == "this needs an application's id and one of its keys, by HTTP Basic", name
        assert response.headers["www-authenticate"] == 'Basic realm="countermand"'
    for scheme in ("Basic", "basic", "BASIC"):
        headers = [
            ("content-type", FORM),
            ("authorization", basic(kept.desk.id, kept.desk.secret).replace("Basic", scheme)),
        ]
        assert (await kept.desk.http.post("/oauth2/token", content=body, headers=headers)).status_code == 200


async def test_credentials_in_the_form_are_none(kept: Fleet) -> None:
    pairs = [*form(kept.token), ("client_id", kept.desk.id), ("client_secret", kept.desk.secret)]
    response = await kept.desk.http.post("/oauth2/token", data=dict(pairs))
    refused_by_oauth(response, 401, "invalid_client")


async def test_credentials_are_escaped_as_in_a_form_before_they_are_encoded(kept: Fleet) -> None:
    escaped = "".join(f"%{byte:02X}" for byte in kept.desk.secret.encode())
    pair = base64.b64encode(f"{kept.desk.id}:{escaped}".encode()).decode()
    response = await kept.desk.post(form(kept.token, agent_session_id=kept.agents[0]), authorization=f"Basic {pair}")
    assert response.status_code == 200


async def test_whoever_is_no_client_hears_of_that_and_nothing_of_the_body(http: httpx2.AsyncClient) -> None:
    for content in (b"", b"{", b"a=b&a=b", b"x" * 100_000):
        response = await http.post("/oauth2/token", content=content, headers={"content-type": "application/json"})
        refused_by_oauth(response, 401, "invalid_client")


async def test_nothing_of_a_body_is_read_before_the_client_is_known(shared: Running) -> None:
    """The body is declared and never sent: whoever waited for it would not answer."""
    host, port = shared.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST /oauth2/token HTTP/1.1\r\nHost: a\r\nContent-Type: {FORM}\r\nContent-Length: 9\r\n\r\n".encode()
    )
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    writer.close()
    await writer.wait_closed()


async def test_a_body_that_is_too_long_is_refused(kept: Fleet) -> None:
    response = await kept.desk.post([("grant_type", "x" * 66_000)])
    refused_by_oauth(response, 413, "invalid_request")


async def test_a_body_that_breaks_off_is_no_failure_of_the_authority(
    shared: Running, kept: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = shared.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"Authorization: {basic(kept.desk.id, kept.desk.secret)}\r\nContent-Type: {FORM}\r\nContent-Length: 9\r\n"
    writer.write(f"POST /oauth2/token HTTP/1.1\r\nHost: a\r\n{head}\r\na=".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await kept.desk.ask(kept.token, agent_session_id=kept.agents[0])).status_code == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
async def test_only_a_post_exchanges(kept: Fleet, method: str) -> None:
    headers = {"authorization": basic(kept.desk.id, kept.desk.secret)}
    response = await kept.desk.http.request(method, "/oauth2/token", headers=headers)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


TOKENS: Final[dict[str, Callable[[str], str]]] = {
    "no token": lambda _: "x",
    "one altered": altered,
    "one cut short": lambda token: token[:-4],
    "one with a line behind it": lambda token: token + "\n",
    "one without a signature": lambda token: token.rpartition(".")[0] + ".",
    "one of the longest, and a byte": lambda token: token + "A" * (16_385 - len(token)),
    "one of other letters": lambda token: token[:-1] + "ü",
}


@pytest.mark.parametrize("change", TOKENS.values(), ids=TOKENS)
async def test_a_token_that_is_none_of_ours_is_refused_and_not_repeated(
    kept: Fleet, change: Callable[[str], str]
) -> None:
    token = change(kept.token)
    response = await kept.desk.ask(token, agent_session_id=kept.agents[0])
    refused_by_oauth(response, 400, "invalid_request")
    assert not any(part in response.text for part in token.split(".") if len(part) > 1)


TEXT: Final = st.text(st.characters(codec="utf-8"), max_size=30)


NAMES: Final = st.sampled_from([name for name, _ in form("x", scope="", agent_session_id="", resource="")]) | TEXT


VALUES: Final = st.sampled_from([EXCHANGE, ACCESS_TOKEN, AUDIENCE, "read", f"agt_{ZEROS}", f"edg_{ZEROS}"]) | TEXT


@given(pairs=st.lists(st.tuples(NAMES, VALUES), max_size=8), is_whole=st.booleans())
@settings(max_examples=300, deadline=None)
async def test_any_form_is_answered_with_a_mandate_or_a_refusal(kept: Fleet, pairs: Pairs, is_whole: bool) -> None:
    response = await kept.desk.post((form(kept.token) if is_whole else []) + pairs)
    if response.status_code != 200:
        refused_by_oauth(response, 400)


@given(body=st.binary(max_size=200) | st.text("grant_typescope=&%+;0aF", max_size=60).map(str.encode))
@settings(max_examples=300, deadline=None)
async def test_any_bytes_are_answered_with_a_refusal(kept: Fleet, body: bytes) -> None:
    headers = {"authorization": basic(kept.desk.id, kept.desk.secret), "content-type": FORM}
    refused_by_oauth(await kept.desk.http.post("/oauth2/token", content=body, headers=headers), 400)


HEADER: Final = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=80)


@given(header=HEADER | st.binary(max_size=60).map(lambda pair: "Basic " + base64.b64encode(pair).decode()))
@settings(max_examples=300, deadline=None)
async def test_any_authorization_header_is_answered_with_a_refusal(http: httpx2.AsyncClient, header: str) -> None:
    headers = [(b"authorization", header.strip().encode("latin-1")), (b"content-type", FORM.encode())]
    refused_by_oauth(await http.post("/oauth2/token", content=b"a=b", headers=headers), 401, "invalid_client")
