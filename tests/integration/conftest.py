"""Fixtures of tests on a real database file and real sockets."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from countermand.transport.http import open_client
from tests.databases import Kind
from tests.integration.admin import Admin, administering
from tests.integration.biscuits import ROOT_KEYS
from tests.integration.exchanging import Fleet, new_fleet
from tests.integration.rooms import Rooms, rooms_open
from tests.running import Running, authority_running


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def rooms(tmp_path: Path) -> AsyncIterator[Rooms]:
    """The rooms of an authority without a server and without a beating heart, on a clock that is held."""
    async with rooms_open(tmp_path) as opened:
        yield opened


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """An authority of this test alone, served on a free port."""
    async with authority_running(tmp_path) as authority:
        yield authority


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory, database_kind: Kind) -> AsyncIterator[Running]:
    """An authority that the tests of a module share, served on a free port."""
    async with authority_running(tmp_path_factory.mktemp("shared"), biscuit_keys=ROOT_KEYS) as authority:
        yield authority


@pytest.fixture(scope="module")
async def http(shared: Running) -> AsyncIterator[httpx2.AsyncClient]:
    """A bare client of the shared authority, without a key."""
    async with open_client(10, url=shared.url) as client:
        yield client


@pytest.fixture
async def admin(shared: Running) -> AsyncIterator[Admin]:
    """An administrator of the shared authority."""
    async with administering(shared) as opened:
        yield opened


@pytest.fixture
async def fleet(admin: Admin, http: httpx2.AsyncClient) -> Fleet:
    """Applications at the shared authority that hand on what one was given."""
    return await new_fleet(admin, http)


@pytest.fixture(scope="module")
async def kept(shared: Running, http: httpx2.AsyncClient) -> AsyncIterator[Fleet]:
    """One for the tests of a module that change nothing of it."""
    async with administering(shared) as opened:
        yield await new_fleet(opened, http)
