"""Forward auth: a proxy asks about each request before it lets it through, and is answered 200, 401 or 403.

For `auth_request` of nginx, `forward_auth` of Caddy, ForwardAuth of Traefik, and `ext_authz` of Envoy over HTTP. nginx
makes a 500 of any other answer; so where we cannot know, which is 503 elsewhere, it is 403 with `Retry-After`, and
ERROR_HEADER names the code, by which a proxy can tell it. Method, query and body of the question say nothing.

It sees one request, once: it refuses the next one, and cannot end an answer or a web socket that the proxy has begun to
forward. The gateway and the middleware can.

Every answer has every identity header, empty where nobody is named: a proxy that copies all of them leaves nothing that
a client sent under their names.

The first segment of the path says what the request must meet beyond what the guard requires, form-encoded:
`/scope=read&scope=write&max_staleness=10`; `/` adds nothing, and neither does the segment `-`. It is the proxy's word,
in the URL that its configuration gives. What comes after it is not read, nor is the query: some proxies put the
client's own there. What cannot be read as requirements is refused.
Source: docs/protocol.md, "Answers"; RFC 9728.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import parse_qsl

from countermand.enforce.asgi import has_started
from countermand.enforce.bearer import TWO_HEADERS, extract_bearer, refusal
from countermand.enforce.decision import NOTHING_REQUIRED, Deny, Requirements
from countermand.enforce.gate import Receive, Scope, Send
from countermand.enforce.identity import NOBODY, PREFIX, identity
from countermand.enforce.trace import HEADER, Outcome, id_among, request_id
from countermand.errors import ConfigurationError
from countermand.tokens.cache import MAX_BYTES, MAX_ENTRIES, Holder
from countermand.tokens.mandate import Mandate

if TYPE_CHECKING:  # a guard imports what this does
    from countermand.enforce.guard import Guard

WHOLE_ANSWER: Final = "countermand.whole_answer"
"""An extension of ASGI, where the server has it: a function that answers 200 with header lines, and no body, at once.

It takes the lines as bytes, each with its end, and returns False where that is not possible just now. ASGI's own way of
answering takes longer than the decision.
"""
ERROR_HEADER: Final = f"{PREFIX}error".encode()
MAX_SEGMENTS: Final = 64
"""Of the proxies' configurations; more are understood, and not remembered."""

_Headers: TypeAlias = list[tuple[bytes, bytes]]
_Answer: TypeAlias = tuple[int, _Headers, bytes]
_ALLOWED: Final = ((b"content-length", b"0"), (b"cache-control", b"no-store"))
_NOBODY: Final = [(name.encode(), value.encode()) for name, value in NOBODY.items()]
_REQUIREMENTS: Final[Mapping[str, Callable[[str], Requirements]]] = {
    "scope": lambda value: Requirements.of(required_scopes=[value]),
    "max_staleness": lambda value: Requirements.of(max_staleness_s=float(value)),
}

_log = logging.getLogger(__name__)


