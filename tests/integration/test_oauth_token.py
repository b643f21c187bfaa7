"""The token endpoint: who may exchange what for what, and until when."""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from countermand.errors import BusyError, ClockError, CountermandError, DataError
from countermand.log.anchor import Kind, own_id
from countermand.tokens.mandate import Mandate, parse_mandate, verify
from countermand.transport.http import open_client
from countermand.wiring import system_clock
from tests import databases
from tests.integration.admin import AUDIENCE, Admin, Json, administering
from tests.integration.exchanging import ACCESS_TOKEN, EXCHANGE, FORM, JWT, Fleet, altered, form, new_client, new_fleet
from tests.integration.problems import refused_by_oauth
from tests.looking import looking_into
from tests.running import Running, authority_running

pytestmark = pytest.mark.anyio


def _read(running: Running, token: str) -> Mandate:
    keys = running.authority.service.minting.key_set
    unverified = parse_mandate(token)
    now_s = json.loads(unverified.payload)["iat"]
    return verify(unverified, keys, issuer=running.url, audience=AUDIENCE, now_s=now_s)


async def test_a_session_is_exchanged_for_its_agent_and_handed_on_three_deep(shared: Running, fleet: Fleet) -> None:
    at_agent = await fleet.at_agent()
    at_worker = await fleet.at_worker(at_agent)
    at_helper = await fleet.at_helper(at_worker)
    agent, worker, helper = [_read(shared, token) for token in (at_agent, at_worker, at_helper)]
    assert [mandate.agent_session_id for mandate in (agent, worker, helper)] == list(fleet.agents)
    assert [mandate.client_id for mandate in (agent, worker, helper)] == [
        client.id for client in (fleet.desk, fleet.worker, fleet.helper)
    ]
    assert [set(mandate.scopes) for mandate in (agent, worker, helper)] == [
        {"read", "write", "admin"},
        {"read", "write"},
        {"read"},
    ]
    assert {mandate.subject for mandate in (agent, worker, helper)} == {"alice"}
    assert {mandate.session_id for mandate in (agent, worker, helper)} == {fleet.session}
    assert (agent.delegation_edge_id, worker.delegation_edge_id, helper.delegation_edge_id) == (None, *fleet.edges)
    path = {(anchor.kind, anchor.id) for anchor in helper.anchors.path}
    assert path >= {(Kind.SESSION, fleet.session), (Kind.GRANT, fleet.grant), (Kind.SUBJECT, "alice")}
    assert path >= {(Kind.DELEGATION, edge) for edge in fleet.edges}
    assert path >= {(Kind.TOKEN, _read(shared, token).token_id) for token in (fleet.token, at_agent, at_worker)}


async def test_an_answer_has_the_members_of_rfc_8693_and_no_cache_may_keep_it(kept: Fleet) -> None:
    for requested in (None, ACCESS_TOKEN, JWT):
        changes = {"scope": "write read", "requested_token_type": requested, "subject_token_type": JWT}
        response = await kept.desk.ask(kept.token, agent_session_id=kept.agents[0], **changes)
        assert response.status_code == 200
        assert (response.headers["cache-control"], response.headers["pragma"]) == ("no-store", "no-cache")
        assert response.headers["content-type"] == "application/json"
        body = response.json()
        assert body.pop("access_token").count(".") == 2
        assert 890 <= body.pop("expires_in") <= 900
        assert body == {"issued_token_type": ACCESS_TOKEN, "token_type": "Bearer", "scope": "read write"}


async def test_audiences_and_resources_are_one_list_and_each_may_be_repeated(
    shared: Running, admin: Admin, http: httpx2.AsyncClient
) -> None:
    client = await new_client(admin, http)
    audience = [AUDIENCE, "https://b.example", "https://c.example"]
    await admin.make("grants", application_id=client.id, subject="alice", scope=["read"], audience=audience)
    session = await admin.session(client.id)
    minted = await admin.make(f"sessions/{session}/mandates", audience=audience, scope=["read"])
    pairs = form(minted["access_token"], audience=None)
    repeated = [("resource", audience[2]), ("audience", AUDIENCE), ("audience", audience[1]), ("resource", AUDIENCE)]
    response = await client.post(pairs + repeated)
    assert set(_read(shared, response.json()["access_token"]).audience) == set(audience)
    response = await client.post([*pairs, ("resource", AUDIENCE)])
    assert _read(shared, response.json()["access_token"]).audience == (AUDIENCE,)


