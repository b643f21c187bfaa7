"""No checkpoint claims more than was known, whatever Postgres, a failover, a stalled client or a default does to it.

Each is an attack that worked on an earlier rule. The claim that must hold: whatever was answered before a checkpoint's
time is covered by it. Source: docs/protocol.md, "Checkpoint".
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import database as database_module
from countermand.authority import postgres as postgres_module
from countermand.authority.model import Filter, SubjectType
from countermand.authority.postgres import PostgresDatabase
from countermand.errors import AuthorityError, BusyError, ClockError, NotActiveError, UnconfirmedError
from countermand.log.anchor import Kind, own_id
from countermand.wiring import system_clock
from tests.faults.primaries import ROLE, Primary, holding, make_role, pair, primary_open
from tests.postgres_server import PostgresServer
from tests.running import until

pytestmark = pytest.mark.anyio

BEAT = "UPDATE heartbeat SET at_ms = at_ms"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    defaults = ("synchronous_commit = off", "default_transaction_isolation = 'repeatable read'")
    yield make_role(server, *defaults, "statement_timeout = 0", "lock_timeout = 0")
    server.execute(f"DROP DATABASE {ROLE} WITH (FORCE)")
    server.execute(f"DROP ROLE {ROLE}")


@pytest.fixture
async def primary(url: str, tmp_path: Path) -> AsyncIterator[Primary]:
    async with primary_open(PostgresDatabase(url), tmp_path) as opened:
        yield opened


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that is not answered is given up after a second."""
    for module in (database_module, postgres_module):
        monkeypatch.setattr(module, "WAIT_S", 0.5)
        monkeypatch.setattr(module, "ANSWER_S", 0.5)


async def test_a_stalled_statement_makes_a_checkpoint_older_and_never_wrong(primary: Primary, url: str) -> None:
    session = await primary.session()
    before_ms = system_clock().wall_ms
    with holding(url, BEAT) as held:
        signing = asyncio.create_task(primary.heartbeat.sign())
        await until(lambda: _waits(held), "the heartbeat waits for its row")
        await primary.revoke(session)
        answered_ms = system_clock().wall_ms
    signed = await signing
    assert before_ms <= signed.checkpoint.at_ms <= answered_ms
    assert signed.checkpoint.rev.seq == 1, "what is read is newer than what is claimed, also where snapshots are long"


async def test_who_stalls_for_long_is_given_up_and_nothing_is_signed(primary: Primary, url: str) -> None:
    with holding(url, BEAT):
        began_s = time.monotonic()
        with pytest.raises(BusyError):
            await primary.heartbeat.sign()
        assert time.monotonic() - began_s < 4
    await primary.heartbeat.sign()


async def test_a_client_that_stands_still_with_the_head_in_its_hands_is_thrown_out(primary: Primary, url: str) -> None:
    """No client of ours does: its statement that takes the head is the one that commits."""
    session = await primary.session()
    stalled = asyncio.Event()

    async def stall() -> None:
        async with primary.database._begun(primary.database._writer) as connection:
            await primary.database._prepare(connection, alone=False)
            await connection.exec_driver_sql("SELECT seq FROM head FOR UPDATE")
            stalled.set()
            await asyncio.Event().wait()

    stalling = asyncio.create_task(stall())
    await stalled.wait()
    began_s = time.monotonic()
    while True:
        with suppress(BusyError):
            await primary.revoke(session)
            break
    assert time.monotonic() - began_s < 5
    stalling.cancel()
    with suppress(asyncio.CancelledError, AuthorityError):
        await stalling


