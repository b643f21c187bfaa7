"""Redis clients for tests of the store: as small as a client may be, and failing when they are told to."""

from types import SimpleNamespace
from typing import Any

import redis

KEY = "caracal:revoked:sessions:ses-1"
SECRET = "hunter2"
DEAD = redis.ConnectionError(f"no answer from redis://default:{SECRET}@cache:6379/0 about {KEY}")


class HeldClock:
    """A clock in seconds that moves when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Minimal:
    """A client of somebody else's with only what is documented. It notes what it was asked."""

    def __init__(self, **values: Any) -> None:
        self.values = values
        self.asked: list[tuple[Any, ...]] = []

    def get(self, key: str) -> Any:
        self.asked.append(("get", key))
        return self._answer(self.values.get(key.rpartition(":")[2]))

    def set(self, key: str, value: str, px: int | None = None) -> Any:
        self.asked.append(("set", key, value, px))
        return self._answer(self.values.get("set", True))

    def _answer(self, answer: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer


class Pipelining(Minimal):
    """A client that sends many commands at once, as redis-py's do; `execute` is what then comes back."""

    def execute_command(self, *_: Any) -> Any:
        raise NotImplementedError

    def pipeline(self, transaction: bool) -> "Pipeline":
        assert not transaction
        return Pipeline(self)


class Pipeline:
    def __init__(self, client: Pipelining) -> None:
        self.client = client
        self.queued: list[str] = []

    def get(self, key: str) -> None:
        self.queued.append(key)

    def execute(self, raise_on_error: bool) -> Any:
        assert not raise_on_error
        self.client.asked.append(("at once", *self.queued))
        values = [self.client.values.get(key.rpartition(":")[2]) for key in self.queued]
        return self.client._answer(self.client.values.get("execute", values))


class Scripting(Minimal):
    def evalsha(self, sha: str, numkeys: int, *rest: Any) -> Any:
        self.asked.append(("evalsha", sha, numkeys, *rest))
        return self._answer(self.values.get("evalsha", 1))

    def eval(self, script: str, numkeys: int, *rest: Any) -> Any:
        self.asked.append(("eval", script, numkeys, *rest))
        return self._answer(self.values.get("eval", 1))


class Prefixed(redis.Redis):
    """Somebody's own client: its keys are not those that it is asked for."""

    prefix = ""

    def get(self, name: Any) -> Any:
        return super().get(f"{self.prefix}{name}")

    def set(self, name: Any, value: Any, *args: Any, **options: Any) -> Any:
        return super().set(f"{self.prefix}{name}", value, *args, **options)


class Forwarding:
    """A wrapper that passes everything on, both ways."""

    def __init__(self, inner: Any) -> None:
        self.__dict__["inner"] = inner

    def __getattr__(self, name: str) -> Any:
        if "inner" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["inner"], name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.__dict__["inner"], name, value)


class Node:
    def __init__(self, name: str, cluster: "Cluster") -> None:
        self.name = name
        self.cluster = cluster
        self.queued: list[str] = []

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self.name == other.name

    __hash__ = None  # type: ignore[assignment]  # as in redis-py 6.4

    def pipeline(self, transaction: bool) -> "Node":
        assert not transaction
        return Node(self.name, self.cluster)

    def get(self, key: str) -> None:
        self.queued.append(key)

    def execute(self, raise_on_error: bool) -> list[Any]:
        assert not raise_on_error
        self.cluster.asked.append((self.name, *self.queued))
        if self.name in self.cluster.dead:
            raise DEAD
        return [self.cluster.found(self.name, key) for key in self.queued]


class Cluster:
    """A cluster of two nodes: keys with an upper-case letter are on one, the others on the other; a few have moved."""

    def __init__(self, **values: Any) -> None:
        self.values = values
        self.moved: set[str] = set()
        self.dead: set[str] = set()
        self.asked: list[tuple[str, ...]] = []
        self.looked_up = 0
        self.nodes_manager = SimpleNamespace(connection_kwargs={}, initialize=self._initialize)

    def _initialize(self) -> None:
        self.looked_up += 1
        raise redis.ConnectionError

    def found(self, node: str, key: str) -> Any:
        return redis.exceptions.MovedError(f"1 127.0.0.1:{len(node)}") if key in self.moved else self.values.get(key)

    def get_node_from_key(self, key: str) -> Node:
        if not key:
            raise redis.exceptions.SlotNotCoveredError
        return Node("upper" if key.isupper() else "lower", self)

    def get_redis_connection(self, node: Node) -> Node:
        return node

    def get(self, key: str) -> Any:
        self.asked.append(("cluster", key))
        value = self.values.get(key)
        if isinstance(value, Exception):
            raise value
        return value

    def set(self, key: str, value: str, px: int | None = None) -> Any:
        raise NotImplementedError


def names(client: Minimal) -> list[str]:
    return [asked[0] for asked in client.asked]


async def coroutine() -> str:
    return "1"
