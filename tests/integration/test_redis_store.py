"""The documented store on a real Redis: what stands there, for how long, and who may ask."""

import gc
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import pytest
import redis
import redis.sentinel
from redis.credentials import StreamingCredentialProvider

from countermand.errors import StoreError
from countermand.stores import client as clients
from countermand.stores.redis import MARK_SHA, RedisRevocationStore
from tests.redis_server import RedisServer

PREFIX: Final = "caracal:revoked:sessions:"
KEY: Final = PREFIX + "ses-1"
DAY_MS: Final = 86_400_000
WAIT_S: Final = 0.6
SLACK_S: Final = 3.0
"""For what takes milliseconds, on a machine that does something else; less than redis-py's retries take."""
DEADLINE_S: Final = 20.0

Sentinel: Any = redis.sentinel.Sentinel  # untyped


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    folder = tmp_path_factory.mktemp("redis")
    with RedisServer(folder, "--unixsocket", str(folder / "redis.sock")) as running:
        yield running


@pytest.fixture
def client(shared_server: RedisServer) -> Iterator["redis.Redis"]:
    """A client of a server that the tests of this module share, emptied."""
    with shared_server.client() as opened:
        opened.flushall()
        yield opened


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    start_s = time.monotonic()
    yield
    assert time.monotonic() - start_s < seconds


# What stands in Redis

KINDS: dict[str, Callable[[RedisServer], Any]] = {
    "bytes": lambda server: server.client(),
    "text": lambda server: server.client(decode_responses=True),
    "RESP2": lambda server: server.client(protocol=2),
    "by a URL": lambda server: redis.Redis.from_url(server.url),
    "one connection": lambda server: server.client(single_connection_client=True),
    "a pool that blocks": lambda server: redis.Redis(
        connection_pool=redis.BlockingConnectionPool(port=server.port, max_connections=1)  # type: ignore[no-untyped-call]
    ),
    "a socket in the file system": lambda server: redis.Redis(unix_socket_path=str(server.path / "redis.sock")),
    "a Sentinel's": lambda server: KnownMaster(server).master_for("main"),
}


