"""Failovers of Redis amid revocations, on real clusters and behind real Sentinels. `make proof` runs all of them."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest

from countermand.authority import publication
from tests.faults.trial import REPLICAS, Trial, join, trial_running
from tests.integration.planes import KEYS
from tests.redis_server import RedisServer
from tests.redis_topologies import SERVICE, Cluster, Watched, cluster_running, watched_running
from tests.running import until

pytestmark = pytest.mark.anyio

ENTRIES: Final = 5_000
BURST: Final = 12_000
WHOLE_S: Final = 25.0
"""Far below the 30 s above which a guard refuses by default, though all happened that can."""
SEED: Final = int.from_bytes(os.urandom(4))
USERS: Final = (
    *("--user", "copier", "on", ">copier-secret", "+psync", "+replconf", "+ping"),
    *("--user", "watcher", "on", ">watcher-secret", "~*", "&*", "+@all"),
    *("--masteruser", "copier", "--masterauth", "copier-secret"),
)
"""So that a test can cut off those who copy, or those who watch, and nobody else."""


# Where a log is: a trial asks for no more than its URL


@contextmanager
def a_cluster(path: Path) -> Iterator[Cluster]:
    with cluster_running(path, replicas=1) as cluster:
        yield cluster


@contextmanager
def behind_sentinels(path: Path) -> Iterator[Watched]:
    lines = (
        f"sentinel auth-user {SERVICE} watcher",
        f"sentinel auth-pass {SERVICE} watcher-secret",
        f"sentinel down-after-milliseconds {SERVICE} 2000",  # who was cut off for ten times as long is not promoted
    )
    with watched_running(path, options=USERS, lines=lines) as watched:
        yield watched


# What happens; each returns what was lost that Redis had acknowledged


async def a_node_dies(trial: Trial, cluster: Cluster) -> dict[str, int]:
    cluster.owner.kill()
    await asyncio.to_thread(cluster.wait_for_takeover)
    return {}


async def a_master_dies_with_what_nobody_copied(trial: Trial, watched: Watched) -> dict[str, int]:
    with watched.master.client() as client:
        client.acl_setuser("copier", enabled=False)
        client.client_kill_filter(_type="replica")
    before = held_by(watched.master)["snapshot"]
    await trial.fill(BURST)
    await until(lambda: held_by(watched.master)["snapshot"] != before, "the relay lays another")
    await until(trial._are_at_head, "our replicas have applied what will be lost")
    had, left = held_by(watched.master), held_by(watched.replicas[0])
    watched.master.kill()
    await asyncio.to_thread(watched.wait_for_another, watched.master)
    return {name: had[name] - left[name] for name in ("entries", "checkpoints")} | {
        "snapshots": int(had["snapshot"] != left["snapshot"])
    }


async def a_master_cannot_be_seen_and_goes_on(trial: Trial, watched: Watched) -> dict[str, int]:
    with watched.master.client() as client:
        for user in ("watcher", "default"):  # who is there stays, and nobody new comes
            client.acl_setuser(user, enabled=False)
        client.client_kill_filter(user="watcher")
        await asyncio.to_thread(watched.wait_for_another, watched.master)
        assert client.info("replication")["role"] == "master", "nobody has told it"
    return {}


async def a_master_stops_and_wakes_up(trial: Trial, watched: Watched) -> dict[str, int]:
    with watched.master.frozen():
        await asyncio.to_thread(watched.wait_for_another, watched.master)
    return {}


def held_by(server: RedisServer) -> dict[str, int]:
    with server.client() as client:
        return {
            "entries": client.xlen(KEYS.stream),
            "checkpoints": client.xlen(KEYS.checkpoints),
            "snapshot": hash(client.get(KEYS.snapshot)),
        }


FAILOVERS: Final[dict[str, tuple[Callable[[Path], Any], Callable[[Trial, Any], Awaitable[dict[str, int]]]]]] = {
    "a node of a cluster dies": (a_cluster, a_node_dies),
    "a master dies with what nobody had copied": (behind_sentinels, a_master_dies_with_what_nobody_copied),
    "a master cannot be seen, and goes on": (behind_sentinels, a_master_cannot_be_seen_and_goes_on),
    "a master stops, and wakes up again": (behind_sentinels, a_master_stops_and_wakes_up),
}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot is laid after two seconds, and not after a minute."""
    monkeypatch.setattr(publication, "BASE_MS", 2_000)
    monkeypatch.setattr(publication, "BASE_TIMES", 1)


@pytest.mark.proof
@pytest.mark.parametrize("name", FAILOVERS)
async def test_after_a_failover_every_replica_is_whole_and_no_decision_came_too_late(tmp_path: Path, name: str) -> None:
    running, happen = FAILOVERS[name]
    with running(tmp_path / "redis") as topology:
        chance = random.Random(SEED)  # noqa: S311 - moments, not secrets
        async with trial_running(tmp_path, cast("RedisServer", topology), chance, entries=ENTRIES) as trial:
            clock_s = asyncio.get_running_loop().time
            await asyncio.sleep(1)
            lost = await happen(trial, topology)
            over_s = clock_s()
            await asyncio.sleep(2)
            trial.revoking.clear()
            async with AsyncExitStack() as stack:
                await join(trial, stack)
                await trial.whole(WHOLE_S)
                took_s = clock_s() - over_s
            entries = (await trial.rooms.head()).rev.seq
    watch = trial.watch
    print(  # noqa: T201 - what a proof saw
        f"\n{name}: {entries} entries, lost by Redis {lost}; {watch.decisions} decisions on {REPLICAS} replicas, "
        f"{watch.stale} refused as stale, what was revoked passed for {watch.latest_pass_ms} ms at the most; whole "
        f"{took_s:.1f} s after the failover; losses {trial.losses}, errors {sorted(trial.errors)}, seed {SEED}"
    )
    assert watch.wrong == []
    assert all(lost.values())
    assert trial.losses or not lost, "the relay says that something is gone"
    assert trial.errors <= {"unreachable", "bad_answer"}
    assert trial.errors, "the relay says that it cannot publish"
    assert took_s < WHOLE_S
