"""Authorities that run, on real files and real sockets: in this event loop, or as a child process to be killed."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

from countermand.cli.client import AuthorityClient
from countermand.enforce.guard import Guard
from countermand.errors import CountermandError
from countermand.settings import DEFAULT_MANDATE_S, AuthoritySettings, ClientSettings, DataDir
from countermand.transport.http import fetch_keys
from countermand.wiring import connect
from countermand.wiring.authority import RunningAuthority, serve_authority
from tests.databases import DATABASES

DEADLINE_S: Final = 20.0
"""For what takes milliseconds, on a machine that does something else."""
PROOF: Final = "PROOF" in os.environ
"""Whether `make proof` runs: then tests that take a number of rounds take many."""
_POLL_S: Final = 0.01
_COMMAND: Final = Path(sys.executable).with_name("countermand")


async def until(holds: Callable[[], bool | Awaitable[bool]], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait until `holds()`; fail, naming `what`, when that takes too long."""
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                held = holds()
                if held if isinstance(held, bool) else await held:
                    return
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise AssertionError(f"not within {deadline_s:g} s: {what}") from None


@dataclass(frozen=True, slots=True)
class Running:
    """An authority in this event loop. `client` is an administrator."""

    url: str
    data: DataDir
    authority: RunningAuthority
    client: AuthorityClient

    @property
    def admin_key(self) -> str:
        return self.data.admin_key.read_text().strip()

    @property
    def replica_key(self) -> str:
        return self.data.replica_key.read_text().strip()

    def client_settings(self) -> ClientSettings:
        """What `countermand --data-dir` would read."""
        return ClientSettings.read(self.data.path, {})

    def guard(self, audience: str) -> Guard:
        """Return the guard of a resource server elsewhere, which follows the log over HTTP."""
        pin = self.data.pin.read_text()
        return connect(self.url, issuer=self.url, audience=audience, api_key=self.replica_key, pin=pin)


@asynccontextmanager
async def authority_running(
    path: Path,
    *,
    port: int = 0,
    issuer: str | None = None,
    mandate_s: int = DEFAULT_MANDATE_S,
    biscuit_keys: str | None = None,
    laid: bool = True,
) -> AsyncIterator[Running]:
    """Serve the authority in `path`/authority from this event loop. Port 0 is any free one.

    `laid` False: nothing is put there for it, and it makes a file by itself.
    """
    data = DataDir(path / "authority")
    if laid:
        await DATABASES.lay(data)
    url = DATABASES.url(data) if laid else None
    settings = AuthoritySettings(
        data, port=port, issuer=issuer, mandate_s=mandate_s, database_url=url, biscuit_keys=biscuit_keys
    )
    async with (
        serve_authority(settings) as (authority, url),
        AuthorityClient.open(ClientSettings.read(data.path, {})) as client,
    ):
        yield Running(url, data, authority, client)


class ServerProcess:
    """`countermand up` as a child process, on the data directory `path`/authority. The first port stays its port.

    `options` are those of `up`, `environ` is what it finds in its environment beside ours. `async with` starts it, and
    kills it at the end. What it prints is in `log`.
    """

    def __init__(self, path: Path, *options: str, environ: Mapping[str, str] = MappingProxyType({})) -> None:
        self.options = options
        self.environ = environ
        self.data = DataDir(path / "authority")
        self.log = path / "server.log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server was not started"
        return self._process

    def client_settings(self) -> ClientSettings:
        """What `countermand --data-dir` would read."""
        return ClientSettings.read(self.data.path, {})

    async def start(self) -> None:
        """Start, and wait until the keys can be fetched."""
        self.data.url.unlink(missing_ok=True)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("COUNTERMAND_")}
        await DATABASES.lay(self.data)
        database_url = DATABASES.url(self.data)
        if database_url is not None:
            environ["COUNTERMAND_DATABASE_URL"] = database_url
        environ |= self.environ
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it starts in a millisecond, and `wait` polls
                [_COMMAND, "up", "--data-dir", self.data.path, "--port", str(self.port), *self.options],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environ,
            )
        await until(self._has_url, f"the server says its URL, see {self.log}")
        self.port = int(self.data.url.read_text().rpartition(":")[2])
        await until(self.answers, f"the server answers, see {self.log}")

    async def answers(self) -> bool:
        """Whether it gives its keys."""
        try:
            await fetch_keys(self.url)
        except CountermandError:
            return False
        return True

    def kill(self) -> None:
        """Kill -9: it hears nothing of this."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def terminate(self) -> int:
        """Ask it to stop; return its exit code."""
        self.process.terminate()
        await until(lambda: self.process.poll() is not None, "the server stops when it is asked to")
        return self.process.returncode

    def stop(self) -> None:
        """SIGSTOP: every thread stands still, and every socket stays open."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def cont(self) -> None:
        """SIGCONT: it goes on."""
        self.process.send_signal(signal.SIGCONT)
        os.waitid(os.P_PID, self.process.pid, os.WCONTINUED)

    def _has_url(self) -> bool:
        code = self.process.poll()
        assert code is None, f"the server ended with {code}: {self.log.read_text()}"
        return self.data.url.exists()
