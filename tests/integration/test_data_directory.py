"""The data directory: one process at a time, secrets for their owner alone, and a clear word when it is refused."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from countermand.errors import ConfigurationError, DataError
from countermand.log.checkpoint import Pin
from countermand.settings import AuthoritySettings, DataDir
from tests.running import Running, ServerProcess, authority_running

pytestmark = pytest.mark.anyio

_COMMAND: Final = Path(sys.executable).with_name("countermand")
NOBODY: Final = 65_534


async def _refused(path: Path) -> str:
    with pytest.raises(DataError) as refused:
        async with authority_running(path, laid=False):
            pass
    return str(refused.value)


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Root may write anywhere: put its power down for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_the_directory_and_all_secrets_in_it_are_for_their_owner_alone(running: Running) -> None:
    data = running.data
    assert stat.S_IMODE(data.path.stat().st_mode) == 0o700
    for path in (data.admin_key, data.replica_key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert data.url.read_text() == f"{running.url}\n"
    assert str(Pin.parse(data.pin.read_text())) == str(running.authority.pin)


async def test_keys_and_pin_stay_over_restarts_and_the_url_is_the_newest(tmp_path: Path) -> None:
    async with authority_running(tmp_path) as first:
        admin_key, replica_key, pin = first.admin_key, first.replica_key, str(first.authority.pin)
    async with authority_running(tmp_path) as second:
        assert (second.admin_key, second.replica_key, str(second.authority.pin)) == (admin_key, replica_key, pin)
        assert second.data.url.read_text().strip() == second.url
        await second.client.create_application("notes")


async def test_a_second_authority_in_this_process_is_refused_and_the_first_lives_on(
    running: Running, tmp_path: Path
) -> None:
    assert await _refused(tmp_path) == f"another process is using {running.data.path}"
    assert running.data.url.read_text().strip() == running.url
    await running.client.create_application("notes")


async def test_a_second_process_is_refused_until_the_first_has_gone(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path) as server:
        assert await _refused(tmp_path) == f"another process is using {server.data.path}"
        command = [str(_COMMAND), "up", "--data-dir", str(server.data.path), "--port", "0"]
        second = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)  # noqa: ASYNC221 - the first is a process too
        assert second.returncode == 2
        assert "another process is using" in second.stderr.replace("\n", " ")
        assert "Traceback" not in second.stderr
        server.kill()
        async with authority_running(tmp_path) as running:
            await running.client.create_application("notes")


async def test_a_directory_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "authority"
    data.mkdir(mode=0o755)
    assert await _refused(tmp_path) == f"{data} is open to others than its owner: chmod 700 {data}"
    assert list(data.iterdir()) == []


async def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "authority"
    path.write_text("mine")
    assert await _refused(tmp_path) == f"{path} cannot be used: File exists"
    assert path.read_text() == "mine"


async def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "cannot be used: Not a directory" in await _refused(tmp_path / "file" / "below")


async def test_a_directory_where_we_may_not_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "authority"
    path.mkdir(mode=0o500)
    with _as_nobody():
        sentence = await _refused(tmp_path)
    assert sentence == f"{path} cannot be used: Permission denied"


async def test_an_error_of_the_caller_is_not_blamed_on_the_directory(tmp_path: Path) -> None:
    async def fail() -> None:
        async with authority_running(tmp_path):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await fail()
    async with authority_running(tmp_path):
        pass


async def test_a_port_that_is_taken_is_refused_before_the_directory_is_touched(
    running: Running, tmp_path: Path
) -> None:
    port = int(running.url.rpartition(":")[2])
    with pytest.raises(ConfigurationError, match="cannot be listened on"):
        async with authority_running(tmp_path / "other", port=port, laid=False):
            pass
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("mandate_s", [0, -1, 86_401])
async def test_a_life_of_mandates_out_of_range_is_refused(tmp_path: Path, mandate_s: int) -> None:
    with pytest.raises(ConfigurationError, match="a mandate lives 1 to 86400 seconds"):
        async with authority_running(tmp_path, mandate_s=mandate_s):
            pass


async def test_settings_name_files_inside_the_directory_alone() -> None:
    data = AuthoritySettings(DataDir(Path("/somewhere"))).data
    paths = [data.database, data.keys, data.lock, data.admin_key, data.replica_key, data.pin, data.url]
    assert {path.parent for path in paths} == {Path("/somewhere")}
    assert len(set(paths)) == len(paths)
