"""The gate between a server and an app, for one call: what passes it, and how the app is stopped.

It stands open until a call is let in. From then on every message to the client is let through only after a look, and
nothing comes from the client to the app while the call is held. A call that is cut has its app cancelled, once, in the
task of its own that the server gave it. What the server has taken is out of our hands.
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
    """Between `receive` and `send` of a server and an app.

    `denial` says why it was shut, None while it was not. `can_refuse` is true until an HTTP answer has begun, or the
    client has gone: then nothing else can be said to it.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.can_refuse = True
        self.denial: Deny | None = None
        self._call: Call | None = None
        self._scope = scope
        self._receive = receive
        self._send = send
        self._kept: Message | None = None
        self._trailers = False
        self._is_shut = False
        self._deadline: asyncio.Timeout | None = None  # there is one while the app runs

    @property
    def is_shut(self) -> bool:
        """Whether the app has ended. Nothing passes any more, and nobody is looked after."""
        return self._is_shut

    @property
    def looks_after(self) -> bool:
        """Whether a call was let in that has not ended."""
        return self._call is not None

    def let_in(self, call: Call) -> None:
        """Look after `call` from now on, in place of one that was let in before with less to meet."""
        self.end()
        if self._is_shut:
            call.end()
            return
        self._call = call
        call.on_cut(self._cut)

    def refuse(self, denial: Deny) -> None:
        """Let nothing pass any more. The app hears of it where it asked, and is not cancelled."""
        self.denial = denial
        self.end()

    def end(self) -> None:
        """Look after nothing any more."""
        call, self._call = self._call, None
        if call is not None:
            call.end()

    async def run(self, app: ASGIApp) -> None:
        """Run `app` to its end. What it raises because it was refused or cut is dropped."""
        try:
            async with asyncio.timeout(None) as self._deadline:
                await app(self._scope, self.receive, self.send)
        except Exception as error:
            if self.denial is None:
                raise
            _log.debug("dropped what an app raised that may not go on (%s)", type(error).__name__)
        finally:
            self._is_shut, self._deadline = True, None  # what an app leaves behind is looked after by nobody

    def _cut(self, denial: Deny) -> None:
        self.denial = denial
        if self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time())

    async def receive(self) -> Message:
        """Return the client's next message, once it may reach the app. After a cut the client has gone."""
        gone = _GONE[self._scope["type"]]
        if self.denial is None and not self._is_shut:
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
            return self._call is None or await self._call.passes()
        except asyncio.CancelledError:
            self._kept = message  # whoever waited a while may ask again
            raise

    async def send(self, message: Message) -> None:
        """Give a message to the server, once it may pass.

        Raises:
            ConnectionAbortedError: the call was refused or cut, or the app has returned; to it that is a client that
                has gone.
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
            self.end()

    async def _passes_out(self) -> bool:
        call = self._call
        if call is not None and self.denial is None and not (call.may_pass() or await call.passes()):
            return False
        return self.denial is None and not self._is_shut  # it may have been shut while the call was held

    def _is_last(self, message: Message) -> bool:
        kind = message["type"]
        if kind in _BODY:
            return not message.get("more_body", False) and not self._trailers
        if kind == "http.response.trailers":
            return not message.get("more_trailers", False)
        return kind in _LAST
