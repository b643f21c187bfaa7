"""The revocation endpoint: a holder ends its own mandate and what that was exchanged for, and nothing else."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from countermand.authority.presenting import REASON
from countermand.enforce.decision import Allow, Code, Deny
from countermand.enforce.guard import Guard
from countermand.errors import BusyError, ClockError, CountermandError, DataError, UnconfirmedError
from countermand.log.anchor import Kind
from countermand.log.codec import to_base64
from countermand.tokens.mandate import SigningKey, parse_mandate
from countermand.transport.http import open_client
from tests.integration.admin import AUDIENCE, administering
from tests.integration.exchanging import REVOKE, Fleet, altered, new_client, new_fleet
from tests.integration.problems import refused_by_oauth
from tests.integration.rooms import Rooms
from tests.integration.verifier import TOOLS, Verifier
from tests.running import Running, authority_running, until

pytestmark = pytest.mark.anyio


async def _rejected(guard: Guard, token: str) -> bool:
    decision = await guard.decide(token)
    return isinstance(decision, Deny) and decision.code is Code.SESSION_REVOKED


async def _passes(guard: Guard, token: str) -> bool:
    return isinstance(await guard.decide(token), Allow)


def _id_of(token: str) -> str:
    return str(json.loads(parse_mandate(token).payload)["jti"])


async def test_a_guard_rejects_what_its_holder_has_ended_and_what_was_exchanged_for_it_and_nothing_above(
    shared: Running, fleet: Fleet
) -> None:
    agent = await fleet.at_agent()
    worker = await fleet.at_worker(agent)
    helper = await fleet.at_helper(worker)
    beside = await fleet.at_worker(agent)
    async with shared.guard(AUDIENCE) as guard:
        for token in (fleet.token, agent, worker, helper, beside):
            await until(lambda token=token: _passes(guard, token), "the guard follows")  # type: ignore[misc]
        await fleet.worker.end(worker)
        for token in (worker, helper):
            await until(lambda token=token: _rejected(guard, token), "it is rejected")  # type: ignore[misc]
        for token in (fleet.token, agent, beside):
            assert await _passes(guard, token)
        await fleet.desk.end(agent)
        await until(lambda: _rejected(guard, beside), "what derives from the ancestor ends with it")
        assert await _passes(guard, fleet.token)


async def test_the_entry_is_in_the_ledger_when_it_is_answered(shared: Running, fleet: Fleet) -> None:
    agent, before = await fleet.at_agent(), await fleet.admin.seq()
    await fleet.desk.end(agent)
    assert await fleet.admin.seq() == before + 1
    async with shared.authority.service.minting._database.read() as connection:
        entry = await shared.authority.service.minting._ledger.find(connection, Kind.TOKEN, _id_of(agent))
    assert entry is not None
    assert (entry.seq, entry.reason, entry.issuer) == (before + 1, REASON, "")
    assert entry.expires_at_ms is not None


async def test_nothing_more_is_exchanged_for_it_and_what_it_came_from_gives_another(fleet: Fleet) -> None:
    agent = await fleet.at_agent()
    await fleet.desk.end(agent)
    refused_by_oauth(await fleet.desk.ask(agent), 400, "invalid_request")
    again = await fleet.at_agent()
    assert (await fleet.desk.look(again))["active"] is True


async def test_ending_it_again_appends_nothing(fleet: Fleet) -> None:
    agent = await fleet.at_agent()
    worker = await fleet.at_worker(agent)
    await fleet.desk.end(agent)
    before = await fleet.admin.seq()
    await fleet.desk.end(agent)
    await fleet.worker.end(worker)
    assert await fleet.admin.seq() == before, "what its ancestor ended needs no entry"


async def test_many_at_once_make_one_entry(fleet: Fleet) -> None:
    agent, before = await fleet.at_agent(), await fleet.admin.seq()
    await asyncio.gather(*(fleet.desk.end(agent) for _ in range(8)))
    assert await fleet.admin.seq() == before + 1


async def test_no_client_ends_anothers_token_and_it_hears_so(fleet: Fleet, http: httpx2.AsyncClient) -> None:
    """Neither an ancestor's, nor a descendant's of its own, nor a stranger's. A 200 would say that it is ended."""
    agent, worker = await fleet.at_agent(), await fleet.at_worker()
    stranger, before = await new_client(fleet.admin, http), await fleet.admin.seq()
    for client, token in (
        (fleet.worker, agent),
        (fleet.worker, fleet.token),
        (fleet.desk, worker),
        (stranger, agent),
    ):
        response = await client.ask_to_end(token)
        refused_by_oauth(response, 400, "unauthorized_client")
        assert not any(part in response.text for part in (_id_of(token), *token.split(".")))
    assert await fleet.admin.seq() == before
    assert (await fleet.desk.look(agent))["active"] is True
    assert (await fleet.worker.look(worker))["active"] is True


