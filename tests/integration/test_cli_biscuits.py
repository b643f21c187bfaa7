"""`inspect` and `biscuit revoke`, of a Biscuit that is good, revoked, forged, or none at all."""

import asyncio
import json
import time
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from countermand.cli.receipts import NOT_ENFORCED_EXIT
from countermand.log.revocation_id import parse_revocation_id, twins
from tests.databases import Kind
from tests.integration.biscuits import OTHER, ROOT_KEYS, attenuated, ids_of, mint, plain_id, twin_ids
from tests.integration.commands import countermand, in_a_thread, typed
from tests.integration.misbehaving import misbehaving
from tests.integration.test_waiting import replica_at
from tests.running import Running, ServerProcess, authority_running

pytestmark = pytest.mark.anyio

TOKEN: Final = mint('user("alice");', 'check if operation("read");')
PUBLIC_KEY: Final = ("--public-key", ROOT_KEYS)


@pytest.fixture(scope="module")
async def keyless(tmp_path_factory: pytest.TempPathFactory, database_kind: Kind) -> AsyncIterator[Running]:
    """An authority that knows nobody's root keys."""
    async with authority_running(tmp_path_factory.mktemp("keyless")) as authority:
        yield authority


async def shown(running: Running, token: str, *options: str | Path) -> list[str]:
    done = await typed("inspect", *options, "--data-dir", running.data.path, given=f" {token}\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert token not in done.stdout
    return done.stdout.splitlines()


async def inspected(running: Running, token: str, *options: str | Path) -> dict[str, Any]:
    done = await typed("inspect", "--json", *options, "--data-dir", running.data.path, given=token)
    assert (done.returncode, done.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


async def said(running: Running, *words: str | Path, given: str = "") -> str:
    """Revoke, which works; return the one line that is printed."""
    done = await typed("biscuit", "revoke", *words, "--data-dir", running.data.path, given=given)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    return done.stdout.rstrip("\n")


async def refused(running: Running, *words: str | Path, given: str = "") -> tuple[int, str]:
    done = await typed("biscuit", "revoke", *words, "--data-dir", running.data.path, given=given)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


async def seq(running: Running) -> int:
    return int((await inspected(running, TOKEN))["knowledge"]["seq"])


async def test_each_block_is_shown_with_whether_its_id_is_revoked(running: Running) -> None:
    first, second = ids_of(TOKEN)
    assert (await shown(running, TOKEN, *PUBLIC_KEY))[-7:-1] == [
        "✅ Public key check succeeded 🔑: the signature holds",
        "🙈 Datalog check skipped 🛡️",
        "revocation ids, the authority block's first",
        "    block 0  not revoked",
        "    block 1  not revoked",
        "nothing of this is revoked or cut off",
    ]
    await running.client.revoke("biscuit", plain_id())
    await running.client.revoke("biscuit", second)
    lines = await shown(running, TOKEN)
    assert lines[lines.index("== Revocation id ==") + 1] == first
    assert lines[-5:-1] == [
        "revocation ids, the authority block's first",
        "    block 0  not revoked",
        "    block 1  REVOKED by entry 2",
        "IT IS REVOKED, if the ids are its own: block 1, entry 2",
    ]
    assert lines[-1].startswith("known      as of entry 2, ")
    found = await inspected(running, TOKEN, *PUBLIC_KEY)
    assert [(one["revocation_id"], one["revoked"], one["revoked_by"]) for one in found["blocks"]] == [
        (first, False, None),
        (second, True, 2),
    ]
    assert found["blocks"][1] | {"expires_at": None} == {
        "datalog": 'check if operation("read");\n',
        "revocation_id": second,
        "canonical_id": second,
        "external_key": None,
        "expires_at": None,
        "revoked": True,
        "revoked_by": 2,
        "listed": None,
    }
    assert (found["signature"]["state"], found["datalog"]) == ("holds", {"state": "not checked", "reason": None})
    assert (found["cutoff_for_all"], found["knowledge"]["is_fresh"]) == (None, True)


async def test_a_cutoff_for_everyone_is_told_of_a_verified_token(running: Running) -> None:
    await running.client.cut_off("all")
    lines = await shown(running, mint("a(1);"), *PUBLIC_KEY)
    assert "IT IS CUT OFF: everyone, entry 1" in lines
    assert "no id of this is revoked" in await shown(running, mint("a(1);"))


async def test_a_policy_says_whether_it_may(shared: Running, tmp_path: Path) -> None:
    policy = tmp_path / "policy.datalog"
    policy.write_text('allow if user("alice"), operation($any);')
    asked = (*PUBLIC_KEY, "--policy", policy)
    lines = await shown(shared, TOKEN, *asked, "--fact", "operation=read")
    assert "✅ Datalog check succeeded 🛡️: the policy allows it now" in lines
    lines = await shown(shared, TOKEN, *asked, "--fact", "operation=write")
    assert "❌ Datalog check failed 🛡️: a check of the token, or of the policy, does not hold" in lines
    found = await inspected(shared, TOKEN, *asked, "--fact", "operation=write")
    assert found["datalog"] == {"state": "refused", "reason": "checks_failed"}
    expired = mint('user("alice");', "check if time($now), $now < 2020-01-01T00:00:00Z;")
    found = await inspected(shared, expired, *asked, "--fact", "operation=read")
    assert (found["datalog"]["state"], found["expires_at"]) == ("refused", "2020-01-01T00:00:00Z")
    assert [one["expires_at"] for one in found["blocks"]] == [None, "2020-01-01T00:00:00Z"]
    lines = await shown(shared, expired, *PUBLIC_KEY)
    assert any(line.startswith("passes nowhere from 2020-01-01T00:00:00Z on, ") for line in lines)


async def test_a_token_is_read_from_a_file_in_base64_or_in_binary_as_an_argument_and_from_standard_input(
    shared: Running, tmp_path: Path
) -> None:
    text, binary = tmp_path / "token", tmp_path / "token.bc"
    text.write_text(f"{TOKEN}\n")
    binary.write_bytes(urlsafe_b64decode(TOKEN))
    where = ("--json", "--data-dir", shared.data.path)
    answers = [
        await typed("inspect", text, *where),
        await typed("inspect", binary, "--raw-input", *where),
        await typed("inspect", TOKEN, *where),
        await typed("inspect", f"biscuit:{TOKEN}", *where),
        await typed("inspect", *where, given=TOKEN),
        await typed("inspect", "-", "--raw-input", *where, given=urlsafe_b64decode(TOKEN)),
    ]
    assert {json.dumps(json.loads(answer.stdout)["blocks"]) for answer in answers} == {
        json.dumps(json.loads(answers[0].stdout)["blocks"])
    }
    for wrong in (text / "gone", tmp_path / "gone.bc", "gone.bc"):
        for options in ((), ("--raw-input",)):
            done = await typed("inspect", wrong, *options, *where)
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


async def test_what_was_given_for_a_biscuit_is_refused_for_a_mandate_and_without_a_key(
    shared: Running, tmp_path: Path
) -> None:
    mandate = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
    policy = tmp_path / "policy"
    policy.write_text("allow if true")
    where = ("--data-dir", shared.data.path)
    for words, token in (
        (PUBLIC_KEY, mandate),
        (("--policy", policy), mandate),
        (("--policy", policy), TOKEN),
        ((*PUBLIC_KEY, "--policy", tmp_path / "gone"), TOKEN),
        (("--public-key", "ed25519/00"), TOKEN),
        ((*PUBLIC_KEY, "--policy", policy, "--fact", "operation"), TOKEN),
        ((*PUBLIC_KEY, "--policy", policy, "--fact", "a=1", "--fact", "a=2"), TOKEN),
    ):
        done = await typed("inspect", *words, *where, given=token)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert token[20:] not in done.stderr


def test_without_an_authority_a_biscuit_is_shown_all_the_same(tmp_path: Path) -> None:
    binary = tmp_path / "token.bc"
    binary.write_bytes(urlsafe_b64decode(TOKEN))
    done = countermand("inspect", str(binary), "--raw-input", HOME=str(tmp_path), COUNTERMAND_BISCUIT_KEYS=ROOT_KEYS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-3:] == [
        "✅ Public key check succeeded 🔑: the signature holds",
        "🙈 Datalog check skipped 🛡️",
        "🙈 Revocation check skipped: no authority has run here, and COUNTERMAND_URL names none",
    ]
    ascii_only = countermand("inspect", TOKEN, PYTHONIOENCODING="ascii")
    assert (ascii_only.returncode, ascii_only.stderr) == (0, "")
    assert "Block n\\xb01:" in ascii_only.stdout
    named = countermand("inspect", TOKEN, "--data-dir", str(tmp_path / "none"))
    assert (named.returncode, named.stdout) == (2, "")


def test_a_list_that_is_configured_is_asked_about_every_id(tmp_path: Path) -> None:
    canonical = ids_of(TOKEN)[1]
    for environ in (
        {"COUNTERMAND_REVOKED_IDS": f"{plain_id()},{canonical.upper()}"},
        {"COUNTERMAND_REVOKED_IDS_FILE": str(tmp_path / "revoked")},
    ):
        (tmp_path / "revoked").write_text(f"# leaked\n{canonical}\n")
        done = countermand("inspect", TOKEN, *PUBLIC_KEY, **environ)
        assert done.returncode == 0
        assert done.stdout.splitlines()[-4:] == [
            "    block 0  not revoked",
            "    block 1  REVOKED by the list",
            "IT IS REVOKED: block 1, the list",
            "known      what is listed: no authority was asked",
        ]
    blocks = json.loads(countermand("inspect", TOKEN, "--json", **environ).stdout)["blocks"]
    assert [(one["revoked"], one["revoked_by"], one["listed"]) for one in blocks] == [
        (False, None, False),
        (True, None, True),
    ]
    malformed = countermand("inspect", TOKEN, COUNTERMAND_REVOKED_IDS="none")
    assert (malformed.returncode, malformed.stdout, malformed.stderr.count("\n")) == (2, "", 1)


async def test_where_the_authority_is_gone_what_is_revoked_is_not_known(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path) as server:
        data = server.data.path
    gone = await in_a_thread("inspect", "--data-dir", data, given=TOKEN)
    assert gone.returncode == 3
    assert gone.stdout.splitlines()[-4:] == [
        "    block 0  not known",
        "    block 1  not known",
        "WHETHER IT IS REVOKED IS NOT KNOWN",
        "known      NOTHING IS KNOWN: the log could not be followed (unreachable)",
    ]


async def test_a_token_ends_with_what_derives_from_it_and_its_parents_go_on(shared: Running) -> None:
    child = attenuated(TOKEN)
    before = await seq(shared)
    dry = await said(shared, "--dry-run", given=child)
    assert dry == (
        "revoking this Biscuit and all that derives from it would reach what cannot be counted: "
        f"whoever has one can derive others, as of entry {before}"
    )
    done = await said(shared, "--reason", "leaked", given=child)
    assert done == (
        f"this Biscuit and all that derives from it is revoked: entry {before + 1}, kept for ever; "
        "the tokens from which it derives go on"
    )
    again = await said(shared, child)
    assert again.startswith("this Biscuit and all that derives from it was already revoked: entry ")
    states = [one["revoked"] for one in (await inspected(shared, attenuated(child)))["blocks"]]
    assert states == [False, False, True, False]


async def test_a_block_and_a_family_end_with_all_that_carries_them(shared: Running, tmp_path: Path) -> None:
    token = mint("a(1);", "check if true;", "check if true;")
    binary = tmp_path / "token.bc"
    binary.write_bytes(urlsafe_b64decode(token))
    before = await seq(shared)
    block = await said(shared, "--block", "1", given=token)
    assert block == (
        f"what carries block 1, and all that derives from it, is revoked: entry {before + 1}, kept for ever; "
        "the tokens from which it derives go on"
    )
    family = await said(shared, binary, "--raw-input", "--family")
    assert family == (
        f"the family, which is whatever carries the authority block, is revoked: entry {before + 2}, kept for ever"
    )
    assert [one["revoked"] for one in (await inspected(shared, token))["blocks"]] == [True, True, False]
    code, error = await refused(shared, "--block", "3", given=token)
    assert (code, error) == (1, "countermand: the token has no such block: its last is 2\n")


async def test_an_entry_is_kept_until_nothing_passes_any_more(shared: Running) -> None:
    ending = int(time.time()) + 86_400
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ending))
    line = await said(shared, given=mint("a(1);", f"check if time($now), $now < {at};"))
    assert ", kept until nothing of it passes any more, 20" in line
    done = await typed("biscuit", "revoke", "--json", "--data-dir", shared.data.path, given=mint("a(1);"))
    answer = json.loads(done.stdout)
    assert (answer["kind"], answer["is_new"], answer["expires_at"]) == ("biscuit", True, None)


