"""Real clusters, and real masters behind real Sentinels, on free ports of loopback."""

import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import redis
import redis.sentinel

from tests.redis_server import START_S, RedisServer, find_server

SERVICE: Final = "main"
SLOT: Final = 13_713
"""Of every key of the log."""
NODE_TIMEOUT_MS: Final = 1_000
DOWN_AFTER_MS: Final = 500
_IN_STEP_SOON: Final = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
_SLOTS: Final = 16_384
_BUS: Final = 10_000
_DEADLINE_S: Final = 30.0

_Server = TypeVar("_Server", bound=RedisServer)


def wait_until(holds: Callable[[], object], what: str, deadline_s: float = _DEADLINE_S) -> None:
    """Wait until `holds()`, for which a server that does not answer is a no; fail, naming `what`."""
    end_s = time.monotonic() + deadline_s
    while not _holds(holds):
        assert time.monotonic() < end_s, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.02)


def _holds(holds: Callable[[], object]) -> bool:
    with suppress(redis.RedisError):
        return bool(holds())
    return False


# A cluster


class ClusterNode(RedisServer):
    """A node of a cluster. Its bus is on a port of its own, 10,000 above."""

    def __init__(self, path: Path, *options: str) -> None:
        own = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS))
        super().__init__(path, *own, *_IN_STEP_SOON, *options)
        self.port = free_port_with_bus()

    @property
    def id(self) -> str:
        return str(self.ask("CLUSTER MYID").decode())

    def is_well(self, count: int) -> bool:
        """Whether it is one of `count`, who have all slots together."""
        told = self.ask("CLUSTER INFO")
        return bool(told["cluster_state"] == "ok" and told["cluster_known_nodes"] == str(count))

    def ask(self, *command: object) -> Any:
        """Return what this node itself answers."""
        with self.client(socket_timeout=2) as client:
            return client.execute_command(*command)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Masters that share the slots, the last of them with SLOT; and replicas of that one."""

    masters: list[ClusterNode]
    replicas: list[ClusterNode]

    @property
    def nodes(self) -> list[ClusterNode]:
        return [*self.masters, *self.replicas]

    @property
    def hosts(self) -> str:
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    @property
    def url(self) -> str:
        return f"redis+cluster://{self.hosts}"

    @property
    def owner(self) -> ClusterNode:
        """Who had SLOT at the start."""
        return self.masters[-1]

    def client(self, **options: Any) -> "redis.RedisCluster":
        """Return redis-py's own client, with its defaults but for `options`."""
        return redis.RedisCluster("127.0.0.1", self.masters[0].port, **options)

    def wait_for_takeover(self) -> ClusterNode:
        """Wait until a replica has become the master of SLOT; return it."""
        wait_until(lambda: any(is_master(node) for node in self.replicas), "a replica has taken over")
        return next(node for node in self.replicas if is_master(node))


@contextmanager
def cluster_running(
    path: Path, *, masters: int = 3, replicas: int = 0, options: tuple[str, ...] = ()
) -> Iterator[Cluster]:
    """Run a cluster whose nodes know each other, and have all slots."""
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(ClusterNode(path / f"node-{number}", *options)) for number in range(masters + replicas)
        ]
        cluster = Cluster(nodes[:masters], nodes[masters:])
        _join(cluster)
        yield cluster


