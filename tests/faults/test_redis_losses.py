"""Whatever Redis does amid revocations: no decision comes too late, and every replica is whole again."""

import os
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from countermand.authority import publication
from countermand.log.verdict import CLEAR, Revoked
from tests.faults.redis_faults import FAULTS, Fault
from tests.faults.trial import BOUND_S, Trial, join, trial_running
from tests.integration.planes import session_anchors
from tests.redis_server import RedisServer
from tests.running import PROOF, until

pytestmark = pytest.mark.anyio

ENTRIES: Final = 20_000 if PROOF else 2_000
BURST: Final = 1_500
"""Over a page, in one transaction: they are on their way when the fault begins."""
ROUNDS: Final = 8 if PROOF else 1
SEED: Final = int.from_bytes(os.urandom(4)) if PROOF else 20_261


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot is laid after two seconds, and not after a minute."""
    monkeypatch.setattr(publication, "BASE_MS", 2_000)
    monkeypatch.setattr(publication, "BASE_TIMES", 1)


SHORT: Final = ("XTRIM of the stream to nothing", "kill -9 without persistence", "forged next entries")
"""Where time is short; test_relay.py has most of the others, with fewer entries."""


@pytest.mark.parametrize("name", FAULTS if PROOF else SHORT)
async def test_no_decision_comes_too_late_and_every_replica_is_whole_again(tmp_path: Path, name: str) -> None:
    await undergo(tmp_path, name, FAULTS[name])


async def undergo(path: Path, name: str, fault: Fault) -> None:
    """Let a trial suffer the fault at moments of chance; one more replica joins when it is over."""
    chance = random.Random(SEED)  # noqa: S311 - moments, not secrets
    with RedisServer(path / "redis") as redis:
        async with trial_running(path, redis, chance, entries=ENTRIES) as trial, AsyncExitStack() as stack:
            for _ in range(ROUNDS):
                await trial.has_revoked(chance.randint(1, 5))
                await trial.fill(BURST // ROUNDS)
                await fault.act(trial)
                await trial.has_revoked(5)
            trial.revoking.clear()
            await join(trial, stack)
            took_s = await trial.whole()
            entries = (await trial.rooms.head()).rev.seq
            await ends_well(trial)
    watch = trial.watch
    print(  # noqa: T201 - what a proof saw
        f"\n{name}: {entries:,} entries, {entries - ENTRIES:,} of them meanwhile; {watch.decisions:,} decisions, "
        f"{watch.stale:,} refused as stale; what was revoked passed for {watch.latest_pass_ms:,} ms at the most; all "
        f"whole within {took_s:.1f} s; losses {trial.losses}, errors {sorted(trial.errors)}; seed {SEED}"
    )
    check(trial, fault)


def check(trial: Trial, fault: Fault) -> None:
    """Check what was watched, and what the relay has said."""
    assert trial.watch.wrong == []
    assert trial.watch.stale or not fault.refuses
    assert fault.loses is None or fault.loses == (trial.losses > 0)
    assert trial.errors <= fault.may_show | {fault.shows}
    assert fault.shows is None or fault.shows in trial.errors


async def ends_well(trial: Trial) -> None:
    """What is revoked next is known everywhere, and what is good passes."""
    asked, replicas, good = session_anchors(await trial.revoke()), trial.watch.replicas, trial.watch.good
    await until(lambda: all(isinstance(one.check(asked), Revoked) for one in replicas), "it is known everywhere", 5)
    await until(lambda: all(one.check(it, BOUND_S) is CLEAR for one in replicas for it in good), "the good pass", 5)
    assert trial.relay.way.error is None
