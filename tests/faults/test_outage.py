"""The authority is gone for a while: replicas deny what they know, refuse the rest in time, and recover."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from countermand.cli.client import AuthorityClient
from tests.faults.resource import (
    PASSED,
    REVOKED,
    UNAVAILABLE,
    Resource,
    guard_of,
    protected,
    subject_of,
)
from tests.running import ServerProcess, until

pytestmark = pytest.mark.anyio

MAX_STALENESS_S = 4.0
BEYOND_S = 1.0
"""How much longer than the bound we go on calling."""


@dataclass(frozen=True, slots=True)
class Outage:
    """How an authority goes away, and how it comes back."""

    name: str
    begin: Callable[[ServerProcess], Awaitable[object]]
    end: Callable[[ServerProcess], Awaitable[object]]

    def __str__(self) -> str:
        return self.name


async def _freeze(server: ServerProcess) -> None:
    server.stop()


async def _thaw(server: ServerProcess) -> None:
    server.cont()


async def _kill(server: ServerProcess) -> None:
    server.kill()


STOP = Outage("it is asked to stop", ServerProcess.terminate, ServerProcess.start)
KILL = Outage("it is killed", _kill, ServerProcess.start)
FREEZE = Outage("it stands still", _freeze, _thaw)
OUTAGES = [KILL, *(pytest.param(outage, marks=pytest.mark.proof) for outage in (FREEZE, STOP))]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def calls_until(resource: Resource, token: str, until_ms: int) -> list[tuple[int, tuple[int, str]]]:
    """Call without a pause; return each answer, and the moment before which its call did not begin."""
    answers: list[tuple[int, tuple[int, str]]] = []
    while (began_ms := now_ms()) < until_ms:
        answers.append((began_ms, await resource.call(token)))
        await asyncio.sleep(0)  # the follower lives in this loop too
    return answers


@pytest.mark.parametrize("outage", OUTAGES, ids=str)
async def test_in_an_outage_the_bound_is_kept_and_after_it_all_is_well_by_itself(
    server: ServerProcess, outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        AuthorityClient.open(server.client_settings()) as client,
        protected(guard_of(server, max_staleness_s=MAX_STALENESS_S)) as resource,
        protected(guard_of(server)) as patient,
    ):
        good, bad = await subject_of(client, "good"), await subject_of(client, "bad")
        await client.revoke("session", bad.session_id, "before the outage")
        for each in (resource, patient):
            await each.comes_to(good.token, PASSED)
            await each.comes_to(bad.token, REVOKED)

        caplog.clear()
        await outage.begin(server)
        until_ms = now_ms() + int((MAX_STALENESS_S + BEYOND_S) * 1000)
        async with protected(guard_of(server)) as newcomer:
            of_good, of_bad, of_newcomer = await asyncio.gather(
                calls_until(resource, good.token, until_ms),
                calls_until(resource, bad.token, until_ms),
                calls_until(newcomer, good.token, until_ms),
            )
            last_ms = resource.replica.state.freshness.applied_at_ms

            # What it knows it denies all the while; the rest it lets pass up to the bound, and refuses after it.
            assert {answer for _, answer in of_bad} == {REVOKED}
            assert {answer for _, answer in of_good} == {PASSED, UNAVAILABLE}
            passed_ms = max(began_ms for began_ms, answer in of_good if answer == PASSED)
            refused_ms = min(began_ms for began_ms, answer in of_good if answer == UNAVAILABLE)
            assert passed_ms <= last_ms + MAX_STALENESS_S * 1000
            assert last_ms + 2_000 < refused_ms, "it does not refuse long before it has to"
            assert all(answer == UNAVAILABLE for began_ms, answer in of_good if began_ms > passed_ms)
            assert {answer for _, answer in of_newcomer} == {UNAVAILABLE}
            assert "the replica is refused" in caplog.text
            assert "the log cannot be followed" in caplog.text
            assert resource.replica.status().error == "unreachable"
            assert await patient.call(good.token) == PASSED, "its bound is a longer one"

            ended_ms = now_ms()
            await outage.end(server)
            for each in (resource, patient, newcomer):
                await each.has_heard(ended_ms)
                await each.comes_to(good.token, PASSED)
                assert await each.call(bad.token) == REVOKED
                assert each.is_well()

            await client.revoke("session", good.session_id, "after the outage")
            for each in (resource, patient, newcomer):
                await each.comes_to(good.token, REVOKED)


async def test_a_token_that_was_revoked_while_a_replica_could_not_hear_is_rejected_once_it_can(
    server: ServerProcess,
) -> None:
    """The authority answered, and stopped before anybody heard."""
    async with AuthorityClient.open(server.client_settings()) as client:
        subject = await subject_of(client, "alice")
        await client.revoke("session", subject.session_id, "")
        guard = guard_of(server)
        await server.terminate()
        async with protected(guard) as resource:

            async def is_rejected() -> bool:
                answer = await resource.call(subject.token)
                assert answer == REVOKED or answer[0] == 503, "it does not pass, not even once"
                return answer == REVOKED

            assert not await is_rejected()
            await server.start()
            await until(is_rejected, "the token is rejected")


async def test_a_restart_changes_nothing_that_anybody_holds(server: ServerProcess) -> None:
    data = server.data
    async with AuthorityClient.open(server.client_settings()) as client:
        good, bad = await subject_of(client, "good"), await subject_of(client, "bad")
        entry = await client.revoke("session", bad.session_id, "kept")
        kept = {path: path.read_text() for path in (data.pin, data.admin_key, data.replica_key)}

        assert await server.terminate() == 0
        await server.start()

        assert {path: path.read_text() for path in kept} == kept
        again = await client.revoke("session", bad.session_id, "a second time")
        assert again == entry | {"is_new": False, "reach": {"counts": {}, "is_whole": True}}
        late = await subject_of(client, "late")
        async with protected(guard_of(server)) as resource:
            for subject in (good, late):
                await resource.comes_to(subject.token, PASSED)
            assert await resource.call(bad.token) == REVOKED