async def test_who_stands_still_before_the_last_step_of_a_change_holds_nobody_up(
    primary: Primary, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, other = await primary.session(), await primary.session()
    append, stalled, go = primary.database.append, asyncio.Event(), asyncio.Event()

    async def stall(connection: AsyncConnection, columns: Sequence[Sequence[Any]]) -> Sequence[Any] | None:
        stalled.set()
        await go.wait()
        return await append(connection, columns)

    monkeypatch.setattr(primary.database, "append", stall)
    stalling = asyncio.create_task(primary.revoke(stopped))
    await stalled.wait()
    monkeypatch.setattr(primary.database, "append", append)
    async with asyncio.timeout(1.5):
        await primary.revoke(other)
        await primary.service.opening.create_application("beside it")
    assert not stalling.done()
    go.set()
    await stalling


@pytest.mark.parametrize("ahead_ms", [1_500, -1_500])
async def test_nothing_is_signed_while_the_databases_clock_is_another(
    primary: Primary, monkeypatch: pytest.MonkeyPatch, ahead_ms: int
) -> None:
    session = await primary.session()
    before = await primary.heartbeat.sign()

    async def skewed(_connection: object) -> int:
        return system_clock().wall_ms + ahead_ms

    monkeypatch.setattr(primary.database, "clock_ms", skewed)
    with pytest.raises(ClockError):
        await primary.heartbeat.sign()
    await primary.revoke(session)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await primary.heartbeat.after(before)
    monkeypatch.undo()
    signed = await primary.heartbeat.sign()
    assert signed.checkpoint.rev.seq == 1


@pytest.mark.usefixtures("impatient")
async def test_a_deposed_primary_signs_nothing_and_confirms_nothing(tmp_path: Path) -> None:
    """Its standby was promoted, and knows more: what the old one would sign would be a lie."""
    with pair() as (old, new):
        url = make_role(old, "synchronous_commit = off")
        await until(lambda: _is_synchronous(old), "the standby confirms")
        async with primary_open(PostgresDatabase(url), tmp_path / "old") as deposed:
            sessions = [await deposed.session() for _ in range(3)]
            assert (await deposed.revoke(sessions[0])).seq == 1
            last = await deposed.heartbeat.after(None)
            new.promote()
            async with primary_open(
                PostgresDatabase(new.url(ROLE, ROLE)), tmp_path / "new", tmp_path / "old"
            ) as promoted:
                assert await promoted.seq() == 1, "what was answered is there"
                assert (await promoted.revoke(sessions[1])).seq == 2
                with pytest.raises(UnconfirmedError):
                    await deposed.heartbeat.sign()
                with pytest.raises(UnconfirmedError):
                    await deposed.revoke(sessions[2])
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(1):
                        await deposed.heartbeat.after(last)
                assert (await promoted.heartbeat.sign()).checkpoint.rev.seq == 2


@pytest.mark.usefixtures("impatient")
async def test_a_commit_whose_wait_for_the_standby_is_cancelled_is_no_success(tmp_path: Path) -> None:
    with pair() as (old, new):
        url = make_role(old)
        await until(lambda: _is_synchronous(old), "the standby confirms")
        async with primary_open(PostgresDatabase(url), tmp_path) as primary:
            session = await primary.session()
            last = await primary.heartbeat.sign()
            new.kill()
            revoking = asyncio.create_task(primary.revoke(session))
            await until(lambda: _cancel_waits(old), "it waits for the standby, and an operator cancels that")
            with pytest.raises(UnconfirmedError):
                await revoking
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await primary.heartbeat.after(last)
            new.start()
            await until(lambda: _is_synchronous(old), "the standby is back")
            assert (await primary.revoke(session)).is_new is False, "it had been done, and trying again says so"
            assert (await primary.heartbeat.sign()).checkpoint.rev.seq == 1


@pytest.mark.proof
@pytest.mark.usefixtures("impatient")
async def test_what_was_not_confirmed_is_not_confirmed_to_whoever_asks_again(tmp_path: Path) -> None:
    """It is there to be read, and gone with this primary: to find it done is no answer before the standby has it."""
    with pair() as (old, new):
        url = make_role(old)
        await until(lambda: _is_synchronous(old), "the standby confirms")
        async with primary_open(PostgresDatabase(url), tmp_path) as primary:
            session, others = await primary.session(), await primary.session()
            await primary.revoke(await primary.session())
            new.kill()
            revoking, sweeping = primary.service.revoking, primary.service.sweeping
            asked: list[Callable[[], Awaitable[object]]] = [
                lambda: revoking.revoke(Kind.TOKEN, own_id(Kind.TOKEN, bytes(16))),
                lambda: revoking.revoke(Kind.SESSION, "of another issuer", bare=True),
                lambda: revoking.revoke(Kind.SESSION, session.id),
                lambda: sweeping.revoke(Filter(kind=Kind.SESSION, application_id=others.application_id)),
                revoking.confirm,
            ]
            for ask in asked:
                for _ in range(2):
                    with pytest.raises(UnconfirmedError):
                        await ask()


async def test_a_flood_of_openings_keeps_no_application_from_being_revoked(primary: Primary, url: str) -> None:
    """Those who share a row's lock would pass one who waits to have it alone, for as long as they come."""
    opening = primary.service.opening
    application = await opening.create_application("busy")
    opened = 0

    async def open_sessions() -> None:
        nonlocal opened
        with suppress(NotActiveError):
            while True:
                with suppress(BusyError):
                    await opening.open_session(application.id, "alice", SubjectType.USER, 60)
                    opened += 1

    flood = [asyncio.create_task(open_sessions()) for _ in range(12)]
    await until(lambda: opened > 50, "the flood is on")
    await primary.service.revoking.revoke(Kind.APPLICATION, application.id)
    async with asyncio.timeout(10):
        await asyncio.gather(*flood)


async def test_a_checkpoint_waits_for_no_crowd_of_exchanges(primary: Primary) -> None:
    session = await primary.session()
    mint = primary.service.minting.issue
    crowd = [asyncio.create_task(mint(session.id, ["https://api.example"], [])) for _ in range(60)]
    await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)
    await primary.heartbeat.sign()
    assert sum(one.done() for one in crowd) < 40, "it went first"
    await asyncio.gather(*crowd)


def _waits(held: psycopg.Connection) -> bool:
    statement = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return held.execute(statement).fetchone() != (0,)


def _is_synchronous(server: PostgresServer) -> bool:
    return server.execute("SELECT sync_state FROM pg_stat_replication") == [("sync",)]


def _cancel_waits(server: PostgresServer) -> bool:
    statement = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    return server.execute(statement) != []
