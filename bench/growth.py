"""How the cost of a revocation, of its dry run and of a page of a list grows with what there is, on Postgres.

A tree of its own for each size, of agents below one, in a database that has looked at its tables, as it does by itself.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from bench.harness import Row
from countermand.authority.model import Filter
from countermand.authority.postgres import PostgresDatabase
from countermand.log.anchor import Kind
from tests.faults.primaries import primary_open
from tests.faults.test_million import agent, plant
from tests.postgres_server import PostgresServer

SIZES: Final = (100, 1_000, 10_000, 100_000, 1_000_000)
PAGES: Final = 20
TIMES: Final = 7
MILLI: Final = 1e3


def measure() -> list[Row]:
    """Return a row for each size: one revocation, and beside it what else is asked of that tree."""
    return [asyncio.run(_measure(size)) for size in SIZES]


async def _measure(size: int) -> Row:
    with PostgresServer() as server, tempfile.TemporaryDirectory(prefix="countermand-bench-") as directory:
        async with primary_open(PostgresDatabase(server.url()), Path(directory)) as primary:
            first, root = await agent(primary), await agent(primary)
            revoking, page = primary.service.revoking, primary.service.reading.page
            here = Filter(kind=Kind.AGENT, session_id=root.session_id)
            await revoking.preview(Kind.AGENT, first.id)  # what is compiled at the first call is compiled
            await revoking.revoke(Kind.AGENT, first.id)
            await asyncio.to_thread(plant, server, root, size)
            listed_ms = [await _took_ms(lambda: page(here, None, 100)) for _ in range(PAGES)]
            previewed_ms = await _took_ms(lambda: revoking.preview(Kind.AGENT, root.id))
            revoked_ms = []
            for _ in range(TIMES):
                revoked_ms.append(await _took_ms(lambda: revoking.revoke(Kind.AGENT, root.id)))
                await asyncio.to_thread(_stand_up_again, server, root.id)
    beside = {"its dry run": previewed_ms, "a page of 100 of them": statistics.median(listed_ms)}
    wanted = "100 wanted" if size == SIZES[-1] else ""
    return Row(
        f"a revocation that ends {size:,} others, on Postgres", "ms", statistics.median(revoked_ms), beside, wanted
    )


def _stand_up_again(server: PostgresServer, id_: str) -> None:
    """Take back, past the authority, what a revocation has written of its tree: the next one finds it as it was."""
    server.execute("DELETE FROM cascades")
    server.execute("UPDATE anchors SET revoked_at_ms = NULL WHERE id = %s", id_)


async def _took_ms(do: Callable[[], Awaitable[object]]) -> float:
    began_s = time.perf_counter()
    await do()
    return (time.perf_counter() - began_s) * MILLI
