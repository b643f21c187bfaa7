"""A service that a guard protects, in a process of its own; at /stream it sends one chunk and does not end.

python -m bench.service <the authority's URL> <issuer> <audience> <API key> <pin>
"""

import logging
import sys

from bench.process import answer
from countermand.cli.terminal import run
from countermand.enforce.asgi import Receive, Scope, Send
from countermand.wiring import connect
from countermand.wiring.serve import bound, serving


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer; at /stream with one chunk, and no end."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    endless = scope["path"] == "/stream"
    await send({"type": "http.response.body", "body": b"hello\n", "more_body": endless})
    while endless and (await receive())["type"] != "http.disconnect":
        pass


async def _main(authority: str, issuer: str, audience: str, api_key: str, pin: str) -> None:
    logging.disable(logging.ERROR)  # to uvicorn a stream that is cut is an error
    guard = connect(authority, issuer=issuer, audience=audience, api_key=api_key, pin=pin)
    with bound("127.0.0.1", 0) as (listener, url):
        async with serving(guard.asgi(app), listener):

            async def address() -> str:
                """Return where it listens."""
                return url

            await answer(address)


if __name__ == "__main__":
    run(_main(*sys.argv[1:]))
