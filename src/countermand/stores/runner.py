"""A thread that polls: what the documents leave to the reader's loop, with a health to ask for and a way to stop.

It never spins, and nothing but `stop` ends it.
"""

import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from countermand.errors import StoreError
from countermand.stores.consumer import RedisRevocationConsumer

LOOK_EVERY_S: Final = 0.2
"""For new messages, where there are none and a poll does not wait for them itself."""
MISTAKE_S: Final = 2.0
"""After an error that no poll should raise."""
STOP_S: Final = 10.0
"""Longer than a poll waits for a message (3 s, with the client's defaults) or for a server that does not answer (4 s).

A poll that also marks in a store that does not answer can take longer.
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConsumerHealth:
    """How a consumer does.

    `success_age_s` is the time since the last poll in which nothing failed, and after which the store had taken all it
    was given; None before the first. `lag` is how many messages the whole group has not done yet; None where Redis,
    before version 7, does not tell, or does not answer.
    """

    running: bool
    success_age_s: float | None
    lag: int | None
    applied: int
    dead_lettered: int
    failures: int


class ConsumerThread:
    """Polls `consumer` in a daemon thread, from `start` to `stop`, or as long as a `with` block.

    The group needs no `ensure_group`, and the server may be away when it starts.
    """

    def __init__(self, consumer: RedisRevocationConsumer, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._consumer = consumer
        self._clock_s = clock_s
        self._success_at_s: float | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start; nothing if it runs already."""
        if self._is_running:
            return
        self._stopping = threading.Event()
        arguments = (self._stopping, self._thread)
        self._thread = threading.Thread(target=self._run, args=arguments, name="revocation-consumer", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = STOP_S) -> bool:
        """Let it end after the poll in which it is; return whether it has ended within `timeout_s`."""
        self._stopping.set()
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def health(self) -> ConsumerHealth:
        """Tell how it does. It asks Redis for the lag, and so takes as long as the client waits for an answer."""
        now_s, success_at_s = self._clock_s(), self._success_at_s
        return ConsumerHealth(
            running=self._is_running,
            success_age_s=None if success_at_s is None else now_s - success_at_s,
            lag=self._lag(),
            applied=self._consumer.applied,
            dead_lettered=self._consumer.dead_lettered,
            failures=self._consumer.failures,
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive() and not self._stopping.is_set()

    def _run(self, stopping: threading.Event, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()  # one that was told to stop, and may be in its last poll: two must not poll at once
        while not stopping.is_set():
            stopping.wait(self._poll())

    def _poll(self) -> float:
        """Poll once; return how long to wait before the next poll."""
        failures = self._consumer.failures
        try:
            dealt, wait_s = self._consumer.poll()
        except BaseException as error:  # noqa: BLE001 - a thread that ends here would end revocation, and nobody would hear
            trace = "".join(traceback.format_tb(error.__traceback__))  # without the text, which may hold a secret
            what = "the revocation consumer goes on after an error that should not be"
            _log.error("%s: %s\n%s", what, type(error).__name__, trace)
            return MISTAKE_S
        if self._consumer.failures == failures and not self._consumer.store_fails:
            self._success_at_s = self._clock_s()
        return wait_s or (LOOK_EVERY_S if self._consumer.may_rest and not dealt else 0.0)

    def _lag(self) -> int | None:
        try:
            return self._consumer.lag()
        except StoreError:
            return None
