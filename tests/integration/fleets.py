"""The demo's fleet, opened at an authority of a test, and resting."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from countermand.cli.callers import ignore
from countermand.cli.fleet import Fleet, fleet_of
from tests.running import Running


@asynccontextmanager
async def resting(running: Running) -> AsyncIterator[Fleet]:
    """Give the fleet; nobody calls anything."""
    async with fleet_of(running.client, running.url, ignore) as fleet:
        yield fleet


async def mandate_of(fleet: Fleet, name: str) -> str:
    """Mint one of the fleet's mandates."""
    (caller,) = fleet.named(name)
    return await caller.holder.mint()
