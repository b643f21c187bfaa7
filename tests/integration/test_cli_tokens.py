"""`inspect` and `check`, of a token that is good, revoked, cut off, expired, forged, or none at all."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from countermand.cli.fleet import AUDIENCE, Fleet
from countermand.tokens.mandate import SigningKey, parse_mandate
from tests.integration.commands import in_a_thread, typed
from tests.integration.fleets import mandate_of, resting
from tests.running import Running, ServerProcess, authority_running
from tests.unit.mandates import OTHER_ES256, sign

pytestmark = pytest.mark.anyio


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(parse_mandate(token).payload)
    return claims


def own_key(running: Running) -> SigningKey:
    return SigningKey.from_pem((running.data.keys / "mandate.pem").read_bytes())


async def inspected(running: Running, token: str) -> dict[str, Any]:
    done = await typed("inspect", "--json", "--data-dir", running.data.path, given=token)
    assert (done.returncode, done.stderr) == (0, "")
    assert token not in done.stdout
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


async def shown(running: Running, token: str) -> list[str]:
    done = await typed("inspect", "--data-dir", running.data.path, given=f" {token}\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert token not in done.stdout
    return done.stdout.splitlines()


async def checked(running: Running, token: str, *options: str) -> tuple[int, list[str]]:
    done = await typed("check", *options, "--data-dir", running.data.path, given=token)
    assert done.stderr == ""
    assert token not in done.stdout
    return done.returncode, done.stdout.splitlines()


async def _scribe(fleet: Fleet) -> str:
    return await mandate_of(fleet, "scribe")


async def test_a_good_token_is_shown_whole_but_for_its_signature_and_allowed(running: Running) -> None:
    async with resting(running) as fleet:
        token = await _scribe(fleet)
        scribe = fleet.agents["scribe"]
        found = await inspected(running, token)
        claims = claims_of(token)
        assert found["claims"] == claims
        assert found["header"]["alg"] == "ES256"
        assert found["signature"]["state"] == "holds"
        assert found["unreadable"] is None
        path = [f"{one['kind']}:{one['id']}" for one in found["anchors"] if one["kind"] != "key"]
        assert path == [*claims["path"], f"token:{claims['jti']}"]
        assert {(one["is_revoked"], one["revoked_by"], one["cut_off_by"]) for one in found["anchors"]} == {
            (False, None, None)
        }
        assert found["knowledge"] | {"staleness_ms": 0} == {
            "is_fresh": True,
            "seq": 0,
            "staleness_ms": 0,
            "error": None,
        }
        assert found["knowledge"]["staleness_ms"] < 5_000
        lines = await shown(running, token)
        assert lines[0].startswith(f"signature  holds: signed by {running.url}, key ")
        assert f"    agent        {scribe}  not revoked" in lines
        assert lines[-2] == "nothing of this is revoked or cut off"
        assert lines[-1].startswith("known      as of entry 0, ")
        code, (decision, audience) = await checked(running, token)
        assert code == 0
        assert decision.startswith(f"allow alice by agent {scribe}, scope read, until 20")
        assert audience == f"asked for the token's own audience, {AUDIENCE}; --audience asks for another"


async def test_the_anchor_that_is_revoked_is_named_with_its_entry(running: Running) -> None:
    async with resting(running) as fleet:
        token, edge = await _scribe(fleet), fleet.delegations["reader"]
        await running.client.revoke("agent", fleet.agents["scout"])
        await running.client.revoke("delegation", edge)
        lines = await shown(running, token)
        assert f"    delegation   {edge}  REVOKED by entry 2" in lines
        assert sum("REVOKED by" in line for line in lines) == 1
        assert lines[-2] == f"IT IS REVOKED: delegation {edge}, entry 2"
        code, lines = await checked(running, token, "--audience", AUDIENCE)
        assert code == 1
        assert lines == [
            f"deny 401 session_revoked: the authority on which the token rests was revoked (delegation:{edge}, entry 2)"
        ]
        _, told = await checked(running, token, "--json")
        answer = json.loads("".join(told))
        assert (answer["decision"], answer["status"], answer["reason"], answer["seq"]) == (
            "deny",
            401,
            f"delegation:{edge}",
            2,
        )


async def test_a_cutoff_that_reaches_the_token_is_named_with_its_entry(running: Running) -> None:
    async with resting(running) as fleet:
        token = await _scribe(fleet)
        await running.client.cut_off("subject:bob")
        await running.client.cut_off("subject:alice")
        lines = await shown(running, token)
        assert "    subject      alice  not revoked, CUT OFF by entry 2" in lines
        assert lines[-2] == "IT IS CUT OFF: subject alice, entry 2"
        code, lines = await checked(running, token)
        assert (code, lines[0].rpartition(" (")[2]) == (1, "subject:alice, entry 2)")
        await running.client.cut_off("all")
        assert (await shown(running, token))[-2] == "IT IS CUT OFF: everyone, entry 3"
        code, lines = await checked(running, token)
        assert (code, lines[0].rpartition(" (")[2]) == (1, "cutoff:all, entry 3)")


async def test_a_forged_token_is_shown_and_loudly_not_believed(running: Running) -> None:
    async with resting(running) as fleet:
        token = await _scribe(fleet)
        claims = claims_of(token)
        changed = sign(claims | {"sub": "mallory"}, OTHER_ES256, {"alg": "ES256", "kid": own_key(running).kid})
        lines = await shown(running, changed)
        assert lines[0].startswith("THE SIGNATURE DOES NOT HOLD: ")
        assert lines[0].endswith("The claims are not proven")
        assert '    sub                 "mallory"' in lines
        code, (decision, *_) = await checked(running, changed)
        assert (code, decision) == (
            1,
            "deny 401 invalid_token: the token's signature does not hold (bad_token_signature)",
        )
        unsigned = f"{sign(claims, OTHER_ES256, {'alg': 'none'}).rpartition('.')[0]}."
        assert (await shown(running, unsigned))[0].startswith("THE SIGNATURE DOES NOT HOLD: ")


async def test_an_expired_token_is_shown_and_denied(running: Running) -> None:
    async with resting(running) as fleet:
        claims = claims_of(await _scribe(fleet))
        now_s = int(time.time())
        expired = sign(claims | {"iat": now_s - 1_000, "exp": now_s - 100}, own_key(running))
        lines = await shown(running, expired)
        assert lines[0].startswith("signature  holds")
        (exp,) = [line for line in lines if line.startswith("    exp ")]
        assert "EXPIRED 10" in exp
        code, (decision, *_) = await checked(running, expired)
        assert (code, decision) == (1, "deny 401 invalid_token: the token has expired (expired_token)")


async def test_claims_that_no_guard_would_read_are_shown_with_the_reason(running: Running) -> None:
    broken = sign({"iss": running.url, "sub": "\x1b[31mred\u202e", "rev": "none"}, own_key(running))
    lines = await shown(running, broken)
    assert '    sub  "\\u001b[31mred\\u202e"' in lines
    assert "no guard would read it: the claim rev is not [generation, seq]" in lines
    assert not any(char in "".join(lines) for char in "\x1b\u202e")


async def test_a_token_within_a_token_is_cut_short_too(running: Running) -> None:
    async with resting(running) as fleet:
        inner = await _scribe(fleet)
        outer = sign(claims_of(inner) | {"act_token": inner}, own_key(running))
        for output in ("\n".join(await shown(running, outer)), json.dumps(await inspected(running, outer))):
            assert inner not in output
            assert inner[100:] not in output


async def test_a_foreign_token_is_looked_up_by_its_issuer(running: Running) -> None:
    now_s = int(time.time())
    claims = {"iss": "https://idp.example", "sub": "alice", "aud": "x", "exp": now_s + 60, "iat": now_s, "jti": "j"}
    token = sign(claims, OTHER_ES256)
    await running.client.revoke("token", "j", issuer="https://idp.example")
    lines = await shown(running, token)
    assert lines[0].startswith("THE SIGNATURE WAS NOT CHECKED: ")
    assert lines[0].endswith("The claims are not proven")
    assert "    token    j of https://idp.example  REVOKED by entry 1" in lines
    code, (decision, *_) = await checked(running, token)
    assert (code, decision.rpartition(" ")[2]) == (1, "(unknown_token_key)")


async def test_check_asks_for_another_audience_and_issuer(running: Running) -> None:
    async with resting(running) as fleet:
        token = await _scribe(fleet)
        code, lines = await checked(running, token, "--audience", "resource://other")
        assert (code, lines) == (1, ["deny 401 invalid_token: the token is meant for someone else (wrong_audience)"])


async def test_an_issuer_that_is_not_the_authoritys_url_is_named_by_an_option(tmp_path: Path) -> None:
    async with authority_running(tmp_path, issuer="http://localhost:1") as running, resting(running) as fleet:
        token = await _scribe(fleet)
        code, lines = await checked(running, token, "--audience", AUDIENCE)
        assert (code, lines) == (
            1,
            [
                "deny 401 invalid_token: the token was issued by someone else (wrong_issuer)",
                f"asked for tokens of {running.url}; --issuer names another issuer",
            ],
        )
        done = await typed(
            "check", "--issuer", "http://localhost:1", "--data-dir", running.data.path, given=token
        )  # whose keys nobody serves
        assert (done.returncode, done.stdout.partition(":")[0]) == (3, "deny 503 keys_unavailable")
        assert token not in done.stderr


@pytest.mark.parametrize("given", ["abc", "a.b.c", "eyJh.eyJh.eyJh", "x" * 20_000, b"\xff\xfe.\x00.\x80"])
async def test_what_is_no_token_is_refused_in_a_line_that_does_not_repeat_it(
    shared: Running, given: str | bytes
) -> None:
    done = await typed("inspect", "--data-dir", shared.data.path, given=given)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert str(given) not in done.stderr
    done = await typed("check", "--data-dir", shared.data.path, given=given)
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (1, 1, "")
    assert done.stdout.startswith("deny 401 invalid_token: ")


async def test_no_token_at_all_is_a_wrong_use(shared: Running) -> None:
    for verb in ("inspect", "check"):
        done = await typed(verb, "--data-dir", shared.data.path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)


async def test_without_an_authority_it_says_that_nothing_is_known(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path) as server:
        data = server.data.path
        key = SigningKey.from_pem((server.data.keys / "mandate.pem").read_bytes())
        now_s = int(time.time())
        token = sign({"iss": server.url, "sub": "alice", "aud": "x", "exp": now_s + 600, "iat": now_s}, key)
        alive = await in_a_thread("check", token, "--data-dir", data)
        assert (alive.returncode, alive.stdout.startswith("allow alice, until ")) == (0, True)
        unwritten = await in_a_thread("inspect", "-", "--data-dir", data, given=token)
        assert unwritten.returncode == 0
    gone = await in_a_thread("inspect", "--data-dir", data, given=token)
    assert gone.returncode == 3
    lines = gone.stdout.splitlines()
    assert lines[0].startswith("THE SIGNATURE WAS NOT CHECKED: ")
    assert '    sub  "alice"' in lines
    assert f"    subject  alice of {server.url}  not known" in lines
    assert lines[-2:] == [
        "WHETHER IT IS REVOKED IS NOT KNOWN",
        "known      NOTHING IS KNOWN: the log could not be followed (unreachable)",
    ]
    unknown = await in_a_thread("check", "--data-dir", data, given=token)
    assert unknown.returncode == 3
    assert unknown.stdout.startswith("deny 503 keys_unavailable: ")
    assert token not in gone.stdout + gone.stderr + unknown.stdout + unknown.stderr
