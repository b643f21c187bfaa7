"""What a gateway answers itself: in the words of RFC 9110, and none of an upstream's."""

import json
from dataclasses import dataclass
from typing import Final

from countermand.enforce.gate import Scope, Send


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer, with its `headers`. Where it `closes`, so does the connection: what else was sent on it is unread."""

    status: int
    error: str
    description: str
    closes: bool = True
    headers: tuple[tuple[bytes, bytes], ...] = ()

    async def answer(self, scope: Scope, send: Send) -> None:
        """Answer with this, in the place of an answer or of a web socket's handshake."""
        words = {"error": self.error, "error_description": self.description}
        body = json.dumps(words, separators=(",", ":")).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            *self.headers,
        ]
        if self.closes:
            headers.append((b"connection", b"close"))
        kind = "http" if scope["type"] == "http" else "websocket.http"
        await send({"type": f"{kind}.response.start", "status": self.status, "headers": headers})
        await send({"type": f"{kind}.response.body", "body": b"" if scope.get("method") == "HEAD" else body})


def invalid(description: str) -> Problem:
    """Return the answer to a request that is none, or that two servers might read in two ways."""
    return Problem(400, "invalid_request", description)


NOT_ALLOWED: Final = Problem(
    405,
    "method_not_allowed",
    "the gateway opens no tunnel, and repeats no request",
    headers=((b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),),
)
BODY_TOO_SLOW: Final = Problem(408, "body_too_slow", "the body did not come in time")
BODY_TOO_LARGE: Final = Problem(413, "body_too_large", "the body is too long")
NO_ROUTE: Final = Problem(404, "no_route", "nothing lies under this path", closes=False)
NO_UPGRADE: Final = Problem(501, "upgrade_not_supported", "the gateway knows no other upgrade than to a web socket")
OLD_VERSION: Final = Problem(505, "version_not_supported", "the gateway speaks HTTP/1.1")
BAD_GATEWAY: Final = Problem(
    502, "bad_gateway", "the service behind the gateway did not answer as it should", closes=False
)
TIMED_OUT: Final = Problem(
    504, "gateway_timeout", "the service behind the gateway did not answer in time", closes=False
)
