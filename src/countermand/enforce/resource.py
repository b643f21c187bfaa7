"""What a protected resource says of itself: who mints the tokens that it accepts. Source: RFC 9728 §2, §3 and §5.1."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Self

from countermand.enforce.gate import Scope

WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"

_HEADERS: Final = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"public, max-age=300"),
    (b"access-control-allow-origin", b"*"),  # clients in browsers look for it too
)

_URL = re.compile(r"(?=[\x21\x23-\x5b\x5d-\x7e]+\Z)(?P<origin>https?://[^/?#]+)(?P<path>/[^?#]*)?")
"""Of what may stand in a quoted string."""


@dataclass(frozen=True, slots=True)
class ProtectedResource:
    """The document about one resource, and where it is found: `path` on its server, `metadata_url` for its clients."""

    path: str
    metadata_url: str
    metadata: bytes

    @classmethod
    def of(cls, audience: str, issuer: str, scopes: Collection[str]) -> Self | None:
        """Return what is said of `audience`; None if it is no http or https URL, or one with a query or a fragment.

        Clients look for the document by the URL under which they reach the resource, and then want tokens for it.
        """
        url = _URL.fullmatch(audience)
        if url is None:
            return None
        path = f"{WELL_KNOWN}{(url['path'] or '').rstrip('/')}"
        members = {
            "resource": audience,
            "authorization_servers": [issuer],
            "bearer_methods_supported": ["header"],
            "scopes_supported": sorted(scopes),
        }
        said = json.dumps({name: value for name, value in members.items() if value}, separators=(",", ":"))
        return cls(path, f"{url['origin']}{path}", said.encode())

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of the answer that brings the document."""
        return [*_HEADERS, (b"content-length", str(len(self.metadata)).encode())]

    def is_asked(self, scope: Scope) -> bool:
        """Whether a request is one for the document, which anybody may read."""
        return scope.get("path") == self.path and scope.get("method") in {"GET", "HEAD"}
