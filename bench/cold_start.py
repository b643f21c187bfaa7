"""From nothing to a fresh replica with a million entries, by the snapshot in Redis: a new process each time.

The time runs from the start of the process: interpreter, imports, connection, snapshot, and a checkpoint that is later
than the replica's own start by the clock tolerance of one second. The authority's heartbeat comes every second.
The published consumer knows no snapshot: it applies a million messages, and how long that takes is extrapolated.
"""

import statistics
import time
from typing import Final

from bench.consume import PUBLISHED
from bench.harness import Row
from bench.log import ENTRIES, BenchLog
from bench.process import child
from bench.shared import KEYS, beating, redis_running

TURNS: Final = 3
MIB: Final = 2**20


def measure(consumed: Row) -> list[Row]:
    """Return rows for time, memory and bytes. `consumed` says what the published consumer applies a second."""
    with redis_running() as server, server.client() as client:
        log = BenchLog()
        data = log.snapshot(ENTRIES)
        client.set(KEYS.snapshot, data)
        with beating(client, lambda: log.part(0).checkpoint):
            pin = str(log.state.pin)
            starts = [_start(server.url, pin) for _ in range(TURNS)]
            halves = [_load(server.url, pin) for _ in range(TURNS)]
    started_s, before, after = (statistics.median(each) for each in zip(*starts, strict=True))
    read_s, built_s = (statistics.median(each) for each in zip(*halves, strict=True))
    per_s = consumed.peers[PUBLISHED]
    beside = {
        "reading the snapshot alone": read_s,
        "verifying it, and building what it says": built_s,
        f"{PUBLISHED}, at its rate above: EXTRAPOLATED": per_s if isinstance(per_s, str) else ENTRIES / per_s,
    }
    return [
        Row("from nothing to a fresh replica, a million entries", "s", started_s, beside, "5 wanted"),
        Row("memory of a worker that follows, with them", "MiB", after / MIB, {"before it follows": before / MIB}),
        Row("their snapshot on the wire, ids of our own making", "B an entry", len(data) / ENTRIES, {}, "24 wanted"),
    ]


def _start(url: str, pin: str) -> tuple[float, int, int]:
    """Return the seconds, and the resident bytes before and after."""
    began_s = time.monotonic()
    with child("bench.replicas") as replicas:
        before: int = replicas.ask("resident")
        fresh_s: float = replicas.ask("follow", 1, url, pin)
        after: int = replicas.ask("resident")
    return fresh_s - began_s, before, after


def _load(url: str, pin: str) -> tuple[float, float]:
    with child("bench.replicas") as replicas:
        read_s, built_s = replicas.ask("load", url, pin)
    return read_s, built_s
