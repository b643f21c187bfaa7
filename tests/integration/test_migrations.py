"""The migrations make what the tables say, and touch nothing that another program made."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, select

from countermand.authority import tables
from countermand.authority.database import Database
from countermand.authority.model import Filter
from countermand.authority.sqlite import SqliteDatabase
from countermand.authority.tables import METADATA
from countermand.errors import DataError, NotActiveError
from countermand.log.anchor import Kind
from countermand.log.audit import audit_genesis, next_audit_link
from countermand.log.chain import LogId, genesis
from countermand.settings import DataDir
from tests.databases import DATABASES
from tests.integration.rooms import HeldClock, rooms_open
from tests.looking import looking_into, stored

pytestmark = pytest.mark.anyio

T = TypeVar("T")


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Database]:
    """A database without tables."""
    async with _made(tmp_path / "authority") as database:
        yield database


@asynccontextmanager
async def _made(path: Path) -> AsyncIterator[Database]:
    await DATABASES.make(DataDir(path))
    database = DATABASES.open(DataDir(path))
    try:
        yield database
    finally:
        await database.close()


async def _ask(database: Database, ask: Callable[[Connection], T]) -> T:
    async with database._begun(database._writer) as connection:
        return await connection.run_sync(ask)


def upgrade(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", "countermand.authority:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _schema(connection: Connection) -> dict[str, dict[str, Any]]:
    """All that the database says about its own tables."""
    seen = inspect(connection)
    return {
        table: {
            "columns": [(c["name"], str(c["type"]), c["nullable"], c["default"]) for c in seen.get_columns(table)],
            "primary key": seen.get_pk_constraint(table),
            "foreign keys": seen.get_foreign_keys(table),
            "unique": seen.get_unique_constraints(table),
            "checks": seen.get_check_constraints(table),
            "indexes": sorted(seen.get_indexes(table), key=lambda index: str(index["name"])),
        }
        for table in seen.get_table_names()
        if table != "alembic_version"
    }


def _differences(connection: Connection) -> list[Any]:
    return list(compare_metadata(MigrationContext.configure(connection), METADATA))


async def test_migrations_from_nothing_make_the_tables_that_the_code_uses(made: Database) -> None:
    assert await _ask(made, _differences) != []
    await made.migrate()
    assert await _ask(made, _differences) == []


async def test_migrations_make_the_same_keys_checks_and_indexes_as_the_tables(made: Database, tmp_path: Path) -> None:
    await made.migrate()
    async with _made(tmp_path / "by the tables") as other:
        await _ask(other, METADATA.create_all)
        assert await _ask(other, _differences) == []
        schema = await _ask(made, _schema)
        assert schema == await _ask(other, _schema)
    [check] = schema["head"]["checks"]
    assert (check["name"], "only" in check["sqltext"]) == ("ck_head_one_row", True), "checks are compared"


async def test_migrating_again_keeps_every_row(tmp_path: Path) -> None:
    async with rooms_open(tmp_path) as rooms:
        session = await rooms.session()
        await rooms.service.revoking.revoke(Kind.SESSION, session.id, "kept")
        log_id, head = rooms.ledger.log_id, await rooms.head()
    async with rooms_open(tmp_path, clock=HeldClock()) as rooms:
        assert (rooms.ledger.log_id, await rooms.head()) == (log_id, head)
        assert (await rooms.service.reading.session(session.id)).subject == "alice"
        assert (await rooms.service.revoking.revoke(Kind.SESSION, session.id)).reason == "kept"


async def test_replicas_that_have_reported_are_known_still(made: Database, tmp_path: Path) -> None:
    """A rotation of keys waits for them."""
    await _ask(made, lambda connection: upgrade(connection, "0009"))
    async with looking_into(DataDir(tmp_path / "authority")) as old:
        await old.execute("INSERT INTO replicas VALUES ('key', 'one', 1, 2, 3, true, 30000, 4, 5)")
    await made.migrate()
    async with made.read() as connection:
        row = (await connection.execute(select(tables.replicas))).one()
    assert (row.replica_id, row.keyset, row.reported_at_ms, row.moved_at_ms) == ("one", 3, 5, 5)


async def test_keys_that_signed_before_rotations_sign_on(made: Database, tmp_path: Path) -> None:
    await _ask(made, lambda connection: upgrade(connection, "0006"))
    async with looking_into(DataDir(tmp_path / "authority")) as old:
        await old.execute("INSERT INTO signing_keys VALUES ('one', 'mandate', 'ES256', 5)")
    await made.migrate()
    async with made.read() as connection:
        row = (await connection.execute(select(tables.signing_keys))).one()
    assert (row.id, row.state, row.since_ms, row.switch_at_ms, row.public) == ("one", "active", 5, None, None)


async def test_what_stood_before_the_tree_stands_in_it(made: Database, tmp_path: Path) -> None:
    """A database of the first release: an application with two sessions, one of them revoked."""
    application, live, revoked = f"app_{1:032x}", f"ses_{1:032x}", f"ses_{2:032x}"
    await _ask(made, lambda connection: upgrade(connection, "0001"))
    async with looking_into(DataDir(tmp_path / "authority")) as first:
        await first.execute("INSERT INTO applications VALUES (:id, 'notes', 5)", id=application)
        session = "INSERT INTO sessions VALUES (:id, 'alice', 'user', :application, 6, 4000000000000, :revoked)"
        for id_, revoked_at_ms in ((live, None), (revoked, 7)):
            await first.execute(session, id=id_, application=application, revoked=revoked_at_ms)
    async with rooms_open(tmp_path) as rooms:
        reading = rooms.service.reading
        page = await reading.page(Filter(kind=Kind.SESSION), None, 100)
        assert [session.revoked_at_ms for session in page.items] == [7, None]
        assert (await reading.session(live)).subject == "alice"
        assert {node.id for node in (await reading.tree(application)).nodes} == {application, live, revoked}
        await rooms.service.minting.issue(live, ["https://api.example"], [])
        reach = (await rooms.service.revoking.preview(Kind.APPLICATION, application)).reach  # takes what time it needs
        await rooms.service.revoking.revoke(Kind.APPLICATION, application)
        assert reach.counts == {Kind.APPLICATION: 1, Kind.SESSION: 1}
        with pytest.raises(NotActiveError):
            await rooms.service.minting.issue(live, ["https://api.example"], [])


async def test_a_log_that_stood_before_the_audit_has_one_from_now_on(made: Database, tmp_path: Path) -> None:
    log_id = LogId(bytes(range(16)))
    await _ask(made, lambda connection: upgrade(connection, "0003"))
    async with looking_into(DataDir(tmp_path / "authority")) as earlier:
        await earlier.execute("INSERT INTO log VALUES (1, :id, 900)", id=log_id.raw)
        await earlier.execute("INSERT INTO head VALUES (1, 1, 0, :link)", link=genesis(log_id, 1))
        await earlier.execute('INSERT INTO heartbeat ("only", at_ms) VALUES (1, 0)')
    async with rooms_open(tmp_path) as rooms:
        assert rooms.ledger.log_id == log_id
        await rooms.session()
        [first, _] = (await rooms.service.trail.page(0, 10)).rows
        assert first.link == next_audit_link(audit_genesis(log_id), first.row.to_bytes())


async def test_a_database_of_a_newer_program_is_refused_in_words_and_left_as_it_was(
    made: Database, tmp_path: Path
) -> None:
    data = DataDir(tmp_path / "authority")
    await made.migrate()
    async with looking_into(data) as newer:
        await newer.execute("UPDATE alembic_version SET version_num = '9999'")
        await newer.execute("DROP TABLE api_keys")
    before = await _ask(made, _schema)
    assert "api_keys" not in before
    with pytest.raises(DataError, match="the database was made by a newer countermand"):
        await made.migrate()
    async with looking_into(data) as newer:
        assert await newer.execute("SELECT version_num FROM alembic_version") == [("9999",)]
    assert await _ask(made, _schema) == before


@pytest.mark.sqlite
async def test_the_file_of_a_newer_program_is_left_byte_for_byte_as_it_was(made: Database, tmp_path: Path) -> None:
    data = DataDir(tmp_path / "authority")
    await made.migrate()
    async with looking_into(data) as newer:
        await newer.execute("UPDATE alembic_version SET version_num = '9999'")
    await made.close()
    before = stored(data)
    with pytest.raises(DataError):
        await made.migrate()
    await made.close()
    assert stored(data) == before


@pytest.mark.sqlite
async def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "letter.db"
    path.write_bytes(b"Dear authority,\n" * 1000)
    before = path.read_bytes()
    database = SqliteDatabase(path)
    with pytest.raises(DataError, match="the authority's database refused: SQLITE_NOTADB"):
        await database.migrate()
    await database.close()
    assert path.read_bytes() == before
