"""The ledger over a real Redis, to real replicas: what is lost on the way is found out, and mended."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from countermand.authority.relay import Relay, Source, Stream
from countermand.log.anchor import Anchor, Anchors, Kind, Rev
from countermand.log.chain import next_link
from countermand.log.checkpoint import Checkpoint
from countermand.log.codec import to_base64
from countermand.log.entry import Entry
from countermand.log.freshness import Instant
from countermand.log.hmac import signature_holds
from countermand.log.state import LogState
from countermand.log.verdict import CLEAR, Revoked
from countermand.log.wire import REVOCATION_STREAM, signed_messages, to_fields
from countermand.replica.replica import Replica, ReplicaState
from countermand.transport.redis import Keys, RedisLog, open_writer
from countermand.wiring import follower, system_clock
from countermand.wiring.tasks import beside
from tests.integration.rooms import HeldClock, Rooms, rooms_open
from tests.redis_server import RedisServer
from tests.running import until
from tests.signer import Signer

pytestmark = pytest.mark.anyio

KEYS = Keys.of()
HMAC_KEY = bytes.fromhex("0123456789abcdef" * 4)


class MachineClock(HeldClock):
    """This machine's clocks, where a test would hold them."""

    def __call__(self) -> Instant:
        now = system_clock()
        self.wall_ms, self.boot_ms = now.wall_ms, now.boot_ms
        return now


@dataclass
class Plane:
    """An authority whose relay runs, a Redis, and replicas that follow it there."""

    rooms: Rooms
    redis: RedisServer
    relay: Relay
    replicas: list[Replica] = field(default_factory=list)

    async def revoke(self, count: int = 1) -> list[str]:
        """Revoke sessions that are opened for it; return their ids."""
        sessions = [await self.rooms.session(subject=f"subject {number}") for number in range(count)]
        for session in sessions:
            await self.rooms.service.revoking.revoke(Kind.SESSION, session.id)
        return [session.id for session in sessions]

    async def caught_up(self) -> None:
        """Wait until every replica is fresh, and ends where the ledger does."""
        head = await self.rooms.head()
        for replica in self.replicas:
            await until(partial(_is_at, replica, head.rev), "the replica is fresh, and ends where the ledger does")

    def revokes(self, ids: list[str]) -> bool:
        asked = [Anchors((Anchor(Kind.SESSION, id_),)) for id_ in ids]
        return all(isinstance(replica.check(one), Revoked) for replica in self.replicas for one in asked)


def _is_at(replica: Replica, rev: Rev) -> bool:
    return replica.state.rev == rev and replica.status().state is ReplicaState.FRESH


@asynccontextmanager
async def plane(path: Path, *, replicas: int = 1, hmac_keys: tuple[bytes, ...] = (HMAC_KEY,)) -> AsyncIterator[Plane]:
    """Run all of it, by this machine's clocks."""
    with RedisServer(path / "redis") as server:
        async with rooms_open(path, clock=MachineClock()) as rooms, AsyncExitStack() as stack:
            source = Source(rooms.ledger, rooms.heartbeat, rooms.reader, rooms.service.descendants, rooms.pin)
            relay = Relay(
                source, Stream(REVOCATION_STREAM, hmac_keys), partial(open_writer, server.url, KEYS), system_clock
            )
            await stack.enter_async_context(beside(rooms.heartbeat.run(), stop=rooms.heartbeat.close))
            await stack.enter_async_context(beside(relay.run()))
            running = Plane(rooms, server, relay)
            for _ in range(replicas):
                replica = Replica(LogState(rooms.pin), system_clock, local=True)
                await stack.enter_async_context(beside(follower(replica, RedisLog(server.url, KEYS)).run()))
                running.replicas.append(replica)
            yield running


async def test_what_is_revoked_reaches_every_replica(tmp_path: Path) -> None:
    async with plane(tmp_path, replicas=3) as running:
        ids = await running.revoke(5)
        await running.caught_up()
        assert running.revokes(ids)
        assert running.relay.losses == 0