class KnownMaster(Sentinel):  # type: ignore[misc]  # untyped
    """A Sentinel without sentinels, that knows where the master is."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__([])
        self.server = server

    def discover_master(self, service_name: str) -> tuple[str, int]:
        assert service_name == "main"
        return "127.0.0.1", self.server.port


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_a_client_of_every_kind_serves(
    make: Callable[[RedisServer], Any], shared_server: RedisServer, client: "redis.Redis"
) -> None:
    with make(shared_server) as theirs:
        store = RedisRevocationStore(theirs)
        assert store._redis is not theirs

        store.mark_revoked("ses-1", 5000)
        store.mark_revoked("ses-1", 1000)

        assert client.get(KEY) == b"1"
        assert 4000 < client.pttl(KEY) <= 5000
        assert (store.is_revoked("ses-1"), store.is_revoked("ses-2")) == (True, False)
        assert store.are_revoked(["ses-2", "ses-1", ""]) == [False, True, False]
        assert store.failures == 0


def test_without_a_ttl_a_key_expires_after_24_hours(client: "redis.Redis") -> None:
    RedisRevocationStore(client).mark_revoked("ses-1")

    assert client.keys() == [KEY.encode()]
    assert DAY_MS - 60_000 < client.pttl(KEY) <= DAY_MS


def test_prefix_ttl_and_database_are_the_ones_given(shared_server: RedisServer, client: "redis.Redis") -> None:
    with shared_server.client(db=3) as other:
        RedisRevocationStore(other, "revoked/", 60_000).mark_revoked("ses-1")

        assert other.keys() == [b"revoked/ses-1"]
        assert 50_000 < other.pttl("revoked/ses-1") <= 60_000
        assert client.keys() == []


@pytest.mark.parametrize("value", ["1", "0", ""])
def test_a_key_that_another_program_wrote_revokes_whatever_its_value(client: "redis.Redis", value: str) -> None:
    client.set(KEY, value, px=5000)
    store = RedisRevocationStore(client)

    assert store.is_revoked("ses-1") is True
    assert store.are_revoked(["ses-1"]) == [True]


def test_any_text_is_an_anchor(client: "redis.Redis") -> None:
    store = RedisRevocationStore(client)
    sids = [" ", "\n", "\0", "é", "{tag}", "*", "x" * 100_000, "a b\r\nDEL c"]

    for sid in sids:
        assert store.is_revoked(sid) is False
        store.mark_revoked(sid)

    assert store.are_revoked(sids) == [True] * len(sids)
    assert client.dbsize() == len(sids)


def test_text_that_no_key_can_be_is_refused_as_what_cannot_be_known(client: "redis.Redis") -> None:
    store = RedisRevocationStore(client)

    assert store.is_revoked("\ud800") is True
    with pytest.raises(StoreError):
        store.mark_revoked("\ud800")
    with pytest.raises(StoreError):
        store.are_revoked(["ses-1", "\ud800"])


# Marking again


def test_a_later_expiry_wins_and_an_earlier_one_changes_nothing(client: "redis.Redis") -> None:
    store = RedisRevocationStore(client)
    for ttl_ms, left_ms in ((60_000, 60_000), (1, 60_000), (600_000, 600_000), (60_000, 600_000)):
        store.mark_revoked("ses-1", ttl_ms)
        assert left_ms - 30_000 < client.pttl(KEY) <= left_ms


def test_a_key_without_expiry_keeps_none(client: "redis.Redis") -> None:
    client.set(KEY, "1")

    RedisRevocationStore(client).mark_revoked("ses-1", 60_000)

    assert client.pttl(KEY) == -1


def test_threads_that_mark_one_anchor_leave_it_the_longest_ttl(client: "redis.Redis") -> None:
    store = RedisRevocationStore(client)
    ttls_ms = [60_000 + 1000 * number for number in range(600)]
    random.Random(7).shuffle(ttls_ms)  # noqa: S311  # a shuffle, and the same each time
    start = threading.Barrier(4, timeout=10)

    def mark(thread: int) -> None:
        start.wait()
        for ttl_ms in ttls_ms[thread::4]:
            store.mark_revoked("ses-1", ttl_ms)

    threads = [threading.Thread(target=mark, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert max(ttls_ms) - 30_000 < client.pttl(KEY) <= max(ttls_ms)


def test_a_server_that_has_forgotten_the_script_is_told_it_again(client: "redis.Redis") -> None:
    store = RedisRevocationStore(client)
    store.mark_revoked("ses-1", 60_000)
    assert client.script_exists(MARK_SHA) == [True]

    client.script_flush()
    store.mark_revoked("ses-1", 1)

    assert client.script_exists(MARK_SHA) == [True]
    assert client.pttl(KEY) > 30_000


def test_a_client_with_only_get_and_set_sets_plainly(client: "redis.Redis") -> None:
    class Plain:
        def get(self, key: str) -> Any:
            return client.get(key)

        def set(self, key: str, value: str, px: int | None = None) -> Any:
            return client.set(key, value, px=px)

    store = RedisRevocationStore(Plain())
    store.mark_revoked("ses-1", 600_000)
    store.mark_revoked("ses-1", 60_000)

    assert client.get(KEY) == b"1"
    assert 30_000 < client.pttl(KEY) <= 60_000
    assert store.are_revoked(["ses-1", "ses-2"]) == [True, False]


def test_a_ttl_that_redis_cannot_hold_is_refused_and_changes_nothing(client: "redis.Redis") -> None:
    store = RedisRevocationStore(client)
    store.mark_revoked("ses-1", 60_000)

    with pytest.raises(StoreError):
        store.mark_revoked("ses-1", 2**63)

    assert 30_000 < client.pttl(KEY) <= 60_000


def test_a_key_of_another_type_is_not_known_until_it_is_marked(client: "redis.Redis") -> None:
    client.hset(KEY, "a", "b")
    store = RedisRevocationStore(client)

    client.set(PREFIX + "ses-2", "1")
    open_ = RedisRevocationStore(client, fail_closed=False)

    assert store.is_revoked("ses-1") is True
    with pytest.raises(StoreError, match="ResponseError"):
        store.are_revoked(["ses-1", "ses-2", "ses-3"])
    assert open_.is_revoked("ses-1") is False
    assert open_.are_revoked(["ses-1", "ses-2", "ses-3"]) == [False, True, False]
    assert (store.failures, open_.failures) == (2, 2)

    store.mark_revoked("ses-1", 60_000)

    assert client.get(KEY) == b"1"
    assert open_.is_revoked("ses-1") is True
    assert store.are_revoked(["ses-1"]) == [True]


# Many at once


def test_a_batch_says_of_each_what_it_is_alone(client: "redis.Redis") -> None:
    chance = random.Random(11)  # noqa: S311  # the same each time
    store = RedisRevocationStore(client)
    known = [f"{chance.choice(['ses', 'agt', 'é'])}_{chance.randrange(500)}" for _ in range(300)]
    for sid in known:
        store.mark_revoked(sid, chance.randrange(60_000, DAY_MS))
    asked = [chance.choice([*known, f"ses_{chance.randrange(1000)}", ""]) for _ in range(1000)]

    answers = store.are_revoked(asked)

    assert answers == [store.is_revoked(sid) for sid in asked]
    assert 100 < sum(answers) < 1000


def test_a_batch_is_one_round_trip(client: "redis.Redis") -> None:
    store = RedisRevocationStore(client)
    store.is_revoked("ses-1")
    reads = client.info("stats")["total_reads_processed"]

    store.are_revoked([f"ses-{number}" for number in range(20)])

    assert client.info("stats")["total_reads_processed"] == reads + 2, "ours, and the one that asks for this number"
    assert client.info("commandstats")["cmdstat_get"]["calls"] >= 20


def test_many_marks_are_one_script_and_shorten_nothing(client: "redis.Redis") -> None:
    store = RedisRevocationStore(client, default_ttl_ms=60_000)
    store.mark_revoked("ses-1", 600_000)
    client.hset(PREFIX + "ses-2", "of another", "type")
    client.config_resetstat()

    store.mark_all([f"ses-{number}" for number in range(500)])

    calls = client.info("commandstats")
    assert calls["cmdstat_evalsha"]["calls"] == 1
    assert store.are_revoked([f"ses-{number}" for number in range(501)]) == [True] * 500 + [False]
    assert client.pttl(KEY) > 500_000
    assert 30_000 < client.pttl(PREFIX + "ses-2") <= 60_000


# Few rights, few connections, credentials that change


@pytest.fixture
def published(shared_server: RedisServer, client: Any) -> Iterator["redis.Redis"]:
    """A user who may do what the published package needs, and no more."""
    client.execute_command("ACL", "SETUSER", "few", "reset", "on", ">few", f"~{PREFIX}*", "+get", "+set")
    with shared_server.client(username="few", password="few") as theirs:  # of this test
        yield theirs
    client.execute_command("ACL", "DELUSER", "few")


def test_get_and_set_are_rights_enough(
    published: "redis.Redis", client: "redis.Redis", caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisRevocationStore(published)

    store.mark_revoked("ses-1", 60_000)
    store.mark_all(["ses-2", "ses-3"])

    assert 30_000 < client.pttl(KEY) <= 60_000
    assert store.is_revoked("ses-1") is True
    assert store.are_revoked(["ses-1", "ses-2", "ses-4"]) == [True, True, False]
    assert store.failures == 0
    assert caplog.messages == ["Redis runs no script for us: marking again can shorten an entry"]


def test_scripts_without_the_right_to_what_is_in_them_are_none(
    published: "redis.Redis", client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client.execute_command("ACL", "SETUSER", "few", "+eval", "+evalsha")

    RedisRevocationStore(published).mark_revoked("ses-1", 60_000)

    assert 30_000 < client.pttl(KEY) <= 60_000
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("make", [redis.ConnectionPool, redis.BlockingConnectionPool], ids=["a pool", "it blocks"])
def test_more_threads_than_connections_wait_for_one(
    make: Callable[..., Any], shared_server: RedisServer, client: "redis.Redis", caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisRevocationStore(redis.Redis(connection_pool=make(port=shared_server.port, max_connections=2)))
    store.mark_revoked("ses-1")
    before = len(client.client_list())

    def ask(number: int) -> list[bool]:
        store.mark_revoked(f"of-thread-{number}")
        return [store.is_revoked("ses-1"), *store.are_revoked(["ses-1", "ses-2"])]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(500)))

    assert answers == [[True, True, False]] * 500
    assert (store.failures, caplog.messages) == (0, [])
    assert len(client.client_list()) <= before + 2


class Renewing(StreamingCredentialProvider):
    """It remembers one listener, as the provider for Entra ID does."""

    password = "before"  # of this test

    def get_credentials(self) -> tuple[str, str]:
        return "renewed", self.password

    def on_next(self, callback: Any) -> None:
        pass

    def on_error(self, callback: Any) -> None:
        pass

    def is_streaming(self) -> bool:
        return True


def test_when_the_server_closes_what_an_old_token_opened_the_new_one_opens_another(
    shared_server: RedisServer, client: Any
) -> None:
    provider = Renewing()
    rules = ("reset", "on", "~*", "+@all")
    client.execute_command("ACL", "SETUSER", "renewed", *rules, ">before")
    with shared_server.client(credential_provider=provider) as theirs:
        store = RedisRevocationStore(theirs)
        store.mark_revoked("ses-1")

        provider.password = "after"  # of this test
        client.execute_command("ACL", "DELUSER", "renewed")  # closes its connections
        client.execute_command("ACL", "SETUSER", "renewed", *rules, ">after")

        assert store.is_revoked("ses-1") is True
        assert store.are_revoked(["ses-1", "ses-2"]) == [True, False]
        assert store.failures == 0


# A cluster


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A cluster of one node, which refuses commands whose keys lie in different slots."""
    with RedisServer(tmp_path_factory.mktemp("cluster"), "--cluster-enabled", "yes") as running:
        with running.client() as administrator:
            administrator.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
            deadline_s = time.monotonic() + 20
            while administrator.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                assert time.monotonic() < deadline_s
        yield running


