"""A million descendants: one entry ends them all at once, and their anchors follow in the background."""

import asyncio
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg
import pytest

from countermand.authority.descendants import Descendants
from countermand.authority.model import Agent
from countermand.authority.postgres import PostgresDatabase
from countermand.log.anchor import Anchor, Kind
from countermand.log.entry import Entry
from countermand.log.revoked import RevokedSet
from countermand.wiring import system_clock
from tests.faults.primaries import Primary, primary_open
from tests.postgres_server import PostgresServer
from tests.running import PROOF

pytestmark = pytest.mark.anyio

BELOW: Final = 1_000_000 if PROOF else 20_000
HELD_BYTES: Final = 32 * 2**20


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


def plant(server: PostgresServer, root: Agent, count: int) -> None:
    """Put so many agents below one, past the authority: over the API it would take hours."""
    agents = (
        "INSERT INTO anchors (id, kind, application_id, session_id, parent_id, name, created_at_ms, opened_seq, "
        "expires_at_ms) SELECT 'agt_' || lpad(to_hex(n), 32, '0'), 2, %s, %s, %s, 'worker', 1, 0, %s "
        "FROM generate_series(1, %s) AS n"
    )
    lineage = (
        "INSERT INTO lineage SELECT above.ancestor, below.number FROM anchors AS below, lineage AS above, "
        "anchors AS root WHERE root.id = %(id)s AND above.descendant = root.number AND below.parent_id = %(id)s "
        "UNION ALL SELECT number, number FROM anchors WHERE parent_id = %(id)s"
    )
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # what is planted is right: look for no keys
        connection.execute(agents, (root.application_id, root.session_id, root.id, root.expires_at_ms, count))
        connection.execute(lineage, {"id": root.id})
        connection.execute("ANALYZE")


async def agent(primary: Primary) -> Agent:
    session = await primary.session()
    return await primary.service.opening.start_agent(session.application_id, "root", 3600, session_id=session.id)


async def test_one_entry_ends_a_million_and_what_comes_after_waits_for_none_of_them(
    server: PostgresServer, tmp_path: Path
) -> None:
    async with primary_open(PostgresDatabase(server.url()), tmp_path) as primary:
        root, others = await agent(primary), [await primary.session() for _ in range(12)]
        await asyncio.to_thread(plant, server, root, BELOW)
        await primary.revoke(others[0])  # what is compiled at the first is compiled
        took_s = [await _revoke_s(primary, Kind.AGENT, root.id)]
        assert await primary.seq() == 2, "one entry"
        [leaf] = server.execute("SELECT id FROM anchors WHERE parent_id = %s ORDER BY number DESC LIMIT 1", root.id)
        assert await _ends(primary, root, leaf[0])
        held_kb = _held_kb()
        told, pages = set[str](), 0
        descendants: Descendants | None = None
        while True:
            if pages % 200 == 0:  # as after a kill: nothing is known but what the database holds
                descendants = Descendants(primary.database, system_clock)
            assert descendants is not None
            page = await descendants.next()
            if page is None:
                break
            told.update(anchor.id for anchor in page.anchors)
            if pages % 200 == 0:
                page = await descendants.next()  # told, and killed before that was noted: it is told again
                assert page is not None
                if len(others) > 1:
                    took_s.append(await _revoke_s(primary, Kind.SESSION, others.pop().id))
            await descendants.done(page)
            pages += 1
        grown = (_held_kb() - held_kb) * 1024
        assert grown < HELD_BYTES + 300 * len(told), "a page at a time, beside what the test keeps"
        assert len(told) == BELOW
        print(  # noqa: T201 - what a proof saw
            f"\n{BELOW:,} descendants: ended in {took_s[0] * 1000:.0f} ms, told in {pages} pages, {grown:,} bytes more "
            f"held; amid them a revocation took {', '.join(f'{s * 1000:.0f}' for s in took_s[1:])} ms"
        )


def _held_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def _revoke_s(primary: Primary, kind: Kind, id_: str) -> float:
    began_s = time.monotonic()
    assert (await primary.service.revoking.revoke(kind, id_)).is_new
    return time.monotonic() - began_s


async def _ends(primary: Primary, root: Agent, leaf_id: str) -> bool:
    """Whether a replica that has applied the ledger refuses what the last descendant holds."""
    revoked = RevokedSet()
    async for page in primary.ledger.pages(0, await primary.seq()):
        for candidate in page:
            revoked.add_entry(Entry.parse(candidate.entry))
    path = (Anchor(Kind.SESSION, root.session_id), Anchor(Kind.AGENT, root.id), Anchor(Kind.AGENT, leaf_id))
    return any(revoked.seq_of(anchor.key) is not None for anchor in path)
