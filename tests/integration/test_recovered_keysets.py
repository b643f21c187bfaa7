"""A register that is restored from before a rotation or a withdrawal takes up the keysets by which replicas go."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from countermand.authority.model import KeyState, Purpose
from countermand.authority.rotation import OVERLAP_MS
from countermand.authority.witnesses import Told
from countermand.errors import BusyError, DataError, DisputedError
from countermand.log.anchor import Rev
from countermand.log.checkpoint import Checkpoint, Pin, parse_checkpoint
from countermand.log.codec import MAX_MS
from countermand.log.keyset import sign_keyset
from countermand.log.snapshot import make_snapshot
from countermand.log.state import LogState
from countermand.log.succession import Succession
from tests.backups import Memory, back_up, put_back_beneath
from tests.integration.restoring import remembered, reopened
from tests.integration.rooms import Rooms, rooms_open

pytestmark = pytest.mark.anyio


async def rotate(rooms: Rooms) -> None:
    """Have another key sign checkpoints; the one before stays for a while."""
    rooms.clock.advance(1)
    await rooms.service.rotation.rotate(Purpose.CHECKPOINT, force=True)


async def rotate_to_the_end(rooms: Rooms) -> None:
    await rotate(rooms)
    rooms.clock.advance(OVERLAP_MS)
    await rooms.service.rotation.step()


async def withdraw(rooms: Rooms) -> None:
    """Withdraw the key that signs checkpoints; another one does at once."""
    await rooms.service.rotation.withdraw_checkpoint_key(rooms.keys.checkpoint_id, "stolen")


Change = Callable[[Rooms], Awaitable[None]]


async def changed(path: Path, memory: Memory, *changes: Change) -> Rooms:
    """Back up an authority that has signed, then change its keys and append an entry by each; return it, closed."""
    async with rooms_open(path) as rooms:
        await rooms.append(1)
        await rooms.heartbeat.sign()
        back_up(rooms.data, path / "backup.db")
        for change in changes:
            await rooms.append(1)
            await change(rooms)
        await rooms.append(1)
        await remembered(rooms, memory)
        return rooms


def states(rooms: Rooms) -> dict[str, KeyState]:
    """The states of the checkpoint keys."""
    return {key.id: key.state for key in rooms.keys.register.keys if key.purpose is Purpose.CHECKPOINT}


def followed(pin: Pin, rooms: Rooms) -> Pin:
    """What a replica believes that was at `pin` and is told all keysets; it refuses none."""
    state = LogState(pin)
    for signed in rooms.keys.register.keysets:
        state.rekey(signed)
    return state.pin


def file_of(rooms: Rooms, id_: str) -> Path:
    return rooms.data.keys / f"checkpoint-{id_}.pem"


def made_up(rooms: Rooms, rev: Rev, key: Ed25519PrivateKey) -> bytes:
    """A position that nobody was at."""
    return Checkpoint(rooms.pin.log_id, rev, bytes(32), rooms.clock.wall_ms).sign(key)


def keyset_of(pin: Pin, version: int, signer: Ed25519PrivateKey, *keys: Ed25519PrivateKey) -> bytes:
    return sign_keyset(Pin.of(pin.log_id, *[key.public_key() for key in keys], version=version), signer)


@pytest.mark.parametrize(
    "changes",
    [(rotate_to_the_end,), (withdraw,), (rotate, withdraw), (rotate_to_the_end, rotate_to_the_end, rotate_to_the_end)],
    ids=["a rotation", "a withdrawal", "the key of a rotation withdrawn", "three rotations"],
)
async def test_what_is_signed_after_the_recovery_is_believed_by_who_is_at_the_last_keyset(
    tmp_path: Path, changes: Sequence[Change]
) -> None:
    memory = Memory()
    old = await changed(tmp_path, memory, *changes)
    last, keysets = old.pin, old.keys.register.keysets
    async with reopened(tmp_path, old, memory) as rooms:
        (first,) = rooms.pin.keys
        found = await rooms.service.recovery.recover()
        assert (found.keyset, found.missing_keys) == (last.version, ())
        assert (found.lost, found.missing, found.begun) == (len(changes) + 1, 0, 2)
        assert rooms.pin == last
        assert rooms.keys.register.keysets == keysets
        assert states(rooms)[first.hex()] is (KeyState.ACTIVE if first in last.keys else KeyState.WITHDRAWN)
        assert rooms.heartbeat.newest is None, "nothing was signed by the key before"

        parse_checkpoint((await rooms.heartbeat.sign()).signed).verify(last)
        assert (begun := await rooms.reader.succession(2))
        assert Succession.verify(begun, last).rev.generation == 2
        await rotate_to_the_end(rooms)
        assert followed(last, rooms) == rooms.pin != last, "the next rotation is followed too"


async def test_a_rotation_that_was_under_way_is_ended_by_its_next_step(tmp_path: Path) -> None:
    memory = Memory()
    old = await changed(tmp_path, memory, rotate)
    last = old.pin
    async with reopened(tmp_path, old, memory) as rooms:
        signing = rooms.keys.checkpoint_id
        assert (await rooms.service.recovery.recover()).keyset == 1
        assert (rooms.pin, rooms.keys.checkpoint_id) == (last, signing)
        assert sorted(states(rooms).values()) == [KeyState.ACTIVE, KeyState.RETIRING]
        rooms.clock.advance(OVERLAP_MS)
        await rooms.service.rotation.step()
        assert [id_.hex() for id_ in rooms.pin.keys] == [signing]
        assert followed(last, rooms) == rooms.pin


async def test_the_audit_says_what_became_of_which_key(tmp_path: Path) -> None:
    memory = Memory()
    old = await changed(tmp_path, memory, withdraw)
    async with reopened(tmp_path, old, memory) as rooms:
        (stolen,) = rooms.pin.keys
        await rooms.service.recovery.recover()
        rows = [one.row for one in (await rooms.service.trail.page(0, 100)).rows]
        assert [(row.target, row.reason) for row in rows if row.action == "signing-key.recover"] == [
            (rooms.keys.checkpoint_id, "active by keyset 1"),
            (stolen.hex(), "withdrawn by keyset 1"),
        ]


async def test_the_word_of_a_key_that_a_later_keyset_leaves_out_counts_no_more(tmp_path: Path) -> None:
    """Its thief would have the next generation begin where no entry has a number any more, or stop us again."""
    memory = Memory()
    async with rooms_open(tmp_path) as old:
        back_up(old.data, tmp_path / "backup.db")
        stolen = [old.keys.checkpoint]
        await withdraw(old)
        stolen.append(old.keys.checkpoint)  # the register will have forgotten that there was such a key
        await withdraw(old)
        await old.append(3)
        await remembered(old, memory)
        candidates, at = memory.holds.candidates, (await old.heartbeat.sign()).checkpoint
        lies = [made_up(old, Rev(MAX_MS - 2, MAX_MS), key) for key in stolen]
        empty = [make_snapshot(at, [], key) for key in stolen]
    for snapshot in empty:
        told = Told(candidates[1:], keysets=old.keys.register.keysets, snapshot=snapshot)
        witness = Memory([*lies, *memory.checkpoints], told)
        async with reopened(tmp_path, old, witness) as rooms:
            found = await rooms.service.recovery.recover()
            assert (found.keyset, found.lost, found.missing) == (2, 2, 1), "no snapshot of a thief's fills the gap"
            assert [(one.generation, one.seq) for one in found.witnesses] == [(1, 3)]
            assert (await rooms.head()).rev == Rev(2, 3 + 2 + 1)
            assert sorted(states(rooms).values()) == [KeyState.ACTIVE, KeyState.WITHDRAWN, KeyState.WITHDRAWN]
            for lie in lies:
                await rooms.heartbeat.witnesses.note_report("a thief", lie)
            await rooms.heartbeat.sign()


async def test_a_thief_of_the_restored_key_brings_no_key_of_his_own_in(tmp_path: Path) -> None:
    thief, memory = Ed25519PrivateKey.generate(), Memory()
    async with rooms_open(tmp_path) as old:
        back_up(old.data, tmp_path / "backup.db")
        await old.append(1)
        await remembered(old, memory)
        pin, stolen = old.pin, old.keys.checkpoint
    for keys in ((thief,), (stolen, thief)):
        memory.holds = Told(memory.holds.candidates, keysets=[keyset_of(pin, 1, stolen, *keys)])
        async with reopened(tmp_path, old, memory) as rooms:
            (his,) = Pin.of(pin.log_id, thief.public_key()).keys
            found = await rooms.service.recovery.recover(dry_run=True)
            assert (found.keyset, found.missing_keys, found.begun) == (None, (his.hex(),), 2)
            with pytest.raises(DataError, match=f"put checkpoint-{his.hex()}.pem into"):
                await rooms.service.recovery.recover()
            assert (await rooms.head()).is_disputed
            found = await rooms.service.recovery.recover(force=True)
            assert (found.keyset, found.missing_keys, found.begun) == (None, (his.hex(),), 2)
            assert rooms.pin == pin
            parse_checkpoint((await rooms.heartbeat.sign()).signed).verify(pin)


async def test_what_a_thief_signs_behind_the_last_keyset_of_ours_is_left_there(tmp_path: Path) -> None:
    thief, memory = Ed25519PrivateKey.generate(), Memory()
    async with rooms_open(tmp_path) as old:
        back_up(old.data, tmp_path / "backup.db")
        await withdraw(old)
        await old.append(1)
        await remembered(old, memory)
        last = old.pin
        his = keyset_of(last, 2, old.keys.checkpoint, thief)
        memory.holds = Told(memory.holds.candidates, keysets=[b"", *memory.holds.keysets, his])
    async with reopened(tmp_path, old, memory) as rooms:
        found = await rooms.service.recovery.recover(force=True)
        assert (found.keyset, len(found.missing_keys)) == (1, 1)
        assert rooms.pin == last


async def test_no_keyset_brings_a_withdrawn_or_retired_key_back(tmp_path: Path) -> None:
    memory = Memory()
    async with rooms_open(tmp_path) as old:
        gone = old.keys.checkpoint
        await withdraw(old)
        back_up(old.data, tmp_path / "backup.db")
        await old.append(1)
        await remembered(old, memory)
        memory.holds = Told(keysets=[*old.keys.register.keysets, keyset_of(old.pin, 2, old.keys.checkpoint, gone)])
        last = old.pin
    async with reopened(tmp_path, old, memory) as rooms:
        found = await rooms.service.recovery.recover(force=True)
        assert (found.keyset, len(found.missing_keys)) == (None, 1)
        assert rooms.pin == last


async def test_a_key_without_its_file_is_missed_until_that_is_there(tmp_path: Path) -> None:
    """What only that key has signed counts then as well, though nobody has started again."""
    memory = Memory()
    old = await changed(tmp_path, memory, withdraw)
    (id_,) = [id_.hex() for id_ in old.pin.keys]
    file_of(old, id_).rename(tmp_path / "elsewhere.pem")
    async with reopened(tmp_path, old, memory) as rooms:
        with pytest.raises(DataError, match=f"put checkpoint-{id_}.pem into"):
            await rooms.service.recovery.recover()
        dry = await rooms.service.recovery.recover(dry_run=True)
        assert (dry.keyset, dry.missing_keys, dry.begun, dry.witnesses) == (None, (id_,), None, ())
        assert (await rooms.head()).rev.generation == 1
        (tmp_path / "elsewhere.pem").rename(file_of(rooms, id_))
        found = await rooms.service.recovery.recover()
        assert (found.keyset, found.missing_keys, found.lost, found.missing) == (1, (), 2, 0)
        assert rooms.keys.checkpoint_id == id_


async def test_files_of_keys_that_have_left_since_are_not_needed(tmp_path: Path) -> None:
    memory = Memory()
    old = await changed(tmp_path, memory, rotate_to_the_end, rotate_to_the_end)
    (last,) = [id_.hex() for id_ in old.pin.keys]
    (between,) = {*old.data.keys.glob("checkpoint-*.pem")} - {file_of(old, last)}
    between.unlink()
    async with reopened(tmp_path, old, memory) as rooms:
        assert (await rooms.service.recovery.recover()).keyset == 4
        assert rooms.keys.checkpoint_id == last


async def test_where_nobody_holds_a_later_keyset_the_register_stays_as_it_is(tmp_path: Path) -> None:
    memory = Memory()
    async with rooms_open(tmp_path) as old:
        await rotate(old)
        back_up(old.data, tmp_path / "backup.db")
        await old.append(1)
        await remembered(old, memory)
    async with reopened(tmp_path, old, memory) as rooms:
        before = rooms.keys.register
        found = await rooms.service.recovery.recover()
        assert (found.keyset, found.missing_keys, found.begun) == (None, (), 2)
        assert rooms.keys.register == before


async def test_a_process_whose_database_is_restored_beneath_it_remembers_the_keysets(
    tmp_path: Path, rooms: Rooms
) -> None:
    back_up(rooms.data, tmp_path / "backup.db")
    await rotate_to_the_end(rooms)
    await rooms.heartbeat.sign()
    last = rooms.pin
    put_back_beneath(tmp_path / "backup.db", rooms.data)
    with pytest.raises(DisputedError):
        await rooms.heartbeat.sign()
    assert (await rooms.service.recovery.recover()).keyset == last.version
    parse_checkpoint((await rooms.heartbeat.sign()).signed).verify(last)
    async with rooms_open(tmp_path, clock=rooms.clock) as again:
        assert again.pin == last, "the database holds them"


async def test_a_key_that_the_register_has_forgotten_contradicts_it_though_no_entry_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else the key before would sign, and be refused by all who follow."""
    memory = Memory()
    async with rooms_open(tmp_path) as old:
        await old.append(1)
        back_up(old.data, tmp_path / "backup.db")
        await withdraw(old)
        await remembered(old, memory)
        last = old.pin
    async with reopened(tmp_path, old, memory) as rooms:
        with pytest.raises(DisputedError):
            await rooms.heartbeat.sign()
        assert "memory has seen 1.1, and the register does not hold the key that signed it" in caplog.text
        found = await rooms.service.recovery.recover()
        assert (found.keyset, found.lost, found.missing, found.begun) == (1, 0, 0, 2)
        assert [one.contradicts for one in found.witnesses] == [True]
        parse_checkpoint((await rooms.heartbeat.sign()).signed).verify(last)
        await rooms.heartbeat.witnesses.compare()
        await rooms.heartbeat.sign()


