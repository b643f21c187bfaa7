"""The thread that polls, on a real Redis: it starts before the server does, survives it, stops at once, never spins."""

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from countermand.log.wire import REVOCATION_STREAM
from countermand.stores.consumer import RedisRevocationConsumer
from countermand.stores.memory import InMemoryRevocationStore
from countermand.stores.runner import ConsumerThread
from tests.redis_server import RedisServer
from tests.redis_topologies import wait_until

DEADLINE_S: Final = 20.0
GROUP: Final = "resource-revocation"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as running:
        yield running


@pytest.fixture
def store() -> InMemoryRevocationStore:
    return InMemoryRevocationStore()


def make(server: RedisServer, store: Any, **options: Any) -> RedisRevocationConsumer:
    client = options.pop("redis", None) or server.client(socket_timeout=0.5)
    return RedisRevocationConsumer(client, store, "replica-1", **options)


def add(server: RedisServer, *anchors: str) -> None:
    with server.client() as client:
        for anchor in anchors:
            client.xadd(REVOCATION_STREAM, {"session_id": anchor})


def reads(server: RedisServer) -> int:
    with server.client() as client:
        stats: Any = client.info("commandstats")
    return int(stats.get("cmdstat_xreadgroup", {}).get("calls", 0))


@pytest.mark.parametrize("block_ms", [0, 60_000])
def test_it_applies_what_the_stream_says_while_the_block_lasts(
    block_ms: int, server: RedisServer, store: InMemoryRevocationStore
) -> None:
    with ConsumerThread(make(server, store, block_ms=block_ms)) as thread:
        add(server, "a")
        wait_until(lambda: store.is_revoked("a"), "it is applied")
        assert thread.health().running
    assert not thread.health().running
    add(server, "b")
    assert not store.is_revoked("b")


def test_it_starts_before_the_server_does_and_survives_its_death(
    server: RedisServer, store: InMemoryRevocationStore
) -> None:
    server.kill()
    with ConsumerThread(make(server, store)) as thread:
        wait_until(lambda: thread.health().failures > 1, "it has tried")
        assert thread.health().success_age_s is None
        for anchor in ("a", "b"):
            server.restart()
            add(server, anchor)
            wait_until(lambda anchor=anchor: store.is_revoked(anchor), "it is applied")  # type: ignore[misc]
        assert thread.health().running


def test_idle_it_asks_five_times_a_second_and_not_more(server: RedisServer, store: InMemoryRevocationStore) -> None:
    with ConsumerThread(make(server, store)):
        wait_until(lambda: reads(server) > 2, "it polls")
        begun_s, before = time.monotonic(), reads(server)
        wait_until(lambda: reads(server) >= before + 5, "it polls five times more")
        assert time.monotonic() - begun_s > 0.7


def test_waiting_it_asks_as_often_as_a_wait_ends(server: RedisServer, store: InMemoryRevocationStore) -> None:
    with ConsumerThread(make(server, store, block_ms=60_000)):
        wait_until(lambda: reads(server) > 2, "it polls")
        begun_s, before = time.monotonic(), reads(server)
        wait_until(lambda: reads(server) >= before + 4, "it polls four times more")
        assert time.monotonic() - begun_s > 0.7


def test_what_waits_is_applied_without_a_pause(server: RedisServer, store: InMemoryRevocationStore) -> None:
    add(server, *(f"a{n}" for n in range(100)))
    begun_s = time.monotonic()
    with ConsumerThread(make(server, store, batch_size=2)) as thread:
        wait_until(lambda: thread.health().applied == 100, "all is applied")
    assert time.monotonic() - begun_s < 50 * 0.2


@pytest.mark.parametrize("block_ms", [0, 60_000])
def test_a_dead_server_is_not_asked_in_a_frenzy(
    block_ms: int, server: RedisServer, store: InMemoryRevocationStore
) -> None:
    server.kill()
    with ConsumerThread(make(server, store, block_ms=block_ms)) as thread:
        begun_s = time.monotonic()
        wait_until(lambda: thread.health().failures >= 5, "it has tried five times")
        assert time.monotonic() - begun_s > (0.1 + 0.2 + 0.4 + 0.8) / 2


@pytest.mark.parametrize("state", ["idle", "dead", "waiting"])
def test_it_stops_at_once(state: str, server: RedisServer, store: InMemoryRevocationStore) -> None:
    thread = ConsumerThread(make(server, store, block_ms=60_000 if state == "waiting" else 0))
    thread.start()
    if state == "dead":
        server.kill()
        wait_until(lambda: thread.health().failures >= 5, "it waits for long")
    else:
        wait_until(lambda: thread.health().success_age_s is not None or state == "waiting", "it has polled")
    begun_s = time.monotonic()
    assert thread.stop()
    assert time.monotonic() - begun_s < 1
    assert thread.stop()


