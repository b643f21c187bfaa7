"""SQLite: one file, one process. Writers wait in a queue of ours and begin IMMEDIATE, so none fails half-way.

A commit is on the disk before it returns (`synchronous=FULL`). Source: docs/adr/0004; sqlite.org/wal.html.
"""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util.concurrency import in_greenlet

from countermand.authority.database import WAIT_S, Database, upgrade
from countermand.errors import BusyError, ConfigurationError, CountermandError, DataError

OLDEST: Final = (3, 35)
"""The first that can be told to compute a step of a query once (`MATERIALIZED`)."""
_READERS: Final = 4

_T = TypeVar("_T")


class SqliteDatabase(Database):
    """The authority's database in one file."""

    def __init__(self, path: Path) -> None:
        super().__init__(_engine(path, "BEGIN IMMEDIATE", size=1), _engine(path, "BEGIN", size=_READERS), writers=1)

    @asynccontextmanager
    async def holding(self) -> AsyncIterator[AsyncConnection]:
        """See `Database`. What is written meanwhile comes after the one moment that this sees."""
        async with self.read() as connection:
            yield connection

    async def identity(self, connection: AsyncConnection) -> str:
        """See `Database`. A file has nothing of the kind: what is put beneath us is noticed by what we signed."""
        del connection
        return "sqlite"

    async def migrate(self) -> None:
        """See `Database`."""
        if sqlite3.sqlite_version_info < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise ConfigurationError(f"this Python has SQLite {sqlite3.sqlite_version}: {oldest} or later is needed")
        await self.write(lambda connection: connection.run_sync(upgrade), alone=True)

    async def clock_ms(self, connection: AsyncConnection) -> None:
        """See `Database`."""

    async def confirm(self, connection: AsyncConnection) -> None:
        """See `Database`. What can be read is on the disk."""

    async def limited(self, connection: AsyncConnection, reading: Callable[[], Awaitable[_T]]) -> _T:
        """See `Database`. Its planner keeps to the indexes."""
        del connection
        return await reading()

    async def lock(self, connection: AsyncConnection, *names: str, shared: bool = False) -> None:
        """See `Database`. Every writer is alone."""

    async def listen(self, heard: Callable[[int], None]) -> None:
        """See `Database`. There is no other process."""

    async def append(self, connection: AsyncConnection, columns: Sequence[Sequence[Any]]) -> None:
        """See `Database`. Every step is one of a writer who is alone."""

    async def _prepare(self, connection: AsyncConnection, *, alone: bool) -> None:
        """Every writer is alone."""

    def _refusal(self, error: DBAPIError) -> CountermandError:
        name = getattr(error.orig, "sqlite_errorname", type(error.orig).__name__)
        if name.startswith("SQLITE_BUSY"):
            return BusyError("another program holds the authority's database")
        return DataError(f"the authority's database refused: {name}")


def _engine(path: Path, begin: str, *, size: int) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        pool_size=size,
        max_overflow=0,
        pool_timeout=WAIT_S,
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
            f"busy_timeout={int(WAIT_S * 1000)}",
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
