"""What the published packages do, in a process of their own: `published.py` in the environment that `make` installs."""

import json
import select
import subprocess
from pathlib import Path
from typing import Any, Final, Self

from bench.peers import PYTHON

SCRIPT: Final = Path(__file__).with_name("published.py")
ANSWER_S: Final = 20.0
KEY: Final = bytes.fromhex("0123456789abcdef" * 4)
OTHER_KEY: Final = bytes.fromhex("fedcba9876543210" * 4)


class PublishedError(Exception):
    """The published code raised what is named here; or its process ended, and that is `killed`."""


class Published:
    """The other process, over a Redis on `port`. A context manager that starts it, and ends it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        assert PYTHON.exists(), "the published packages are not installed: run `make test`"
        command = [str(PYTHON), "-I", str(SCRIPT), str(self._port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def mark(self, sid: str, ttl_ms: int | None = None, **options: Any) -> None:
        self._call("mark", sid, ttl_ms, **options)

    def is_revoked(self, sid: str, **options: Any) -> bool:
        return bool(self._call("is_revoked", sid, **options))

    def consume(self, name: str, key: bytes | None = None, **options: Any) -> None:
        """Make consumer `name`; see `published.consume`."""
        self._call("consume", name, key.hex() if key else None, **options)

    def poll(self, name: str) -> int:
        return int(self._call("poll", name))

    def poll_all(self, name: str) -> int:
        """Poll until a poll has nothing; return how many messages there were."""
        handled = 0
        while count := self.poll(name):
            handled += count
        return handled

    def sign(self, key: bytes, stream: str, fields: dict[str, str]) -> str:
        return str(self._call("sign", key.hex(), stream, fields))

    def publish(self, *messages: dict[str, str], key: bytes | None = None) -> None:
        self._call("publish", messages, key.hex() if key else None)

    def describe(self, module: str) -> dict[str, Any]:
        return dict(self._call("describe", module))

    def _call(self, command: str, *arguments: object, **options: object) -> Any:
        answer = json.loads(self._ask(json.dumps([command, arguments, options])) or '{"error": "killed"}')
        if "error" in answer:
            raise PublishedError(answer["error"])
        return answer["answer"]

    def _ask(self, line: str) -> bytes:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        readable, _, _ = select.select([self._process.stdout], [], [], ANSWER_S)
        assert readable, f"no answer within {ANSWER_S:g} s"
        return self._process.stdout.readline()
