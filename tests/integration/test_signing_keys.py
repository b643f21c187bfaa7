"""The register of signing keys, step by step on a clock that is held: who signs, who verifies, and who cannot."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import update

from countermand.authority import heartbeat as heartbeat_module
from countermand.authority import tables
from countermand.authority.heartbeat import Heartbeat
from countermand.authority.keys import Keys, generate, open_keys
from countermand.authority.model import KeyState, Purpose, ReplicaReport
from countermand.authority.replicas import LIVE_MS
from countermand.authority.rotation import OVERLAP_MS, WAIT_S, Rotation
from countermand.authority.witnesses import Witnesses
from countermand.errors import DataError, NotActiveError, NotFoundError, UnknownKeyError
from countermand.log.anchor import Kind
from countermand.log.checkpoint import Pin, parse_checkpoint
from countermand.log.keyset import MAX_KEYS
from countermand.log.state import LogState
from countermand.tokens.keys import SigningKey
from countermand.tokens.mandate import parse_mandate
from tests.integration.rooms import AUDIENCE, ISSUER, Rooms, rooms_open

pytestmark = pytest.mark.anyio


async def states(rooms: Rooms, purpose: Purpose) -> list[KeyState]:
    """The states of the keys of one purpose, in the order in which they were made."""
    register = await rooms.service.rotation.register()
    keys = sorted(register.keys, key=lambda key: (key.created_at_ms, key.since_ms))
    return [key.state for key in keys if key.purpose is purpose]


async def signer(rooms: Rooms) -> bytes:
    """Which key signs the next checkpoint."""
    return parse_checkpoint((await rooms.heartbeat.sign()).signed).signer


async def kid_of(rooms: Rooms) -> str:
    """Which key signs the next mandate."""
    return (
        parse_mandate((await rooms.service.minting.issue((await rooms.session()).id, [AUDIENCE], [])).token).key_id
        or ""
    )


def report(replica_id: str = "one", keyset: int = 0) -> ReplicaReport:
    return ReplicaReport(replica_id, 1, 0, keyset, strict=True, max_staleness_ms=30_000, at_ms=1)


async def step(rooms: Rooms, after_ms: int) -> None:
    rooms.clock.advance(after_ms)
    await rooms.service.rotation.step()


async def test_a_checkpoint_key_is_known_for_a_minute_before_it_signs_and_the_old_one_leaves_after_it(
    rooms: Rooms,
) -> None:
    old = await signer(rooms)
    rooms.clock.advance(1)
    made = await rooms.service.rotation.rotate(Purpose.CHECKPOINT)
    assert await states(rooms, Purpose.CHECKPOINT) == [KeyState.ACTIVE, KeyState.NEXT]
    assert {id_.hex() for id_ in rooms.pin.keys} == {old.hex(), made.id}
    await step(rooms, WAIT_S[Purpose.CHECKPOINT] * 1000 - 1)
    assert await signer(rooms) == old
    await step(rooms, 1)
    assert (await signer(rooms)).hex() == made.id
    assert rooms.pin.version == 1, "what the old key signed is still on its way"
    await step(rooms, OVERLAP_MS - 1)
    assert rooms.pin.version == 1
    await step(rooms, 1)
    assert await states(rooms, Purpose.CHECKPOINT) == [KeyState.RETIRED, KeyState.ACTIVE]
    assert [id_.hex() for id_ in rooms.pin.keys] == [made.id]


async def test_a_mandate_key_is_published_before_it_signs_and_as_long_as_a_mandate_of_it_lives(rooms: Rooms) -> None:
    old = await kid_of(rooms)
    rooms.clock.advance(1)
    made = await rooms.service.rotation.rotate(Purpose.MANDATE)
    assert {old, made.id} == {key.kid for key in rooms.keys.key_set.keys}
    await step(rooms, WAIT_S[Purpose.MANDATE] * 1000 - 1)
    assert await kid_of(rooms) == old
    await step(rooms, 1)
    assert await kid_of(rooms) == made.id
    await step(rooms, (900 + 10 + 60) * 1000 - 1)
    assert {old, made.id} == {key.kid for key in rooms.keys.key_set.keys}
    await step(rooms, 1)
    assert [key.kid for key in rooms.keys.key_set.keys] == [made.id]
    assert old not in rooms.keys.key_set_with_withdrawn, "whoever steals it now exchanges nothing that it signs"
    await rooms.service.revoking.withdraw_key(old)
    assert old in rooms.keys.key_set_with_withdrawn, "the ledger says what has become of it"


async def test_a_live_replica_that_lacks_the_keyset_is_waited_for_and_a_silent_one_is_not(
    rooms: Rooms,
) -> None:
    await rooms.report("key", report())
    await rooms.service.rotation.rotate(Purpose.CHECKPOINT, wait_s=0)
    await step(rooms, LIVE_MS)
    assert KeyState.NEXT in await states(rooms, Purpose.CHECKPOINT)
    await rooms.report("key", report("another", keyset=1))
    await step(rooms, 1)
    assert KeyState.NEXT not in await states(rooms, Purpose.CHECKPOINT)


@pytest.mark.parametrize("purpose", Purpose)
async def test_one_rotation_at_a_time_and_force_ends_it(rooms: Rooms, purpose: Purpose) -> None:
    await rooms.report("key", report())
    made = await rooms.service.rotation.rotate(purpose)
    with pytest.raises(NotActiveError, match="under way"):
        await rooms.service.rotation.rotate(purpose)
    forced = await rooms.service.rotation.rotate(purpose, force=True)
    assert (forced.id, forced.state) == (made.id, KeyState.ACTIVE)
    assert made.id in {(await signer(rooms)).hex(), await kid_of(rooms)}


@pytest.mark.parametrize("rotates", [False, True])
async def test_after_a_withdrawal_the_next_key_signs_or_a_new_one(rooms: Rooms, rotates: bool) -> None:
    pin, (old,) = rooms.pin, rooms.pin.keys
    made = await rooms.service.rotation.rotate(Purpose.CHECKPOINT) if rotates else None
    state = LogState(pin)
    await rooms.service.rotation.withdraw_checkpoint_key(old.hex())
    assert made is None or (await signer(rooms)).hex() == made.id
    assert await signer(rooms) != old
    for signed in rooms.keys.register.keysets:
        state.rekey(signed)
    assert state.pin == rooms.pin
    assert old not in state.pin.keys
    state.accept((await rooms.heartbeat.sign()).signed, rooms.clock())


async def test_a_keyset_is_signed_by_the_key_that_is_withdrawn_only_where_replicas_know_no_other(rooms: Rooms) -> None:
    (old,) = rooms.pin.keys
    made = await rooms.service.rotation.rotate(Purpose.CHECKPOINT)
    both = rooms.pin
    await rooms.service.rotation.withdraw_checkpoint_key(old.hex())
    state = LogState(Pin.of(both.log_id, both.keys[bytes.fromhex(made.id)], version=both.version))
    state.rekey(rooms.keys.register.keysets[-1])
    assert state.pin == rooms.pin


async def test_a_key_that_is_withdrawn_stays_so_and_an_unknown_one_is_not_found(rooms: Rooms) -> None:
    (old,), kid = rooms.pin.keys, await kid_of(rooms)
    rooms.clock.advance(1)
    for _ in range(2):
        assert (await rooms.service.rotation.withdraw_checkpoint_key(old.hex())).state is KeyState.WITHDRAWN
        await rooms.service.revoking.withdraw_key(kid)
    assert await states(rooms, Purpose.CHECKPOINT) == [KeyState.WITHDRAWN, KeyState.ACTIVE]
    assert await states(rooms, Purpose.MANDATE) == [KeyState.WITHDRAWN, KeyState.ACTIVE]
    assert rooms.pin.version == 1
    for id_ in (kid, "0" * 32, ""):
        with pytest.raises(NotFoundError):
            await rooms.service.rotation.withdraw_checkpoint_key(id_)
    with pytest.raises(NotFoundError):
        await rooms.service.revoking.withdraw_key(old.hex())


async def test_a_key_of_another_issuer_with_the_same_name_withdraws_none_of_ours(rooms: Rooms) -> None:
    kid = await kid_of(rooms)
    await rooms.service.revoking.revoke(Kind.KEY, kid, issuer="https://other.example")
    assert await kid_of(rooms) == kid
    await rooms.service.revoking.revoke(Kind.KEY, kid, issuer=ISSUER)
    assert await kid_of(rooms) != kid


async def test_a_withdrawal_without_a_commit_changes_nothing(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    kid, head = await kid_of(rooms), await rooms.head()

    async def fail(*_: object) -> None:
        raise DataError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(heartbeat_module, "append", fail)
        with pytest.raises(DataError):
            await rooms.service.revoking.withdraw_key(kid)
    assert await rooms.head() == head
    assert await states(rooms, Purpose.MANDATE) == [KeyState.ACTIVE]
    assert await kid_of(rooms) == kid


async def test_a_crash_between_file_and_commit_leaves_a_file_that_nobody_uses(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DataError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("countermand.authority.rotation.sign_keyset", fail)
        with pytest.raises(DataError):
            await rooms.service.rotation.rotate(Purpose.CHECKPOINT)
    assert len(list(rooms.data.keys.glob("checkpoint-*.pem"))) == 1
    assert await states(rooms, Purpose.CHECKPOINT) == [KeyState.ACTIVE]
    assert rooms.pin.version == 0
    await rooms.service.rotation.rotate(Purpose.CHECKPOINT, force=True)
    assert rooms.pin.version == 1


async def test_a_start_after_any_step_goes_on_where_it_was(tmp_path: Path) -> None:
    async with rooms_open(tmp_path) as rooms:
        clock, (old,) = rooms.clock, rooms.pin.keys
        await rooms.service.rotation.rotate(Purpose.CHECKPOINT)
    async with rooms_open(tmp_path, clock=clock) as rooms:
        assert await signer(rooms) == old
        await step(rooms, WAIT_S[Purpose.CHECKPOINT] * 1000)
        switched = await signer(rooms)
        assert switched != old
    async with rooms_open(tmp_path, clock=clock) as rooms:
        assert await signer(rooms) == switched
        assert rooms.pin.version == 1
        await step(rooms, OVERLAP_MS)
        assert list(rooms.pin.keys) == [switched]


@asynccontextmanager
async def another_process(rooms: Rooms, directory: Path) -> AsyncIterator[tuple[Keys, Heartbeat]]:
    """The keys and the heartbeat of a process beside this one, on the same database."""
    keys = await open_keys(rooms.database, directory, rooms.clock.wall_ms)
    witnesses = Witnesses(rooms.database, rooms.ledger, keys, (), rooms.clock)
    yield keys, Heartbeat(rooms.database, rooms.ledger, keys, rooms.clock, witnesses, "another")


async def test_a_process_that_lacks_the_file_signs_nothing_and_stops_no_other(rooms: Rooms, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(rooms.data.keys, tmp_path / "other-keys"))
    async with another_process(rooms, directory) as (keys, heartbeat):
        made = await rooms.service.rotation.rotate(Purpose.CHECKPOINT, force=True)
        with pytest.raises(DataError, match=f"put checkpoint-{made.id}.pem there"):
            await heartbeat.sign()
        assert (await signer(rooms)).hex() == made.id
        shutil.copy(rooms.data.keys / f"checkpoint-{made.id}.pem", directory)
        signed = await heartbeat.sign()
        assert parse_checkpoint(signed.signed).signer.hex() == made.id, "it needs no start"
        assert keys.pin == rooms.pin


async def test_a_process_that_lacks_the_next_key_hears_of_it_while_that_signs_nothing(
    rooms: Rooms, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(rooms.data.keys, tmp_path / "other-keys"))
    async with another_process(rooms, directory) as (keys, heartbeat):
        rotation = Rotation(rooms.database, keys, rooms.clock, heartbeat.sign_soon)
        rooms.clock.advance(1)
        made = await rooms.service.rotation.rotate(Purpose.CHECKPOINT, wait_s=0)
        await heartbeat.sign()
        with pytest.raises(DataError, match=f"put checkpoint-{made.id}.pem there"):
            await rotation.step()
        assert await states(rooms, Purpose.CHECKPOINT) == [KeyState.ACTIVE, KeyState.NEXT]
        await rotation.withdraw_checkpoint_key(keys.checkpoint_id)
        assert (await heartbeat.sign()).checkpoint.rev.seq == 0, "a withdrawal waits for no file"


async def test_no_more_keys_stand_than_a_keyset_and_a_key_set_hold(rooms: Rooms) -> None:
    first = rooms.pin
    for purpose in Purpose:
        for _ in range(MAX_KEYS - 1):
            await rooms.service.rotation.rotate(purpose, force=True)
        with pytest.raises(NotActiveError, match="keys are in use"):
            await rooms.service.rotation.rotate(purpose, force=True)
    await step(rooms, OVERLAP_MS)
    await rooms.service.rotation.rotate(Purpose.CHECKPOINT, force=True)
    state = LogState(first)
    for signed in rooms.keys.register.keysets:
        state.rekey(signed)
    assert state.pin == rooms.pin


async def test_keys_from_before_the_register_held_their_public_halves_are_kept(tmp_path: Path) -> None:
    async with rooms_open(tmp_path) as rooms:
        pin, key_set = rooms.pin, rooms.keys.key_set
        await rooms.database.write(
            lambda connection: connection.execute(update(tables.signing_keys).values(public=None))
        )
    async with rooms_open(tmp_path) as rooms:
        assert (rooms.pin, rooms.keys.key_set) == (pin, key_set)


async def test_a_process_goes_by_the_register_at_its_next_checkpoint(rooms: Rooms) -> None:
    async with another_process(rooms, rooms.data.keys) as (keys, heartbeat):
        (old,) = keys.pin.keys
        await rooms.service.rotation.withdraw_checkpoint_key(old.hex())
        assert old in keys.pin.keys
        signed = await heartbeat.sign()
        assert old not in keys.pin.keys
        parse_checkpoint(signed.signed).verify(rooms.pin)


async def test_a_file_that_is_not_registered_is_never_used(rooms: Rooms, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    async with rooms_open(tmp_path / "foreign") as foreign:
        strange = await foreign.service.rotation.rotate(Purpose.CHECKPOINT, force=True)
        path = foreign.data.keys / f"checkpoint-{strange.id}.pem"
        shutil.copy(path, rooms.data.keys)
        made = await rooms.service.rotation.rotate(Purpose.CHECKPOINT, force=True)
        assert (await signer(rooms)).hex() == made.id
        shutil.copy(path, rooms.data.keys / f"checkpoint-{made.id}.pem")
        with pytest.raises(DataError, match="holds other keys than the database knows"):
            await open_keys(rooms.database, rooms.data.keys, rooms.clock.wall_ms)


async def test_a_checkpoint_of_the_key_before_is_refused_once_that_has_left(rooms: Rooms) -> None:
    stale = (await rooms.heartbeat.sign()).signed
    await rooms.service.rotation.rotate(Purpose.CHECKPOINT, force=True)
    parse_checkpoint(stale).verify(rooms.pin)
    await step(rooms, OVERLAP_MS)
    with pytest.raises(UnknownKeyError):
        parse_checkpoint(stale).verify(rooms.pin)


def test_no_key_has_an_id_that_a_command_line_takes_for_an_option() -> None:
    """One in 64 would have, of which each is typed to withdraw it."""
    kids = [key.kid for key in (generate(Purpose.MANDATE) for _ in range(500)) if isinstance(key, SigningKey)]
    assert len(kids) == 500
    assert not any(kid.startswith("-") for kid in kids)
