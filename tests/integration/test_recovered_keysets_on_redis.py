"""Replicas follow over a real Redis, and report nothing: a restored authority leads them on by the keysets there."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from countermand.authority.model import Purpose
from countermand.errors import DataError, DisputedError
from countermand.log.anchor import Rev
from countermand.log.checkpoint import Checkpoint, Pin
from countermand.log.codec import MAX_MS, to_base64
from countermand.log.keyset import sign_keyset
from countermand.log.wire import CHECKPOINT_FIELD
from tests.backups import back_up, put_back
from tests.integration.planes import KEYS, MachineClock, Plane, following, publishing, witness_at
from tests.integration.rooms import Rooms, rooms_open
from tests.redis_server import RedisServer
from tests.running import until

pytestmark = pytest.mark.anyio

Change = Callable[[Rooms], Awaitable[None]]


@pytest.fixture(autouse=True)
def no_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a key retire at once: how long its checkpoints are good is another test's."""
    monkeypatch.setattr("countermand.authority.rotation.OVERLAP_MS", 0)


async def rotate(rooms: Rooms) -> None:
    """Rotate the checkpoint key to the end."""
    await rooms.service.rotation.rotate(Purpose.CHECKPOINT, force=True)
    await rooms.service.rotation.step()


async def withdraw(rooms: Rooms) -> None:
    await rooms.service.rotation.withdraw_checkpoint_key(rooms.keys.checkpoint_id, "stolen")


@asynccontextmanager
async def restored(path: Path, *changes: Change) -> AsyncIterator[tuple[Plane, Pin, list[str]]]:
    """Give an authority as it was before `changes` and a replica that has followed them.

    Beside it what that replica believes, and which sessions it knows to be revoked. The authority is disputed.
    """
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(RedisServer(path / "redis"))
        async with rooms_open(path, clock=MachineClock()) as first:
            back_up(first.data, path / "backup.db")
        replica = await stack.enter_async_context(following(first.pin, redis.url))
        async with publishing(path, redis.url) as (rooms, relay):
            old = Plane(rooms, redis, relay, [replica])
            ids = await old.revoke()
            for change in changes:
                await change(rooms)
                ids += await old.revoke()
                await old.caught_up()
            await old.caught_up()
        put_back(path / "backup.db", rooms.data)
        publishes = publishing(path, redis.url, witnesses=[witness_at(redis.url)])
        again, relay = await stack.enter_async_context(publishes)
        running = Plane(again, redis, relay, [replica])
        with pytest.raises(DisputedError):
            await running.rooms.heartbeat.sign()
        yield running, rooms.pin, ids


async def goes_on(running: Plane, ids: Sequence[str]) -> None:
    """The replica believes what is revoked now, and has lost nothing."""
    later = await running.revoke()
    await running.caught_up()
    assert running.revokes([*ids, *later])


@pytest.mark.parametrize("changes", [(rotate,), (withdraw,), (rotate, withdraw)], ids=["rotated", "withdrawn", "both"])
async def test_a_replica_at_a_later_keyset_goes_on_without_a_new_pin(tmp_path: Path, changes: Sequence[Change]) -> None:
    async with restored(tmp_path, *changes) as (running, last, ids):
        found = await running.rooms.service.recovery.recover(keep_sessions=True)
        assert (found.keyset, found.lost, found.missing) == (last.version, len(ids), 0)
        await goes_on(running, ids)
        assert running.replicas[0].state.pin == running.rooms.pin == last
        await rotate(running.rooms)
        await goes_on(running, ids)
        assert running.replicas[0].state.pin == running.rooms.pin != last, "the next rotation is followed as well"


async def test_a_stolen_key_whose_withdrawal_was_restored_away_signs_nothing_that_is_believed(tmp_path: Path) -> None:
    async with restored(tmp_path, withdraw) as (running, last, ids):
        stolen, log_id = running.rooms.keys.checkpoint, last.log_id

        def lies(rev: Rev) -> None:
            signed = Checkpoint(log_id, rev, bytes(32), running.rooms.clock.peek_ms()).sign(stolen)
            with running.redis.client() as redis:
                redis.xadd(KEYS.checkpoints, {CHECKPOINT_FIELD: to_base64(signed)})

        lies(Rev(MAX_MS - 2, MAX_MS))
        assert (await running.rooms.service.recovery.recover(keep_sessions=True)).begun == 2
        lies(Rev(2, MAX_MS))
        await goes_on(running, ids)
        assert (await running.rooms.head()).rev.generation == 2
        assert stolen is not running.rooms.keys.checkpoint


async def test_a_keyset_of_a_thief_is_refused_and_said(tmp_path: Path) -> None:
    async with restored(tmp_path) as (running, pin, ids):
        stolen, his = running.rooms.keys.checkpoint, Ed25519PrivateKey.generate().public_key()
        both = Pin.of(pin.log_id, *pin.keys.values(), his, version=1)
        with running.redis.client() as redis:
            redis.set(KEYS.keysets, sign_keyset(both, stolen))
        recovery = running.rooms.service.recovery
        with pytest.raises(DataError, match="and we cannot: put checkpoint-"):
            await recovery.recover(keep_sessions=True)
        assert (await running.rooms.head()).is_disputed
        found = await recovery.recover(keep_sessions=True, force=True)
        assert (found.keyset, len(found.missing_keys)) == (None, 1)
        await goes_on(running, ids)
        assert running.rooms.pin == pin


async def test_keysets_stay_on_redis_though_an_authority_that_has_forgotten_them_publishes(tmp_path: Path) -> None:
    """Without the new key's file it knows no better, until the file is there."""
    with RedisServer(tmp_path / "redis") as redis:
        async with publishing(tmp_path, redis.url) as (old, relay):
            await rotate(old)
            back_up(old.data, tmp_path / "backup.db")
            before = old.pin
            await withdraw(old)
            last = old.pin
            async with following(last, redis.url) as replica:
                await Plane(old, redis, relay, [replica]).caught_up()
        (id_,) = last.keys
        file = old.data.keys / f"checkpoint-{id_.hex()}.pem"
        file.rename(tmp_path / "elsewhere.pem")
        put_back(tmp_path / "backup.db", old.data)
        async with (
            following(last, redis.url) as replica,
            publishing(tmp_path, redis.url, witnesses=[witness_at(redis.url)]) as (rooms, relay),
        ):
            await until(lambda: relay.way.published_seq is not None, "what nobody believes is published")
            assert rooms.pin == before
            (tmp_path / "elsewhere.pem").rename(file)
            assert (await rooms.service.recovery.recover()).keyset == last.version
            await goes_on(Plane(rooms, redis, relay, [replica]), [])


async def test_where_redis_holds_no_later_keyset_nothing_changes(tmp_path: Path) -> None:
    async with restored(tmp_path) as (running, pin, ids):
        register = running.rooms.keys.register
        assert (await running.rooms.service.recovery.recover(keep_sessions=True)).keyset is None
        await goes_on(running, ids)
        assert running.rooms.keys.register == register
        assert running.replicas[0].state.pin == running.rooms.pin == pin
