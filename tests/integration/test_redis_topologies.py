"""The log on a real cluster and behind real Sentinels, and the documented faces on both: by URL alone."""

import asyncio
import itertools
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.crc import key_slot

from countermand import connect
from countermand.enforce.guard import Guard
from countermand.errors import ConfigurationError, RefusedError, StoreError, TransportError, UnreachableError
from countermand.log.wire import REVOCATION_STREAM
from countermand.stores.consumer import RedisRevocationConsumer
from countermand.stores.redis import DEFAULT_KEY_PREFIX, RedisRevocationStore
from countermand.transport.redis import RedisLog, RedisLogWriter
from countermand.transport.redis_client import CONNECT_S, FIND_S, SCHEMES, RedisUrl
from tests.certificates import CertificateAuthority
from tests.integration.planes import KEYS, Plane, following, publishing
from tests.redis_server import RedisServer
from tests.redis_topologies import (
    SERVICE,
    SLOT,
    Cluster,
    ClusterNode,
    Watched,
    cluster_running,
    wait_for_copies,
    wait_until,
    watched_running,
)
from tests.running import until
from tests.signer import Signer

pytestmark = [pytest.mark.anyio, pytest.mark.sqlite]  # about Redis: what is killed for one test stays dead

SECRET = "p@ss:w/rd?,"
QUOTED = "p%40ss%3Aw%2Frd%3F%2C"

# What a URL says


URLS: dict[str, tuple[str, list[tuple[str, int]], str]] = {
    "one server": ("redis://h", [], ""),
    "a cluster": ("redis+cluster://h:7000,i,[::1]:7002", [("h", 7000), ("i", 6379), ("::1", 7002)], ""),
    "a cluster's only database": ("redis+cluster://h/0", [("h", 6379)], ""),
    "Sentinels": ("redis+sentinel://h:1,i,[::1]/my%2Dmain", [("h", 1), ("i", 26379), ("::1", 26379)], "my-main"),
    "Sentinels with a database": ("rediss+sentinel://h/main/3", [("h", 26379)], "main"),
}


@pytest.mark.parametrize(("url", "guides", "service"), URLS.values(), ids=URLS.keys())
def test_a_url_says_whom_to_ask(url: str, guides: list[tuple[str, int]], service: str) -> None:
    parsed = RedisUrl.parse(url)
    assert ([(guide["host"], guide["port"]) for guide in parsed.guides], parsed.service) == (guides, service)


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "redis+sentinel"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "over TLS"])
def test_tls_user_and_password_go_through(scheme: str, tls: bool) -> None:
    options = "?ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false" if tls else ""
    url = f"{scheme}://app:{QUOTED}@h:1{'/main/3' if scheme == 'redis+sentinel' else ''}{options}"
    parsed = RedisUrl.parse(url.replace("redis", "rediss", 1) if tls else url)
    ways = [parsed.server, *(parsed.guides if not parsed.service else ())]
    assert all((way["username"], way["password"]) == ("app", SECRET) for way in ways)
    everywhere = [parsed.server, *parsed.guides]
    assert all(way.get("connection_class", Connection) is (SSLConnection if tls else Connection) for way in everywhere)
    assert [way.get("ssl_ca_certs") for way in everywhere] == ["/etc/ca.pem" if tls else None] * len(everywhere)
    assert parsed.server.get("db", 0) == (3 if parsed.service else 0)


def test_sentinels_have_credentials_of_their_own_or_none() -> None:
    without = RedisUrl.parse(f"redis+sentinel://app:{QUOTED}@h/main")
    (sentinel,) = without.guides
    assert not {"username", "password"} & sentinel.keys()
    of_their_own = RedisUrl.parse(
        f"redis+sentinel://app:x@h/main?sentinel_username=guide&sentinel_password={QUOTED}&db=2"
    )
    (sentinel,) = of_their_own.guides
    assert (sentinel["username"], sentinel["password"], sentinel["db"]) == ("guide", SECRET, 0)
    assert (of_their_own.server["username"], of_their_own.server["db"]) == ("app", 2)
    assert SECRET not in repr(of_their_own)


def test_a_socket_of_this_machine_has_a_path() -> None:
    assert RedisUrl.parse("unix:///run/redis.sock").server["connection_class"] is UnixDomainSocketConnection