class ForwardAuth:
    """An ASGI app that answers for `guard`, which it starts and closes with itself.

    Raises:
        ConfigurationError: a policy for Biscuits asks for the method or the path, of which nothing is known here.
    """

    def __init__(self, guard: "Guard") -> None:
        if guard.biscuits is not None and guard.biscuits.asks_for_the_request:
            raise ConfigurationError(
                "behind forward auth a policy of Biscuits knows neither method nor path, and what it denies would pass"
            )
        self._guard = guard
        self._required: dict[bytes, Requirements | None] = {b"-": NOTHING_REQUIRED}
        self._identities = _Identities()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Raises: ConfigurationError, for a scope that is no question of a proxy's."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise ConfigurationError("forward auth answers over HTTP alone")
        try:
            answer = await self._answer(scope)
        except Exception as fault:  # noqa: BLE001  # whatever it is, the answer is no
            _log.error("a question of a proxy was not answered (%s)", type(fault).__name__)
            answer = _refused("internal", "the question could not be answered")
        if answer is None:
            return
        status, headers, body = answer
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: Scope) -> _Answer | None:
        """Return the answer; None where it was given already, as a whole."""
        required = None
        if (path := scope["raw_path"]) != b"/":
            _, _, rest = path.partition(b"/")  # of `*` there is none
            segment = rest.partition(b"/")[0]
            required = self._required.get(segment) or self._understood(segment)
            if required is None:
                return self._elsewhere(scope)
        credentials, ids = [], []
        for name, value in scope["headers"]:
            if name == b"authorization":
                credentials.append(value)
            elif name == HEADER:
                ids.append(value)
        id_ = id_among(ids, self._guard.random)
        if len(credentials) > 1:
            self._guard.trace.tell(Outcome.DENIED, id_, TWO_HEADERS)
            return self._denied(TWO_HEADERS, id_)
        token = extract_bearer(credentials[0].decode("latin-1") if credentials else None)
        decision = await self._guard.decide(token, required, request_id=id_)
        if isinstance(decision, Deny):
            return self._denied(decision, id_)
        headers, lines = self._identities.of(decision.holder)
        id_header = (HEADER, id_.encode())
        whole = scope.get("extensions", {}).get(WHOLE_ANSWER)
        if whole is not None and whole(b"%b%b: %b\r\n" % (lines, *id_header)):
            return None
        return 200, [*headers, id_header], b""

    def _understood(self, segment: bytes) -> Requirements | None:
        """Return what a segment requires; None for one that cannot be read, which is logged where there is room."""
        if segment in self._required:
            return None
        required: Requirements | None = None
        why = ""
        try:
            required = parse_requirements(segment)
            self._guard.combine(required)  # refuses what it could not answer for
        except ConfigurationError as error:
            required, why = None, str(error)
        if len(self._required) < MAX_SEGMENTS:
            self._required[segment] = required
            if required is None:
                _log.error("a proxy asks by a URL that says nothing that can be required: %s", why)
        return required

    def _elsewhere(self, scope: Scope) -> _Answer:
        resource = self._guard.resource
        if resource is not None and resource.is_asked_for(scope["method"], scope["path"]):
            status, headers, body = 200, [*_encoded(resource.headers), *_NOBODY], resource.metadata
        else:
            status, headers, body = _refused("configuration", "the proxy asks for what is not known here")
        id_ = request_id(scope["headers"], self._guard.random)
        return status, [*headers, (HEADER, id_.encode())], body

    def _denied(self, denial: Deny, id_: str) -> _Answer:
        resource = self._guard.resource
        answer = refusal(denial, resource.metadata_url if resource is not None else None)
        headers = [*_encoded(answer.headers), (ERROR_HEADER, denial.code.encode()), *_NOBODY, (HEADER, id_.encode())]
        return 401 if answer.status == 401 else 403, headers, answer.body

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        if not await has_started(self._guard, send):
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._guard.aclose()
        await send({"type": "lifespan.shutdown.complete"})


def parse_requirements(segment: bytes) -> Requirements:
    """Return what the first segment of a path requires. Raises: ConfigurationError."""
    required = NOTHING_REQUIRED
    try:
        for name, value in parse_qsl(
            segment.decode("ascii") or "=", keep_blank_values=True, strict_parsing=True, errors="strict"
        ):
            required &= _REQUIREMENTS[name](value)
    except (KeyError, ValueError):
        raise ConfigurationError("it is scope=… and max_staleness=…, with & between") from None
    return required


def _encoded(headers: Iterable[tuple[str, str]]) -> _Headers:
    return [(name.encode(), value.encode()) for name, value in headers]


def _refused(code: str, description: str) -> _Answer:
    body = json.dumps({"error": code, "error_description": description}, separators=(",", ":")).encode()
    about = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    return 403, [*about, (b"cache-control", b"no-store"), (ERROR_HEADER, code.encode()), *_NOBODY], body


def _encoded_identity(holder: Holder) -> tuple[_Headers, bytes]:
    headers = [*_ALLOWED, *_encoded(identity(holder).items())]
    return headers, b"".join(b"%b: %b\r\n" % header for header in headers)


class _Identities:
    """The answers about mandates that were let in last, encoded. At its bounds it begins anew.

    Whoever holds a Biscuit makes as many as it likes, and each keeps all that it holds: none of those are kept.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Holder, _Headers, bytes]] = {}
        self._bytes = 0

    def of(self, holder: Holder) -> tuple[_Headers, bytes]:
        """Return the headers of an answer that lets its holder pass, not to be changed; and their lines."""
        if not isinstance(holder, Mandate):
            return _encoded_identity(holder)
        known = self._known.get(id(holder))  # held here, so that no other gets its id
        if known is None:
            known = self._add(holder)
        return known[1], known[2]

    def _add(self, holder: Holder) -> tuple[Holder, _Headers, bytes]:
        headers, lines = _encoded_identity(holder)
        if len(self._known) >= MAX_ENTRIES or self._bytes >= MAX_BYTES:
            self._known.clear()
            self._bytes = 0
        self._known[id(holder)] = known = holder, headers, lines
        self._bytes += 2 * len(lines)
        return known
