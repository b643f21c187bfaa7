"""One entry that ends ten thousand agents, ten levels deep: how long its caller waits for the answer, over HTTP.

Beside it the same database marks every descendant's row, as a cascade without paths would have to, at the least.
"""

import asyncio
import statistics
import tempfile
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from bench.harness import Row
from bench.log import new_id
from countermand.authority import tables
from countermand.authority.cascade import ANSWERED
from countermand.authority.database import Database
from countermand.authority.lineage import load
from countermand.authority.sqlite import SqliteDatabase
from countermand.cli.client import AuthorityClient
from countermand.log.anchor import Kind
from countermand.settings import AuthoritySettings, ClientSettings, DataDir
from countermand.wiring.authority import serve_authority

TREES: Final = 7
DEEP: Final = 10
WIDE: Final = 1_000
MILLI: Final = 1e3


def measure() -> list[Row]:
    """Return the median over some trees."""
    ours_s, rows_s = asyncio.run(_measure())
    beside = {"marking each descendant's row": rows_s * MILLI}
    return [
        Row("a revocation that ends 10,000 others, until it is answered", "ms", ours_s * MILLI, beside, "100 wanted")
    ]


async def _measure() -> tuple[float, float]:
    ours_s, rows_s = [], []
    with tempfile.TemporaryDirectory(prefix="countermand-bench-") as directory:
        settings = AuthoritySettings(DataDir(Path(directory) / "data"), port=0)
        async with serve_authority(settings) as (_, url):
            admin = ClientSettings(url, settings.data.admin_key.read_text("utf-8").strip())
            database = SqliteDatabase(settings.data.database)
            async with AuthorityClient.open(admin) as client:
                for _ in range(TREES):
                    ours_s.append(await _revoke(client, await _plant(client, database)))
                    rows_s.append(await _mark(database, await _plant(client, database)))
            await database.close()
    return statistics.median(ours_s), statistics.median(rows_s)


async def _plant(client: AuthorityClient, database: Database) -> str:
    """Start an agent, and put 10,000 below it, ten levels deep, past the API; return its id."""
    application = await client.create_application("bench")
    session = await client.open_session(application["id"], "alice")
    root = await client.start_agent(application["id"], "root", 3600, session_id=session["id"])
    await database.write(lambda connection: _grow(connection, root["id"]))
    await _settle(database)
    return str(root["id"])


async def _grow(connection: AsyncConnection, root_id: str) -> None:
    above = await load(connection, [root_id])
    root, top = above[root_id], [row.number for row in above.rows]
    last = max(top)
    rows: list[dict[str, Any]] = []
    pairs: list[dict[str, int]] = []
    for _ in range(WIDE):
        line = list(range(last + 1, last + 1 + DEEP))
        ids = [root_id, *(new_id(Kind.AGENT) for _ in line)]
        rows += [
            asdict(root) | {"number": number, "id": id_, "parent_id": parent_id}
            for number, (parent_id, id_) in zip(line, pairwise(ids), strict=True)
        ]
        for place, number in enumerate(line, start=1):
            pairs += [{"ancestor": ancestor, "descendant": number} for ancestor in [*top, *line[:place]]]
        last = line[-1]
    await connection.execute(insert(tables.anchors), rows)
    await connection.execute(insert(tables.lineage), pairs)


async def _settle(database: Database) -> None:
    """Have what was planted written to its place, which SQLite would leave to whoever commits next."""
    async with database.read() as connection:
        await connection.exec_driver_sql("COMMIT")
        await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        await connection.exec_driver_sql("BEGIN")


async def _revoke(client: AuthorityClient, root_id: str) -> float:
    began_s = time.perf_counter()
    made = await client.revoke("agent", root_id)
    taken_s = time.perf_counter() - began_s
    counts = made["reach"]["counts"]
    if sum(counts.values()) <= ANSWERED or made["reach"]["is_whole"]:
        raise RuntimeError(f"the revocation reached {counts}")
    return taken_s


async def _mark(database: Database, root_id: str) -> float:
    anchors, lineage = tables.anchors, tables.lineage.c
    root = select(anchors.c.number).where(anchors.c.id == root_id).scalar_subquery()
    below = select(lineage.descendant).where(lineage.ancestor == root)
    marking = update(anchors).where(anchors.c.number.in_(below)).values(revoked_at_ms=time.time_ns() // 1_000_000)
    began_s = time.perf_counter()
    await database.write(lambda connection: connection.execute(marking))
    return time.perf_counter() - began_s
