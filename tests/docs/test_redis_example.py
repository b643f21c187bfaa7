"""The documents' Python example of the Redis consumer runs word for word; only its indentation is restored.

The documents are not part of this project. They are looked for beside it, or where COUNTERMAND_DOCUMENTS says.
"""

import ast
import inspect
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from caracalai_revocation_redis import (
    DEFAULT_REVOCATION_TTL_MS,
    REVOCATION_STREAM,
    STREAM_SIG_FIELD,
    RedisRevocationConsumer,
    RedisRevocationStore,
)
from countermand.log.hmac import stream_signature
from tests.redis_server import RedisServer

BESIDE: Final = Path(__file__).parents[3] / "shared" / "documents"
DOCUMENT: Final = Path(os.environ.get("COUNTERMAND_DOCUMENTS", BESIDE)) / "redis-token-state.txt"
FIRST: Final = "import os\nimport threading"
LAST: Final = "threading.Thread(target=_poll_loop, daemon=True).start()"
KEY: Final = bytes.fromhex("0123456789abcdef" * 4)
GROUP: Final = "resource-revocation"
DEADLINE_S: Final = 30.0

STAY: Final = "\nimport sys\nsys.stdin.read()\n"
"""After the example, whose thread ends with its process: stay until the test goes."""


def example(document: str) -> str:
    """Return the one block from FIRST to LAST, indented again."""
    (block,) = re.findall(rf"^{re.escape(FIRST)}\n.*?^{re.escape(LAST)}$", document, re.DOTALL | re.MULTILINE)
    loop = "def _poll_loop():\nwhile True:\nconsumer.poll_once()\n"
    assert loop in block
    return str(block).replace(loop, "def _poll_loop():\n    while True:\n        consumer.poll_once()\n")


@pytest.fixture(scope="module")
def document() -> str:
    if not DOCUMENT.exists():
        sentence = f"THE DOCUMENTS' EXAMPLES WERE NOT RUN: {DOCUMENT.name} is not beside this project"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    return DOCUMENT.read_text("utf-8")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator["redis.Redis"]:
    with server.client() as opened:
        yield opened


@pytest.fixture
def replica(document: str, server: RedisServer, tmp_path: Path) -> Iterator[Path]:
    """A process that runs the example; what it prints is in the file."""
    environ = {"REDIS_URL": server.url, "INSTANCE_ID": "7", "CARACAL_STREAM_HMAC_KEY": KEY.hex()}
    printed = tmp_path / "replica.log"
    with printed.open("wb") as log:
        command = [sys.executable, "-c", example(document) + STAY]
        process = subprocess.Popen(
            command, env={**os.environ, **environ}, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
        )
    with process:
        yield printed
        assert process.poll() is None, printed.read_text()
        process.kill()


def signed(anchor: str) -> dict[Any, Any]:
    fields = {"session_id": anchor}
    return {**fields, STREAM_SIG_FIELD: stream_signature(KEY, REVOCATION_STREAM, fields)}


def consumers(client: "redis.Redis") -> list[bytes]:
    if not client.exists(REVOCATION_STREAM):
        return []
    answer: Any = client.xinfo_consumers(REVOCATION_STREAM, GROUP)
    return [consumer["name"] for consumer in answer]


def until(holds: Callable[[], bool], what: str, printed: Path) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S:g} s: {what}; {printed.read_text()}"
        time.sleep(0.01)


@pytest.mark.parametrize("made", [RedisRevocationConsumer, RedisRevocationStore])
def test_it_is_made_with_the_documented_arguments_and_defaults(made: type, document: str) -> None:
    declaration = rf"^class {made.__name__}:\ndef __init__\(\nself,\n(.*?)^\) -> None: \.\.\.$"
    (block,) = re.findall(declaration, document, re.DOTALL | re.MULTILINE)
    documented = re.findall(r"^(\w+): [^=\n]+?(?: = (.+))?,$", block, re.MULTILINE)
    assert len(documented) == len(block.splitlines())
    ours = [each for each in inspect.signature(made).parameters.values() if each.kind is each.POSITIONAL_OR_KEYWORD]
    assert [(each.name, each.default) for each in ours] == [
        (name, ast.literal_eval(default) if default else inspect.Parameter.empty) for name, default in documented
    ]


def test_the_constants_are_the_documented_ones(document: str) -> None:
    assert f"REVOCATION_STREAM = '{REVOCATION_STREAM}'" in document
    assert f"DEFAULT_REVOCATION_TTL_MS = {DEFAULT_REVOCATION_TTL_MS:_} " in document
    assert f"STREAM_SIG_FIELD = '{STREAM_SIG_FIELD}'" in document


def test_the_example_revokes_through_an_idle_start_a_flush_and_a_poison_message(
    replica: Path, server: RedisServer, client: "redis.Redis"
) -> None:
    store = RedisRevocationStore(server.client())
    until(lambda: consumers(client) == [b"api-7"], "it polls an empty stream", replica)

    client.xadd(REVOCATION_STREAM, signed("first"))
    until(lambda: store.is_revoked("first"), "a message is applied", replica)

    client.flushall()
    client.xadd(REVOCATION_STREAM, signed("after the flush"))
    until(lambda: store.is_revoked("after the flush"), "it is applied", replica)

    poison: list[dict[Any, Any]] = [
        {b"session_id": b"\xff", b"_sig": b"\xff"},
        {"session_id": "forged", "_sig": "é"},
        {"reason": "none"},
    ]
    for fields in poison:
        client.xadd(REVOCATION_STREAM, fields)
    client.xadd(REVOCATION_STREAM, signed("last"))
    until(lambda: store.is_revoked("last"), "what comes after the poison is applied", replica)

    assert not store.is_revoked("forged")
    assert client.xlen(f"{REVOCATION_STREAM}.dead") == len(poison)
    pending: Any = client.xpending(REVOCATION_STREAM, GROUP)
    assert pending["pending"] == 0


def test_the_example_outlives_its_server(replica: Path, server: RedisServer, client: "redis.Redis") -> None:
    store = RedisRevocationStore(server.client())
    until(lambda: consumers(client) == [b"api-7"], "it polls", replica)

    server.restart()
    client.xadd(REVOCATION_STREAM, signed("after the restart"))

    until(lambda: store.is_revoked("after the restart"), "it is applied", replica)
