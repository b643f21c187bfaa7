"""What others publish, in an environment of its own: it owns names that ours has too.

`make` installs it, from requirements/published.txt. `cryptography` is lent from our own environment, so that both sides
verify with the same library.
"""

import json
import subprocess
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.harness import Contender

PYTHON: Final = Path(__file__).parents[1] / ".venv-published" / "bin" / "python"
"""That of the other environment."""

_SCRIPT = Path(__file__).with_name("documented.py")


class Peers:
    """The other process; `missing` says why there is none."""

    def __init__(self, ask: Callable[[str], str] | None, missing: str = "") -> None:
        self._ask = ask
        self.missing = missing

    def call(self, command: str, *arguments: object) -> Any:
        """Return what the other process answers, None where there is none."""
        return None if self._ask is None else json.loads(self._ask(json.dumps([command, *arguments])))

    def contenders(self, commands: Mapping[str, tuple[str, ...]]) -> dict[str, Contender]:
        """Return a contender for each command that is named; none where there is no other process."""
        if self._ask is None:
            return {}
        return {name: partial(self.call, *command) for name, command in commands.items()}

    def named(self, medians: Mapping[str, float], *names: str, factor: float = 1.0) -> dict[str, float | str]:
        """Return the medians of these names times `factor`, or why there are none."""
        return {name: medians[name] * factor if name in medians else self.missing for name in names}


@contextmanager
def open_peers(script: Path = _SCRIPT) -> Iterator[Peers]:
    """Run `script` in the other environment until the block ends."""
    if not PYTHON.exists():
        yield Peers(None, "what others publish is not installed: `make bench` does that")
        return
    command = [str(part) for part in (PYTHON, "-I", script, sysconfig.get_path("platlib"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Peers(partial(_ask, process))
        process.communicate()  # closes its input, and that ends it


def _ask(process: "subprocess.Popen[str]", line: str) -> str:
    if process.stdin is None or process.stdout is None:
        raise ValueError("the other process is not asked by pipes")
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline()
