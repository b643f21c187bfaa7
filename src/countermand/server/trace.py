"""A request's id: in its answer, in every line of the log that it causes, and in the audit of what it changes.

It is the caller's `X-Request-Id` where that is a short word, so that one id goes through several services; else a new
one.
"""

import logging
from collections.abc import Callable
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from countermand.authority.actor import arrive, current_actor
from countermand.enforce.trace import request_id

HEADER: Final = "x-request-id"

_log = logging.getLogger(__name__)


class RequestIds:
    """Gives every request its id. It comes before all else; `random` gives as many random bytes as it is asked for."""

    def __init__(self, app: ASGIApp, random: Callable[[int], bytes]) -> None:
        self._app = app
        self._random = random

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI 3."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        arrive(request_id(scope["headers"], self._random), client[0] if client else "")

        async def traced(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = current_actor().request_id
                _log_answer(scope, message["status"])
            await send(message)

        await self._app(scope, receive, traced)


def _log_answer(scope: Scope, status: int) -> None:
    """Write one line for a request: its path as the route names it, never as it was sent."""
    path = getattr(scope.get("route"), "path", "-")
    actor = current_actor()
    extra = {"status": status, "request_id": actor.request_id, "key_id": actor.key_id, "remote": actor.remote}
    _log.info("%s %s %d", scope["method"], path, status, extra=extra)
