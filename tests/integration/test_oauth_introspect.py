"""The introspection endpoint: whether a mandate stands at this moment, for those who may know."""

import os
from collections.abc import Callable
from typing import Final

import httpx2
import pytest
from sqlalchemy import delete, select

from countermand.authority import tables
from countermand.authority.access import Caller
from countermand.authority.model import Role
from countermand.enforce.decision import Allow, Deny
from countermand.log.anchor import Kind
from countermand.server.oauth.clients import READERS
from countermand.transport.http import open_client
from tests.integration.admin import AUDIENCE, Json
from tests.integration.exchanging import ACCESS_TOKEN, INTROSPECT, Fleet, altered, look_as, new_client, read
from tests.integration.problems import refused_by_oauth
from tests.integration.rooms import ISSUER, Rooms
from tests.integration.verifier import TOOLS, Verifier
from tests.looking import writing
from tests.running import Running

pytestmark = pytest.mark.anyio

INACTIVE: Final[Json] = {"active": False}


async def test_of_a_mandate_that_stands_everything_is_said_that_it_says_itself(shared: Running, kept: Fleet) -> None:
    helper = await kept.at_helper()
    said = await kept.helper.look(helper)
    claims = dict(read(shared, helper).claims)
    assert said == claims | {"active": True, "token_type": "Bearer"}
    assert (said["iss"], said["sub"], said["aud"], said["client_id"]) == (shared.url, "alice", AUDIENCE, kept.helper.id)
    assert (said["scope"], said["sid"], said["agent_session_id"]) == ("read", kept.session, kept.agents[2])
    assert said["exp"] - said["iat"] <= 900
    assert f"delegation:{kept.edges[0]}" in said["path"]


async def test_an_application_is_told_of_its_own_tokens_alone(kept: Fleet, http: httpx2.AsyncClient) -> None:
    agent = await kept.at_agent()
    worker = await kept.at_worker(agent)
    stranger = await new_client(kept.admin, http)
    assert (await kept.desk.look(agent))["active"] is True
    assert (await kept.worker.look(worker))["active"] is True
    for client, token in ((kept.desk, worker), (kept.worker, agent), (kept.helper, agent), (stranger, agent)):
        assert await client.look(token) == INACTIVE


async def test_a_key_that_may_read_is_told_of_every_token(shared: Running, kept: Fleet) -> None:
    for token in (kept.token, await kept.at_agent(), await kept.at_worker()):
        for key in (shared.admin_key, shared.replica_key):
            assert (await look_as(shared, key, token))["active"] is True


