"""The documented consumer on a real Redis: what it acknowledges, what it claims, and what it survives."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from countermand.errors import StoreError
from countermand.log.anchor import Kind
from countermand.log.wire import REVOCATION_STREAM, to_fields
from countermand.stores.consumer import RedisRevocationConsumer
from countermand.stores.memory import InMemoryRevocationStore
from countermand.stores.redis import RedisRevocationStore
from tests.redis_server import RedisServer
from tests.redis_topologies import wait_until
from tests.signer import Signer
from tests.unit.stream_clients import KEY, polls, signed

GROUP: Final = "resource-revocation"
DEAD: Final = f"{REVOCATION_STREAM}.dead"
DEADLINE_S: Final = 20.0

Fields = Mapping[Any, Any]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    """A server that is empty, and must not be stopped."""
    with shared.client() as client:
        client.flushall()
        client.config_resetstat()
    return shared


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server to be killed."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def admin(server: RedisServer) -> Iterator["redis.Redis"]:
    with server.client(decode_responses=True) as client:
        yield client


def make(server: RedisServer, store: Any = None, name: str = "replica-1", **options: Any) -> RedisRevocationConsumer:
    client = options.pop("redis", None) or server.client()
    return RedisRevocationConsumer(client, store or InMemoryRevocationStore(), name, **options)


def brief(server: RedisServer) -> "redis.Redis":
    """A client that does not wait for long, so that a test need not."""
    client: redis.Redis = server.client(socket_timeout=0.5)
    return client


def add(client: "redis.Redis", *messages: Fields) -> list[str]:
    """Append `messages`; return their ids."""
    pipeline = client.pipeline(transaction=False)
    for fields in messages:
        pipeline.xadd(REVOCATION_STREAM, dict(fields))
    return [str(message_id) for message_id in pipeline.execute()]


def letters(client: "redis.Redis") -> list[tuple[str, str, Any]]:
    entries: Any = client.xrange(DEAD)
    return [(fields["source_id"], fields["reason"], json.loads(fields["payload"])) for _, fields in entries]


def pending(client: "redis.Redis") -> int:
    answer: Any = client.xpending(REVOCATION_STREAM, GROUP)
    return int(answer["pending"])


def calls(client: "redis.Redis") -> Callable[[str], int]:
    """How often the server has run a command since it was last empty."""
    stats: Any = client.info("commandstats")
    return lambda command: int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


@contextmanager
def polling(consumer: RedisRevocationConsumer) -> Iterator[threading.Thread]:
    """Poll in a thread, as documented, until the block ends."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.is_set():
            consumer.poll_once()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        ended.set()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


# Messages

CLIENTS: Final = {
    "bytes": {},
    "text": {"decode_responses": True},
    "RESP3": {"protocol": 3},
    "RESP3, text": {"protocol": 3, "decode_responses": True},
    "RESP3, unified": {"protocol": 3, "legacy_responses": False},
    "RESP2, unified": {"protocol": 2, "legacy_responses": False},
    "another encoding": {"decode_responses": True, "encoding": "latin-1"},
    "one connection": {"single_connection_client": True},
}


@pytest.mark.parametrize("options", CLIENTS.values(), ids=CLIENTS)
def test_whatever_the_client_makes_of_answers_no_message_stops_another(
    options: dict[str, Any], server: RedisServer, admin: "redis.Redis"
) -> None:
    client, store = server.client(**options), InMemoryRevocationStore()
    ids = add(
        admin,
        {b"session_id": b"\xff\xfe"},
        signed({"session_id": "a"}),
        {b"session_id": b"a", b"_sig": b"\xff"},
        {"session_id": "a", "_sig": "é"},
        {"session_id": "a"},
        signed({"reason": "none"}),
        signed({"sid": "ö"}),
    )
    consumer = make(server, store, redis=client, stream_hmac_key=KEY)
    consumer.ensure_group()

    assert consumer.poll_once() == 7

    assert (store.is_revoked("a"), store.is_revoked("ö")) == (True, True)
    assert (consumer.applied, consumer.dead_lettered, consumer.failures) == (2, 5, 0)
    assert [(letter[0], letter[1]) for letter in letters(admin)] == [
        *((ids[n], "invalid_signature") for n in (0, 2, 3, 4)),
        (ids[5], "missing_revocation_anchor"),
    ]
    assert letters(admin)[0][2] == {"session_id": "\\xff\\xfe"}
    assert pending(admin) == 0
    client.close()


