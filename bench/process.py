"""Processes of the bench's own, asked line by line: what is measured shares no event loop and no heap with another."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Child:
    """A module of the bench in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, command: str, *arguments: object) -> Any:
        """Return what it answers. Raises: RuntimeError, where it has ended."""
        if self._process.stdin is None or self._process.stdout is None:
            raise ValueError("the other process is not asked by pipes")
        self._process.stdin.write(json.dumps([command, *arguments]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._process.args!r} has ended")
        return json.loads(answer)


@contextmanager
def child(module: str, *arguments: str) -> Iterator[Child]:
    """Run `module`, which calls `answer`, until the block ends."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Child(process)
        process.communicate()  # closes its input, and that ends it


async def answer(*commands: Callable[..., Awaitable[object]]) -> None:
    """Answer one command of the parent's after the other, by name, until there are no more."""
    named: Mapping[str, Callable[..., Awaitable[object]]] = {command.__name__: command for command in commands}
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        name, *arguments = json.loads(line)
        print(json.dumps(await named[name](*arguments)), flush=True)