async def test_no_other_role_than_those_that_may_read_is_told_anything(
    shared: Running, kept: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever roles there are: a new one is told nothing until it stands among READERS."""
    assert Role.APPLICATION not in READERS
    async with open_client(10, url=shared.url, headers={"authorization": f"Bearer {shared.admin_key}"}) as http:
        for role in Role:

            async def authenticate(_key: str | None, role: Role = role) -> Caller:
                return Caller("0" * 16, role, kept.desk.id if role is Role.APPLICATION else None)

            with monkeypatch.context() as patched:
                patched.setattr(shared.authority.access, "authenticate", authenticate)
                response = await http.post(INTROSPECT, data={"token": kept.token})
            if role in READERS:
                assert response.json()["active"] is True
            else:
                refused_by_oauth(response, 401, "invalid_client")


async def test_a_reader_authenticates_once(shared: Running, kept: Fleet) -> None:
    right = ("authorization", f"Bearer {shared.replica_key}")
    wrong = [
        [right, right],
        [right, ("authorization", "Bearer x")],
        [("authorization", f"Bearer {shared.replica_key}, Bearer {shared.replica_key}")],
        [("authorization", f"Bearer {shared.replica_key[:-1]}")],
        [("authorization", f"Basic {shared.replica_key}")],
        [("authorization", shared.replica_key)],
    ]
    async with open_client(10, url=shared.url) as http:
        for headers in wrong:
            response = await http.post(INTROSPECT, data={"token": kept.token}, headers=headers)
            refused_by_oauth(response, 401, "invalid_client")
        response = await http.post(INTROSPECT, params={"access_token": shared.admin_key}, data={"token": kept.token})
        refused_by_oauth(response, 401, "invalid_client")
        response = await http.post(INTROSPECT, data={"token": kept.token, "client_secret": "x"}, headers=[right])
        refused_by_oauth(response, 400, "invalid_request")


NO_TOKENS: Final[dict[str, Callable[[str], str]]] = {
    "no token": lambda _: "x",
    "one altered": altered,
    "one cut short": lambda token: token[:-4],
    "a type": lambda _: ACCESS_TOKEN,
    "another letter": lambda token: token[:-1] + "ü",
    "a long one": lambda token: token * 20,
}


@pytest.mark.parametrize("change", NO_TOKENS.values(), ids=NO_TOKENS)
async def test_of_what_is_no_token_of_ours_nothing_is_said(
    shared: Running, kept: Fleet, change: Callable[[str], str]
) -> None:
    assert await kept.desk.look(change(kept.token)) == INACTIVE
    assert await look_as(shared, shared.admin_key, change(kept.token)) == INACTIVE


ENDED: Final[dict[str, Callable[[Fleet], Json]]] = {
    "its session": lambda fleet: {"kind": "session", "id": fleet.session},
    "its agent": lambda fleet: {"kind": "agent", "id": fleet.agents[2]},
    "the first agent": lambda fleet: {"kind": "agent", "id": fleet.agents[0]},
    "its edge": lambda fleet: {"kind": "delegation", "id": fleet.edges[1]},
    "the edge above": lambda fleet: {"kind": "delegation", "id": fleet.edges[0]},
    "the grant": lambda fleet: {"kind": "grant", "id": fleet.grant},
    "the application that gave it": lambda fleet: {"kind": "application", "id": fleet.desk.id},
    "its application": lambda fleet: {"kind": "application", "id": fleet.helper.id},
    "a cutoff for its application": lambda fleet: {"target": f"application:{fleet.helper.id}"},
    "a cutoff for the first application": lambda fleet: {"target": f"application:{fleet.desk.id}"},
    "a cutoff for its subject": lambda _: {"target": "subject:alice"},
    "a cutoff for all": lambda _: {"target": "all"},
}


@pytest.mark.parametrize("ended", ENDED.values(), ids=ENDED)
async def test_as_soon_as_what_it_rests_on_has_ended_nothing_is_said_of_it(
    shared: Running, fleet: Fleet, ended: Callable[[Fleet], Json]
) -> None:
    helper = await fleet.at_helper()
    assert (await look_as(shared, shared.replica_key, helper))["active"] is True
    body = ended(fleet)
    await fleet.admin.make("cutoffs" if "target" in body else "revocations", **body)
    assert await look_as(shared, shared.replica_key, helper) == INACTIVE


async def test_a_token_that_was_revoked_by_an_operator_or_its_holder_is_not_active(fleet: Fleet) -> None:
    first, second = await fleet.at_agent(), await fleet.at_agent()
    await fleet.desk.end(first)
    await fleet.admin.revoke("token", (await fleet.desk.look(second))["jti"])
    assert await fleet.desk.look(first) == await fleet.desk.look(second) == INACTIVE


async def test_a_grant_that_was_closed_ends_no_mandate(fleet: Fleet) -> None:
    agent = await fleet.at_agent()
    assert (await fleet.admin.post(f"grants/{fleet.grant}/close")).status_code == 200
    assert (await fleet.desk.look(agent))["active"] is True


async def _find(rooms: Rooms, token: str) -> bool:
    return await rooms.service.presenting.find_standing(token) is not None


async def _issue(rooms: Rooms, lifetime_s: int = 3600) -> tuple[str, str]:
    session = await rooms.session(lifetime_s)
    return session.id, (await rooms.service.minting.issue(session.id, [TOOLS], ["read"])).token


async def test_it_is_active_for_as_long_as_a_guard_lets_it_in(rooms: Rooms) -> None:
    """Until its end and the leeway beyond, as everywhere."""
    verifier, (_, token) = Verifier(rooms), await _issue(rooms)
    for advance_ms, stands in ((0, True), (899_999, True), (10_000, True), (1, False)):
        rooms.clock.advance(advance_ms)
        await verifier.apply()
        assert isinstance(await verifier.decide(token), Allow if stands else Deny)
        assert await _find(rooms, token) is stands


async def test_what_was_opened_before_a_dated_cutoff_gives_no_active_mandate(rooms: Rooms) -> None:
    """A guard goes by when the mandate was issued; the authority mints nothing by it any more."""
    _, token = await _issue(rooms)
    before_ms = rooms.clock.wall_ms
    rooms.clock.advance(60_000)
    assert await _find(rooms, token)
    await rooms.service.revoking.cut_off("all", before_ms=before_ms)
    assert not await _find(rooms, token)


async def test_a_mandate_of_what_the_database_does_not_know_is_not_active(rooms: Rooms) -> None:
    """As after a restore: the signature holds, and nobody remembers the session."""
    session_id, token = await _issue(rooms)
    anchors, lineage = tables.anchors.c, tables.lineage
    async with writing(rooms.database) as connection:
        number = (await connection.execute(select(anchors.number).where(anchors.id == session_id))).scalar_one()
        await connection.execute(delete(lineage).where(lineage.c.descendant == number))
        await connection.execute(delete(tables.anchors).where(anchors.number == number))
    assert not await _find(rooms, token)


async def test_a_key_that_was_withdrawn_signs_nothing_that_is_active(rooms: Rooms) -> None:
    _, token = await _issue(rooms)
    revoke, kid = rooms.service.revoking.revoke, rooms.keys.mandate.kid
    await revoke(Kind.KEY, kid, issuer="https://other.example")
    assert await _find(rooms, token)
    await revoke(Kind.KEY, kid, issuer=ISSUER)
    assert not await _find(rooms, token)


async def test_an_id_that_is_none_of_ours_is_asked_of_nobody(rooms: Rooms) -> None:
    assert not await _find(rooms, f"tok_{os.urandom(16).hex()}")


async def test_the_form_its_answers_and_both_ways_to_authenticate_are_documented(http: httpx2.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    operation = document["paths"][INTROSPECT]["post"]
    assert set(operation["responses"]) == {"200", "400", "401", "408", "413", "503"}
    assert operation["security"] == [{"application": []}, {"reader": []}]
    schemes = document["components"]["securitySchemes"]
    assert (schemes["application"]["scheme"], schemes["reader"]["scheme"]) == ("basic", "bearer")
