"""One replica's connection is cut again and again, in the middle of everything: it misses nothing."""

import asyncio
import random

import pytest

from countermand.cli.client import AuthorityClient
from tests.faults.proxy import Proxy
from tests.faults.resource import PASSED, REVOKED, Resource, guard_of, protected, read_ledger, subject_of
from tests.running import ServerProcess, until

pytestmark = pytest.mark.anyio

CUTS = 15
SWALLOWS = 2
AT_ONCE = 8


async def _revoke_some(client: AuthorityClient, application_id: str) -> set[str]:
    """Revoke fresh sessions, several at once; return them."""

    async def revoke_one(number: int) -> str:
        session = await client.open_session(application_id, f"subject {number}")
        await client.revoke("session", session["id"], "amid a cut")
        return str(session["id"])

    return set(await asyncio.gather(*(revoke_one(number) for number in range(AT_ONCE))))


async def _hears_of(resource: Resource, sessions: set[str]) -> None:
    await until(lambda: all(resource.revokes(id_) for id_ in sessions), "the replica knows all that was revoked")


@pytest.mark.proof
async def test_a_replica_that_is_cut_off_again_and_again_catches_up_each_time(server: ServerProcess) -> None:
    chance = random.Random(7)  # noqa: S311 - moments, not secrets
    async with (
        AuthorityClient.open(server.client_settings()) as client,
        Proxy(server.port).serving() as proxy,
        protected(guard_of(server)) as direct,
        protected(guard_of(server, url=proxy.url)) as proxied,
    ):
        good = await subject_of(client, "good")
        application = await client.create_application("cut")
        for resource in (direct, proxied):
            await resource.comes_to(good.token, PASSED)
        revoked: set[str] = set()
        for number in range(CUTS + SWALLOWS):
            revoking = asyncio.create_task(_revoke_some(client, application["id"]))
            await asyncio.sleep(chance.uniform(0, 0.1))  # that is the random moment
            if number < CUTS:
                await proxy.cut()
            else:
                proxy.swallow()
            now_revoked = await revoking
            await _hears_of(direct, now_revoked)
            proxy.mend()
            await _hears_of(proxied, now_revoked)
            revoked |= now_revoked

        await client.revoke("session", good.session_id, "the last")
        for resource in (direct, proxied):
            await resource.comes_to(good.token, REVOKED)
            await _hears_of(resource, revoked)
            assert len(resource.replica.state) == len(revoked) + 1
            await until(resource.is_well, "all is well")
        assert direct.position() == proxied.position()
        assert proxied.position()[0].seq == len(await read_ledger(server.data)) == len(revoked) + 1
        assert proxy.accepted > CUTS


async def test_a_replica_behind_a_way_that_swallows_everything_tries_another_connection(server: ServerProcess) -> None:
    async with (
        AuthorityClient.open(server.client_settings()) as client,
        Proxy(server.port).serving() as proxy,
        protected(guard_of(server, url=proxy.url)) as proxied,
    ):
        subject = await subject_of(client, "alice")
        await proxied.comes_to(subject.token, PASSED)
        before = proxy.accepted

        proxy.swallow()
        await client.revoke("session", subject.session_id, "")
        await until(lambda: proxy.accepted > before, "it takes the silence for what it is")
        assert await proxied.call(subject.token) == PASSED, "nothing came, and its bound is 30 seconds"

        proxy.mend()
        await proxied.comes_to(subject.token, REVOKED)
