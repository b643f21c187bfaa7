"""Redis clients as callers bring them: what a client must be able to do, and a copy of it that does not wait for long.

No Redis library is imported: a client is whatever has the methods. redis-py's are known by their parts, which are the
same from 6.4 to 8.1: a pool of connections and the options that it gives to each; or, for a cluster, its nodes.
"""

import copy
import inspect
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol, runtime_checkable

MAX_WAIT_S: Final = 4.0
"""For one answer, if the client itself would not give up sooner. Below the 5 s for which a guard waits for a store."""

_ALL_THROUGH: Final = "execute_command"
_ASKED: Final = (_ALL_THROUGH, "get", "set", "xreadgroup", "xack")
_NOT_COPIED: Final = frozenset({
    *("retry", "retry_on_error", "retry_on_timeout"),
    *("orig_host_address", "orig_socket_timeout", "orig_socket_connect_timeout"),
})  # fmt: skip
"""Options that a pool's connections retry by, and time-outs that the pool itself has put among them."""

_log = logging.getLogger(__name__)


@runtime_checkable
class RedisClient(Protocol):
    """A client that waits for its answers. redis-py's are such, and any other with these two methods."""

    def get(self, key: str, /) -> Any:
        """Return the value, bytes or str; None if there is none."""
        ...

    def set(self, key: str, value: str, /, *, px: int) -> Any:
        """Let `value` stand under `key` for `px` milliseconds, whatever stood there."""
        ...


@runtime_checkable
class ScriptingRedisClient(RedisClient, Protocol):
    """A client that can also have a script run in one step at the server."""

    def evalsha(self, sha: str, numkeys: int, /, *keys_and_args: Any) -> Any:
        """Run the script that the server knows by its SHA-1."""
        ...

    def eval(self, script: str, numkeys: int, /, *keys_and_args: Any) -> Any:
        """Run the script, and have the server know it from then on."""
        ...


def check_client(client: object) -> None:
    """Refuse a client for asyncio: its answers are coroutines, and a coroutine is true. Raises: TypeError.

    Not every method of redis-py's is marked as one; the one through which all go is.
    """
    if isinstance(client, type):
        raise TypeError("a Redis client is an object, not its class")
    if any(inspect.iscoroutinefunction(getattr(client, name, None)) for name in _ASKED):
        raise TypeError("this Redis client is one for asyncio: the documented contract waits for its answers")


def belong_together(client: object, *names: str) -> bool:
    """Whether the client has these methods, and all from one place.

    A class of the caller's own may change some, so that each key gets a prefix perhaps: the others use other keys then.
    """
    if hasattr(client, _ALL_THROUGH):
        names = (*names, _ALL_THROUGH)
    homes = {_home(client, name) for name in names}
    return len(homes) == 1 and all(callable(getattr(client, name, None)) for name in names)


def says(error: BaseException, *codes: str) -> bool:
    """Whether a server's error has one of `codes`. Clients leave the code in the text, or make a class of it."""
    told = {str(error).partition(" ")[0], type(error).__name__, getattr(error, "status_code", None)}
    return not told.isdisjoint(codes)


def is_cluster(client: object) -> bool:
    """Whether this is redis-py's client for a cluster, where keys lie on different nodes."""
    return isinstance(getattr(getattr(client, "nodes_manager", None), "connection_kwargs", None), dict)


def without_retries(client: Any) -> Any:
    """Return a client like this one that tries once, and waits at most MAX_WAIT_S for each answer.

    The given one stays as it is. The copy has connections of its own, made when they are needed, and no client-side
    cache. Only the copy of a cluster's client shares the given one's connections, and so their time-outs: redis-py has
    one by default since version 8. A frozen Sentinel costs a wait of its own, as does a frozen node that a cluster is
    then asked for its slots. What is no client of redis-py's, and what cannot be copied, is returned itself.

    A streaming credential provider tells one pool of a new token, and that is the given client's: a connection of the
    copy keeps the old one until the server closes it, and the next is made with the new one.
    """
    its_own = getattr(client, "__dict__", {})  # and not what a wrapper passes on, which would not be the copy's
    try:
        if "nodes_manager" in its_own and is_cluster(client):
            return _copy_of_cluster(client)
        if isinstance(getattr(its_own.get("connection_pool"), "connection_kwargs", None), dict):
            return _copy_with_pool(client, _copy_of_pool(client.connection_pool))
    except Exception as error:  # noqa: BLE001  # a class of the caller's own may want whatever it wants
        _log.warning("the Redis client cannot be copied, and keeps its retries (%s)", type(error).__name__)
    return client


