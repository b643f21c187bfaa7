"""Checkpoints: never claiming more than was known, never signed against the clocks, at once when they are wanted."""

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import event

from countermand.authority import heartbeat as heartbeat_module
from countermand.authority.heartbeat import SignedCheckpoint
from countermand.errors import ClockError, DataError, NotFoundError
from countermand.log.anchor import Kind, own_id
from countermand.log.checkpoint import parse_checkpoint
from countermand.log.entry import Entry
from countermand.log.state import CLOCK_TOLERANCE_MS
from countermand.settings import DataDir
from tests import databases
from tests.integration.rooms import NOW_MS, HeldClock, Rooms, beating, process_on, rooms_open
from tests.looking import REFUSED_AT_COMMIT, commits_failing, looking_into, writing
from tests.running import until

pytestmark = pytest.mark.anyio

T = TypeVar("T")


@pytest.fixture
def only_wishes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No checkpoint comes by itself."""
    monkeypatch.setattr(heartbeat_module, "INTERVAL_S", 3_600.0)


async def _soon(coming: Awaitable[T]) -> T:
    async with asyncio.timeout(10):
        return await coming


def _complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "countermand.authority.heartbeat"]


async def test_a_checkpoint_is_the_ledgers_end_at_this_moment_and_its_signature_holds(rooms: Rooms) -> None:
    await rooms.append(3)
    signed = await rooms.heartbeat.sign()
    assert parse_checkpoint(signed.signed).verify(rooms.pin) == signed.checkpoint
    head = await rooms.head()
    assert (signed.checkpoint.rev, signed.checkpoint.link) == (head.rev, head.link)
    assert (signed.checkpoint.log_id, signed.checkpoint.at_ms) == (rooms.ledger.log_id, NOW_MS)


async def test_the_time_of_a_checkpoint_is_taken_before_the_head_is_read(rooms: Rooms) -> None:
    """It waits for the database: what is committed meanwhile is in it, and its time is still that of before."""
    async with writing(rooms.database) as connection:
        signing = asyncio.create_task(rooms.heartbeat.sign())
        await until(lambda: rooms.clock.readings > 0, "it has begun")
        rooms.clock.advance(700)
        await rooms.append_in(connection)
    signed = await signing
    assert (signed.checkpoint.at_ms, signed.checkpoint.rev.seq) == (NOW_MS, 1)


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_revocation_under_a_clock_of_the_day_before_yesterday_is_kept_as_long_as_any(
    tmp_path: Path, restarted: bool
) -> None:
    """The heartbeat remembers the time, also over a restart that signs under the wrong clock."""
    clock = HeldClock()
    async with rooms_open(tmp_path, clock=clock) as rooms:
        session = await rooms.session(lifetime_s=10 * 86_400)
        await rooms.heartbeat.sign()
        if not restarted:
            clock.wall_ms -= 2 * 86_400_000
            await rooms.service.revoking.revoke(Kind.SESSION, session.id)
    if restarted:
        clock.wall_ms -= 2 * 86_400_000
        async with rooms_open(tmp_path, clock=clock) as rooms:
            await rooms.heartbeat.sign()
            await rooms.service.revoking.revoke(Kind.SESSION, session.id)
    async with rooms_open(tmp_path, clock=clock) as rooms:
        [candidate] = await rooms.candidates()
    entry = Entry.parse(candidate.entry)
    assert entry.at_ms >= NOW_MS
    assert entry.expires_at_ms is not None
    assert entry.expires_at_ms >= NOW_MS + 86_400_000


async def test_every_checkpoint_costs_a_committed_write(rooms: Rooms) -> None:
    rooms.clock.advance(1_000)
    await rooms.heartbeat.sign()
    async with looking_into(rooms.data) as look:
        assert await look.execute("SELECT at_ms FROM heartbeat") == [(NOW_MS + 1_000,)]


@pytest.mark.parametrize("jump_ms", [CLOCK_TOLERANCE_MS + 1, -CLOCK_TOLERANCE_MS - 1, 3_600_000, -3_600_000])
async def test_nothing_is_signed_while_the_wall_clock_disagrees_with_the_boot_clock(rooms: Rooms, jump_ms: int) -> None:
    await rooms.heartbeat.sign()
    rooms.clock.advance(1_000)
    rooms.clock.wall_ms += jump_ms
    for _ in range(2):
        with pytest.raises(ClockError, match=f"jumped by {abs(jump_ms)} ms"):
            await rooms.heartbeat.sign()
        rooms.clock.advance(1_000)
    async with looking_into(rooms.data) as look:
        assert await look.execute("SELECT at_ms FROM heartbeat") == [(NOW_MS,)], "and nothing is written"
    rooms.clock.wall_ms -= jump_ms
    assert (await rooms.heartbeat.sign()).checkpoint.at_ms == NOW_MS + 3_000


@pytest.mark.parametrize("step_ms", [CLOCK_TOLERANCE_MS, -CLOCK_TOLERANCE_MS])
async def test_a_step_within_the_tolerance_is_no_alarm(rooms: Rooms, step_ms: int) -> None:
    await rooms.heartbeat.sign()
    rooms.clock.advance(2_000)
    rooms.clock.wall_ms += step_ms
    assert (await rooms.heartbeat.sign()).checkpoint.at_ms == NOW_MS + 2_000 + step_ms


async def test_a_machine_that_was_suspended_signs_again_when_it_wakes(rooms: Rooms) -> None:
    await rooms.heartbeat.sign()
    rooms.clock.advance(8 * 3_600_000)
    await rooms.heartbeat.sign()


async def test_each_attempt_against_the_clocks_is_one_line_in_the_log_and_announces_nothing(
    rooms: Rooms, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with beating(rooms):
        first = await rooms.heartbeat.after(None)
        next_one = asyncio.create_task(rooms.heartbeat.after(first))
        rooms.clock.wall_ms += 60_000
        for attempt in (1, 2, 3):
            readings = rooms.clock.readings
            rooms.heartbeat.sign_soon()
            await until(lambda before=readings: rooms.clock.readings > before, "it tried")  # type: ignore[misc]
            await until(lambda n=attempt: len(_complaints(caplog)) == n, "it says so")  # type: ignore[misc]
        assert all("no checkpoint: the wall clock jumped by 60000 ms" in line for line in _complaints(caplog))
        assert not next_one.done()
        rooms.clock.wall_ms -= 60_000
        rooms.heartbeat.sign_soon()
        recovered = await _soon(next_one)
        assert recovered is not None
        assert len(_complaints(caplog)) == 3


async def test_nothing_is_announced_when_the_commit_fails_and_the_next_attempt_works(
    rooms: Rooms, database_kind: databases.Kind, caplog: pytest.LogCaptureFixture
) -> None:
    async with beating(rooms):
        first = await rooms.heartbeat.after(None)
        next_one = asyncio.create_task(rooms.heartbeat.after(first))
        async with commits_failing(rooms.data, "UPDATE ON heartbeat"):
            with pytest.raises(DataError, match=REFUSED_AT_COMMIT[database_kind]):
                await rooms.heartbeat.sign()
            rooms.clock.advance(10)
            rooms.heartbeat.sign_soon()
            await until(lambda: len(_complaints(caplog)) == 1, "it says that there is none")
            assert not next_one.done()
            async with looking_into(rooms.data) as look:
                assert await look.execute("SELECT at_ms FROM heartbeat") == [(NOW_MS,)]
        rooms.clock.advance(10)
        rooms.heartbeat.sign_soon()
        recovered = await _soon(next_one)
    assert recovered is not None
    assert recovered.checkpoint.at_ms == NOW_MS + 20


async def test_a_damaged_database_stops_the_signing_and_not_the_heart(
    rooms: Rooms, caplog: pytest.LogCaptureFixture
) -> None:
    async with looking_into(rooms.data) as look:
        [saved] = await look.execute("SELECT * FROM head")
        await look.execute("DELETE FROM head")
    async with beating(rooms):
        await until(lambda: len(_complaints(caplog)) == 1, "it says that there is none")
        async with looking_into(rooms.data) as look:
            columns = dict(zip("abcde", saved, strict=True))
            await look.execute("INSERT INTO head VALUES (:a, :b, :c, :d, :e)", **columns)
        rooms.heartbeat.sign_soon()
        assert await _soon(rooms.heartbeat.after(None)) is not None


@pytest.mark.usefixtures("only_wishes")
async def test_a_hundred_wishes_make_one_checkpoint(rooms: Rooms) -> None:
    async with beating(rooms):
        first = await rooms.heartbeat.after(None)
        beats = _beats(rooms)
        for _ in range(100):
            rooms.heartbeat.sign_soon()
        await _soon(rooms.heartbeat.after(first))
        for _ in range(5):
            await rooms.append(1)
        assert len(beats) == 1


def _beats(rooms: Rooms) -> list[str]:
    """Return a list that grows with each time the heartbeat is written."""
    beats: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("UPDATE heartbeat"):
            beats.append(statement)

    event.listen(rooms.database._writer.sync_engine, "before_cursor_execute", note)
    return beats


@pytest.mark.usefixtures("only_wishes")
async def test_a_wish_while_one_is_being_signed_makes_another(rooms: Rooms) -> None:
    async with beating(rooms):
        first = await rooms.heartbeat.after(None)
        async with writing(rooms.database) as connection:
            readings = rooms.clock.readings
            rooms.heartbeat.sign_soon()
            await until(lambda: rooms.clock.readings > readings, "it waits for the database")
            rooms.heartbeat.sign_soon()
            await rooms.append_in(connection)
        second = await _soon(rooms.heartbeat.after(first))
        await _soon(rooms.heartbeat.after(second))


async def test_a_revocation_is_covered_by_a_checkpoint_of_its_own_when_it_is_answered(rooms: Rooms) -> None:
    session = await rooms.session()
    readings = rooms.clock.readings
    await rooms.service.revoking.revoke(Kind.SESSION, session.id)
    covering = await _soon(rooms.heartbeat.after(None))
    assert covering is not None
    head = await rooms.head()
    checkpoint = parse_checkpoint(covering.signed).verify(rooms.pin)
    assert (checkpoint.rev.seq, checkpoint.rev, checkpoint.link) == (1, head.rev, head.link)
    assert rooms.clock.readings > readings


async def test_what_was_revoked_before_is_not_signed_for_again(rooms: Rooms) -> None:
    """Nothing is written then, and who has only read cannot know whether there is a newer head."""
    session = await rooms.session()
    await rooms.service.revoking.revoke(Kind.SESSION, session.id)
    covering = await _soon(rooms.heartbeat.after(None))
    rooms.clock.advance(10)
    await rooms.service.revoking.revoke(Kind.SESSION, session.id)
    assert await _soon(rooms.heartbeat.after(None)) is covering


async def test_the_time_of_a_revocations_checkpoint_is_that_of_before_it_waited(rooms: Rooms) -> None:
    session = await rooms.session()
    async with writing(rooms.database) as connection:
        readings = rooms.clock.readings
        revoking = asyncio.create_task(rooms.service.revoking.revoke(Kind.SESSION, session.id))
        await until(lambda: rooms.clock.readings > readings, "it has begun")
        rooms.clock.advance(700)
        await rooms.append_in(connection)
    await revoking
    covering = await _soon(rooms.heartbeat.after(None))
    assert covering is not None
    assert (covering.checkpoint.at_ms, covering.checkpoint.rev.seq) == (NOW_MS, 2)


async def test_a_revocation_against_the_clocks_is_committed_and_not_signed(rooms: Rooms) -> None:
    session = await rooms.session()
    await rooms.heartbeat.sign()
    rooms.clock.wall_ms += 60_000
    await rooms.service.revoking.revoke(Kind.SESSION, session.id)
    assert (await rooms.head()).rev.seq == 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await rooms.heartbeat.after(None)
    async with looking_into(rooms.data) as look:
        assert await look.execute("SELECT at_ms FROM heartbeat") == [(NOW_MS,)]


@pytest.mark.usefixtures("only_wishes")
async def test_a_revocation_for_whose_answer_nobody_waits_is_covered_all_the_same(rooms: Rooms) -> None:
    session = await rooms.session()
    async with beating(rooms):
        first = await rooms.heartbeat.after(None)
        listening = asyncio.create_task(rooms.database.listen(rooms.heartbeat.heard))
        async with writing(rooms.database):
            readings = rooms.clock.readings
            revoking = asyncio.create_task(rooms.service.revoking.revoke(Kind.SESSION, session.id))
            await until(lambda: rooms.clock.readings > readings, "it has begun")
            revoking.cancel()
            await asyncio.wait([revoking])
        covering = await _soon(_covering(rooms, 1))
        listening.cancel()
        await asyncio.wait([listening])
    assert covering is not first


async def _covering(rooms: Rooms, seq: int) -> SignedCheckpoint | None:
    covering = None
    while covering is None or covering.checkpoint.rev.seq < seq:
        covering = await rooms.heartbeat.after(covering)
    return covering


async def test_a_revocation_that_fails_is_not_signed(rooms: Rooms) -> None:
    with pytest.raises(NotFoundError):
        await rooms.service.revoking.revoke(Kind.SESSION, own_id(Kind.SESSION, bytes(16)))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await rooms.heartbeat.after(None)


async def test_a_checkpoint_that_comes_after_a_later_one_is_passed_over(rooms: Rooms) -> None:
    earlier = await rooms.heartbeat.sign()
    session = await rooms.session()
    await rooms.service.revoking.revoke(Kind.SESSION, session.id)
    covering = await _soon(rooms.heartbeat.after(None))
    rooms.heartbeat._announce(earlier)
    assert await _soon(rooms.heartbeat.after(None)) is covering


async def test_a_checkpoint_comes_every_second_without_a_wish(rooms: Rooms) -> None:
    async with beating(rooms):
        first = await rooms.heartbeat.after(None)
        started = time.monotonic()
        assert await _soon(rooms.heartbeat.after(first)) is not first
    assert time.monotonic() - started > 0.9


async def test_whoever_asks_late_gets_the_newest_and_all_who_wait_get_the_next(rooms: Rooms) -> None:
    async with beating(rooms):
        first = await rooms.heartbeat.after(None)
        assert await rooms.heartbeat.after(None) is first
        waiting = [asyncio.create_task(rooms.heartbeat.after(first)) for _ in range(10)]
        rooms.heartbeat.sign_soon()
        assert len(set(map(id, await _soon(asyncio.gather(*waiting))))) == 1


async def test_closing_ends_every_wait_and_the_heart_itself(rooms: Rooms) -> None:
    async with beating(rooms) as heart:
        first = await rooms.heartbeat.after(None)
        waiting = [asyncio.create_task(rooms.heartbeat.after(first)) for _ in range(10)]
        await asyncio.sleep(0)
        rooms.heartbeat.close()
        assert await _soon(asyncio.gather(*waiting)) == [None] * 10
        assert await _soon(rooms.heartbeat.after(None)) is None
        rooms.heartbeat.sign_soon()
        await _soon(heart)


async def test_a_heart_that_is_cancelled_ends_every_wait(rooms: Rooms) -> None:
    async with beating(rooms):
        first = await rooms.heartbeat.after(None)
        waiting = asyncio.create_task(rooms.heartbeat.after(first))
        await asyncio.sleep(0)
    assert await _soon(waiting) is None


async def test_whoever_lacks_the_key_that_signs_leaves_the_relay_to_one_that_has_it(
    rooms: Rooms, tmp_path: Path
) -> None:
    """A key was withdrawn by another process, and the file of the one that signs now is that one's alone."""
    data = DataDir(tmp_path / "another process")
    shutil.copytree(rooms.data.keys, data.keys)
    other = (await process_on(rooms.database, data, rooms.clock)).heartbeat
    other.may_lead = rooms.heartbeat.may_lead = True
    await other.sign()
    await rooms.heartbeat.sign()
    assert (other.leads, rooms.heartbeat.leads) == (True, False)
    await rooms.service.rotation.withdraw_checkpoint_key(rooms.keys.checkpoint_id)
    for _ in range(3):
        rooms.clock.advance(1_000)
        with pytest.raises(DataError, match="put checkpoint-"):
            await other.sign()
        await rooms.heartbeat.sign()
    assert rooms.heartbeat.leads
