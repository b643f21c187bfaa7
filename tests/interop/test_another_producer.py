"""What a producer of the documented format publishes, our consumer applies, and our replicas pass over."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from countermand.log.anchor import Anchor, Anchors, Kind
from countermand.log.hmac import signature_holds, stream_signature
from countermand.log.verdict import CLEAR
from countermand.log.wire import REVOCATION_STREAM
from countermand.stores.consumer import RedisRevocationConsumer
from countermand.stores.memory import InMemoryRevocationStore
from tests.integration.planes import plane
from tests.interop.peer import KEY, OTHER_KEY, Published
from tests.redis_server import RedisServer

Fields = dict[str, str]

KNOWN_ANSWERS: dict[str, tuple[str, Fields]] = {
    "c06ccc579e026c31a97a04f203981b236a3c88041712e9b46242e8762da23d75": (
        "audit:events",
        {"action": "transfer", "amount": "100"},
    ),
    "dd36b85d880107b52155410569f95436acd8b5a656bba83e37c4b0196fb32ae1": (
        "audit:events",
        {"active": "true", "count": "0", "name": ""},
    ),
    "0980ad867829e5e23b77ea97b1fc0c080dce11700761236b88bc4145020155b1": (
        REVOCATION_STREAM,
        {
            "outbox_id": "outbox-1",
            "zone_id": "zone-1",
            "session_id": "authority-record-1",
            "reason": "grant_revoked",
            "grant_id": "grant-1",
        },
    ),
}
UNUSUAL: dict[str, Fields] = {
    "no fields": {},
    "letters of the whole of Unicode": {"session_id": "sitzung-ü\N{SNOWMAN}\U0001f600", "reason": "é"},
    "names in no order": {"b": "1", "a": "2", "B": "3", "_": "4", "": "5"},
    "equals signs in values": {"a": "b=c=d"},
    "control characters": {"a": "\x00\t\r\x7f\u2028"},
    "a signature that was there before": {"a": "b", "_sig": "of another"},
}


@pytest.mark.parametrize("answer", KNOWN_ANSWERS)
def test_both_give_the_known_answers(published: Published, answer: str) -> None:
    stream, fields = KNOWN_ANSWERS[answer]
    assert published.sign(KEY, stream, fields) == stream_signature(KEY, stream, fields) == answer


@pytest.mark.parametrize("fields", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_both_sign_alike_what_is_unusual(published: Published, fields: Fields) -> None:
    signature = published.sign(KEY, REVOCATION_STREAM, fields)
    assert signature_holds(KEY, REVOCATION_STREAM, fields | {"_sig": signature})


def consumer_of(server: RedisServer, store: Any, **options: Any) -> RedisRevocationConsumer:
    return RedisRevocationConsumer(server.client(), store, "ours-1", **options)


MESSAGES: list[Fields] = [
    {"zone_id": "zone-1", "session_id": "ses-1", "reason": "grant_revoked", "grant_id": "grant-1", "outbox_id": "1"},
    {"zone_id": "zone-1", "session_id": "ses-2", "root_sid": "root-2", "outbox_id": "2"},
    {"zone_id": "zone-1", "agent_session_id": "agent-3", "outbox_id": "3"},
    {"zone_id": "zone-1", "delegation_edge_id": "edge-4", "unknown to us": "é", "outbox_id": "4"},
    {"sid": "sitzung-ü"},
]
ANCHORS = ["ses-1", "ses-2", "root-2", "agent-3", "edge-4", "sitzung-ü"]


@pytest.mark.parametrize("key", [None, KEY], ids=["unsigned", "signed"])
def test_our_consumer_applies_what_it_publishes(server: RedisServer, published: Published, key: bytes | None) -> None:
    store = InMemoryRevocationStore()
    published.publish(*MESSAGES, key=key)

    assert consumer_of(server, store, stream_hmac_key=key).poll_once() == len(MESSAGES)

    assert [sid for sid in ANCHORS if store.is_revoked(sid)] == ANCHORS
    assert not store.is_revoked("grant-1"), "a grant is no anchor of the documents"


@pytest.mark.parametrize("key", [None, OTHER_KEY], ids=["unsigned", "signed with another key"])
def test_our_consumer_with_a_key_applies_nothing_that_is(
    server: RedisServer, published: Published, key: bytes | None
) -> None:
    store = InMemoryRevocationStore()
    published.publish(*MESSAGES, key=key)
    consumer = consumer_of(server, store, stream_hmac_key=KEY)

    assert consumer.poll_once() == len(MESSAGES)

    assert (consumer.applied, consumer.dead_lettered) == (0, len(MESSAGES))
    assert not any(store.is_revoked(sid) for sid in ANCHORS)


def test_our_consumer_with_both_keys_loses_nothing_while_a_producer_changes_its_key(
    server: RedisServer, published: Published
) -> None:
    store = InMemoryRevocationStore()
    consumer = consumer_of(server, store, stream_hmac_key=[KEY, OTHER_KEY], batch_size=3)
    for number, key in enumerate([KEY, KEY, OTHER_KEY, KEY, OTHER_KEY, OTHER_KEY]):
        published.publish({"session_id": f"ses-{number}"}, key=key)

    assert [consumer.poll_once() for _ in range(3)] == [3, 3, 0]

    assert all(store.is_revoked(f"ses-{number}") for number in range(6))


@pytest.mark.anyio
@pytest.mark.parametrize("key", [None, KEY], ids=["unsigned", "signed with our key"])
async def test_replicas_pass_over_what_it_publishes(tmp_path: Path, key: bytes | None) -> None:
    async with plane(tmp_path, replicas=2) as running:
        with Published(running.redis.port) as producer:
            ids = await running.revoke(3)
            await asyncio.to_thread(producer.publish, *MESSAGES, key=key)
            ids += await running.revoke(3)
            await asyncio.to_thread(producer.publish, *MESSAGES, key=key)
            await running.caught_up()
        assert running.revokes(ids)
        foreign = [Anchors((Anchor(Kind.SESSION, sid),)) for sid in ANCHORS]
        assert {replica.check(anchors) for replica in running.replicas for anchors in foreign} == {CLEAR}
        assert running.relay.way.losses == 0
