"""Rotation and withdrawal of each kind of key, over real HTTP, with replicas running."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from countermand.enforce.decision import Allow, Decision, Deny
from countermand.enforce.guard import Guard
from countermand.enforce.inflight import Call
from countermand.log.checkpoint import Pin
from countermand.log.state import LogState
from countermand.replica.replica import Replica, ReplicaState
from countermand.replica.report import Reporter
from countermand.tokens.mandate import parse_mandate
from countermand.transport.http import HttpLog, open_client
from countermand.wiring import following_guard, keys_of, system_clock
from tests.integration.admin import AUDIENCE
from tests.integration.commands import typed
from tests.running import Running, authority_running, until

pytestmark = pytest.mark.anyio


@dataclass
class Service:
    """A resource server: a strict replica that follows over HTTP and reports, and a guard."""

    replica: Replica
    guard: Guard
    refused: list[Decision] = field(default_factory=list)

    @property
    def is_fresh(self) -> bool:
        return self.replica.status().state is ReplicaState.FRESH

    @property
    def keyset(self) -> int:
        return self.replica.state.pin.version


@asynccontextmanager
async def service(running: Running, pin: Pin, *, reports: bool = True) -> AsyncIterator[Service]:
    log = HttpLog(running.url, running.replica_key)
    replica = Replica(LogState(pin), system_clock, max_staleness_s=4)
    issuer = running.authority.issuer
    reporter = Reporter(replica, lambda: "rep_one", log.report) if reports else None
    guard = following_guard(keys_of(issuer), replica, log, issuer=issuer, audience=AUDIENCE, reporter=reporter)
    async with guard:
        one = Service(replica, guard)
        await until(lambda: one.is_fresh, "the replica is fresh")
        yield one


@asynccontextmanager
async def calling(running: Running, service: Service, session_id: str) -> AsyncIterator[list[str]]:
    """Mint and present a good mandate again and again while the block lasts; every one of them must pass.

    Gives the names of the keys that signed them, in order.
    """
    kids: list[str] = []

    async def call() -> None:
        while True:
            token = await running.client.issue_mandate(session_id, AUDIENCE)
            kid = parse_mandate(token).key_id or ""
            if kid not in kids:
                kids.append(kid)
            decision = await service.guard.decide(token)
            if not isinstance(decision, Allow):
                service.refused.append(decision)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(call())
    try:
        yield kids
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), "every mandate was minted"
    assert service.refused == [], "every good mandate passed"


async def opened(running: Running) -> str:
    application = await running.client.create_application("notes")
    return str((await running.client.open_session(application["id"], "alice"))["id"])


async def states(running: Running, purpose: str) -> dict[str, str]:
    answer = await running.client.signing_keys()
    return {key["id"]: key["state"] for key in answer["keys"] if key["purpose"] == purpose}


async def key_in(running: Running, purpose: str, state: str) -> str:
    return next(id_ for id_, at in (await states(running, purpose)).items() if at == state)


@pytest.mark.proof
async def test_checkpoint_keys_are_rotated_twice_and_no_replica_is_started_again(running: Running) -> None:
    first_pin, session_id = running.authority.pin, await opened(running)
    async with service(running, first_pin) as one, calling(running, one, session_id):
        for version in (2, 4):
            old = await key_in(running, "checkpoint", "active")
            made = await running.client.rotate_signing_key("checkpoint", wait_s=0, force=False)
            assert made["state"] == "next"

            async def has_left(id_: str = old) -> bool:
                return (await states(running, "checkpoint"))[id_] == "retired"

            await until(has_left, "the old key signs nothing, and leaves")
            await until(lambda version=version: one.keyset == version, "the replica believes the new key alone")  # type: ignore[misc]  # mypy infers no lambda with a default
            assert one.is_fresh
        await running.client.revoke("session", session_id)
    assert one.replica.error is None
    newest = running.authority.pin
    assert newest.version == 4
    assert not newest.keys.keys() & first_pin.keys.keys()
    assert Pin.parse(running.data.pin.read_text()) == newest, "a new replica is told the newest keys"
    for pin in (first_pin, newest):
        async with service(running, pin, reports=False) as late:
            assert late.keyset == 4, "offline through both rotations, or new"
            assert len(late.replica.state) == 1


async def test_the_new_checkpoint_key_waits_for_a_replica_that_does_not_know_it(running: Running) -> None:
    """A live one has reported, and hears nothing of the keyset: it would be lost."""
    report = {"generation": 1, "seq": 0, "keyset": 0, "strict": True, "max_staleness_ms": 30_000, "at_ms": 0}
    deaf = HttpLog(running.url, running.replica_key)
    await deaf.report(report | {"replica_id": "deaf"})
    await running.client.rotate_signing_key("checkpoint", wait_s=0, force=False)
    for _ in range(3):
        await running.authority.service.rotation.step()
        assert "next" in (await states(running, "checkpoint")).values()
    await deaf.report(report | {"replica_id": "deaf", "keyset": 1})
    async with open_client(10, url=running.url, headers={"authorization": f"Bearer {running.admin_key}"}) as http:
        (listed,) = (await http.get("/v1/replicas")).json()["items"]
    assert (listed["replica_id"], listed["keyset"], listed["live"]) == ("deaf", 1, True)
    assert running.replica_key.startswith(f"cmk_{listed['key_id']}_")
    await until(lambda: _has_switched(running), "the new key signs, once the last replica knows it")


async def _has_switched(running: Running) -> bool:
    return "next" not in (await states(running, "checkpoint")).values()


async def test_a_withdrawn_checkpoint_key_is_believed_no_more_at_once(running: Running) -> None:
    session_id = await opened(running)
    async with service(running, running.authority.pin) as one, calling(running, one, session_id):
        stolen = await key_in(running, "checkpoint", "active")
        await running.client.withdraw_signing_key(stolen, "stolen")
        await until(lambda: one.keyset == 1, "the replica has heard of it")
        assert stolen not in {id_.hex() for id_ in one.replica.state.pin.keys}
        applied_at_ms = one.replica.state.freshness.applied_at_ms
        await until(lambda: one.replica.state.freshness.applied_at_ms > applied_at_ms + 1000, "it follows the new key")
    assert (await states(running, "checkpoint"))[stolen] == "withdrawn"


async def test_mandate_keys_are_rotated_and_no_good_mandate_is_refused(running: Running) -> None:
    session_id = await opened(running)
    old = await running.client.issue_mandate(session_id, AUDIENCE)
    async with service(running, running.authority.pin) as one, calling(running, one, session_id) as kids:
        await until(lambda: len(kids) == 1, "the old key signs")
        made = await running.client.rotate_signing_key("mandate", wait_s=1, force=False)
        assert made["id"] in running.authority.keys.key_set, "it is made known before it signs"
        assert kids != [made["id"]]
        await until(lambda: kids[-1] == made["id"], "the new key signs")
        assert isinstance(await one.guard.decide(old), Allow), "what the old key signed is still good"
    assert (await states(running, "mandate"))[kids[0]] == "retiring"


async def test_whatever_a_withdrawn_mandate_key_signed_is_rejected_and_another_signs(running: Running) -> None:
    session_id = await opened(running)
    old = await running.client.issue_mandate(session_id, AUDIENCE)
    kid = parse_mandate(old).key_id or ""
    async with service(running, running.authority.pin) as one:
        call = await one.guard.admit(old, one.guard.combine(None))
        assert isinstance(call, Call)
        await running.client.withdraw_signing_key(kid, "leaked")

        async def is_rejected() -> bool:
            decision = await one.guard.decide(old)
            return isinstance(decision, Deny) and decision.code == "session_revoked"

        await until(is_rejected, "it is rejected, though the guard still has the key")
        await until(lambda: not call.may_pass(), "a call in flight ends")
        call.end()
        new = await running.client.issue_mandate(session_id, AUDIENCE)
        assert parse_mandate(new).key_id != kid
        assert isinstance(await one.guard.decide(new), Allow)
    assert kid not in running.authority.keys.key_set


async def test_revoking_the_only_key_as_a_key_withdraws_it(running: Running) -> None:
    """It must not go on signing what everybody rejects."""
    session_id = await opened(running)
    kid = parse_mandate(await running.client.issue_mandate(session_id, AUDIENCE)).key_id or ""
    await running.client.revoke("key", kid, issuer=running.authority.issuer)
    assert (await states(running, "mandate"))[kid] == "withdrawn"
    assert parse_mandate(await running.client.issue_mandate(session_id, AUDIENCE)).key_id != kid


@pytest.mark.proof
async def test_an_authority_that_starts_again_goes_on_with_a_rotation(tmp_path: Path) -> None:
    async with authority_running(tmp_path) as running:
        pin = running.authority.pin
        made = await running.client.rotate_signing_key("checkpoint", wait_s=2, force=False)
        rotated = await running.client.rotate_signing_key("mandate", wait_s=2, force=False)
    async with authority_running(tmp_path) as running:
        async with service(running, pin) as one:
            await until(lambda: _has_switched(running), "the next start ends what this one began")
            await until(lambda: one.keyset == 2, "and the old key leaves")
        assert (await states(running, "checkpoint"))[made["id"]] == "active"
        assert (await states(running, "mandate"))[rotated["id"]] == "active"


async def test_the_command_line_lists_rotates_and_withdraws(running: Running) -> None:
    where: tuple[str | Path, ...] = ("--data-dir", running.data.path)
    rotated = await typed("keys", "rotate", "mandate", "--wait", "300", *where)
    assert rotated.returncode == 0, rotated.stderr
    assert "is made known; it signs from" in rotated.stdout
    again = await typed("keys", "rotate", "mandate", *where)
    assert again.returncode == 1
    assert "under way" in again.stderr
    forced = await typed("keys", "rotate", "mandate", "--force", *where)
    assert "is active" in forced.stdout
    listed = await typed("keys", "list", *where)
    assert [line.split()[:2] for line in listed.stdout.splitlines()] == [
        ["checkpoint", "active"],
        ["mandate", "retiring"],
        ["mandate", "active"],
        ["keyset", "0"],
        ["pin", str(running.authority.pin)],
    ]
    id_ = await key_in(running, "mandate", "retiring")
    withdrawn = await typed("keys", "withdraw", id_, "--reason", "leaked", *where)
    assert withdrawn.stdout == f"mandate key {id_} is withdrawn\n"
    unknown = await typed("keys", "withdraw", "no-such-key", *where)
    assert unknown.returncode == 5
