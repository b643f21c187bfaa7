"""Fixtures of tests that break things: an authority as a child process, and replicas of it in this one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.running import ServerProcess


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """An authority that runs and may be killed."""
    async with ServerProcess(tmp_path) as process:
        yield process
