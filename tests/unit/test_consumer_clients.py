"""The consumer on clients of every shape, on servers that fail, and what it asks of them. No server."""

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import pytest
import redis.asyncio

from countermand.errors import InvalidValueError, StoreError
from countermand.stores.client import without_retries
from countermand.stores.consumer import RedisRevocationConsumer
from countermand.stores.group import ConsumerGroup
from countermand.stores.memory import InMemoryRevocationStore
from tests.unit.stream_clients import (
    FIELDS,
    FOR_GOOD,
    KEY,
    AnsweringClient,
    BuryingClient,
    ClaimingClient,
    Entry,
    HeldTime,
    MinimalClient,
    PickyStore,
    RecordingStore,
    RedisError,
    as_bytes,
    consumer_of,
    entries,
    polls,
)

# Shapes


GOOD: Any = (b"1-0", FIELDS)
SHAPES = {
    "RESP2": [[b"s", [GOOD]]],
    "RESP2, decoded": [["s", [("1-0", {"session_id": "a"})]]],
    "RESP3": {b"s": [[GOOD]]},
    "RESP3, unified": {b"s": [GOOD]},
    "tuples": ((b"s", (GOOD,)),),
    "a mapping of mappings": {b"s": {b"1-0": FIELDS}},
    "fields as Redis sends them": [[b"s", [[b"1-0", [b"session_id", b"a", b"reason", b"b"]]]]],
    "bytes and text mixed": [["s", [("1-0", {b"session_id": "a"})]]],
    "more about an entry than was asked for": [[b"s", [(*GOOD, 4711, 1)]]],
    "beside what is no entry": [[b"s", [None, (None, None), 7, "x", [], (7, FIELDS), GOOD]], None, 7, [b"t"]],
}


@pytest.mark.parametrize("answer", SHAPES.values(), ids=SHAPES)
def test_a_message_is_read_in_whatever_shape_a_client_gives_it(answer: Any) -> None:
    client, store = AnsweringClient(answer), InMemoryRevocationStore()

    assert consumer_of(client, store).poll_once() == 1

    assert store.is_revoked("a")
    assert [as_bytes(message_id) for message_id in client.acknowledged] == [b"1-0"]


@pytest.mark.parametrize(
    "answer", [None, [], {}, (), "", "s", b"s", 7, object(), [[b"s", None]], [[b"s", 7]], {b"s": 7}]
)
def test_an_answer_without_a_message_is_none(answer: Any) -> None:
    assert consumer_of(AnsweringClient(answer)).poll_once() == 0


@pytest.mark.parametrize("fields", [7, "text", b"bytes", object(), ["session_id"], {7: 8}])
def test_fields_that_are_none_are_refused_and_stop_nobody(fields: Any) -> None:
    client, store = BuryingClient(*entries(fields, FIELDS)), InMemoryRevocationStore()

    assert consumer_of(client, store).poll_once() == 2

    assert store.is_revoked("a")
    assert [reason for _, reason, _ in client.letters] == ["missing_revocation_anchor"]


def test_a_client_that_answers_every_read_alike_has_each_message_applied_once_a_poll() -> None:
    client = AnsweringClient([[b"s", [GOOD]]])
    consumer = consumer_of(client)

    assert [consumer.poll_once(), consumer.poll_once()] == [1, 1]

    assert client.acknowledged == [b"1-0", b"1-0"]


# Clients that decode


class DecodingClient(MinimalClient):
    """Decodes what it reads, and fails at a whole page where it cannot: as a wrapper of three methods would."""

    def xreadgroup(self, *args: Any, **options: Any) -> Any:
        answer = super().xreadgroup(*args, **options)
        return [
            [stream, [(entry, {name: value.decode() for name, value in fields.items()}) for entry, fields in page]]
            for stream, page in answer
        ]


def sid(value: bytes) -> dict[bytes, bytes]:
    return {b"sid": value}


