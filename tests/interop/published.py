"""The published store, consumer and signature over redis-py, asked line by line, in an environment of their own.

python published.py <port of a Redis on this machine>

A line is `[command, arguments, options]`; its answer `{"answer": ...}`, or `{"error": <name of the class>}`.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # after its own, and for one module that needs nothing

redis: Any = import_module("redis")
faces: Any = import_module("faces")
connector: Any = import_module("caracalai_revocation_redis")
signing: Any = import_module("caracalai_revocation_redis.revocation")

if not Path(connector.__file__).is_relative_to(sys.prefix):
    raise ImportError("caracalai_revocation_redis is not the published one")

client = redis.Redis(port=int(sys.argv[1]))
consumers: dict[str, Any] = {}


class KilledAt:
    """A store whose process is killed when it is to mark `sid`; everything before goes to the published one."""

    def __init__(self, sid: str) -> None:
        self._sid = sid
        self._store = connector.RedisRevocationStore(client)

    def mark_revoked(self, sid: str) -> None:
        """Mark, or die."""
        if sid == self._sid:
            os.kill(os.getpid(), signal.SIGKILL)
        self._store.mark_revoked(sid)


def mark(sid: str, ttl_ms: int | None = None, **options: Any) -> None:
    """Mark in a store made with `options`."""
    connector.RedisRevocationStore(client, **options).mark_revoked(sid, ttl_ms)


def is_revoked(sid: str, **options: Any) -> bool:
    """Ask a store made with `options`."""
    return bool(connector.RedisRevocationStore(client, **options).is_revoked(sid))


def consume(
    name: str, key: str | None = None, killed_at: str | None = None, store: dict[str, Any] | None = None, **options: Any
) -> None:
    """Make consumer `name` with `options`, its store with those in `store`, and its group. `key` is hex."""
    marked = connector.RedisRevocationStore(client, **(store or {})) if killed_at is None else KilledAt(killed_at)
    options.setdefault("block_ms", 1)  # its own default, 0, waits for ever
    if key is not None:
        options["stream_hmac_key"] = bytes.fromhex(key)
    consumers[name] = connector.RedisRevocationConsumer(client, marked, name, **options)
    consumers[name].ensure_group()


def poll(name: str) -> int:
    """Poll once."""
    return int(consumers[name].poll_once())


def sign(key: str, stream: str, fields: dict[str, str]) -> str:
    """Return the signature that the published consumer expects of `fields`."""
    return str(signing._sign_stream(bytes.fromhex(key), stream, fields))  # it has no public name


def publish(messages: list[dict[str, str]], key: str | None = None) -> None:
    """Append `messages`, each signed where there is a key, as a producer of the documented format does."""
    stream = connector.REVOCATION_STREAM
    pipeline = client.pipeline(transaction=False)
    for fields in messages:
        signed = {} if key is None else {"_sig": sign(key, stream, fields)}
        pipeline.xadd(stream, {**fields, **signed})
    pipeline.execute()


def describe(module: str) -> dict[str, Any]:
    """See faces.describe."""
    return dict(faces.describe(module))


COMMANDS: dict[str, Callable[..., Any]] = {
    command.__name__: command for command in (mark, is_revoked, consume, poll, sign, publish, describe)
}


def answer(line: str) -> dict[str, Any]:
    """Run one command."""
    name, arguments, options = json.loads(line)
    try:
        return {"answer": COMMANDS[name](*arguments, **options)}
    except Exception as error:  # noqa: BLE001  # whatever it is, it is told to who asked
        return {"error": type(error).__name__}


def main() -> None:
    """Answer one command after the other."""
    for line in sys.stdin:
        print(json.dumps(answer(line)), flush=True)  # noqa: T201  # that is how it answers


main()
