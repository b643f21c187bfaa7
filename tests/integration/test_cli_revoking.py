"""`revoke` and `cutoff`: what they say, what they make, and how they end."""

import json
import re

import pytest

from countermand.log.anchor import Kind, own_id
from tests.integration.commands import typed
from tests.integration.fleets import resting
from tests.running import Running

pytestmark = pytest.mark.anyio

SOME_TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"


async def said(running: Running, *words: str) -> str:
    """Run a verb that works; return the one line that it prints."""
    done = await typed(*words, "--data-dir", running.data.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    return done.stdout.rstrip("\n")


async def refused(running: Running, *words: str) -> tuple[int, str]:
    done = await typed(*words, "--data-dir", running.data.path)
    assert done.stdout == ""
    return done.returncode, done.stderr


async def test_a_dry_run_says_what_the_revocation_then_reaches_and_makes_no_entry(running: Running) -> None:
    async with resting(running) as fleet:
        edge = fleet.delegations["reader"]
        reach = "1 agent and 2 delegations"
        dry = await said(running, "revoke", "delegation", edge, "--dry-run")
        assert dry == f"revoking delegation {edge} would reach {reach}, as of entry 0"
        wet = await said(running, "revoke", "delegation", edge)
        assert wet == f"delegation {edge} is revoked: entry 1; it reached {reach}"
        assert await said(running, "revoke", "delegation", edge) == f"delegation {edge} was already revoked: entry 1"
        again = await said(running, "revoke", "delegation", edge, "--dry-run")
        assert again == f"revoking delegation {edge} would reach nothing still standing, as of entry 1"


async def test_each_kind_is_revoked_by_its_name(running: Running) -> None:
    async with resting(running) as fleet:
        scout, bob = fleet.agents["scout"], fleet.sessions["bob"]
        application = (await running.client.create_application("idle"))["id"]
        assert await said(running, "revoke", "agent", scout) == f"agent {scout} is revoked: entry 1; it reached 1 agent"
        session = await said(running, "revoke", "session", bob, "--reason", "left")
        assert session == f"session {bob} is revoked: entry 2; it reached 1 session and 1 agent"
        idle = await said(running, "revoke", "application", application)
        assert idle == f"application {application} is revoked: entry 3; it reached 1 application"


async def test_a_grant_is_closed_for_the_future_and_revoked_only_by_cascade(running: Running) -> None:
    application = (await running.client.create_application("granted"))["id"]
    grant = (await running.client.create_grant(application, "alice", ["read"], "resource://x"))["id"]
    closed = await said(running, "revoke", "grant", grant)
    assert closed == (
        f"grant {grant} is closed: nothing new comes of it. What rests on it goes on; --cascade ends that too"
    )
    assert "reach 1 grant, as of entry 0" in await said(running, "revoke", "grant", grant, "--cascade", "--dry-run")
    revoked = await said(running, "revoke", "grant", grant, "--cascade", "--reason", "it was a mistake")
    assert revoked == f"grant {grant} is revoked: entry 1; it reached 1 grant"
    assert await said(running, "revoke", "grant", grant) == f"grant {grant} was already revoked"


async def test_a_token_is_revoked_by_its_id_and_a_foreign_one_with_its_issuer(running: Running) -> None:
    own = own_id(Kind.TOKEN, bytes(16))
    dry = await said(running, "revoke", "token", own, "--dry-run")
    assert dry == f"revoking token {own} would reach what cannot be counted: no such ids are kept here, as of entry 0"
    assert await said(running, "revoke", "token", own) == f"token {own} is revoked: entry 1"
    foreign = await said(running, "revoke", "token", "a-jti", "--issuer", "https://idp.example")
    assert foreign == "token a-jti is revoked: entry 2"
    assert await said(running, "revoke", "token", "a-jti", "--bare") == "token a-jti is revoked: entry 3"
    code, error = await refused(running, "revoke", "token", "a-jti")
    assert (code, error.count("\n")) == (1, 1)
    assert "a bare one" in error


async def test_a_token_typed_in_the_place_of_an_id_is_refused_and_not_repeated(running: Running) -> None:
    for words in (
        ("revoke", "token", SOME_TOKEN),
        ("revoke", "token", "x", SOME_TOKEN),
        ("revoke", SOME_TOKEN, "x"),
        (SOME_TOKEN,),
    ):
        code, error = await refused(running, *words)
        assert code == 2
        assert SOME_TOKEN not in error
        assert SOME_TOKEN[20:] not in error


async def test_revoke_gives_the_whole_entry_as_json(running: Running) -> None:
    async with resting(running) as fleet:
        bob = fleet.sessions["bob"]
        done = await typed("revoke", "session", bob, "--json", "--data-dir", running.data.path)
        answer = json.loads(done.stdout)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d.*Z", answer.pop("revoked_at"))
        assert answer == {
            "seq": 1,
            "generation": 1,
            "kind": "session",
            "id": bob,
            "issuer": "",
            "reason": "",
            "is_new": True,
            "reach": {"counts": {"session": 1, "agent": 1}, "is_whole": True},
        }
        dry = await typed("cutoff", "--all", "--dry-run", "--json", "--data-dir", running.data.path)
        assert {"dry_run", "seq", "reach"} == set(json.loads(dry.stdout))


async def test_a_cutoff_has_one_target_and_says_what_it_reached(running: Running) -> None:
    async with resting(running) as fleet:
        desk = (await running.client.tree(fleet.sessions["bob"]))["nodes"][0]
        application = (await running.client._call("GET", f"/v1/sessions/{desk['id']}"))["application_id"]
        reach = "1 session, 6 agents and 3 delegations"
        dry = await said(running, "cutoff", "--subject", "alice", "--dry-run")
        assert dry == f"cutting off what was issued to subject alice before now would reach {reach}, as of entry 0"
        wet = await said(running, "cutoff", "--subject", "alice", "--reason", "her laptop")
        assert wet == f"what was issued to subject alice before now is cut off: entry 1; it reached {reach}"
        own = await said(running, "cutoff", "--application", application)
        assert own == (
            f"what was issued to application {application} before now is cut off: entry 2; "
            "it reached 1 session and 1 agent"
        )
        everyone = await said(running, "cutoff", "--all")
        assert everyone == "what was issued before now is cut off: entry 3; it reached nothing still standing"


async def test_a_cutoff_of_the_past_takes_any_offset_and_one_to_come_is_refused(running: Running) -> None:
    past = await said(running, "cutoff", "--all", "--before", "2026-01-31T13:00:00+01:00")
    assert past == "what was issued before 2026-01-31T12:00:00Z is cut off: entry 1; it reached nothing still standing"
    foreign = await said(running, "cutoff", "--subject", "zoe", "--issuer", "https://idp.example")
    assert foreign == "what https://idp.example issued to subject zoe before now is cut off: entry 2"
    code, error = await refused(running, "cutoff", "--all", "--before", "2999-01-01T00:00:00Z")
    assert (code, error) == (1, "countermand: a cutoff lies between 1970 and now\n")


async def test_what_does_not_exist_is_said_in_a_line(running: Running) -> None:
    for kind, prefix in (("agent", "agt"), ("delegation", "edg"), ("application", "app")):
        code, error = await refused(running, "revoke", kind, f"{prefix}_{'0' * 32}")
        assert (code, error) == (5, f"countermand: there is no such {kind}\n")
    code, error = await refused(running, "revoke", "grant", f"grt_{'0' * 32}")
    assert (code, error) == (5, "countermand: there is no such grant\n")