class PrefixingClient(redis.Redis):
    """Has names of its own for all streams."""

    def xgroup_create(self, name: Any, *args: Any, **options: Any) -> Any:
        return super().xgroup_create(f"app:{name}", *args, **options)

    def xreadgroup(self, groupname: str, consumername: str, streams: Any, *args: Any, **options: Any) -> Any:
        prefixed: Any = {f"app:{name}": after for name, after in streams.items()}
        return super().xreadgroup(groupname, consumername, prefixed, *args, **options)

    def xack(self, name: Any, *args: Any) -> Any:
        return super().xack(f"app:{name}", *args)

    def xautoclaim(self, name: Any, *args: Any, **options: Any) -> Any:
        return super().xautoclaim(f"app:{name}", *args, **options)


@pytest.mark.parametrize("decodes", [False, True])
def test_a_client_that_changes_names_is_not_gone_past(decodes: bool, server: RedisServer, admin: "redis.Redis") -> None:
    store = InMemoryRevocationStore()
    client = PrefixingClient(host="127.0.0.1", port=server.port, decode_responses=decodes)
    admin.xadd(f"app:{REVOCATION_STREAM}", {"sid": "a"})

    assert make(server, store, redis=client).poll_once() == 1

    assert store.is_revoked("a")


class ThreeMethods:
    """No more of a client than a consumer needs."""

    def __init__(self, client: "redis.Redis") -> None:
        self.xgroup_create, self.xreadgroup, self.xack = client.xgroup_create, client.xreadgroup, client.xack


def test_three_methods_that_decode_are_enough_though_a_message_cannot_be_decoded(
    server: RedisServer, admin: "redis.Redis"
) -> None:
    store = InMemoryRevocationStore()
    client = ThreeMethods(server.client(decode_responses=True))
    consumer = make(server, store, redis=client)
    add(admin, {"sid": "a"}, {"sid": b"\xff"}, {"sid": "b"})
    wait_until(lambda: consumer.poll_once() >= 0 and store.is_revoked("b"), "it is applied")
    add(admin, {"sid": "c"})
    wait_until(lambda: consumer.poll_once() >= 0 and store.is_revoked("c"), "it is applied")
    assert (store.is_revoked("a"), pending(admin)) == (True, 1)


def test_what_the_authority_publishes_is_applied(server: RedisServer, admin: "redis.Redis") -> None:
    store, signer = RedisRevocationStore(server.client()), Signer()
    anchors = []
    for n, kind in enumerate((Kind.SESSION, Kind.AGENT, Kind.DELEGATION, Kind.GRANT)):
        candidate = signer.append(kind, f"anchor-{n}")
        add(admin, signed(to_fields(candidate.previous, candidate.entry)))
        anchors.append(f"anchor-{n}")
    consumer = make(server, store, stream_hmac_key=KEY)

    assert consumer.poll_once() == len(anchors)

    assert all(store.is_revoked(anchor) for anchor in anchors)
    assert consumer.applied == len(anchors)


def test_the_known_answer_of_the_published_packages_holds(server: RedisServer, admin: "redis.Redis") -> None:
    store = InMemoryRevocationStore()
    fields = {
        "outbox_id": "outbox-1",
        "zone_id": "zone-1",
        "session_id": "authority-record-1",
        "reason": "grant_revoked",
        "grant_id": "grant-1",
        "_sig": "0980ad867829e5e23b77ea97b1fc0c080dce11700761236b88bc4145020155b1",
    }
    add(admin, fields, {**fields, "session_id": "authority-record-2"})

    assert make(server, store, stream_hmac_key=KEY).poll_once() == 2

    assert (store.is_revoked("authority-record-1"), store.is_revoked("authority-record-2")) == (True, False)


def test_a_message_of_a_megabyte_is_one_like_any_other(server: RedisServer, admin: "redis.Redis") -> None:
    store, long = InMemoryRevocationStore(), "x" * 1_000_000
    add(admin, {"sid": "a", "reason": long}, {"sid": long}, {"reason": long})

    assert make(server, store).poll_once() == 3

    assert (store.is_revoked("a"), store.is_revoked(long)) == (True, True)
    assert letters(admin)[0][2] == {"reason": long}


def test_dead_letters_are_ten_thousand_at_most_or_a_few_more(server: RedisServer, admin: "redis.Redis") -> None:
    pipeline = admin.pipeline(transaction=False)
    for _ in range(12_000):
        pipeline.xadd(DEAD, {"source_id": "old"})
    pipeline.execute()
    add(admin, *[{"reason": "none"}] * 5)

    assert make(server).poll_once() == 5

    assert 10_000 <= admin.xlen(DEAD) < 10_200
    newest: Any = admin.xrevrange(DEAD, count=5)
    assert {fields["reason"] for _, fields in newest} == {"missing_revocation_anchor"}


