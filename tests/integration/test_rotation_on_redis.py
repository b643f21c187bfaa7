"""Rotation of the key that signs the log, with replicas that follow it over a real Redis, and report nothing."""

from pathlib import Path

import pytest

from countermand.authority.model import KeyState, Purpose
from tests.integration.planes import KEYS, Plane, following, is_at, plane
from tests.running import until

pytestmark = pytest.mark.anyio


async def rotated(running: Plane) -> None:
    """Rotate to the end: what replicas that report would be waited for, and the overlap, are another test's."""
    rotation = running.rooms.service.rotation
    await rotation.rotate(Purpose.CHECKPOINT, wait_s=0)

    async def has_ended() -> bool:
        await rotation.step()
        register = await rotation.register()
        return [key.state for key in register.standing(Purpose.CHECKPOINT)] == [KeyState.ACTIVE]

    await until(has_ended, "the old key leaves")


@pytest.mark.proof
async def test_replicas_follow_a_rotation_and_one_from_the_first_pin_catches_up_after_two(tmp_path: Path) -> None:
    async with plane(tmp_path, replicas=2) as running:
        first_pin = running.rooms.pin
        ids = await running.revoke()
        await running.caught_up()
        for _ in range(2):
            await rotated(running)
            ids += await running.revoke()
            await running.caught_up()
        assert running.rooms.pin.version == 4
        await until(lambda: all(one.state.pin.version == 4 for one in running.replicas), "they have followed")
        assert running.revokes(ids)
        assert running.relay.way.losses == 0
        for pin in (first_pin, running.rooms.pin):
            async with following(pin, running.redis.url) as late:
                head = await running.rooms.head()
                await until(lambda late=late, rev=head.rev: is_at(late, rev), "it catches up")  # type: ignore[misc]  # mypy infers no lambda with defaults


async def test_keysets_that_redis_lost_are_put_again(tmp_path: Path) -> None:
    async with plane(tmp_path, replicas=0) as running:
        first_pin = running.rooms.pin
        await running.rooms.service.rotation.rotate(Purpose.CHECKPOINT, force=True)
        with running.redis.client() as redis:
            await until(lambda: bool(redis.exists(KEYS.keysets)), "the keysets are there")
            redis.flushall()
            await until(lambda: bool(redis.exists(KEYS.keysets)), "and there again")
        async with following(first_pin, running.redis.url) as late:
            await until(lambda: late.state.pin.version == 1, "a replica follows them")


@pytest.mark.parametrize("document", [b"x", b"\1" * 500, b""])
async def test_keysets_that_somebody_put_there_stop_no_replica_that_knows_the_keys(
    tmp_path: Path, document: bytes
) -> None:
    async with plane(tmp_path, replicas=0) as running:
        with running.redis.client() as redis:
            redis.set(KEYS.keysets, document)
        async with following(running.rooms.pin, running.redis.url) as late:
            head = await running.rooms.head()
            await until(lambda: is_at(late, head.rev), "it follows")


async def test_a_withdrawn_key_signs_the_log_no_more(tmp_path: Path) -> None:
    async with plane(tmp_path) as running:
        (old,) = running.rooms.pin.keys
        await running.rooms.service.rotation.withdraw_checkpoint_key(old.hex())
        ids = await running.revoke()
        await running.caught_up()
        assert running.revokes(ids)
        assert old not in running.replicas[0].state.pin.keys


async def test_a_key_that_signs_nothing_at_present_is_withdrawn_too(tmp_path: Path) -> None:
    """No checkpoint says so: they go on by the same key."""
    async with plane(tmp_path) as running:
        rotation = running.rooms.service.rotation
        made = await rotation.rotate(Purpose.CHECKPOINT)
        (replica,) = running.replicas
        await until(lambda: replica.state.pin.version == 1, "the replica believes both")
        await rotation.withdraw_checkpoint_key(made.id)
        await until(lambda: replica.state.pin == running.rooms.pin, "the replica believes the one that is left")
