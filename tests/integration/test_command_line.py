"""The command line as a person uses it: real processes, what they print, and how they end."""

import asyncio
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from countermand.cli.client import AuthorityClient
from tests.running import DEADLINE_S, ServerProcess

COMMAND = Path(sys.executable).with_name("countermand")
SESSION = re.compile(r"ses_[0-9a-f]{32}")

pytestmark = pytest.mark.anyio


def environ(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("COUNTERMAND_")} | more


def countermand(*words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *words],
        capture_output=True,
        text=True,
        timeout=60,
        env=environ(COLUMNS="200", **more),
        check=False,
    )


async def in_a_thread(*words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(countermand, *words, **more)


@contextmanager
def running(*words: str | Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [COMMAND, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environ(PYTHONUNBUFFERED="1"),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines_until(process: "subprocess.Popen[str]", wanted: str) -> list[str]:
    """Read lines up to one that holds `wanted`; fail at the end of the output."""
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if wanted in line:
            return lines
    raise AssertionError(f"{wanted!r} never came:\n{''.join(lines)}")


async def open_session(server: ServerProcess, subject: str) -> str:
    async with AuthorityClient.open(server.client_settings()) as client:
        application = await client.create_application("command line")
        session = await client.open_session(application["id"], subject)
    return str(session["id"])


def test_the_demo_judges_itself_and_reports_in_json() -> None:
    done = countermand("demo", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["held"] is True
    assert [step["held"] for step in report["steps"]] == [True] * 4
    assert 0 <= report["revoke_to_rejection_ms"] < 5_000
    assert done.stderr == ""


def test_up_demo_prints_what_to_type_and_typing_it_turns_exactly_that_caller_to_401(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running("up", "--demo", "--port", "0", "--data-dir", data) as demo:
        told = lines_until(demo, "# bob")
        alice, bob = (SESSION.findall(line)[0] for line in told if "revoke session" in line)
        lines_until(demo, "bob 200")
        done = countermand("revoke", "session", alice, "--data-dir", data, "--reason", "left")
        assert (done.returncode, done.stdout) == (0, f"session {alice} is revoked: entry 1\n")
        lines_until(demo, "alice is answered 401 session_revoked")
        summary = lines_until(demo, "alice 401 session_revoked x5")[-1]
        assert re.search(r"bob 200 x\d", summary)
        assert "401" not in summary.partition("bob")[2]
        again = countermand("revoke", "session", alice, "--data-dir", data)
        assert (again.returncode, again.stdout) == (0, f"session {alice} was already revoked: entry 1\n")
        demo.send_signal(signal.SIGINT)
        assert demo.wait(DEADLINE_S) == 0

    with running("up", "--demo", "--port", "0", "--data-dir", data) as second:
        lines_until(second, "bob 200")
        kept = countermand("revoke", "session", alice, "--data-dir", data, "--json")
        assert json.loads(kept.stdout) | {"revoked_at": ""} == {
            "seq": 1,
            "generation": 1,
            "kind": "session",
            "id": alice,
            "reason": "left",
            "revoked_at": "",
            "is_new": False,
        }
        assert json.loads(countermand("revoke", "session", bob, "--data-dir", data, "--json").stdout)["seq"] == 2


async def test_tail_prints_each_revocation_verified(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path) as server:
        first, second = await open_session(server, "alice"), await open_session(server, "bob")
        with running("tail", "--data-dir", server.data.path) as tail:
            await asyncio.to_thread(lines_until, tail, "following")
            for seq, (id_, reason) in enumerate([(first, "one"), (second, "two")], start=1):
                await in_a_thread("revoke", "session", id_, "--reason", reason, "--data-dir", server.data.path)
                line = (await asyncio.to_thread(lines_until, tail, id_))[-1]
                assert re.fullmatch(rf" +{seq}  \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ  session  {id_}  {reason}\n", line)
            tail.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(tail.wait, DEADLINE_S) == 0


async def test_the_first_start_makes_secrets_that_only_the_owner_can_read(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path) as server:
        secrets = [server.data.admin_key, server.data.replica_key, *server.data.keys.iterdir()]
        assert len(secrets) == 4
        for path in secrets:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(server.data.path.stat().st_mode) == 0o700
        key = server.data.admin_key.read_text().strip().encode()
        assert key not in server.log.read_bytes()
        for path in server.data.path.glob("countermand.db*"):
            assert key.rpartition(b"_")[2] not in path.read_bytes()


async def test_a_running_authority_keeps_a_second_one_out(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path) as server:
        second = await in_a_thread("up", "--port", "0", "--data-dir", server.data.path)
        assert second.returncode == 2
        assert second.stderr == f"countermand: another process is using {server.data.path}\n"
        third = await in_a_thread("up", "--port", str(server.port), "--data-dir", tmp_path / "other")
        assert third.returncode == 2
        assert "cannot be listened on" in third.stderr


async def test_each_error_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path) as server:
        data = server.data.path
        unknown = await in_a_thread("revoke", "session", "ses_" + "0" * 32, "--data-dir", data)
        assert (unknown.returncode, unknown.stderr) == (5, "countermand: there is no such session\n")
        wrong_key = await in_a_thread(
            "revoke",
            "session",
            "x",
            "--data-dir",
            data,
            COUNTERMAND_API_KEY=server.data.replica_key.read_text().strip(),
        )
        assert (wrong_key.returncode, wrong_key.stderr) == (4, "countermand: this needs the role administrator\n")
        bad_reason = await in_a_thread(
            "revoke", "session", await open_session(server, "x"), "--reason", "a\nb", "--data-dir", data
        )
        assert (bad_reason.returncode, bad_reason.stderr) == (1, "countermand: the reason holds a control character\n")
    gone = await in_a_thread("revoke", "session", "ses_" + "0" * 32, "--data-dir", data)
    assert gone.returncode == 3
    assert gone.stderr.count("\n") == 1
    nowhere = await in_a_thread("tail", "--data-dir", tmp_path / "nowhere")
    assert nowhere.returncode == 2
    assert "start one with `countermand up`" in nowhere.stderr


@pytest.mark.parametrize(
    "words", [("up", "--port", "70000"), ("revoke",), ("revoke", "session"), ("revoke", "nothing", "x")]
)
def test_a_wrong_use_is_explained(words: tuple[str, ...]) -> None:
    done = countermand(*words)
    assert done.returncode == 2
    assert "Usage: countermand" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_without_the_server_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('No module named typer', name='typer')\n")
    done = countermand("demo", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "countermand: typer is not installed: pip install 'countermand[server]'\n"