# What is acknowledged


def test_where_dead_letters_cannot_be_written_refusals_are_acknowledged_all_the_same(
    server: RedisServer, admin: "redis.Redis"
) -> None:
    admin.set(DEAD, "no stream")
    add(admin, {"reason": "none"}, {"sid": "a"})
    consumer = make(server)

    assert consumer.poll_once() == 2

    assert (pending(admin), consumer.failures) == (0, 0)


def test_where_the_user_may_write_no_dead_letters_refusals_are_acknowledged_all_the_same(
    server: RedisServer, admin: "redis.Redis"
) -> None:
    admin.acl_setuser("reader", enabled=True, nopass=True, keys=[REVOCATION_STREAM], categories=["+@all"])
    add(admin, {"reason": "none"}, {"sid": "a"})
    consumer = make(server, redis=server.client(username="reader", password="any"))

    assert consumer.poll_once() == 2

    assert (pending(admin), consumer.failures) == (0, 0)
    admin.acl_deluser("reader")


class LosingClient(redis.Redis):
    """Loses the connection when it is to write a dead letter, for as long as `losing` holds anything."""

    def __init__(self, port: int) -> None:
        super().__init__(host="127.0.0.1", port=port)
        self.losing = [True]  # a copy shares it

    def xadd(self, *args: Any, **options: Any) -> Any:
        if self.losing:
            raise redis.ConnectionError("lost")
        return super().xadd(*args, **options)


def test_while_the_connection_is_lost_over_a_dead_letter_it_stays_pending(
    server: RedisServer, admin: "redis.Redis"
) -> None:
    add(admin, {"reason": "none"}, {"sid": "a"})
    client = LosingClient(server.port)
    consumer = make(server, redis=client)

    assert consumer.poll_once() == 1

    assert (pending(admin), letters(admin), consumer.failures) == (1, [], 1)
    client.losing.clear()
    wait_until(lambda: consumer.poll_once() == 1, "it is written")
    assert (pending(admin), len(letters(admin))) == (0, 1)


def test_what_the_store_does_not_take_stays_pending_until_it_does(server: RedisServer, admin: "redis.Redis") -> None:
    now_ms = 0
    store = InMemoryRevocationStore(max_entries=1, default_ttl_ms=100, clock_ms=lambda: now_ms)
    add(admin, {"sid": "a"}, {"sid": "b"}, {"sid": "a"})
    consumer = make(server, store)

    assert consumer.poll_once() == 2

    assert (pending(admin), consumer.applied, consumer.failures) == (1, 2, 1)
    now_ms = 200
    wait_until(lambda: consumer.poll_once() == 1, "the store has room, and takes it")
    assert (pending(admin), store.is_revoked("b")) == (0, True)


def test_a_store_in_another_redis_may_be_away_for_a_while(
    server: RedisServer, own_server: RedisServer, admin: "redis.Redis"
) -> None:
    store = RedisRevocationStore(own_server.client())
    add(admin, *({"sid": f"a{n}"} for n in range(120)))
    own_server.kill()
    consumer = make(server, store)
    assert [consumer.poll_once(), consumer.poll_once()] == [0, 0]
    assert pending(admin) == 100

    own_server.start()
    wait_until(lambda: consumer.poll_once() == 0 and pending(admin) == 0, "all is applied")

    assert consumer.applied == 120
    assert all(store.is_revoked(f"a{n}") for n in range(120))


# Who reads what


def test_two_consumers_of_a_group_share_its_messages(server: RedisServer, admin: "redis.Redis") -> None:
    store = RedisRevocationStore(server.client())
    consumers = [make(server, store, name, batch_size=10) for name in ("one", "two")]
    with polling(consumers[0]), polling(consumers[1]):
        add(admin, *({"sid": f"a{n}"} for n in range(500)))
        wait_until(lambda: sum(consumer.applied for consumer in consumers) == 500, "all is applied")

    assert all(store.is_revoked(f"a{n}") for n in range(500))
    assert pending(admin) == 0


def test_two_groups_get_every_message_each(server: RedisServer, admin: "redis.Redis") -> None:
    add(admin, {"sid": "a"}, {"sid": "b"})
    assert [make(server, group=group).poll_once() for group in ("one", "two")] == [2, 2]


