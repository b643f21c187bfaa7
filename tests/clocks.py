"""Clocks that a test holds: the two of a machine, and an event loop in which waiting takes no time."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar, TypeVarTuple

from countermand.log.freshness import Instant
from tests.signer import NOW_MS

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class HeldClocks:
    """The two clocks of one machine."""

    def __init__(self, wall_ms: int = NOW_MS, boot_ms: int = 5_000_000) -> None:
        self.wall_ms = wall_ms
        self.boot_ms = boot_ms

    def __call__(self) -> Instant:
        return Instant(self.wall_ms, self.boot_ms)

    def run(self, ms: int) -> None:
        """Let time pass."""
        self.wall_ms += ms
        self.boot_ms += ms

    def step(self, ms: int) -> None:
        """Set the wall clock; the other does not step."""
        self.wall_ms += ms

    def suspend(self, ms: int) -> None:
        """Let time pass that the wall clock does not count."""
        self.boot_ms += ms


class HeldLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when nothing else is to be done, and then at once to the next timer.

    What would be done in a thread is done at once, since its end could not be waited for without time passing.
    `patience_s` of true time are waited first: with sockets, for what is on its way between them.
    """

    def __init__(self, patience_s: float = 0.0) -> None:
        self._passing = _Passing(patience_s)
        super().__init__(self._passing)

    def time(self) -> float:
        return self._passing.seconds

    def run_in_executor(
        self,
        executor: Executor | None,  # noqa: ARG002 - the base class names it
        func: Callable[[*_Ts], _T],
        *args: *_Ts,
    ) -> asyncio.Future[_T]:
        done: asyncio.Future[_T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is raised where the result is awaited, as from a thread
            done.set_exception(error)
        return done


class _Passing(selectors.SelectSelector):
    def __init__(self, patience_s: float) -> None:
        super().__init__()
        self._patience_s = patience_s
        self.seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(self._patience_s if timeout is None or timeout > 0 else 0)
        if not ready:
            assert timeout is not None, "every task waits for something that will never come"
            self.seconds += max(timeout, 0.0)
        return ready


_Test: TypeAlias = Callable[_P, Coroutine[Any, Any, None]]


def held(test: _Test[_P]) -> Callable[_P, None]:
    """Run an asynchronous test in a held loop, and see that it leaves no task behind."""
    return _in_loop(HeldLoop, test)


def held_with_sockets(test: _Test[_P]) -> Callable[_P, None]:
    """The same for a test that has both ends of its sockets in the loop."""
    return _in_loop(lambda: HeldLoop(patience_s=0.02), test)


def _in_loop(loop: Callable[[], HeldLoop], test: _Test[_P]) -> Callable[_P, None]:
    @wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        async def main() -> None:
            await test(*args, **kwargs)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(main())

    return run
