"""`python -m bench`: measure everything, and print one table. `--json` writes JSON instead."""

import json
import platform
import sys
from collections.abc import Iterator

from bench import apply, cascade, decide, lookup, memory, propagation
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
    with open_peers() as peers:
        yield memory.measure(peers)
        log = BenchLog()
        yield apply.measure(log)
        yield lookup.measure(log, peers)
        yield decide.measure(log, peers)
    yield cascade.measure()
    yield propagation.measure()


main()
