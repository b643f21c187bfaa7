"""`revoke --wait` and `replicas`: who enforces it, who does not, and how it ends."""

import json
from contextlib import AsyncExitStack

import pytest

from countermand.cli.receipts import NOT_ENFORCED_EXIT, sentences
from tests.integration.commands import typed
from tests.integration.test_waiting import replica_at
from tests.running import Running

pytestmark = pytest.mark.anyio

BEHIND = {
    "replica_id": "rep_\x1b[2J",
    "key_id": "0123456789abcdef",
    "generation": 1,
    "seq": 41,
    "reported_at": "2026-01-31T12:00:00.900000Z",
    "refuses_at": "2026-01-31T12:00:31.001000Z",
}
RECEIPT = {"of": 3, "enforced": 3, "refusing": 0, "first_ms": 12, "last_ms": 1041, "behind": [], "best_effort": []}


async def a_session(running: Running) -> str:
    application = await running.client.create_application("notes")
    return str((await running.client.open_session(application["id"], "alice"))["id"])


async def test_it_says_how_many_enforce_it_and_how_soon(running: Running) -> None:
    session = await a_session(running)
    async with AsyncExitStack() as stack:
        for number in range(3):
            await stack.enter_async_context(replica_at(running, f"rep_{number}"))
        done = await typed("revoke", "session", session, "--wait", "20", "--data-dir", running.data.path)
        assert (done.returncode, done.stderr) == (0, "")
        revoked, enforced = done.stdout.splitlines()
        assert revoked == f"session {session} is revoked: entry 1; it reached 1 session"
        assert enforced.startswith("3 of 3 replicas enforce it, the last after ")


async def test_it_fails_and_says_who_is_behind(running: Running) -> None:
    async with replica_at(running, "rep_awake"), replica_at(running, "rep_still") as still:
        await still.aclose()
        done = await typed("cutoff", "--all", "--wait", "1", "--data-dir", running.data.path)
    assert (done.returncode, done.stderr) == (NOT_ENFORCED_EXIT, "")
    _, enforced, behind = done.stdout.splitlines()
    assert enforced.startswith("1 of 2 replicas enforce it, the last after ")
    assert behind.startswith("behind: rep_still at 1.0, heard 2")
    assert ", which refuses from 2" in behind


async def test_without_a_replica_it_fails(running: Running) -> None:
    done = await typed("cutoff", "--all", "--wait", "0.1", "--data-dir", running.data.path)
    assert done.returncode == NOT_ENFORCED_EXIT
    assert done.stdout.splitlines()[1] == "no replica reports: nobody is known to enforce it"
    as_json = await typed("cutoff", "--all", "--wait", "0.1", "--json", "--data-dir", running.data.path)
    assert as_json.returncode == NOT_ENFORCED_EXIT
    assert json.loads(as_json.stdout)["receipt"]["of"] == 0


async def test_what_makes_no_entry_is_not_waited_for(shared: Running) -> None:
    for words in (
        ("revoke", "session", "ses_x", "--dry-run", "--wait", "1"),
        ("revoke", "grant", "grt_x", "--wait", "1"),
        ("cutoff", "--all", "--dry-run", "--wait", "1"),
        ("cutoff", "--all", "--wait", "0"),
        ("cutoff", "--all", "--wait", "61"),
    ):
        done = await typed(*words, "--data-dir", shared.data.path)
        assert (done.returncode, done.stdout) == (2, ""), words


async def test_replicas_are_listed_with_how_far_each_has_come(running: Running) -> None:
    where = ("--data-dir", running.data.path)
    assert (await typed("replicas", *where)).stdout == "no replica has reported\n"
    async with replica_at(running, "rep_one"), replica_at(running, "rep_lenient", best_effort=True) as lenient:
        await lenient.aclose()
        await typed("cutoff", "--all", "--wait", "0.2", *where)
        listed = await typed("replicas", *where)
        items = json.loads((await typed("replicas", "--json", *where)).stdout)["items"]
    heads, *lines = listed.stdout.splitlines()
    assert heads.split() == ["replica", "key", "at", "behind", "refuses", "after", "last", "heard"]
    key_id = running.replica_key.split("_")[1]
    rows = {line.split()[0]: line.split()[1:-2] for line in lines}
    assert rows["rep_lenient"] == [key_id, "1.0", "1", "best", "effort"]
    assert rows["rep_one"][0] == key_id
    assert rows["rep_one"][3:] == ["30", "s"]
    assert {line.split()[-1] for line in lines} == {"live"}
    assert {one["replica_id"] for one in items} == set(rows)


def test_every_receipt_has_its_sentences() -> None:
    assert list(sentences(None)) == ["who enforces it could not be found out"]
    assert list(sentences(RECEIPT)) == ["3 of 3 replicas enforce it, the last after 1,041 ms"]
    one = RECEIPT | {"of": 1, "enforced": 1, "refusing": 1, "last_ms": None}
    assert list(sentences(one)) == ["1 of 1 replica enforces it; 1 of them by refusing all: silent for too long"]
    lenient = BEHIND | {"replica_id": "rep_lenient", "refuses_at": None}
    there = lenient | {"replica_id": "rep_there"}
    late = RECEIPT | {"of": 9, "behind": [BEHIND, lenient], "best_effort": [lenient, there]}
    assert list(sentences(late)) == [
        "3 of 9 replicas enforce it, the last after 1,041 ms",
        r"behind: rep_\x1b[2J at 1.41, heard 2026-01-31T12:00:00Z, which refuses from 2026-01-31T12:00:32Z on",
        "behind: rep_lenient at 1.41, heard 2026-01-31T12:00:00Z, which may let pass for ever",
        "behind: 4 more",
        "best effort: rep_there, which lets pass what it cannot know",
    ]
