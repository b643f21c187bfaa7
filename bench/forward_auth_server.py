"""Forward auth, and an app that says 200 at once, each on a port of its own, in a process of their own.

python -m bench.forward_auth_server
"""

import asyncio
import os
import time
from functools import partial
from typing import Final

from bench.decide import AUDIENCE, ISSUER, claims, fetched
from bench.log import BenchLog
from bench.process import answer
from countermand.cli.terminal import run
from countermand.enforce.asgi import Receive, Scope, Send
from countermand.enforce.forward_auth import ForwardAuth
from countermand.enforce.guard import Guard
from countermand.tokens.jwks import JwksCache, KeySet
from countermand.tokens.mandate import SigningKey, mint
from countermand.wiring.protocols import HeadsOnly
from countermand.wiring.serve import bound, serving

ENTRIES: Final = 1_000
BEAT_S: Final = 1.0


async def yes(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer 200."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def _beat(log: BenchLog) -> None:
    while True:
        log.heartbeat()
        await asyncio.sleep(BEAT_S)


async def _main() -> None:
    key, log = SigningKey.generate("ES256"), BenchLog()
    log.apply(log.part(ENTRIES))
    keys = KeySet((key.verifying_key(),))
    guard = Guard(
        JwksCache(partial(fetched, keys), time.monotonic),
        log.replica,
        issuer=ISSUER,
        audience=AUDIENCE,
        clock_s=time.time,
        random=os.urandom,
    )

    beating = asyncio.create_task(_beat(log))
    with bound("127.0.0.1", 0) as (ours, url), bound("127.0.0.1", 0) as (peers, peer_url):
        async with (
            serving(ForwardAuth(guard), ours, HeadsOnly, proxy_headers=False, date_header=False),
            serving(yes, peers, HeadsOnly, proxy_headers=False, date_header=False),
        ):

            async def about() -> list[str]:
                """Return the URL of forward auth, that of the other app, and a token."""
                return [url, peer_url, mint(claims(), key)]

            async def cpu_s() -> float:
                """Return what this process has used."""
                return time.process_time()

            await answer(about, cpu_s)
    beating.cancel()


if __name__ == "__main__":
    run(_main())
