"""The servers under examples/ and in the README, as they stand there; only the ports are free ones."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import uvicorn

from countermand.wiring.serve import bound
from countermand.wiring.tasks import beside
from tests.running import Running, until

EXAMPLES: Final = Path(__file__).parent.parent / "examples"
AUTHORITY: Final = "http://127.0.0.1:8420"
SERVICE: Final = "http://127.0.0.1:8000"


@contextmanager
def trusting(running: Running) -> Iterator[pytest.MonkeyPatch]:
    """Give the environment that a resource server needs to follow `running`."""
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("COUNTERMAND_API_KEY", running.replica_key)
        environ.setenv("COUNTERMAND_PIN", str(running.authority.pin))
        yield environ


def run_text(text: str, running: Running, service: str, **names: Any) -> dict[str, Any]:
    """Execute Python that speaks of both usual addresses, with those of this test in their place. Return its names."""
    assert AUTHORITY in text
    with trusting(running):
        exec(text.replace(AUTHORITY, running.url).replace(SERVICE, service), names)  # noqa: S102 - the project's own
    return names


@asynccontextmanager
async def example_served(name: str, running: Running) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Serve `app` of examples/`name`.py, as its docstring says; give its URL, and its names."""
    with bound("127.0.0.1", 0) as (listener, url):
        names = run_text((EXAMPLES / f"{name}.py").read_text("utf-8"), running, url, __name__=name)
        async with served(names["app"], listener):
            yield url, names


@asynccontextmanager
async def served(app: Any, listener: socket.socket) -> AsyncIterator[None]:
    """Serve with uvicorn as it comes, until the block ends."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    server.capture_signals = _no_signals  # type: ignore[method-assign]  # they are the test run's

    def stop() -> None:
        server.should_exit = True

    async with beside(server.serve([listener]), stop=stop):
        await until(lambda: server.started, "the example has started")
        yield


@contextmanager
def _no_signals() -> Iterator[None]:
    yield
