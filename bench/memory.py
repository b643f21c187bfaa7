"""Bytes an entry, as tracemalloc counts what is kept."""

import tracemalloc

from bench.harness import Row
from bench.log import DAY_MS, ENTRIES
from bench.peers import Peers
from countermand.log.revoked import HOUR_MS, RevokedSet


def measure(peers: Peers) -> list[Row]:
    """Return the row, for a million entries."""
    bytes_each = peers.call("memory", ENTRIES)
    beside = {"the documented store": peers.missing if bytes_each is None else float(bytes_each)}
    return [Row("memory of a replica, by tracemalloc", "B an entry", _replica(), beside, "200 wanted")]


def _replica() -> float:
    tracemalloc.start()
    revoked = RevokedSet()
    for number in range(ENTRIES):
        revoked.add(b"\1" + number.to_bytes(16), number + 1, 500_000 + DAY_MS // HOUR_MS * number // ENTRIES)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken / len(revoked)
