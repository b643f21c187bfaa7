"""Messages applied a second by the documented consumer, at its default batch of 50, into the documented store on Redis.

Both read the same messages of the same stream, each in a group of its own, and mark the same ids, each under a prefix
of its own.
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from bench.harness import Contender, Row, race
from bench.log import new_id
from bench.shared import HMAC_KEY, THEIR_PREFIX, published_on, redis_running
from countermand.log.anchor import Anchor, Kind
from countermand.log.wire import REVOCATION_STREAM, documented_fields, signed_messages
from countermand.stores.consumer import RedisRevocationConsumer
from countermand.stores.redis import RedisRevocationStore

MESSAGES: Final = 2_000
"""A multiple of 50: a poll that finds nothing may wait for ever in one, and a moment in the other."""
ROUNDS: Final = 11
PUBLISHED: Final = "the published consumer"
OURS: Final = "our consumer"


def measure() -> list[Row]:
    """Return a row for signed messages, and one for unsigned ones."""
    with redis_running() as server, server.client() as client, published_on(server, THEIR_PREFIX) as peers:

        def turns(name: str, keys: Sequence[bytes]) -> Row:
            store = RedisRevocationStore(client)
            consumer = RedisRevocationConsumer(client, store, "ours", group="ours", stream_hmac_key=list(keys) or None)
            contenders: dict[str, Contender] = {OURS: partial(_consume, consumer)}
            contenders |= peers.contenders({PUBLISHED: ("consume", name, str(MESSAGES))})
            medians_s = race(contenders, rounds=ROUNDS, before=partial(_publish, client, _messages(keys)))
            per_s = peers.named({who: 1 / taken_s for who, taken_s in medians_s.items()}, OURS, PUBLISHED)
            ours = per_s.pop(OURS)
            what = f"documented messages applied, {name}"
            return Row(what, "a second", float(ours), per_s, "8 times the published wanted")

        return [turns("signed", [HMAC_KEY]), turns("unsigned", [])]


def _messages(keys: Sequence[bytes]) -> list[dict[str, str]]:
    """What an authority publishes for those who know no more than the documents."""
    ids = [new_id(Kind.SESSION) for _ in range(MESSAGES)]
    fields = [documented_fields(Anchor(Kind.SESSION, id_), "signed out") | {"outbox_id": f"entry-{id_}"} for id_ in ids]
    return [message for one in fields for message in signed_messages(REVOCATION_STREAM, one, keys)]


def _publish(client: Any, messages: Sequence[Mapping[str, str]]) -> None:
    client.flushdb()
    pipeline = client.pipeline(transaction=False)
    for message in messages:
        pipeline.xadd(REVOCATION_STREAM, message)
    pipeline.execute()


def _consume(consumer: RedisRevocationConsumer) -> float:
    consumer.ensure_group()
    before, dealt = consumer.applied, 0
    began_s = time.perf_counter()
    while dealt < MESSAGES:
        dealt += consumer.poll_once()
    taken_s = time.perf_counter() - began_s
    if consumer.applied - before != MESSAGES:
        raise RuntimeError("a message of the bench was refused")
    return taken_s / MESSAGES
