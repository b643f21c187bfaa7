"""HTTP/1.1 as uvicorn speaks it, with the bounds that it leaves out: for what a client still owes us of a request.

That is the head, and what still comes of a body after its answer. Neither takes longer than HEAD_S: uvicorn waits for
both for ever. A body that is being read has its reader's limit, and between two requests uvicorn's own holds until the
next one begins. A head has at most MAX_HEAD_BYTES: h11 sees to that by itself, and httptools does not.
"""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from countermand.enforce.forward_auth import WHOLE_ANSWER

HEAD_S: Final = 10.0
"""For a request's head, from its first byte; for the first request, from when the connection is made."""
MAX_HEAD_BYTES: Final = 65_536


class _Bounded(asyncio.Protocol):
    """Closes the connection of whoever owes us the rest of a request for HEAD_S. Mixed into a protocol of uvicorn's."""

    cycle: Any
    loop: asyncio.AbstractEventLoop
    transport: Any
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
        """Called by the transport."""
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
