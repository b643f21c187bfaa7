"""What a replica says of itself to the authority: how far it has come, and which keys it knows.

A rotation of keys waits for it. It is told soon after a new keyset, and otherwise from time to time; who cannot be told
is tried again, and the replica goes on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from countermand.errors import CountermandError
from countermand.replica.replica import Replica

EVERY_S: Final = 10.0
LOOK_S: Final = 0.5

Send: TypeAlias = Callable[[Mapping[str, object]], Awaitable[None]]

_log = logging.getLogger(__name__)


class Reporter:
    """Reports on `replica`, as `replica_id`, by `send`."""

    def __init__(self, replica: Replica, replica_id: str, send: Send) -> None:
        self._replica = replica
        self._replica_id = replica_id
        self._send = send
        self._failure: str | None = None

    async def run(self) -> None:
        """Report, for ever."""
        loop = asyncio.get_running_loop()
        reported_s, keyset = -EVERY_S, -1
        while True:
            known = self._replica.state.pin.version
            if loop.time() - reported_s >= EVERY_S or known != keyset:
                reported_s, keyset = loop.time(), known
                await self._report()
            await asyncio.sleep(LOOK_S)

    async def _report(self) -> None:
        try:
            await self._send({"replica_id": self._replica_id} | self._replica.report())
        except CountermandError as error:
            if error.code != self._failure:
                _log.warning("the authority cannot be told about this replica: %s", error, extra={"code": error.code})
            self._failure = error.code
        else:
            self._failure = None