class WaitingStore(InMemoryRevocationStore):
    """Marks when it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.marking, self.go_on = threading.Event(), threading.Event()

    def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None:
        self.marking.set()
        assert self.go_on.wait(DEADLINE_S)
        super().mark_revoked(sid, ttl_ms)


def test_a_stop_that_takes_too_long_says_so_and_a_new_start_waits_for_it(server: RedisServer) -> None:
    store = WaitingStore()
    thread = ConsumerThread(make(server, store))
    add(server, "a")
    thread.start()
    assert store.marking.wait(DEADLINE_S)

    assert not thread.stop(0.01)

    before = reads(server)
    thread.start()
    assert not thread.stop(0.01)
    assert reads(server) == before
    store.go_on.set()
    assert thread.stop()
    assert store.is_revoked("a")


def test_it_can_start_again_and_starts_once(server: RedisServer, store: InMemoryRevocationStore) -> None:
    thread = ConsumerThread(make(server, store))
    before = threading.active_count()
    for anchor in ("a", "b"):
        thread.start()
        thread.start()
        assert threading.active_count() == before + 1
        add(server, anchor)
        wait_until(lambda anchor=anchor: store.is_revoked(anchor), "it is applied")  # type: ignore[misc]
        assert thread.stop()
    assert threading.active_count() == before


def test_one_that_was_never_started_is_stopped(server: RedisServer, store: InMemoryRevocationStore) -> None:
    thread = ConsumerThread(make(server, store))
    assert thread.stop()
    assert not thread.health().running


def test_with_the_clients_defaults_it_stops_when_a_wait_of_three_seconds_is_over(
    server: RedisServer, store: InMemoryRevocationStore
) -> None:
    with (
        server.client() as admin,
        ConsumerThread(make(server, store, redis=server.client(), block_ms=60_000)) as thread,
    ):
        wait_until(lambda: admin.info("clients")["blocked_clients"] == 1, "a read waits")
        begun_s = time.monotonic()
        assert thread.stop()
        assert time.monotonic() - begun_s < 3.5


def test_it_stops_between_two_pages_of_what_a_dead_consumer_left(server: RedisServer) -> None:
    store = WaitingStore()
    consumer = make(server, store)
    consumer.ensure_group()
    add(server, *(f"a{n}" for n in range(500)))
    with server.client() as admin:
        ((_, page),) = admin.xreadgroup(GROUP, "dead", {REVOCATION_STREAM: ">"}, count=500)
        ids = [message_id for message_id, _ in page]
        admin.xclaim(REVOCATION_STREAM, GROUP, "dead", 0, ids, idle=30_001, justid=True)
    thread = ConsumerThread(consumer)
    thread.start()
    assert store.marking.wait(DEADLINE_S)
    assert not thread.stop(0.01)
    store.go_on.set()
    assert thread.stop()
    assert consumer.applied == 50


SECRET: Final = "hunter2"


class OddStore(InMemoryRevocationStore):
    """Raises `mistake` the first time."""

    def __init__(self, mistake: type[BaseException]) -> None:
        super().__init__()
        self.mistakes = [mistake]

    def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None:
        if self.mistakes:
            raise self.mistakes.pop()(f"{SECRET} of {sid}")
        super().mark_revoked(sid, ttl_ms)


@pytest.mark.parametrize("mistake", [TypeError, SystemExit, KeyboardInterrupt])
def test_an_error_that_should_not_be_is_logged_without_its_text_and_ends_nothing(
    mistake: type[BaseException], server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = OddStore(mistake)
    add(server, "a")
    with ConsumerThread(make(server, store)):
        wait_until(lambda: store.is_revoked("a"), "it is applied all the same")
    (record,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert mistake.__name__ in record.getMessage()
    assert "in mark_revoked" in record.getMessage()
    assert SECRET not in logging.Formatter().format(record)


class LeakyProvider(redis.CredentialProvider):
    def get_credentials(self) -> tuple[str]:
        raise RuntimeError(SECRET)


def test_what_a_provider_of_credentials_says_is_not_in_the_log(
    server: RedisServer, store: InMemoryRevocationStore, caplog: pytest.LogCaptureFixture
) -> None:
    client = server.client(credential_provider=LeakyProvider())
    with ConsumerThread(make(server, store, redis=client)) as thread:
        wait_until(lambda: thread.health().failures > 1, "it has tried")
    assert caplog.records[0].getMessage() == "reading the revocation stream fails: RuntimeError"
    assert SECRET not in "".join(str(vars(record)) for record in caplog.records)


def test_while_the_store_takes_nothing_no_poll_is_a_success(server: RedisServer) -> None:
    now_s = 100.0
    full = InMemoryRevocationStore(max_entries=1)
    full.mark_revoked("the first")
    thread = ConsumerThread(make(server, full), clock_s=lambda: now_s)
    with thread:
        wait_until(lambda: thread.health().success_age_s == 0, "all is well")
        add(server, "a")
        wait_until(lambda: thread.health().failures > 0, "the store takes no more")
        now_s = 110.0
        before = reads(server)
        wait_until(lambda: reads(server) > before + 3, "it polls on")
        assert thread.health().success_age_s == 10.0


def test_health_tells_how_it_does(server: RedisServer, store: InMemoryRevocationStore) -> None:
    now_s = 100.0
    add(server, "a", "b")
    with server.client() as client:
        client.xadd(REVOCATION_STREAM, {"reason": "none"})
    thread = ConsumerThread(make(server, store), clock_s=lambda: now_s)
    with thread:
        wait_until(lambda: thread.health().applied == 2, "all is applied")
    now_s = 103.0

    health = thread.health()

    assert (health.applied, health.dead_lettered, health.failures, health.lag) == (2, 1, 0, 0)
    assert (health.running, health.success_age_s) == (False, 3.0)
    server.kill()
    assert thread.health().lag is None


def test_the_lag_counts_what_is_pending(server: RedisServer, store: InMemoryRevocationStore) -> None:
    full = InMemoryRevocationStore(max_entries=1)
    add(server, "a", "b", "c")
    with ConsumerThread(make(server, full)) as thread:
        wait_until(lambda: thread.health().applied == 1, "one is applied")
        assert thread.health().lag == 2


def test_the_lag_is_unknown_where_redis_does_not_count_what_it_has_not_given_yet(
    server: RedisServer, store: InMemoryRevocationStore
) -> None:
    consumer = make(server, store)
    consumer.ensure_group()
    add(server, "a")
    with server.client() as client:
        (group,) = client.xinfo_groups(REVOCATION_STREAM)
    assert consumer.lag() == (1 if "lag" in group else None)
