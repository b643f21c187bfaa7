"""What a replica says of itself to the authority: how far it has come, and which keys it knows.

Receipts and rotations of keys wait for it. So it is told soon after the replica has applied something or has a new
keyset, at most twice a second, and otherwise from time to time. Who cannot be told is tried again, ever more rarely,
and the replica goes on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

from countermand.errors import CountermandError
from countermand.log.entry import Entry
from countermand.replica.replica import Replica

EVERY_S: Final = 10.0
LEAST_S: Final = 0.5
"""Between two reports, and two looks at the keys: whatever is applied meanwhile is told in one."""

Send: TypeAlias = Callable[[Mapping[str, object]], Awaitable[None]]

_log = logging.getLogger(__name__)


class Reporter:
    """Reports on `replica`, by `send`. Its follower says by `on_applied` when there is news.

    `new_id` gives the id under which it reports from `run` on: a process that forks has as many replicas as children.
    """

    def __init__(self, replica: Replica, new_id: Callable[[], str], send: Send) -> None:
        self._replica = replica
        self._new_id = new_id
        self._send = send
        self._applied = asyncio.Event()
        self._failure: str | None = None

    def on_applied(self, _entries: Sequence[Entry] = ()) -> None:
        """Take note that the replica has come further. In the event loop in which `run` runs."""
        self._applied.set()

    async def run(self) -> None:
        """Report, for ever."""
        self._applied = asyncio.Event()  # of this event loop
        replica_id = self._new_id()
        pause_s = LEAST_S
        while True:
            keyset = self._replica.state.pin.version
            self._applied.clear()
            is_told = await self._report(replica_id)
            pause_s = LEAST_S if is_told else min(2 * pause_s, EVERY_S)
            await asyncio.sleep(pause_s)
            if is_told:
                await self._news(keyset)

    async def _news(self, keyset: int) -> None:
        """Wait until something was applied, the keyset is another, or it is time."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + EVERY_S - LEAST_S
        while self._replica.state.pin.version == keyset and loop.time() < due_s:
            with suppress(TimeoutError):
                async with asyncio.timeout(LEAST_S):
                    await self._applied.wait()
                    return

    async def _report(self, replica_id: str) -> bool:
        try:
            await self._send({"replica_id": replica_id} | self._replica.report())
        except Exception as error:  # noqa: BLE001 - whatever it is, the replica goes on
            code = error.code if isinstance(error, CountermandError) else type(error).__name__
            if code != self._failure:
                _log.warning("the authority cannot be told about this replica: %s", code, extra={"code": code})
            self._failure = code
            return False
        self._failure = None
        return True