async def test_without_a_scope_all_that_may_be_had_is_given(kept: Fleet) -> None:
    for scope in (None, ""):
        response = await kept.desk.ask(kept.token, agent_session_id=kept.agents[0], scope=scope)
        assert response.json()["scope"] == "admin read write"


async def test_a_delegation_gives_no_more_than_it_says(kept: Fleet) -> None:
    agent = await kept.at_agent()
    response = await kept.worker.ask(agent, delegation_edge_id=kept.edges[0], scope="admin")
    refused_by_oauth(response, 400, "invalid_scope")
    response = await kept.worker.ask(agent, delegation_edge_id=kept.edges[0], audience="https://b.example")
    refused_by_oauth(response, 400, "invalid_target")


async def test_a_mandate_is_only_for_those_whose_authority_comes_from_it(kept: Fleet) -> None:
    agent, worker = await kept.at_agent(), await kept.at_worker()
    for client, token, asked in (
        (kept.helper, kept.token, {}),
        (kept.helper, agent, {"delegation_edge_id": kept.edges[0]}),
        (kept.worker, worker, {"agent_session_id": kept.agents[0]}),
        (kept.desk, agent, {"agent_session_id": kept.agents[1]}),
    ):
        refused_by_oauth(await client.ask(token, **asked), 400, "unauthorized_client")
    both = {"delegation_edge_id": kept.edges[0], "agent_session_id": kept.agents[2]}
    refused_by_oauth(await kept.worker.ask(agent, **both), 400, "invalid_request")


async def test_a_token_of_another_authority_is_refused(kept: Fleet, tmp_path: Path) -> None:
    async with (
        authority_running(tmp_path) as other,
        administering(other) as admin,
        open_client(10, url=other.url) as http,
    ):
        foreign = await new_fleet(admin, http)
        refused_by_oauth(await kept.desk.ask(foreign.token), 400, "invalid_request")
        response = await foreign.desk.ask(kept.token)
        refused_by_oauth(response, 400, "invalid_request")
        client = replace(foreign.desk, http=kept.desk.http)
        refused_by_oauth(await client.ask(kept.token), 401, "invalid_client")


