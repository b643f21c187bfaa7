"""What documented consumers may have missed is owed to them, and paid whatever comes between."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from countermand.authority import relay as relay_module
from countermand.log.anchor import Kind
from countermand.log.entry import Entry
from tests.integration.planes import KEYS, MachineClock, Plane, plane, publishing
from tests.integration.rooms import rooms_open
from tests.redis_server import RedisServer
from tests.running import until

pytestmark = pytest.mark.anyio

HERE = "it has been published again"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is owed may be paid again after half a second."""
    monkeypatch.setattr(relay_module, "AGAIN_MS", 500)


async def revoked_before(path: Path) -> set[str]:
    """Revoke ten sessions before anybody publishes: they lie under the snapshot, and not above it on the stream."""
    async with rooms_open(path, clock=MachineClock()) as rooms:
        await rooms.append(10, expires_at_ms=None)
        return {Entry.parse(candidate.entry).id for candidate in await rooms.candidates()}


def named(client: Any) -> set[str]:
    return {fields["session_id"] for _, fields in client.xrange(KEYS.stream)}


def published(running: Plane) -> Any:
    return running.redis.client(decode_responses=True)


async def test_every_loss_is_made_good_however_soon_after_the_one_before(tmp_path: Path) -> None:
    ids = await revoked_before(tmp_path)
    async with plane(tmp_path, replicas=0) as running:
        await until(lambda: named(published(running)) >= ids, "all are published")
        client = published(running)
        for times in range(1, 4):
            client.flushall()
            await until(lambda: named(client) >= ids, HERE)
            assert running.relay.losses == times


async def test_a_loss_while_it_is_being_made_good_is_made_good_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "TRICKLE", 2)
    ids = await revoked_before(tmp_path)
    async with plane(tmp_path, replicas=0) as running:
        await until(lambda: named(published(running)) >= ids, "all are published")
        client = published(running)
        client.flushall()
        await until(lambda: len(named(client)) >= 4, "it has begun")
        client.flushall()
        await until(lambda: named(client) >= ids, HERE)


async def test_a_connection_that_breaks_meanwhile_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "TRICKLE", 2)
    ids = await revoked_before(tmp_path)
    async with plane(tmp_path, replicas=0) as running:
        await until(lambda: named(published(running)) >= ids, "all are published")
        client = published(running)
        client.flushall()
        await until(lambda: len(named(client)) >= 4, "it has begun")
        assert not named(client) >= ids
        client.client_kill_filter(_type="normal", skipme=True)
        await until(lambda: named(client) >= ids, HERE)


async def test_a_page_that_could_not_be_appended_is_appended_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of somebody else's stops the writer once, each time."""
    monkeypatch.setattr(relay_module, "TRICKLE", 1)
    monkeypatch.setattr(relay_module, "AGAIN_MS", 3_600_000)
    ids = await revoked_before(tmp_path)
    async with plane(tmp_path, replicas=0) as running:
        await until(lambda: named(published(running)) >= ids, "all are published")
        client = published(running)
        running.relay._published_again_ms = None
        client.flushall()

        async def interfere() -> None:
            while True:
                client.xadd(KEYS.checkpoints, {"cm_checkpoint": "nothing"})
                await asyncio.sleep(0.03)

        interfering = asyncio.create_task(interfere())
        await until(lambda: named(client) >= ids, HERE)
        interfering.cancel()


async def test_what_was_lost_while_nobody_published_is_published_again(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server, server.client(decode_responses=True) as client:
        async with publishing(tmp_path, server.url) as (rooms, relay):
            await until(lambda: relay.published_seq is not None, "it publishes")
            ids = []
            for _ in range(5):
                session = await rooms.session()
                await rooms.service.revoking.revoke(Kind.SESSION, session.id)
                ids.append(session.id)
            await until(lambda: named(client) >= set(ids), "they are published")
        client.xtrim(KEYS.stream, maxlen=1, approximate=False)
        async with publishing(tmp_path, server.url) as (_, relay):
            await until(lambda: named(client) >= set(ids), HERE)
            assert relay.losses == 0, "it cannot know that, and does it all the same"


async def test_descendants_are_told_again_too(tmp_path: Path) -> None:
    async with plane(tmp_path, replicas=0) as running:
        opening = running.rooms.service.opening
        session = await running.rooms.session()
        agents = [
            await opening.start_agent(session.application_id, f"worker {n}", 3600, session_id=session.id)
            for n in range(3)
        ]
        await running.rooms.service.revoking.revoke(Kind.SESSION, session.id)
        client = published(running)
        ids = {session.id, *(agent.id for agent in agents)}
        await until(lambda: named(client) >= ids, "all are told")
        client.flushall()
        await until(lambda: named(client) >= ids, HERE)


async def test_what_expired_is_not_published_again(tmp_path: Path) -> None:
    async with rooms_open(tmp_path) as rooms:
        await rooms.append(3, expires_at_ms=1_000_000)
    with RedisServer(tmp_path / "redis") as server, server.client(decode_responses=True) as client:
        async with publishing(tmp_path, server.url) as (rooms, relay):
            session = await rooms.session()
            await rooms.service.revoking.revoke(Kind.SESSION, session.id)
            await until(lambda: not relay.owes and named(client) == {session.id}, "only what is in force")