def left_by(admin: "redis.Redis", name: str, idle_ms: int, count: int | None = None) -> list[str]:
    """Have a consumer read and die; return the ids of what it left."""
    answer: Any = admin.xreadgroup(GROUP, name, {REVOCATION_STREAM: ">"}, count=count)
    ids = [message_id for message_id, _ in answer[0][1]]
    admin.xclaim(REVOCATION_STREAM, GROUP, name, 0, ids, idle=idle_ms, justid=True)
    return ids


def test_what_a_dead_consumer_left_is_claimed_after_thirty_seconds_and_not_before(
    server: RedisServer, admin: "redis.Redis"
) -> None:
    store = InMemoryRevocationStore()
    make(server).ensure_group()
    add(admin, *({"sid": f"old{n}"} for n in range(120)))
    left_by(admin, "dead", 30_001)
    add(admin, {"sid": "young"})
    left_by(admin, "slow", 20_000)

    assert polls(make(server, store), 5) == 120

    assert all(store.is_revoked(f"old{n}") for n in range(120))
    assert not store.is_revoked("young")
    assert pending(admin) == 1


def test_an_empty_page_is_not_the_end_of_a_claim(server: RedisServer, admin: "redis.Redis") -> None:
    store = InMemoryRevocationStore()
    make(server).ensure_group()
    add(admin, *[{"sid": "young"}] * 30)
    left_by(admin, "slow", 0)
    add(admin, {"sid": "old"})
    left_by(admin, "dead", 30_001)
    first: Any = admin.xautoclaim(REVOCATION_STREAM, GROUP, "x", 30_000, count=1)
    assert (first[0] != "0-0", first[1]) == (True, [])

    assert polls(make(server, store, batch_size=1), 6) == 1

    assert store.is_revoked("old")


def test_a_dead_consumer_is_noticed_while_polling_goes_on(server: RedisServer, admin: "redis.Redis") -> None:
    now_s = 0.0
    store = InMemoryRevocationStore()
    consumer = make(server, store, clock_s=lambda: now_s)
    consumer.poll_once()
    add(admin, {"sid": "a"})
    left_by(admin, "dead", 30_001)

    assert consumer.poll_once() == 0
    now_s = 10.0
    assert consumer.poll_once() == 1
    assert store.is_revoked("a")


@pytest.mark.parametrize("owner", ["dead", "replica-1"])
def test_what_was_trimmed_while_it_was_pending_is_acknowledged(
    owner: str, server: RedisServer, admin: "redis.Redis"
) -> None:
    make(server).ensure_group()
    ids = add(admin, {"sid": "gone"}, {"sid": "a"}, {"sid": "gone too"})
    left_by(admin, owner, 30_001)
    admin.xdel(REVOCATION_STREAM, ids[0], ids[2])
    consumer = make(server)

    assert sum(consumer.poll_once() for _ in range(3)) == 1

    assert (pending(admin), consumer.applied, consumer.dead_lettered, consumer.failures) == (0, 1, 0, 0)


def test_what_we_left_in_an_earlier_life_is_read_at_once(server: RedisServer, admin: "redis.Redis") -> None:
    store = InMemoryRevocationStore()
    make(server).ensure_group()
    add(admin, *({"sid": f"a{n}"} for n in range(120)))
    left_by(admin, "replica-1", 0)
    consumer = make(server, store)

    assert [consumer.poll_once() for _ in range(4)] == [50, 50, 20, 0]

    assert all(store.is_revoked(f"a{n}") for n in range(120))
    assert pending(admin) == 0


def test_while_redis_is_full_a_group_that_exists_is_ensured_and_new_messages_are_applied_beside_refused_ones(
    server: RedisServer, admin: "redis.Redis"
) -> None:
    store = InMemoryRevocationStore()
    consumer = make(server, store)
    consumer.ensure_group()
    add(admin, *[{"reason": "none"}] * 500, *({"sid": f"a{n}"} for n in range(50)))
    admin.config_set("maxmemory", 1)
    try:
        consumer.ensure_group()
        assert polls(consumer, 11) == 50
        assert all(store.is_revoked(f"a{n}") for n in range(50))
    finally:
        admin.config_set("maxmemory", 0)
    wait_until(lambda: consumer.poll_once() >= 0 and consumer.dead_lettered == 500, "all letters are written")
    assert (len(letters(admin)), pending(admin)) == (500, 0)


