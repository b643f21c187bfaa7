"""A gateway put together, and served for as long as a block lasts."""

import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from countermand.enforce.asgi import ASGIApp
from countermand.enforce.decision import Requirements
from countermand.enforce.gateway.routes import Gateway, Route
from countermand.enforce.gateway.upstream import MAX_MESSAGE_BYTES, Clients, Upstream, open_clients
from countermand.enforce.guard import Guard
from countermand.replica.replica import MAX_STALENESS_S
from countermand.settings import ReplicaSettings, RouteSettings
from countermand.wiring import connect_all
from countermand.wiring.protocols import REFUSALS, Draining, HttpTools
from countermand.wiring.serve import bound, endings_unsaid, serving

if TYPE_CHECKING:  # an extra
    from countermand.enforce.biscuits import Biscuits

KEEP_S: Final = 75
"""How long an idle connection is kept: longer than proxies before us keep theirs, so that they close first."""
GRACE_S: Final = 10
"""What requests and streams may still take when we stop; then they are ended. Web sockets are closed at once."""


class _Sockets(Draining, WebSocketsSansIOProtocol):
    """Web sockets by `websockets`. A handshake that it cannot read is answered, and does not wait for ever.

    Who takes nothing of what is sent has its pings answered no more: they would pile up.
    """

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.handshake_initiated and not self.transport.is_closing():
            self.transport.write(REFUSALS[400])
            self.transport.close()

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()  # RFC 6455 §5.5.3: a later pong answers for it


@asynccontextmanager
async def serve_gateway(
    routes: Sequence[RouteSettings], guards: Mapping[str, Guard], host: str, port: int, max_body: int
) -> AsyncIterator[str]:
    """Run a gateway and serve it; give its URL. `guards` are those of `guards_of`. Raises: ConfigurationError."""
    with bound(host, port) as (listener, url):
        async with AsyncExitStack() as stack:
            clients = await stack.enter_async_context(open_clients())
            gateway = Gateway([_route(route, guards[route.audience], clients) for route in routes], max_body)
            for guard in guards.values():
                await stack.enter_async_context(guard)
            await stack.enter_async_context(serving_gateway(gateway, listener))
            yield url


@asynccontextmanager
async def serving_gateway(gateway: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Serve `gateway` on `listener`, until the block ends."""
    with endings_unsaid():
        async with serving(
            gateway,
            listener,
            HttpTools,
            ws=_Sockets,
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            proxy_headers=False,  # whoever sends them may be anybody
            timeout_keep_alive=KEEP_S,
            timeout_graceful_shutdown=GRACE_S,
        ):
            yield


def guards_of(
    routes: Sequence[RouteSettings],
    replica: ReplicaSettings,
    max_staleness_s: float = MAX_STALENESS_S,
    biscuits: "Biscuits | None" = None,
) -> dict[str, Guard]:
    """Return a guard for each audience, which asks for what all of its routes ask for; of each the `biscuits` pass.

    Raises: ConfigurationError.
    """
    scopes: dict[str, frozenset[str]] = {}
    for route in routes:
        scopes[route.audience] = scopes.get(route.audience, frozenset(route.required_scopes)) & {*route.required_scopes}
    audiences = {audience: Requirements.of(required_scopes=common) for audience, common in scopes.items()}
    guards = connect_all(
        replica.url,
        issuer=replica.issuer,
        biscuits=biscuits,
        audiences=audiences,
        api_key=replica.api_key,
        pin=replica.pin,
        max_staleness_s=max_staleness_s,
    )
    return {guard.audience: guard for guard in guards}


def _route(route: RouteSettings, guard: Guard, clients: Clients) -> Route:
    requirements = Requirements.of(required_scopes=route.required_scopes, max_staleness_s=route.max_staleness_s)
    return Route(route.path, Upstream(route.upstream, clients), guard, requirements)
