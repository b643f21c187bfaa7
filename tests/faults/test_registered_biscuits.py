"""A server that is killed while it ends registered Biscuits: what it has done is whole pages, and the rest follows."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from countermand.authority import tables
from countermand.authority.registered import PAGE
from countermand.cli.client import AuthorityClient
from countermand.errors import CountermandError
from countermand.log.anchor import Kind
from tests.databases import DATABASES
from tests.integration.biscuits import plain_id
from tests.looking import looking_into, writing
from tests.running import DEADLINE_S, ServerProcess

pytestmark = pytest.mark.anyio

MANY = 12 * PAGE


async def _fill(server: ServerProcess, anchor: str) -> set[str]:
    ids = [plain_id() for _ in range(MANY)]
    database = DATABASES.open(server.data)
    try:
        async with writing(database) as connection:
            await connection.execute(insert(tables.biscuits), [{"id": id_, "created_at_ms": 1} for id_ in ids])
            numbers = (await connection.execute(select(tables.biscuits.c.number))).scalars()
            rows = [{"anchor": anchor, "number": number} for number in numbers]
            await connection.execute(insert(tables.biscuit_anchors), rows)
    finally:
        await database.close()
    return set(ids)


async def _revoked(server: ServerProcess) -> list[str]:
    async with looking_into(server.data) as look:
        rows = await look.execute("SELECT id FROM entries WHERE kind = :kind", kind=int(Kind.BISCUIT))
    return [id_ for (id_,) in rows]


async def test_a_server_that_is_killed_between_two_pages_leaves_whole_ones_and_ends_the_rest(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path) as server:
        async with AuthorityClient.open(server.client_settings()) as client:
            application = (await client.create_application("notes"))["id"]
            session = (await client.open_session(application, "alice"))["id"]
            ids = await _fill(server, f"session:{session}")
            revoking = asyncio.ensure_future(client.revoke("session", session))
            await _until_begun(server)
            server.kill()
            with pytest.raises(CountermandError):
                await revoking
        done = await _revoked(server)
        assert len(done) % PAGE == 0
        assert PAGE <= len(done) < MANY, "it was killed in the middle"
        await server.start()
        async with AuthorityClient.open(server.client_settings()) as client:
            again = await client.revoke("session", session)
        assert again["is_new"] is False
        assert again["reach"]["counts"]["biscuit"] == MANY - len(done)
        assert sorted(await _revoked(server)) == sorted(ids)


async def _until_begun(server: ServerProcess) -> None:
    """Return when the first page is in the ledger. It is only read, which holds up nobody who writes."""
    database = DATABASES.open(server.data)
    try:
        async with asyncio.timeout(DEADLINE_S):
            begun = 0
            while not begun:
                async with database.read() as connection:
                    begun = (await connection.execute(select(tables.head.c.seq))).scalar_one()
    finally:
        await database.close()
