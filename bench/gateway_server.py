"""A gateway, or the service behind one, in a process of its own.

python -m bench.gateway_server [<upstream> <the authority's URL> <issuer> <audience> <API key> <pin>]
"""

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from bench.process import answer
from countermand.cli.terminal import run
from countermand.enforce.asgi import Receive, Scope, Send
from countermand.settings import ReplicaSettings, RouteSettings
from countermand.wiring.gateway import guards_of, serve_gateway
from countermand.wiring.protocols import HttpTools
from countermand.wiring.serve import bound, serving

MAX_BODY: Final = 1_000_000
_HEADERS: Final = [(b"content-type", b"application/json"), (b"content-length", b"13")]


async def service(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer with a few bytes."""
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": b'{"hello":"x"}'})


@asynccontextmanager
async def _served(upstream: str = "", *rest: str) -> AsyncIterator[str]:
    if upstream:
        url, issuer, audience, api_key, pin = rest
        routes, replica = (
            [RouteSettings(upstream=upstream, audience=audience)],
            ReplicaSettings(url, issuer, api_key, pin),
        )
        async with serve_gateway(routes, guards_of(routes, replica), "127.0.0.1", 0, MAX_BODY) as listening:
            yield listening
    else:
        with bound("127.0.0.1", 0) as (listener, listening):
            async with serving(service, listener, HttpTools):
                yield listening


async def _main(*arguments: str) -> None:
    async with _served(*arguments) as listening:

        async def address() -> str:
            """Return where it listens."""
            return listening

        async def cpu_s() -> float:
            """Return how long this process has computed, for itself and in the kernel."""
            return time.process_time()

        await answer(address, cpu_s)


if __name__ == "__main__":
    run(_main(*sys.argv[1:]))
