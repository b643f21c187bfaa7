"""From the answer of a revocation to the end of the last stream that was open, for one stream and for a thousand.

The service is a process of its own, and follows over HTTP. Authority and clients share this one: what it costs the
clients to notice is in the figure.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bench.harness import Row
from bench.process import child
from countermand.cli.client import AuthorityClient
from countermand.settings import AuthoritySettings, ClientSettings, DataDir
from countermand.wiring.authority import serve_authority

AUDIENCE: Final = "resource://bench"
ROUNDS: Final = 7
DEADLINE_S: Final = 60
BURST: Final = 50
"""How many streams are opened at a time."""
WANTED: Final = {1: "100 wanted", 1000: "250 wanted"}


def measure() -> list[Row]:
    """Return the medians."""
    with tempfile.TemporaryDirectory(prefix="countermand-bench-") as directory:
        return asyncio.run(_measure(DataDir(Path(directory) / "data")))


async def _measure(data: DataDir) -> list[Row]:
    rows = []
    async with serve_authority(AuthoritySettings(data, port=0)) as (authority, url):
        api_key = data.replica_key.read_text("utf-8").strip()
        with child("bench.service", url, authority.issuer, AUDIENCE, api_key, str(authority.pin)) as service:
            address = await asyncio.to_thread(service.ask, "address")
            async with AuthorityClient.open(ClientSettings(url, data.admin_key.read_text("utf-8").strip())) as client:
                application = (await client.create_application("bench"))["id"]
                for streams, wanted in WANTED.items():
                    took_s = [await _round(client, application, address, streams) for _ in range(ROUNDS)]
                    what = f"from a revocation's answer to the end of {streams:,} stream{'s' * (streams > 1)}"
                    rows.append(Row(what, "ms", statistics.median(took_s) * 1000, {}, wanted))
    return rows


async def _round(client: AuthorityClient, application: str, address: str, streams: int) -> float:
    session = str((await client.open_session(application, "alice"))["id"])
    token = await client.issue_mandate(session, AUDIENCE)
    async with asyncio.timeout(DEADLINE_S), _opened(address, token, streams) as readers:
        ends = asyncio.gather(*(reader.read() for reader in readers))
        await client.revoke("session", session)
        answered_s = time.perf_counter()
        await ends
        return max(0.0, time.perf_counter() - answered_s)


@asynccontextmanager
async def _opened(address: str, token: str, streams: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    try:
        while len(connections) < streams:
            some = min(BURST, streams - len(connections))
            connections += await asyncio.gather(*(_open(address, token) for _ in range(some)))
        yield [reader for reader, _ in connections]
    finally:
        for _, writer in connections:
            writer.close()


async def _open(address: str, token: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a stream, and read its first chunk. At first the replica has only begun, and the answer is 503."""
    where = urlsplit(address)
    while True:
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(f"GET /stream HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " in head.partition(b"\r\n")[0]:
            await reader.readuntil(b"hello\n\r\n")
            return reader, writer
        writer.close()
        await asyncio.sleep(0.1)
