"""`audit` and `access` as a person types them."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import update

from countermand.authority import tables
from countermand.cli.following import UNKNOWN_EXIT
from tests.integration.commands import lines_until, typed
from tests.integration.commands import running as typing_on
from tests.looking import writing
from tests.running import Running

pytestmark = pytest.mark.anyio


async def _in_a_thread(process: "subprocess.Popen[str]", wanted: str) -> list[str]:
    return await asyncio.to_thread(lines_until, process, wanted)


async def _typed(running: Running, *words: str | Path, code: int = 0) -> str:
    done = await typed(*words, "--data-dir", running.data.path)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


async def _revoke_something(running: Running, reason: str) -> str:
    application = (await running.client.create_application("notes"))["id"]
    session = str((await running.client.open_session(application, "alice"))["id"])
    await running.client.revoke("session", session, reason)
    return session


async def test_audit_shows_who_did_what_to_what_and_why(running: Running) -> None:
    session = await _revoke_something(running, "left the\u202ecompany")
    *_, line = (await _typed(running, "audit")).splitlines()
    key_id = running.admin_key.split("_")[1]
    words = (
        f"administrator  {key_id}  session.revoke  {session}  entry 1  left the\\u202ecompany  from 127.0.0.1 (request "
    )
    assert words in line
    assert line.split()[0] == "5"


async def test_an_export_is_proven_by_the_pin_alone_and_a_changed_one_is_refused(
    running: Running, tmp_path: Path
) -> None:
    await _revoke_something(running, "left")
    export = tmp_path / "audit.jsonl"
    assert await _typed(running, "audit", "--export", export) == ""
    assert "File exists" in await _typed(running, "audit", "--export", export, code=2)
    told = await _typed(running, "audit", "verify", export)
    assert told.startswith(f"rows 1 to 5 are proven: {running.authority.pin.log_id} signed them at ")

    await _revoke_something(running, "left")
    longer = tmp_path / "longer.jsonl"
    await _typed(running, "audit", "--export", longer)
    unsigned = [line for line in longer.read_text("ascii").splitlines() if "row" in json.loads(line)][5:]
    longer.write_text(export.read_text("ascii") + "\n".join(unsigned), "ascii")
    told = await _typed(running, "audit", "verify", longer, code=UNKNOWN_EXIT)
    assert "rows 1 to 5 are proven" in told
    assert "rows 6 to 8 are NOT PROVEN" in told

    lines = export.read_text("ascii").splitlines()
    assert [next(iter(json.loads(line))) for line in lines][-1] == "seal"
    for changed, row in (
        (export.read_text("ascii").replace('"left"', '"lost"'), 5),
        ("\n".join(lines[:1] + lines[2:]), 2),
        ("\n".join([*lines[:1], lines[2], lines[1], *lines[3:]]), 2),
        ("\n".join([*lines[:4], lines[-1]]), 5),
    ):
        export.write_text(changed, "ascii")
        assert f"row {row} of the audit" in await _typed(running, "audit", "verify", export, code=1)
    export.write_text("\n".join(lines[:5]), "ascii")
    assert "NOTHING IS PROVEN" in await _typed(running, "audit", "verify", export, code=UNKNOWN_EXIT)
    export.write_text("\n".join(["{}", *lines]), "ascii")
    assert "an object has the fields row" in await _typed(running, "audit", "verify", export, code=1)


async def test_verify_asks_the_authority_and_finds_what_was_changed_in_its_database(
    running: Running, tmp_path: Path
) -> None:
    await _revoke_something(running, "left")
    export = tmp_path / "audit.jsonl"
    await _typed(running, "audit", "--export", export)
    await _revoke_something(running, "left too")
    assert "rows 1 to 8 are proven" in await _typed(running, "audit", "verify", "--against", export)
    async with writing(running.authority.heartbeat._database) as connection:
        await connection.execute(update(tables.audit).where(tables.audit.c.number == 4).values(reason="no"))
    assert "row 4 of the audit was changed" in await _typed(running, "audit", "verify", code=1)


async def test_audit_follows_what_is_changed(running: Running) -> None:
    with typing_on("audit", "--follow", "--data-dir", running.data.path) as process:
        await _in_a_thread(process, "api_key.create")
        session = await _revoke_something(running, "left")
        lines = await _in_a_thread(process, "session.revoke")
    assert session in lines[-1]


async def test_access_makes_lists_and_revokes_keys(running: Running) -> None:
    secret = (await _typed(running, "access", "create", "operator", "pager", "--days", "2")).strip()
    id_ = secret.split("_")[1]
    [line] = [line for line in (await _typed(running, "access", "list")).splitlines() if line.startswith(id_)]
    assert line.split()[1] == "operator"
    assert line.endswith("never used  pager")
    assert "good until" in line
    assert secret.split("_")[2] not in await _typed(running, "access", "list", "--json")
    assert "revoked since" in await _typed(running, "access", "revoke", id_, "--reason", "left")
    assert "api_key.revoke" in (await _typed(running, "audit")).splitlines()[-1]
    last = running.admin_key.split("_")[1]
    assert "nobody could administer" in await _typed(running, "access", "revoke", last, code=1)
