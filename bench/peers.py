"""What others publish, in an environment of its own: it owns names that ours has too.

Only the two packages are installed in there. `cryptography` is lent from our own environment, so that both sides verify
with the same library.
"""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.harness import Contender

PACKAGES: Final = ("caracalai-revocation==0.1.1", "pyjwt==2.15.1")

_HOME = Path(sys.prefix) / "bench-peers"
_PYTHON = _HOME / "bin" / "python"
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
def open_peers() -> Iterator[Peers]:
    """Make the environment, once, and run the other process until the block ends."""
    missing = _install()
    if missing:
        yield Peers(None, missing)
        return
    command = [str(part) for part in (_PYTHON, "-I", _SCRIPT, sysconfig.get_path("platlib"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Peers(partial(_ask, process))
        process.communicate()  # closes its input, and that ends it


def _ask(process: "subprocess.Popen[str]", line: str) -> str:
    if process.stdin is None or process.stdout is None:
        raise ValueError("the other process is not asked by pipes")
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline()


def _install() -> str:
    """Return why the packages cannot be had; empty where they are there."""
    ready = _HOME / "-".join(PACKAGES)
    if ready.exists():
        return ""
    pip = [str(_PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", *PACKAGES]
    try:
        for command in ([sys.executable, "-m", "venv", "--clear", str(_HOME)], pip):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    except (subprocess.SubprocessError, OSError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        return f"{' and '.join(PACKAGES)} cannot be installed: {reason}"
    ready.touch()
    return ""
