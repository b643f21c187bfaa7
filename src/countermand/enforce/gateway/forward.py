"""One HTTP request, forwarded: both bodies as they come, and no faster than they are taken.

Whatever is owed is owed in time: the next part of a body, that the upstream takes it, and the head of an answer. An
answer that has begun may be silent for as long as its token lives. One that breaks off reaches the client without its
end. When the app is cancelled the upstream's connection is closed at once: what the guard cuts is cut there too. A
client that has gone takes its request with it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final

from countermand.enforce.asgi import REQUEST_ID_KEY, Receive, Scope, Send
from countermand.enforce.gateway.head import answer_headers, request_headers, target_of, values_of
from countermand.enforce.gateway.problem import BAD_GATEWAY, BODY_TOO_LARGE, BODY_TOO_SLOW, TIMED_OUT, Problem
from countermand.enforce.gateway.upstream import Answer, Upstream
from countermand.errors import BadAnswerError, CountermandError, UnreachableError

ANSWER_S: Final = 60.0
"""For the head of an answer, from when the request was sent; and for the upstream to take the next part of a body."""
BODY_S: Final = 60.0
"""For the next part of a body from the client."""
WATCH_S: Final = 0.2
"""After this we look whether the client is still there: most requests are answered before."""

_FINAL: Final = range(200, 600)
_WITHOUT_BODY: Final = frozenset({204, 304})

_log = logging.getLogger(__name__)


class Exchange:
    """A request that was let in, and its answer. Its body has at most `max_body` bytes."""

    def __init__(self, upstream: Upstream, max_body: int, scope: Scope, receive: Receive, send: Send) -> None:
        self._upstream = upstream
        self._max_body = max_body
        self._scope = scope
        self._receive = receive
        self._send = send
        self._limit = asyncio.timeout(None)
        self._problem: Problem | None = TIMED_OUT  # what it is when time runs out; None where nobody would hear of it
        self._is_over = False
        self._has_begun = False
        self._watch: asyncio.TimerHandle | asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Forward the request, and answer it."""
        headers = self._scope["headers"]
        lengths = values_of(headers, b"content-length")
        length = int(lengths[0]) if lengths else 0
        if length > self._max_body:
            await BODY_TOO_LARGE.answer(self._scope, self._send)
            return
        has_body = bool(length or values_of(headers, b"transfer-encoding"))
        try:
            async with self._limit:
                await self._forward(self._body() if has_body else None)
        except TimeoutError:
            problem = self._problem
        except (UnreachableError, BadAnswerError) as error:
            problem = self._problem if self._is_over else self._blamed(error)
        else:
            return
        finally:
            self._is_over = True
            if self._watch is not None:
                self._watch.cancel()
        if problem is not None and not self._has_begun:  # else the server sees that the answer has no end
            await problem.answer(self._scope, self._send)

    def _blamed(self, error: CountermandError) -> Problem:
        _log.warning("%s", error, extra={"request_id": self._scope[REQUEST_ID_KEY]})
        return BAD_GATEWAY

    async def _forward(self, body: AsyncIterator[bytes] | None) -> None:
        scope = self._scope
        self._within(ANSWER_S, TIMED_OUT)
        if body is None:
            self._watch_soon()
        answer = await self._upstream.request(scope["method"], target_of(scope), request_headers(scope), body)
        try:
            await self._answer(answer)
        finally:
            answer.close()

    async def _body(self) -> AsyncIterator[bytes]:
        """Yield the request's body as it comes. The upstream takes it, in a task of its own."""
        yield b""  # the head goes at once, and does not wait for a part of the body
        size, has_more = 0, True
        while has_more:
            self._within(None if self._has_begun else BODY_S, BODY_TOO_SLOW)
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise self._ended(None)
            chunk, has_more = message.get("body", b""), message.get("more_body", False)
            size += len(chunk)
            if size > self._max_body:
                raise self._ended(BODY_TOO_LARGE)
            self._within(ANSWER_S, TIMED_OUT)
            yield chunk
        self._within(None if self._has_begun else ANSWER_S, TIMED_OUT)
        self._watch_soon()

    def _watch_soon(self) -> None:
        if not self._is_over:
            self._watch = asyncio.get_running_loop().call_later(WATCH_S, self._begin_to_watch)

    def _begin_to_watch(self) -> None:
        self._watch = asyncio.ensure_future(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._ended(None)

    def _within(self, seconds: float | None, problem: Problem) -> None:
        """Let the exchange end with `problem`, unless this is called again in time. None: it has all the time."""
        if not self._is_over:
            self._problem = problem
            self._limit.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)

    def _ended(self, problem: Problem | None) -> "_EndedError":
        """End the exchange now; return what ends a body that is not whole."""
        if not self._is_over and not self._limit.expired():
            self._is_over, self._problem = True, problem
            self._limit.reschedule(asyncio.get_running_loop().time())
        return _EndedError()

    async def _answer(self, answer: Answer) -> None:
        status = answer.status
        if status not in _FINAL:
            raise BadAnswerError(f"{self._upstream.origin} answered {status}")
        headers = answer_headers(answer.headers, has_body=status not in _WITHOUT_BODY)
        self._has_begun = True
        self._within(None, TIMED_OUT)
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        has_more = True
        while has_more:
            chunk = await answer.read()
            has_more = bool(chunk) and not answer.is_whole
            await self._send({"type": "http.response.body", "body": chunk, "more_body": has_more})


class _EndedError(Exception):
    """Ends the writing of a body that is not whole, so that nobody takes it for one."""