LOSSES: dict[str, Callable[[RedisServer], object]] = {
    "FLUSHALL": lambda server: server.client().flushall(),
    "DEL of the stream": lambda server: server.client().delete(KEYS.stream),
    "DEL of the checkpoints": lambda server: server.client().delete(KEYS.checkpoints),
    "DEL of the snapshot": lambda server: server.client().delete(KEYS.snapshot),
    "XTRIM of the stream to nothing": lambda server: server.client().xtrim(KEYS.stream, maxlen=0, approximate=False),
    "XTRIM of the stream to its end": lambda server: server.client().xtrim(KEYS.stream, maxlen=3, approximate=False),
    "XTRIM of the checkpoints": lambda server: server.client().xtrim(KEYS.checkpoints, maxlen=0, approximate=False),
    "a restart without persistence": RedisServer.restart,
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
async def test_after_a_loss_old_and_new_replicas_end_where_the_ledger_does(
    tmp_path: Path, loss: Callable[[RedisServer], object]
) -> None:
    async with plane(tmp_path) as running:
        ids = await running.revoke(20)
        await running.caught_up()
        await asyncio.to_thread(loss, running.redis)
        ids += await running.revoke(3)
        fresh = Replica(LogState(running.rooms.pin), system_clock, local=True)
        running.replicas.append(fresh)
        async with beside(follower(fresh, RedisLog(running.redis.url, KEYS)).run()):
            await running.caught_up()
            assert running.revokes(ids)
            good = Anchors((Anchor(Kind.SESSION, (await running.rooms.session()).id),))
            assert [replica.check(good) for replica in running.replicas] == [CLEAR, CLEAR]


async def test_a_consumer_of_the_documents_learns_of_what_is_revoked_and_of_its_descendants(tmp_path: Path) -> None:
    async with plane(tmp_path, replicas=0) as running:
        opening = running.rooms.service.opening
        session = await running.rooms.session()
        agent = await opening.start_agent(session.application_id, "worker", 3600, session_id=session.id)
        helper = await opening.start_agent(session.application_id, "helper", 3600, parent_id=agent.id)
        await running.rooms.service.revoking.revoke(Kind.SESSION, session.id)
        client = running.redis.client(decode_responses=True)
        await until(lambda: len(client.xrange(KEYS.stream)) == 3, "the entry and both descendants are there")
        messages = [fields for _, fields in client.xrange(KEYS.stream)]
        assert [fields["session_id"] for fields in messages] == [session.id, agent.id, helper.id]
        assert [fields.get("agent_session_id") for fields in messages] == [None, agent.id, helper.id]
        assert ["cm_entry" in fields for fields in messages] == [True, False, False]
        assert all(signature_holds(HMAC_KEY, KEYS.stream, fields) for fields in messages)


async def test_in_a_rotation_every_message_comes_once_for_each_key(tmp_path: Path) -> None:
    both = (HMAC_KEY, b"another key of 32 bytes, or more")
    async with plane(tmp_path, hmac_keys=both) as running:
        await running.revoke(2)
        await running.caught_up()
        messages = [fields for _, fields in running.redis.client(decode_responses=True).xrange(KEYS.stream)]
        signers = [[signature_holds(key, KEYS.stream, fields) for key in both] for fields in messages]
        assert signers == [[True, False], [False, True]] * 2
        assert [fields["outbox_id"] for fields in messages] == ["entry-1", "entry-1", "entry-2", "entry-2"]


async def test_what_was_lost_comes_again_for_consumers_of_the_documents(tmp_path: Path) -> None:
    async with plane(tmp_path) as running:
        ids = await running.revoke(10)
        await running.caught_up()
        client = running.redis.client(decode_responses=True)
        client.flushall()
        ids += await running.revoke(1)

        def named() -> set[str]:
            return {fields["session_id"] for _, fields in client.xrange(KEYS.stream)}

        await until(lambda: named() >= set(ids), "everything in force has been published again")


async def test_a_snapshot_that_is_gone_is_laid_again_though_nothing_is_revoked(tmp_path: Path) -> None:
    async with plane(tmp_path) as running:
        await running.revoke(2)
        await running.caught_up()
        client = running.redis.client()
        client.delete(KEYS.snapshot)
        await until(lambda: bool(client.exists(KEYS.snapshot)), "there is a snapshot again")


async def forge_an_entry(running: Plane) -> None:
    """An entry for somebody else's session at the next number, under the true key for messages."""
    forger, head = Signer(running.rooms.ledger.log_id), await running.rooms.head()
    good = await running.rooms.session()
    entry = Entry(1, head.rev.seq + 1, Kind.SESSION, good.id, 1_800_000_000_000)
    fields = to_fields(head.link, entry.to_bytes())
    (message,) = signed_messages(KEYS.stream, fields, [HMAC_KEY])
    running.redis.client().xadd(KEYS.stream, message)
    forged = Checkpoint(forger.log_id, entry.rev, next_link(head.link, entry.to_bytes()), 1_900_000_000_000)
    running.redis.client().xadd(KEYS.checkpoints, {"cm_checkpoint": to_base64(forged.sign(forger.key))})


async def forge_small_numbers(running: Plane) -> None:
    """Messages that say they are old entries, at the end of the stream: a reader must not begin behind them."""
    for _ in range(3):
        fields = {"cm_seq": "0", "cm_prev": "x", "cm_entry": "y", "session_id": "z"}
        running.redis.client().xadd(KEYS.stream, fields)


async def replay_a_checkpoint(running: Plane) -> None:
    client = running.redis.client()
    (_, oldest), *_ = client.xrange(KEYS.checkpoints, count=1)
    client.xadd(KEYS.checkpoints, oldest)


async def repeat_and_reorder(running: Plane) -> None:
    client = running.redis.client()
    for _, fields in reversed(client.xrange(KEYS.stream)):
        client.xadd(KEYS.stream, fields)


async def write_as_others_do(running: Plane) -> None:
    """Another producer, whose messages push out ours."""
    client = running.redis.client()
    for number in range(300):
        client.xadd(KEYS.stream, {"session_id": f"of another {number}", "\xff": b"\xff\xfe"}, maxlen=5)


async def cut_every_connection(running: Plane) -> None:
    for _ in range(20):
        running.redis.client().client_kill_filter(_type="normal", skipme=True)
        await asyncio.sleep(0.05)


async def stop_answering(running: Plane) -> None:
    with running.redis.frozen():
        await running.revoke(2)
        await asyncio.sleep(3)


FAULTS: dict[str, Callable[[Plane], Awaitable[None]]] = {
    "a forged entry and checkpoint": forge_an_entry,
    "old numbers at the end": forge_small_numbers,
    "an old checkpoint": replay_a_checkpoint,
    "everything again, in reverse": repeat_and_reorder,
    "another producer's MAXLEN": write_as_others_do,
    "connections that are cut": cut_every_connection,
    "a server that never answers": stop_answering,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_amid_a_fault_nothing_revoked_passes_and_after_it_every_replica_ends_where_the_ledger_does(
    tmp_path: Path, fault: Callable[[Plane], Awaitable[None]]
) -> None:
    async with plane(tmp_path) as running:
        ids = await running.revoke(10)
        await running.caught_up()
        await fault(running)
        assert running.revokes(ids), "what is known stays known"
        ids += await running.revoke(3)
        fresh = Replica(LogState(running.rooms.pin), system_clock, local=True)
        running.replicas.append(fresh)
        async with beside(follower(fresh, RedisLog(running.redis.url, KEYS)).run()):
            await running.caught_up()
            assert running.revokes(ids)
            good = Anchors((Anchor(Kind.SESSION, (await running.rooms.session()).id),))
            assert [replica.check(good) for replica in running.replicas] == [CLEAR, CLEAR]
