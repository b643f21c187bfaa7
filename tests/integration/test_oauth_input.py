"""Whatever is sent to the token endpoint: it answers in the words of RFC 6749, and never in the sender's."""

from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.admin import AUDIENCE
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
)
from tests.integration.problems import refused_by_oauth
from tests.running import PROOF

pytestmark = pytest.mark.anyio

ZEROS: Final = "0" * 32


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
    "no agent of this id": ({"agent_session_id": f"agt_{ZEROS}"}, "unauthorized_client"),
    "no id of an agent": ({"agent_session_id": "worker"}, "unauthorized_client"),
    "no edge of this id": ({"delegation_edge_id": f"edg_{ZEROS}"}, "unauthorized_client"),
    "no id of an edge": ({"delegation_edge_id": f"agt_{ZEROS}"}, "unauthorized_client"),
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
@settings(max_examples=300 if PROOF else 100, deadline=None)
async def test_any_form_is_answered_with_a_mandate_or_a_refusal(kept: Fleet, pairs: Pairs, is_whole: bool) -> None:
    response = await kept.desk.post((form(kept.token) if is_whole else []) + pairs)
    if response.status_code != 200:
        refused_by_oauth(response, 400)
