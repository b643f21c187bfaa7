"""Questions of a proxy a second, beside an app that says 200 to everybody: by `wrk`, on 32 connections that stay open.

Both are served in one process, and take turns. Counted is a second of that process's CPU, the kernel's part included,
not of the clock: `wrk` and whatever else runs here take theirs. The questions are what nginx asks as in `deploy/`, with
one token that was seen before.
"""

import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

from bench.harness import Row
from bench.process import Child, child

CONNECTIONS: Final = 32
SECONDS: Final = 3
ROUNDS: Final = 7
OURS: Final = "forward auth"
PEER: Final = "an app that says 200 to everybody"
_MS: Final = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True, slots=True)
class _Turn:
    """What one turn of `wrk` brought."""

    per_cpu_second: float
    p99_ms: float


def measure() -> list[Row]:
    """Return questions per second of CPU, and the 99th percentile of what one takes."""
    wrk = shutil.which("wrk")
    if wrk is None:
        print("NOT MEASURED: forward auth: wrk is not installed; Debian's will do", file=sys.stderr)
        return []
    with child("bench.forward_auth_server") as server:
        url, peer_url, token = server.ask("about")
        urls = {OURS: url, PEER: peer_url}
        turns: dict[str, list[_Turn]] = {OURS: [], PEER: []}
        for number in range(ROUNDS + 1):
            for name, one in urls.items():
                turn = _turn(wrk, server, one, token)
                if number:  # the first is to warm up
                    turns[name].append(turn)
    rates, waits = (
        {name: statistics.median(getattr(turn, what) for turn in taken) for name, taken in turns.items()}
        for what in ("per_cpu_second", "p99_ms")
    )
    return [
        Row("forward auth, warm, 32 connections", "/CPU second", rates[OURS], {PEER: rates[PEER]}, "30,000 wanted"),
        Row("the same, p99", "ms", waits[OURS], {PEER: waits[PEER]}),
    ]


def _turn(wrk: str, server: Child, url: str, token: str) -> _Turn:
    """Raises: RuntimeError, where an answer was another than 200."""
    headers = (f"authorization: Bearer {token}", f"x-request-id: {'0' * 32}")
    options = ["-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}", "--latency", *(f"-H{header}" for header in headers)]
    began_s = server.ask("cpu_s")
    said = subprocess.run([wrk, *options, f"{url}/"], capture_output=True, text=True, check=True).stdout
    taken_s = server.ask("cpu_s") - began_s
    count, p99 = re.search(r"(\d+) requests in", said), re.search(r"99%\s+([\d.]+)(us|ms|s)\b", said)
    if count is None or p99 is None or "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"wrk was not answered as it should be:\n{said}")
    return _Turn(int(count[1]) / taken_s, float(p99[1]) * _MS[p99[2]])
