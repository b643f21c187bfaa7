"""The documented store on a real Redis that is gone, frozen, or back: what it says, and what that costs."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from countermand.enforce.decision import Allow, Code
from countermand.errors import StoreError
from countermand.stores import client as clients
from countermand.stores.breaker import PAUSE_S
from countermand.stores.client import MAX_WAIT_S
from countermand.stores.redis import QUIET_S, RedisRevocationStore
from tests.redis_server import RedisServer
from tests.unit.guarded import DELEGATED_TEXT, TOKEN_TEXT, denied, guard
from tests.unit.mandates import EDGE, SESSION

pytestmark = pytest.mark.anyio

SECRET: Final = "hunter2"
WAIT_S: Final = 0.6
SLACK_S: Final = 3.0
"""For what takes milliseconds, on a machine that does something else; less than redis-py's retries take."""
DEADLINE_S: Final = 20.0
UNAVAILABLE: Final = (Code.REVOCATION_UNAVAILABLE, "store_error")


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def client(shared_server: RedisServer) -> Iterator["redis.Redis"]:
    """A client of a server that the tests of this module share, emptied."""
    with shared_server.client() as opened:
        opened.flushall()
        yield opened


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of this test alone, to be ill-treated."""
    with RedisServer(tmp_path) as running:
        yield running


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    start_s = time.monotonic()
    yield
    assert time.monotonic() - start_s < seconds


# A server that does not answer


def test_a_refused_connection_costs_no_wait_and_the_clients_own_retries_stay(server: RedisServer) -> None:
    with server.client() as theirs:
        theirs.ping()
        store, open_ = RedisRevocationStore(theirs), RedisRevocationStore(theirs, fail_closed=False)
        server.kill()

        with at_most(1):
            assert store.is_revoked("ses-1") is True
            assert open_.is_revoked("ses-1") is False
            assert open_.are_revoked(["ses-1", "ses-2"]) == [False, False]
            with pytest.raises(StoreError):
                store.are_revoked(["ses-1"])
            with pytest.raises(StoreError):
                store.mark_revoked("ses-1")

        retry = theirs.get_retry()
        assert retry is not None
        assert retry.get_retries() == 10
        assert theirs.connection_pool.make_connection().retry.get_retries() == 10


@pytest.mark.parametrize("warm", [True, False], ids=["a connection stands", "no connection stands"])
@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.is_revoked("ses-1"),
        lambda store: store.are_revoked(["ses-1"] * 50),
        lambda store: store.mark_revoked("ses-1"),
    ],
    ids=["is_revoked", "are_revoked", "mark_revoked"],
)
def test_a_frozen_server_costs_one_wait_of_the_clients_own(
    shared_server: RedisServer, ask: Callable[[RedisRevocationStore], Any], warm: bool
) -> None:
    with shared_server.client(socket_timeout=WAIT_S) as theirs:
        store = RedisRevocationStore(theirs, fail_closed=False)
        if warm:
            ask(store)
        with shared_server.frozen(), at_most(WAIT_S * 1.9):
            start_s = time.monotonic()
            try:
                assert ask(store) in (False, [False] * 50)
            except StoreError as error:
                assert isinstance(error.__cause__, redis.TimeoutError)  # noqa: PT017  # only marking raises
            assert time.monotonic() - start_s >= WAIT_S * 0.9


def test_a_client_that_would_wait_for_ever_waits_for_no_longer_than_we_do(
    shared_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_WAIT_S < 5
    monkeypatch.setattr(clients, "MAX_WAIT_S", WAIT_S)
    with shared_server.client(socket_timeout=None, socket_connect_timeout=None) as theirs:
        store = RedisRevocationStore(theirs)
        with shared_server.frozen(), at_most(WAIT_S + SLACK_S):
            assert store.is_revoked("ses-1") is True


def comes_back(store: RedisRevocationStore) -> None:
    """Wait until it says that what nobody revoked is not revoked."""
    deadline_s = time.monotonic() + DEADLINE_S
    while store.is_revoked("ses-of-nobody"):
        assert time.monotonic() < deadline_s, "it does not answer again"


def test_it_answers_again_when_the_server_does(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    with server.client() as theirs:
        store = RedisRevocationStore(theirs, clock_s=lambda: now_s)
        store.mark_revoked("ses-1")
        assert store.is_revoked("ses-1") is True
        server.restart()

        assert store.is_revoked("ses-1") is False, "a new connection, and a server that has forgotten everything"
        assert store.failures == 0

        server.kill()
        assert [store.is_revoked("ses-1"), store.is_revoked("ses-1")] == [True, True]
        server.start()
        now_s += QUIET_S
        assert store.is_revoked("ses-1") is False
        assert store.failures == 2

    assert [(record.levelno, record.getMessage()) for record in caplog.records if "store" in record.name] == [
        (
            logging.ERROR,
            "the revocation store in Redis does not answer: everything counts as revoked (ConnectionError)",
        ),
        (logging.WARNING, "the revocation store in Redis answers again"),
    ]


def test_after_a_frozen_server_it_answers_again_within_a_second_or_so(shared_server: RedisServer) -> None:
    with shared_server.client(socket_timeout=WAIT_S) as theirs:
        store = RedisRevocationStore(theirs)
        with shared_server.frozen():
            assert store.is_revoked("ses-1") is True
            with at_most(PAUSE_S / 2):
                assert [store.is_revoked("ses-1") for _ in range(100)] == [True] * 100
                with pytest.raises(StoreError):
                    store.are_revoked(["ses-1", "ses-2"])
        with at_most(PAUSE_S + SLACK_S):
            comes_back(store)
        assert store.are_revoked(["ses-of-nobody", "ses-2"]) == [False, False]


def test_one_lost_connection_keeps_nobody_from_asking(server: RedisServer) -> None:
    with server.client() as theirs:
        store = RedisRevocationStore(theirs)
        for _ in range(3):
            assert store.is_revoked("ses-1") is False
            theirs.client_kill_filter(_type="normal", skipme=False)
        assert store.is_revoked("ses-1") is False
        assert store.failures == 0


def test_a_client_that_its_owner_has_closed_leaves_the_store_its_own_connections(shared_server: RedisServer) -> None:
    theirs = shared_server.client()
    store = RedisRevocationStore(theirs)
    theirs.close()

    store.mark_revoked("ses-1")

    assert store.is_revoked("ses-1") is True


def test_a_client_of_one_connection_keeps_it_for_itself(shared_server: RedisServer) -> None:
    with shared_server.client(single_connection_client=True) as theirs:
        store = RedisRevocationStore(theirs)
        asking = threading.Thread(target=store.is_revoked, args=("ses-1",), daemon=True)
        with theirs.single_connection_lock:  # as long as a command of theirs takes
            asking.start()
            asking.join(SLACK_S)

        assert not asking.is_alive()
        assert store.failures == 0
        assert theirs.connection is not store._redis.connection  # type: ignore[attr-defined]
        assert theirs.client_id() != store._redis.client_id()  # type: ignore[attr-defined]


@pytest.mark.parametrize("password", [SECRET, None], ids=["a wrong password", "no password"])
def test_a_password_is_in_no_error_and_in_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, password: str | None
) -> None:
    caplog.set_level(logging.DEBUG, "countermand")
    with RedisServer(tmp_path) as server, server.client() as administrator:
        administrator.config_set("requirepass", "another")
        url = f"redis://default:{password}@127.0.0.1:{server.port}" if password else server.url
        with redis.Redis.from_url(url) as theirs:
            store = RedisRevocationStore(theirs)
            assert store.is_revoked("ses-1") is True
            with pytest.raises(StoreError) as caught:
                store.mark_revoked("ses-1")

    told = [caplog.text, str(caught.value), repr(caught.value), repr(store)]
    assert "AuthenticationError" in caplog.text
    assert not any(SECRET in text or "another" in text or "ses-1" in text for text in told)


# Through a guard


class Watched(RedisRevocationStore):
    """It notes where it is asked, and how often."""

    threads: Sequence[int] = ()

    def are_revoked(self, sids: Sequence[str]) -> list[bool]:
        self.threads = [*self.threads, threading.get_ident()]
        return super().are_revoked(sids)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_guard_asks_it_once_for_a_token_and_in_a_thread(client: "redis.Redis") -> None:
    store = Watched(client)
    guarded = guard(store)

    assert isinstance(await guarded.decide(DELEGATED_TEXT), Allow)
    store.mark_revoked(EDGE)
    assert denied(await guarded.decide(DELEGATED_TEXT)).code == Code.SESSION_REVOKED
    assert isinstance(await guarded.decide(TOKEN_TEXT), Allow)
    store.mark_revoked(SESSION)
    assert denied(await guarded.decide(TOKEN_TEXT)).code == Code.SESSION_REVOKED

    assert len(store.threads) == 4
    assert threading.get_ident() not in store.threads


async def test_a_guard_can_tell_a_dead_server_from_a_revocation(server: RedisServer) -> None:
    with server.client() as theirs:
        guarded = guard(RedisRevocationStore(theirs))
        server.kill()

        deny = denied(await guarded.decide(TOKEN_TEXT))
        assert (deny.code, deny.reason) == UNAVAILABLE
        assert isinstance(await guard(RedisRevocationStore(theirs, fail_closed=False)).decide(TOKEN_TEXT), Allow)

        server.start()
        assert isinstance(await guarded.decide(TOKEN_TEXT), Allow)


LOAD: Final = 40
"""More than there are threads that ask stores."""


@pytest.mark.parametrize("connections", [2, 100])
@pytest.mark.parametrize("fail_closed", [True, False])
async def test_under_load_a_frozen_server_costs_one_wait_for_all(
    shared_server: RedisServer, fail_closed: bool, connections: int, caplog: pytest.LogCaptureFixture
) -> None:
    with shared_server.client(socket_timeout=WAIT_S, max_connections=connections) as theirs:
        guarded = guard(RedisRevocationStore(theirs, fail_closed=fail_closed))
        with shared_server.frozen(), at_most(2 * WAIT_S):
            decisions = await asyncio.gather(*[guarded.decide(TOKEN_TEXT) for _ in range(LOAD)])

    if fail_closed:
        assert {(denied(one).code, denied(one).reason) for one in decisions} == {UNAVAILABLE}
    else:
        assert [type(one) for one in decisions] == [Allow] * LOAD
    assert len([record for record in caplog.records if record.name == "countermand.stores.redis"]) == 1


async def test_a_wrapper_that_knows_single_questions_only_makes_an_outage_a_revocation(server: RedisServer) -> None:
    class Wrapper:
        def __init__(self, store: RedisRevocationStore) -> None:
            self.is_revoked = store.is_revoked
            self.mark_revoked = store.mark_revoked

    with server.client() as theirs:
        store = RedisRevocationStore(theirs)
        server.kill()

        assert denied(await guard(Wrapper(store)).decide(TOKEN_TEXT)).code == Code.SESSION_REVOKED
        assert denied(await guard(store).decide(TOKEN_TEXT)).code == Code.REVOCATION_UNAVAILABLE


async def test_a_frozen_server_does_not_stop_the_event_loop(shared_server: RedisServer) -> None:
    with shared_server.client(socket_timeout=WAIT_S) as theirs:
        guarded = guard(RedisRevocationStore(theirs, fail_closed=False))
        with shared_server.frozen():
            decision = asyncio.ensure_future(guarded.decide(TOKEN_TEXT))
            turns = 0
            while not decision.done():
                await asyncio.sleep(0.01)
                turns += 1
        assert isinstance(decision.result(), Allow), "told to let pass, and in time for the guard"
        assert turns > 5