UNREADABLE = {
    "the first": [b"\xff", b"a", b"b"],
    "the last": [b"a", b"b", b"\xff"],
    "in the middle": [b"a", b"\xff", b"b"],
    "two different ones": [b"a", b"\xff", b"b", b"\xfe", b"c"],
    "one after the other": [b"a", b"\xff", b"\xff", b"\xfe", b"b"],
    "all": [b"\xff", b"\xfe"],
}


@pytest.mark.parametrize("values", UNREADABLE.values(), ids=UNREADABLE)
def test_a_message_that_the_client_cannot_decode_stops_no_other_and_stays_pending(
    values: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    client, store = DecodingClient(*entries(*map(sid, values))), RecordingStore()
    consumer = consumer_of(client, store)
    polls(consumer, 20)
    client.waiting = [(f"{n}-7".encode(), sid(value)) for n, value in enumerate([b"\xff", b"later"], 100)]
    polls(consumer, 20)

    good = [value.decode() for value in (*values, b"later") if value.isascii()]
    assert sorted(store.marked) == sorted(good)
    assert [entry[1][b"sid"] for entry in client.pending] == [*(v for v in values if not v.isascii()), b"\xff"]
    assert consumer.failures >= 2
    assert len([record for record in caplog.records if "the Redis client decodes" in record.message]) == 1


# Answers that are none


class AwaitingClient(MinimalClient):
    """As one for asyncio whose methods are not marked as such."""

    def __init__(self, name: str) -> None:
        super().__init__(*entries(FIELDS))

        async def answer(*_: Any, **__: Any) -> Any:
            raise NotImplementedError

        setattr(self, name, lambda *_, **__: answer())


class Awaitable:
    def __await__(self) -> Iterator[None]:
        raise NotImplementedError


@pytest.mark.parametrize("name", ["xreadgroup", "xack"])
def test_an_answer_that_would_have_to_be_awaited_is_a_mistake_at_once(name: str) -> None:
    consumer = consumer_of(AwaitingClient(name))
    with pytest.raises(TypeError, match="asyncio"):
        consumer.poll_once()
    gc.collect()  # a coroutine that nobody awaited would warn now


def test_so_it_is_for_a_group_and_for_what_is_no_coroutine() -> None:
    with pytest.raises(TypeError, match="asyncio"):
        consumer_of(AwaitingClient("xgroup_create")).ensure_group()
    with pytest.raises(TypeError, match="asyncio"):
        consumer_of(AnsweringClient(Awaitable())).poll_once()


# Servers that fail


def test_a_dead_server_is_logged_once_counted_and_waited_for_longer_and_longer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    client, time = MinimalClient(*entries(FIELDS)), HeldTime()
    consumer = consumer_of(client, None, time)
    client.fault = RedisError("Connection refused")

    assert [consumer.poll_once() for _ in range(7)] == [0] * 7

    assert time.slept == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    assert consumer.failures == 7
    assert [record.message for record in caplog.records] == ["reading the revocation stream fails: RedisError"]

    client.fault = None

    assert consumer.poll_once() == 1
    assert caplog.records[-1].message == "reading the revocation stream works again"
    client.fault = RedisError("again")
    consumer.poll_once()
    assert time.slept[7:] == pytest.approx([0.1])
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]


def test_the_waits_of_many_replicas_differ() -> None:
    pauses = []
    for number in (0.0, 1.0):
        client, time = MinimalClient(), HeldTime()
        client.fault = RedisError("refused")
        consumer_of(client, None, time, random=lambda number=number: number).poll_once()
        pauses += time.slept
    assert pauses == [0.05, 0.1]


MISTAKES = [
    TypeError("a mistake"),
    NameError("a mistake"),
    AssertionError("a mistake"),
    NotImplementedError("a mistake"),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=repr)
def test_a_mistake_of_the_program_is_raised_and_loses_no_message(mistake: Exception) -> None:
    client, store = MinimalClient(*entries(FIELDS)), PickyStore("a")
    store.fault = mistake
    consumer = consumer_of(client, store)

    with pytest.raises(type(mistake)):
        consumer.poll_once()
    store.refused.clear()
    assert consumer.poll_once() == 1

    client.fault = mistake
    with pytest.raises(type(mistake)):
        consumer.poll_once()


