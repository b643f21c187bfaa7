"""An authority and a service in one process: the guard follows the ledger itself."""

import time
from pathlib import Path

import pytest

from countermand.replica.replica import ReplicaState
from tests.faults.resource import AUDIENCE, PASSED, REVOKED, UNAVAILABLE, protected, subject_of
from tests.running import authority_running, until

pytestmark = pytest.mark.anyio


async def test_a_guard_in_the_authoritys_own_process_is_ready_with_the_first_checkpoint_and_hears_at_once(
    tmp_path: Path,
) -> None:
    async with authority_running(tmp_path) as running, protected(running.authority.guard(AUDIENCE)) as resource:
        started_ms = time.time_ns() // 1_000_000
        first = await running.authority.heartbeat.after(None)
        while first is not None and first.checkpoint.at_ms < started_ms:
            first = await running.authority.heartbeat.after(first)
        await until(lambda: resource.replica.status().state is ReplicaState.FRESH, "it is ready", deadline_s=0.5)

        alice, bob = await subject_of(running.client, "alice"), await subject_of(running.client, "bob")
        assert await resource.call(alice.token) == PASSED
        assert await resource.call(bob.token) == PASSED

        entry = await running.client.revoke("session", alice.session_id, "")
        await until(lambda: resource.replica.state.rev.seq == entry["seq"], "the entry is applied", deadline_s=0.9)
        assert await resource.call(alice.token) == REVOKED
        assert await resource.call(bob.token) == PASSED


async def test_when_the_authority_beside_it_has_stopped_a_guard_denies_what_it_knows_and_starts_no_new_trust(
    tmp_path: Path,
) -> None:
    async with authority_running(tmp_path) as running:
        alice = await subject_of(running.client, "alice")
        guard = running.authority.guard(AUDIENCE)
        late = running.authority.guard(AUDIENCE)
        async with protected(guard) as resource:
            await resource.comes_to(alice.token, PASSED)
            await running.client.revoke("session", alice.session_id, "")
            await resource.comes_to(alice.token, REVOKED)

    async with protected(guard) as resource, protected(late) as newcomer:
        assert await resource.call(alice.token) == REVOKED
        assert await newcomer.call(alice.token) == UNAVAILABLE
