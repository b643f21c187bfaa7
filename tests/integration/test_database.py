"""A transaction is whole or not at all, whatever interrupts it, and the next one finds the database in order."""

import asyncio
import random
import threading
import traceback
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import NoResultFound
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import QueuePool

from countermand.authority import database as database_module
from countermand.authority import postgres as postgres_module
from countermand.authority import sqlite as sqlite_module
from countermand.authority import tables
from countermand.authority.database import Database
from countermand.authority.ledger import read_head
from countermand.authority.sqlite import SqliteDatabase
from countermand.errors import BusyError, ConfigurationError, DataError
from countermand.log import anchor
from countermand.settings import DataDir
from tests.databases import DATABASES, Kind
from tests.integration.rooms import insert_sessions, rooms_open
from tests.looking import held
from tests.running import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    data = DataDir(tmp_path / "authority")
    await DATABASES.lay(data)
    opened = DATABASES.open(data)
    yield opened
    await opened.close()


def _application(number: int) -> dict[str, object]:
    return {"id": f"app_{number:032x}", "kind": 7, "created_at_ms": 1, "opened_seq": 0}


async def _add(database: Database, *numbers: int) -> None:
    rows = [_application(number) for number in numbers]
    await database.write(lambda connection: connection.execute(insert(tables.anchors), rows))


async def _held(database: Database) -> set[int]:
    async with database.read() as connection:
        return {int(id_[4:], 16) for id_ in (await connection.execute(select(tables.anchors.c.id))).scalars()}


async def test_a_transaction_that_raises_leaves_nothing(database: Database) -> None:
    async def fail(connection: AsyncConnection) -> None:
        await connection.execute(insert(tables.anchors).values(_application(1)))
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(fail)
    await _add(database, 2)
    assert await _held(database) == {2}


async def test_a_transaction_cancelled_at_any_step_is_whole_or_nothing_and_the_next_one_works(
    database: Database,
) -> None:
    completed = 0
    for turns in range(50):
        task = asyncio.create_task(_add(database, 2 * turns, 2 * turns + 1))
        await _let(turns)
        task.cancel()
        [result] = await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(5):
            await _add(database, 1_000 + turns)
            held = await _held(database)
        assert 1_000 + turns in held
        assert (2 * turns in held) == (2 * turns + 1 in held)
        assert result is not None or 2 * turns in held, "what returned is committed"
        completed += result is None
    assert 0 < completed < 50, "some were cancelled in time, and some too late"


async def test_whoever_gives_up_waiting_stops_no_write_and_locks_nobody_out(tmp_path: Path) -> None:
    chance = random.Random(1)  # noqa: S311 - any moments will do
    async with rooms_open(tmp_path) as rooms:
        ids = await insert_sessions(rooms.database, 80)
        for id_ in ids[:-1]:
            task = asyncio.create_task(rooms.service.revoking.revoke(anchor.Kind.SESSION, id_))
            await asyncio.sleep(chance.uniform(0, 0.006))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(10):
            await rooms.service.revoking.revoke(anchor.Kind.SESSION, ids[-1])
            while rooms.database._writing:  # on Postgres they run side by side, and any may be the last
                await asyncio.wait(rooms.database._writing)
            sessions = [await rooms.service.reading.session(id_) for id_ in ids]
            async with rooms.database.read() as connection:
                end = (await read_head(connection)).rev.seq
        assert end == sum(session.revoked_at_ms is not None for session in sessions)


@pytest.mark.sqlite
async def test_a_commit_is_on_the_disk_before_it_returns(database: Database) -> None:
    async def ask(connection: AsyncConnection) -> tuple[object, object]:
        synchronous = await connection.exec_driver_sql("PRAGMA synchronous")
        journal = await connection.exec_driver_sql("PRAGMA journal_mode")
        return synchronous.scalar(), journal.scalar()

    full = 2
    assert await database.write(ask) == (full, "wal")


@pytest.mark.sqlite
async def test_a_sqlite_that_is_too_old_is_said_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 34, 1))
    with pytest.raises(ConfigurationError, match=r"3\.35 or later"):
        await SqliteDatabase(tmp_path / "countermand.db").migrate()


@pytest.mark.sqlite
@pytest.mark.parametrize("name", ["a?b", "a%41b", "a#b", "a b", "ä"])
async def test_the_name_of_a_file_is_only_a_name(tmp_path: Path, name: str) -> None:
    database = SqliteDatabase(tmp_path / name)
    await database.migrate()
    await database.close()
    assert _names(tmp_path) == [name]


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_readers_cancelled_at_any_step_leave_room_for_others(database: Database) -> None:
    for turns in range(30):
        tasks = [asyncio.create_task(_held(database)) for _ in range(6)]
        await _let(turns)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(5):
            await _held(database)
    await until(lambda: not database._connections, "whatever was on its way is back")
    pool = database._reader.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedout() == 0, "and none is lost, or found by the collector alone"


