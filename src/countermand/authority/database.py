"""Transactions. A write is one transaction that holds the database from its first statement; reads see one moment.

Whoever waits for a write may give up; the write itself runs to its end. To stop one half-way would leave it to the
driver to undo, and what it leaves undone locks everybody out.

SQLite: writers wait in a queue of this process and begin IMMEDIATE, so none fails half-way; a commit is on the disk
before it returns (`synchronous=FULL`). Source: docs/adr/0004; sqlite.org/wal.html.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util.concurrency import in_greenlet

from countermand.errors import BusyError, ConfigurationError, DataError

OLDEST_SQLITE: Final = (3, 35)
"""The first that can be told to compute a step of a query once (`MATERIALIZED`)."""
_WAIT_S: Final = 5.0
"""How long a transaction may wait for its turn before its caller hears that the authority is busy."""
_READERS: Final = 4

_T = TypeVar("_T")


class Database:
    """The authority's SQLite database, in one file."""

    def __init__(self, path: Path) -> None:
        self._writer = _engine(path, "BEGIN IMMEDIATE", size=1)
        self._reader = _engine(path, "BEGIN", size=_READERS)
        self._turn = asyncio.Lock()  # the pool would let newcomers go before those who wait
        self._writing: set[asyncio.Future[Any]] = set()

    async def write(self, work: Callable[[AsyncConnection], Awaitable[_T]]) -> _T:
        """Return what `work` returns, in one transaction that may write; committed, durably, before this returns.

        Raises: BusyError, DataError; and what `work` raises, with nothing committed.
        """
        task = asyncio.ensure_future(self._write(work))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return await asyncio.shield(task)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """One transaction that reads one moment of the database. Raises: BusyError, DataError."""
        async with _begun(self._reader) as connection:
            yield connection

    async def migrate(self) -> None:
        """Bring the tables to what this program knows.

        Raises:
            ConfigurationError: a SQLite that is too old.
            DataError: a newer program made the tables.
        """
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            oldest = ".".join(map(str, OLDEST_SQLITE))
            raise ConfigurationError(f"this Python has SQLite {sqlite3.sqlite_version}: {oldest} or later is needed")
        await self.write(lambda connection: connection.run_sync(_migrate))

    async def close(self) -> None:
        """Let go of the file, once what is being written is written."""
        await asyncio.gather(*self._writing, return_exceptions=True)
        await self._writer.dispose()
        await self._reader.dispose()

    async def _write(self, work: Callable[[AsyncConnection], Awaitable[_T]]) -> _T:
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._turn.acquire()
        except TimeoutError:
            raise BusyError("the authority's database is busy") from None
        try:
            async with _begun(self._writer) as connection:
                return await work(connection)
        finally:
            self._turn.release()


@asynccontextmanager
async def _begun(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    try:
        async with engine.begin() as connection:
            yield connection
    except PoolTimeoutError as error:
        raise BusyError("the authority's database is busy") from error
    except DBAPIError as error:
        name = getattr(error.orig, "sqlite_errorname", type(error.orig).__name__)  # the message may quote a value
        if name.startswith("SQLITE_BUSY"):
            raise BusyError("another program holds the authority's database") from error
        raise DataError(f"the authority's database refused: {name}") from error
    except SQLAlchemyError as error:
        raise DataError(f"the authority's database is not as it should be: {type(error).__name__}") from error


def _engine(path: Path, begin: str, *, size: int) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        pool_size=size,
        max_overflow=0,
        pool_timeout=_WAIT_S,
        hide_parameters=True,
    )

    engine.sync_engine.dialect.do_terminate = _let_go  # type: ignore[method-assign]  # there is no event for it

    @event.listens_for(engine.sync_engine, "connect")
    def configure(dbapi_connection: Any, _record: object) -> None:
        dbapi_connection.isolation_level = None  # the driver begins no transaction of its own: `begin` does
        cursor = dbapi_connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={int(_WAIT_S * 1000)}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _let_go(dbapi_connection: Any) -> None:
    """Close a connection whose work was cancelled.

    SQLAlchemy's own way, cancelled once more meanwhile, would end the connection's thread beneath a task that then
    waits for that thread for ever, and with it whoever ends the event loop.
    """
    if in_greenlet():
        dbapi_connection.close()
    else:
        dbapi_connection.terminate()


def _migrate(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", "countermand.authority:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:  # the revision that the database names is not among ours
        raise DataError("the database was made by a newer countermand: run that one") from error
