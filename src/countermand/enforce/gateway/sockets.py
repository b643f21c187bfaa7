"""One web socket, forwarded: messages, back-pressure and closes, both ways.

A handshake that the upstream does not accept is none for the client either. When the app is cancelled, the upstream's
connection is closed at once. Extensions belong to each of the two connections, and there are none.
Source: RFC 6455 §4, §5.5.1 and §7.4; the registry of its close codes (1014).
"""

import asyncio
import logging
from typing import Final

from aiohttp import WSMsgType

from countermand.enforce.asgi import REQUEST_ID_KEY, Receive, Scope, Send
from countermand.enforce.gateway.head import request_headers, target_of
from countermand.enforce.gateway.problem import BAD_GATEWAY, TIMED_OUT, Problem
from countermand.enforce.gateway.upstream import Socket, Upstream
from countermand.errors import TransportError

HANDSHAKE_S: Final = 10.0
TAKE_S: Final = 60.0
"""For the upstream to take a message."""

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
NO_CODE: Final = 1005
ABNORMAL: Final = 1006
BROKEN_UPSTREAM: Final = 1014
_ERRORS: Final = range(400, 600)
_SENDABLE: Final = frozenset({*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)})
_INSTEAD: Final = {0: NORMAL, NO_CODE: NORMAL, ABNORMAL: GOING_AWAY}  # these are never sent; 0 is aiohttp's for none

_log = logging.getLogger(__name__)


async def forward_socket(upstream: Upstream, scope: Scope, receive: Receive, send: Send) -> None:
    """Forward the web socket, until either side closes it."""
    await receive()  # that it would begin
    socket = await _connected(upstream, scope)
    if isinstance(socket, Problem):
        await socket.answer(scope, send)
        return
    try:
        await send({"type": "websocket.accept", "subprotocol": socket.protocol})
        await _Bridge(socket, receive, send).run()
    finally:
        socket.drop()


async def _connected(upstream: Upstream, scope: Scope) -> Socket | Problem:
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            answered = await upstream.connect(target_of(scope), request_headers(scope), scope["subprotocols"])
    except TimeoutError:
        return TIMED_OUT
    except TransportError as error:
        _log.warning("%s", error, extra={"request_id": scope[REQUEST_ID_KEY]})
        return BAD_GATEWAY
    return _refused(answered) if isinstance(answered, int) else answered


def _refused(status: int) -> Problem:
    if status not in _ERRORS:  # such as a redirect, which is for whoever asked
        return BAD_GATEWAY
    return Problem(status, "handshake_refused", "the service behind the gateway opens no web socket here")


class _Bridge:
    def __init__(self, socket: Socket, receive: Receive, send: Send) -> None:
        self._socket = socket
        self._receive = receive
        self._send = send
        self._client_is_done = False

    async def run(self) -> None:
        out = asyncio.create_task(self._out())
        try:
            await self._in()
            if self._client_is_done:
                await out  # its close is on the way
        finally:
            out.cancel()

    async def _out(self) -> None:
        """Give the upstream what the client says."""
        try:
            while (message := await self._receive())["type"] == "websocket.receive":
                async with asyncio.timeout(TAKE_S):
                    if (text := message.get("text")) is not None:
                        await self._socket.send_str(text)
                    else:
                        await self._socket.send_bytes(message["bytes"])
            self._client_is_done = True
            reason = (message.get("reason") or "").encode()
            await self._socket.close(code=_sendable(message.get("code", NO_CODE)), message=reason)
        except ConnectionError:  # the upstream has gone: whoever reads from it knows
            return
        except TimeoutError:
            self._socket.drop()

    async def _in(self) -> None:
        """Give the client what the upstream says."""
        while True:
            message = await self._socket.receive()
            if message.type is WSMsgType.TEXT:
                await self._send({"type": "websocket.send", "text": message.data})
            elif message.type is WSMsgType.BINARY:
                await self._send({"type": "websocket.send", "bytes": message.data})
            else:
                break
        if message.type is WSMsgType.CLOSE:
            await self._close(_sendable(message.data), message.extra or "")
        elif not self._client_is_done:
            await self._close(BROKEN_UPSTREAM, "")

    async def _close(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason})


def _sendable(code: int) -> int:
    return code if code in _SENDABLE else _INSTEAD.get(code, BROKEN_UPSTREAM)
