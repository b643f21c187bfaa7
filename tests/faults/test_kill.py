"""The authority is killed amid revocations, again and again: what it answered holds, everywhere and for ever."""

import asyncio
import itertools
import random
import time
from collections.abc import Iterator

import pytest

from countermand.cli.client import AuthorityClient
from countermand.errors import CountermandError
from tests.faults.resource import (
    PASSED,
    REVOKED,
    Resource,
    Subject,
    guard_of,
    protected,
    read_ledger,
    subject_of,
)
from tests.running import PROOF, ServerProcess, until

pytestmark = pytest.mark.anyio

KILLS = 20 if PROOF else 2
EACH = 10  # revocations between two kills, at the least
WRITERS = 6
SEED = 20_240


class Writers:
    """Clients that open sessions and revoke them as fast as they can, and note what was answered and what was not."""

    def __init__(self, client: AuthorityClient, application_id: str) -> None:
        self.client = client
        self.application_id = application_id
        self.answered: dict[str, int] = {}  # session -> seq
        self.unanswered: set[str] = set()
        self.errors = 0
        self.up = asyncio.Event()
        self.numbers: Iterator[int] = itertools.count()

    async def run(self) -> None:
        while True:
            await self.up.wait()
            try:
                await self._revoke_one()
            except CountermandError:
                self.errors += 1
                await asyncio.sleep(0.01)  # whoever is refused a connection comes back later

    async def _revoke_one(self) -> None:
        session = await self.client.open_session(self.application_id, f"subject {next(self.numbers)}")
        self.unanswered.add(session["id"])
        entry = await self.client.revoke("session", session["id"], "amid a kill")
        self.unanswered.remove(session["id"])
        self.answered[session["id"]] = entry["seq"]


async def test_every_revocation_that_was_answered_outlives_kills(server: ServerProcess) -> None:
    chance = random.Random(SEED)  # noqa: S311 - moments, not secrets
    began_s = time.monotonic()
    async with (
        AuthorityClient.open(server.client_settings()) as client,
        protected(guard_of(server)) as survivor,
    ):
        good, bad = await subject_of(client, "good"), await subject_of(client, "bad")
        await client.revoke("session", bad.session_id, "before the first kill")
        application = await client.create_application("writers")
        writers = Writers(client, application["id"])
        writers.answered[bad.session_id] = 1
        await survivor.comes_to(good.token, PASSED)
        follower = survivor.guard._background._task  # type: ignore[union-attr]  # to see that nobody starts another
        tasks = [asyncio.create_task(writers.run()) for _ in range(WRITERS)]
        try:
            for _ in range(KILLS):
                await _kill_amid_revocations(server, writers, chance)
                await _holds_everywhere(server, survivor, writers, good, bad)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        assert survivor.guard._background._task is follower  # type: ignore[union-attr]
        assert not follower.done()

    server.kill()
    entries = await read_ledger(server.data)
    revoked = [entry.id for entry in entries]
    assert len(revoked) == len(set(revoked)), "no session is revoked twice"
    assert {id_: seq for seq, id_ in enumerate(revoked, start=1) if id_ in writers.answered} == writers.answered
    assert set(revoked) <= set(writers.answered) | writers.unanswered
    print(  # noqa: T201 - the counts are what a person wants to see
        f"\n{KILLS} kills: {len(writers.answered)} revocations answered and none lost; "
        f"{len(revoked) - len(writers.answered)} committed without an answer; "
        f"{writers.errors} calls failed; {time.monotonic() - began_s:.0f} s"
    )
    assert writers.errors >= KILLS
    assert len(writers.answered) > EACH * KILLS


async def _kill_amid_revocations(server: ServerProcess, writers: Writers, chance: random.Random) -> None:
    """Let the writers write, kill at a random moment, and start again."""
    enough = len(writers.answered) + EACH
    writers.up.set()
    await until(lambda: len(writers.answered) >= enough, f"{EACH} revocations are answered")
    await asyncio.sleep(chance.uniform(0, 0.5))  # that is the random moment
    server.kill()
    writers.up.clear()
    await server.start()


async def _holds_everywhere(
    server: ServerProcess, survivor: Resource, writers: Writers, good: Subject, bad: Subject
) -> None:
    """See that the first good checkpoint after the restart brings all that was answered, to old and new replicas."""
    restarted_ms = time.time_ns() // 1_000_000
    answered = list(writers.answered)
    async with protected(guard_of(server)) as fresh:
        for resource in (survivor, fresh):
            await resource.has_heard(restarted_ms)
            assert [id_ for id_ in answered if not resource.revokes(id_)] == []
        await fresh.comes_to(good.token, PASSED)
        for resource in (survivor, fresh):
            assert await resource.call(good.token) == PASSED
            assert await resource.call(bad.token) == REVOKED
        assert survivor.is_well()
        await until(lambda: survivor.position() == fresh.position(), "both replicas are at the same link")
