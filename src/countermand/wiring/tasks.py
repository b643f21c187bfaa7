"""Work beside a block: it lasts as long as the block, and the block no longer than it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def beside(*work: Coroutine[Any, Any, None], stop: Callable[[], object] | None = None) -> AsyncIterator[None]:
    """Run `work` while the block runs, then stop it and wait for its end.

    `stop` asks it to end; without one it is cancelled. If any of it fails, so does the block, with the same error: what
    must run and does not is never missed.
    """
    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
            try:
                yield
            except Exception as error:  # noqa: BLE001 - raised again, once the work has ended in its own way
                failure = error
            finally:
                for ending in [stop] if stop else [task.cancel for task in tasks]:
                    ending()
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    if failure is not None:
        raise failure
