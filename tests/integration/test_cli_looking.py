"""`sessions` and `tree`: every page, every node, and what has ended in words."""

import json

import pytest

from countermand.authority.model import Filter
from countermand.log.anchor import Kind
from tests.integration.commands import typed
from tests.integration.fleets import resting
from tests.running import Running

pytestmark = pytest.mark.anyio

A_PAGE = 100


async def printed(running: Running, *words: str) -> str:
    done = await typed(*words, "--data-dir", running.data.path)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


async def test_sessions_follows_the_pages_to_the_last(running: Running) -> None:
    assert await printed(running, "sessions") == "there is no session\n"
    application = (await running.client.create_application("many"))["id"]
    opened = {(await running.client.open_session(application, f"s{n}"))["id"] for n in range(A_PAGE + 1)}
    lines = (await printed(running, "sessions")).splitlines()
    assert {line.split()[0] for line in lines} == opened
    assert len(lines) == len(opened)
    listed = json.loads(await printed(running, "sessions", "--json"))["sessions"]
    assert {session["id"] for session in listed} == opened
    assert {session["application_id"] for session in listed} == {application}


async def test_sessions_says_what_each_is_and_since_or_until_when(running: Running) -> None:
    application = (await running.client.create_application("few"))["id"]
    ids = [(await running.client.open_session(application, subject))["id"] for subject in ("alice", "zoë")]
    await running.client.revoke("session", ids[1])
    by_id = {line.split()[0]: line.split()[1:] for line in (await printed(running, "sessions")).splitlines()}
    sessions = {one["id"]: one for one in json.loads(await printed(running, "sessions", "--json"))["sessions"]}
    short = f"{application[:12]}…"
    for id_, subject, state, word, at in (
        (ids[0], "alice", "open", "until", "expires_at"),
        (ids[1], "zoë", "revoked", "since", "revoked_at"),
    ):
        to_the_second = f"{sessions[id_][at][:19]}Z"
        assert by_id[id_] == [subject, state, word, to_the_second, short]
        assert sessions[id_]["state"] == state


async def test_a_session_that_was_cut_off_or_lost_its_application_is_not_called_open(running: Running) -> None:
    one, other = [(await running.client.create_application(name))["id"] for name in ("one", "other")]
    cut = (await running.client.open_session(one, "alice"))["id"]
    orphan = (await running.client.open_session(other, "bob"))["id"]
    await running.authority.service.revoking.cut_off("subject:alice")
    await running.client.revoke("application", other)
    by_id = {line.split()[0]: line.split()[2] for line in (await printed(running, "sessions")).splitlines()}
    assert by_id == {cut: "ended", orphan: "ended"}
    page = await running.authority.service.reading.page(Filter(kind=Kind.SESSION), None, 100)
    assert [session.stands for session in page.items] == [False, False]


async def test_tree_draws_every_node_under_what_it_rests_on(running: Running) -> None:
    async with resting(running) as fleet:
        agents, edges = fleet.agents, fleet.delegations
        drawn = await printed(running, "tree", fleet.sessions["alice"])
        assert drawn.splitlines() == [
            f"session alice {fleet.sessions['alice']}",
            f"└── agent planner {agents['planner']}",
            f"    ├── agent scout {agents['scout']}",
            f"    ├── agent researcher {agents['researcher']}",
            f"    ├── agent reader {agents['reader']}",
            f"    ├── agent scribe {agents['scribe']}",
            f"    └── delegation {edges['researcher']} → researcher {agents['researcher'][:12]}…",
            f"        └── delegation {edges['reader']} → reader {agents['reader'][:12]}…",
            f"            ├── delegation {edges['scribe']} → scribe {agents['scribe'][:12]}…",
            f"            └── agent helper {agents['helper']}",
        ]
        edge = await printed(running, "tree", edges["scribe"])
        assert edge == f"delegation {edges['scribe']} → {agents['scribe']}\n"


async def test_tree_says_what_has_ended_and_how(running: Running) -> None:
    async with resting(running) as fleet:
        await running.client.revoke("delegation", fleet.delegations["reader"])
        lines = (await printed(running, "tree", fleet.sessions["alice"])).splitlines()
        assert [line.rpartition("  ")[2] for line in lines[-4:-1]] == ["revoked", "ended", "ended"]
        assert lines[-1] == "ended: cut off, or revoked with something on which it rests"
        assert not [line for line in lines[:-4] if line.endswith(("revoked", "ended"))]
        nodes = json.loads(await printed(running, "tree", fleet.sessions["alice"], "--json"))["nodes"]
        assert sum(not node["stands"] for node in nodes) == 3


async def test_an_id_that_is_a_path_asks_for_nothing_else(running: Running) -> None:
    for strange in ("../sessions", "?", "ses_" + "0" * 32, "x y"):
        done = await typed("tree", strange, "--data-dir", running.data.path)
        assert done.returncode == 5
        assert done.stderr.count("\n") == 1
