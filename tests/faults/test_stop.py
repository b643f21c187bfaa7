"""An authority that is asked to stop does, whatever it is waiting for, and says nothing that looks like a crash."""

import asyncio
from pathlib import Path

import pytest

from tests.looking import commits_failing
from tests.running import ServerProcess, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_it_stops_though_it_never_came_to_sign_a_checkpoint(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path) as server:
        assert await server.terminate() == 0
        async with commits_failing(server.data, "UPDATE ON heartbeat"):
            server.log.unlink()
            await server.start()
            await until(lambda: b"no checkpoint" in server.log.read_bytes(), "it cannot sign")
            await until(lambda: b"revoked" in server.log.read_bytes(), "it has begun all the same")
            assert await server.terminate() == 0
        assert b"Traceback" not in server.log.read_bytes()


async def test_a_request_that_never_ends_costs_it_its_grace_and_no_traceback(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path) as server:
        key = server.data.admin_key.read_text().strip()
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = f"POST /v1/sessions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 100\r\n"
        writer.write(f"{head}content-type: application/json\r\n\r\n{{".encode())
        await writer.drain()
        await until(server.answers, "it has turned to others since")
        assert await server.terminate() == 0
        writer.close()
        assert b"running task" in server.log.read_bytes(), "the request was open when it stopped"
        assert b"Traceback" not in server.log.read_bytes()
