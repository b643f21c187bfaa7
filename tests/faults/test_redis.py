"""The authority is killed amid publishing, again and again: replicas on Redis end where the ledger does."""

import asyncio
import random
from contextlib import suppress
from pathlib import Path

import pytest

from countermand.cli.client import AuthorityClient
from countermand.errors import CountermandError
from tests.faults.resource import PASSED, REVOKED, guard_of, protected, read_ledger, subject_of
from tests.redis_server import RedisServer
from tests.running import ServerProcess, until

pytestmark = pytest.mark.anyio

KILLS = 200
SEED = 20_241


async def test_up_with_redis_lets_a_guard_follow_there(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        async with (
            ServerProcess(tmp_path, "--redis", redis.url) as server,
            AuthorityClient.open(server.client_settings()) as client,
            protected(guard_of(server, url=redis.url)) as resource,
        ):
            good, bad = await subject_of(client, "good"), await subject_of(client, "bad")
            await resource.comes_to(bad.token, PASSED)
            await client.revoke("session", bad.session_id)
            await resource.comes_to(bad.token, REVOKED)
            assert await resource.call(good.token) == PASSED
        assert redis.url not in server.log.read_text()


@pytest.mark.proof
async def test_after_kills_replicas_on_redis_end_where_the_ledger_does(tmp_path: Path) -> None:
    chance = random.Random(SEED)  # noqa: S311 - moments, not secrets
    with RedisServer(tmp_path / "redis") as redis:
        async with (
            ServerProcess(tmp_path, "--redis", redis.url) as server,
            AuthorityClient.open(server.client_settings()) as client,
            protected(guard_of(server, url=redis.url)) as resource,
        ):
            good = await subject_of(client, "good")
            await resource.comes_to(good.token, PASSED)
            application = await client.create_application("writers")
            answered: list[str] = []
            for _ in range(KILLS):
                before = len(answered)
                writing = asyncio.create_task(_revoke_on(client, application["id"], answered))
                await until(lambda: len(answered) > before, "a revocation is answered")  # noqa: B023 - awaited here
                await asyncio.sleep(chance.uniform(0, 0.5))
                server.kill()
                writing.cancel()
                await asyncio.wait([writing])
                await server.start()
            last = await subject_of(client, "last")
            await client.revoke("session", last.session_id)
            entries = await read_ledger(server.data)
            await until(
                lambda: resource.replica.state.rev.seq == len(entries), "the replica ends where the ledger does"
            )
            assert all(resource.revokes(id_) for id_ in [*answered, last.session_id])
            assert await resource.call(good.token) == PASSED
    print(f"\n{KILLS} kills: {len(answered)} revocations answered, {len(entries)} in the ledger and in the replica")  # noqa: T201
    assert len(answered) >= KILLS


async def _revoke_on(client: AuthorityClient, application_id: str, answered: list[str]) -> None:
    with suppress(CountermandError):
        while True:
            session = await client.open_session(application_id, "somebody")
            await client.revoke("session", session["id"])
            answered.append(session["id"])
