"""The command line as a person uses it: what is printed, and how it ends. In a process of its own, or in a thread."""

import asyncio
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from countermand.cli.app import run
from tests.running import DEADLINE_S

COMMAND = Path(sys.executable).with_name("countermand")


def environ(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("COUNTERMAND_")} | more


def countermand(*words: str | Path, given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Run one verb to its end; `given` is its standard input."""
    return subprocess.run(
        [COMMAND, *words],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        env=environ(COLUMNS="200", **more),
        check=False,
    )


async def in_a_thread(*words: str | Path, given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """The same, while the event loop goes on."""
    return await asyncio.to_thread(countermand, *words, given=given, **more)


async def typed(*words: str | Path, given: str | bytes = "") -> subprocess.CompletedProcess[str]:
    """The same without a new process, which takes a second to begin. One at a time."""
    return await asyncio.to_thread(_typed, [str(word) for word in words], given)


def _typed(words: list[str], given: str | bytes) -> subprocess.CompletedProcess[str]:
    stdin = io.TextIOWrapper(io.BytesIO(given.encode() if isinstance(given, str) else given))
    code: int | str | None = None
    with (
        patch.dict(os.environ, environ(COLUMNS="200"), clear=True),
        patch.object(sys, "argv", ["countermand", *words]),
        patch.object(sys, "stdin", stdin),
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
    ):
        try:
            run()
        except SystemExit as end:
            code = end.code
    return subprocess.CompletedProcess(words, code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


@contextmanager
def running(*words: str | Path) -> Iterator["subprocess.Popen[str]"]:
    """Run a verb until the block ends."""
    process = subprocess.Popen(
        [COMMAND, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environ(PYTHONUNBUFFERED="1"),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines_until(process: "subprocess.Popen[str]", wanted: str) -> list[str]:
    """Read lines up to one that holds `wanted`; fail at the end of the output, which comes in time."""
    lines: list[str] = []
    assert process.stdout is not None
    ending = threading.Timer(3 * DEADLINE_S, process.kill)
    ending.start()
    try:
        for line in process.stdout:
            lines.append(line)
            if wanted in line:
                return lines
    finally:
        ending.cancel()
    raise AssertionError(f"{wanted!r} never came:\n{''.join(lines)}")
