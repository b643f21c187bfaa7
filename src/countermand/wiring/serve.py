"""Applications on real sockets, for as long as a block lasts."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final

import uvicorn

from countermand.enforce.asgi import ASGIApp, Receive, Scope, Send
from countermand.errors import ConfigurationError
from countermand.wiring.protocols import H11, HeadsOnly, HttpTools
from countermand.wiring.tasks import beside

GRACE_S: Final = 2
"""What a request may still take when we stop; then it is ended."""
BACKLOG: Final = 512


@contextmanager
def bound(host: str, port: int) -> Iterator[tuple[socket.socket, str]]:
    """Give a listening socket and its URL. Raises: ConfigurationError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigurationError(f"{host}:{port} cannot be listened on: {error}") from error
    with listener:
        # Accepted sockets inherit it. Without it a body waits 40 ms for the acknowledgement of its headers (RFC 1122
        # §4.2.3.2); asyncio would set it itself, and misses sockets that do not name their protocol.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ip, bound_port = listener.getsockname()[:2]
        name = f"[{ip}]" if ":" in ip else ip
        yield listener, f"http://{name}:{bound_port}"


class _Server(uvicorn.Server):
    """A server that leaves signals to whoever runs it, and says when it has begun."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.tried_to_start = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.tried_to_start.set()


@asynccontextmanager
async def serving(
    app: ASGIApp,
    listener: socket.socket,
    protocol: type[H11] | type[HeadsOnly] | type[HttpTools] = H11,
    **options: Any,
) -> AsyncIterator[None]:
    """Serve `app` on `listener`, once it has started, until the block ends. `options` are uvicorn's, before ours."""

    async def until_stopped(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            if not server.should_exit:
                raise  # at our own end it is what GRACE_S says, and no failure of the app

    ours = {
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": GRACE_S,
    }
    server = _Server(uvicorn.Config(until_stopped, http=protocol, **(ours | options)))
    async with beside(server.serve([listener]), stop=partial(setattr, server, "should_exit", True)):
        await server.tried_to_start.wait()
        if not server.started:
            raise ConfigurationError("the application did not start; its log says why")
        yield


@contextmanager
def endings_unsaid() -> Iterator[None]:
    """Keep out of the log what the server says of answers without an end, and of handshakes: somebody has said why."""

    def is_news(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("ASGI callable returned without completing")

    server = logging.getLogger("uvicorn.error")
    server.addFilter(is_news)
    try:
        yield
    finally:
        server.removeFilter(is_news)
