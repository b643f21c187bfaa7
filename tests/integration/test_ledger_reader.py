"""The ledger as a log: from wherever a replica stands, and as a snapshot that it accepts."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from sqlalchemy import event, update

from countermand.authority import tables
from countermand.authority.reader import SNAPSHOT_ENTRIES
from countermand.errors import RollbackError, UnknownVersionError, UnreachableError
from countermand.log.anchor import Kind
from countermand.log.ports import Batch
from countermand.log.snapshot import Snapshot, SnapshotReader
from countermand.log.state import LogState
from tests.integration.rooms import LATER_MS, NOW_MS, Rooms, beating, rooms_open
from tests.looking import writing
from tests.running import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def alive(rooms: Rooms) -> AsyncIterator[Rooms]:
    """The rooms, with a heart that beats."""
    async with beating(rooms):
        yield rooms


async def _next(batches: AsyncGenerator[Batch, None]) -> Batch:
    async with asyncio.timeout(5):
        return await anext(batches)


async def _to_checkpoint(
    batches: AsyncGenerator[Batch, None], state: LogState | None = None
) -> tuple[list[int], bytes]:
    """Return the numbers of the entries up to the next checkpoint, and the checkpoint. `state` holds the entries."""
    seqs: list[int] = []
    while True:
        batch = await _next(batches)
        for candidate in batch.candidates:
            seqs.append(candidate.seq)
            if state is not None:
                state.add(candidate)
        if batch.checkpoints:
            return seqs, batch.checkpoints[-1]


async def _snapshot(rooms: Rooms) -> tuple[Snapshot, bytes]:
    reader, data = SnapshotReader(rooms.pin), b""
    async for chunk in rooms.reader.snapshot():
        reader.feed(chunk)
        data += chunk
    return reader.finish(), data


async def _replica_at(rooms: Rooms, seq: int) -> LogState:
    """A replica that has applied exactly the first `seq` entries."""
    assert (await rooms.head()).rev.seq == seq
    state = LogState(rooms.pin)
    for candidate in await rooms.candidates():
        state.add(candidate)
    state.accept((await rooms.heartbeat.sign()).signed, rooms.clock())
    while state.advance():
        pass
    assert state.rev.seq == seq
    return state


@pytest.mark.parametrize(("after", "expected"), [(0, [1, 2, 3, 4, 5]), (3, [4, 5]), (4, [5]), (5, [])])
async def test_whoever_follows_gets_what_is_after_its_place_then_the_checkpoint_that_covers_it(
    rooms: Rooms, after: int, expected: list[int]
) -> None:
    state = LogState(rooms.pin)
    if after:
        await rooms.append(after)
        state = await _replica_at(rooms, after)
    await rooms.append(5 - after)
    rooms.clock.advance(1_000)
    async with beating(rooms), aclosing(rooms.reader.follow(after)) as batches:
        seqs, signed = await _to_checkpoint(batches, state)
    assert seqs == expected
    state.accept(signed, rooms.clock())
    while state.advance():
        pass
    assert state.freshness.applied_at_ms == NOW_MS + 1_000
    assert state.link == (await rooms.head()).link


async def test_a_follower_gets_each_entry_once_as_it_is_appended(alive: Rooms) -> None:
    async with aclosing(alive.reader.follow(0)) as batches:
        seen, _ = await _to_checkpoint(batches)
        assert seen == []
        for expected in ([1], [2, 3], [4]):
            await alive.append(len(expected))
            alive.heartbeat.sign_soon()
            seen, _ = await _to_checkpoint(batches)
            assert seen == expected


async def test_nothing_is_given_before_a_checkpoint_covers_it(alive: Rooms) -> None:
    async with aclosing(alive.reader.follow(0)) as batches:
        await _to_checkpoint(batches)
        alive.clock.wall_ms += 60_000  # from here on nothing is signed
        await alive.append(1)
        waiting = asyncio.create_task(anext(batches))
        readings = alive.clock.readings
        alive.heartbeat.sign_soon()
        await until(lambda: alive.clock.readings > readings, "it tried")
        assert (await alive.head()).rev.seq == 1
        assert not waiting.done()
        alive.clock.wall_ms -= 60_000
        alive.heartbeat.sign_soon()
        async with asyncio.timeout(5):
            assert [candidate.seq for candidate in (await waiting).candidates] == [1]


async def test_a_replica_ahead_of_the_ledger_gets_a_checkpoint_and_refuses_it_as_a_rollback(tmp_path: Path) -> None:
    async with rooms_open(tmp_path) as rooms:
        await rooms.append(3)
        state = await _replica_at(rooms, 3)
        # What a restored backup looks like to an authority that starts on it, and has no witness.
        async with writing(rooms.database) as connection:
            await connection.exec_driver_sql("DELETE FROM entries WHERE seq > 1")
            await connection.exec_driver_sql("UPDATE head SET seq = 1, link = (SELECT link FROM entries WHERE seq = 1)")
    async with rooms_open(tmp_path) as rooms, beating(rooms), aclosing(rooms.reader.follow(3)) as batches:
        seqs, signed = await _to_checkpoint(batches)
    assert seqs == []
    with pytest.raises(RollbackError):
        state.accept(signed, rooms.clock())
    assert state.rev.seq == 3


async def test_following_ends_when_the_authority_stops(alive: Rooms) -> None:
    async with aclosing(alive.reader.follow(0)) as batches:
        await _to_checkpoint(batches)
        waiting = asyncio.create_task(anext(batches))
        await asyncio.sleep(0)
        alive.heartbeat.close()
        async with asyncio.timeout(5):
            with pytest.raises(StopAsyncIteration):
                await waiting
    with pytest.raises(UnreachableError):
        await _snapshot(alive)


async def test_a_snapshot_holds_what_is_in_force_and_a_replica_loads_it(rooms: Rooms) -> None:
    session = await rooms.session()
    await rooms.append(1, expires_at_ms=NOW_MS - 10_000)
    await rooms.append(1, expires_at_ms=None)
    await rooms.service.revoking.revoke(Kind.SESSION, session.id)
    async with beating(rooms):
        snapshot, _ = await _snapshot(rooms)
    head = await rooms.head()
    assert (snapshot.header.checkpoint.rev, snapshot.header.checkpoint.link) == (head.rev, head.link)
    assert snapshot.header.count == 2, "one has expired"
    state = LogState(rooms.pin)
    state.load(snapshot, rooms.clock())
    assert (state.rev, state.link, len(state)) == (head.rev, head.link, 2)


async def test_a_snapshot_is_made_once_and_again_when_it_is_a_thousand_entries_behind(rooms: Rooms) -> None:
    await rooms.append(1)
    async with beating(rooms):
        first, data = await _snapshot(rooms)
        assert first.header.checkpoint.rev.seq == 1

        await rooms.fill(SNAPSHOT_ENTRIES)
        await _signed_at(rooms, 1 + SNAPSHOT_ENTRIES)
        assert (await _snapshot(rooms))[1] == data, "exactly a thousand behind: the feed brings the rest"

        await rooms.append(1)
        await _signed_at(rooms, 2 + SNAPSHOT_ENTRIES)
        renewed, _ = await _snapshot(rooms)
        assert renewed.header.checkpoint.rev.seq == renewed.header.count == 2 + SNAPSHOT_ENTRIES


async def test_for_many_who_want_a_snapshot_at_once_one_is_made(alive: Rooms) -> None:
    await alive.fill(3_000)
    await _signed_at(alive, 3_000)
    made = _makings(alive)
    snapshots = await asyncio.gather(*(_snapshot(alive) for _ in range(8)))
    assert len(made) == 1
    assert len({data for _, data in snapshots}) == 1
    assert snapshots[0][0].header.count == 3_000


async def test_a_caller_that_leaves_stops_no_snapshot_and_the_next_one_has_it(alive: Rooms) -> None:
    await alive.fill(3_000)
    await _signed_at(alive, 3_000)
    made = _makings(alive)
    for _ in range(2):
        leaving = asyncio.create_task(_snapshot(alive))
        await until(lambda: len(made) == 1, "it is being made")
        leaving.cancel()
        await asyncio.wait([leaving])
    snapshot, _ = await _snapshot(alive)
    assert snapshot.header.count == 3_000
    assert len(made) == 1


async def test_a_snapshot_that_cannot_be_made_is_an_error_for_all_who_wait_and_is_tried_again(rooms: Rooms) -> None:
    await rooms.append(1)
    (true,) = await rooms.candidates()
    async with beating(rooms):
        await _signed_at(rooms, 1)
        await _write_entry(rooms, b"unreadable")
        failed = await asyncio.gather(*(_snapshot(rooms) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in failed] == [UnknownVersionError] * 3
        await _write_entry(rooms, true.entry)
        assert (await _snapshot(rooms))[0].header.count == 1


async def test_an_authority_that_stops_stops_the_making_of_a_snapshot(rooms: Rooms) -> None:
    await rooms.fill(3_000)
    before = asyncio.all_tasks()
    async with beating(rooms):
        await _signed_at(rooms, 3_000)
        made = _makings(rooms)
        waiting, leaving = (asyncio.create_task(_snapshot(rooms)) for _ in range(2))
        await until(lambda: len(made) == 1, "it is being made")
        leaving.cancel()
        rooms.heartbeat.close()
        async with asyncio.timeout(5):
            with pytest.raises(UnreachableError):
                await waiting
    await rooms.database.close()
    assert asyncio.all_tasks() == before


def _makings(rooms: Rooms) -> list[str]:
    """Return a list that grows with each statement that reads what is in force."""
    made: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "entries.expires_at_ms IS NULL" in statement:
            made.append(statement)

    event.listen(rooms.database._reader.sync_engine, "before_cursor_execute", note)
    return made


async def _write_entry(rooms: Rooms, data: bytes) -> None:
    async with writing(rooms.database) as connection:
        await connection.execute(update(tables.entries).values(data=data))


async def test_a_snapshot_and_the_feed_after_it_lead_to_the_same_place_as_the_feed_alone(alive: Rooms) -> None:
    await alive.append(2)
    await _signed_at(alive, 2)
    snapshot, _ = await _snapshot(alive)
    await alive.append(2, expires_at_ms=LATER_MS)
    await _signed_at(alive, 4)
    by_snapshot, by_feed = LogState(alive.pin), LogState(alive.pin)
    by_snapshot.load(snapshot, alive.clock())
    for state in (by_snapshot, by_feed):
        async with aclosing(alive.reader.follow(state.rev.seq)) as batches:
            _, signed = await _to_checkpoint(batches, state)
        state.accept(signed, alive.clock())
        while state.advance():
            pass
    assert by_snapshot.link == by_feed.link == (await alive.head()).link
    assert len(by_snapshot) == len(by_feed) == 4


async def _signed_at(rooms: Rooms, seq: int) -> None:
    """Wait until the newest checkpoint covers entry `seq`."""
    seen = None
    async with asyncio.timeout(5):
        while seen is None or seen.checkpoint.rev.seq < seq:
            rooms.heartbeat.sign_soon()
            seen = await rooms.heartbeat.after(seen)
