"""Who waits for the database, and who goes first."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

from countermand.errors import BusyError

_Queue: TypeAlias = "deque[asyncio.Future[None]]"


class Turn:
    """Places for so many at once. Who is urgent goes before all who wait; else the first to come is the first to go."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._urgent: _Queue = deque()
        self._others: _Queue = deque()

    @asynccontextmanager
    async def take(self, *, urgent: bool, within_s: float) -> AsyncIterator[None]:
        """Hold a place for as long as the block lasts. Raises: BusyError, where none is free in time."""
        if self._free:
            self._free -= 1
        else:
            try:
                await self._wait(self._urgent if urgent else self._others, within_s)
            except TimeoutError:
                raise BusyError("the authority's database is busy") from None
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, queue: _Queue, within_s: float) -> None:
        place = asyncio.get_running_loop().create_future()
        queue.append(place)
        try:
            async with asyncio.timeout(within_s):
                await place
        except BaseException:  # a cancellation too: no place may be lost
            if place.cancelled():
                queue.remove(place)
            else:
                self._pass_on()  # it was given in the moment in which nobody wanted it any longer
            raise

    def _pass_on(self) -> None:
        """Give a place to whoever is next. Nobody in a queue is cancelled without leaving it at once."""
        for queue in (self._urgent, self._others):
            for place in queue:
                if not place.done():
                    queue.remove(place)
                    place.set_result(None)
                    return
        self._free += 1
