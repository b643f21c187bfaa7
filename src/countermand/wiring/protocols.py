"""HTTP/1.1 and web sockets as uvicorn speaks them, with the bounds that it leaves out.

Nobody owes us the rest of a request for longer than HEAD_S: neither of the head, nor of what still comes of a body
after its answer. A body that is being read has its reader's limit, and between two requests uvicorn's own holds until
the next one begins. Nobody lets what we send lie for longer than STALL_S. A head has at most MAX_HEAD_BYTES: h11 sees
to that by itself, and httptools does not.
Source: RFC 9110 §5.4 and §6.5; RFC 9112 §3.2; RFC 6585 §5.
"""

import asyncio
import json
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from countermand.enforce.forward_auth import WHOLE_ANSWER

HEAD_S: Final = 10.0
"""For a request's head, from its first byte; for the first request, from when the connection is made."""
STALL_S: Final = 60.0
"""For a client to take some of what lies ready for it, give or take a look."""
_LOOKS: Final = 6
MAX_HEAD_BYTES: Final = 65_536
MAX_HEADERS: Final = 100


class Draining(asyncio.Protocol):
    """Drops the connection of whoever takes nothing of what is sent. To be mixed into a protocol of uvicorn's.

    It looks at what lies ready, whether more is being written or the connection is closed after it.
    """

    loop: asyncio.AbstractEventLoop
    transport: Any
    _looking: asyncio.TimerHandle | None = None
    _left = 0
    _looks_in_vain = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._look_again()

    def resume_writing(self) -> None:
        self._left = 0  # some was taken
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._look_no_more()
        super().connection_lost(exc)

    def _look_again(self) -> None:
        self._looking = self.loop.call_later(STALL_S / _LOOKS, self._look)

    def _look(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._looks_in_vain = self._looks_in_vain + 1 if 0 < self._left <= left else 0
        self._left = left
        if self._looks_in_vain >= _LOOKS:
            self.transport.abort()  # to close it would wait for the client
        else:
            self._look_again()

    def _look_no_more(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None


class _Bounded(Draining):
    """Closes the connection of whoever owes us the rest of a request for HEAD_S."""

    cycle: Any
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._deadline is not None or not self._is_answering():
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _is_answering(self) -> bool:
        # Before the first head there is no cycle, whatever its type says
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        if self._is_answering():  # then it is we who owe
            self._unwatch()
        else:
            self._deadline = self._deadline or self.loop.call_later(HEAD_S, self.transport.close)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: who offers an upgrade may go without, and anybody may offer one."""


class H11(_Bounded, H11Protocol):
    """By h11: strict."""


class HttpTools(_Bounded, HttpToolsProtocol):
    """By httptools: fast.

    The app finds the request's target in the scope as it was received: `raw_path` is all before the first question
    mark, whatever it is. The trailers of a body are dropped: uvicorn would put them among the headers. Nothing is
    written into an answer that is under way.
    """

    _owed = 0
    """Bytes that came since a head, a chunk or a request was complete, and are no body."""
    _head_bytes = 0
    _is_head = False
    _is_handed_over = False
    _status = 400

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes, self._is_head = 0, True

    def data_received(self, data: bytes) -> None:
        self._owed += len(data)
        super().data_received(data)
        if self._owed > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._status = 431
            self.send_400_response("")

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        if self._is_head:
            super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) >= MAX_HEADERS:
            self._status = 431
            raise ValueError("the head of the request is too long")  # the parser passes it on as an error of its own

    def on_headers_complete(self) -> None:
        self._owed, self._is_head = 0, False
        target = self.url
        if not target.startswith(b"/"):
            self.url = b"/"  # uvicorn would take it apart, and lose what it is
        super().on_headers_complete()
        self.url = target
        self.scope["raw_path"], _, self.scope["query_string"] = target.partition(b"?")

    def on_chunk_header(self) -> None:
        self._owed = 0

    def on_body(self, body: bytes) -> None:
        self._owed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._owed = 0
        super().on_message_complete()

    def _should_upgrade(self) -> bool:
        return self.scope.get("method") == "GET" and super()._should_upgrade()

    def handle_websocket_upgrade(self) -> None:
        self._is_handed_over = True
        self._unwatch()
        self._look_no_more()
        super().handle_websocket_upgrade()

    def _watch(self) -> None:
        if not self._is_handed_over:
            super()._watch()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words
        if not self._is_answering():
            self.transport.write(REFUSALS[self._status])
        self.transport.close()


class HeadsOnly(_Bounded, HttpToolsProtocol):
    """By httptools, for an app that reads no bodies: fast.

    From one head's end to the next one's come at most MAX_HEAD_BYTES, or what was read at once. In the scope the app
    finds WHOLE_ANSWER.
    """

    _since_head = 0
    _running: RequestResponseCycle

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._extensions = {WHOLE_ANSWER: self._answer_whole}

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:  # a head was complete
            self._since_head = 0
            return
        self._since_head += len(data)
        if self._since_head > MAX_HEAD_BYTES:
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        scope: Any = cycle.scope  # as uvicorn has it, extensions are only of its own
        scope["extensions"] = self._extensions  # nothing in it may hold the cycle: a circle waits for the collector
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _answer_whole(self, lines: bytes) -> bool:
        """See WHOLE_ANSWER. It leaves the cycle as the messages of such an answer would."""
        cycle = self._running
        if cycle.response_started or cycle.disconnected or cycle.flow.write_paused:
            return False
        cycle.response_started = cycle.response_complete = True
        end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        cycle.transport.write(b"HTTP/1.1 200 OK\r\n" + lines + end)
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True


def _refusal(status_line: str, error: str, description: str) -> bytes:
    body = json.dumps({"error": error, "error_description": description}, separators=(",", ":"))
    head = f"HTTP/1.1 {status_line}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"{head}cache-control: no-store\r\nconnection: close\r\n\r\n{body}".encode()


REFUSALS: Final = {
    400: _refusal("400 Bad Request", "invalid_request", "what was sent is no request"),
    431: _refusal("431 Request Header Fields Too Large", "head_too_large", "the head of the request is too long"),
}
