"""What a gateway forwards for a second of its own computing, and how long a request then takes; by `wrk`.

The gateway, the service behind it and the load are processes of their own. The gateway follows an authority, and has
seen the token before. Beside it stands the service alone, with nobody before it.
"""

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.harness import Row
from bench.process import Child, child
from countermand.cli.client import AuthorityClient
from countermand.settings import AuthoritySettings, ClientSettings, DataDir
from countermand.transport.http import open_client
from countermand.wiring.authority import serve_authority

AUDIENCE: Final = "resource://bench"
CONNECTIONS: Final = 32
LOAD_S: Final = 5
READY_S: Final = 30
_MS: Final = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_P99 = re.compile(r"99%\s+([\d.]+)(us|ms|s)\b")
_REQUESTS = re.compile(r"(\d+) requests in")


@dataclass(frozen=True, slots=True)
class _Load:
    """What one process made of the load."""

    per_cpu_s: float
    p99_ms: float


def measure() -> list[Row]:
    """Return both; without `wrk` nothing, and say so."""
    if shutil.which("wrk") is None:
        print("NOT MEASURED: the gateway; there is no wrk here (apt install wrk)", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory(prefix="countermand-bench-") as directory:
        ours, alone = asyncio.run(_measure(DataDir(Path(directory) / "data")))
    what = f"gateway, {CONNECTIONS} connections"
    peer = "the service behind it, alone"
    return [
        Row(f"{what}: forwarded for a CPU second", "requests", ours.per_cpu_s, {peer: alone.per_cpu_s}, "4,000 wanted"),
        Row(f"{what}: a request, p99", "ms", ours.p99_ms, {peer: alone.p99_ms}),
    ]


async def _measure(data: DataDir) -> tuple[_Load, _Load]:
    async with serve_authority(AuthoritySettings(data, port=0)) as (authority, url):
        with child("bench.gateway_server") as service:
            upstream = await asyncio.to_thread(service.ask, "address")
            api_key = data.replica_key.read_text("utf-8").strip()
            arguments = (upstream, url, authority.issuer, AUDIENCE, api_key, str(authority.pin))
            with child("bench.gateway_server", *arguments) as gateway:
                token = await _token(url, data)
                await _until_ready(await asyncio.to_thread(gateway.ask, "address"), token)
                return (
                    await asyncio.to_thread(_loaded, gateway, token),
                    await asyncio.to_thread(_loaded, service, token),
                )


async def _token(url: str, data: DataDir) -> str:
    async with AuthorityClient.open(ClientSettings(url, data.admin_key.read_text("utf-8").strip())) as client:
        application = (await client.create_application("bench"))["id"]
        session = str((await client.open_session(application, "alice"))["id"])
        return await client.issue_mandate(session, AUDIENCE)


async def _until_ready(address: str, token: str) -> None:
    """Ask until the replica is fresh."""
    async with asyncio.timeout(READY_S), open_client(READY_S, url=address) as client:
        while not (await client.get("/", headers={"authorization": f"Bearer {token}"})).is_success:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.1)


def _loaded(server: Child, token: str) -> _Load:
    load = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{LOAD_S}s", "--latency", "-H", f"Authorization: Bearer {token}"]
    began_s = server.ask("cpu_s")
    said = subprocess.run(
        [*load, f"{server.ask('address')}/notes?of=alice"], capture_output=True, text=True, check=True
    ).stdout
    taken_s = server.ask("cpu_s") - began_s
    requests, slowest = _REQUESTS.search(said), _P99.search(said)
    if requests is None or slowest is None or "Non-2xx" in said:
        raise RuntimeError(f"wrk was not served as it should be:\n{said}")
    return _Load(int(requests[1]) / taken_s, float(slowest[1]) * _MS[slowest[2]])
