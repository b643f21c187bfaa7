"""What the rows on Redis have in common: a server of their own, and the published store and consumer on it."""

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from bench.peers import Peers, open_peers
from countermand.authority.heartbeat import INTERVAL_S
from countermand.log.codec import to_base64
from countermand.log.wire import CHECKPOINT_FIELD
from countermand.transport.redis import Keys
from tests.redis_server import RedisServer

PREFIX: Final = "caracal:revoked:sessions:"
THEIR_PREFIX: Final = "published:"
"""Theirs where both mark: whoever comes second would find its work done."""
HMAC_KEY: Final = bytes.fromhex("0123456789abcdef" * 4)

KEYS: Final = Keys.of()

_SCRIPT = Path(__file__).with_name("documented_redis.py")


@contextmanager
def redis_running() -> Iterator[RedisServer]:
    """Run a Redis that keeps nothing on the disk, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="countermand-bench-") as directory, RedisServer(Path(directory)) as server:
        yield server


@contextmanager
def published_on(server: RedisServer, prefix: str) -> Iterator[Peers]:
    """Give the published store, with keys under `prefix`, and its consumer; none on another redis-py than ours."""
    with open_peers(_SCRIPT) as peers:
        theirs, ours = peers.call("versions"), {name: version(name) for name in ("redis", "hiredis")}
        if theirs not in (None, ours):
            yield Peers(None, f"it would run on {theirs}, and ours runs on {ours}")
            return
        peers.call("prepare", server.url, prefix, HMAC_KEY.hex())
        yield peers


def put_checkpoint(client: Any, signed: bytes) -> None:
    """Put a checkpoint where replicas read it."""
    client.xadd(KEYS.checkpoints, {CHECKPOINT_FIELD: to_base64(signed)})


@contextmanager
def beating(client: Any, newest: Callable[[], bytes]) -> Iterator[None]:
    """Put the newest checkpoint every second, as an authority does, from a thread until the block ends."""
    stop = threading.Event()

    def beat() -> None:
        while True:
            put_checkpoint(client, newest())
            if stop.wait(INTERVAL_S):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
