"""The gate between a server and an app, for one call: what passes it, and how the app is stopped.

Every message to the client is let through only after a look, and nothing comes from the client to the app while the
call is held. A call that is cut has its app cancelled, once, in the task of its own that the server gave it. What the
server has taken is out of our hands.
Source: docs/protocol.md, "In flight"; ASGI 3.0; RFC 6455 §7.4.1.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from countermand.enforce.decision import Deny
from countermand.enforce.inflight import Call

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

ABNORMAL_CLOSURE: Final = 1006

_BEGIN: Final = frozenset({"http.response.start", "websocket.http.response.start"})
_BODY: Final = frozenset({"http.response.body", "http.response.zerocopysend", "websocket.http.response.body"})
_LAST: Final = frozenset({"http.response.pathsend", "websocket.close"})
_GONE: Final = {"http": "http.disconnect", "websocket": "websocket.disconnect"}

_log = logging.getLogger(__name__)


class Gate:
    """Between `receive` and `send` of a server and the app that serves `call`.

    `can_refuse` is true until an HTTP answer has begun, or the client has gone: then nothing else can be said to it.
    """

    def __init__(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        self.can_refuse = True
        self._call = call
        self._scope = scope
        self._receive = receive
        self._send = send
        self._kept: Message | None = None
        self._trailers = False
        self._is_shut = False

    async def run(self, app: ASGIApp) -> Deny | None:
        """Run `app`, and return why it was cut; None if it was not. What it raises because it is cut is dropped."""
        call = self._call
        try:
            if await call.passes():
                async with asyncio.timeout(None) as deadline:
                    call.on_cut(lambda: deadline.reschedule(asyncio.get_running_loop().time()))
                    await app(self._scope, self.receive, self.send)
        except Exception as error:
            if call.denial is None:
                raise
            _log.debug("dropped what an app raised that was cut (%s)", type(error).__name__)
        finally:
            self._is_shut = True  # what an app leaves behind is looked after by nobody
        return call.denial

    async def receive(self) -> Message:
        """Return the client's next message, once it may reach the app. After a cut the client has gone."""
        gone = _GONE[self._scope["type"]]
        if self._call.denial is None and not self._is_shut:
            message, self._kept = self._kept, None
            if message is None:
                message = await self._receive()
            if message["type"] == gone:
                self.can_refuse = False
                return message
            if await self._passes(message) and not self._is_shut:
                return message
        await asyncio.sleep(0)  # an app that goes on regardless must not keep the event loop to itself
        return {"type": gone, "code": ABNORMAL_CLOSURE}  # HTTP has no code, and reads none

    async def _passes(self, message: Message) -> bool:
        try:
            return await self._call.passes()
        except asyncio.CancelledError:
            self._kept = message  # whoever waited a while may ask again
            raise

    async def send(self, message: Message) -> None:
        """Give a message to the server, once it may pass.

        Raises:
            ConnectionAbortedError: the call was cut, or the app has returned; to it that is a client that has gone.
        """
        if not await self._passes_out():
            await asyncio.sleep(0)  # here an app that is being cut is cancelled; one that goes on must not spin
            raise ConnectionAbortedError("the call has ended")
        kind = message["type"]
        if kind in _BEGIN:
            self.can_refuse = False
            self._trailers = message.get("trailers", False)
        await self._send(message)
        if self._is_last(message):
            self._call.end()

    async def _passes_out(self) -> bool:
        if self._is_shut or not (self._call.may_pass() or await self._call.passes()):
            return False
        return not self._is_shut  # it may have been shut while the call was held

    def _is_last(self, message: Message) -> bool:
        kind = message["type"]
        if kind in _BODY:
            return not message.get("more_body", False) and not self._trailers
        if kind == "http.response.trailers":
            return not message.get("more_trailers", False)
        return kind in _LAST
