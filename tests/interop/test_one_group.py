"""Both consumers in one group, over one store in Redis: a fleet that changes from the published packages to ours."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from countermand.log.wire import REVOCATION_STREAM, signed_messages
from countermand.stores.consumer import RedisRevocationConsumer
from countermand.stores.group import IDLE_MS
from countermand.stores.memory import InMemoryRevocationStore
from countermand.stores.redis import RedisRevocationStore
from tests.interop.peer import KEY, OTHER_KEY, Published, PublishedError
from tests.redis_server import RedisServer

GROUP: Final = "resource-revocation"
DEAD: Final = f"{REVOCATION_STREAM}.dead"
THEIRS: Final = "published-1"
DEADLINE_S: Final = 20.0


def ours(server: RedisServer, name: str = "ours-1", **options: Any) -> RedisRevocationConsumer:
    return RedisRevocationConsumer(server.client(), RedisRevocationStore(server.client()), name, **options)


def messages(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"session_id": f"ses-{number}"} for number in range(start, start + count)]


def revoked(published: Published, count: int) -> list[int]:
    """Return which of the first `count` sessions are."""
    return [number for number in range(count) if published.is_revoked(f"ses-{number}")]


def pending(admin: Any) -> dict[str, int]:
    """How many messages each consumer has read and not acknowledged."""
    return {one["name"]: one["pending"] for one in admin.xpending(REVOCATION_STREAM, GROUP)["consumers"]}


def grow_old(admin: Any) -> None:
    """Let every pending message be one that its consumer has left alone for long enough."""
    for one in admin.xpending_range(REVOCATION_STREAM, GROUP, "-", "+", 1000):
        admin.xclaim(REVOCATION_STREAM, GROUP, one["consumer"], 0, [one["message_id"]], idle=IDLE_MS + 1, justid=True)


def add(admin: Any, *fields: dict[Any, Any]) -> list[str]:
    return [admin.xadd(REVOCATION_STREAM, one) for one in fields]


@contextmanager
def polling(consumer: RedisRevocationConsumer) -> Iterator[None]:
    """Poll in a thread, as documented, until the block ends."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.is_set():
            consumer.poll_once()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def test_they_share_the_work_and_lose_nothing(server: RedisServer, published: Published, admin: Any) -> None:
    published.consume(THEIRS, KEY, batch_size=5)
    consumer = ours(server, stream_hmac_key=KEY, batch_size=5)
    handled, count, deadline_s = 0, 0, time.monotonic() + DEADLINE_S
    with polling(consumer):
        while not (handled and consumer.applied and handled + consumer.applied == count >= 300):
            assert time.monotonic() < deadline_s, (
                f"of {count}, {handled} by the published one, {consumer.applied} by us"
            )
            if count < 300 or not (handled and consumer.applied):
                published.publish(*messages(20, count), key=KEY)
                count += 20
            handled += published.poll(THEIRS)

    assert revoked(published, count) == list(range(count))
    assert pending(admin) == {}


def test_what_a_published_consumer_left_when_it_was_killed_is_claimed_by_ours(
    server: RedisServer, published: Published, admin: Any
) -> None:
    with Published(server.port) as dying:
        dying.consume(THEIRS, killed_at="ses-3")
        published.publish(*messages(10))
        with pytest.raises(PublishedError, match="killed"):
            dying.poll(THEIRS)
    assert pending(admin) == {THEIRS: 7}
    published.consume(THEIRS)
    assert published.poll_all(THEIRS) == 0, "its next life reads nothing again"
    grow_old(admin)

    assert ours(server).poll_once() == 7

    assert revoked(published, 10) == list(range(10))
    assert pending(admin) == {}


def test_what_ours_left_when_it_ended_is_claimed_by_another_of_ours_and_by_no_published_one(
    server: RedisServer, published: Published, admin: Any
) -> None:
    ending = RedisRevocationConsumer(server.client(), _Ending(), "ours-1")
    ending.ensure_group()
    published.consume(THEIRS)
    published.publish(*messages(10))
    with pytest.raises(SystemExit):
        ending.poll_once()
    assert pending(admin) == {"ours-1": 10}
    grow_old(admin)

    assert published.poll_all(THEIRS) == 0
    assert ours(server, "ours-2").poll_once() == 10

    assert revoked(published, 10) == list(range(10))
    assert pending(admin) == {}


class _Ending(InMemoryRevocationStore):
    """A store in whose hands the program ends."""

    def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None:
        raise SystemExit(sid, ttl_ms)


POISON: dict[str, tuple[bytes | None, dict[Any, Any], str]] = {
    "a signature of other letters": (KEY, {"session_id": "x", "_sig": "é"}, "TypeError"),
    "a signature that is no text": (KEY, {"session_id": "x", "_sig": b"\xff"}, "UnicodeDecodeError"),
    "an id that is no text, signed": (KEY, {"session_id": b"\xff", "_sig": "0" * 64}, "UnicodeDecodeError"),
    "an id that is no text": (None, {"session_id": b"\xff"}, "UnicodeDecodeError"),
    "another field that is no text": (None, {"session_id": "x", "reason": b"\xff"}, "UnicodeDecodeError"),
}


