"""An authority's database, looked into and broken past the authority, whichever database it is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority.database import Database
from countermand.authority.postgres import PostgresDatabase
from countermand.authority.tables import METADATA
from countermand.settings import DataDir
from tests.databases import DATABASES

REFUSED_AT_COMMIT: Final = {"sqlite": "SQLITE_CONSTRAINT_FOREIGNKEY", "postgres": "23503"}
"""What the database says to a transaction whose commit fails by `commits_failing`."""

_FAILING: Final = {
    "sqlite": (
        "CREATE TABLE other (id TEXT REFERENCES anchors (id) DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TRIGGER fail AFTER {} BEGIN INSERT INTO other VALUES ('nobody'); END",
    ),
    "postgres": (
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE foreign_key_violation; END'",
        "CREATE CONSTRAINT TRIGGER fail AFTER {} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()",
    ),
}
_HEALED: Final = {
    "sqlite": ("DROP TRIGGER fail", "DROP TABLE other"),
    "postgres": ("DROP FUNCTION refuse() CASCADE",),
}


class Look:
    """One transaction past the authority. Its SQL is what both databases understand."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def execute(self, statement: str, **values: object) -> list[tuple[Any, ...]]:
        """Execute a statement with its values by name; return its rows."""
        done = await self._connection.execute(text(statement), values)
        return [tuple(row) for row in done] if done.returns_rows else []


@asynccontextmanager
async def looking_into(data: DataDir) -> AsyncIterator[Look]:
    """Look into a database that is laid, and write: committed at the end."""
    database = DATABASES.open(data)
    try:
        async with database._begun(database._writer) as connection:
            yield Look(connection)
    finally:
        await database.close()


def _turn(table: str) -> tuple[int, str]:
    """Sort tables as writers come to them: heartbeats to their own first, revocations to anchors, last to the head."""
    return {"heartbeat": 0, "head": 2}.get(table, 1), table


@asynccontextmanager
async def writing(database: Database) -> AsyncIterator[AsyncConnection]:
    """Hold the database in a transaction of the test's own: nobody else writes while the block lasts, and all may read.

    Where writers do not wait for each other by themselves, the tables are locked in the order in which writers come to
    them.
    """
    async with database._begun(database._writer) as connection:
        if isinstance(database, PostgresDatabase):
            names = sorted(METADATA.tables, key=_turn)
            await connection.execute(text(f"LOCK TABLE {', '.join(names)} IN EXCLUSIVE MODE"))
        yield connection


@asynccontextmanager
async def held(data: DataDir) -> AsyncIterator[None]:
    """Hold a database as another program would, as `writing` does."""
    database = DATABASES.open(data)
    try:
        async with writing(database):
            yield
    finally:
        await database.close()


@asynccontextmanager
async def commits_failing(data: DataDir, step: str) -> AsyncIterator[None]:
    """Let every transaction fail, at its commit, that takes a step such as "UPDATE ON head", while the block lasts."""
    async with looking_into(data) as look:
        for statement in _FAILING[DATABASES.kind]:
            await look.execute(statement.format(step))
    try:
        yield
    finally:
        async with looking_into(data) as look:
            for statement in _HEALED[DATABASES.kind]:
                await look.execute(statement)


def stored(data: DataDir) -> bytes:
    """Return every byte of a database that is on the disk."""
    return b"".join(path.read_bytes() for path in DATABASES.files(data))