async def test_a_keyset_that_nobody_has_signed_by_is_taken_up_though_nobody_disputes_the_ledger(tmp_path: Path) -> None:
    """Else the next one would have its number, and be passed over by all who follow."""
    memory = Memory()
    async with rooms_open(tmp_path) as old:
        back_up(old.data, tmp_path / "backup.db")
        await old.service.rotation.rotate(Purpose.CHECKPOINT)
        await remembered(old, memory)
        last = old.pin
    async with reopened(tmp_path, old, memory) as rooms:
        found = await rooms.service.recovery.recover()
        assert (found.keyset, found.begun) == (1, 2)
        await rotate_to_the_end(rooms)
        assert followed(last, rooms) == rooms.pin != last


async def test_the_way_back_leads_through_generations_that_only_a_key_before_has_begun(tmp_path: Path) -> None:
    memory = Memory()
    async with rooms_open(tmp_path) as old:
        back_up(old.data, tmp_path / "backup.db")
        for _ in range(2):
            await old.append(1)
            await old.service.recovery.recover(force=True, keep_sessions=True)
            await remembered(old, memory)
        await withdraw(old)
        await old.append(1)
        await remembered(old, memory)
    async with reopened(tmp_path, old, memory) as rooms:
        found = await rooms.service.recovery.recover(keep_sessions=True)
        assert (found.keyset, found.lost, found.missing, found.begun) == (1, 3, 0, 4)


async def test_a_rotation_that_comes_between_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory()
    old = await changed(tmp_path, memory, withdraw)
    async with reopened(tmp_path, old, memory) as rooms:
        commit = rooms.heartbeat.commit

        async def commit_later(*given: Any, **named: Any) -> object:
            await withdraw(rooms)
            return await commit(*given, **named)

        monkeypatch.setattr(rooms.heartbeat, "commit", commit_later)
        with pytest.raises(BusyError, match="the keys have changed"):
            await rooms.service.recovery.recover()
        assert (await rooms.head()).rev.generation == 1
