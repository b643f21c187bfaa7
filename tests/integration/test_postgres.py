"""What is Postgres's own: settings that a role may not weaken, servers that vanish, several processes on one log."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.appending import Act, Draft, Step, _append, append, audit_end
from countermand.authority.heartbeat import LEASE_MS
from countermand.authority.ledger import Ledger, read_head
from countermand.authority.postgres import _WRITERS as PLACES
from countermand.authority.postgres import PostgresDatabase
from countermand.errors import BusyError, ConfigurationError, CountermandError, UnconfirmedError
from countermand.log.anchor import EVERYONE, Kind, own_id
from countermand.log.entry import Entry
from countermand.settings import DataDir
from tests.databases import DATABASES
from tests.integration.rooms import LATER_MS, NOW_MS, Rooms, beating, insert_sessions, rooms_open
from tests.looking import writing
from tests.postgres_server import PostgresServer
from tests.running import until

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

SECRET = "p4ssw0rd-of-a-test"


async def _settings(connection: AsyncConnection) -> list[str]:
    names = ("synchronous_commit", "transaction_isolation", "statement_timeout", "lock_timeout")
    return [(await connection.execute(text(f"SHOW {name}"))).scalar_one() for name in names]


@pytest.mark.parametrize(
    "weak",
    [
        "synchronous_commit = off",
        "default_transaction_isolation = 'serializable'",
        "default_transaction_isolation = 'repeatable read'",
        "statement_timeout = 0",
    ],
)
async def test_a_write_is_durable_and_bounded_whatever_the_role_says(rooms: Rooms, weak: str) -> None:
    server = DATABASES.running()
    server.execute(f"ALTER ROLE postgres SET {weak}")
    database = DATABASES.open(rooms.data)
    try:
        assert await database.write(_settings) == ["on", "read committed", "2s", "2s"]
    finally:
        server.execute(f"ALTER ROLE postgres RESET {weak.split(maxsplit=1)[0]}")
        await database.close()


@pytest.mark.parametrize("url", [f"postgresql://u:{SECRET}@[::1", f"postgresql://u:{SECRET}@h/?nonsense={SECRET}"])
async def test_a_url_that_cannot_be_read_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        PostgresDatabase(url)
    assert refused.value.__suppress_context__
    assert SECRET not in f"{refused.value!r}{refused.value}"


async def test_a_password_is_in_no_repr_log_or_error(rooms: Rooms, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    database = PostgresDatabase(f"postgresql://nobody:{SECRET}@127.0.0.1:{DATABASES.running().port}/nothing")
    with pytest.raises(CountermandError) as refused:
        await database.migrate()
    await database.close()
    said = f"{refused.value}{refused.value!r}{database!r}{vars(database)}{caplog.text}"
    assert SECRET not in said.replace(database._conninfo, "")


async def test_a_server_that_forgets_what_it_committed_is_refused_at_the_start() -> None:
    with PostgresServer(fsync="off") as server:
        database = PostgresDatabase(server.url())
        with pytest.raises(ConfigurationError, match="fsync=off"):
            await database.migrate()
        await database.close()


async def test_a_deadlock_is_tried_again_and_both_writes_stand(rooms: Rooms) -> None:
    ids = await insert_sessions(rooms.database, 2)
    both, met, tries = asyncio.Barrier(2), False, 0

    async def rename(connection: AsyncConnection, first: str, second: str, name: str) -> None:
        nonlocal met, tries
        tries += 1
        for id_ in (first, second):
            query = update(tables.anchors).where(tables.anchors.c.id == id_)
            await connection.execute(query.values(name=tables.anchors.c.name + name))
            if not met:
                await both.wait()
                met = True

    async with rooms.database._begun(rooms.database._writer) as connection:
        await connection.execute(update(tables.anchors).values(name=""))
    await asyncio.gather(
        rooms.database.write(lambda connection: rename(connection, ids[0], ids[1], "a")),
        rooms.database.write(lambda connection: rename(connection, ids[1], ids[0], "b")),
    )
    assert tries == 3
    async with rooms.database.read() as connection:
        names = (await connection.execute(select(tables.anchors.c.name).where(tables.anchors.c.id.in_(ids)))).scalars()
        assert [sorted(name) for name in names] == [["a", "b"]] * 2


async def test_backends_that_are_terminated_lose_nothing_that_was_answered(rooms: Rooms) -> None:
    ids = await insert_sessions(rooms.database, 40)
    answered = {}
    for place, id_ in enumerate(ids):
        if place % 8 == 4:
            DATABASES.running().execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                DATABASES.url(rooms.data).rpartition("/")[2],  # type: ignore[union-attr]  # it is one
            )
        answered[(await rooms.service.revoking.revoke(Kind.SESSION, id_)).seq] = id_
    entries = [Entry.parse(candidate.entry) for candidate in await rooms.candidates()]
    assert {entry.seq: entry.id for entry in entries} == answered
    assert sorted(answered) == list(range(1, 41))


@pytest.fixture
async def own_server() -> AsyncIterator[PostgresServer]:
    with PostgresServer(fsync="on") as server:
        yield server


async def test_a_server_that_is_restarted_is_used_again(own_server: PostgresServer) -> None:
    database = PostgresDatabase(own_server.url())
    try:
        await database.migrate()
        ledger = await Ledger.open(database, bytes(16))
        draft = Draft(kind=Kind.SESSION, id=own_id(Kind.SESSION, bytes(16)), at_ms=NOW_MS, expires_at_ms=None)
        for _ in range(3):
            await database.write(lambda connection: append(database, connection, [draft], NOW_MS))
            own_server.restart()
        assert await ledger.count() == 3
    finally:
        await database.close()


async def test_callers_of_a_frozen_server_hear_of_it_in_time_and_it_goes_on_afterwards(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("countermand.authority.database.WAIT_S", 0.5)
    monkeypatch.setattr("countermand.authority.database.ANSWER_S", 0.5)
    database = PostgresDatabase(own_server.url())
    try:
        await database.migrate()
        ledger = await Ledger.open(database, bytes(16))
        draft = Draft(kind=Kind.SESSION, id=own_id(Kind.SESSION, bytes(16)), at_ms=NOW_MS, expires_at_ms=None)

        async def write() -> None:
            await database.write(lambda connection: append(database, connection, [draft], NOW_MS))

        with own_server.frozen():
            async with asyncio.timeout(5):
                heard = await asyncio.gather(*(write() for _ in range(12)), return_exceptions=True)
        assert all(isinstance(error, BusyError | UnconfirmedError) for error in heard)
        assert any(isinstance(error, UnconfirmedError) for error in heard)
        await until(lambda: not database._writing, "what had begun has ended")
        before = await ledger.count()
        await write()
        assert await ledger.count() == before + 1
    finally:
        await database.close()


async def test_who_reads_from_a_frozen_server_hears_of_it_in_time_and_its_connection_is_not_lost(
    own_server: PostgresServer,
) -> None:
    database = PostgresDatabase(own_server.url())
    try:
        await database.migrate()
        await Ledger.open(database, bytes(16))

        async def read(within_s: float) -> int:
            async with database.read(within_s) as connection:
                return (await read_head(connection)).rev.seq

        with own_server.frozen():
            async with asyncio.timeout(20):
                heard = await asyncio.gather(*(read(0.3) for _ in range(12)), return_exceptions=True)
        assert [type(error) for error in heard] == [BusyError] * 12
        assert await asyncio.gather(*(read(10) for _ in range(12))) == [0] * 12
    finally:
        await database.close()


async def test_whoever_holds_something_of_a_frozen_server_hears_of_it_in_time(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("countermand.authority.postgres.ANSWER_S", -4.0)  # a second in all
    database = PostgresDatabase(own_server.url())
    try:
        await database.migrate()

        async def mint() -> None:
            async with database.holding() as connection:
                await read_head(connection)

        with own_server.frozen():
            async with asyncio.timeout(20):
                heard = await asyncio.gather(*(mint() for _ in range(2)), return_exceptions=True)
        assert [type(error) for error in heard] == [BusyError] * 2
    finally:
        await database.close()


async def _beside(rooms: Rooms, path: Path, stack: AsyncExitStack) -> Rooms:
    """Open a second process's rooms on the database of `rooms`."""
    data = DataDir(path / "authority")
    data.path.mkdir(parents=True)
    shutil.copytree(rooms.data.keys, data.keys)
    DATABASES.share(rooms.data, data)
    return await stack.enter_async_context(rooms_open(path, clock=rooms.clock))


