"""From the commit of a revocation until a replica rejects: over Redis, and over the authority's own feed.

The authority is a process of its own, and so are the replicas: all of them in one event loop, each with a connection of
its own. The clock starts when the revoking transaction has committed and its caller goes on, which is before the answer
is sent. It stops when a replica's `check`, asked as soon as something is applied, first says that the session is
revoked. Both read the one monotonic clock of this machine.
"""

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.harness import Row
from bench.process import Child, child
from bench.shared import redis_running

WARM_UP: Final = 20
ROUNDS: Final = {1: 200, 50: 60}
"""By how many replicas there are."""
WANTED: Final = {1: "10 wanted", 50: "100 wanted"}
LONGEST_PAUSE_S: Final = 0.03
"""Between two revocations: none may ride on the checkpoint of another, or fall into step with the heartbeat."""
MILLI: Final = 1e3


def measure() -> list[Row]:
    """Return p50 and p99 of each way, with one replica and with 50."""
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory(prefix="countermand-bench-") as directory,
        redis_running() as server,
        child("bench.authority", str(Path(directory, "data")), server.url) as authority,
    ):
        url, pin, api_key = authority.ask("about")
        for way, where in (("Redis", server.url), ("HTTP", url)):
            for count in ROUNDS:
                taken_s = _rejections(authority, count, (where, pin, api_key))
                rows += _rows(f"{way}, {_counted(count)}", taken_s, WANTED[count] if way == "Redis" else "")
    return rows


def _rejections(authority: Child, count: int, where: tuple[str, str, str]) -> list[float]:
    """Return how long it took each of `count` replicas in each round."""
    with child("bench.replicas") as replicas:
        replicas.ask("follow", count, *where)
        taken_s = [_round(authority, replicas) for _ in range(WARM_UP + ROUNDS[count])]
    return [one_s for round_s in taken_s[WARM_UP:] for one_s in round_s]


def _round(authority: Child, replicas: Child) -> list[float]:
    """Return how long it took each replica to reject what was revoked."""
    session_id = authority.ask("open_session")
    replicas.ask("watch", session_id)
    time.sleep(random.uniform(0, LONGEST_PAUSE_S))  # noqa: S311 - moments, not secrets
    committed_s = authority.ask("revoke", session_id)
    return [seen_s - committed_s for seen_s in replicas.ask("seen")]


def _rows(what: str, taken_s: list[float], wanted: str) -> list[Row]:
    percentiles = statistics.quantiles(taken_s, n=100)
    return [
        Row(f"from commit to rejection over {what}, p50", "ms", percentiles[49] * MILLI, {}),
        Row(f"from commit to rejection over {what}, p99", "ms", percentiles[98] * MILLI, {}, wanted),
    ]


def _counted(count: int) -> str:
    return "a replica" if count == 1 else f"{count} replicas in one process"
