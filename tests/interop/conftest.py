"""A real Redis, and the published packages beside it."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.interop.peer import Published
from tests.redis_server import RedisServer


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    """A server that is empty, and must not be stopped."""
    with shared.client() as client:
        client.flushall()
    return shared


@pytest.fixture
def admin(server: RedisServer) -> Iterator[Any]:
    with server.client(decode_responses=True) as client:
        yield client


@pytest.fixture(scope="module")
def shared_published(shared: RedisServer) -> Iterator[Published]:
    with Published(shared.port) as process:
        yield process


@pytest.fixture
def published(server: RedisServer, shared_published: Published) -> Published:
    """The published packages on `server`. Its consumers are made by the tests, and outlast them in its process."""
    return shared_published