def _join(cluster: Cluster) -> None:
    bounds = [_SLOTS * number // len(cluster.masters) for number in range(len(cluster.masters) + 1)]
    for number, node in enumerate(cluster.masters):
        node.ask("CLUSTER ADDSLOTS", *range(bounds[number], bounds[number + 1]))
    for epoch, node in enumerate(cluster.nodes, start=1):
        node.ask("CLUSTER SET-CONFIG-EPOCH", epoch)
        for other in cluster.nodes[:epoch]:
            node.ask("CLUSTER MEET", "127.0.0.1", other.port)
    _wait_for_each(cluster.nodes, lambda node: node.is_well(len(cluster.nodes)), "every node knows every other")
    for node in cluster.replicas:
        node.ask("CLUSTER REPLICATE", cluster.owner.id)
    _wait_for_each(cluster.replicas, is_replicating, "the replica is in step")
    _wait_for_each(cluster.nodes, lambda node: node.is_well(len(cluster.nodes)), "the cluster is well")


def _wait_for_each(servers: Sequence[_Server], holds: Callable[[_Server], object], what: str) -> None:
    for server in servers:
        wait_until(partial(holds, server), what)


def is_master(server: RedisServer) -> bool:
    """Whether it takes itself for a master; False where it does not answer."""
    with server.client(socket_timeout=2) as client:
        return _holds(lambda: client.info("replication")["role"] == "master")


def is_replicating(server: RedisServer) -> bool:
    """Whether it follows its master."""
    with server.client(socket_timeout=2) as client:
        return bool(client.info("replication").get("master_link_status") == "up")


def wait_for_copies(server: RedisServer, *copies: RedisServer) -> None:
    """Wait until `copies` have all that `server` has now; what nobody has copied may be lost with it."""
    wanted = _offset(server)
    _wait_for_each(copies, lambda copy: is_replicating(copy) and _offset(copy) >= wanted, "the replica has everything")


def _offset(server: RedisServer) -> int:
    with server.client(socket_timeout=2) as client:
        return int(client.info("replication")["master_repl_offset"])


# Behind Sentinels


class Sentinel(RedisServer):
    """A Sentinel, with a configuration that it writes to itself. Its users have `password`, if there is one."""

    def __init__(self, path: Path, *lines: str, password: str | None = None) -> None:
        super().__init__(path)
        self._lines = lines
        self._password = password

    def client(self, **options: Any) -> Any:
        return super().client(password=self._password, **options)

    def start(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / "sentinel.conf"
        if not file.exists():
            own = () if self._password is None else (f"requirepass {self._password}",)
            file.write_text("\n".join([f"port {self.port}", "bind 127.0.0.1", f"dir {self.path}", *own, *self._lines]))
        with (self.path / "redis.log").open("ab") as log:
            command: list[str | Path] = [find_server(), file, "--sentinel"]
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        with self.client() as client:
            wait_until(client.ping, f"the Sentinel answers, see {self.path}/redis.log", START_S)

    def knows(self, replicas: int, sentinels: int) -> bool:
        """Whether it knows so many others."""
        with self.client(socket_timeout=2) as client:
            state = dict(client.sentinel_masters())[SERVICE]
        return bool(state["num-slaves"] == replicas and state["num-other-sentinels"] == sentinels)

    def master_port(self) -> int:
        """Return where this Sentinel says that the master is."""
        with self.client(decode_responses=True, socket_timeout=2) as client:
            return int(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])


@dataclass(frozen=True, slots=True)
class Watched:
    """A master and its replicas, and the Sentinels that watch them."""

    master: RedisServer
    replicas: list[RedisServer]
    sentinels: list[Sentinel]

    @property
    def hosts(self) -> str:
        return ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)

    @property
    def url(self) -> str:
        return f"redis+sentinel://{self.hosts}/{SERVICE}"

    def manager(self, **options: Any) -> Any:
        """Return redis-py's own client of Sentinels, with its defaults but for `options`."""
        return redis.sentinel.Sentinel([("127.0.0.1", sentinel.port) for sentinel in self.sentinels], **options)  # type: ignore[no-untyped-call]

    @property
    def named(self) -> RedisServer | None:
        """The master that all Sentinels name; None while they do not agree."""
        ports = {sentinel.master_port() for sentinel in self.sentinels}
        servers = {server.port: server for server in (self.master, *self.replicas)}
        return servers.get(ports.pop()) if len(ports) == 1 else None

    def wait_for_another(self, before: RedisServer) -> RedisServer:
        """Wait until all Sentinels name another master than `before`; return it."""
        wait_until(lambda: self.named not in {before, None}, "all Sentinels name another master")
        assert self.named is not None
        return self.named

    def fail_over(self) -> RedisServer:
        """Have the Sentinels replace a master that is well; return the new one."""
        before = self.named
        assert before is not None
        with self.sentinels[0].client() as client:
            client.execute_command("SENTINEL", "FAILOVER", SERVICE)
        return self.wait_for_another(before)


@contextmanager
def watched_running(
    path: Path,
    *,
    replicas: int = 1,
    sentinels: int = 3,
    options: tuple[str, ...] = (),
    lines: tuple[str, ...] = (),
    password: str | None = None,
) -> Iterator[Watched]:
    """Run servers with `options`, and Sentinels with `lines` who know them and each other. `password` is theirs."""
    with ExitStack() as stack:
        options = (*_IN_STEP_SOON, *options)
        master = stack.enter_context(RedisServer(path / "master", *options))
        of = ("--replicaof", "127.0.0.1", str(master.port))
        copies = [
            stack.enter_context(RedisServer(path / f"replica-{number}", *options, *of)) for number in range(replicas)
        ]
        _wait_for_each(copies, is_replicating, "the replica is in step")
        watching = (*_monitoring(master.port, sentinels), *lines)
        watchers = [
            stack.enter_context(Sentinel(path / f"sentinel-{number}", *watching, password=password))
            for number in range(sentinels)
        ]
        _wait_for_each(watchers, lambda one: one.knows(replicas, sentinels - 1), "the Sentinels know everybody")
        yield Watched(master, copies, watchers)


def _monitoring(port: int, sentinels: int) -> list[str]:
    return [
        f"sentinel monitor {SERVICE} 127.0.0.1 {port} {sentinels // 2 + 1}",
        f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
        f"sentinel failover-timeout {SERVICE} 3000",
    ]


def free_port_with_bus() -> int:
    chance = random.SystemRandom()
    while True:
        port = chance.randrange(20_000, 32_000)  # below those that the system gives to others
        with (
            suppress(OSError),
            socket.create_server(("127.0.0.1", port)),
            socket.create_server(("127.0.0.1", port + _BUS)),
        ):
            return port