async def test_whether_anothers_token_was_ended_is_not_told(fleet: Fleet) -> None:
    agent = await fleet.at_agent()
    first = await fleet.worker.ask_to_end(agent)
    await fleet.desk.end(agent)
    second = await fleet.worker.ask_to_end(agent)
    assert (first.status_code, first.text) == (second.status_code, second.text)


async def test_an_application_may_end_the_mandate_of_its_session(fleet: Fleet) -> None:
    """It was issued to the application, though an administrator asked for it."""
    agent = await fleet.at_agent()
    await fleet.desk.end(fleet.token)
    for token in (fleet.token, agent):
        assert await fleet.desk.look(token) == {"active": False}


def _signed_by_another(token: str) -> str:
    """Return the same claims under the same header, signed by a key of our own making."""
    signed = token.rpartition(".")[0]
    return f"{signed}.{to_base64(SigningKey.generate().sign(signed.encode()))}"


def _of_another_key(token: str) -> str:
    """Return the same claims, signed by the key that the header names, which is none of the authority's."""
    key = SigningKey.generate()
    header = to_base64(json.dumps({"alg": key.algorithm, "typ": "at+jwt", "kid": key.kid}).encode())
    signed = f"{header}.{token.split('.')[1]}"
    return f"{signed}.{to_base64(key.sign(signed.encode()))}"


def _unsigned(token: str) -> str:
    header = to_base64(b'{"alg":"none","typ":"at+jwt"}')
    return f"{header}.{token.split('.')[1]}."


NO_TOKENS: Final[dict[str, Callable[[str], str]]] = {
    "no token": lambda _: "x",
    "its own id": _id_of,
    "one altered": altered,
    "one signed by another key": _signed_by_another,
    "one of another key": _of_another_key,
    "one that is not signed": _unsigned,
    "one cut short": lambda token: token[:-4],
    "one without a signature": lambda token: token.rpartition(".")[0] + ".",
    "one of four parts": lambda token: f"{token}.AAAA",
    "one with a line behind it": lambda token: token + "\n",
    "one of other letters": lambda token: token[:-1] + "ü",
    "one of the longest, and a byte": lambda token: token + "A" * (16_385 - len(token)),
    "a long one": lambda token: token * 20,
}


@pytest.mark.parametrize("change", NO_TOKENS.values(), ids=NO_TOKENS)
async def test_what_is_no_token_of_ours_is_answered_alike_and_ends_nobody(
    kept: Fleet, change: Callable[[str], str]
) -> None:
    before = await kept.admin.seq()
    await kept.desk.end(change(kept.token))
    assert await kept.admin.seq() == before
    assert (await kept.desk.look(kept.token))["active"] is True


async def test_a_token_of_another_authority_ends_nobody(kept: Fleet, tmp_path: Path) -> None:
    async with (
        authority_running(tmp_path) as other,
        administering(other) as admin,
        open_client(10, url=other.url) as http,
    ):
        foreign, before = await new_fleet(admin, http), await kept.admin.seq()
        await kept.desk.end(foreign.token)
        await foreign.desk.end(kept.token)
        assert (await kept.admin.seq(), await admin.seq()) == (before, 0)
        assert (await foreign.desk.look(foreign.token))["active"] is True
        assert (await kept.desk.look(kept.token))["active"] is True


