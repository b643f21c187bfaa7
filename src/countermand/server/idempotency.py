"""Idempotency keys: a POST under /v1 that comes again with the same `Idempotency-Key` is not done again.

It gets the stored answer. A refused request changed nothing, and is tried again. What no cache may store is not stored
here either: it holds a secret.
Source: draft-ietf-httpapi-idempotency-key-header.
"""

import logging
import re
from typing import Final

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from countermand.authority.access import Caller
from countermand.authority.once import Answer, Once, Request
from countermand.errors import CountermandError, InvalidValueError
from countermand.server.problem import http_refusal, refusal

HEADER: Final = "idempotency-key"
_KEY: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,255}")

_log = logging.getLogger(__name__)


class Idempotency:
    """Answers a repeated request from `once`. It sits inside what finds the caller, and what bounds the body."""

    def __init__(self, app: ASGIApp, once: Once) -> None:
        self._app = app
        self._once = once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI 3."""
        caller = scope.get("state", {}).get("caller")
        if scope["type"] != "http" or scope["method"] != "POST" or not isinstance(caller, Caller):
            await self._app(scope, receive, send)
            return
        keys = Headers(scope=scope).getlist(HEADER)
        if not keys:
            await self._app(scope, receive, send)
            return
        try:
            await self._answer(scope, receive, send, caller, _parse(keys))
        except CountermandError as error:
            await refusal(error)(scope, receive, send)
        except HTTPException as error:
            await http_refusal(error)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, caller: Caller, key: str) -> None:
        body = await _read(receive)
        if body is None:
            return
        path = scope["path"].encode(errors="surrogatepass")
        request = self._once.request(caller.key_id, key, path, scope["query_string"], body)
        request.waits = "wait" in QueryParams(scope["query_string"])
        known = await self._once.find(request)
        if known is not None:
            headers = {"idempotent-replayed": "true"}
            await Response(known.body, known.status, headers, known.media_type)(scope, receive, send)
            return
        response = _Response()

        with self._once.noting(request):
            await self._app(scope, _replayed(body, receive), response.send)
        if response.is_success:
            await self._keep(request, response)
        for message in response.messages:
            await send(message)

    async def _keep(self, request: Request, response: "_Response") -> None:
        """Keep the answer. Raises: CountermandError, where that fails and the request has changed nothing."""
        try:
            await self._once.keep(request, response.answer)
        except CountermandError as error:
            if not request.is_noted:
                raise
            # it is done: who asked is told so, and who asks again will not be told what
            _log.warning("an answer is not kept: %s", error, extra={"code": error.code})


class _Response:
    """An answer that is held back until it is kept."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def is_success(self) -> bool:
        return bool(self.messages) and 200 <= self.messages[0]["status"] < 300

    @property
    def answer(self) -> Answer:
        headers = MutableHeaders(raw=self.messages[0]["headers"])
        body = b"".join(message.get("body", b"") for message in self.messages[1:])
        is_secret = "no-store" in headers.get("cache-control", "")
        media_type = headers.get("content-type", "")
        return Answer(self.messages[0]["status"], media_type, None if is_secret else body)


def _parse(keys: list[str]) -> str:
    """Return the key, which may be a string of RFC 8941, as the draft has it, or bare. Raises: InvalidValueError."""
    key = keys[0][1:-1] if len(keys[0]) > 2 and keys[0][0] == keys[0][-1] == '"' else keys[0]
    if len(keys) > 1 or _KEY.fullmatch(key) is None:
        raise InvalidValueError("an Idempotency-Key is given once: 1 to 255 characters of printable ASCII, no spaces")
    return key


async def _read(receive: Receive) -> bytes | None:
    """Return the whole body; None where the client has gone."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return what gives the body that was read, and then what else comes."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
