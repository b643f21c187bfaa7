"""Revocations that wait for the replicas, over real HTTP and with real replicas."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from countermand.enforce.guard import Guard
from countermand.log.state import LogState
from countermand.replica.replica import Replica
from countermand.replica.report import Reporter
from countermand.settings import DataDir
from countermand.transport.http import HttpLog
from countermand.wiring import following_guard, keys_of, system_clock
from tests.databases import DATABASES
from tests.integration.admin import AUDIENCE, Admin, administering
from tests.integration.problems import refused
from tests.running import Running, authority_running, until

pytestmark = pytest.mark.anyio

Json = dict[str, Any]


@asynccontextmanager
async def replica_at(running: Running, replica_id: str, *, best_effort: bool = False) -> AsyncIterator[Guard]:
    """Run a resource server's guard that reports as `replica_id`; the authority has heard of it."""
    log = HttpLog(running.url, running.replica_key)
    replica = Replica(LogState(running.authority.pin), system_clock, best_effort=best_effort)
    reporter = Reporter(replica, lambda: replica_id, log.report)
    issuer = running.authority.issuer
    guard = following_guard(keys_of(issuer), replica, log, issuer=issuer, audience=AUDIENCE, reporter=reporter)
    async with guard:
        await until(lambda: is_known(running, replica_id), "the authority has heard of it")
        yield guard


async def is_known(running: Running, replica_id: str) -> bool:
    return any(one.report.replica_id == replica_id for one in await running.authority.service.replicas.all())


@pytest.fixture
async def desk(running: Running) -> AsyncIterator[Admin]:
    """An administrator of an authority of this test alone."""
    async with administering(running) as admin:
        yield admin


async def opened(admin: Admin) -> str:
    return await admin.session(await admin.application())


async def revoked(admin: Admin, wait: float, path: str = "revocations", **body: Any) -> Json:
    """Revoke a session, if nothing else is given, and wait; return the receipt."""
    what = body or {"kind": "session", "id": await opened(admin)}
    response = await admin.http.post(f"/v1/{path}?wait={wait}", json=what)
    assert response.status_code == 201, response.text
    receipt: Json = response.json()["receipt"]
    return receipt


async def test_three_replicas_enforce_it_within_moments(running: Running, desk: Admin) -> None:
    async with AsyncExitStack() as stack:
        for number in range(3):
            await stack.enter_async_context(replica_at(running, f"rep_{number}"))
        for seq in (1, 2):
            receipt = await revoked(desk, 20)
            first_ms, last_ms = receipt.pop("first_ms"), receipt.pop("last_ms")
            assert 0 <= first_ms <= last_ms < 5_000
            assert receipt == {
                "seq": seq,
                "generation": 1,
                "is_enforced": True,
                "of": 3,
                "enforced": 3,
                "refusing": 0,
                "behind": [],
                "best_effort": [],
            }


async def test_one_that_stands_still_is_named_and_until_when(running: Running, desk: Admin) -> None:
    async with replica_at(running, "rep_awake"), replica_at(running, "rep_still") as still:
        await still.aclose()
        receipt = await revoked(desk, 1)
        assert (receipt["is_enforced"], receipt["of"], receipt["enforced"]) == (False, 2, 1)
        [behind] = receipt["behind"]
        assert (behind["replica_id"], behind["seq"]) == ("rep_still", 0)
        assert running.replica_key.startswith(f"cmk_{behind['key_id']}_")
        assert behind["reported_at"] < behind["refuses_at"]


async def test_best_effort_ones_are_named_though_they_have_it(running: Running, desk: Admin) -> None:
    async with replica_at(running, "rep_lenient", best_effort=True):
        receipt = await revoked(desk, 20)
    assert (receipt["is_enforced"], receipt["behind"]) == (True, [])
    assert [(one["replica_id"], one["refuses_at"]) for one in receipt["best_effort"]] == [("rep_lenient", None)]


async def test_a_guard_in_the_authority_itself_reports_too(running: Running, desk: Admin) -> None:
    async with running.authority.guard(AUDIENCE):
        await until(lambda: _is_there(running), "it has reported")
        receipt = await revoked(desk, 20)
    assert (receipt["is_enforced"], receipt["of"]) == (True, 1)
    [listed] = (await desk.read("replicas"))["items"]
    assert (listed["key_id"], listed["live"], listed["behind"]) == ("", True, 0)


async def _is_there(running: Running) -> bool:
    return await running.authority.service.replicas.all() != []


async def test_without_a_replica_it_is_done_and_enforced_by_nobody(desk: Admin) -> None:
    receipt = await revoked(desk, 0.05)
    assert (receipt["is_enforced"], receipt["of"], receipt["enforced"]) == (False, 0, 0)


