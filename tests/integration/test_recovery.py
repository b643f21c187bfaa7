"""Recovery: what witnesses hold is taken up again, in another generation that goes beyond all that was ever seen."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from countermand.authority import tables
from countermand.authority.model import Purpose, Session
from countermand.authority.rotation import OVERLAP_MS
from countermand.authority.witnesses import Told
from countermand.errors import BusyError, DisputedError, InvalidValueError, NotActiveError, UnreachableError
from countermand.log.anchor import EVERYONE, Anchor, Anchors, Kind, Rev, own_id
from countermand.log.chain import Candidate
from countermand.log.checkpoint import Checkpoint
from countermand.log.codec import MAX_MS
from countermand.log.entry import Entry
from countermand.log.ports import Batch
from countermand.log.snapshot import SnapshotReader, make_snapshot
from countermand.log.state import LogState
from countermand.tokens.mandate import parse_mandate
from tests.backups import Memory, back_up, put_back
from tests.integration.commands import typed
from tests.integration.restoring import remembered, remembering, reopened
from tests.integration.rooms import AUDIENCE, LATER_MS, NOW_MS, Rooms, beating, process_on, rooms_open
from tests.running import Running

pytestmark = pytest.mark.anyio

ISSUER = "https://idp.example"


@pytest.fixture
def memory() -> Memory:
    """A witness who remembers what the backup forgets."""
    return Memory()


async def last_entries(rooms: Rooms, count: int) -> list[Entry]:
    return [Entry.parse(candidate.entry) for candidate in (await rooms.candidates())[-count:]]


async def is_dead(rooms: Rooms, session: Session) -> None:
    with pytest.raises(NotActiveError):
        await rooms.service.minting.issue(session.id, [AUDIENCE], [])


async def test_what_was_lost_is_appended_again_and_what_it_names_is_marked(tmp_path: Path, memory: Memory) -> None:
    async with remembering(tmp_path, memory) as old:
        revoking = old.service.revoking
        session, good = await old.session(), await old.session(subject="bob")
        agent = await old.service.opening.start_agent(session.application_id, "worker", 3600, session_id=session.id)
        back_up(old.data, tmp_path / "backup.db")
        unknown = await old.session()
        await revoking.revoke(Kind.SESSION, session.id, "leaked")
        await revoking.revoke(Kind.SESSION, unknown.id)
        await revoking.revoke(Kind.TOKEN, "their-jti", issuer=ISSUER)
        lost = await last_entries(old, 3)
    async with reopened(tmp_path, old, memory) as rooms:
        rooms.clock.advance(600_000)
        found = await rooms.service.recovery.recover(keep_sessions=True)

        assert (found.generation, found.seq, found.lost, found.missing, found.begun) == (1, 0, 3, 0, 2)
        again = await last_entries(rooms, 3)
        assert [entry.rev for entry in again] == [Rev(2, 4), Rev(2, 5), Rev(2, 6)]
        for entry, before in zip(again, lost, strict=True):
            named = (before.kind, before.id, before.issuer, before.reason)
            assert (entry.kind, entry.id, entry.issuer, entry.reason) == named
            assert entry.at_ms == rooms.clock.wall_ms
        assert [entry.expires_at_ms for entry in again] == [
            None if one.expires_at_ms is None else one.expires_at_ms + 600_000 for one in lost
        ]
        assert (await rooms.service.reading.session(session.id)).revoked_at_ms == rooms.clock.wall_ms
        assert not (await rooms.service.reading.tree(agent.id)).nodes[0].stands
        page = await rooms.service.descendants.next()
        assert page is not None
        assert page.anchors == (Anchor(Kind.AGENT, agent.id),), "descendants are told again"
        await is_dead(rooms, session)
        await rooms.service.minting.issue(good.id, [AUDIENCE], [])


async def test_everything_opened_before_is_cut_off_unless_sessions_are_kept(tmp_path: Path, memory: Memory) -> None:
    async with remembering(tmp_path, memory) as old:
        session = await old.session()
        back_up(old.data, tmp_path / "backup.db")
        await old.append(2)
    async with reopened(tmp_path, old, memory) as rooms:
        found = await rooms.service.recovery.recover()
        assert (found.is_cut_off, found.lost) == (True, 2)
        (cutoff,) = await last_entries(rooms, 1)
        assert (cutoff.kind, cutoff.id, cutoff.issued_before_ms, cutoff.expires_at_ms) == (
            Kind.CUTOFF,
            EVERYONE,
            None,
            None,
        )
        await is_dead(rooms, session)
        await rooms.service.minting.issue((await rooms.session()).id, [AUDIENCE], [])


async def test_a_lost_cutoff_ends_what_it_ended_and_nothing_that_came_after_it(tmp_path: Path, memory: Memory) -> None:
    async with remembering(tmp_path, memory) as old:
        before, other = await old.session(), await old.session(subject="bob")
        back_up(old.data, tmp_path / "backup.db")
        old.clock.advance(10_000)
        await old.service.revoking.cut_off("subject:alice")
    async with reopened(tmp_path, old, memory) as rooms:
        rooms.clock.advance(10_000)
        after = await rooms.session()
        await rooms.service.recovery.recover(keep_sessions=True)
        await is_dead(rooms, before)
        for session in (after, other):
            await rooms.service.minting.issue(session.id, [AUDIENCE], [])


async def test_sessions_are_not_kept_where_nobody_can_tell_what_was_revoked(tmp_path: Path, memory: Memory) -> None:
    """A replica says where it is, and holds no entries that it could give back."""
    async with remembering(tmp_path, memory) as old:
        back_up(old.data, tmp_path / "backup.db")
        await old.append(5)
    candidates = memory.holds.candidates
    for kept, missing, lost in (((), 5, 0), (candidates[3:], 3, 2), (candidates[:3], 5, 0)):
        memory.holds = Told(kept)
        async with reopened(tmp_path, old, memory) as rooms:
            with pytest.raises(InvalidValueError, match=f"{missing} entries"):
                await rooms.service.recovery.recover(keep_sessions=True)
            assert (await rooms.head()).is_disputed
            found = await rooms.service.recovery.recover()
            assert (found.missing, found.lost, found.begun) == (missing, lost, 2)
            assert (await rooms.head()).rev == Rev(2, 5 + lost + 1), "above all that was seen"


async def test_forgeries_beside_the_truth_are_not_appended(tmp_path: Path, memory: Memory) -> None:
    async with remembering(tmp_path, memory) as old:
        good = await old.session()
        back_up(old.data, tmp_path / "backup.db")
        await old.append(3)
    true = memory.holds.candidates
    forged = [Candidate(one.seq, one.previous, Entry(1, one.seq, Kind.SESSION, good.id, 1).to_bytes()) for one in true]
    beyond = Entry(1, 4, Kind.SESSION, good.id, 1)
    memory.holds = Told([*forged, *true, *forged, Candidate(4, true[-1].link, beyond.to_bytes())], [b"", bytes(161)])
    async with reopened(tmp_path, old, memory) as rooms:
        assert (await rooms.service.recovery.recover(keep_sessions=True)).lost == 3
        await rooms.service.minting.issue(good.id, [AUDIENCE], [])


async def test_what_only_a_snapshot_still_says_is_revoked_by_its_id(tmp_path: Path, memory: Memory) -> None:
    """The stream holds a day; a backup may be older."""
    async with remembering(tmp_path, memory) as old:
        revoking = old.service.revoking
        session, last = await old.session(), await old.session()
        await revoking.revoke(Kind.SESSION, (await old.session()).id)
        back_up(old.data, tmp_path / "backup.db")
        await revoking.revoke(Kind.SESSION, session.id)
        await revoking.revoke(Kind.APPLICATION, (await old.session()).application_id)
        at = (await old.heartbeat.sign()).checkpoint
        snapshot = make_snapshot(at, await last_entries(old, 3), old.keys.checkpoint)
        await revoking.revoke(Kind.TOKEN, "their-jti", issuer=ISSUER)
        await revoking.revoke(Kind.SESSION, last.id)
    memory.holds = Told(memory.holds.candidates[2:], snapshot=snapshot)
    async with reopened(tmp_path, old, memory) as rooms:
        found = await rooms.service.recovery.recover(keep_sessions=True)
        assert (found.lost, found.missing) == (4, 0)
        for dead in (session, last):
            await is_dead(rooms, dead)


async def test_what_a_snapshot_says_by_a_hash_alone_is_missing(tmp_path: Path, memory: Memory) -> None:
    async with rooms_open(tmp_path) as old:
        await old.service.revoking.cut_off("subject:bob")
        back_up(old.data, tmp_path / "backup.db")
        await old.service.revoking.revoke(Kind.TOKEN, "their-jti", issuer=ISSUER)
        await old.service.revoking.cut_off("subject:alice")
        await old.service.revoking.cut_off("subject:bob")
        signed = await old.heartbeat.sign()
        snapshot = make_snapshot(signed.checkpoint, await last_entries(old, 4), old.keys.checkpoint)
        memory.checkpoints, memory.holds = [signed.signed], Told(snapshot=snapshot)
    async with reopened(tmp_path, old, memory) as rooms:
        found = await rooms.service.recovery.recover(dry_run=True)
        assert (found.lost, found.missing) == (0, 3)


async def test_what_the_ledger_revokes_as_well_is_not_appended_again(tmp_path: Path, memory: Memory) -> None:
    """A fork: both have an entry of their own at every number."""
    async with remembering(tmp_path, memory) as old:
        sessions = [await old.session() for _ in range(3)]
        back_up(old.data, tmp_path / "backup.db")
        for session in sessions[:2]:
            await old.service.revoking.revoke(Kind.SESSION, session.id)
    put_back(tmp_path / "backup.db", old.data)
    async with rooms_open(tmp_path, clock=old.clock) as branch:
        for session in (sessions[2], sessions[1]):
            await branch.service.revoking.revoke(Kind.SESSION, session.id)
        back_up(branch.data, tmp_path / "branch.db")
    async with reopened(tmp_path, old, memory, "branch.db") as rooms:
        found = await rooms.service.recovery.recover(keep_sessions=True)
        assert (found.seq, found.lost, found.missing) == (2, 1, 0)
        assert [entry.id for entry in await last_entries(rooms, 3)] == [
            one.id for one in (sessions[2], sessions[1], sessions[0])
        ]
        for session in sessions:
            await is_dead(rooms, session)


async def test_a_backup_from_before_a_recovery_begins_a_generation_above_that(tmp_path: Path, memory: Memory) -> None:
    async with remembering(tmp_path, memory) as old:
        first, second = await old.session(), await old.session()
        back_up(old.data, tmp_path / "backup.db")
        await old.service.revoking.revoke(Kind.SESSION, first.id)
    async with reopened(tmp_path, old, memory) as rooms:
        await rooms.service.recovery.recover(keep_sessions=True)
        await rooms.service.revoking.revoke(Kind.SESSION, second.id)
        await remembered(rooms, memory)
        assert memory.holds.successions
    async with reopened(tmp_path, rooms, memory) as again:
        found = await again.service.recovery.recover(keep_sessions=True)
        assert (found.begun, found.missing) == (3, 0)
        assert (await again.head()).rev.generation == 3
        for session in (first, second):
            await is_dead(again, session)
    async with rooms_open(tmp_path, clock=rooms.clock) as reopened_once_more:
        await reopened_once_more.heartbeat.sign()


async def test_a_generation_without_an_entry_can_be_opened_again(tmp_path: Path, rooms: Rooms) -> None:
    await rooms.append(2)
    assert (await rooms.service.recovery.recover(force=True, keep_sessions=True)).begun == 2
    async with rooms_open(tmp_path) as again:
        assert (await again.head()).rev == Rev(2, 2)
        assert (await again.heartbeat.sign()).checkpoint.rev == Rev(2, 2)
        assert (await again.service.recovery.recover(force=True)).begun == 3


async def test_a_new_replica_begins_with_the_snapshot_of_the_new_generation(rooms: Rooms) -> None:
    await rooms.append(3)
    await rooms.heartbeat.sign()
    old = await _snapshot(rooms)
    await rooms.service.recovery.recover(force=True)
    new = await _snapshot(rooms)
    assert (old, new) == ((Rev(1, 3), 3), (Rev(2, 4), 4))


async def _snapshot(rooms: Rooms) -> tuple[Rev, int]:
    """Where a replica is that starts now, and how much it holds."""
    rooms.heartbeat._announce(await rooms.heartbeat.sign())
    reader, state = SnapshotReader(rooms.pin), LogState(rooms.pin)
    async for chunk in rooms.reader.snapshot():
        reader.feed(chunk)
    state.load(reader.finish(), rooms.clock())
    return state.rev, len(state)


async def test_a_cutoff_reaches_mandates_of_older_generations_whatever_their_number(rooms: Rooms) -> None:
    """One that the lost database minted may name a number that no witness saw."""
    await rooms.service.recovery.recover(force=True)
    async with rooms.database.read() as connection:
        for rev, is_ended in ((Rev(1, 900), True), (Rev(2, 0), True), (Rev(2, 1), False), (Rev(3, 0), False)):
            anchors = Anchors((Anchor(Kind.SESSION, own_id(Kind.SESSION, os.urandom(16))),), LATER_MS / 1000, rev)
            ended = await rooms.ledger.revoked_among(connection, anchors, rooms.clock.wall_ms)
            assert (ended is not None) is is_ended, rev


async def test_a_dry_run_changes_nothing_and_a_ledger_that_nobody_disputes_is_left_alone(
    tmp_path: Path, memory: Memory
) -> None:
    async with remembering(tmp_path, memory) as old:
        back_up(old.data, tmp_path / "backup.db")
        await old.append(1)
    async with reopened(tmp_path, old, memory) as rooms:
        before = await rooms.candidates()
        found = await rooms.service.recovery.recover(dry_run=True)
        assert (found.begun, found.lost, found.is_cut_off) == (2, 1, True)
        assert [(one.witness, one.generation, one.seq, one.contradicts) for one in found.witnesses] == [
            ("memory", 1, 1, True)
        ]
        assert (await rooms.head()).is_disputed
        assert await rooms.candidates() == before
        await rooms.service.recovery.recover()
        assert (await rooms.service.recovery.recover()).begun is None
        assert (await rooms.head()).rev.generation == 2
        async with rooms.database.read() as connection:
            assert (await connection.execute(select(tables.testimonies))).all() == []


async def test_two_recoveries_at_once_begin_one_generation(tmp_path: Path, memory: Memory) -> None:
    async with remembering(tmp_path, memory) as old:
        back_up(old.data, tmp_path / "backup.db")
        await old.append(5)
    async with reopened(tmp_path, old, memory) as rooms:
        recover = rooms.service.recovery.recover
        answers = await asyncio.gather(*[recover() for _ in range(3)], return_exceptions=True)
        begun = [answer for answer in answers if not isinstance(answer, BusyError)]
        assert begun
        assert (await rooms.head()).rev == Rev(2, 11)


async def test_a_witness_that_does_not_answer_is_waited_for_unless_it_is_forced(tmp_path: Path) -> None:
    away = Memory(error=UnreachableError("nobody is there"))
    async with rooms_open(tmp_path, witnesses=[away]) as rooms:
        with pytest.raises(UnreachableError, match="memory does not answer"):
            await rooms.service.recovery.recover()
        assert (await rooms.head()).rev == Rev(1, 0)
        assert (await rooms.service.recovery.recover(force=True)).begun == 2


async def test_the_command_says_what_it_found_and_what_it_did(running: Running) -> None:
    said = await typed("ledger", "recover", "--data-dir", running.data.path)
    assert (said.returncode, said.stdout.splitlines()) == (
        0,
        ["the ledger ended at 1.0", "nobody disputes it: there is nothing to recover"],
    )
    said = await typed("ledger", "recover", "--force", "--dry-run", "--data-dir", running.data.path)
    assert said.stdout.splitlines()[1:] == [
        "0 entries that witnesses hold would be appended again",
        "generation 2 would begin",
        "what was opened or issued before would end",
    ]
    said = await typed("ledger", "recover", "--force", "--data-dir", running.data.path)
    assert said.stdout.splitlines()[2:] == ["generation 2 has begun", "what was opened or issued before has ended"]


async def test_a_key_of_later_brings_the_succession_again_behind_the_keyset_that_brings_the_key(rooms: Rooms) -> None:
    """Whoever starts from the first pin believes both; whoever follows already and has not moved on hears it again."""
    first = rooms.pin
    await rooms.append(2)
    await rooms.service.recovery.recover(force=True)
    async with beating(rooms), aclosing(rooms.reader.follow(0)) as following:
        early, late = LogState(first), LogState(first)
        await _follow(early, following)
        assert early.is_succeeded
        await rooms.service.rotation.rotate(Purpose.CHECKPOINT, force=True)
        rooms.clock.advance(OVERLAP_MS)
        await rooms.service.rotation.step()
        rooms.heartbeat.sign_soon()
        await _follow(early, following, 2)
        async with aclosing(rooms.reader.follow(0)) as again:
            await _follow(late, again, 2)
    for state in (early, late):
        assert state.pin == rooms.pin
        assert not first.keys.keys() & state.pin.keys.keys()
        assert state.is_succeeded


async def _follow(state: LogState, batches: AsyncGenerator[Batch, None], version: int = 0) -> None:
    """Take what comes, up to a checkpoint after the keyset of this version."""
    async with asyncio.timeout(10):
        async for batch in batches:
            for signed in batch.keysets:
                state.rekey(signed)
            for signed in batch.successions:
                state.succeed(signed)
            if batch.checkpoints and state.pin.version == version:
                return


async def test_what_a_witness_has_forgotten_since_it_spoke_still_counts(tmp_path: Path) -> None:
    """A Redis may lose its newest messages. What it proved before is kept."""
    memory = Memory()
    async with rooms_open(tmp_path) as old:
        back_up(old.data, tmp_path / "backup.db")
        await old.append(1)
        await remembered(old, memory)
        before = memory.checkpoints
        await old.append(4)
        await remembered(old, memory)
    async with reopened(tmp_path, old, memory) as rooms:
        await rooms.heartbeat.witnesses.compare()
        memory.checkpoints, memory.holds = before, Told(memory.holds.candidates[:1])
        with pytest.raises(InvalidValueError, match="5 entries"):
            await rooms.service.recovery.recover(keep_sessions=True)
        assert (await rooms.service.recovery.recover()).missing == 5
        assert (await rooms.head()).rev == Rev(2, 5 + 1 + 1), "above all that was seen"


async def test_a_witness_that_speaks_while_the_ledger_is_recovered_is_heard_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory()
    async with rooms_open(tmp_path) as old:
        back_up(old.data, tmp_path / "backup.db")
        await old.append(1)
        await remembered(old, memory)
        await old.append(4)
        last = (await old.heartbeat.sign()).signed
    async with reopened(tmp_path, old, memory) as rooms:
        commit = rooms.heartbeat.commit

        async def commit_later(*given: Any, **named: Any) -> object:
            with pytest.raises(DisputedError):
                await rooms.heartbeat.witnesses.note_report("rep_1", last)
            return await commit(*given, **named)

        monkeypatch.setattr(rooms.heartbeat, "commit", commit_later)
        with pytest.raises(BusyError, match="try again"):
            await rooms.service.recovery.recover(keep_sessions=True)
        monkeypatch.undo()
        with pytest.raises(InvalidValueError, match="5 entries"):
            await rooms.service.recovery.recover(keep_sessions=True)


async def test_what_a_key_said_that_is_withdrawn_since_is_not_gone_by(rooms: Rooms) -> None:
    """Its thief would have the next generation begin where no entry has a number any more."""
    true, stolen = (await rooms.heartbeat.sign()).checkpoint, rooms.keys.checkpoint
    made_up = replace(true, rev=Rev(MAX_MS - 2, MAX_MS), link=bytes(32)).sign(stolen)
    with pytest.raises(DisputedError):
        await rooms.heartbeat.witnesses.note_report("rep_1", made_up)
    await rooms.service.rotation.withdraw_checkpoint_key(rooms.keys.checkpoint_id)

    honest = replace(true, rev=Rev(1, 3), link=bytes(32)).sign(rooms.keys.checkpoint)
    with pytest.raises(DisputedError):
        await rooms.heartbeat.witnesses.note_report("rep_1", honest)
    found = await rooms.service.recovery.recover()
    assert [(one.generation, one.seq) for one in found.witnesses] == [(1, 3)], "it does not shut out a true word"
    assert (await rooms.head()).rev == Rev(2, 4)


async def test_a_mandate_key_whose_withdrawal_was_lost_signs_no_more(tmp_path: Path) -> None:
    """The register was restored with the ledger, and everybody rejects what the key signs."""
    memory = Memory()
    async with rooms_open(tmp_path) as old:
        session = await old.session()
        back_up(old.data, tmp_path / "backup.db")
        withdrawn = old.keys.mandate.kid
        await old.service.revoking.withdraw_key(withdrawn, "leaked")
        await old.service.revoking.revoke(Kind.KEY, "theirs", issuer=ISSUER)
        await remembered(old, memory)
    async with reopened(tmp_path, old, memory) as rooms:
        assert rooms.keys.mandate.kid == withdrawn
        assert (await rooms.service.recovery.recover(keep_sessions=True)).lost == 2
        assert withdrawn not in rooms.keys.key_set
        token = (await rooms.service.minting.issue(session.id, [AUDIENCE], [])).token
        assert parse_mandate(token).key_id == rooms.keys.mandate.kid != withdrawn


async def test_a_key_withdrawn_by_one_process_is_believed_by_no_other_that_recovers(rooms: Rooms) -> None:
    """While the head is disputed nothing is signed; what the register says is heard all the same."""
    stolen = rooms.keys.checkpoint
    furthest = Checkpoint(rooms.ledger.log_id, Rev(500, 9_000_000), os.urandom(32), NOW_MS).sign(stolen)
    other = await process_on(rooms.database, rooms.data, rooms.clock, witnesses=[Memory([furthest])])
    with pytest.raises(DisputedError):
        await other.heartbeat.sign()
    assert (await other.service.recovery.recover(dry_run=True)).begun == 501
    await rooms.service.rotation.withdraw_checkpoint_key(rooms.keys.checkpoint_id, "stolen")
    assert (await other.service.recovery.recover()).begun == 2
    assert (await other.heartbeat.sign()).checkpoint.rev.generation == 2


async def test_a_key_that_is_withdrawn_while_another_recovers_is_not_believed_either(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    recovery = (await process_on(rooms.database, rooms.data, rooms.clock)).service.recovery
    find = recovery._find

    async def found_before_it_is_withdrawn(heard: Any) -> Any:
        found = await find(heard)
        await rooms.service.rotation.withdraw_checkpoint_key(rooms.keys.checkpoint_id, "stolen")
        return found

    monkeypatch.setattr(recovery, "_find", found_before_it_is_withdrawn)
    with pytest.raises(BusyError, match="the keys have changed"):
        await recovery.recover(force=True)
    assert (await rooms.head()).rev.generation == 1
