"""Work beside a block ends with it, and ends it."""

import asyncio

import pytest

from countermand.wiring.tasks import beside

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_work_is_cancelled_at_the_end_of_the_block() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await for_ever()
        finally:
            ended.set()

    async with beside(work()):
        await asyncio.sleep(0)
        assert not ended.is_set()
    assert ended.is_set()


async def test_work_that_can_be_asked_to_stop_is_waited_for_and_not_cancelled() -> None:
    asked, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await asked.wait()
        await asyncio.sleep(0)
        done.set()

    async with beside(work(), stop=asked.set):
        pass
    assert done.is_set()


async def test_the_block_fails_with_the_error_of_the_work() -> None:
    async def work() -> None:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        async with beside(work(), for_ever()):
            await for_ever()


async def test_the_work_ends_where_the_block_fails_and_the_error_stays_what_it_is() -> None:
    with pytest.raises(LookupError, match="mine"):
        async with beside(for_ever()):
            raise LookupError("mine")


async def test_cancelling_the_block_cancels_the_work() -> None:
    started = asyncio.Event()

    async def block() -> None:
        async with beside(for_ever()):
            started.set()
            await for_ever()

    task = asyncio.create_task(block())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