@pytest.fixture
def cluster(node: RedisServer) -> Iterator["redis.RedisCluster"]:
    with redis.RedisCluster("127.0.0.1", node.port, socket_timeout=WAIT_S) as opened:
        opened.flushall()
        yield opened


def test_a_cluster_serves_with_keys_in_every_slot(cluster: "redis.RedisCluster") -> None:
    store = RedisRevocationStore(cluster)
    sids = [f"ses-{number}" for number in range(200)]
    for sid in sids[::3]:
        store.mark_revoked(sid, 60_000)
        store.mark_revoked(sid, 1)

    assert store.are_revoked(sids) == [number % 3 == 0 for number in range(200)]
    assert [store.is_revoked(sid) for sid in sids[:9]] == [True, False, False] * 3
    assert 30_000 < cluster.pttl(PREFIX + "ses-0") <= 60_000
    store.mark_all(sids)
    assert store.are_revoked(sids) == [True] * 200
    assert store.failures == 0


def test_a_clusters_client_is_copied_without_retries_and_stays_as_it_is(cluster: "redis.RedisCluster") -> None:
    copied = clients.without_retries(cluster)

    assert copied is not cluster
    assert (copied.retry.get_retries(), cluster.retry.get_retries()) == (0, 10)
    del copied
    gc.collect()
    assert cluster.nodes_manager.default_node is not None, "it was closed with its copy"