async def test_a_mandate_that_has_expired_is_not_exchanged(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async with administering(running) as admin, open_client(10, url=running.url) as http:
        fleet = await new_fleet(admin, http)
        assert await fleet.at_agent()
        late = system_clock()
        late = replace(late, wall_ms=late.wall_ms + 911_000)
        monkeypatch.setattr(running.authority.service.minting, "_clock", lambda: late)
        response = await fleet.desk.ask(fleet.token, agent_session_id=fleet.agents[0])
        assert refused_by_oauth(response, 400, "invalid_request") == "the token has expired"


ENDED: Final[dict[str, Callable[[Fleet], tuple[str, str]]]] = {
    "its session": lambda fleet: ("session", fleet.session),
    "its own agent": lambda fleet: ("agent", fleet.agents[2]),
    "the agent that handed on to it": lambda fleet: ("agent", fleet.agents[1]),
    "the first agent": lambda fleet: ("agent", fleet.agents[0]),
    "its edge": lambda fleet: ("delegation", fleet.edges[1]),
    "the edge above": lambda fleet: ("delegation", fleet.edges[0]),
    "the grant": lambda fleet: ("grant", fleet.grant),
    "the first application": lambda fleet: ("application", fleet.desk.id),
}


@pytest.mark.parametrize("ended", ENDED.values(), ids=ENDED)
async def test_nothing_is_exchanged_once_what_it_rests_on_is_revoked(
    fleet: Fleet, ended: Callable[[Fleet], tuple[str, str]]
) -> None:
    worker, helper = await fleet.at_worker(), await fleet.at_helper()
    assert await fleet.helper.exchange(helper)
    kind, id_ = ended(fleet)
    await fleet.admin.revoke(kind, id_)
    for response in (
        await fleet.helper.ask(helper),
        await fleet.helper.ask(worker, delegation_edge_id=fleet.edges[1]),
    ):
        assert refused_by_oauth(response, 400, "invalid_request") == "the token, or what it rests on, has ended"
        assert id_ not in response.text


async def test_a_revoked_applications_keys_open_nothing(fleet: Fleet) -> None:
    helper = await fleet.at_helper()
    await fleet.admin.revoke("application", fleet.helper.id)
    refused_by_oauth(await fleet.helper.ask(helper), 401, "invalid_client")


async def test_a_revoked_token_and_whatever_it_was_exchanged_for_is_not_exchanged(
    shared: Running, fleet: Fleet
) -> None:
    agent = await fleet.at_agent()
    again = await fleet.desk.exchange(agent)
    await fleet.admin.revoke("token", _read(shared, agent).token_id or "")
    for token in (agent, again):
        refused_by_oauth(await fleet.desk.ask(token), 400, "invalid_request")
    assert await fleet.at_agent(), "the session's mandate is good for another"


async def test_who_is_no_party_to_an_exchange_hears_the_same_whatever_exists_and_stands(
    shared: Running, fleet: Fleet
) -> None:
    """A token that was stolen, and ids that were guessed, tell a stranger nothing."""
    stranger = await new_client(fleet.admin, fleet.desk.http)
    revoked, standing = await fleet.at_agent(), await fleet.at_agent()
    await fleet.admin.revoke("token", _read(shared, revoked).token_id or "")
    await fleet.admin.revoke("agent", fleet.agents[2])
    heard = set()
    for token in (standing, revoked):
        for named in (
            {},
            {"agent_session_id": fleet.agents[0]},
            {"agent_session_id": fleet.agents[2]},
            {"agent_session_id": own_id(Kind.AGENT, bytes(16))},
            {"delegation_edge_id": fleet.edges[0]},
            {"delegation_edge_id": fleet.edges[1]},
            {"delegation_edge_id": own_id(Kind.DELEGATION, bytes(16))},
            {"delegation_edge_id": fleet.edges[0], "agent_session_id": fleet.agents[0]},
        ):
            heard.add(refused_by_oauth(await stranger.ask(token, **named), 400, "unauthorized_client"))
    assert len(heard) == 1, heard


@pytest.mark.parametrize("target", ["subject", "application"])
async def test_a_cutoff_ends_what_could_be_exchanged(fleet: Fleet, admin: Admin, target: str) -> None:
    subject = f"alice-{os.urandom(4).hex()}"
    grant = {"subject": subject, "scope": ["read"], "audience": [AUDIENCE]}
    await admin.make("grants", application_id=fleet.desk.id, **grant)
    session = await admin.session(fleet.desk.id, subject)
    body = {"audience": [AUDIENCE], "scope": ["read"]}
    token = (await admin.make(f"sessions/{session}/mandates", **body))["access_token"]
    assert await fleet.desk.exchange(token)
    await admin.make(
        "cutoffs", target={"subject": f"subject:{subject}", "application": f"application:{fleet.desk.id}"}[target]
    )
    refused_by_oauth(await fleet.desk.ask(token), 400, "invalid_request")


async def test_after_a_grant_is_closed_nothing_more_is_exchanged_by_it(fleet: Fleet) -> None:
    agent, worker = await fleet.at_agent(), await fleet.at_worker()
    assert (await fleet.admin.post(f"grants/{fleet.grant}/close")).status_code == 200
    for client, token, changes in (
        (fleet.desk, fleet.token, {"agent_session_id": fleet.agents[0]}),
        (fleet.worker, agent, {"delegation_edge_id": fleet.edges[0]}),
        (fleet.worker, worker, {}),
    ):
        response = await client.ask(token, **changes)
        assert response.status_code == 400
        assert response.json()["error"] in {"invalid_request", "invalid_target"}


async def test_a_database_that_cannot_be_read_is_answered_with_try_again(running: Running) -> None:
    async with administering(running) as admin, open_client(10, url=running.url) as http:
        fleet = await new_fleet(admin, http)
        async with looking_into(running.data) as look:
            await look.execute("ALTER TABLE api_keys RENAME TO gone")
        response = await fleet.desk.ask(fleet.token, agent_session_id=fleet.agents[0])
        refused_by_oauth(response, 503, "temporarily_unavailable")
        assert response.headers["retry-after"] == "1"
        async with looking_into(running.data) as look:
            await look.execute("ALTER TABLE gone RENAME TO api_keys")
        assert await fleet.at_agent()


@pytest.mark.parametrize("error", [BusyError, DataError, ClockError])
async def test_whatever_may_pass_is_answered_with_try_again(
    running: Running, monkeypatch: pytest.MonkeyPatch, error: type[CountermandError]
) -> None:
    async def fail(*_arguments: object) -> None:
        raise error("it may pass")

    async with administering(running) as admin, open_client(10, url=running.url) as http:
        client = await new_client(admin, http)
        monkeypatch.setattr(running.authority.service.minting, "exchange", fail)
        response = await client.ask("x")
        assert refused_by_oauth(response, 503, "temporarily_unavailable") == "it may pass"


async def test_nothing_that_opens_anything_is_logged_or_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, database_kind: databases.Kind
) -> None:
    caplog.set_level(logging.DEBUG)
    async with (
        authority_running(
            tmp_path
        ) as running,  # pytest opens uvicorn's silent logger to one that started before the test
        administering(running) as admin,
        open_client(10, url=running.url) as http,
    ):
        fleet = await new_fleet(admin, http)
        agent, secret = await fleet.at_agent(), fleet.desk.secret
        told = [
            await fleet.desk.ask(agent, **changes)
            for changes in ({"scope": agent}, {"grant_type": agent}, {"audience": agent}, {"agent_session_id": agent})
        ]
        told += [await fleet.desk.post([(secret, agent), (secret, agent)]), await fleet.desk.post([(agent, secret)])]
        told += [
            await fleet.desk.ask(altered(agent)),
            await fleet.worker.ask(agent),
            await fleet.worker.ask_to_end(agent),
        ]
        told += [await fleet.desk.ask_own(**{name: agent}) for name in ("scope", "audience", "client_assertion")]
        assert (await fleet.desk.look(agent))["active"] is True
        told += [await replace(fleet.desk, id=agent).ask(agent), await replace(fleet.desk, secret=agent).ask(agent)]
        told += [await admin.post("revocations", kind="token", id=agent), await admin.get(f"tree/{secret}")]
    logged = "\n".join(
        logging.Formatter().format(record)
        for record in caplog.records
        if not record.name.startswith(("httpx2", "httpcore2"))  # the test's own
    )
    assert "SELECT" in logged or database_kind == "postgres", "everything is logged; psycopg logs no statement"
    for secret_part in (secret.split("_")[2], *fleet.token.split(".")[1:], *agent.split(".")[1:]):
        assert secret_part not in logged
        assert not any(secret_part in response.text for response in told)
    assert all(response.status_code >= 400 for response in told)


async def test_the_form_and_its_answers_are_documented(http: httpx2.AsyncClient) -> None:
    operation: Json = (await http.get("/openapi.json")).json()["paths"]["/oauth2/token"]["post"]
    schema: dict[str, Any] = operation["requestBody"]["content"][FORM]["schema"]
    assert set(schema["properties"]) >= {name for name, _ in form("x")}
    assert set(schema["required"]) == {"grant_type"}
    assert set(schema["properties"]["grant_type"]["enum"]) == {EXCHANGE, "client_credentials"}
    assert set(operation["responses"]) == {"200", "400", "401", "408", "413", "503"}
