"""Client credentials: an application that acts for itself, by a grant that it was given, on a session of its own."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx2
import pytest
from sqlalchemy import func, select

from countermand.authority import tables
from countermand.authority.model import SubjectType
from countermand.authority.own_session import LIFE_S
from countermand.enforce.decision import Allow, Deny
from countermand.errors import InvalidTargetError, NotActiveError
from countermand.log.anchor import Kind, kind_of
from countermand.tokens.mandate import Mandate, parse_mandate, verify
from tests.integration.admin import AUDIENCE, Admin
from tests.integration.exchanging import Client, look_as, new_client, read
from tests.integration.problems import refused_by_oauth
from tests.integration.rooms import ISSUER, Rooms, rooms_open
from tests.integration.verifier import TOOLS, Verifier
from tests.running import Running

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(admin: Admin, http: httpx2.AsyncClient) -> Client:
    """An application with a grant to itself."""
    client = await new_client(admin, http)
    await admin.grant(client.id, "read", "write", subject=client.id)
    return client


async def test_an_application_is_its_own_subject_on_a_session_of_its_own(shared: Running, client: Client) -> None:
    response = await client.ask_own(scope="read")
    assert response.status_code == 200
    assert (response.headers["cache-control"], response.headers["pragma"]) == ("no-store", "no-cache")
    body = response.json()
    mandate = read(shared, body.pop("access_token"))
    assert 890 <= body.pop("expires_in") <= 900
    assert body == {"token_type": "Bearer", "scope": "read"}
    assert (mandate.subject, mandate.sub_type, mandate.client_id) == (client.id, "application", client.id)
    assert (mandate.audience, set(mandate.scopes)) == ((AUDIENCE,), {"read"})
    assert mandate.session_id == mandate.root_session_id
    assert kind_of(mandate.session_id or "") is Kind.SESSION
    assert mandate.rev is not None
    path = [(anchor.kind, anchor.id) for anchor in mandate.anchors.path]
    assert path[0] == (Kind.APPLICATION, client.id)
    assert set(path) >= {(Kind.SUBJECT, client.id), (Kind.SESSION, mandate.session_id), (Kind.TOKEN, mandate.token_id)}
    assert [kind for kind, _ in path].count(Kind.GRANT) == 1


async def test_the_session_is_seen_by_an_administrator_like_any_other(
    shared: Running, admin: Admin, client: Client
) -> None:
    session_id = read(shared, await client.own()).session_id
    session = await admin.read(f"sessions/{session_id}")
    assert (session["subject"], session["subject_type"], session["application_id"], session["stands"]) == (
        client.id,
        "application",
        client.id,
        True,
    )


async def test_it_gets_no_more_than_the_grant_gives_and_all_of_that_unless_it_asks_for_less(client: Client) -> None:
    assert (await client.ask_own()).json()["scope"] == "read write"
    assert (await client.ask_own(scope="write")).json()["scope"] == "write"
    refused_by_oauth(await client.ask_own(scope="read delete"), 400, "invalid_scope")
    refused_by_oauth(await client.ask_own(audience="https://b.example"), 400, "invalid_target")
    refused_by_oauth(await client.ask_own(resource="https://b.example"), 400, "invalid_target")
    refused_by_oauth(await client.ask_own(audience=None), 400, "invalid_request")
    assert (await client.ask_own(audience=None, resource=AUDIENCE)).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        *("subject_token", "subject_token_type", "requested_token_type", "agent_session_id", "delegation_edge_id"),
        *("actor_token", "actor_token_type"),
    ],
)
async def test_what_is_for_an_exchange_is_refused_and_not_passed_over(client: Client, name: str) -> None:
    """Whoever names an agent would hold what is not bound to it."""
    refused_by_oauth(await client.ask_own(**{name: "x"}), 400, "invalid_request")


async def test_without_a_grant_to_itself_it_gets_nothing_and_no_session(
    admin: Admin, client: Client, http: httpx2.AsyncClient
) -> None:
    """Others' grants do not help: another subject's to it, nor its own leave for another application."""
    other = await new_client(admin, http)
    await admin.grant(other.id, "read", subject="alice")
    await admin.grant(client.id, "read", subject=other.id)
    await admin.grant(other.id, "read", subject=client.id)
    refused_by_oauth(await other.ask_own(), 400, "invalid_target")
    tree = await admin.read(f"tree/{other.id}")
    assert {node["kind"] for node in tree["nodes"]} == {"application", "grant"}


async def test_many_at_once_are_given_one_session(shared: Running, client: Client) -> None:
    tokens = await asyncio.gather(*(client.own() for _ in range(12)))
    assert len({read(shared, token).session_id for token in tokens}) == 1
    assert len({read(shared, token).token_id for token in tokens}) == 12


async def test_its_mandate_is_exchanged_for_its_agents(shared: Running, admin: Admin, client: Client) -> None:
    token = await client.own()
    agent = await admin.agent(client.id, session_id=read(shared, token).session_id)
    exchanged = read(shared, await client.exchange(token, agent_session_id=agent))
    assert (exchanged.agent_session_id, exchanged.subject) == (agent, client.id)


async def test_a_user_who_is_called_like_it_is_somebody_else(shared: Running, admin: Admin, client: Client) -> None:
    other = await admin.application()
    sessions = [
        await admin.session(client.id, client.id),
        await admin.session(other, client.id, subject_type="application"),
        await admin.session(client.id, "alice", subject_type="application"),
    ]
    assert read(shared, await client.own()).session_id not in sessions


ENDED: Final[dict[str, Callable[[Admin, Mandate], dict[str, str]]]] = {
    "its session": lambda _, mandate: {"kind": "session", "id": mandate.session_id or ""},
    "a cutoff for the application": lambda _, mandate: {"target": f"application:{mandate.client_id}"},
    "a cutoff for the subject": lambda _, mandate: {"target": f"subject:{mandate.subject}"},
    "a cutoff for all": lambda _, __: {"target": "all"},
}


@pytest.mark.parametrize("ended", ENDED.values(), ids=ENDED)
async def test_what_ends_its_session_ends_its_mandates_and_it_begins_anew(
    shared: Running, admin: Admin, client: Client, ended: Callable[[Admin, Mandate], dict[str, str]]
) -> None:
    token = await client.own()
    body = ended(admin, read(shared, token))
    await admin.make("cutoffs" if "target" in body else "revocations", **body)
    assert await look_as(shared, shared.admin_key, token) == {"active": False}
    again = await client.own()
    assert read(shared, again).session_id != read(shared, token).session_id
    assert (await client.look(again))["active"] is True


async def test_a_revoked_application_is_kept_out(shared: Running, admin: Admin, client: Client) -> None:
    token = await client.own()
    await admin.revoke("application", client.id)
    refused_by_oauth(await client.ask_own(), 401, "invalid_client")
    assert await look_as(shared, shared.admin_key, token) == {"active": False}


async def test_a_revoked_grant_ends_what_it_gave_and_a_closed_one_gives_nothing_new(
    shared: Running, admin: Admin, http: httpx2.AsyncClient
) -> None:
    client = await new_client(admin, http)
    grant = await admin.grant(client.id, "read", subject=client.id)
    token = await client.own()
    assert (await admin.post(f"grants/{grant}/close")).status_code == 200
    refused_by_oauth(await client.ask_own(), 400, "invalid_target")
    assert (await client.look(token))["active"] is True
    await admin.revoke("grant", grant)
    assert await client.look(token) == {"active": False}


async def _with_grant(rooms: Rooms) -> str:
    application = await rooms.service.opening.create_application("notes")
    await rooms.service.opening.create_grant(application.id, application.id, ["read"], [TOOLS], 366 * 86_400)
    return application.id


async def _own(rooms: Rooms, application_id: str) -> str:
    return (await rooms.service.minting.issue_own(application_id, [TOOLS], None)).token


async def _sessions(rooms: Rooms) -> int:
    query = select(func.count()).where(tables.anchors.c.kind == Kind.SESSION)
    async with rooms.database.read() as connection:
        return int((await connection.execute(query)).scalar_one())


def _session_of(rooms: Rooms, token: str) -> str | None:
    keys, now_s = rooms.service.minting.key_set, rooms.clock.wall_ms / 1000
    return verify(parse_mandate(token), keys, issuer=ISSUER, audience=TOOLS, now_s=now_s).session_id


@pytest.mark.parametrize("mandate_s", [900, 86_400])
async def test_every_mandate_has_its_full_life_and_a_row_lasts_for_a_week_of_them(
    tmp_path: Path, mandate_s: int
) -> None:
    async with rooms_open(tmp_path, mandate_s=mandate_s) as rooms:
        application_id = await _with_grant(rooms)
        step_s, weeks = 6 * 3600, 2
        for _ in range(weeks * LIFE_S // step_s):
            own = await rooms.service.minting.issue_own(application_id, [TOOLS], None)
            assert own.expires_in_s == mandate_s
            rooms.clock.advance(step_s * 1000)
        assert weeks <= await _sessions(rooms) <= weeks + 1


async def test_what_is_refused_leaves_no_row(rooms: Rooms) -> None:
    """With the clock behind a cutoff every new session would be cut off, too."""
    application_id = await _with_grant(rooms)
    with pytest.raises(InvalidTargetError):
        await rooms.service.minting.issue_own(application_id, ["https://b.example"], None)
    assert await _sessions(rooms) == 0
    await rooms.service.revoking.cut_off(f"application:{application_id}", before_ms=rooms.clock.wall_ms)
    rooms.clock.advance(-3_600_000)
    for _ in range(3):
        with pytest.raises(NotActiveError):
            await _own(rooms, application_id)
    assert await _sessions(rooms) == 0


async def test_of_two_calls_the_second_finds_what_the_first_has_opened(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have looked before either opens."""
    application_id = await _with_grant(rooms)
    look, looked = rooms.service.minting._own_authority, asyncio.Barrier(2)
    looks = 0

    async def look_together(*arguments: object) -> object:
        nonlocal looks
        looks += 1
        found = await look(*arguments)  # type: ignore[arg-type]
        if looks <= 2:
            await looked.wait()
        return found

    monkeypatch.setattr(rooms.service.minting, "_own_authority", look_together)
    first, second = await asyncio.gather(_own(rooms, application_id), _own(rooms, application_id))
    assert _session_of(rooms, first) == _session_of(rooms, second)
    assert await _sessions(rooms) == 1