@given(token=st.text(st.characters(codec="utf-8"), min_size=1, max_size=60) | st.text("aZ0-_.=", min_size=1))
@settings(max_examples=100, deadline=None)
async def test_whatever_is_said_to_be_a_token_is_answered_alike(kept: Fleet, token: str) -> None:
    await kept.desk.end(token)
    assert await kept.desk.look(token) == {"active": False}


@given(data=st.data())
@settings(max_examples=100, deadline=None)
async def test_a_token_with_any_byte_of_it_changed_ends_nobody(kept: Fleet, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(kept.token) - 1))
    byte = data.draw(st.sampled_from("Ab0-_.").filter(lambda char: char != kept.token[place]))
    changed = kept.token[:place] + byte + kept.token[place + 1 :]
    await kept.desk.end(changed)
    assert await kept.desk.look(changed) == {"active": False}
    assert (await kept.desk.look(kept.token))["active"] is True


@pytest.mark.parametrize("error", [BusyError, ClockError, DataError, UnconfirmedError])
async def test_what_may_not_have_been_done_is_not_answered_with_200(
    running: Running, monkeypatch: pytest.MonkeyPatch, error: type[CountermandError]
) -> None:
    async def fail(*_arguments: object, **_named: object) -> None:
        raise error("it may pass")

    async with administering(running) as admin, open_client(10, url=running.url) as http:
        fleet = await new_fleet(admin, http)
        monkeypatch.setattr(running.authority.service.revoking, "revoke", fail)
        response = await fleet.desk.ask_to_end(fleet.token)
        refused_by_oauth(response, 503, "temporarily_unavailable")
        assert response.headers["retry-after"] == "1"


async def _issued(rooms: Rooms) -> tuple[str, str]:
    """Return an application, and a mandate on a session of a day with it."""
    session = await rooms.session(86_400)
    return session.application_id, (await rooms.service.minting.issue(session.id, [TOOLS], ["read"])).token


async def test_one_that_has_expired_needs_no_entry_and_one_in_its_leeway_does(rooms: Rooms) -> None:
    client_id, token = await _issued(rooms)
    rooms.clock.advance(910_000)
    await rooms.service.presenting.end(client_id, token)
    assert (await rooms.head()).rev.seq == 0
    rooms.clock.advance(-1)
    await rooms.service.presenting.end(client_id, token)
    assert (await rooms.head()).rev.seq == 1


async def test_a_clock_that_was_set_back_keeps_nobody_from_ending_a_token(rooms: Rooms) -> None:
    """By such a clock the token is of a time to come. Guards go by clocks of their own, and let it in."""
    verifier, (client_id, token) = Verifier(rooms), await _issued(rooms)
    await verifier.apply()
    assert isinstance(await verifier.decide(token), Allow)
    rooms.clock.wall_ms -= 3_600_000
    await rooms.service.presenting.end(client_id, token)
    rooms.clock.wall_ms += 3_600_000
    await verifier.apply()
    assert isinstance(await verifier.decide(token), Deny)


async def test_an_operators_revocation_goes_before_those_of_holders(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    client_id, token = await _issued(rooms)
    urgent: list[bool] = []
    commit = rooms.heartbeat.commit

    async def noted(*arguments: object, **named: bool) -> object:
        urgent.append(named["urgent"])
        return await commit(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(rooms.heartbeat, "commit", noted)
    await rooms.service.presenting.end(client_id, token)
    await rooms.service.revoking.revoke(Kind.TOKEN, f"tok_{os.urandom(16).hex()}")
    assert urgent == [False, True]


async def test_the_form_and_its_answers_are_documented(http: httpx2.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    operation = document["paths"][REVOKE]["post"]
    assert set(operation["responses"]) == {"200", "400", "401", "408", "413", "503"}
    assert operation["security"] == [{"application": []}]
    assert document["components"]["securitySchemes"]["application"]["scheme"] == "basic"
