"""Redis clients of every kind, without a server: which are refused, what a copy keeps, how many keys are asked for."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import redis
import redis.asyncio
import redis.sentinel
from redis.backoff import NoBackoff
from redis.credentials import StreamingCredentialProvider
from redis.retry import Retry

from countermand.errors import StoreError
from countermand.stores.client import (
    MAX_WAIT_S,
    batch_getter,
    belong_together,
    check_client,
    is_cluster,
    max_connections,
    without_retries,
)
from countermand.stores.redis import RedisRevocationStore
from tests.unit.redis_clients import DEAD, SECRET, Cluster, Forwarding, Minimal, Pipelining, Prefixed, coroutine

BlockingConnectionPool: Any = redis.BlockingConnectionPool  # untyped
Sentinel: Any = redis.sentinel.Sentinel

# What is refused


@pytest.mark.parametrize(
    "client",
    [
        redis.asyncio.Redis(),
        redis.asyncio.Redis.from_url("redis://cache"),
        redis.asyncio.RedisCluster("cache"),
        SimpleNamespace(get=coroutine, set=print),
        SimpleNamespace(get=print, set=coroutine),
        SimpleNamespace(get=print, set=print, execute_command=coroutine),
    ],
    ids=lambda client: f"{type(client).__module__}.{type(client).__name__}",
)
def test_a_client_for_asyncio_is_refused_when_the_store_is_made(client: Any) -> None:
    with pytest.raises(TypeError, match="asyncio"):
        RedisRevocationStore(client)
    with pytest.raises(TypeError, match="asyncio"):
        check_client(client)


# A copy without retries

POOLED: dict[str, Callable[[], Any]] = {
    "as it is": redis.Redis,
    "with credentials": lambda: redis.Redis("cache", 6380, 3, SECRET, username="me", client_name="api", protocol=2),
    "with errors to retry on": lambda: redis.Redis(
        retry_on_error=[redis.exceptions.BusyLoadingError], retry=Retry(NoBackoff(), 7)
    ),
    "that decodes": lambda: redis.Redis(decode_responses=True, encoding="latin-1", health_check_interval=9),
    "by a URL": lambda: redis.Redis.from_url(f"redis://me:{SECRET}@cache:6380/3?socket_timeout=60"),
    "over TLS": lambda: redis.Redis.from_url("rediss://cache:6380/3?ssl_cert_reqs=none", ssl_ca_certs="/ca.pem"),
    "over TLS, by options": lambda: redis.Redis("cache", ssl=True, ssl_ca_certs="/ca.pem", ssl_check_hostname=False),
    "over a socket in the file system": lambda: redis.Redis(unix_socket_path="/run/redis.sock", password=SECRET),
    "over such a socket, by a URL": lambda: redis.Redis.from_url("unix:///run/redis.sock?db=3"),
    "with a pool that blocks": lambda: redis.Redis(
        connection_pool=BlockingConnectionPool(max_connections=3, timeout=None, host="cache")
    ),
    "with a pool of its own": lambda: redis.Redis.from_pool(redis.ConnectionPool(host="cache", max_connections=3)),
    "of a Sentinel": lambda: Sentinel([("a", 1), ("b", 2)]).master_for("main", db=3, password=SECRET),
    "of a Sentinel, for a replica": lambda: Sentinel([("a", 1)], socket_timeout=0.5).slave_for("main", ssl=True),
}
LOST = {"retry", "retry_on_error", "retry_on_timeout", "socket_timeout", "socket_connect_timeout", "connection_pool"}
every_pooled_client = pytest.mark.parametrize("make", POOLED.values(), ids=POOLED)


def connection_of(client: Any) -> Any:
    return client.connection_pool.make_connection()


@every_pooled_client
def test_a_copy_tries_once_and_its_waits_are_bounded(make: Callable[[], Any]) -> None:
    client = make()
    copied = without_retries(client)

    connection = connection_of(copied)

    assert copied is not client
    assert type(copied) is type(client)
    assert connection.retry.get_retries() == 0
    assert 0 < connection.socket_timeout <= MAX_WAIT_S < 5
    assert 0 < connection.socket_connect_timeout <= MAX_WAIT_S


@every_pooled_client
def test_a_copy_goes_where_the_client_goes(make: Callable[[], Any]) -> None:
    client = make()
    copied = without_retries(client)

    theirs, ours = client.connection_pool, copied.connection_pool
    assert (type(ours), ours.connection_class) == (type(theirs), theirs.connection_class)
    assert ours.max_connections == theirs.max_connections
    kept = {name: value for name, value in theirs.connection_kwargs.items() if name not in LOST}
    assert {name: ours.connection_kwargs.get(name) for name in kept if "maint" not in name and "orig" not in name} == {
        name: value for name, value in kept.items() if "maint" not in name and "orig" not in name
    }
    for name in ("service_name", "is_master", "check_connection", "queue_class"):
        assert getattr(ours, name, None) == getattr(theirs, name, None)


@every_pooled_client
def test_the_client_itself_stays_as_it_is(make: Callable[[], Any]) -> None:
    client = make()
    pool, options = client.connection_pool, dict(client.connection_pool.connection_kwargs)
    retries = connection_of(client).retry.get_retries()

    copied = without_retries(client)
    copied.close()

    assert client.connection_pool is pool
    assert client.connection_pool is not copied.connection_pool
    assert pool.connection_kwargs == options
    assert connection_of(client).retry.get_retries() == retries


@pytest.mark.parametrize(("own_s", "wait_s"), [(0.25, 0.25), (60, MAX_WAIT_S), (None, MAX_WAIT_S)])
def test_a_client_that_gives_up_sooner_still_does(own_s: float | None, wait_s: float) -> None:
    connection = connection_of(without_retries(redis.Redis(socket_timeout=own_s, socket_connect_timeout=own_s)))

    assert connection.socket_timeout == connection.socket_connect_timeout == wait_s


@pytest.mark.parametrize(("own_s", "wait_s"), [(0.25, 0.25), (60, MAX_WAIT_S), (None, MAX_WAIT_S)])
def test_a_pool_that_blocks_does_so_for_no_longer(own_s: float | None, wait_s: float) -> None:
    client = redis.Redis(connection_pool=BlockingConnectionPool(timeout=own_s))

    assert without_retries(client).connection_pool.timeout == wait_s


def test_the_sentinels_are_asked_without_retries_and_the_given_ones_stay() -> None:
    sentinel = Sentinel([("a", 1), ("b", 2)])
    given = list(sentinel.sentinels)

    manager = without_retries(sentinel.master_for("main")).connection_pool.sentinel_manager

    assert manager is not sentinel
    assert [connection_of(client).retry.get_retries() for client in manager.sentinels] == [0, 0]
    assert [connection_of(client).host for client in manager.sentinels] == ["a", "b"]
    assert all(one is other for one, other in zip(sentinel.sentinels, given, strict=True))
    assert connection_of(given[0]).retry.get_retries() == 10


def test_a_client_that_caches_is_copied_without_its_cache() -> None:
    client = redis.Redis(protocol=3, cache_config=redis.cache.CacheConfig())
    assert client.connection_pool.cache is not None

    assert without_retries(client).connection_pool.cache is None


def test_a_copy_keeps_what_a_class_of_the_callers_own_holds() -> None:
    client = Prefixed()
    client.prefix = "app:"

    copied = without_retries(client)

    assert copied is not client
    assert copied.prefix == "app:"
    assert connection_of(copied).retry.get_retries() == 0


class UnknownPool(redis.ConnectionPool):
    def __init__(self, region: str = "south", **options: Any) -> None:
        super().__init__(**options)
        self.region = region


def test_a_client_that_cannot_be_copied_is_used_itself_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    client = redis.Redis(connection_pool=UnknownPool("north", password=SECRET))

    assert without_retries(client) is client
    assert [record.getMessage() for record in caplog.records] == [
        "the Redis client cannot be copied, and keeps its retries (TypeError)"
    ]


@pytest.mark.parametrize(
    "make", [Minimal, MagicMock, lambda: Forwarding(redis.Redis())], ids=["minimal", "a mock", "a wrapper"]
)
def test_what_is_no_client_of_redis_py_is_used_itself(make: Callable[[], Any]) -> None:
    client = make()

    assert without_retries(client) is client
    assert RedisRevocationStore(client)._redis is client


def test_a_wrapped_client_stays_as_it_is() -> None:
    pooled, cluster = redis.Redis(), SimpleNamespace(nodes_manager=Cluster().nodes_manager, retry=Retry(NoBackoff(), 3))
    pool, retry = pooled.connection_pool, cluster.retry

    for inner in (pooled, cluster):
        wrapper = Forwarding(inner)
        assert without_retries(wrapper) is wrapper

    assert pooled.connection_pool is pool
    assert connection_of(pooled).retry.get_retries() == 10
    assert cluster.retry is retry
    assert retry.get_retries() == 3


def test_a_time_out_that_a_pool_has_put_aside_is_bounded_too() -> None:
    copied = without_retries(redis.Redis(protocol=3, socket_timeout=60, socket_connect_timeout=60))

    options = copied.connection_pool.connection_kwargs
    assert {options["orig_socket_timeout"], options["orig_socket_connect_timeout"]} == {MAX_WAIT_S}
    assert options["maint_notifications_pool_handler"].pool is copied.connection_pool


class Renewing(StreamingCredentialProvider):
    """It remembers one listener, as the provider for Entra ID does."""

    def __init__(self) -> None:
        self.listener: Any = None

    def get_credentials(self) -> tuple[str]:
        return (SECRET,)

    def on_next(self, callback: Any) -> None:
        self.listener = callback

    def on_error(self, callback: Any) -> None:
        del callback

    def is_streaming(self) -> bool:
        return True


def test_a_provider_that_renews_credentials_still_tells_the_client_itself() -> None:
    provider = Renewing()
    client = redis.Redis(credential_provider=provider)
    listener = provider.listener

    copied = without_retries(client)

    assert listener is not None
    assert provider.listener == listener
    assert connection_of(copied).credential_provider is provider


@pytest.mark.parametrize(
    ("client", "limit"),
    [
        (redis.Redis(max_connections=4), 4),
        (redis.Redis(connection_pool=BlockingConnectionPool(max_connections=3)), 3),
        (Sentinel([("a", 1)]).master_for("main", max_connections=2), 2),
        (Minimal(), sys.maxsize),
        (MagicMock(), sys.maxsize),
        (Cluster(), sys.maxsize),
    ],
    ids=["a pool", "a pool that blocks", "a Sentinel's", "minimal", "a mock", "a cluster"],
)
def test_a_client_waits_for_as_many_answers_as_its_pool_has_connections(client: Any, limit: int) -> None:
    assert max_connections(client) == limit
    assert max_connections(without_retries(client)) == limit


# Many keys at once


@pytest.mark.parametrize(
    ("client", "together"),
    [
        (redis.Redis(), True),
        (Pipelining(), True),
        (Forwarding(redis.Redis()), True),
        (Prefixed(), False),
        (Minimal(), False),
        (SimpleNamespace(get=print, pipeline=print), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_methods_belong_together_unless_a_class_changed_only_some(client: object, together: bool) -> None:
    assert belong_together(client, "get", "pipeline") is together


def test_a_client_changed_in_one_place_for_all_commands_is_not_of_one_piece() -> None:
    class Counting(redis.Redis):
        def execute_command(self, *args: Any, **options: Any) -> Any:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    assert not belong_together(Counting(), "get", "pipeline")


def test_a_client_whose_method_was_replaced_is_not_of_one_piece() -> None:
    client = redis.Redis()
    client.get = print  # type: ignore[method-assign,assignment]

    assert not belong_together(client, "get", "pipeline")


def test_many_keys_are_one_question_where_the_client_can_ask_it() -> None:
    client = Pipelining(a="1", c=b"1")
    store = RedisRevocationStore(client, "p:")

    assert store.are_revoked(["a", "b", "", "c", "a"]) == [True, False, False, True, True]
    assert client.asked == [("at once", "p:a", "p:b", "p:c", "p:a")]
    assert store.are_revoked([]) == []
    assert store.are_revoked(["", ""]) == [False, False]
    assert len(client.asked) == 1


def test_a_pipeline_that_is_not_like_redis_pys_is_left_alone() -> None:
    class Other(Minimal):
        def pipeline(self) -> None:
            raise NotImplementedError

    client = Other(a="1")

    assert batch_getter(client)(["a", "b"]) == ["1", None]
    assert client.asked == [("get", "a"), ("get", "b")]


def test_a_client_with_its_own_get_is_asked_by_it_for_each_key(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def execute(self: redis.Redis, *args: Any, **options: Any) -> None:
        asked.append(args)

    monkeypatch.setattr(redis.Redis, "execute_command", execute)
    client = Prefixed()
    client.prefix = "app:"

    RedisRevocationStore(client, "p:").are_revoked(["a", "b"])

    assert asked == [("GET", "app:p:a"), ("GET", "app:p:b")]


def test_after_a_failure_no_further_key_is_asked_for() -> None:
    client = Minimal(a="1", b=DEAD)

    assert batch_getter(client)(["a", "b", "c"]) == ["1", DEAD, DEAD]
    assert client.asked == [("get", "a"), ("get", "b")]


def test_a_cluster_is_asked_node_by_node() -> None:
    cluster = Cluster(a="1", D="1")

    assert is_cluster(cluster)
    assert batch_getter(cluster)(["a", "B", "c", "D", "a"]) == ["1", None, None, "1", "1"]
    assert cluster.asked == [("lower", "a", "c"), ("upper", "B", "D")]
    assert cluster.looked_up == 0


def test_a_key_that_has_moved_is_asked_for_alone_by_the_client_that_can_follow() -> None:
    cluster = Cluster(a="1", b="1", C="1")
    cluster.moved = {"b", "c"}

    assert batch_getter(cluster)(["a", "b", "c", "C"]) == ["1", "1", None, "1"]
    assert cluster.asked == [("lower", "a", "b", "c"), ("upper", "C"), ("cluster", "b"), ("cluster", "c")]
    assert cluster.looked_up == 0


def test_a_dead_node_costs_one_question_and_nothing_is_known() -> None:
    cluster = Cluster(a="1", D="1")
    cluster.dead = {"lower"}

    with pytest.raises(redis.ConnectionError):
        batch_getter(cluster)(["a", "b", "C", "D"])
    assert cluster.asked == [("lower", "a", "b")]
    assert cluster.looked_up == 1


def test_what_lies_on_a_dead_node_passes_only_where_it_was_told_to() -> None:
    cluster = Cluster(a="1", D="1")
    cluster.dead = {"lower"}

    assert RedisRevocationStore(cluster, "", fail_closed=False).are_revoked(["a", "C", "D"]) == [False, False, False]
    with pytest.raises(StoreError):
        RedisRevocationStore(cluster, "").are_revoked(["a", "C", "D"])


def test_a_cluster_with_a_slot_that_nobody_has_is_looked_at_again() -> None:
    cluster = Cluster()

    with pytest.raises(redis.exceptions.SlotNotCoveredError):
        batch_getter(cluster)(["a", ""])
    assert cluster.looked_up == 1