def max_connections(client: object) -> int:
    """Return how many commands the client can wait for at once; as many as you like, where it does not say."""
    limit = getattr(getattr(client, "connection_pool", None), "max_connections", None)
    return limit if isinstance(limit, int) and limit > 0 else sys.maxsize


def batch_getter(client: object) -> Callable[[Sequence[str]], Sequence[object]]:
    """Return what gets many keys: what stands under each, in the same order; an exception where that is not known.

    It takes one round trip, or one for each node of a cluster, or for each key where the client has only `get`. By GET,
    and not by MGET, which says of a key of another type that there is none. It raises what the client raises.
    """
    get = _get_each
    if is_cluster(client):
        if belong_together(client, "get", "get_node_from_key", "get_redis_connection"):
            get = _get_by_node
    elif belong_together(client, "get", "pipeline", _ALL_THROUGH):
        get = _get_at_once
    return partial(get, client)


def _home(client: object, name: str) -> str | None:
    """The package of the class that defines a method; None if it is looked up in another way."""
    if name in getattr(client, "__dict__", ()):
        return name  # this object's own, and no other's
    owners = (owner.__module__ for owner in type(client).__mro__ if name in vars(owner))
    return next((owner.partition(".")[0] for owner in owners), None)


def _copy_with_pool(client: Any, pool: Any) -> Any:
    copied = copy.copy(client)  # a class of the caller's own may hold more than its pool, such as a prefix of all keys
    copied.connection_pool = pool
    copied.connection = None
    copied._single_connection_client = False  # noqa: SLF001  # there is no other way: it shares one connection
    return copied


def _copy_of_pool(pool: Any) -> Any:
    if type(pool).__init__.__module__.partition(".")[0] != "redis":
        raise TypeError("a pool of an unknown kind")
    options = {name: value for name, value in pool.connection_kwargs.items() if name not in _NOT_COPIED}
    for name in ("socket_timeout", "socket_connect_timeout"):
        options[name] = _bounded(options.get(name))
    options |= {"connection_class": pool.connection_class, "max_connections": pool.max_connections}
    if hasattr(pool, "queue_class"):  # it waits for a connection that is free
        options |= {"queue_class": pool.queue_class, "timeout": _bounded(pool.timeout)}
    if hasattr(pool, "sentinel_manager"):
        options |= {name: getattr(pool, name) for name in ("service_name", "is_master", "check_connection")}
        options["sentinel_manager"] = _copy_of_sentinel(pool.sentinel_manager)
    return type(pool)(**options)


def _copy_of_sentinel(manager: Any) -> Any:
    copied = copy.copy(manager)
    copied.sentinels = [without_retries(client) for client in manager.sentinels]
    return copied


def _copy_of_cluster(client: Any) -> Any:
    retry = copy.deepcopy(client.retry)
    retry.update_retries(0)
    copied = copy.copy(client)  # to make another would ask the cluster for its slots, here and now
    copied.retry = retry
    copied.close = lambda: None  # called when it goes; but the connections are not its own
    return copied


def _bounded(timeout_s: float | None) -> float:
    return MAX_WAIT_S if timeout_s is None else min(timeout_s, MAX_WAIT_S)


def _get_each(client: Any, keys: Sequence[str]) -> Sequence[object]:
    """Ask for one after the other, and no more after a failure: the next could cost another wait."""
    values: list[object] = []
    for key in keys:
        try:
            values.append(client.get(key))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is no answer
            return values + [error] * (len(keys) - len(values))
    return values


def _get_at_once(client: Any, keys: Sequence[str]) -> Sequence[object]:
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.get(key)
    answers: Sequence[object] = pipeline.execute(raise_on_error=False)
    return answers


def _get_by_node(client: Any, keys: Sequence[str]) -> Sequence[object]:
    """Ask each node for what it has. redis-py's own pipeline would ask a dead node again, once for each key."""
    values: dict[str, object] = {}
    try:
        homes = {key: client.get_node_from_key(key) for key in keys}
        for name, node in {node.name: node for node in homes.values()}.items():
            there = [key for key in homes if homes[key].name == name]
            values |= zip(there, _get_at_once(client.get_redis_connection(node), there), strict=True)
    except Exception:
        with suppress(Exception):
            client.nodes_manager.initialize()  # the next question finds the node that has taken over
        raise
    moved = [key for key, value in values.items() if isinstance(value, Exception)]  # the client itself can follow
    values |= zip(moved, _get_each(client, moved), strict=True)
    return [values[key] for key in keys]
