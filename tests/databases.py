"""On which database a test's authority keeps what it knows: a file, or a Postgres that the tests of a process share.

Nobody makes the tables twice: a database that nobody has used is copied for each.
"""

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
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
        self._numbers = count()
        self._has_template = False
        self._unused_file: bytes | None = None

    @contextmanager
    def all_on(self, kind: Kind) -> Iterator[None]:
        """Lay what is laid while the block lasts on a database of that kind; nothing of it is there afterwards."""
        before, self.kind = self.kind, kind
        try:
            yield
        finally:
            self.kind = before
            names, self._names = set(self._names.values()), {}
            for name in names:
                self.running().execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    async def lay(self, data: DataDir) -> None:
        """Put a database that nobody used where `data` is, if there is none."""
        data.path.mkdir(mode=0o700, exist_ok=True)
        if self.kind == "postgres":
            if data.path not in self._names:
                await self._clone(data.path)
        elif not data.database.exists():
            self._unused_file = self._unused_file or await _make_file()
            data.database.write_bytes(self._unused_file)

    async def make(self, data: DataDir) -> None:
        """Put a database without tables where `data` is."""
        if self.kind == "postgres":
            self._create(data.path, sql.SQL("TEMPLATE template0"))
        else:
            data.path.mkdir(mode=0o700)

    def share(self, data: DataDir, other: DataDir) -> None:
        """Let `other` have the database of `data` too, which is on a server."""
        self._names[other.path] = self._names[data.path]

    def url(self, data: DataDir) -> str | None:
        """Return the URL of the database of `data`; None where it is a file."""
        return self.running().url(self._names[data.path]) if self.kind == "postgres" else None

    def open(self, data: DataDir, wall_ms: Callable[[], int] | None = None) -> Database:
        """Return the database of `data`, which is laid. `wall_ms` is the server's clock, where a test holds it."""
        url = self.url(data)
        if url is None:
            return SqliteDatabase(data.database)
        return PostgresDatabase(url) if wall_ms is None else _Held(url, wall_ms)

    def files(self, data: DataDir) -> list[Path]:
        """Return the files in which the database of `data` is; nothing of it is in memory alone."""
        if self.kind == "sqlite":
            return list(data.path.glob(f"{data.database.name}*"))
        server = self.running()
        server.execute("CHECKPOINT")
        [(oid,)] = server.execute("SELECT oid FROM pg_database WHERE datname = %s", self._names[data.path])
        return [path for path in (server.data / "base" / str(oid)).iterdir() if path.is_file()]

    def running(self) -> PostgresServer:
        """Return the server, started by whoever asks first."""
        if self.server is None:
            self.server = PostgresServer(in_memory=True, fsync="on", max_connections=400)
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
        if not self._has_template:
            self._has_template = True
            server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
            await _migrate(PostgresDatabase(server.url(TEMPLATE)))
        self._create(path, sql.SQL("TEMPLATE {} STRATEGY file_copy").format(sql.Identifier(TEMPLATE)))

    def _create(self, path: Path, by: sql.SQL | sql.Composed) -> None:
        name = f"test_{next(self._numbers)}"
        self.running().execute(sql.SQL("CREATE DATABASE {} {}").format(sql.Identifier(name), by))
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
