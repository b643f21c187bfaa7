"""Backups of an authority's database, and witnesses that remember what the backup forgets."""

import pickle
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from countermand.authority.tables import METADATA
from countermand.authority.witnesses import Told
from countermand.errors import TransportError
from countermand.settings import DataDir
from tests.databases import DATABASES


def back_up(data: DataDir, backup: Path) -> None:
    """Copy the database while it is in use."""
    url = DATABASES.url(data)
    if url is None:
        _copy(data.database, backup)
        return
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        rows = {table.name: b"".join(_read(connection, table.name)) for table in METADATA.sorted_tables}
    backup.write_bytes(pickle.dumps(rows))


def put_back(backup: Path, data: DataDir) -> None:
    """Put a copy in the place of the database, while nobody uses it."""
    if DATABASES.url(data) is None:
        for path in data.path.glob(f"{data.database.name}*"):
            path.unlink()
        shutil.copy(backup, data.database)
    else:
        put_back_beneath(backup, data)


def put_back_beneath(backup: Path, data: DataDir) -> None:
    """Make the database what the copy is, while it may be in use."""
    url = DATABASES.url(data)
    if url is None:
        _copy(backup, data.database)
        return
    rows: dict[str, bytes] = pickle.loads(backup.read_bytes())  # noqa: S301 - `back_up` wrote it
    with psycopg.connect(url) as connection:
        connection.execute(sql.SQL("TRUNCATE {}").format(sql.SQL(", ").join(map(sql.Identifier, rows))))
        for name, copied in rows.items():
            with connection.cursor().copy(sql.SQL("COPY {} FROM STDIN BINARY").format(sql.Identifier(name))) as copy:
                copy.write(copied)


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as written:
        read.backup(written)


def _read(connection: psycopg.Connection, name: str) -> Iterator[bytes]:
    with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT BINARY").format(sql.Identifier(name))) as copy:
        yield from map(bytes, copy)


@dataclass
class Memory:
    """A witness in memory: it holds true records, or what a test gives it. `error` is what it answers instead."""

    checkpoints: Sequence[bytes] = ()
    holds: Told = field(default_factory=Told)
    error: TransportError | None = None
    asked: int = 0
    name: str = "memory"

    async def furthest(self) -> Sequence[bytes]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.checkpoints

    async def told(self) -> Told:
        return self.holds
