"""A request's id: in its answer, in every line of the log that it causes, and in the audit of what it changes.

It is the caller's `X-Request-Id` where that is a short word, so that one id goes through several services; else a new
one.
"""

import logging
import re
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from countermand.authority.actor import arrive, current_actor

HEADER: Final = "x-request-id"
_SANE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

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
        given = Headers(scope=scope).getlist(HEADER)
        is_sane = len(given) == 1 and _SANE.fullmatch(given[0]) is not None
        client = scope.get("client")
        arrive(given[0] if is_sane else self._random(16).hex(), client[0] if client else "")

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
