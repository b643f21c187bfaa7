"""An authority on a database of the test's own, in this event loop and by this machine's clocks."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from countermand.authority.database import Database
from countermand.authority.heartbeat import Heartbeat
from countermand.authority.keys import open_keys
from countermand.authority.ledger import Ledger, read_head
from countermand.authority.minting import Policy
from countermand.authority.model import Revocation, Session, SubjectType
from countermand.authority.service import Authority
from countermand.authority.witnesses import Witnesses
from countermand.log.anchor import Kind
from countermand.wiring import system_clock
from tests.postgres_server import PostgresServer

ROLE: Final = "countermand"


@dataclass(frozen=True, slots=True)
class Primary:
    """The rooms that the rules of checkpoints are about."""

    database: Database
    ledger: Ledger
    heartbeat: Heartbeat
    service: Authority

    async def session(self) -> Session:
        application = await self.service.opening.create_application("notes")
        return await self.service.opening.open_session(application.id, "alice", SubjectType.USER, 3600)

    async def revoke(self, session: Session) -> Revocation:
        return await self.service.revoking.revoke(Kind.SESSION, session.id)

    async def seq(self) -> int:
        async with self.database.read() as connection:
            return (await read_head(connection)).rev.seq


@asynccontextmanager
async def primary_open(database: Database, path: Path, keys_of: Path | None = None) -> AsyncIterator[Primary]:
    """Open the authority on `database`, with its keys in `path`: a copy of those in `keys_of`, if that is given."""
    if keys_of is not None:
        await asyncio.to_thread(shutil.copytree, keys_of / "keys", path / "keys")
    try:
        await database.migrate()
        ledger = await Ledger.open(database, os.urandom(16))
        keys = await open_keys(database, path / "keys", system_clock().wall_ms)
        witnesses = Witnesses(database, ledger, keys, (), system_clock)
        heartbeat = Heartbeat(database, ledger, keys, system_clock, witnesses, os.urandom(16).hex())
        policy = Policy("https://authority.example", 900)
        service = await Authority.start(database, ledger, heartbeat, keys, policy, system_clock, os.urandom)
        yield Primary(database, ledger, heartbeat, service)
    finally:
        await database.close()


def make_role(server: PostgresServer, *defaults: str) -> str:
    """Make a role that owns a database of its own, with these defaults; return the URL."""
    server.execute(f"CREATE ROLE {ROLE} LOGIN")
    server.execute(f"CREATE DATABASE {ROLE} OWNER {ROLE}")
    for default in defaults:
        server.execute(f"ALTER ROLE {ROLE} SET {default}")
    return server.url(ROLE, ROLE)


@contextmanager
def holding(url: str, statement: str) -> Iterator[psycopg.Connection]:
    """Hold what `statement` locks, as a client does that stands still in the middle."""
    with psycopg.connect(url) as connection:
        connection.execute(statement)
        yield connection
        connection.rollback()


@contextmanager
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """Run a primary that confirms nothing before its standby has it, and that standby."""
    primary = PostgresServer(wal_level="replica", max_wal_senders=4, hot_standby="on")
    with primary:
        standby = PostgresServer(hot_standby="on")
        standby.copy_of(primary)
        try:
            standby.start()
            primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            primary.execute("SELECT pg_reload_conf()")
            yield primary, standby
        finally:
            standby.__exit__()
