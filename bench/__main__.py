"""`python -m bench`: measure everything, and print one table. `--json` writes JSON instead."""

import json
import platform
import sys
from collections.abc import Iterator

from bench import (
    adapters,
    apply,
    ask,
    biscuit,
    cascade,
    catch_up,
    cold_start,
    consume,
    decide,
    forward_auth,
    gateway,
    growth,
    lookup,
    memory,
    propagation,
    reject,
    reports,
    streams,
    throughput,
)
from bench.harness import Row
from bench.log import BenchLog
from bench.peers import open_peers


def main() -> None:
    """Measure, and say how it goes on stderr."""
    rows: list[Row] = []
    for measured in _measure():
        rows += measured
        print(f"{len(rows)} rows", file=sys.stderr)
    if "--json" in sys.argv[1:]:
        print(json.dumps({"python": platform.python_version(), "rows": [row.to_json() for row in rows]}, indent=2))
    else:
        print(*(line for row in rows for line in row.lines()), sep="\n")


def _measure() -> Iterator[list[Row]]:
    yield from _measure_decisions()
    yield cascade.measure()
    yield throughput.measure()
    yield gateway.measure()
    yield growth.measure()
    yield propagation.measure()
    yield streams.measure()
    yield reports.measure()
    yield forward_auth.measure()
    consumed = consume.measure()
    yield consumed
    yield catch_up.measure()
    yield reject.measure()
    yield cold_start.measure(consumed[0])


def _measure_decisions() -> Iterator[list[Row]]:
    """All that is asked of one log of a million entries, which then is let go."""
    with open_peers() as peers:
        yield memory.measure(peers)
        log = BenchLog()
        yield apply.measure(log)
        yield lookup.measure(log, peers)
        yield biscuit.measure(log)  # before the next, which leaves a cutoff in force
        yield decide.measure(log, peers)
    yield adapters.measure(log)
    yield ask.measure(log)


main()
