"""What a protected resource says of itself: who mints the tokens that it accepts. Source: RFC 9728 §2, §3 and §5.1."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import unquote

WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"

_HEADERS: Final = (
    ("content-type", "application/json"),
    ("cache-control", "public, max-age=300"),
    ("access-control-allow-origin", "*"),  # clients in browsers look for it too
)

_URL = re.compile(r"(?=[\x21\x23-\x5b\x5d-\x7e]+\Z)(?P<origin>https?://[^/?#]+)(?P<path>/[^?#]*)?")
"""Of what may stand in a quoted string."""


@dataclass(frozen=True, slots=True)
class ProtectedResource:
    """The document about one resource, and where it is found: `metadata_url`; `path` on its server, decoded."""

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
        path = WELL_KNOWN + ("" if url["path"] in {None, "/"} else url["path"])
        members = {
            "resource": audience,
            "authorization_servers": [issuer] if issuer else [],
            "bearer_methods_supported": ["header"],
            "scopes_supported": sorted(scopes),
        }
        said = json.dumps({name: value for name, value in members.items() if value}, separators=(",", ":"))
        return cls(unquote(path), f"{url['origin']}{path}", said.encode())

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The headers of the answer that brings the document."""
        return (*_HEADERS, ("content-length", str(len(self.metadata))))

    def is_asked_for(self, method: object, path: object) -> bool:
        """Whether that is a request for the document. Anybody may have it."""
        return path == self.path and method in {"GET", "HEAD"}
