"""The guard before an ASGI app: nothing reaches the app but what the guard allows, or what the app asks it about.

HTTP is answered with the status of the denial; a web socket is closed before it is accepted. Every answer has the id of
its request. The token comes in one Authorization header and from nowhere else. A scope of another type is refused: who
cannot be asked is not let in. What was let in is cut when its token ends. An HTTP answer that has begun then ends
without its last chunk, and the server closes the connection. So nothing should stand before the guard that would finish
the answer, as some do. Anybody may read the resource's metadata.
Source: docs/protocol.md, "Answers" and "In flight"; ASGI 3.0; RFC 6455 §7.4.1 and its registry (1008, 1013); RFC 9728.
"""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from countermand.enforce.asking import BISCUIT_KEY, MANDATE_KEY, Asking, begun
from countermand.enforce.bearer import refusal
from countermand.enforce.decision import Deny, Requirements
from countermand.enforce.gate import ASGIApp, Gate, Message, Receive, Scope, Send
from countermand.enforce.trace import HEADER, REQUEST_ID_KEY, is_request_id, request_id
from countermand.errors import ConfigurationError

if TYPE_CHECKING:  # a guard makes this middleware
    from countermand.enforce.guard import Guard

__all__ = [
    "BISCUIT_KEY",
    "MANDATE_KEY",
    "REQUEST_ID_KEY",
    "ASGIApp",
    "GuardMiddleware",
    "Message",
    "Receive",
    "Scope",
    "Send",
]

POLICY_VIOLATION: Final = 1008
TRY_AGAIN_LATER: Final = 1013

_BEGIN: Final = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_log = logging.getLogger(__name__)


class GuardMiddleware:
    """`app` behind `guard`, whose requirements and these must be met.

    It starts the guard before the app's own startup and closes it after the app's shutdown. `on_demand` lets every
    request in, and leaves it to the app to ask (`asking`) before it does anything that needs a token.

    Raises:
        ConfigurationError: the guard cannot answer for these requirements.
    """

    def __init__(
        self, app: ASGIApp, guard: "Guard", requirements: Requirements | None = None, *, on_demand: bool = False
    ) -> None:
        self.app = app
        self._guard = guard
        self._requirements = guard.combine(requirements)
        self._on_demand = on_demand

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer it. Raises: ConfigurationError, for a scope of another type."""
        match scope["type"]:
            case "http" | "websocket":
                await self._request(scope, receive, send)
            case "lifespan":
                await self._lifespan(scope, receive, send)
            case _:
                raise ConfigurationError("a guard knows the scopes http, websocket and lifespan, and lets no other in")

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        id_ = scope[REQUEST_ID_KEY] = self._id(scope)
        send = _with_id(id_, send)
        resource = self._guard.resource
        if resource is not None and resource.is_asked_for(scope.get("method"), scope.get("path")):
            await _answer(scope, send, 200, resource.headers, resource.metadata)
            return
        gate = Gate(scope, receive, send)
        asking = Asking(self._guard, self._requirements, scope, gate)
        try:
            if self._on_demand or await asking.admit() is None:
                with begun(asking):
                    await gate.run(self.app)
        finally:
            gate.end()
        if gate.denial is not None and gate.can_refuse:
            await self._refuse(gate.denial, scope, send)

    def _id(self, scope: Scope) -> str:
        """Return the request's id: the one that a guard before this one gave it, if there is one."""
        known = scope.get(REQUEST_ID_KEY)
        if isinstance(known, str) and is_request_id(known):
            return known
        return request_id(scope["headers"], self._guard.random)

    async def _refuse(self, deny: Deny, scope: Scope, send: Send) -> None:
        if scope["type"] == "websocket":
            code = TRY_AGAIN_LATER if deny.may_pass_later else POLICY_VIOLATION
            await send({"type": "websocket.close", "code": code, "reason": deny.code.value})
            return
        resource = self._guard.resource
        answer = refusal(deny, resource.metadata_url if resource else None)
        await _answer(scope, send, answer.status, answer.headers, answer.body)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        startup = await receive()
        if not await has_started(self._guard, send):
            return
        try:
            await self._app_lifespan(startup, scope, receive, send)
        finally:
            await self._guard.aclose()

    async def _app_lifespan(self, startup: Message, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app's lifespan; for an app that has none, ours alone."""
        taken = False

        async def receive_for_app() -> Message:
            nonlocal taken
            if taken:
                return await receive()
            taken = True
            return startup

        async def send_for_app(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown"):
                await self._guard.aclose()  # once the server has this message, it waits for nothing more
            await send(message)

        try:
            await self.app(scope, receive_for_app, send_for_app)
        except Exception:
            if taken:
                raise
            _log.info("the app does not support lifespan")  # that is how an app says so
        if not taken:
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send_for_app({"type": "lifespan.shutdown.complete"})


async def has_started(guard: "Guard", send: Send) -> bool:
    """Start `guard`, and return whether it runs; if not, the server is told that the startup has failed."""
    try:
        await guard.start()
    except Exception as error:  # noqa: BLE001  # whatever it is, the guard could let nothing pass
        reason = f"what follows the revocations does not start ({type(error).__name__})"
        await send({"type": "lifespan.startup.failed", "message": reason})
        return False
    return True


async def _answer(scope: Scope, send: Send, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _with_id(id_: str, send: Send) -> Send:
    """Return a `send` by which the answer has this id, and no other that the app may have given it."""

    async def sending(message: Message) -> None:
        if message["type"] in _BEGIN:
            others = [(name, value) for name, value in message.get("headers", ()) if name.lower() != HEADER]
            message = {**message, "headers": [*others, (HEADER, id_.encode())]}
        await send(message)

    return sending
