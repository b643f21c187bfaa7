"""What a real Redis tells an authority that has forgotten: all that it holds, however long that is."""

from pathlib import Path

import pytest

from countermand.authority.model import Purpose
from countermand.authority.witnesses import Told
from countermand.log.entry import Entry
from countermand.transport.redis import open_writer
from tests.integration.planes import KEYS, Plane, plane, witness_at
from tests.running import until

pytestmark = pytest.mark.anyio


async def told(running: Plane) -> Told:
    """Ask as a start does, once all of the ledger is on Redis."""
    head = await running.rooms.head()
    await until(lambda: running.relay.way.published_seq == head.rev.seq, "all of it is published")
    return await witness_at(running.redis.url).told()


def ids_of(told: Told) -> list[str]:
    return [Entry.parse(candidate.entry).id for candidate in told.candidates]


async def test_entries_are_told_and_the_keysets_that_lie_beside_them(tmp_path: Path) -> None:
    async with plane(tmp_path, replicas=0) as running:
        await running.rooms.service.rotation.rotate(Purpose.CHECKPOINT, force=True)
        ids = await running.revoke(3)
        all_of_it = await told(running)
        assert ids_of(all_of_it) == ids
        assert tuple(all_of_it.keysets) == running.rooms.keys.register.keysets


async def test_keysets_stay_where_whoever_has_forgotten_the_last_puts_the_others(tmp_path: Path) -> None:
    async with plane(tmp_path, replicas=0) as running:
        for _ in range(2):
            await running.rooms.service.rotation.rotate(Purpose.CHECKPOINT, force=True)
        keysets = running.rooms.keys.register.keysets
        with running.redis.client() as redis:
            await until(lambda: redis.get(KEYS.keysets) == b"".join(keysets), "both are there")
            async with open_writer(running.redis.url, KEYS) as writer:
                await writer.put_keysets(keysets[0])
                assert redis.get(KEYS.keysets) == b"".join(keysets)
                redis.append(KEYS.keysets, b"x")
                await writer.put_keysets(b"".join(keysets))
                assert redis.get(KEYS.keysets) == b"".join(keysets), "what nobody can read does not"


async def test_a_stream_that_takes_longer_to_read_than_replicas_wait_for_a_checkpoint_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An authority that has forgotten signs none; and a million descendants may lie between two entries."""
    async with plane(tmp_path, replicas=0) as running:
        ids = await running.revoke()
        with running.redis.client() as redis, redis.pipeline() as pipeline:
            for number in range(5_000):
                pipeline.xadd(KEYS.stream, {"session_id": f"below-{number}"})
            pipeline.execute()
        ids += await running.revoke()
        await until(lambda: running.relay.way.published_seq == 2, "all of it is published")
        running.rooms.heartbeat.close()
        monkeypatch.setattr("countermand.transport.redis.PAGE", 10)
        monkeypatch.setattr("countermand.transport.redis.QUIET_S", 0.05)
        assert ids_of(await told(running)) == ids


async def test_the_beginning_of_every_generation_is_told(tmp_path: Path) -> None:
    """The way back from the third to the first leads through both."""
    async with plane(tmp_path, replicas=0) as running:
        for generation in (2, 3):
            await running.rooms.service.recovery.recover(force=True)
            await until(lambda: running.relay.way.published_seq == generation - 1, "the generation is published")  # noqa: B023 - awaited here
        assert len({signed[:81] for signed in (await told(running)).successions}) == 2
