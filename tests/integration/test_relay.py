"""The ledger over a real Redis, to real replicas: what is lost on the way is found out, and mended."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from countermand.authority.relay import Relay
from countermand.errors import BadAnswerError
from countermand.log.anchor import Kind
from countermand.log.chain import next_link
from countermand.log.checkpoint import Checkpoint
from countermand.log.codec import to_base64
from countermand.log.entry import Entry
from countermand.log.hmac import signature_holds
from countermand.log.verdict import CLEAR
from countermand.log.wire import signed_messages, to_fields
from countermand.transport.redis import open_writer
from countermand.wiring import system_clock
from countermand.wiring.tasks import beside
from tests.integration.planes import HMAC_KEY, KEYS, Plane, following, plane, session_anchors
from tests.redis_server import RedisServer
from tests.running import until
from tests.signer import Signer

pytestmark = pytest.mark.anyio


async def test_what_is_revoked_reaches_every_replica(tmp_path: Path) -> None:
    async with plane(tmp_path, replicas=3) as running:
        ids = await running.revoke(5)
        await running.caught_up()
        assert running.revokes(ids)
        assert running.relay.way.losses == 0


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
        async with following(running.rooms.pin, running.redis.url) as fresh:
            running.replicas.append(fresh)
            await running.caught_up()
            assert running.revokes(ids)
            good = session_anchors((await running.rooms.session()).id)
            assert [replica.check(good) for replica in running.replicas] == [CLEAR, CLEAR]


async def test_a_consumer_of_the_documents_learns_of_what_is_revoked_and_of_its_descendants(tmp_path: Path) -> None:
    async with plane(tmp_path, replicas=0) as running:
        opening = running.rooms.service.opening
        session = await running.rooms.session()
        agent = await opening.start_agent(session.application_id, "worker", 3600, session_id=session.id)
        helper = await opening.start_agent(session.application_id, "helper", 3600, parent_id=agent.id)
        await running.rooms.service.revoking.revoke(Kind.SESSION, session.id)
        client = running.redis.client(decode_responses=True)

        def told() -> dict[str, dict[str, str]]:  # the first message for each; it may come again
            return {fields["session_id"]: fields for _, fields in reversed(client.xrange(KEYS.stream))}

        await until(lambda: len(told()) == 3, "the entry and both descendants are there")
        messages = [told()[id_] for id_ in (session.id, agent.id, helper.id)]
        assert [fields.get("agent_session_id") for fields in messages] == [None, agent.id, helper.id]
        assert ["cm_entry" in fields for fields in messages] == [True, False, False]
        assert all(signature_holds(HMAC_KEY, KEYS.stream, fields) for fields in messages)


async def test_in_a_rotation_every_message_comes_once_for_each_key(tmp_path: Path) -> None:
    both = (HMAC_KEY, b"another key of 32 bytes, or more")
    async with plane(tmp_path, hmac_keys=both) as running:
        await running.revoke(2)
        await running.caught_up()
        stream = running.redis.client(decode_responses=True).xrange(KEYS.stream)
        messages = [fields for _, fields in stream if "cm_entry" in fields]
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


async def test_what_was_trimmed_comes_again_for_consumers_of_the_documents(tmp_path: Path) -> None:
    async with plane(tmp_path) as running:
        ids = await running.revoke(10)
        await running.caught_up()
        running.relay.way.owed._published_again_ms = None
        client = running.redis.client(decode_responses=True)
        newest, _ = client.xrevrange(KEYS.stream, count=1)[0]
        client.xtrim(KEYS.stream, minid=newest, approximate=False)
        ids += await running.revoke(1)

        def named() -> set[str]:
            return {fields["session_id"] for _, fields in client.xrange(KEYS.stream) if "cm_entry" not in fields}

        await until(lambda: named() >= set(ids), "everything in force has been published again")


async def test_two_relays_on_one_stream_publish_each_entry_once(tmp_path: Path) -> None:
    async with plane(tmp_path) as running:
        relay = running.relay
        other = Relay(relay.source, relay.stream, relay._open_writer, system_clock)
        async with beside(other.run()):
            await until(lambda: other.way.owed._refreshed_ms is not None, "the other has published too")
            ids = await running.revoke(10)
            await running.caught_up()
            stream = running.redis.client(decode_responses=True).xrange(KEYS.stream)
            entries = [fields["session_id"] for _, fields in stream if "cm_entry" in fields]
            assert entries == ids


async def test_who_has_not_seen_the_newest_checkpoint_writes_nothing(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server:
        async with open_writer(server.url, KEYS) as writer:
            start = await writer.look()
            assert await writer.append([{"a": "1"}], b"checkpoint", start) is not None
            assert await writer.append([{"a": "2"}], b"checkpoint", start) is None
        assert server.client().xlen(KEYS.stream) == server.client().xlen(KEYS.checkpoints) == 1


async def test_where_a_key_is_no_stream_no_checkpoint_is_written(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server:
        async with open_writer(server.url, KEYS) as writer:
            start = await writer.look()
            server.client().set(KEYS.stream, "no stream")
            with pytest.raises(BadAnswerError):
                await writer.append([], b"checkpoint", start)
        assert not server.client().exists(KEYS.checkpoints)


async def test_a_cursor_ahead_of_every_checkpoint_is_dropped_though_messages_go_on(tmp_path: Path) -> None:
    """As after a failover, when ids have fallen back."""
    async with plane(tmp_path) as running:
        await running.revoke(2)
        await running.caught_up()
        client = running.redis.client()
        (id_, newest), *_ = client.xrevrange(KEYS.checkpoints, count=1)
        ahead = f"{int(id_.split(b'-')[0]) + 3_600_000}-0"
        client.xadd(KEYS.checkpoints, newest, id=ahead)
        await running.revoke(1)
        await running.caught_up()
        client.delete(KEYS.checkpoints)
        async with beside(_chatter(client)):
            await running.revoke(1)
            await running.caught_up()


async def _chatter(client: Any) -> None:
    while True:
        client.xadd(KEYS.stream, {"session_id": "of another"})
        await asyncio.sleep(0.1)


async def test_a_replica_that_is_pages_behind_reads_them_all_before_it_believes_a_checkpoint(tmp_path: Path) -> None:
    async with plane(tmp_path) as running:
        await running.rooms.fill(2_500)
        await running.caught_up()
        async with following(running.rooms.pin, running.redis.url) as late:
            running.replicas.append(late)
            await running.caught_up()


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


async def write_nonsense(running: Plane) -> None:
    """Our names where values stand, names twice, values of every kind in our fields."""
    client = running.redis.client()
    for fields in (
        ["reason", "cm_seq"],
        ["cm_checkpoint", "cm_seq", "reason", "cm_checkpoint"],
        ["cm_seq", "12", "cm_seq", "13"],
        ["cm_seq", "\xff", "cm_prev", "\0" * 44, "cm_entry", "=" * 9_000, "cm_checkpoint", "A" * 9_000],
        ["cm_seq", "9" * 40, "cm_prev", "", "cm_entry", "", "cm_checkpoint", ""],
    ):
        for key in (KEYS.stream, KEYS.checkpoints):
            client.execute_command("XADD", key, "*", *fields)


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
    "nonsense": write_nonsense,
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
        async with following(running.rooms.pin, running.redis.url) as fresh:
            running.replicas.append(fresh)
            await running.caught_up()
            assert running.revokes(ids)
            good = session_anchors((await running.rooms.session()).id)
            assert [replica.check(good) for replica in running.replicas] == [CLEAR, CLEAR]