def test_the_letters_of_a_page_are_written_in_one_round_trip(
    server: RedisServer, admin: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    add(admin, *[{"reason": "none"}] * 50)
    consumer = make(server)
    trips = []

    def counting(pipeline: Any, **options: Any) -> Any:
        trips.append(len(pipeline))
        return execute(pipeline, **options)

    execute = redis.client.Pipeline.execute
    monkeypatch.setattr(redis.client.Pipeline, "execute", counting)

    assert consumer.poll_once() == 50

    assert trips == [50]
    assert len(letters(admin)) == 50


# The group


def test_ensuring_a_group_creates_it_from_the_beginning_once(server: RedisServer, admin: "redis.Redis") -> None:
    add(admin, {"sid": "a"})
    consumer = make(server)
    consumer.ensure_group()
    consumer.ensure_group()
    assert consumer.poll_once() == 1
    consumer.ensure_group()
    assert consumer.poll_once() == 0


def test_it_creates_the_stream_as_well(server: RedisServer, admin: "redis.Redis") -> None:
    make(server).ensure_group()
    assert admin.type(REVOCATION_STREAM) == "stream"


def test_it_says_so_where_that_is_not_possible(
    server: RedisServer, own_server: RedisServer, admin: "redis.Redis"
) -> None:
    admin.set(REVOCATION_STREAM, "no stream")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        make(server).ensure_group()
    own_server.kill()
    with pytest.raises(StoreError, match="ConnectionError"):
        make(own_server).ensure_group()


def test_a_group_that_was_never_ensured_is_created_by_polling(server: RedisServer, admin: "redis.Redis") -> None:
    add(admin, {"sid": "a"})
    consumer = make(server)
    assert (consumer.poll_once(), consumer.failures) == (1, 0)


@pytest.mark.parametrize("options", [{}, {"decode_responses": True}], ids=["bytes", "text"])
def test_a_group_lost_to_a_flush_is_created_again_and_reads_from_the_beginning(
    options: dict[str, Any], server: RedisServer, admin: "redis.Redis"
) -> None:
    store = InMemoryRevocationStore()
    consumer = make(server, store, redis=server.client(**options))
    consumer.poll_once()
    admin.flushall()
    add(admin, {"sid": "a"})
    assert consumer.poll_once() == 1
    admin.xgroup_destroy(REVOCATION_STREAM, GROUP)
    add(admin, {"sid": "b"})

    assert consumer.poll_once() == 2

    assert (store.is_revoked("a"), store.is_revoked("b")) == (True, True)
    assert consumer.failures == 0


@pytest.mark.parametrize("lose", ["flushall", "destroy"])
def test_a_group_is_lost_while_a_read_waits(lose: str, server: RedisServer, admin: "redis.Redis") -> None:
    store = InMemoryRevocationStore()
    consumer = make(server, store, redis=brief(server), block_ms=60_000)
    with polling(consumer):
        wait_until(lambda: blocked(admin) == 1, "a read waits")
        admin.flushall() if lose == "flushall" else admin.xgroup_destroy(REVOCATION_STREAM, GROUP)
        add(admin, {"sid": "a"})
        wait_until(lambda: store.is_revoked("a"), "the message is applied")
    assert consumer.failures == 0


# Waiting


def blocked(admin: "redis.Redis") -> int:
    info: Any = admin.info("clients")
    return int(info["blocked_clients"])


def test_without_waiting_a_poll_of_an_empty_stream_returns_at_once(server: RedisServer, admin: "redis.Redis") -> None:
    consumer = make(server)
    consumer.ensure_group()
    begun_s = time.monotonic()
    assert [consumer.poll_once() for _ in range(50)] == [0] * 50
    assert time.monotonic() - begun_s < 5


@pytest.mark.parametrize("socket_timeout", [0.2, 0.3, 0.5, 1])
def test_an_idle_wait_is_no_error_though_the_client_times_out_sooner(
    socket_timeout: float, server: RedisServer, admin: "redis.Redis"
) -> None:
    consumer = make(server, redis=server.client(socket_timeout=socket_timeout), block_ms=5000)
    assert [consumer.poll_once() for _ in range(4)] == [0] * 4
    assert consumer.failures == 0
    assert calls(admin)("xreadgroup") < 4 + 3


def test_a_message_ends_the_wait(server: RedisServer, admin: "redis.Redis") -> None:
    store = InMemoryRevocationStore()
    consumer = make(server, store, redis=brief(server), block_ms=60_000)
    with polling(consumer):
        for n in range(20):
            wait_until(lambda: blocked(admin) == 1, "a read waits")
            add(admin, {"sid": f"a{n}"})
            wait_until(lambda n=n: store.is_revoked(f"a{n}"), "the message is applied")  # type: ignore[misc]
        before = calls(admin)("xreadgroup")
        assert before < 60


# Cost


@pytest.mark.parametrize("in_redis", [False, True], ids=["in memory", "in Redis"])
def test_a_backlog_of_five_thousand_costs_two_round_trips_a_batch(
    in_redis: bool, server: RedisServer, admin: "redis.Redis"
) -> None:
    store = RedisRevocationStore(server.client()) if in_redis else InMemoryRevocationStore()
    add(admin, *(signed({"session_id": f"a{n}"}) for n in range(5000)))
    consumer = make(server, store, stream_hmac_key=KEY)

    assert [consumer.poll_once() for _ in range(101)] == [50] * 100 + [0]

    assert all(store.is_revoked(f"a{n}") for n in range(0, 5000, 100))
    assert (calls(admin)("xack"), pending(admin)) == (100, 0)
    assert calls(admin)("xreadgroup") <= 104
    assert calls(admin)("evalsha") <= 101


# What it survives


@pytest.mark.parametrize("block_ms", [0, 60_000])
def test_the_loop_goes_on_after_the_server_was_killed(block_ms: int, own_server: RedisServer) -> None:
    store = InMemoryRevocationStore()
    consumer = make(own_server, store, redis=brief(own_server), block_ms=block_ms)
    with own_server.client() as client, polling(consumer) as loop:
        for n in range(3):
            add(client, {"sid": f"a{n}"})
            wait_until(lambda n=n: store.is_revoked(f"a{n}"), "it is applied")  # type: ignore[misc]
            failures = consumer.failures
            own_server.kill()
            wait_until(lambda failures=failures: consumer.failures > failures, "the loss is counted")  # type: ignore[misc]
            assert loop.is_alive()
            own_server.start()
        add(client, {"sid": "z"})
        wait_until(lambda: store.is_revoked("z"), "it is applied")


@pytest.mark.parametrize("block_ms", [0, 60_000])
def test_the_loop_goes_on_after_its_connections_were_killed(
    block_ms: int, server: RedisServer, admin: "redis.Redis"
) -> None:
    store = InMemoryRevocationStore()
    consumer = make(server, store, redis=brief(server), block_ms=block_ms)
    with polling(consumer):
        for n in range(20):
            admin.client_kill_filter(_type="normal", skipme=True)
            add(admin, {"sid": f"a{n}"})
        wait_until(lambda: all(store.is_revoked(f"a{n}") for n in range(20)), "all is applied")
        wait_until(lambda: pending(admin) == 0, "all is acknowledged")


@pytest.mark.parametrize("block_ms", [0, 60_000])
def test_a_frozen_server_costs_bounded_waits_and_no_message(block_ms: int, own_server: RedisServer) -> None:
    store = InMemoryRevocationStore()
    consumer = make(own_server, store, redis=brief(own_server), block_ms=block_ms)
    with own_server.client() as client:
        consumer.poll_once()
        with own_server.frozen():
            begun_s = time.monotonic()
            assert consumer.poll_once() == 0
            assert time.monotonic() - begun_s < 2
            assert consumer.failures == 1
        add(client, {"sid": "a"})
        wait_until(lambda: consumer.poll_once() == 1, "it is applied")
        assert store.is_revoked("a")
        assert pending(client) == 0


def test_what_was_read_and_whose_answer_was_lost_is_read_again(own_server: RedisServer) -> None:
    store = InMemoryRevocationStore()
    consumer = make(own_server, store, redis=brief(own_server))
    consumer.poll_once()
    with own_server.client() as client:
        add(client, {"sid": "a"})
        with own_server.frozen():
            assert consumer.poll_once() == 0  # the question waits in the socket, and is answered to nobody
        wait_until(lambda: pending(client) == 1, "the server has given it away")
        wait_until(lambda: consumer.poll_once() == 1, "it is applied all the same")
        assert (store.is_revoked("a"), pending(client)) == (True, 0)


def test_the_callers_client_keeps_its_retries_and_its_connections(server: RedisServer) -> None:
    client = server.client()
    retries = client.get_retry()
    consumer = make(server, redis=client)
    consumer.poll_once()
    assert client.get_retry() is retries
    assert retries is not None
    assert retries.get_retries() > 0
    client.close()
    assert (consumer.poll_once(), consumer.failures) == (0, 0)