@pytest.mark.parametrize(("key", "poison", "error"), POISON.values(), ids=POISON.keys())
def test_a_message_on_which_a_published_consumer_stops_is_dealt_with_by_ours_and_so_is_what_came_with_it(
    server: RedisServer,
    published: Published,
    admin: Any,
    key: bytes | None,
    poison: dict[Any, Any],
    error: str,
) -> None:
    published.consume(THEIRS, key)
    published.publish(*messages(1), key=key)
    add(admin, poison)
    published.publish(*messages(3, 1), key=key)
    with pytest.raises(PublishedError, match=error):
        published.poll(THEIRS)
    assert published.poll_all(THEIRS) == 0
    assert (revoked(published, 4), pending(admin)) == ([0], {THEIRS: 4})
    grow_old(admin)
    consumer = ours(server, stream_hmac_key=key)

    assert consumer.poll_once() == 4

    assert revoked(published, 4) == [0, 1, 2, 3]
    assert pending(admin) == {}
    assert consumer.failures == 0


REFUSED: dict[str, tuple[bytes | None, dict[str, str], str]] = {
    "no signature": (KEY, {"session_id": "x"}, "invalid_signature"),
    "an empty signature": (KEY, {"session_id": "x", "_sig": ""}, "invalid_signature"),
    "the signature of another message": (KEY, {"session_id": "x", "_sig": "0" * 64}, "invalid_signature"),
    "another key": (
        KEY,
        signed_messages(REVOCATION_STREAM, {"session_id": "x"}, [OTHER_KEY])[0],
        "invalid_signature",
    ),
    "no anchor": (None, {"reason": "none", "grant_id": "x"}, "missing_revocation_anchor"),
    "empty anchors": (None, {"session_id": "", "sid": ""}, "missing_revocation_anchor"),
    "no anchor, and signed": (
        KEY,
        signed_messages(REVOCATION_STREAM, {"reason": "é"}, [KEY])[0],
        "missing_revocation_anchor",
    ),
}


@pytest.mark.parametrize(("key", "fields", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_both_refuse_and_acknowledge_the_same_and_ours_writes_a_dead_letter(
    server: RedisServer, published: Published, admin: Any, key: bytes | None, fields: dict[str, str], reason: str
) -> None:
    published.consume(THEIRS, key)
    (first,) = add(admin, fields)
    assert published.poll(THEIRS) == 1
    assert not admin.exists(DEAD), "the published consumer keeps none"
    (second,) = add(admin, fields)
    consumer = ours(server, stream_hmac_key=key)

    assert (consumer.poll_once(), consumer.dead_lettered) == (1, 1)

    assert first < second
    assert pending(admin) == {}
    assert not published.is_revoked("x")
    ((_, letter),) = admin.xrange(DEAD)
    assert letter.keys() == {"source_id", "reason", "payload"}
    assert (letter["source_id"], letter["reason"], json.loads(letter["payload"])) == (second, reason, fields)
    published.consume("published-2", group="of dead letters", stream=DEAD)
    assert published.poll("published-2") == 1, "a dead letter is a message that it passes over"


ONLY_OURS: dict[str, dict[str, str]] = {
    name: {name: "x"} for name in ("sid", "root_sid", "agent_session_id", "delegation_edge_id")
}


@pytest.mark.parametrize("fields", ONLY_OURS.values(), ids=ONLY_OURS.keys())
def test_an_anchor_in_another_field_than_session_id_is_applied_by_ours_alone(
    server: RedisServer, published: Published, fields: dict[str, str]
) -> None:
    published.consume(THEIRS)
    published.publish(fields)
    assert published.poll(THEIRS) == 1
    assert not published.is_revoked("x")
    published.publish(fields)
    assert ours(server).poll_once() == 1
    assert published.is_revoked("x")


# Keys change


def rotate(admin: Any, count: int) -> None:
    """Publish as our relay does in a rotation: every message once for each key, the old one first."""
    for fields in messages(count):
        add(admin, *signed_messages(REVOCATION_STREAM, fields, [KEY, OTHER_KEY]))


@pytest.mark.parametrize("batch_size", [1, 3, 50], ids=str)
@pytest.mark.parametrize("held", [KEY, OTHER_KEY], ids=["the old key", "the new key"])
def test_in_a_rotation_ours_with_both_keys_and_published_ones_with_either_lose_nothing_in_one_group(
    server: RedisServer, published: Published, admin: Any, held: bytes, batch_size: int
) -> None:
    published.consume(THEIRS, held, batch_size=batch_size)
    consumer = ours(server, stream_hmac_key=[KEY, OTHER_KEY], batch_size=batch_size)
    rotate(admin, 20)
    while published.poll(THEIRS) + consumer.poll_once():
        pass
    assert revoked(published, 20) == list(range(20))
    assert consumer.dead_lettered == 0


@pytest.mark.parametrize("read_before", range(5))
def test_in_a_rotation_a_published_consumer_that_changes_its_key_between_two_polls_loses_nothing(
    server: RedisServer, published: Published, admin: Any, read_before: int
) -> None:
    published.consume(THEIRS, KEY, batch_size=1)
    rotate(admin, 4)
    for _ in range(read_before):
        published.poll(THEIRS)
    published.consume(THEIRS, OTHER_KEY, batch_size=1)
    published.poll_all(THEIRS)
    assert revoked(published, 4) == list(range(4))


def test_two_published_consumers_of_one_group_that_hold_a_key_each_can_lose_both_copies(
    server: RedisServer, published: Published, admin: Any
) -> None:
    published.consume("old", KEY, batch_size=1)
    published.consume("new", OTHER_KEY, batch_size=1)
    rotate(admin, 1)
    assert (published.poll("new"), published.poll("old")) == (1, 1)
    assert revoked(published, 1) == [], "then a group is to change its key at once, or to consist of ours"
