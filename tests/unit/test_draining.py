"""What lies ready for a client that does not take it: how long it may, in a held event loop."""

import asyncio
from collections.abc import Callable
from typing import Any

from countermand.wiring.protocols import STALL_S, Draining
from tests.clocks import held

HOUR_S = 3_600


class Ready:
    """A transport of which so much is not taken yet, as `left` says by the loop's time."""

    def __init__(self, left: Callable[[float], int]) -> None:
        self.left = left
        self.aborted_s = 0.0

    def get_write_buffer_size(self) -> int:
        return self.left(asyncio.get_running_loop().time())

    def abort(self) -> None:
        self.aborted_s = asyncio.get_running_loop().time()


def connected(left: Callable[[float], int]) -> tuple[Draining, Ready]:
    protocol, transport = Draining(), Ready(left)
    protocol.loop, protocol.transport = asyncio.get_running_loop(), transport
    protocol.connection_made(transport)  # type: ignore[arg-type]  # all that it asks of one
    return protocol, transport


@held
async def test_who_takes_nothing_is_let_go_however_little_it_is() -> None:
    _, transport = connected(lambda _now: 1)
    await asyncio.sleep(HOUR_S)
    assert STALL_S <= transport.aborted_s <= STALL_S * 4 / 3


@held
async def test_what_is_written_meanwhile_gives_nobody_longer() -> None:
    _, transport = connected(lambda now: 1 + int(now))
    await asyncio.sleep(HOUR_S)
    assert STALL_S <= transport.aborted_s <= STALL_S * 4 / 3


@held
async def test_who_takes_a_little_now_and_then_is_kept_and_so_is_who_owes_nothing() -> None:
    slow: tuple[Any, Ready] = connected(lambda now: 10_000 - int(now / 50))
    idle: tuple[Any, Ready] = connected(lambda _now: 0)
    await asyncio.sleep(HOUR_S)
    assert (slow[1].aborted_s, idle[1].aborted_s) == (0, 0)
    for protocol, _ in (slow, idle):
        protocol.connection_lost(None)


@held
async def test_who_takes_as_much_as_is_written_is_kept() -> None:
    protocol, transport = connected(lambda _now: 60_000)
    for _ in range(100):
        await asyncio.sleep(STALL_S / 2)
        protocol.resume_writing()
    assert transport.aborted_s == 0
    protocol.connection_lost(None)


@held
async def test_nobody_looks_at_a_connection_that_is_lost() -> None:
    protocol, transport = connected(lambda _now: 1)
    protocol.connection_lost(None)
    await asyncio.sleep(HOUR_S)
    assert transport.aborted_s == 0
