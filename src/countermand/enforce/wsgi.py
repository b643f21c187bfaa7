"""The guard before a WSGI app, as `asgi` has it before another: it stops what is in flight between two chunks.

The head of an answer is kept back until its first chunk may pass, so that a call which is cut before that is answered.
An answer that has begun ends where it is cut: the server sees a connection that broke, and closes it without a last
chunk. A thread cannot be stopped while it makes a chunk, and nothing is looked at before it has made one.
A server joins headers of one name by commas: two Authorization headers are no token.
Source: PEP 3333; docs/protocol.md, "Answers" and "In flight"; RFC 9728.
"""

import errno
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, ParamSpec, TypeAlias, TypeVar, Unpack
from wsgiref.types import InputStream, StartResponse, WSGIApplication, WSGIEnvironment

from countermand.enforce.asking import facts_of, hand_over
from countermand.enforce.bearer import extract_bearer, refusal
from countermand.enforce.decision import Deny, RequirementOptions, Requirements
from countermand.enforce.thread import ThreadCall
from countermand.enforce.trace import HEADER, ID_BYTES, REQUEST_ID_KEY, is_request_id
from countermand.errors import ConfigurationError, DeniedError

if TYPE_CHECKING:  # a guard makes this middleware
    from types import TracebackType

    from countermand.enforce.guard import Guard

_P = ParamSpec("_P")
_T = TypeVar("_T")
_ExcInfo: TypeAlias = "tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None] | None"
_Headers: TypeAlias = "list[tuple[str, str]]"

_ID_HEADER: Final = HEADER.decode()

_log = logging.getLogger(__name__)


class GuardWsgiMiddleware:
    """`app` behind `guard`, whose requirements and these must be met.

    The app finds the Mandate or the Biscuit of a request that was let in, and the request's id, in its environ
    (MANDATE_KEY, BISCUIT_KEY, REQUEST_ID_KEY). `on_demand` lets every request in, and leaves it to the app to ask
    (`requires`).

    Raises:
        ConfigurationError: the guard cannot answer for these requirements.
    """

    def __init__(
        self, app: WSGIApplication, guard: "Guard", requirements: Requirements | None = None, *, on_demand: bool = False
    ) -> None:
        self.app = app
        self._guard = guard
        self._requirements = guard.combine(requirements)
        self._on_demand = on_demand

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Let the request through, or answer it."""
        environ[REQUEST_ID_KEY] = self._id(environ)
        gate = _Gate(self._guard, self._requirements, environ, start_response)
        resource = self._guard.resource
        if resource is not None and resource.is_asked_for(environ.get("REQUEST_METHOD"), _path(environ)):
            return [gate.answer(200, resource.headers, resource.metadata)]
        environ["wsgi.input"] = _Input(gate, environ["wsgi.input"])
        if not self._on_demand and gate.admit() is not None:
            return _Answer(gate, ())
        try:
            with _begun(gate):
                return _Answer(gate, self.app(environ, gate.start_response))
        except BaseException as error:  # noqa: BLE001  # it is raised again
            gate.end()
            gate.drop(error)
            return _Answer(gate, ())

    def _id(self, environ: WSGIEnvironment) -> str:
        """Return the request's id: of a guard before this one, or of the caller, if either gave one; else a new one."""
        for given in (environ.get(REQUEST_ID_KEY), environ.get("HTTP_X_REQUEST_ID")):
            if isinstance(given, str) and is_request_id(given):
                return given
        return self._guard.random(ID_BYTES).hex()


def _path(environ: WSGIEnvironment) -> str:
    """Return the path as WSGI has it: each character is a byte."""
    return str(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""))