def test_a_client_whose_connection_goes_away_beneath_it_is_not_mistaken() -> None:
    client = MinimalClient()
    client.fault = AttributeError("'NoneType' object has no attribute 'recv'")
    consumer = consumer_of(client)
    assert consumer.poll_once() == 0
    assert consumer.failures == 1


SECRET = "hunter2"
SECRETS = [
    ConnectionError(f"redis://:{SECRET}@host refused"),
    RedisError(f"NOAUTH {SECRET}"),
    RedisError(SECRET.upper()),
    RedisError(),
    OSError(111, SECRET),
]


@pytest.mark.parametrize("fault", SECRETS, ids=lambda fault: type(fault).__name__)
def test_what_a_server_says_is_not_in_the_log_but_for_its_code(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    client, store = BuryingClient(*entries(FIELDS, {"reason": "none"})), PickyStore("a")
    store.fault = client.bury_fault = fault
    consumer = consumer_of(client, store)
    consumer.poll_once()
    client.fault = fault
    consumer.poll_once()

    with pytest.raises(StoreError) as raised:
        consumer_of(Refusing(fault)).ensure_group()

    assert len(caplog.records) == 3
    assert SECRET not in (caplog.text + str(raised.value) + repr(raised.value)).lower()
    assert [SECRET in str(vars(record)).lower() for record in caplog.records] == [False] * 3
    code = " NOAUTH" if "NOAUTH" in str(fault) else ""
    assert raised.value.args == (f"redis: {type(fault).__name__}{code}",)


def test_a_lost_answer_of_which_the_client_says_nothing_is_read_again_within_ten_seconds() -> None:
    client, time = MinimalClient(), HeldTime()
    consumer = consumer_of(client, None, time)
    polls(consumer, 3)
    client.pending = entries(FIELDS)
    time.now_s += 9
    assert polls(consumer, 3) == 0
    time.now_s += 1
    assert polls(consumer, 1) == 1


def test_what_is_pending_is_read_though_new_messages_never_end() -> None:
    client, store, time = MinimalClient(), PickyStore("a"), HeldTime()
    client.pending = entries(*[{"sid": f"own {n}"} for n in range(120)])
    consumer = consumer_of(client, store, time)
    for n in range(3):
        client.waiting = [(f"{n + 1000}-0".encode(), {"sid": f"new {n}"})]
        consumer.poll_once()
    assert len(store.marked) == 123


class MistakenStore(RecordingStore):
    """Makes a mistake at one anchor, and is interrupted at another."""

    mistakes: ClassVar[dict[str, type[BaseException]]] = {"a0": KeyboardInterrupt, "a60": TypeError}

    def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None:
        if sid in self.mistakes:
            raise self.mistakes[sid]
        super().mark_revoked(sid, ttl_ms)


@pytest.mark.parametrize("claiming", [False, True])
def test_a_page_in_which_a_mistake_was_made_is_read_again_and_stops_no_other(claiming: bool) -> None:
    all_of_them = entries(*[{"sid": f"a{n}"} for n in range(150)])
    pages = {f"{n}-0": claimed(f"{n + 50}-0", *all_of_them[n : n + 50]) for n in (0, 50)}
    pages["100-0"] = claimed("0-0", *all_of_them[100:])
    client: MinimalClient = ClaimingClient(pages) if claiming else MinimalClient()
    if not claiming:
        client.pending = all_of_them
    store, time = MistakenStore(), HeldTime()
    consumer = consumer_of(client, store, time)
    for _ in range(8):
        with suppress(KeyboardInterrupt, TypeError):
            consumer.poll_once()
    assert {f"a{n}" for n in range(100, 150)} <= set(store.marked)

    store.mistakes = {}  # type: ignore[misc]
    client.pending = [entry for entry in all_of_them if entry[0] not in client.acknowledged]
    time.now_s += 10
    polls(consumer, 8)
    assert {f"a{n}" for n in range(150)} == set(store.marked)
    assert client.pending == []


def test_a_new_page_in_which_a_mistake_was_made_is_read_again_by_the_next_poll() -> None:
    client, store, time = MinimalClient(), MistakenStore(), HeldTime()
    consumer = consumer_of(client, store, time)
    polls(consumer, 3)
    client.waiting = entries({"sid": "a60"}, {"sid": "b"})
    with pytest.raises(TypeError):
        consumer.poll_once()
    assert client.pending
    store.mistakes = {}  # type: ignore[misc]

    assert consumer.poll_once() == 2


def test_what_cannot_be_acknowledged_is_read_again_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    client, store, time = MinimalClient(*entries(FIELDS)), RecordingStore(), HeldTime()
    refusing = Refusing(RedisError("NOPERM xack"), name="xack")
    client.xack, acknowledge = refusing.xack, client.xack  # type: ignore[method-assign]
    consumer = consumer_of(client, store, time)
    for n in range(10, 15):
        client.waiting = [(f"{n}-0".encode(), {"sid": f"new {n}"})]
        consumer.poll_once()
    assert (consumer.applied, store.marked[-1], len(client.pending)) == (0, "new 14", 5)
    assert [record.message for record in caplog.records] == ["acknowledging messages fails: RedisError NOPERM"]

    client.xack = acknowledge  # type: ignore[method-assign]
    time.now_s += 2
    assert polls(consumer, 3) == 5


def test_an_answer_that_was_lost_is_asked_for_again() -> None:
    client = MinimalClient()
    consumer = consumer_of(client)
    consumer.poll_once()
    client.fault = ConnectionError("lost")
    consumer.poll_once()
    client.fault = None
    client.pending = entries(FIELDS)  # the server gave it, and we never had it

    assert consumer.poll_once() == 1


def test_when_all_is_well_a_poll_is_one_read() -> None:
    client = MinimalClient()
    consumer = consumer_of(client)
    for _ in range(3):
        consumer.poll_once()
    assert client.reads == [(">", None), ("0-0", None), (">", None), (">", None)]


class Refusing(MinimalClient):
    """Has `fault` at one of its methods."""

    def __init__(self, fault: Exception, name: str = "xgroup_create") -> None:
        super().__init__()

        def refuse(*_: Any, **__: Any) -> None:
            raise fault

        setattr(self, name, refuse)


class GroupLosingClient(MinimalClient):
    created = 0

    def __init__(self, *waiting: Entry, error: str) -> None:
        super().__init__(*waiting)
        self.error = error
        self.lost = True

    def xreadgroup(self, *args: Any, **options: Any) -> Any:
        if self.lost:
            raise RedisError(self.error)
        return super().xreadgroup(*args, **options)

    def xgroup_create(self, *_: Any, **__: Any) -> None:
        self.created += 1
        self.lost = False
        raise RedisError("BUSYGROUP Consumer Group name already exists")


@pytest.mark.parametrize("error", ["NOGROUP No such key", "UNBLOCKED the stream key no longer exists"])
def test_a_lost_group_is_created_again_without_an_error(error: str) -> None:
    client = GroupLosingClient(*entries(FIELDS), error=error)
    consumer = consumer_of(client)

    assert consumer.poll_once() == 1

    assert (client.created, consumer.failures) == (1, 0)


@pytest.mark.parametrize("fault", [RedisError("WRONGTYPE"), ConnectionError("refused"), OSError("refused")])
def test_ensuring_a_group_says_what_stands_against_it(fault: Exception) -> None:
    with pytest.raises(StoreError) as raised:
        consumer_of(Refusing(fault)).ensure_group()
    assert raised.value.__cause__ is fault


OOM = RedisError("OOM command not allowed when used memory > 'maxmemory'.")
GROUPS: list[tuple[Any, bool]] = [
    ([{"name": b"resource-revocation"}], True),
    ([{"name": "resource-revocation"}], True),
    ([{"name": b"other"}], False),
    ([], False),
    (None, False),
    ([[b"name", b"resource-revocation"]], False),
    (RedisError("ERR no such key"), False),
    (TypeError("a mistake"), False),
]


@pytest.mark.parametrize(("groups", "exists"), GROUPS, ids=str)
def test_a_full_server_that_has_the_group_is_no_reason_to_complain(groups: Any, exists: bool) -> None:
    client: Any = Refusing(OOM)
    client.xinfo_groups = telling(groups)
    if exists:
        consumer_of(client).ensure_group()
    else:
        with pytest.raises(StoreError, match="OOM"):
            consumer_of(client).ensure_group()


def test_a_full_server_that_cannot_be_asked_for_its_groups_is_complained_of() -> None:
    with pytest.raises(StoreError, match="OOM"):
        consumer_of(Refusing(OOM)).ensure_group()


def telling(answer: Any) -> Any:
    """A method that answers so, or raises it."""

    def tell(*_: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return tell


# Claiming


def claimed(cursor: str, *page: Any, deleted: Sequence[bytes] | None = None) -> list[Any]:
    return [cursor.encode(), list(page), *([] if deleted is None else [deleted])]


def test_what_a_dead_consumer_left_is_claimed_to_the_end_of_the_cursor() -> None:
    pages = {
        "0-0": claimed("3-0"),
        "3-0": claimed("5-0", (b"4-0", FIELDS)),
        "5-0": claimed("6-0"),
        "6-0": claimed("0-0", (b"7-0", {"sid": "b"})),
    }
    client, store = ClaimingClient(pages), RecordingStore()
    consumer = consumer_of(client, store)

    assert [consumer.poll_once() for _ in range(5)] == [0, 1, 0, 1, 0]

    assert client.claims == ["0-0", "3-0", "5-0", "6-0"]
    assert (store.marked, client.acknowledged) == (["a", "b"], [b"4-0", b"7-0"])


def test_a_poll_deals_with_one_page_of_older_messages_and_reads_new_ones_before_it() -> None:
    pages = {
        "0-0": claimed("1-0", (b"1-0", {"sid": "a"})),
        "1-0": claimed("2-0", (b"2-0", {"sid": "b"})),
        "2-0": claimed("0-0", (b"3-0", {"sid": "c"})),
    }
    client, store = ClaimingClient(pages), RecordingStore()
    consumer = consumer_of(client, store)
    for n in range(10, 13):
        client.waiting = [(f"{n}-0".encode(), {"sid": f"new {n}"})]
        assert consumer.poll_once() == 2

    assert store.marked == ["new 10", "a", "new 11", "b", "new 12", "c"]


def test_a_poll_in_which_a_page_of_our_own_was_dealt_with_claims_nothing() -> None:
    client, time = ClaimingClient({"0-0": claimed("0-0")}), HeldTime()
    client.pending = entries(*[FIELDS] * 60)
    consumer = consumer_of(client, None, time)
    counts = []
    for _ in range(3):
        consumer.poll_once()
        time.now_s += 0.01
        counts.append(len(client.claims))
    assert counts == [0, 0, 1]


def test_it_is_claimed_at_the_first_poll_and_then_every_ten_seconds() -> None:
    client, time = ClaimingClient({"0-0": claimed("0-0")}), HeldTime()
    consumer = consumer_of(client, None, time)
    counts = []
    for now_s in (0, 0.1, 9.9, 10, 19.9, 20):
        time.now_s = 1000 + now_s
        consumer.poll_once()
        counts.append(len(client.claims))
    assert counts == [1, 1, 1, 2, 2, 3]


def test_what_redis_7_has_deleted_stops_nothing() -> None:
    client = ClaimingClient({"0-0": claimed("0-0", (b"2-0", FIELDS), deleted=[b"1-0"])})
    consumer = consumer_of(client)

    assert consumer.poll_once() == 1

    assert (client.acknowledged, consumer.failures) == ([b"2-0"], 0)


def test_what_redis_6_has_deleted_is_found_among_our_own_and_acknowledged() -> None:
    client = ClaimingClient({"0-0": claimed("0-0", None, (None, None), (b"2-0", FIELDS))})
    consumer = consumer_of(client)

    assert consumer.poll_once() == 1
    client.pending = [(b"1-0", {})]
    assert consumer.poll_once() == 0

    assert client.acknowledged == [b"2-0", b"1-0"]


@pytest.mark.parametrize("answer", [None, [], [b"0-0"], 7, object(), [None, None], [7, 7], ["0-0", {}, 7]])
def test_an_odd_answer_to_a_claim_is_none(answer: Any) -> None:
    client = ClaimingClient({"0-0": answer}, *entries(FIELDS))
    assert consumer_of(client).poll_once() == 1
    assert client.claims == ["0-0"]


def test_a_cursor_that_stands_still_is_not_followed() -> None:
    client = ClaimingClient({"0-0": claimed("5-0"), "5-0": claimed("5-0")}, *entries(FIELDS))
    consumer = consumer_of(client)
    assert [consumer.poll_once() for _ in range(5)] == [1, 0, 0, 0, 0]
    assert client.claims == ["0-0", "5-0"]


class Endless(dict[str, Any]):
    """Pages that are empty and lead to another."""

    def __missing__(self, cursor: str) -> Any:
        return claimed(f"{int(cursor.partition('-')[0]) + 1}-0")


def test_a_cursor_without_end_ends_no_poll_and_the_next_goes_on() -> None:
    client = ClaimingClient(Endless(), *entries(FIELDS))
    consumer = consumer_of(client)

    for n in range(1, 200):
        client.waiting = [(f"{n}-0".encode(), FIELDS)]
        assert consumer.poll_once() == 1
        assert client.claims == [f"{m}-0" for m in range(n)]


def test_a_walk_over_empty_pages_is_not_slowed() -> None:
    client, time = ClaimingClient(Endless()), HeldTime()
    consumer = consumer_of(client, None, time)
    for _ in range(100):
        consumer.poll_once()
    assert (len(client.claims), time.slept) == (100, [])


UNCLAIMABLE = [*FOR_GOOD, RedisError("ERR syntax error"), ConnectionError("lost"), KeyError("cursor")]


@pytest.mark.parametrize("fault", UNCLAIMABLE, ids=lambda fault: str(fault)[:9])
def test_where_nothing_may_be_claimed_new_messages_are_read_and_it_is_tried_every_ten_seconds(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    client, time = ClaimingClient({"0-0": fault}), HeldTime()
    consumer = consumer_of(client, None, time)
    for n in range(100):
        client.waiting = [(f"{n}-0".encode(), FIELDS)]
        assert consumer.poll_once() == 1
        time.now_s += 0.11

    assert (len(client.claims), consumer.failures, time.slept, len(caplog.records)) == (2, 2, [], 1)


def test_what_was_claimed_though_the_answer_was_lost_is_read_among_our_own() -> None:
    client = ClaimingClient({"0-0": ConnectionError("lost")})
    consumer = consumer_of(client)
    consumer.poll_once()
    client.pending = entries(FIELDS)

    assert consumer.poll_once() == 1


# Waiting for a message


class Pool:
    def __init__(self, **connection_kwargs: Any) -> None:
        self.connection_kwargs = connection_kwargs


@pytest.mark.parametrize(
    ("options", "block_ms", "waits_ms"),
    [
        ({}, 0, None),
        ({}, 3000, 3000),
        ({}, 20_000, 4000),
        ({"socket_timeout": None}, 5000, 5000),
        ({"socket_timeout": 3}, 5000, 2000),
        ({"socket_timeout": 0.5}, 5000, 250),
        ({"socket_timeout": 0.2}, 5000, 50),
        ({"socket_timeout": 0.2}, 10, 10),
        ({"socket_timeout": 0.1}, 5000, None),
    ],
)
@pytest.mark.parametrize("holder", ["connection_pool", "nodes_manager"])
def test_a_read_waits_less_long_than_its_client_takes_for_a_fault(
    holder: str, options: dict[str, Any], block_ms: int, waits_ms: int | None
) -> None:
    client = MinimalClient()
    setattr(client, holder, Pool(**options))
    consumer = consumer_of(client, block_ms=block_ms)

    assert settled(client, consumer) == (">", waits_ms)
    assert consumer.blocks == (waits_ms is not None)


def settled(client: MinimalClient, consumer: RedisRevocationConsumer) -> tuple[str, int | None]:
    """The read of a poll that has nothing but new messages to look for."""
    consumer.poll_once()
    consumer.poll_once()
    return client.reads[-1]


def test_a_client_that_says_nothing_of_timeouts_waits_as_long_as_it_is_told() -> None:
    client = MinimalClient()
    assert settled(client, consumer_of(client, block_ms=9000)) == (">", 9000)


@pytest.mark.parametrize(
    "client", [MinimalClient(), ClaimingClient({"0-0": claimed("0-0")})], ids=["minimal", "claims"]
)
def test_no_wait_is_longer_than_until_older_messages_are_looked_for(client: MinimalClient) -> None:
    assert settled(client, consumer_of(client, block_ms=60_000)) == (">", 10_000)


def test_redis_py_waits_for_three_seconds_by_default() -> None:
    group = ConsumerGroup(without_retries(redis.Redis()), "s", "g", "c", 50)
    assert group.longest_block_ms == 3000


def test_a_wait_that_ends_before_it_begins_is_none_for_ever() -> None:
    client, time = ClaimingClient({"0-0": claimed("0-0")}), HeldTime()
    consumer = consumer_of(client, None, time, block_ms=60_000)
    consumer.poll_once()
    time.now_s += 9.9995
    consumer.poll_once()
    assert client.reads[-1] == (">", 1)


def test_nobody_waits_while_there_is_more_of_our_own() -> None:
    client = MinimalClient()
    client.pending = entries(*[FIELDS] * 60)
    consumer = consumer_of(client, block_ms=5000)
    assert [consumer.poll_once() for _ in range(4)] == [50, 10, 0, 0]
    new = [block for after, block in client.reads if after == ">"]
    assert new == [None, None, None, 5000]


def test_nobody_waits_while_there_is_more_to_claim() -> None:
    client = ClaimingClient(Endless())
    consumer = consumer_of(client, block_ms=5000)
    for _ in range(5):
        consumer.poll_once()
    assert {block for after, block in client.reads if after == ">"} == {None}


def test_no_wait_is_longer_than_until_the_store_is_asked_again() -> None:
    client, time = MinimalClient(*entries(FIELDS)), HeldTime()
    consumer = consumer_of(client, PickyStore("a"), time, block_ms=5000)
    for _ in range(20):
        consumer.poll_once()
        time.now_s += 0.05
    blocks = [block for after, block in client.reads[2:] if after == ">" and block is not None]
    assert blocks
    assert max(blocks) <= 2000


def test_a_loop_that_finds_nothing_asks_a_hundred_times_a_second_and_not_more() -> None:
    client, time = MinimalClient(), HeldTime()
    consumer = consumer_of(client, None, time)
    for _ in range(101):
        assert consumer.poll_once() == 0
    assert sum(time.slept) == pytest.approx(1.0)


def test_who_waits_between_polls_or_finds_something_is_not_slowed() -> None:
    client, time = MinimalClient(), HeldTime()
    consumer = consumer_of(client, None, time)
    for n in range(1, 200):
        if n % 2:
            client.waiting.append((f"{n}-0".encode(), FIELDS))
        else:
            time.now_s += 0.01
        consumer.poll_once()
    assert sum(time.slept) == pytest.approx(0.0)


# Lag


def group_of(name: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "pending": 3, "last-delivered-id": b"5-0", **more}


@pytest.mark.parametrize(
    ("groups", "last", "lag"),
    [
        ([group_of(b"other", lag=9), group_of(b"resource-revocation", lag=4)], b"5-0", 7),
        ([group_of("resource-revocation", lag=0)], b"6-0", 3),
        ([group_of("resource-revocation", lag=None)], b"5-0", None),
        ([group_of(b"resource-revocation")], b"5-0", 3),
        ([group_of(b"resource-revocation")], b"6-0", None),
        ([group_of(b"other")], b"5-0", None),
        ([], b"5-0", None),
        (None, b"5-0", None),
        (7, b"5-0", None),
        ([[b"name", b"resource-revocation"]], b"5-0", None),
        ({"resource-revocation": group_of(b"resource-revocation", lag=1)}, b"5-0", None),
        ([{"name": b"resource-revocation"}], b"5-0", None),
        ([{"name": b"resource-revocation"}], None, None),
        ([group_of(b"resource-revocation", lag="much")], b"5-0", None),
        ([group_of(b"resource-revocation", pending=None, lag=1)], b"5-0", None),
        (TypeError("a mistake"), b"5-0", None),
        ([group_of(b"resource-revocation")], TypeError("a mistake"), None),
        ([group_of(b"resource-revocation")], [b"last-generated-id", b"5-0"], None),
    ],
    ids=str,
)
def test_the_lag_is_what_is_pending_and_what_is_not_yet_delivered(groups: Any, last: Any, lag: int | None) -> None:
    client: Any = MinimalClient()
    client.xinfo_groups = telling(groups)
    client.xinfo_stream = telling({"last-generated-id": last} if isinstance(last, bytes | None) else last)
    assert consumer_of(client).lag() == lag


def test_a_minimal_client_tells_no_lag() -> None:
    assert consumer_of(MinimalClient()).lag() is None


# Configuration


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"consumer": ""}, InvalidValueError),
        ({"consumer": None}, TypeError),
        ({"consumer": b"c"}, TypeError),
        ({"stream": ""}, InvalidValueError),
        ({"group": ""}, InvalidValueError),
        ({"consumer": "\ud800"}, InvalidValueError),
        ({"stream": "\ud800"}, InvalidValueError),
        ({"group": "\ud800"}, InvalidValueError),
        ({"stream": "a\nb", "stream_hmac_key": KEY}, InvalidValueError),
        ({"batch_size": 10_001}, InvalidValueError),
        ({"batch_size": 0}, InvalidValueError),
        ({"batch_size": -1}, InvalidValueError),
        ({"batch_size": True}, TypeError),
        ({"batch_size": 1.5}, TypeError),
        ({"block_ms": -1}, InvalidValueError),
        ({"block_ms": 0.5}, TypeError),
        ({"block_ms": None}, TypeError),
        ({"require_signature": True}, InvalidValueError),
        ({"require_signature": "yes", "stream_hmac_key": KEY}, TypeError),
        ({"stream_hmac_key": b""}, InvalidValueError),
        ({"stream_hmac_key": []}, InvalidValueError),
        ({"stream_hmac_key": [KEY, b""]}, InvalidValueError),
        ({"stream_hmac_key": KEY.hex()}, TypeError),
        ({"stream_hmac_key": [KEY.hex()]}, TypeError),
        ({"stream_hmac_key": 7}, TypeError),
        ({"redis": redis.asyncio.Redis()}, TypeError),
        ({"redis": object()}, TypeError),
        ({"redis": RecordingStore()}, TypeError),
        ({"store": object()}, TypeError),
    ],
    ids=lambda given: (
        " ".join(f"{name}={type(value).__name__}" for name, value in given.items())
        if isinstance(given, dict)
        else given.__name__
    ),
)
def test_what_cannot_work_is_refused_when_it_is_made(options: dict[str, Any], error: type[Exception]) -> None:
    given: dict[str, Any] = {"redis": MinimalClient(), "store": RecordingStore(), "consumer": "c"}
    with pytest.raises(error) as raised:
        RedisRevocationConsumer(**{**given, **options})
    assert KEY.hex() not in str(raised.value)


def test_a_large_batch_and_without_a_key_any_stream_are_taken() -> None:
    consumer_of(MinimalClient(), batch_size=10_000, stream="a\nb")


def test_no_key_is_in_what_a_consumer_says_of_itself() -> None:
    consumer = consumer_of(MinimalClient(), stream_hmac_key=KEY)
    for text in (repr(consumer), repr(consumer._signing), str(vars(consumer))):
        assert repr(KEY) not in text
        assert KEY.hex() not in text
