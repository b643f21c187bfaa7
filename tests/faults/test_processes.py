"""Three processes of one authority on one Postgres, killed and stopped amid the work of sixteen clients."""

import asyncio
import os
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from countermand import connect
from countermand.enforce.decision import Allow, Deny
from countermand.log.chain import genesis, next_link
from countermand.log.checkpoint import Pin
from countermand.log.entry import Entry
from tests.faults.race import TOOLS, Race
from tests.faults.test_race import decision_on
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer
from tests.running import ServerProcess

pytestmark = pytest.mark.anyio

SECONDS = 90
CLIENTS = 16
PROCESSES = 3


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
async def processes(tmp_path: Path, postgres: PostgresServer) -> AsyncIterator[list[ServerProcess]]:
    """The first one makes the keys, and is the issuer; the others get a copy, as an operator would give them."""
    with RedisServer(tmp_path / "redis") as redis:
        environ = {"COUNTERMAND_DATABASE_URL": postgres.url(), "COUNTERMAND_REDIS_URL": redis.url}
        async with AsyncExitStack() as stack:
            started: list[ServerProcess] = []
            for number in range(PROCESSES):
                path = tmp_path / f"process-{number}"
                path.mkdir(mode=0o700)
                if started:
                    environ["COUNTERMAND_ISSUER"] = started[0].url
                    await asyncio.to_thread(shutil.copytree, started[0].data.path, path / "authority")
                started.append(await stack.enter_async_context(ServerProcess(path, environ={**environ})))
            yield started


@pytest.mark.proof
async def test_nothing_answered_is_lost_and_no_mandate_escapes(
    processes: list[ServerProcess], postgres: PostgresServer
) -> None:
    seed = int.from_bytes(os.urandom(4))
    race = Race(processes[0].client_settings(), seed, tuple(one.url for one in processes), CLIENTS)
    happened: Counter[str] = Counter()
    racing = asyncio.create_task(race.run(SECONDS))
    chance = random.Random(seed)  # noqa: S311 - moments, not secrets
    await _disturb(racing, race.begun, processes, postgres, chance, happened)
    await racing
    entries = _ledger(postgres, Pin.parse(processes[0].data.pin.read_text()))
    written = {entry.seq: entry.id for entry in entries}
    assert race.entries.items() <= written.items(), f"seed {seed}: what was answered is where the answer said"
    once = Counter(entry.id for entry in entries if not entry.id.startswith("subject:"))
    assert once.total() == len(once), f"seed {seed}: nothing is revoked twice"
    assert race.escaped() == [], f"seed {seed}"
    for process in processes:
        await _decides(race, process, issuer=processes[0].url)
    rejected = sum(race.must_be_rejected(mandate) for mandate in race.minted)
    passed = sum(race.must_pass(mandate) for mandate in race.minted)
    print(  # noqa: T201 - what a proof saw
        f"\n{SECONDS} s: {len(race.minted)} mandates, {rejected} had to be rejected, {passed} to pass; "
        f"{len(race.entries)} answered of {len(entries)} entries; {dict(happened)}; answers {dict(race.answers)}"
    )
    assert rejected


async def _disturb(
    racing: "asyncio.Task[None]",
    begun: asyncio.Event,
    processes: list[ServerProcess],
    postgres: PostgresServer,
    chance: random.Random,
    happened: Counter[str],
) -> None:
    """Until the race is over, let one thing after another happen."""
    await asyncio.wait([racing, asyncio.create_task(begun.wait())], return_when=asyncio.FIRST_COMPLETED)
    while not racing.done():
        await asyncio.wait([racing], timeout=chance.uniform(0.5, 3))
        what, process = chance.choice(["kill", "kill", "stop", "restart"]), chance.choice(processes)
        happened[what] += 1
        if what == "kill":
            process.kill()
            await process.start()
        elif what == "stop":
            process.stop()
            await asyncio.sleep(chance.uniform(0.5, 4))
            process.cont()
        else:
            await asyncio.to_thread(postgres.restart)


async def _decides(race: Race, process: ServerProcess, *, issuer: str) -> None:
    """See that a replica which follows this process decides as it must."""
    key, pin = process.data.replica_key.read_text().strip(), process.data.pin.read_text().strip()
    guard = connect(process.url, issuer=issuer, audience=TOOLS, api_key=key, pin=pin)
    async with guard:
        for mandate in race.minted:
            decision = await decision_on(guard, mandate.text)
            if race.must_be_rejected(mandate):
                assert isinstance(decision, Deny), f"seed {race.seed}"
                assert decision.status == 401
            if race.must_pass(mandate):
                assert isinstance(decision, Allow), f"seed {race.seed}: {decision}"


def _ledger(postgres: PostgresServer, pin: Pin) -> list[Entry]:
    """Return every entry, once the chain from its genesis to the head has been found whole."""
    rows = postgres.execute("SELECT seq, previous, link, data FROM entries ORDER BY seq")
    link, entries = genesis(pin.log_id, 1), []
    for number, (seq, previous, next_, data) in enumerate(rows, start=1):
        assert (seq, previous) == (number, link)
        link = next_link(link, data)
        assert next_ == link
        entries.append(Entry.parse(data))
    assert postgres.execute("SELECT seq, link FROM head") == [(len(rows), link)]
    return entries
