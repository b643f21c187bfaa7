"""Exchanges, spawns and delegations that race revocations and cutoffs."""

import os
from pathlib import Path

import pytest

from countermand import connect
from countermand.authority.descendants import Descendants
from countermand.enforce.decision import Allow, Decision, Deny
from countermand.enforce.guard import Guard
from countermand.settings import DataDir
from countermand.wiring import system_clock
from tests.databases import DATABASES
from tests.faults.race import TOOLS, Race
from tests.running import PROOF, ServerProcess, until

pytestmark = pytest.mark.anyio

SECONDS = 60 if PROOF else 5


async def test_no_mandate_of_what_was_revoked_passes_and_no_descendant_is_forgotten(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path) as server:
        race = Race(server.client_settings(), seed=int.from_bytes(os.urandom(4)))
        await race.run(SECONDS)
        key, pin = server.data.replica_key.read_text().strip(), server.data.pin.read_text().strip()
        guard = connect(server.url, issuer=server.url, audience=TOOLS, api_key=key, pin=pin)
        async with guard:
            for mandate in race.minted:
                decision = await decision_on(guard, mandate.text)
                if race.must_be_rejected(mandate):
                    assert isinstance(decision, Deny), f"seed {race.seed}"
                    assert decision.status == 401
                if race.must_pass(mandate):
                    assert isinstance(decision, Allow), f"seed {race.seed}: {decision}"
        assert race.escaped() == [], f"seed {race.seed}"
        await server.terminate()
    told = await _told(server.data)
    assert race.descendants() - told == set(), f"seed {race.seed}"
    rejected = sum(race.must_be_rejected(mandate) for mandate in race.minted)
    passed = sum(race.must_pass(mandate) for mandate in race.minted)
    print(  # noqa: T201 - what a proof saw
        f"{len(race.minted)} mandates: {rejected} had to be rejected, {passed} to pass; {len(race.revoked)} revoked, "
        f"{len(race.cutoffs)} cutoffs; {len(told)} descendants told; answers {dict(race.answers)}"
    )
    assert rejected
    assert passed


async def decision_on(guard: Guard, token: str) -> Decision:
    """Return the decision, once the replica knows enough for one."""
    decisions: list[Decision] = []

    async def known() -> bool:
        decisions.append(await guard.decide(token))
        return isinstance(decisions[-1], Allow) or not decisions[-1].may_pass_later

    await until(known, "the replica is fresh")
    return decisions[-1]


async def _told(data: DataDir) -> set[str]:
    database = DATABASES.open(data)
    try:
        descendants, told = Descendants(database, system_clock), set[str]()
        while (page := await descendants.next()) is not None:
            told |= {anchor.id for anchor in page.anchors}
            await descendants.done(page)
    finally:
        await database.close()
    return told