async def test_a_guard_lets_its_mandate_in_until_the_session_is_revoked(rooms: Rooms) -> None:
    verifier, application_id = Verifier(rooms), await _with_grant(rooms)
    token = await _own(rooms, application_id)
    await verifier.apply()
    assert isinstance(await verifier.decide(token), Allow)
    await rooms.service.revoking.revoke(Kind.SESSION, _session_of(rooms, token) or "")
    await verifier.apply()
    assert isinstance(await verifier.decide(token), Deny)
    again = await _own(rooms, application_id)
    assert isinstance(await verifier.decide(again), Allow)


async def test_a_session_that_an_administrator_opened_for_the_application_itself_is_its_own(rooms: Rooms) -> None:
    application_id = await _with_grant(rooms)
    opened = await rooms.service.opening.open_session(application_id, application_id, SubjectType.APPLICATION, 3600)
    assert _session_of(rooms, await _own(rooms, application_id)) == opened.id
    newer = await rooms.service.opening.open_session(application_id, application_id, SubjectType.APPLICATION, 3600)
    assert _session_of(rooms, await _own(rooms, application_id)) == newer.id
    derived = await rooms.service.opening.open_session(
        application_id, None, SubjectType.APPLICATION, 3600, parent_id=opened.id
    )
    assert derived.subject == application_id
    assert _session_of(rooms, await _own(rooms, application_id)) == newer.id


async def test_an_application_that_is_none_has_nothing(rooms: Rooms) -> None:
    with pytest.raises(InvalidTargetError):
        await _own(rooms, f"app_{os.urandom(16).hex()}")
