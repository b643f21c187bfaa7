"""What documented consumers may have missed is owed to them, and paid whatever comes between."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from countermand.authority import owed, publication
from countermand.authority.ledger import DAY_MS
from countermand.authority.way import Ends
from countermand.log.anchor import Kind
from countermand.log.checkpoint import Checkpoint
from countermand.log.entry import Entry
from countermand.log.ports import Written
from countermand.log.snapshot import HEADER_BYTES, SnapshotHeader
from countermand.transport.redis import RedisLog, _leave_as_it_comes
from countermand.transport.redis_client import RedisUrl
from tests.integration.planes import KEYS, MachineClock, Plane, plane, publishing
from tests.integration.rooms import rooms_open
from tests.redis_server import RedisServer
from tests.running import until

pytestmark = pytest.mark.anyio

HERE = "it has been published again"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is owed may be paid again after half a second."""
    monkeypatch.setattr(owed, "AGAIN_MS", 500)


async def revoked_before(path: Path) -> set[str]:
    """Revoke ten sessions before anybody publishes: they lie under the snapshot, and not above it on the stream."""
    async with rooms_open(path, clock=MachineClock()) as rooms:
        await rooms.append(10, expires_at_ms=None)
        return {Entry.parse(candidate.entry).id for candidate in await rooms.candidates()}


async def revoke_with_agents(running: Plane, count: int) -> set[str]:
    """Revoke a session with so many agents; return the ids of all."""
    opening, session = running.rooms.service.opening, await running.rooms.session()
    agents = [
        await opening.start_agent(session.application_id, f"worker {n}", 3600, session_id=session.id)
        for n in range(count)
    ]
    await running.rooms.service.revoking.revoke(Kind.SESSION, session.id)
    return {session.id, *(agent.id for agent in agents)}


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
            assert running.relay.way.losses == times


async def test_a_loss_while_it_is_being_made_good_is_made_good_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owed, "TRICKLE", 2)
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
    monkeypatch.setattr(owed, "TRICKLE", 2)
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
    monkeypatch.setattr(owed, "TRICKLE", 1)
    monkeypatch.setattr(owed, "AGAIN_MS", 3_600_000)
    ids = await revoked_before(tmp_path)
    async with plane(tmp_path, replicas=0) as running:
        await until(lambda: named(published(running)) >= ids, "all are published")
        client = published(running)
        running.relay.way.owed._published_again_ms = None
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
            await until(lambda: relay.way.published_seq is not None, "it publishes")
            ids = []
            for _ in range(5):
                session = await rooms.session()
                await rooms.service.revoking.revoke(Kind.SESSION, session.id)
                ids.append(session.id)
            await until(lambda: named(client) >= set(ids), "they are published")
        client.xtrim(KEYS.stream, maxlen=1, approximate=False)
        async with publishing(tmp_path, server.url) as (_, relay):
            await until(lambda: named(client) >= set(ids), HERE)
            assert relay.way.losses == 0, "it cannot know that, and does it all the same"


async def test_descendants_are_told_again_too(tmp_path: Path) -> None:
    async with plane(tmp_path, replicas=0) as running:
        client, ids = published(running), await revoke_with_agents(running, 3)
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
            await until(
                lambda: not relay.way.owed.all_in_force and named(client) == {session.id}, "only what is in force"
            )


async def test_a_history_that_is_long_to_read_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = asyncio.Event()

    async def in_force(_self: object, *_numbers: int) -> AsyncGenerator[list[dict[str, str]], None]:
        began.set()
        await asyncio.Event().wait()
        yield []

    monkeypatch.setattr(owed.Trickle, "_in_force", in_force)
    async with plane(tmp_path) as running:
        await began.wait()
        for _ in range(3):
            ids = await running.revoke(1)
            await running.caught_up()
            assert running.revokes(ids)


async def test_what_is_lost_at_the_end_while_the_connection_is_away_is_noticed(tmp_path: Path) -> None:
    async with plane(tmp_path, replicas=0) as running:
        client, ids = published(running), await revoke_with_agents(running, 5)
        await until(lambda: named(client) >= ids, "all are told")
        await asyncio.sleep(0.5)  # and noted as told
        newest = [id_ for id_, _ in client.xrevrange(KEYS.stream, count=3)]
        with client.pipeline(transaction=True) as at_once:
            at_once.xdel(KEYS.stream, *newest)
            at_once.client_kill_filter(_type="normal", skipme=True)
            at_once.execute()
        await until(lambda: named(client) >= ids, HERE)
        assert running.relay.way.losses == 1


def test_what_will_be_trimmed_is_not_asked_for() -> None:
    ends = Ends()
    ends.note(Written("", first="1-0", last="1-0"), 1_000)
    ends.note(Written("", first="1-0", last="2-0"), 2_000)
    ends.forget(1_000 + DAY_MS)
    assert (ends.first, ends.last) == ("1-0", "2-0")
    ends.forget(1_001 + DAY_MS)
    assert (ends.first, ends.last) == ("", "2-0")
    ends.forget(2_001 + DAY_MS)
    assert (ends.first, ends.last) == ("", "")
    assert DAY_MS < publication.KEPT_MS


async def test_a_snapshot_is_laid_anew_while_the_ledger_grows_and_not_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publication, "BASE_MS", 300)
    monkeypatch.setattr(publication, "BASE_TIMES", 1)
    async with plane(tmp_path, replicas=0) as running:
        client = running.redis.client()
        pin = running.rooms.pin

        def covered() -> int:
            header = client.getrange(KEYS.snapshot, 0, HEADER_BYTES - 1)
            return SnapshotHeader.verify(header, pin).checkpoint.rev.seq if header else -1

        await until(lambda: covered() == 0, "there is one of nothing")
        for seq in range(1, 4):
            await running.revoke(1)
            await until(lambda seq=seq: covered() == seq, "it covers all")  # type: ignore[misc]
        before = client.get(KEYS.snapshot)
        await asyncio.sleep(2.5)
        assert client.get(KEYS.snapshot) == before


async def test_messages_of_others_are_not_looked_through_for_a_place_to_begin(tmp_path: Path) -> None:
    async with plane(tmp_path) as running:
        await running.revoke(3)
        await running.caught_up()
        log, asked = RedisLog(running.redis.url, KEYS), []
        async with RedisUrl.parse(running.redis.url).open(KEYS.stream) as client:
            _leave_as_it_comes(client)
            look = client.xrevrange

            async def looks(key: str, **options: Any) -> Any:
                asked.append(key)
                return await look(key, **options)

            client.xrevrange = looks
            place = await log._find(client, 2)
        entries = running.redis.client().xrange(KEYS.stream)
    assert set(asked) == {KEYS.checkpoints}
    assert b"0-0" < place < entries[2][0]


async def test_a_snapshot_that_comes_after_the_next_generation_has_begun_is_not_laid_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take seconds to make, and replicas that hear of a succession need one from after it."""
    async with plane(tmp_path, replicas=0) as running:
        reader = running.rooms.reader
        make, late = reader.newest_snapshot, [await reader.newest_snapshot()]

        async def newest() -> tuple[Checkpoint, bytes]:
            return late.pop() if late else await make()

        monkeypatch.setattr(reader, "newest_snapshot", newest)
        await running.rooms.service.recovery.recover(force=True, keep_sessions=True)
        with running.redis.client() as client:

            def generation() -> int:
                data = client.get(KEYS.snapshot) or b""
                return SnapshotHeader.verify(data[:HEADER_BYTES], running.rooms.pin).checkpoint.rev.generation

            await until(lambda: not late and generation() == 2, "one of the next generation lies there")
