"""How long a request's body may be, and how long it may take.

Starlette's own limit answers in plain text where the length was declared.
"""

import asyncio
from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_S: Final = 10.0
"""For the whole body, from when it is first asked for."""


class BodyLimit:
    """Refuses a body over `max_bytes` with 413, when more than that has come, and one over BODY_S with 408."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI 3."""
        body = _Body(receive, send, self._max_bytes)
        await self._app(scope, body.receive, body.send)


class _Body:
    """The body of one request, as it comes."""

    def __init__(self, receive: Receive, send: Send, max_bytes: int) -> None:
        self._receive = receive
        self._send = send
        self._left = max_bytes
        self._deadline: float | None = None
        self._is_whole = False
        self._is_answered = False

    async def receive(self) -> Message:
        if self._is_whole:
            return await self._receive()  # the end of the connection: it comes when it comes
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + BODY_S
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            return self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        self._is_whole = not message.get("more_body", False)
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return message

    async def send(self, message: Message) -> None:
        self._is_answered = True
        await self._send(message)

    def _refuse(self, status: HTTPStatus) -> Message:
        """Refuse the request; one that is being answered already can only be ended."""
        if self._is_answered:
            return {"type": "http.disconnect"}
        # RFC 9110 §15.5.9: whoever was too slow is not waited for any longer
        raise HTTPException(status, headers={"connection": "close"} if status == HTTPStatus.REQUEST_TIMEOUT else None)
