"""The migrations make what the tables say, and touch nothing that another program made."""

from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect, text

from countermand.authority.sqlite import SqliteDatabase
from countermand.authority.tables import METADATA
from countermand.errors import DataError, NotActiveError
from countermand.log.anchor import Kind
from tests.integration.rooms import HeldClock, file_of, rooms_open

pytestmark = pytest.mark.anyio


async def _migrated(path: Path) -> Path:
    database = SqliteDatabase(path)
    try:
        await database.migrate()
    finally:
        await database.close()
    return path


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


async def test_migrations_from_nothing_make_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{await _migrated(tmp_path / 'migrated.db')}")
    try:
        with engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    finally:
        engine.dispose()


async def test_migrations_make_the_same_keys_checks_and_indexes_as_the_tables(tmp_path: Path) -> None:
    migrated = create_engine(f"sqlite:///{await _migrated(tmp_path / 'migrated.db')}")
    made = create_engine(f"sqlite:///{tmp_path / 'made.db'}")
    try:
        METADATA.create_all(made)
        with migrated.connect() as one, made.connect() as other:
            schema = _schema(one)
            assert schema == _schema(other)
    finally:
        migrated.dispose()
        made.dispose()
    assert schema["head"]["checks"] == [{"name": "ck_head_one_row", "sqltext": '"only" = 1'}], "checks are compared"


async def test_migrating_again_keeps_every_row(tmp_path: Path) -> None:
    async with rooms_open(tmp_path) as rooms:
        session = await rooms.session()
        await rooms.service.revoking.revoke(Kind.SESSION, session.id, "kept")
        log_id, head = rooms.ledger.log_id, await rooms.head()
    async with rooms_open(tmp_path, clock=HeldClock()) as rooms:
        assert (rooms.ledger.log_id, await rooms.head()) == (log_id, head)
        assert (await rooms.service.opening.session(session.id)).subject == "alice"
        assert (await rooms.service.revoking.revoke(Kind.SESSION, session.id)).reason == "kept"


async def test_what_stood_before_the_tree_stands_in_it(tmp_path: Path) -> None:
    """A database of the first release: an application with two sessions, one of them revoked."""
    path = tmp_path / "authority" / "countermand.db"
    path.parent.mkdir(mode=0o700)
    first = create_engine(f"sqlite:///{path}")
    application, live, revoked = f"app_{1:032x}", f"ses_{1:032x}", f"ses_{2:032x}"
    with first.begin() as connection:
        upgrade(connection, "0001")
        connection.execute(text("INSERT INTO applications VALUES (:id, 'notes', 5)"), {"id": application})
        session = text("INSERT INTO sessions VALUES (:id, 'alice', 'user', :application, 6, 4000000000000, :revoked)")
        for id_, revoked_at_ms in ((live, None), (revoked, 7)):
            connection.execute(session, {"id": id_, "application": application, "revoked": revoked_at_ms})
    first.dispose()
    async with rooms_open(tmp_path) as rooms:
        opening = rooms.service.opening
        assert [session.revoked_at_ms for session in (await opening.sessions()).sessions] == [None, 7]
        assert (await opening.session(live)).subject == "alice"
        assert {node.id for node in (await opening.tree(application)).nodes} == {application, live, revoked}
        await rooms.service.minting.issue(live, ["https://api.example"], [])
        reach = (await rooms.service.revoking.revoke(Kind.APPLICATION, application)).reach
        assert reach.counts == {Kind.APPLICATION: 1, Kind.SESSION: 1}
        with pytest.raises(NotActiveError):
            await rooms.service.minting.issue(live, ["https://api.example"], [])


async def test_a_database_of_a_newer_program_is_refused_in_words_and_left_as_it_was(tmp_path: Path) -> None:
    path = await _migrated(tmp_path / "newer.db")
    async with file_of(path) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
        newer.execute("DROP TABLE api_keys")
    before = path.read_bytes()
    with pytest.raises(DataError, match="the database was made by a newer countermand"):
        await _migrated(path)
    async with file_of(path) as newer:
        assert newer.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
        assert newer.execute("SELECT 1 FROM sqlite_master WHERE name = 'api_keys'").fetchall() == []
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "letter.db"
    path.write_bytes(b"Dear authority,\n" * 1000)
    before = path.read_bytes()
    with pytest.raises(DataError, match="the authority's database refused: SQLITE_NOTADB"):
        await _migrated(path)
    assert path.read_bytes() == before
