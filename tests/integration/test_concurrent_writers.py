"""Many who revoke at once: one number each, no gap, one chain, and a replica that ends where the ledger does."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from countermand.cli.client import AuthorityClient
from countermand.log.anchor import Anchor, Anchors, Kind
from countermand.log.chain import genesis, next_link
from countermand.log.entry import Entry
from countermand.log.state import LogState
from countermand.log.verdict import Revoked
from countermand.replica.replica import Replica
from countermand.settings import ClientSettings
from countermand.transport.http import HttpLog
from countermand.wiring import follower, system_clock
from tests.integration.rooms import insert_sessions, rooms_open
from tests.looking import looking_into
from tests.running import PROOF, ServerProcess, until

pytestmark = pytest.mark.anyio

WRITERS = 8
EACH = 400 if PROOF else 8


async def test_eight_writers_leave_one_gapless_chain_that_a_replica_follows(
    tmp_path: Path,
) -> None:
    async with rooms_open(tmp_path) as rooms:
        ids = await insert_sessions(rooms.database, WRITERS * EACH)
        pin, log_id = rooms.pin, rooms.ledger.log_id

    async with ServerProcess(tmp_path) as server:
        settings = server.client_settings()
        replica = Replica(LogState(pin), system_clock)
        applied: list[Entry] = []
        log = HttpLog(server.url, server.data.replica_key.read_text().strip())
        following = asyncio.create_task(follower(replica, log, applied.extend).run())
        try:
            shares = [ids[start::WRITERS] for start in range(WRITERS)]
            answers = await asyncio.gather(*(_revoke(settings, share) for share in shares))
            await until(lambda: replica.state.rev.seq == len(ids), "the replica has applied every entry")
        finally:
            following.cancel()
            await asyncio.wait([following])

        answered = {answer["seq"]: answer["id"] for share in answers for answer in share}
        assert sorted(answered) == list(range(1, len(ids) + 1))
        assert all(answer["is_new"] for share in answers for answer in share)
        assert all(sorted(share, key=_seq) == share for share in answers), "what is answered later comes later"

        async with looking_into(server.data) as look:
            rows = await look.execute("SELECT seq, previous, link, data FROM entries ORDER BY seq")
            [head] = await look.execute("SELECT generation, seq, link FROM head")
        link = genesis(log_id, 1)
        for place, (seq, previous, stored, data) in enumerate(rows, start=1):
            entry = Entry.parse(data)
            assert (seq, entry.seq, previous) == (place, place, link)
            assert (entry.kind, entry.id) == (Kind.SESSION, answered[seq])
            link = next_link(link, data)
            assert stored == link
        assert head == (1, len(ids), link)

        assert (replica.state.link, replica.state.rev.generation) == (link, 1)
        assert [entry.seq for entry in applied] == list(range(1, len(ids) + 1))
        for id_ in ids:
            verdict = replica.check(Anchors((Anchor(Kind.SESSION, id_),)))
            assert isinstance(verdict, Revoked)
            assert answered[verdict.seq] == id_


async def _revoke(settings: ClientSettings, ids: list[str]) -> list[dict[str, Any]]:
    """Revoke one after the other, on a connection of one's own."""
    async with AuthorityClient.open(settings) as client:
        return [await client.revoke("session", id_, "all at once") for id_ in ids]


def _seq(answer: dict[str, Any]) -> int:
    return int(answer["seq"])