async def test_whatever_makes_entries_can_be_waited_for(running: Running, desk: Admin) -> None:
    application = await desk.application()
    for _ in range(3):
        await desk.session(application)
    async with replica_at(running, "rep_one"):
        assert (await revoked(desk, 20, "cutoffs", target="subject:alice"))["is_enforced"]
        assert (await revoked(desk, 20, "cutoffs", target="all"))["seq"] == 2
        for _ in range(3):
            await desk.session(application)
        swept = await revoked(desk, 20, "revocations/by-filter", kind="session", application_id=application)
        assert (swept["is_enforced"], swept["seq"]) == (True, 5), "the last of them"
        nothing = {"kind": "session", "application_id": application}
        response = await desk.http.post("/v1/revocations/by-filter?wait=1", json=nothing)
        assert (response.status_code, response.json()["count"], "receipt" in response.json()) == (200, 0, False)


async def test_who_revokes_again_gets_the_receipt_of_the_entry_that_stands(running: Running, desk: Admin) -> None:
    session = await opened(desk)
    await desk.revoke("session", session)
    async with replica_at(running, "rep_one"):
        again = await desk.http.post("/v1/revocations?wait=20", json={"kind": "session", "id": session})
    assert (again.status_code, again.json()["receipt"]["is_enforced"]) == (200, True)


async def test_a_receipt_is_had_later_and_can_be_waited_for(running: Running, desk: Admin) -> None:
    made = await desk.revoke("session", await opened(desk))
    assert "receipt" not in made
    assert not (await desk.read("revocations/1/receipt"))["is_enforced"]
    waiting = asyncio.create_task(desk.read("revocations/1/receipt?wait=8"))
    async with replica_at(running, "rep_one"):
        assert (await waiting)["is_enforced"]
        assert (await desk.read("revocations/1/receipt"))["enforced"] == 1
    refused(await desk.get("revocations/2/receipt"), 404, "not_found")


@pytest.mark.parametrize("wait", ["0", "-1", "60.1", "nan", "inf", "", "soon"])
async def test_nobody_waits_for_ever_or_not_at_all(shared: Running, admin: Admin, wait: str) -> None:
    session, before = await opened(admin), await admin.seq()
    response = await admin.http.post(f"/v1/revocations?wait={wait}", json={"kind": "session", "id": session})
    refused(response, 422, "invalid_value")
    refused(await admin.get(f"revocations/1/receipt?wait={wait}"), 422, "invalid_value")
    assert await admin.seq() == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("revocations", {"kind": "token", "id": "x", "bare": True}),
        ("revocations/by-filter", {"kind": "session", "subject": "alice"}),
        ("cutoffs", {"target": "all"}),
    ],
)
async def test_a_dry_run_has_nothing_to_wait_for(admin: Admin, path: str, body: Json) -> None:
    response = await admin.http.post(f"/v1/{path}?wait=1", json=body | {"dry_run": True})
    assert "nothing to wait for" in refused(response, 422, "invalid_value")


async def test_a_repeated_request_is_done_once_and_answered_as_it_was(running: Running, desk: Admin) -> None:
    body, headers = {"target": "subject:alice"}, {"idempotency-key": os.urandom(8).hex()}

    async def cut_off() -> httpx2.Response:
        return await desk.http.post("/v1/cutoffs?wait=8", json=body, headers=headers)

    first = asyncio.create_task(cut_off())
    await until(lambda: _has_entry(running), "it is done")
    refused(await cut_off(), 409, "in_progress")
    async with replica_at(running, "rep_one"):
        answered = await first
    again = await cut_off()
    assert answered.json()["receipt"]["is_enforced"]
    assert (again.status_code, again.content) == (201, answered.content)
    assert await desk.seq() == 1


async def _has_entry(running: Running) -> bool:
    return (await running.authority.service.reading.head()).seq == 1


async def test_what_is_done_is_said_where_its_receipt_cannot_be_had(
    desk: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await opened(desk)

    async def fail(*_: object) -> None:
        from countermand.errors import BusyError  # noqa: PLC0415

        raise BusyError("the authority's database is busy")

    monkeypatch.setattr("countermand.authority.replicas.Replicas.all", fail)
    response = await desk.http.post("/v1/revocations?wait=5", json={"kind": "session", "id": session})
    assert (response.status_code, response.json()["seq"], "receipt" in response.json()) == (201, 1, False)
    refused(await desk.get("revocations/1/receipt"), 503, "busy")


async def test_an_authority_that_stops_answers_whoever_waits(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        async with authority_running(tmp_path) as running:
            admin = await stack.enter_async_context(administering(running))
            waiting = asyncio.create_task(revoked(admin, 60))
            await until(lambda: _has_entry(running), "it is done")
        assert not (await waiting)["is_enforced"]


@pytest.mark.postgres
async def test_what_is_reported_to_one_process_is_seen_by_whoever_waits_at_another(
    tmp_path: Path, running: Running, desk: Admin
) -> None:
    (tmp_path / "other").mkdir(mode=0o700)
    data = DataDir(tmp_path / "other" / "authority")
    await asyncio.to_thread(shutil.copytree, running.data.path, data.path)
    DATABASES.share(running.data, data)
    async with (
        authority_running(tmp_path / "other", issuer=running.authority.issuer) as other,
        replica_at(other, "rep_elsewhere"),
    ):
        receipt = await revoked(desk, 20)
    assert (receipt["is_enforced"], receipt["of"]) == (True, 1)
    assert receipt["last_ms"] < 5_000