async def test_a_second_process_sees_the_firsts_entries_and_signs_the_same_head_without_waiting_for_its_beat(
    rooms: Rooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("countermand.authority.heartbeat.INTERVAL_S", 3_600.0)
    async with AsyncExitStack() as stack:
        other = await _beside(rooms, tmp_path / "other", stack)
        assert other.pin == rooms.pin
        await stack.enter_async_context(beating(other))
        seen = await other.heartbeat.after(None)
        listening = asyncio.create_task(other.database.listen(other.heartbeat.heard))
        await until(lambda: _listens(rooms), "it listens")
        session = await rooms.session()
        await rooms.service.revoking.revoke(Kind.SESSION, session.id)
        async with asyncio.timeout(1):
            signed = await other.heartbeat.after(seen)
        listening.cancel()
        await asyncio.wait([listening])
        assert signed is not None
        head = await rooms.head()
        assert (signed.checkpoint.rev, signed.checkpoint.link) == (head.rev, head.link)
        assert await other.candidates() == await rooms.candidates()


def _listens(rooms: Rooms) -> bool:
    name = (DATABASES.url(rooms.data) or "").rpartition("/")[2]
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND query LIKE 'LISTEN%%'"
    return DATABASES.running().execute(query, name) != []


async def test_numbers_have_no_gap_with_eight_writers_in_two_processes(rooms: Rooms, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        other = await _beside(rooms, tmp_path / "other", stack)
        ids = await insert_sessions(rooms.database, 80)

        async def revoke(process: Rooms, share: list[str]) -> list[int]:
            return [(await process.service.revoking.revoke(Kind.SESSION, id_)).seq for id_ in share]

        shares = [revoke((rooms, other)[start % 2], ids[start::8]) for start in range(8)]
        answers = await asyncio.gather(*shares)
        assert all(share == sorted(share) for share in answers)
        assert sorted(seq for share in answers for seq in share) == list(range(1, 81))
        assert [candidate.seq for candidate in await other.candidates()] == list(range(1, 81))


async def test_two_processes_that_start_at_the_same_moment_on_an_empty_database_make_one_log(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "authority")
    await DATABASES.make(data)

    async def start(new_id: bytes) -> tuple[Any, int]:
        database = DATABASES.open(data)
        try:
            await database.migrate()
            ledger = await Ledger.open(database, new_id)
            return ledger.log_id, await ledger.count()
        finally:
            await database.close()

    one, other = await asyncio.gather(start(b"a" * 16), start(b"b" * 16))
    assert one == other


def _drafts() -> list[Draft]:
    """Drafts of every kind, with texts that are empty, longest and far from ASCII, that expire and do not."""
    drafts = []
    for place, kind in enumerate(Kind):
        expires_at_ms = LATER_MS if place % 2 else None
        for reason in ("", "x" * 512, "é" * 256, "ключ 鍵 🔑 '\\'' %s"):
            cut = {"issued_before_ms": NOW_MS if reason else None} if kind is Kind.CUTOFF else {}
            id_ = EVERYONE if kind is Kind.CUTOFF else _id(kind)
            issuer = "" if kind is not Kind.TOKEN else "https://idp.example/é"
            at = {"kind": kind, "id": id_, "at_ms": NOW_MS + place, "expires_at_ms": expires_at_ms}
            drafts.append(Draft(**at, reason=reason, issuer=issuer, **cut))  # type: ignore[arg-type]
    return drafts


def _id(kind: Kind) -> str:
    try:
        return own_id(kind, bytes(range(16)))
    except (KeyError, CountermandError):
        return "tokén:1"


async def test_the_databases_own_step_makes_byte_for_byte_what_ours_makes_step_by_step(rooms: Rooms) -> None:
    drafts, act = _drafts(), Act("session.open", "é", "https://idp.example/é", "ключ 鍵 🔑 '\\'' %s")
    assert {draft.kind for draft in drafts} == set(Kind)
    ways: list[Callable[[AsyncConnection, Sequence[Step]], Awaitable[object]]] = [
        lambda connection, steps: append(rooms.database, connection, steps, NOW_MS),
        lambda connection, steps: _append(connection, steps, NOW_MS),
    ]
    await rooms.append(2)
    tried: list[list[Step]] = [[act, *drafts, act], [act, act], [*drafts]]
    for steps in tried:
        made = [await _undone(rooms, steps, way) for way in ways]
        assert made[0] == made[1]
        assert len(made[0][1]) == len([step for step in steps if isinstance(step, Draft)])
        assert len(made[0][2]) == len(steps)


async def _undone(
    rooms: Rooms, steps: Sequence[Step], way: Callable[[AsyncConnection, Sequence[Step]], Awaitable[object]]
) -> tuple[Any, ...]:
    """Append in one of the ways; return what was returned and written, and take it back."""
    async with rooms.database.read() as connection:
        head, end = await read_head(connection), await audit_end(connection)
    returned = await rooms.database.write(lambda connection: way(connection, steps))
    news = (tables.entries.c.seq > head.rev.seq, tables.audit.c.number > end.number)
    async with rooms.database.read() as connection:
        entries = [tuple(row) for row in await connection.execute(select(tables.entries).where(news[0]))]
        rows = [tuple(row) for row in await connection.execute(select(tables.audit).where(news[1]))]
        ends = await read_head(connection), await audit_end(connection)
    async with rooms.database._begun(rooms.database._writer) as connection:
        await connection.execute(tables.entries.delete().where(news[0]))
        await connection.execute(tables.audit.delete().where(news[1]))
        await connection.execute(update(tables.head).values(seq=head.rev.seq, link=head.link))
        await connection.execute(update(tables.audit_head).values(number=end.number, link=end.link))
    return returned, sorted(entries), sorted(rows), ends


@pytest.mark.parametrize("silent", [True, False], ids=["it stops beating", "it has no Redis"])
async def test_of_two_processes_one_relays_and_the_other_takes_over(
    rooms: Rooms, tmp_path: Path, *, silent: bool
) -> None:
    async with AsyncExitStack() as stack:
        other = await _beside(rooms, tmp_path / "other", stack)
        first, second = rooms.heartbeat, other.heartbeat
        first.may_lead = second.may_lead = True
        for _ in range(3):
            await first.sign()
            await second.sign()
            assert (first.leads, second.leads) == (True, False)
            rooms.clock.advance(1_000)
        if silent:
            rooms.clock.advance(LEASE_MS - 1_000)
            await second.sign()
            assert not second.leads, "the lease has not run out"
            rooms.clock.advance(1)
        else:
            first.may_lead = False
            await first.sign()
            assert not first.leads
        await second.sign()
        assert second.leads
        first.may_lead = True
        await first.sign()
        assert not first.leads, "there is one at a time"


async def test_an_operators_revocation_goes_ahead_of_two_hundred_holders_who_wait(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("countermand.authority.database.WAIT_S", 60.0)
    ids = await insert_sessions(rooms.database, 201)
    await rooms.service.revoking.confirm()  # witnesses are asked once, and before
    order: list[str] = []

    async def revoke(id_: str, *, urgent: bool) -> None:
        await rooms.service.revoking.revoke(Kind.SESSION, id_, urgent=urgent)
        order.append(id_)

    async with asyncio.TaskGroup() as group:
        async with writing(rooms.database):
            for id_ in ids[:200]:
                group.create_task(_or_busy(revoke(id_, urgent=False)))
            await until(lambda: len(rooms.database._writing) == 200, "they have begun, or wait")
            operators = group.create_task(revoke(ids[200], urgent=True))
            await until(lambda: len(rooms.database._writing) == 201, "it waits too")
        await operators
        assert len(order) <= 2 * PLACES, "only those went before who had a place, and who ran beside it"


async def _or_busy(revoking: Awaitable[None]) -> None:
    """Wait for it; on a machine that does something else, one of many who wait may be told to come again."""
    with suppress(BusyError, UnconfirmedError):
        await revoking