async def test_readers_cancelled_twice_leave_nothing_that_waits_for_ever(database: Database) -> None:
    """Or nobody could end the event loop."""
    for turns in range(20):
        tasks = [asyncio.create_task(_held(database)) for _ in range(6)]
        await _let(turns)
        for _ in range(2):
            for task in tasks:
                task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
    left = asyncio.all_tasks() - {asyncio.current_task()} - _of_the_runner()
    _, pending = await asyncio.wait(left, timeout=5) if left else ((), set())
    assert pending == set()


def _of_the_runner() -> set[asyncio.Task[object]]:
    """What pytest's plugin runs beside the test."""
    return {task for task in asyncio.all_tasks() if "TestRunner" in repr(task.get_coro())}


async def _let(turns: int) -> None:
    """Let the event loop turn so many times, and give the database's thread a millisecond for each."""
    for _ in range(turns):
        await asyncio.sleep(0)
        threading.Event().wait(0.001)


async def test_reads_see_one_moment_while_others_write(database: Database) -> None:
    await _add(database, 1)
    query = select(tables.anchors.c.id)
    async with database.read() as connection:
        before = (await connection.execute(query)).all()
        await _add(database, 2)
        assert (await connection.execute(query)).all() == before
    assert await _held(database) == {1, 2}


@pytest.mark.sqlite  # elsewhere no writer waits for another
async def test_a_writer_that_waits_too_long_hears_that_the_authority_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "WAIT_S", 0.1)
    monkeypatch.setattr(sqlite_module, "WAIT_S", 0.1)
    database = SqliteDatabase(tmp_path / "countermand.db")
    await database.migrate()
    try:
        release = asyncio.Event()
        holding = asyncio.create_task(database.write(lambda _connection: release.wait()))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await _add(database, 1)
        release.set()
        await holding
        await _add(database, 2)
        assert await _held(database) == {2}
    finally:
        await database.close()


async def test_a_database_that_another_program_holds_is_busy_and_not_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "WAIT_S", 0.1)
    monkeypatch.setattr(postgres_module, "_TIMEOUT_MS", 100)
    data = DataDir(tmp_path / "authority")
    await DATABASES.lay(data)
    database = DATABASES.open(data)
    try:
        async with held(data):
            with pytest.raises(BusyError):
                await _add(database, 1)
        await _add(database, 2)
        assert await _held(database) == {2}
    finally:
        await database.close()


_TWICE = {"sqlite": "SQLITE_CONSTRAINT_UNIQUE", "postgres": "23505"}


async def test_what_the_database_refuses_is_an_error_of_ours_that_quotes_no_value(
    database: Database, database_kind: Kind
) -> None:
    await _add(database, 7)
    with pytest.raises(DataError) as refused:
        await _add(database, 7)
    assert str(refused.value) == f"the authority's database refused: {_TWICE[database_kind]}"
    assert "app_" not in "".join(traceback.format_exception(refused.value))


async def test_a_row_that_should_be_there_and_is_not_is_an_error_of_ours(database: Database) -> None:
    async def look(connection: AsyncConnection) -> None:
        (await connection.execute(select(tables.head))).one()

    with pytest.raises(DataError) as refused:
        await database.write(look)
    assert isinstance(refused.value.__cause__, NoResultFound)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_closing_waits_for_whoever_still_reads_and_loses_no_connection(tmp_path: Path, cancelled: bool) -> None:
    reading = asyncio.Event()

    async def read(database: Database) -> None:
        async with database.read() as connection:
            await connection.execute(select(tables.head))
            reading.set()
            await asyncio.sleep(60 if cancelled else 0.2)

    async with rooms_open(tmp_path) as rooms:
        pools = [rooms.database._reader.pool, rooms.database._writer.pool]
        task = asyncio.create_task(read(rooms.database))
        await reading.wait()
        if cancelled:
            task.cancel()
    assert task.done()
    assert [pool.checkedout() for pool in pools if isinstance(pool, QueuePool)] == [0, 0]
    assert [pool.checkedin() for pool in pools if isinstance(pool, QueuePool)] == [0, 0], "none is left in them either"
    await asyncio.gather(task, return_exceptions=True)
