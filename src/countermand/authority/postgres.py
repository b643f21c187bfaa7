"""Postgres: several processes on one primary, each transaction READ COMMITTED.

    1. A transaction that may write sets what it needs itself, whatever the role's or the database's defaults are: a
       durable commit, and time-outs, so that whoever stands still in the middle is thrown out within two seconds.
    2. The heads of ledger and audit are locked in the last round trip, which commits too: no client holds one while it
       thinks.
    3. A commit that warns was not confirmed by the synchronous standby. It is no success.
    4. What another process has appended is announced. That wakes us, and proves nothing.

The floor is Postgres 14. Source: docs/operations.md; postgresql.org/docs/current/runtime-config-client.html.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from countermand.authority.database import ANSWER_S, WAIT_S, Database, RepeatableError, Work, answering, upgrade
from countermand.errors import (
    BusyError,
    ConfigurationError,
    CountermandError,
    DataError,
    DisputedError,
    UnconfirmedError,
)

OLDEST: Final = 140_000
CHANNEL: Final = "countermand"
"""On which `append_changes` says where the ledger ends."""
_WRITERS: Final = 8
_READERS: Final = 8
_TIMEOUT_MS: Final = 2_000
_LIMIT_MS: Final = 50
"""For what a transaction could do without."""
_CANCELED: Final = "57014"
_ALONE: Final = 0x636F756E746572  # "counter", the advisory lock of whoever must be alone
_PAUSE_S: Final = 1.0

# The system would notice only after hours that a server is gone without a word.
_ALIVE: Final[dict[str, str | int | None]] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "countermand",
}
_AGAIN: Final = frozenset({"40001", "40P01"})  # a deadlock, in which another transaction was let through
_BUSY: Final = frozenset({"53300", "55P03", "57014", "25P03", "25006"})
_DISPUTED: Final = "CM001"
"""What `append_changes` says where the head is disputed."""
_GONE: Final = ("08", "57P")

_PREPARE: Final = text(
    "SELECT set_config('synchronous_commit', :durable, true), set_config('lock_timeout', :timeout, true), "
    "set_config('statement_timeout', :timeout, true), "
    "set_config('idle_in_transaction_session_timeout', :timeout, true), "
    "CASE WHEN pg_is_in_recovery() THEN 'a standby' "
    "ELSE system_identifier || '.' || left(pg_walfile_name(pg_current_wal_lsn()), 8) END FROM pg_control_system()"
)
_APPEND: Final = (
    "SELECT * FROM append_changes"
    "(%s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bytea[],"
    " %s::bytea[], %s::bytea[], %s::smallint[], %s::bigint[], %s::bigint[])"
)

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class PostgresDatabase(Database):
    """The authority's database on a Postgres server. `url` is libpq's, with all that libpq knows: hosts, TLS, files.

    Raises:
        ConfigurationError: libpq cannot read it.
    """

    def __init__(self, url: str) -> None:
        try:
            given = conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            raise ConfigurationError("the database's URL is none that libpq can read") from None
        self._conninfo = make_conninfo(url, **{name: value for name, value in _ALIVE.items() if name not in given})
        reader = self._engine(_READERS).execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        super().__init__(self._engine(_WRITERS), reader, writers=_WRITERS)

    @asynccontextmanager
    async def holding(self) -> AsyncIterator[AsyncConnection]:
        """See `Database`. Nothing of it need be on a disk."""
        turn = self._turn.take(urgent=False, within_s=WAIT_S)  # or what is urgent would wait for a connection
        async with answering(WAIT_S + ANSWER_S), turn, self._begun(self._writer) as connection:
            await _prepare(connection, durable=False, timeout_ms=_TIMEOUT_MS)
            yield connection

    async def identity(self, connection: AsyncConnection) -> str:
        """See `Database`. It is what the server was made as, and its timeline: read as the transaction began."""
        return str((await connection.get_raw_connection()).info["identity"])

    async def migrate(self) -> None:
        """See `Database`."""

        async def work(connection: AsyncConnection) -> None:
            version, fsync = (await connection.execute(text(_WHAT))).one()
            if int(version) < OLDEST:
                raise ConfigurationError(f"the server is Postgres {int(version) // 10_000}: 14 or later is needed")
            if fsync != "on":
                raise ConfigurationError("the server runs with fsync=off, and would lose what it has committed")
            await connection.run_sync(upgrade)

        await self.write(work, alone=True)

    async def clock_ms(self, connection: AsyncConnection) -> int | None:
        """See `Database`."""
        seconds = (await connection.execute(text("SELECT extract(epoch FROM clock_timestamp())"))).scalar_one()
        return int(seconds * 1000)

    async def confirm(self, connection: AsyncConnection) -> None:
        """See `Database`. A commit that wrote nothing waits for no standby."""
        await connection.execute(text("SELECT pg_logical_emit_message(true, 'countermand', '')"))

    async def limited(self, connection: AsyncConnection, reading: Callable[[], Awaitable[_T]]) -> _T | None:
        """See `Database`. Where its statistics are old, a planner may choose a way that takes seconds."""
        try:
            async with connection.begin_nested():  # whatever is set in it, and fails, is set back
                await _limit(connection, _LIMIT_MS)
                read = await reading()
                await _limit(connection, _TIMEOUT_MS)
                return read
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == _CANCELED:
                return None
            raise

    async def lock(self, connection: AsyncConnection, *names: str, shared: bool = False) -> None:
        """See `Database`. All come in one order."""
        digests = (hashlib.sha256(name.encode()).digest() for name in names)
        keys = sorted(int.from_bytes(digest[:8], signed=True) for digest in digests)
        await connection.execute(_LOCK_SHARED if shared else _LOCK, {"keys": keys})

    async def listen(self, heard: Callable[[int], None]) -> None:
        """See `Database`. A lost connection is made again; what was said meanwhile, the next heartbeat finds."""
        while True:
            with suppress(psycopg.Error):
                async with await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    async for notice in connection.notifies():
                        if notice.payload.isdigit():
                            heard(int(notice.payload))
            await asyncio.sleep(_PAUSE_S)

    async def append(self, connection: AsyncConnection, columns: Sequence[Sequence[Any]]) -> Sequence[Any]:
        """See `Database`. Rule 2."""
        driver: Any = (await connection.get_raw_connection()).driver_connection
        try:
            async with driver.pipeline():
                appended = await driver.execute(_APPEND, columns)
                await driver.execute("COMMIT")
            rows: Sequence[Any] = await appended.fetchall()
        except psycopg.Error as error:
            raise self._said(error) from None
        return rows

    async def _try_to_write(self, work: Work[_T], *, urgent: bool, alone: bool) -> _T:
        """Give up in time: a commit may wait for a standby that is gone, for as long as it is gone."""
        writing = super()._try_to_write(work, urgent=urgent, alone=alone)
        try:
            async with asyncio.timeout(None if alone else WAIT_S + ANSWER_S):
                return await writing
        except TimeoutError:
            raise UnconfirmedError("the authority's database does not answer: it may be done all the same") from None

    @asynccontextmanager
    async def _begun(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        warnings: list[str] = []
        async with super()._begun(engine) as connection:
            raw = await connection.get_raw_connection()
            raw.info["warnings"] = warnings
            yield connection
        if warnings:
            _log.error("a commit was not confirmed by the standby: %s", warnings[0])
            raise UnconfirmedError("the standby has not confirmed it: it may be done all the same")

    async def _prepare(self, connection: AsyncConnection, *, alone: bool) -> None:
        identity = await _prepare(connection, durable=True, timeout_ms=0 if alone else _TIMEOUT_MS)
        (await connection.get_raw_connection()).info["identity"] = identity
        if alone:
            await _lock(connection, _ALONE)

    def _refusal(self, error: DBAPIError) -> CountermandError:
        return self._said(error.orig)

    @staticmethod
    def _said(error: BaseException | None) -> CountermandError:
        state = getattr(error, "sqlstate", None)
        if state in _AGAIN:
            return RepeatableError("the authority's database is busy")
        if state == _DISPUTED:
            return DisputedError()
        if state in _BUSY:
            return BusyError(f"the authority's database is busy, or not the primary: {state}")
        if isinstance(error, psycopg.OperationalError) and (state is None or state.startswith(_GONE)):
            return UnconfirmedError("the authority's database is gone: it may be done all the same")
        return DataError(f"the authority's database refused: {state or type(error).__name__}")

    def _engine(self, size: int) -> AsyncEngine:
        engine = create_async_engine(
            "postgresql+psycopg://",
            async_creator=partial(psycopg.AsyncConnection.connect, self._conninfo),
            isolation_level="READ COMMITTED",
            pool_size=size,
            max_overflow=0,
            pool_timeout=WAIT_S,
            pool_pre_ping=True,  # a server that was started again has ended them all
            hide_parameters=True,
        )

        @event.listens_for(engine.sync_engine, "connect")
        def hear(dbapi_connection: Any, record: Any) -> None:
            dbapi_connection.driver_connection.add_notice_handler(partial(_note, record.info))

        return engine


_WHAT: Final = "SELECT current_setting('server_version_num'), current_setting('fsync')"


async def _prepare(connection: AsyncConnection, *, durable: bool, timeout_ms: int) -> str:
    """Rule 1. A time-out of 0 is none. Return which database it is."""
    values = {"durable": "on" if durable else "off", "timeout": f"{timeout_ms}ms"}
    return str((await connection.execute(_PREPARE, values)).one()[-1])


async def _limit(connection: AsyncConnection, limit_ms: int) -> None:
    limit = {"timeout": f"{limit_ms}ms"}
    await connection.execute(text("SELECT set_config('statement_timeout', :timeout, true)"), limit)


_LOCK: Final = text(
    "SELECT pg_advisory_xact_lock(key) FROM (SELECT unnest(CAST(:keys AS bigint[])) AS key OFFSET 0) AS keys"
)
_LOCK_SHARED: Final = text(
    "SELECT pg_advisory_xact_lock_shared(key) FROM (SELECT unnest(CAST(:keys AS bigint[])) AS key OFFSET 0) AS keys"
)


async def _lock(connection: AsyncConnection, key: int) -> None:
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def _note(info: dict[str, Any], diagnostic: psycopg.errors.Diagnostic) -> None:
    if diagnostic.severity_nonlocalized == "WARNING":
        info.get("warnings", []).append(diagnostic.message_primary or "")