def test_a_frozen_cluster_costs_no_retries(cluster: "redis.RedisCluster", node: RedisServer) -> None:
    store = RedisRevocationStore(cluster)
    assert store.are_revoked(["ses-1"]) == [False]

    with node.frozen(), at_most(2 * (WAIT_S * 2) + SLACK_S):
        assert store.is_revoked("ses-1") is True
        with pytest.raises(StoreError):
            store.are_revoked(["ses-1", *(f"ses-{number}" for number in range(100))])

    deadline_s = time.monotonic() + DEADLINE_S
    while store.is_revoked("ses-1"):
        assert time.monotonic() < deadline_s


def test_on_a_cluster_a_key_of_another_type_is_not_known(cluster: "redis.RedisCluster") -> None:
    cluster.hset(PREFIX + "ses-hash", "a", "b")
    cluster.set(PREFIX + "ses-3", "1")
    store = RedisRevocationStore(cluster)

    assert store.is_revoked("ses-hash") is True
    with pytest.raises(StoreError, match="ResponseError"):
        store.are_revoked(["ses-hash", "ses-3", "ses-4"])
    assert store.are_revoked(["ses-3", "ses-4"]) == [True, False]


def test_a_clusters_client_of_which_nobody_else_knows_stays_open(node: RedisServer) -> None:
    store = RedisRevocationStore(redis.RedisCluster("127.0.0.1", node.port))
    gc.collect()

    assert store._redis.nodes_manager.default_node is not None, "closed though in use"  # type: ignore[attr-defined]
    assert store.are_revoked(["ses-1", "ses-2"]) == [False, False]