def test_time_outs_and_retries_are_ours_whatever_the_url_says() -> None:
    server = RedisUrl.parse("redis://h?socket_timeout=600&socket_connect_timeout=600&retry_on_timeout=yes").server
    assert (server["socket_timeout"], server["socket_connect_timeout"]) == (None, CONNECT_S)
    assert (server["retry"].get_retries(), server["retry_on_timeout"]) == (0, False)


@pytest.mark.parametrize(
    "url",
    [
        *("", "h:6379", "http://h", "redis+unknown://h", "REDIS://h", "redis+unix://h", "unix+cluster:///a"),
        *("redis://h:port", "redis://h?db=x", "redis://h?no_such_option=1", "redis://h?protocol=9"),
        *("redis+cluster://", "redis+cluster://h,", "redis+cluster://h/1", "redis+cluster://h:x", "redis+cluster://h:99999"),
        *("redis+sentinel://h", "redis+sentinel://h/", "redis+sentinel://h/main/x", "redis+sentinel:///main"),
        *("redis+sentinel://h,i:x/main", "redis+sentinel://[::1/main", "rediss+sentinel://h/main?ssl_cert_reqs=x"),
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_used_is_refused_at_once_and_told_to_nobody(url: str) -> None:
    url = url.replace("://h", "://user:SECRET@h")
    with pytest.raises(ConfigurationError) as refusal:
        RedisLog(url, KEYS)
    assert "SECRET" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_guard_knows_the_schemes_that_the_transport_knows() -> None:
    places = {"unix": "/run/redis.sock", "redis+sentinel": "localhost/main", "rediss+sentinel": "localhost/main"}
    for scheme in SCHEMES:
        url = f"{scheme}://{places.get(scheme, 'localhost')}"
        assert isinstance(connect(url, issuer="https://i.example", audience="a", pin=str(Signer().pin)), Guard)


# A log that runs


@asynccontextmanager
async def plane_on(path: Path, topology: Any, *, url: str | None = None, replicas: int = 2) -> AsyncIterator[Plane]:
    async with AsyncExitStack() as stack:
        rooms, relay = await stack.enter_async_context(publishing(path, url or topology.url))
        running = Plane(rooms, topology, relay)
        for _ in range(replicas):
            running.replicas.append(await stack.enter_async_context(following(rooms.pin, url or topology.url)))
        await running.caught_up()
        yield running


async def goes_on(running: Plane, url: str, known: list[str]) -> list[str]:
    """What is revoked reaches those who followed before, and one who comes anew; return all that is revoked."""
    ids = known + await running.revoke(5)
    async with following(running.rooms.pin, url) as newcomer:
        running.replicas.append(newcomer)
        await running.caught_up()
        assert running.revokes(ids)
        running.replicas.remove(newcomer)
    return ids


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_running(tmp_path_factory.mktemp("cluster"), replicas=1) as running:
        yield running


def move_slot(source: ClusterNode, target: ClusterNode, cluster: Cluster) -> None:
    """Move SLOT and what is in it, as an administrator does."""
    target.ask("CLUSTER SETSLOT", SLOT, "IMPORTING", source.id)
    source.ask("CLUSTER SETSLOT", SLOT, "MIGRATING", target.id)
    while keys := source.ask("CLUSTER GETKEYSINSLOT", SLOT, 1):
        source.ask("MIGRATE", "127.0.0.1", target.port, keys[0], 0, 5000)
        time.sleep(0.3)  # so that what is done in between meets a slot in two places
    for node in [target, source, *cluster.masters]:
        node.ask("CLUSTER SETSLOT", SLOT, "NODE", target.id)


async def test_on_a_cluster_the_log_follows_its_slot(tmp_path: Path, cluster: Cluster) -> None:
    other, _, owner = cluster.masters
    async with plane_on(tmp_path, cluster, url=f"redis+cluster://127.0.0.1:{other.port}") as running:
        ids = await goes_on(running, cluster.url, [])
        losses = running.relay.way.losses
        for source, target in ((owner, other), (other, owner)):
            await asyncio.to_thread(move_slot, source, target, cluster)
            ids = await goes_on(running, cluster.url, ids)
        assert running.relay.way.losses == losses, "nothing is lost where keys are moved"


# Behind Sentinels

USERS = (
    *("--user", "app", "on", f">{SECRET}", "~*", "&*", "+@all"),
    *("--user", "copier", "on", ">copier-secret", "+psync", "+replconf", "+ping"),
    *("--masteruser", "copier", "--masterauth", "copier-secret"),
)
SENTINEL_SECRET = "for-sentinels"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched_running(tmp_path_factory.mktemp("watched"), options=USERS, password=SENTINEL_SECRET) as running:
        yield running


def url_of(watched: Watched) -> str:
    return f"redis+sentinel://app:{QUOTED}@{watched.hosts}/{SERVICE}?sentinel_password={SENTINEL_SECRET}"


def users(server: RedisServer) -> set[str]:
    with server.client() as client:
        return {told["user"] for told in client.client_list(_type="normal")}


async def test_behind_sentinels_the_log_follows_the_master(tmp_path: Path, watched: Watched) -> None:
    url = url_of(watched)
    async with plane_on(tmp_path, watched, url=url) as running:
        ids = await goes_on(running, url, [])
        async with another_writer(RedisUrl.parse(url)) as (writer, has_moved):
            assert not await has_moved()
            master = await asyncio.to_thread(watched.fail_over)
            assert await has_moved()
            await until(partial(is_refused, writer), "a master that was demoted takes nothing")
        await goes_on(running, url, ids)
        assert "app" in users(master)


@asynccontextmanager
async def another_writer(url: RedisUrl) -> AsyncIterator[tuple[RedisLogWriter, Callable[[], Awaitable[bool]]]]:
    async with url.open(KEYS.checkpoints) as client:
        yield RedisLogWriter(client, url, KEYS), partial(url.has_moved, client, KEYS.checkpoints)


async def is_refused(writer: RedisLogWriter) -> bool:
    try:
        await writer.append([], b"signed", await writer.look())
    except TransportError:
        return True
    return False


@pytest.mark.parametrize(
    ("change", "error"),
    {
        "the Sentinels' password": (lambda url: url.replace(SENTINEL_SECRET, "wrong"), RefusedError),
        "the servers' password": (lambda url: url.replace(QUOTED, "wrong"), RefusedError),
        "the service": (lambda url: url.replace(f"/{SERVICE}", "/another"), UnreachableError),
    }.values(),
    ids=["the Sentinels' password", "the servers' password", "the service"],
)
async def test_what_is_wrong_is_said(
    watched: Watched, change: Callable[[str], str], error: type[TransportError]
) -> None:
    with pytest.raises(error) as refusal:
        await anext(RedisLog(change(url_of(watched)), KEYS).follow(0))
    assert SECRET not in str(refusal.value)


# What is no master's fault


async def test_who_follows_can_be_stopped_at_any_moment(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        log = RedisLog(server.url, KEYS)
        for ticks in range(150):
            task = asyncio.ensure_future(anext(log.follow(0)))
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=0.5)
            assert done == {task}, f"it goes on, though it was cancelled after {ticks} ticks"


async def test_over_tls_a_cluster_is_reached_with_user_and_password(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis", "--user", "app", "on", f">{SECRET}", "~*", "&*", "+@all") as server:
        async with tls_before(server, tmp_path) as (port, authority):
            url = f"rediss+cluster://app:{QUOTED}@localhost:{port}?ssl_ca_certs={authority}"
            async with RedisUrl.parse(url).open(KEYS.checkpoints) as client:
                assert await client.acl_whoami() == "app"
            with pytest.raises(UnreachableError):
                await anext(RedisLog(url.replace(str(authority), str(tmp_path)), KEYS).follow(0))


@asynccontextmanager
async def tls_before(server: RedisServer, path: Path) -> AsyncIterator[tuple[int, Path]]:
    """Serve `server` over TLS, whatever it was built with; give the port, and the certificate of its authority."""
    shown = CertificateAuthority(path, "authority").issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.certificate, shown.key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(_pass_on(reader, behind[1]), _pass_on(behind[0], writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as listener:
        yield listener.sockets[0].getsockname()[1], shown.authority


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.close()


# The documented faces


GOOD_SID = next(sid for sid in map(str, itertools.count()) if key_slot(f"{DEFAULT_KEY_PREFIX}{sid}".encode()) > SLOT)
"""On a cluster, on the node that has the log."""


class Documented:
    """A store and a consumer on one client of redis-py's."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.store = RedisRevocationStore(client)
        self.consumer = RedisRevocationConsumer(client, self.store, "replica-1")

    def goes_on(self, *known: str) -> str:
        """What is marked, and what a message says, is revoked; nothing else is. Return what was marked."""
        marked, told = (f"ses_{os.urandom(8).hex()}" for _ in range(2))
        wait_until(lambda: self.marks(marked), "the store takes a revocation")
        self.client.xadd(REVOCATION_STREAM, {"session_id": told})
        applied = self.consumer.applied
        wait_until(lambda: self.consumer.poll_once() >= 0 and self.consumer.applied > applied, "it is applied")
        assert all(self.store.is_revoked(sid) for sid in (marked, told, *known))
        assert self.store.are_revoked([marked, GOOD_SID, told]) == [True, False, True]
        return marked

    def marks(self, sid: str) -> bool:
        """Whether the store takes it. On a cluster, the first calls find out where the keys are now, and fail."""
        with suppress(StoreError):
            self.store.mark_revoked(sid)
            return True
        return False

    def fails_closed(self) -> None:
        """Without a master it says so, soon, and raises nothing that a loop would end by."""
        failures, began_s = (self.store.failures, self.consumer.failures), time.monotonic()
        assert self.store.is_revoked(GOOD_SID)
        assert self.consumer.poll_once() == 0
        assert time.monotonic() - began_s < 10
        assert self.store.failures > failures[0]
        assert self.consumer.failures > failures[1]


def test_behind_sentinels_store_and_consumer_live_through_a_failover(watched: Watched) -> None:
    options = {"username": "app", "password": SECRET}
    manager = watched.manager(sentinel_kwargs={"password": SENTINEL_SECRET}, **options)
    documented = Documented(manager.master_for(SERVICE))
    marked = documented.goes_on()
    master = watched.named
    assert master is not None
    wait_for_copies(master, *({watched.master, *watched.replicas} - {master}))
    master.kill()
    documented.fails_closed()
    watched.wait_for_another(master)
    documented.goes_on(marked)


async def test_on_a_cluster_log_store_and_consumer_live_through_the_death_of_a_node(
    tmp_path: Path, cluster: Cluster
) -> None:
    documented = Documented(cluster.client())
    async with plane_on(tmp_path, cluster) as running:
        ids = await goes_on(running, cluster.url, [])
        marked = await asyncio.to_thread(documented.goes_on)
        await asyncio.to_thread(wait_for_copies, cluster.owner, *cluster.replicas)
        cluster.owner.kill()
        await asyncio.to_thread(documented.fails_closed)
        await asyncio.to_thread(cluster.wait_for_takeover)
        await goes_on(running, cluster.url, ids)
        await asyncio.to_thread(documented.goes_on, marked)
    documented.client.close()


# Time: a Sentinel that was stopped takes no part in anything for half a minute, so this comes last


async def test_who_is_frozen_costs_a_bounded_time(tmp_path: Path, watched: Watched) -> None:
    url = RedisUrl.parse(url_of(watched))
    with ExitStack() as frozen:
        frozen.enter_context(watched.sentinels[0].frozen())
        assert await seconds_to_open(url) < FIND_S, "two of three agree"
        frozen.enter_context(watched.sentinels[1].frozen())
        assert FIND_S <= await seconds_to_open(url) < FIND_S + 1
        frozen.enter_context(watched.sentinels[2].frozen())
        assert await seconds_to_open(url, fails=True) < FIND_S + 1
    with RedisServer(tmp_path) as server, server.frozen():
        assert await seconds_to_open(RedisUrl.parse(server.url), fails=True) < CONNECT_S + 1


async def seconds_to_open(url: RedisUrl, *, fails: bool = False) -> float:
    began_s = time.monotonic()
    with pytest.raises(UnreachableError) if fails else nullcontext():
        async with url.open(KEYS.checkpoints):
            pass
    return time.monotonic() - began_s
