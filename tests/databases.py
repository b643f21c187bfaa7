"""On which database a test's authority keeps what it knows: a file, or a Postgres that the tests of a process share.

Nobody makes the tables twice: a database that nobody has used is copied for each.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from psycopg import sql

from countermand.authority.database import Database
from countermand.authority.postgres import PostgresDatabase
from countermand.authority.sqlite import SqliteDatabase
from countermand.settings import DataDir
from tests.postgres_server import PostgresServer

Kind: TypeAlias = Literal["sqlite", "postgres"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
TEMPLATE: Final = "template_of_ours"


class _Databases:
    """What the tests of this process share."""

    def __init__(self) -> None:
        self.kind: Kind = "sqlite"
        self.server: PostgresServer | None = None
        self._names: dict[Path, str] = {}
        self._unused_file: bytes | None = None

    async def lay(self, data: DataDir) -> None:
        """Put a database that nobody used where `data` is, if there is none."""
        if self.kind == "postgres":
            if data.path not in self._names:
                await self._clone(data.path)
        elif not data.database.exists():
            self._unused_file = self._unused_file or await _make_file()
            data.path.mkdir(mode=0o700, exist_ok=True)
            data.database.write_bytes(self._unused_file)

    def url(self, data: DataDir) -> str | None:
        """Return the URL of the database of `data`; None where it is a file."""
        return self.running().url(self._names[data.path]) if self.kind == "postgres" else None

    def open(self, data: DataDir, wall_ms: Callable[[], int] | None = None) -> Database:
        """Return the database of `data`, which is laid. `wall_ms` is the server's clock, where a test holds it."""
        url = self.url(data)
        if url is None:
            return SqliteDatabase(data.database)
        return PostgresDatabase(url) if wall_ms is None else _Held(url, wall_ms)

    def running(self) -> PostgresServer:
        """Return the server, started by whoever asks first."""
        if self.server is None:
            self.server = PostgresServer(fsync="on", max_connections=400)
            self.server.create()
            self.server.start()
        return self.server

    def stop(self) -> None:
        """Stop the server, if it runs."""
        if self.server is not None:
            self.server.__exit__()
            self.server = None

    async def _clone(self, path: Path) -> None:
        server = self.running()
        if not self._names:
            server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
            await _migrate(PostgresDatabase(server.url(TEMPLATE)))
        name = f"test_{len(self._names)}"
        clone = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        server.execute(clone.format(sql.Identifier(name), sql.Identifier(TEMPLATE)))
        self._names[path] = name


class _Held(PostgresDatabase):
    """A server whose clock is the one that a test holds."""

    def __init__(self, url: str, wall_ms: Callable[[], int]) -> None:
        super().__init__(url)
        self._wall_ms = wall_ms

    async def clock_ms(self, _connection: object) -> int:
        return self._wall_ms()


DATABASES: Final = _Databases()


async def _make_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "countermand.db")
        await _migrate(SqliteDatabase(path))
        return await asyncio.to_thread(path.read_bytes)


async def _migrate(database: Database) -> None:
    try:
        await database.migrate()
    finally:
        await database.close()


if os.environ.get("TEST_DATABASE") in KINDS:
    DATABASES.kind = os.environ["TEST_DATABASE"]  # type: ignore[assignment]  # one of them
