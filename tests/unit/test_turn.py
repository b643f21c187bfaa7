"""Who is urgent goes first, the first to come goes first, and no place is lost, whoever gives up and when."""

import asyncio
from typing import Final

import pytest

from countermand.authority.turn import Turn
from countermand.errors import BusyError

pytestmark = pytest.mark.anyio

LONG_S: Final = 60.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def _go(turn: Turn, name: str, gone: list[str], *, urgent: bool = False) -> None:
    async with turn.take(urgent=urgent, within_s=LONG_S):
        gone.append(name)


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_urgent_go_first_and_else_the_first_to_come() -> None:
    turn, gone = Turn(1), list[str]()
    async with asyncio.TaskGroup() as group, turn.take(urgent=False, within_s=LONG_S):
        for name in ("a", "b", "A!", "c", "B!"):
            group.create_task(_go(turn, name, gone, urgent=name.endswith("!")))
        await _turns(2)
        assert gone == []
    assert gone == ["A!", "B!", "a", "b", "c"]


async def test_no_more_hold_a_place_than_there_are() -> None:
    turn, held, most = Turn(3), 0, 0

    async def hold() -> None:
        nonlocal held, most
        async with turn.take(urgent=False, within_s=LONG_S):
            held += 1
            most = max(most, held)
            await _turns(3)
            held -= 1

    await asyncio.gather(*(hold() for _ in range(20)))
    assert (held, most, turn._free) == (0, 3, 3)


async def test_whoever_waits_too_long_hears_so_and_leaves_the_queue() -> None:
    turn = Turn(1)
    async with turn.take(urgent=False, within_s=LONG_S):
        with pytest.raises(BusyError):
            async with turn.take(urgent=True, within_s=0.01):
                pass
    assert turn._free == 1
    await asyncio.wait_for(_go(turn, "next", []), 1)


@pytest.mark.parametrize("urgent", [False, True])
async def test_cancellation_at_any_moment_loses_no_place(urgent: bool) -> None:
    for moment in range(12):
        turn, gone = Turn(1), list[str]()
        holding = asyncio.create_task(_hold(turn, 4))
        tasks = [asyncio.create_task(_go(turn, f"{n}", gone, urgent=urgent)) for n in range(3)]
        await _turns(moment)
        tasks[0].cancel()
        results = await asyncio.gather(holding, *tasks, return_exceptions=True)
        assert [result for result in results[2:] if result is not None] == [], f"moment {moment}"
        assert gone[-2:] == ["1", "2"]
        assert turn._free == 1, f"moment {moment}"


async def test_a_place_given_in_the_moment_of_cancellation_goes_to_the_next() -> None:
    turn, gone = Turn(1), list[str]()
    async with turn.take(urgent=False, within_s=LONG_S):
        first, second = (asyncio.create_task(_go(turn, name, gone)) for name in ("first", "second"))
        await _turns(2)
    first.cancel()  # it has been given the place, and has not run since
    await asyncio.gather(first, second, return_exceptions=True)
    assert first.cancelled()
    assert gone == ["second"]
    assert turn._free == 1


async def _hold(turn: Turn, turns: int) -> None:
    async with turn.take(urgent=False, within_s=LONG_S):
        await _turns(turns)
