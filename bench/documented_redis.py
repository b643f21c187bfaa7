"""The documented store and consumer on Redis, asked line by line, in an environment of their own: it has none of ours.

They are asked as documented, with redis-py's own defaults. python documented_redis.py <ignored>
"""

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

redis: Any = import_module("redis")
published: Any = import_module("caracalai_revocation_redis")

if not Path(published.__file__).is_relative_to(sys.prefix):
    raise ImportError("caracalai_revocation_redis is not the published one")

GROUP = "published"
opened: dict[str, Any] = {}
consumers: dict[str, Any] = {}
asked: list[list[str]] = []


def versions() -> dict[str, str]:
    """Return what of redis-py is installed."""
    names = {one.name: one.version for one in distributions()}
    return {name: names[name] for name in ("redis", "hiredis") if name in names}


def prepare(url: str, prefix: str, key: str) -> int:
    """Take the Redis to ask, and the hex key that signs messages."""
    client = redis.Redis.from_url(url)
    store = published.RedisRevocationStore(client, key_prefix=prefix)
    opened.update(store=store)
    for name, signed in (("signed", bytes.fromhex(key)), ("unsigned", None)):
        consumers[name] = published.RedisRevocationConsumer(client, store, name, group=GROUP, stream_hmac_key=signed)
    return len(consumers)


def prepare_check(ids: list[list[str]]) -> int:
    """Take the ids that `check` asks for, by token."""
    asked[:] = ids
    return len(asked)


def check() -> float:
    """Ask for every id of every token, none of which is revoked; return the seconds for one token."""
    is_revoked = opened["store"].is_revoked
    began_s = time.perf_counter()
    found = [is_revoked(sid) for ids in asked for sid in ids]
    taken_s = time.perf_counter() - began_s
    if any(found):
        raise RuntimeError("a token of the bench is revoked")
    return taken_s / len(asked)


def consume(name: str, messages: str) -> float:
    """Apply as many messages as are there; return the seconds for one."""
    consumer = consumers[name]
    consumer.ensure_group()
    dealt, count = 0, int(messages)
    began_s = time.perf_counter()
    while dealt < count:
        dealt += consumer.poll_once()
    return (time.perf_counter() - began_s) / count


COMMANDS: dict[str, Callable[..., object]] = {
    command.__name__: command for command in (versions, prepare, prepare_check, check, consume)
}


def main() -> None:
    """Answer one command after the other."""
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(COMMANDS[name](*arguments)), flush=True)


main()
