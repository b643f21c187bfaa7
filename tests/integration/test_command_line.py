"""The command line as a whole: `up`, `tail`, its errors, and its secrets."""

import asyncio
import os
import re
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from countermand.cli.client import AuthorityClient
from tests.integration.biscuits import ROOT_KEYS, mint, plain_id
from tests.integration.commands import countermand, in_a_thread, lines_until, running
from tests.looking import stored
from tests.running import DEADLINE_S, ServerProcess
from tests.signer import Signer

pytestmark = pytest.mark.anyio


async def open_session(server: ServerProcess, subject: str) -> str:
    async with AuthorityClient.open(server.client_settings()) as client:
        application = await client.create_application("command line")
        session = await client.open_session(application["id"], subject)
    return str(session["id"])


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
        kept = stored(server.data)
        assert key.split(b"_")[1] in kept, "the files are the right ones"
        assert key.rpartition(b"_")[2] not in kept


async def test_tail_names_cutoffs_and_other_issuers(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path) as server:
        data = server.data.path
        with running("tail", "--data-dir", data) as tail:
            await asyncio.to_thread(lines_until, tail, "following")
            await in_a_thread("cutoff", "--subject", "zoe", "--before", "2026-01-31T12:00:00+01:00", "--data-dir", data)
            await in_a_thread("revoke", "token", "t:heart:", "--issuer", "https://idp.example", "--data-dir", data)
            cut, foreign = (await asyncio.to_thread(lines_until, tail, "idp.example"))[-2:]
            assert cut.endswith("  cutoff  subject:zoe  issued before 2026-01-31T11:00:00Z\n")
            assert foreign.endswith("  token  t:heart:  https://idp.example\n")


async def test_tail_prints_neither_a_token_nor_what_turns_the_writing_around(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path) as server:
        data = server.data.path
        with running("tail", "--data-dir", data) as tail:
            await asyncio.to_thread(lines_until, tail, "following")
            token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
            reason = f"back\u202ewards {token} end"
            await in_a_thread("revoke", "token", "t-1", "--issuer", "x", "--reason", reason, "--data-dir", data)
            line = (await asyncio.to_thread(lines_until, tail, "token"))[-1]
            assert "back\\u202ewards eyJ" in line
            assert line.endswith("… end\n")
            assert "eyJzdWIiOiJhbGljZSJ9" not in line


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
        assert (wrong_key.returncode, wrong_key.stderr) == (4, "countermand: this needs the role operator\n")
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
    "words",
    [
        ("up", "--port", "70000"),
        ("revoke",),
        ("revoke", "session"),
        ("revoke", "nothing", "x"),
        ("revoke", "session", "x", "--cascade"),
        ("revoke", "token", "x", "--bare", "--issuer", "https://idp.example"),
        ("revoke", "grant", "x", "--dry-run"),
        ("revoke", "grant", "x", "--reason", "it would be kept nowhere"),
        ("cutoff",),
        ("cutoff", "--subject", "alice", "--all"),
        ("cutoff", "--all", "--before", "2026-01-31T12:00:00"),
        ("cutoff", "--all", "--before", "noon"),
        ("tree",),
        ("biscuit", "revoke", "--family", "--block", "1", "x"),
        ("biscuit", "revoke", "--id", "00", "x"),
        ("biscuit", "revoke", "--block", "-1", "x"),
        ("inspect", "a.b.c", "--policy", "x"),
    ],
)
def test_a_wrong_use_is_explained(words: tuple[str, ...]) -> None:
    done = countermand(*words)
    assert done.returncode == 2
    assert "Usage: countermand" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


GUARDING = ("--audience", "https://api.example", "--url", "http://127.0.0.1:1")
REPLICA = {"COUNTERMAND_API_KEY": "key", "COUNTERMAND_PIN": str(Signer().pin)}


def without(module: str, path: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a verb where `module` is not installed."""
    (path / f"{module}.py").write_text(f"raise ModuleNotFoundError('No module named {module}', name='{module}')\n")
    return countermand(*words, PYTHONPATH=first(path), **REPLICA)


def first(path: Path) -> str:
    """Return a way by which Python finds what is in `path`, and then what it finds now."""
    return os.pathsep.join(filter(None, (str(path), os.environ.get("PYTHONPATH"))))


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("typer", ("demo",), "server"),
        ("sqlalchemy", ("up", "--port", "0"), "server"),
        ("aiohttp", ("gateway", *GUARDING, "--upstream", "http://127.0.0.1:1"), "gateway"),
        ("prometheus_client", ("forward-auth", *GUARDING, "--metrics-port", "1"), "metrics"),
        ("biscuit_auth", ("inspect", "A" * 200), "biscuit"),
    ],
)
def test_without_an_extra_the_command_says_what_to_install(
    tmp_path: Path, module: str, words: tuple[str, ...], extra: str
) -> None:
    done = without(module, tmp_path, *words)
    assert done.returncode == 1
    assert done.stderr == f"countermand: {module} is not installed: pip install 'countermand[{extra}]'\n"


@pytest.mark.parametrize("module", ["prometheus_client", "biscuit_auth"])
@pytest.mark.parametrize("verb", [("forward-auth",), ("gateway", "--upstream", "http://127.0.0.1:1")])
def test_what_nobody_asks_for_need_not_be_installed(tmp_path: Path, verb: tuple[str, ...], module: str) -> None:
    done = without(module, tmp_path, *verb, *GUARDING, "--host", "192.0.2.1")
    assert done.returncode == 2
    assert "cannot be listened on" in done.stderr


@pytest.mark.parametrize("verb", [("forward-auth",), ("gateway", "--upstream", "http://127.0.0.1:1")])
def test_where_biscuits_are_to_pass_what_is_missing_is_said(tmp_path: Path, verb: tuple[str, ...]) -> None:
    (tmp_path / "policy").write_text("allow if true;")
    words = (*verb, *GUARDING, "--biscuit-keys", f"ed25519/{'00' * 32}", "--biscuit-policy", str(tmp_path / "policy"))
    done = without("biscuit_auth", tmp_path, *words)
    assert done.returncode == 2
    assert done.stderr == "countermand: biscuit_auth is not installed: pip install 'countermand[biscuit]'\n"


async def test_biscuits_are_revoked_where_their_library_is_not_installed(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path, environ={"COUNTERMAND_BISCUIT_KEYS": ROOT_KEYS}) as server:
        (tmp_path / "biscuit_auth.py").write_text("raise ModuleNotFoundError('none', name='biscuit_auth')\n")
        for words in (("--id", plain_id()), (mint("a(1);"),)):
            done = await in_a_thread(
                *("biscuit", "revoke", *words, "--data-dir", server.data.path), PYTHONPATH=first(tmp_path)
            )
            assert (done.returncode, done.stderr) == (0, "")
            assert " is revoked: entry " in done.stdout


def test_every_verb_has_its_help() -> None:
    helped = countermand("biscuit", "revoke", "--help")
    assert helped.returncode == 0
    assert "the tokens from which it derives go on" in " ".join(helped.stdout.split())
    inspected = " ".join(countermand("inspect", "--help").stdout.split())
    assert "a text in it may look like statements" in inspected
    for option in ("--raw-input", "--public-key", "--policy", "--fact"):
        assert option in inspected