def requires(
    guard: "Guard", **requirements: Unpack[RequirementOptions]
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Return a decorator for what an app calls in a request, such as a view: the token must meet these as well.

    If it does not, what is decorated is not called, and DeniedError is raised. Wherever that is caught, the client gets
    the guard's answer.

    Raises:
        ConfigurationError: the guard cannot answer for these. Of what is decorated: no request came by way of `guard`.
    """
    required = guard.combine(Requirements.of(**requirements))

    def decorate(function: Callable[_P, _T]) -> Callable[_P, _T]:
        @wraps(function)
        def asking(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            gate = _current.get()
            if gate is None or gate.guard is not guard:
                raise ConfigurationError("put the app behind the guard (guard.wsgi) that is asked about its requests")
            if (denial := gate.admit(required)) is not None:
                raise DeniedError(denial)
            return function(*args, **kwargs)

        return asking

    return decorate


class _Gate:
    """Between a server and an app, for one call: what passes, and what is asked about it.

    `denial` says why it was shut, None while it was not.
    """

    def __init__(
        self, guard: "Guard", requirements: Requirements, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        self.guard = guard
        self.denial: Deny | None = None
        self._requirements = requirements
        self._environ = environ
        self._start_response = start_response
        self._call: ThreadCall | None = None
        self._head: tuple[str, _Headers] | None = None
        self._has_begun = False
        self._write: Callable[[bytes], object]

    def admit(self, requirements: Requirements | None = None) -> Deny | None:
        """Let the call in if it meets these and all that it was asked before; return the denial."""
        if self.denial is not None:
            return self.denial
        if requirements is not None:
            self._requirements = self._requirements & requirements
        environ = self._environ
        token = extract_bearer(environ.get("HTTP_AUTHORIZATION"))
        path = _path(environ).encode("latin-1", "replace").decode(errors="replace")
        facts = facts_of(environ.get("REQUEST_METHOD", "GET"), path)
        admitted = self.guard.thread.admit(token, self._requirements, environ[REQUEST_ID_KEY], facts)
        self.end()
        if isinstance(admitted, Deny):
            self._call, self.denial = None, admitted
        else:
            self._call = admitted
            hand_over(environ, admitted.token.holder)
        return self.denial

    def end(self) -> None:
        """Look after nothing any more."""
        if self._call is not None:
            self._call.end()

    def passes(self) -> bool:
        """Look whether anything may pass now; wait while that cannot be known."""
        if self.denial is None and self._call is not None and not self._call.passes():
            self.denial = self._call.denial
        return self.denial is None

    def check(self) -> None:
        """Do as `passes`. Raises: ConnectionResetError, if nothing may: to an app, that is a client which has gone."""
        if not self.passes():
            raise _broken()

    def drop(self, error: BaseException) -> None:
        """Drop what was raised because the call was refused or cut. Raises: `error`, if it was not."""
        if self.denial is None or not isinstance(error, Exception):
            raise error
        _log.debug("dropped what an app raised that may not go on (%s)", type(error).__name__)

    def start_response(self, status: str, headers: _Headers, exc_info: _ExcInfo = None) -> Callable[[bytes], object]:
        """Keep the head until something may pass. See PEP 3333."""
        if self._head is not None and exc_info is None:
            raise AssertionError("start_response was called before")  # as PEP 3333's own server says it
        self._head = status, headers
        if self._has_begun:
            self._start(status, headers, exc_info)
        return self.write

    def write(self, data: bytes) -> None:
        """Send a chunk, if it may pass. See PEP 3333. Raises: as `check`."""
        self.check()
        self.begin()
        self._write(data)

    def begin(self) -> None:
        """Give the head to the server, once. Without one the server will say what is missing."""
        if self._head is not None and not self._has_begun:
            self._start(*self._head)

    def refuse(self, denial: Deny) -> bytes:
        """Begin the guard's answer, and return its body. Raises: ConnectionResetError, if the app's has begun."""
        if self._has_begun:
            raise _broken()
        resource = self.guard.resource
        answer = refusal(denial, resource.metadata_url if resource else None)
        return self.answer(answer.status, answer.headers, answer.body)

    def answer(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
        """Begin an answer, and return its body."""
        self._start(f"{status} {HTTPStatus(status).phrase}", list(headers))
        return b"" if self._environ.get("REQUEST_METHOD") == "HEAD" else body

    def _start(self, status: str, headers: _Headers, exc_info: _ExcInfo = None) -> None:
        others = [(name, value) for name, value in headers if name.lower() != _ID_HEADER]
        named = [*others, (_ID_HEADER, self._environ[REQUEST_ID_KEY])]
        self._write = self._start_response(status, named, exc_info)
        self._has_begun = True


class _Answer:
    """What an app answers, as far as it passes; or else what the guard does."""

    def __init__(self, gate: _Gate, chunks: Iterable[bytes]) -> None:
        self._gate = gate
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        gate = self._gate
        try:
            yield from self._passing()
        except Exception as error:  # noqa: BLE001  # it is raised again
            gate.drop(error)
        if gate.denial is not None:
            yield gate.refuse(gate.denial)

    def _passing(self) -> Iterator[bytes]:
        gate = self._gate
        if gate.denial is not None:  # it asked, and answered all the same
            return
        chunks = iter(self._chunks)
        while (chunk := self._made(chunks)) is not None:
            if not gate.passes():
                return
            gate.begin()
            yield chunk
        if gate.passes():  # the end is no less than a chunk
            gate.begin()

    def _made(self, chunks: Iterator[bytes]) -> bytes | None:
        """Return the next chunk, None at the end. What makes it may ask, as the app itself may."""
        with _begun(self._gate):
            return next(chunks, None)

    def close(self) -> None:
        """Let the app and the call end. The server calls it, however far it came."""
        self._gate.end()
        if hasattr(self._chunks, "close"):
            self._chunks.close()


class _Input:
    """What a client sends, as far as it may reach the app."""

    def __init__(self, gate: _Gate, stream: InputStream) -> None:
        self._gate = gate
        self._stream = stream

    def read(self, *size: int) -> bytes:
        """Return the next bytes. Raises: as `_Gate.check`."""
        return self._passed(self._stream.read(*size))

    def readline(self, *size: int) -> bytes:
        """Return the next line. Raises: as `_Gate.check`."""
        return self._passed(self._stream.readline(*size))

    def readlines(self, *hint: int) -> list[bytes]:
        """Return the next lines. Raises: as `_Gate.check`."""
        return self._passed(self._stream.readlines(*hint))

    def __iter__(self) -> Iterator[bytes]:
        return map(self._passed, self._stream)

    def _passed(self, data: _T) -> _T:
        self._gate.check()
        return data


_current: ContextVar[_Gate | None] = ContextVar("wsgi gate", default=None)


@contextmanager
def _begun(gate: _Gate) -> Iterator[None]:
    before = _current.set(gate)
    try:
        yield
    finally:
        _current.reset(before)


def _broken() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "the call has ended")  # which most servers take without a word
