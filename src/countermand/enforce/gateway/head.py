"""The head of a request: what the gateway lets stand, and what of it goes on to an upstream.

Whatever the gateway and an upstream could read in two ways is refused: then the route that was looked up is the one
that is served, and a body ends where the gateway saw it end. Headers are compared as the laxest of servers might:
without regard to case, and with every mark for a hyphen.
Source: RFC 9110 §5.5, §5.6.2 and §7.6.1; RFC 9112 §3.2 and §6.3; RFC 3986 §3.3; CVE-2026-30851.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from countermand.enforce.asgi import BISCUIT_KEY, MANDATE_KEY, REQUEST_ID_KEY, Scope
from countermand.enforce.gateway.problem import NO_UPGRADE, NOT_ALLOWED, OLD_VERSION, Problem, invalid
from countermand.enforce.identity import PREFIX, identity
from countermand.errors import BadAnswerError

Header = tuple[bytes, bytes]

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_HOST: Final = re.compile(rb"[\w.\-:\[\]]+")
_PATH: Final = re.compile(rb"/[\x21-\x7e]*")
_QUERY: Final = re.compile(rb"[\x21\x22\x24-\x7e]*")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_TRICK: Final = re.compile(
    rb"""
      [#?;\\]                                   # a fragment; parameters of a segment, which some servers cut off
    | //                                        # an empty segment, which some servers pass over
    | /(?:\.|%2e){1,2}(?:/|%3b|\Z)              # a segment that leads elsewhere
    | %(?![0-9a-f]{2})                          # no escape
    | %(?:2f|5c|[01][0-9a-f]|7f)                # what would be a separator, or a control character
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NO_METHOD: Final = frozenset({"CONNECT", "TRACE"})

_HOP_BY_HOP: Final = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *("proxy-authenticate", "proxy-authentication-info", "proxy-authorization"),
    }
)
_NOT_FORWARDED: Final = _HOP_BY_HOP | {
    "authorization",  # an upstream that had the token could use it elsewhere
    *("host", "content-length", "expect"),  # the gateway's own
    *("forwarded", "x-request-id", "x-real-ip"),
    *("x-original-url", "x-original-uri", "x-rewrite-url"),  # to some services these are the path
    *("x-http-method", "x-http-method-override", "x-method-override"),  # and these the method
}
_NOT_FORWARDED_BEGIN: Final = (PREFIX, "sec-websocket-", "x-forwarded-")
_NOT_ANSWERED: Final = frozenset(name.encode() for name in (*_HOP_BY_HOP, "date"))  # our server puts the date


def problem_with(scope: Scope) -> Problem | None:
    """Return why a request goes no further; None for one that may."""
    if scope.get("method") in _NO_METHOD:
        return NOT_ALLOWED
    if scope["http_version"] != "1.1":
        return OLD_VERSION
    if not _PATH.fullmatch(scope["raw_path"]) or _TRICK.search(scope["raw_path"]):
        return invalid("the path could be read in two ways: give it in its plainest form, from its first slash on")
    if not _is_text(unquote_to_bytes(scope["raw_path"])):
        return invalid("the path is no text in UTF-8")
    if not _QUERY.fullmatch(scope["query_string"]):
        return invalid("the query has characters that belong in escapes")
    return _problem_with_headers(scope)


def _problem_with_headers(scope: Scope) -> Problem | None:
    headers: list[Header] = scope["headers"]
    names = [name for name, _ in headers]
    values = b"".join([value for _, value in headers])  # what one may not hold, all may not
    if not all(names) or not _TOKEN.fullmatch(b"".join(names)) or not _VALUE.fullmatch(values):
        return invalid("a header has characters that belong in none")
    if not values.isascii() and not all(_is_text(value) for _, value in headers):
        return invalid("a header is no text in UTF-8")
    if names.count(b"host") != 1 or not _HOST.fullmatch(values_of(headers, b"host")[0]):
        return invalid("a request names one host")
    if scope["type"] == "http" and b"upgrade" in names:
        return NO_UPGRADE
    return _problem_with_framing(headers)


def _problem_with_framing(headers: list[Header]) -> Problem | None:
    lengths, encodings = values_of(headers, b"content-length"), values_of(headers, b"transfer-encoding")
    if len(lengths) + len(encodings) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        return invalid("a request says once how long its body is")
    if any(encoding.lower() != b"chunked" for encoding in encodings):
        return invalid("a body is transferred as it is, or in chunks")
    return None


def _is_text(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True


def values_of(headers: Iterable[Header], name: bytes) -> list[bytes]:
    """Return the values of every header with this name. ASGI has them all in lower case."""
    return [value for key, value in headers if key == name]


def request_headers(scope: Scope) -> list[tuple[str, str]]:
    """Return what an upstream is sent for a request that was let in and has no problem: its own headers, and ours."""
    headers: list[Header] = scope["headers"]
    named = _named_in_connection(headers)
    sent = [
        (forwarded, value.decode().strip(" \t"))
        for name, value in headers
        if (forwarded := _forwarded(name)) is not None and forwarded not in named
    ]
    if scope["type"] == "http":
        sent += [("content-length", str(int(value))) for value in values_of(headers, b"content-length")]
    sent += identity(scope.get(MANDATE_KEY) or scope[BISCUIT_KEY]).items()
    sent += [
        ("x-request-id", scope[REQUEST_ID_KEY]),
        ("x-forwarded-for", scope["client"][0] if scope["client"] else "unknown"),
        ("x-forwarded-host", values_of(headers, b"host")[0].decode()),
        ("x-forwarded-proto", "https" if scope["scheme"] in {"https", "wss"} else "http"),
    ]
    return sent


def target_of(scope: Scope) -> bytes:
    """Return path and query as they were sent."""
    path: bytes = scope["raw_path"]
    return path + b"?" + scope["query_string"] if scope["query_string"] else path


def answer_headers(headers: Iterable[Header], *, has_body: bool) -> list[Header]:
    """Return what of an answer's headers concerns the client. Raises: BadAnswerError, where they are none."""
    kept = [(name.lower(), value.strip(b" \t")) for name, value in headers]
    if not all(_TOKEN.fullmatch(name) and _VALUE.fullmatch(value) for name, value in kept):
        raise BadAnswerError("a header has characters that belong in none")
    if any(value.lower() != b"chunked" for value in values_of(kept, b"transfer-encoding")):
        raise BadAnswerError("the body is encoded for its transfer in a way that we do not undo")
    named = {name.encode() for name in _named_in_connection(kept)} - {b"content-length"} | _NOT_ANSWERED
    if not has_body:
        named.add(b"content-length")  # a status that has no body, and our server would wait for one
    return [(name, value) for name, value in kept if name not in named]


def _named_in_connection(headers: Iterable[Header]) -> set[str]:
    values = values_of(headers, b"connection")
    return {name.strip(" \t").lower() for value in values for name in value.decode("latin-1").split(",")}


@lru_cache(maxsize=1024)
def _forwarded(name: bytes) -> str | None:
    """Return a header's name, in lower case; None for one that ends here, or that an upstream could take for such."""
    text = name.decode("ascii").lower()
    folded = re.sub(r"[^a-z0-9]", "-", text)
    if folded in _NOT_FORWARDED or folded.startswith(_NOT_FORWARDED_BEGIN):
        return None
    return text
