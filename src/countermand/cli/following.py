"""A replica of the command line's own: what is known here is verified as every resource server verifies it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from countermand.errors import ConfigurationError, RefusedError, UnreachableError
from countermand.log.checkpoint import Pin
from countermand.log.entry import Entry
from countermand.log.state import LogState
from countermand.replica.replica import Replica, ReplicaState
from countermand.settings import ClientSettings
from countermand.transport.http import HttpLog
from countermand.wiring import follower, parse_pin, system_clock
from countermand.wiring.tasks import beside

WAIT_S: Final = 10.0
UNKNOWN_EXIT: Final = 3
"""The exit code where the log is not known freshly enough to say."""
_LOOK_S: Final = 0.02
_HOPELESS: Final = {RefusedError.code, UnreachableError.code}
"""What a person at a terminal is told at once. A follower tries again, for ever."""


def pinned(settings: ClientSettings) -> Pin:
    """Return which log to believe. Raises: ConfigurationError."""
    if settings.pin is None:
        raise ConfigurationError("nothing says which log to believe: set COUNTERMAND_PIN")
    return parse_pin(settings.pin)


@asynccontextmanager
async def following(
    settings: ClientSettings, on_applied: Callable[[Sequence[Entry]], None] = lambda _entries: None
) -> AsyncIterator[Replica]:
    """Give a replica that follows the authority until the block ends. Raises: ConfigurationError."""
    replica = Replica(LogState(pinned(settings)), system_clock)
    async with beside(follower(replica, HttpLog(settings.url, settings.api_key), on_applied).run()):
        yield replica


async def knows(replica: Replica) -> bool:
    """Wait until `replica` is fresh; return False where that takes longer than WAIT_S, or cannot be hoped for."""
    try:
        async with asyncio.timeout(WAIT_S):
            while replica.status().state is not ReplicaState.FRESH:
                if replica.error in _HOPELESS:
                    return False
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        return False
    return True