async def test_bare_ids_are_revoked_in_any_form_and_all_or_none_of_them(shared: Running) -> None:
    canonical, twin = twin_ids()
    plain = plain_id()
    before = await seq(shared)
    where = ("--data-dir", shared.data.path)
    code, error = await refused(shared, "--id", plain, "--id", "none")
    assert (code, error) == (1, "countermand: a revocation id is the hex of a signature\n")
    assert await seq(shared) == before
    done = await typed("biscuit", "revoke", "--id", plain.upper(), "--id", twin, "--reason", "leaked", *where)
    assert done.stdout.splitlines() == [
        f"whatever carries {id_[:12]}… is revoked: entry {before + number}, kept for ever; "
        "the tokens from which it derives go on"
        for number, id_ in enumerate((plain, canonical), start=1)
    ]
    again = await typed("biscuit", "revoke", "--json", "--id", canonical, *where)
    (answer,) = json.loads(again.stdout)["revocations"]
    assert (answer["id"], answer["seq"], answer["is_new"]) == (canonical, before + 2, False)
    assert set(twins(parse_revocation_id(twin))) == {canonical, twin}


async def test_where_a_later_id_fails_what_was_done_before_is_told_and_what_is_left(shared: Running) -> None:
    first, second, third = ids = [plain_id() for _ in range(3)]
    made = await shared.client.revoke("biscuit", first)
    entry = await shared.client.revocation(made["seq"])

    async def answers_about_the_first(writer: asyncio.StreamWriter) -> None:
        if len(server.requests) > 2:
            return  # hangs up
        status, body = ("201 Created", made) if server.requests[-1].startswith("POST") else ("200 OK", entry)
        text = json.dumps(body)
        writer.write(f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n".encode())
        writer.write(f"content-length: {len(text)}\r\nconnection: close\r\n\r\n{text}".encode())
        await writer.drain()

    words = ["biscuit", "revoke", *(word for id_ in ids for word in ("--id", id_)), "--wait", "1"]
    for options in ((), ("--json",)):
        async with misbehaving(answers_about_the_first) as server:
            where = {"COUNTERMAND_URL": server.url, "COUNTERMAND_API_KEY": shared.admin_key}
            done = await in_a_thread(*words, *options, **where)
        assert (done.returncode, done.stderr.count("\n")) == (3, 1)
        assert "did not answer" in done.stderr
        if options:
            answer = json.loads(done.stdout)
            assert ([one["id"] for one in answer["revocations"]], answer["unanswered"]) == ([first], [second, third])
        else:
            revoked = f"whatever carries {first[:12]}… is revoked: entry {made['seq']}, kept for ever; "
            assert done.stdout.splitlines() == [
                f"{revoked}the tokens from which it derives go on",
                f"whatever carries {second[:12]}… may go on: see the error",
                f"whatever carries {third[:12]}… may go on: see the error",
            ]


async def test_a_token_that_does_not_verify_revokes_nothing(shared: Running, keyless: Running) -> None:
    forged = mint("a(1);", key=OTHER)
    before = await seq(shared), await seq(keyless)
    code, error = await refused(shared, given=forged)
    assert (code, error) == (1, "countermand: a signature of the Biscuit does not hold\n")
    code, error = await refused(keyless, *PUBLIC_KEY, given=forged)
    assert (code, error) == (1, "countermand: a signature of the Biscuit does not hold\n")
    for given in ("abc", "x" * 20_000, TOKEN[:-8]):
        code, error = await refused(shared, given=given)
        assert (code, error.count("\n")) == (1, 1)
        assert given not in error
    assert (await seq(shared), await seq(keyless)) == before


async def test_where_the_authority_has_no_key_the_token_is_verified_here(keyless: Running) -> None:
    before = await seq(keyless)
    code, error = await refused(keyless, given=TOKEN)
    assert code == 2
    assert "give --public-key, or set COUNTERMAND_BISCUIT_KEYS" in error
    code, error = await refused(keyless, *PUBLIC_KEY, "--block", "2", given=TOKEN)
    assert (code, error) == (1, "countermand: the token has no such block: its last is 1\n")
    assert await seq(keyless) == before
    dry = await said(keyless, *PUBLIC_KEY, "--dry-run", given=TOKEN)
    assert dry.endswith(f"as of entry {before}")
    done = await said(keyless, *PUBLIC_KEY, given=TOKEN)
    assert done.startswith(f"this Biscuit and all that derives from it is revoked: entry {before + 1}, kept for ever; ")
    await said(keyless, *PUBLIC_KEY, "--family", given=TOKEN)
    assert [one["revoked_by"] for one in (await inspected(keyless, TOKEN))["blocks"]] == [before + 2, before + 1]


async def test_it_waits_until_all_replicas_enforce_it(running: Running) -> None:
    where = ("--wait", "20", "--data-dir", running.data.path)
    async with AsyncExitStack() as stack:
        for number in range(2):
            await stack.enter_async_context(replica_at(running, f"rep_{number}"))
        by_token = await typed("biscuit", "revoke", *PUBLIC_KEY, *where, given=TOKEN)
        by_id = await typed("biscuit", "revoke", "--id", plain_id(), "--id", plain_id(), *where)
    for done, lines in ((by_token, 2), (by_id, 3)):
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("\n") == lines
        assert done.stdout.splitlines()[-1].startswith("2 of 2 replicas enforce it, the last after ")


async def test_without_a_replica_to_wait_for_it_fails(running: Running) -> None:
    for words in ((*PUBLIC_KEY, TOKEN), ("--id", plain_id())):
        done = await typed("biscuit", "revoke", *words, "--wait", "0.1", "--data-dir", running.data.path)
        assert done.returncode == NOT_ENFORCED_EXIT
        assert done.stdout.splitlines()[-1] == "no replica reports: nobody is known to enforce it"


@pytest.mark.parametrize(
    "words",
    [
        ("--id", "00" * 64, "--family"),
        ("--id", "00" * 64, "--block", "0"),
        ("--id", "00" * 64, "--public-key", ROOT_KEYS),
        ("--id", "00" * 64, TOKEN),
        ("--family", "--block", "1", TOKEN),
        ("--block", "-1", TOKEN),
        ("--dry-run", "--wait", "1", TOKEN),
        (TOKEN, TOKEN),
        ("eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl",),
        (),
    ],
)
async def test_a_wrong_use_revokes_nothing_and_repeats_no_token(shared: Running, words: tuple[str, ...]) -> None:
    code, error = await refused(shared, *words)
    assert code == 2
    assert not any(word[20:] in error for word in words if len(word) > 130)
