"""nginx and Caddy with what `deploy/` ships, started by a test on free ports and stopped by their process ids."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TypeAlias

from tests.redis_server import free_port, not_run

DEPLOY: Final = Path(__file__).parent.parent / "deploy"
START_S: Final = 10.0

Kind: TypeAlias = Literal["nginx", "caddy"]
KINDS: Final[tuple[Kind, ...]] = ("nginx", "caddy")


@contextmanager
def proxy_running(kind: Kind, path: Path, *, auth: int, service: int) -> Iterator[int]:
    """Run a proxy between clients and two ports of loopback, with its files in `path`; give the port it listens on."""
    changes = {"127.0.0.1:8421": f"127.0.0.1:{auth}", "127.0.0.1:9000": f"127.0.0.1:{service}"}
    with _running(kind, "nginx.conf" if kind == "nginx" else "Caddyfile", path, changes) as port:
        yield port


@contextmanager
def nginx_before_gateway(path: Path, gateway: int) -> Iterator[int]:
    """Run nginx before a gateway on a port of loopback, with its files in `path`; give the port it listens on."""
    with _running("nginx", "nginx-gateway.conf", path, {"127.0.0.1:8422": f"127.0.0.1:{gateway}"}) as port:
        yield port


@contextmanager
def _running(kind: Kind, name: str, path: Path, changes: dict[str, str]) -> Iterator[int]:
    port = free_port()
    command = (_nginx if kind == "nginx" else _caddy)(path, name, {"8080": str(port)} | changes)
    log = path / f"{kind}.log"
    environ = os.environ | {"HOME": str(path), "XDG_DATA_HOME": str(path), "XDG_CONFIG_HOME": str(path)}
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environ) as process:
        try:
            _wait_until_open(port, process, log)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _nginx(path: Path, name: str, changes: dict[str, str]) -> list[str]:
    """Return how to start it; what it wants to write goes to `path`, where nobody has to be root."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"    {kind}_temp_path {path};\n" for kind in kinds) + "    access_log off;\n"
    config = _rendered(path, name, changes | {"http {\n": f"http {{\n{places}"})
    alone = f"daemon off; master_process off; pid {path}/nginx.pid; error_log stderr;"
    return [_found("nginx"), "-p", str(path), "-e", "stderr", "-c", str(config), "-g", alone]


def _caddy(path: Path, name: str, changes: dict[str, str]) -> list[str]:
    config = _rendered(path, name, changes)
    config.write_text("{\n\tadmin off\n}\n" + config.read_text())  # its port may be another's
    return [_found("caddy"), "run", "--config", str(config), "--adapter", "caddyfile"]


def _rendered(path: Path, name: str, changes: dict[str, str]) -> Path:
    text = (DEPLOY / name).read_text()
    for given, used in changes.items():
        assert given in text, f"deploy/{name} has no {given!r}"
        text = text.replace(given, used)
    config = path / name
    config.write_text(text)
    return config


def _found(program: str) -> str:
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    return found or not_run(f"NOTHING WAS TESTED BEHIND {program.upper()}: it is not installed; Debian's will do")


def _wait_until_open(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, f"the proxy has ended: {log.read_text()}"
            assert time.monotonic() < deadline_s, f"the proxy does not listen: {log.read_text()}"
            time.sleep(0.01)
        else:
            return
