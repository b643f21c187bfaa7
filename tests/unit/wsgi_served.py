"""WSGI apps as a server would call them, with both sides held to PEP 3333 by the validator of the standard library."""

import io
import sys
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from countermand.enforce.decision import Requirements
from countermand.enforce.guard import Guard
from countermand.enforce.wsgi import GuardWsgiMiddleware
from tests.unit.guarded import TOKEN_TEXT

PLAIN = [("content-type", "text/plain")]


class Greeting:
    """An app that notes what reaches it, and greets."""

    def __init__(self) -> None:
        self.environs: list[WSGIEnvironment] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        self.environs.append(environ)
        start_response("200 OK", PLAIN)
        return [b"hello"]


class Chunks:
    """An app that sends these chunks; `before` is called with the number of each before it is made."""

    def __init__(self, *chunks: bytes, before: Callable[[int], object] = lambda _number: None) -> None:
        self.chunks = chunks
        self.before = before
        self.made = 0
        self.closed = False

    def __call__(self, _environ: WSGIEnvironment, start_response: StartResponse) -> "Chunks":
        start_response("200 OK", PLAIN)
        return self

    def __iter__(self) -> Iterator[bytes]:
        for number, chunk in enumerate(self.chunks):
            self.before(number)
            self.made += 1
            yield chunk

    def close(self) -> None:
        self.closed = True


class Served:
    """One request at a server, and what its client gets. It ends with the answer, or `broke` in the middle of it."""

    def __init__(self, app: WSGIApplication, environ: WSGIEnvironment) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.broke: Exception | None = None
        answer = validator(app)(environ, self._start_response)
        try:
            for chunk in answer:
                self.body += chunk
        except ConnectionError as error:
            self.broke = error
        finally:
            answer.close()  # type: ignore[attr-defined]  # the validator's has one

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[..., Any]:
        if exc_info and self.body:
            raise exc_info[1]
        assert exc_info or not self.status, "it answers twice"
        self.status = int(status.partition(" ")[0])
        self.headers = {name.lower(): value for name, value in headers}
        assert len(self.headers) == len(headers), "a header comes twice"
        return self._write

    def _write(self, data: bytes) -> None:
        self.body += data


def request(token: str | None = TOKEN_TEXT, body: bytes = b"", **changes: str) -> WSGIEnvironment:
    """What a server knows of a request."""
    environ: dict[str, Any] = {"QUERY_STRING": "", "wsgi.input": io.BytesIO(body), "wsgi.errors": sys.stderr}
    if body:
        environ |= {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(body))}
    if token is not None:
        environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    setup_testing_defaults(environ)
    return environ | changes


def served(
    guarding: Guard,
    app: WSGIApplication,
    environ: WSGIEnvironment | None = None,
    requirements: Requirements | None = None,
    *,
    on_demand: bool = False,
) -> Served:
    """One request to `app` behind a guard, which is closed then."""
    try:
        middleware = GuardWsgiMiddleware(validator(app), guarding, requirements, on_demand=on_demand)
        return Served(middleware, request() if environ is None else environ)
    finally:
        guarding.close()
