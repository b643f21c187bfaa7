"""Bearer tokens over HTTP: the token of a header, and a denial as an answer.

Source: RFC 6750 §2.1 and §3; RFC 9728 §5.1 (resource_metadata); docs/protocol.md, "Answers".
"""

import json
import re
from dataclasses import dataclass
from typing import Final

from countermand.enforce.decision import Code, Deny

RETRY_AFTER_S: Final = 1

TWO_HEADERS: Final = Deny.of(
    Code.INVALID_TOKEN, description="the request carries more than one Authorization header", reason="two_headers"
)

_UNQUOTABLE = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")


def extract_bearer(header: str | None) -> str | None:
    """Return what follows the scheme `Bearer` in an Authorization header; None for no header, scheme or token."""
    scheme, _, token = (header or "").strip(" \t").partition(" ")
    return token.strip(" ") or None if scheme.lower() == "bearer" else None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A denial as HTTP has it."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def refusal(deny: Deny, resource_metadata: str | None = None) -> Refusal:
    """Return the answer to a request that was denied."""
    words = {"error": deny.code, "error_description": deny.description, "error_hint": deny.hint}
    body = json.dumps(words, separators=(",", ":")).encode()
    if deny.may_pass_later:
        advice = ("retry-after", str(RETRY_AFTER_S))
    else:
        advice = ("www-authenticate", challenge(deny, resource_metadata))
    headers = (
        ("content-type", "application/json"),
        ("content-length", str(len(body))),
        ("cache-control", "no-store"),
        advice,
    )
    return Refusal(deny.status, headers, body)


def challenge(deny: Deny, resource_metadata: str | None = None) -> str:
    """Return the value of WWW-Authenticate; without an error where no token came, as RFC 6750 §3.1 wants it."""
    attributes: dict[str, str | None] = {
        "error": deny.code,
        "error_description": deny.description,
        "scope": " ".join(deny.scopes),
        "resource_metadata": resource_metadata,
    }
    if deny.code is Code.MISSING_TOKEN:
        del attributes["error"], attributes["error_description"]
    given = [f'{name}="{_UNQUOTABLE.sub("?", value)}"' for name, value in attributes.items() if value]
    return f"Bearer {', '.join(given)}".rstrip()
