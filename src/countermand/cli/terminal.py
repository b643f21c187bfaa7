"""The terminal: what is printed on it, safely, and the options that verbs share.

What an unproven token says is a stranger's word: no control character of it reaches the terminal. No token is printed
whole, wherever it was typed.
"""

import asyncio
import json
import logging
import re
import signal
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
import uvloop
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from countermand.enforce.trace import JsonLines

_T = TypeVar("_T")
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_TOKEN: Final = re.compile(r"(eyJ[\w-]{5})[\w-]*\.[\w-]+\.[\w-]*")
_BISCUIT: Final = re.compile(r"(?:(?<![\w-])|(?<=\\[nrt]))(?![0-9A-F]+\b)((?:E[g-v]|C[A-P])[\w-]{6})[\w-]{130,}={0,2}")
"""How the base64 of its first bytes looks; hex does not. As text in JSON it may stand behind an escape."""
_UNITS: Final = ((86_400, "days"), (3_600, "hours"), (60, "minutes"))

out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
_drawing = Console(width=1_000, highlight=False, markup=False, emoji=False)  # a tree is cut at the console's width
err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

DataDirOption = Annotated[
    Path | None, typer.Option(help="Where the authority keeps its data.  [COUNTERMAND_DATA_DIR, else .countermand]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ReasonOption = Annotated[str, typer.Option(help="Why; kept in the ledger.")]
IssuerOption = Annotated[str, typer.Option(help="Whose it is, where it is another issuer's.")]
HostOption = Annotated[str, typer.Option(help="The address to listen on.")]
PortOption = Annotated[int, typer.Option(help="The port to listen on; 0 for any free one.", min=0, max=65535)]
UrlOption = Annotated[
    str | None,
    typer.Option(help="The authority, or its Redis, to follow.  [COUNTERMAND_URL, else what the data directory says]"),
]
MintedByOption = Annotated[
    str | None,
    typer.Option("--issuer", help="Who mints the tokens.  [COUNTERMAND_ISSUER, else the authority that is followed]"),
]
AudienceOption = Annotated[str, typer.Option(help="Whom the tokens are for.")]
ScopeOption = Annotated[list[str] | None, typer.Option(help="A scope that every token needs; may be given again.")]
MaxStalenessOption = Annotated[
    float, typer.Option(help="Refuse when what is known is older, in seconds; over 2.", metavar="SECONDS")
]
MetricsPortOption = Annotated[
    int | None, typer.Option(help="A port for Prometheus; whoever reaches it may read the metrics.", min=1, max=65535)
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what it would reach.")]


def say(*lines: str | Text) -> None:
    """Print each line."""
    for line in lines:
        out.print(line)


def say_tree(tree: Tree) -> None:
    """Print a tree, every line whole."""
    _drawing.print(tree)


def say_json(value: object) -> None:
    """Print one JSON value. What is not ASCII is escaped: it may be a stranger's."""
    out.print_json(without_tokens(json.dumps(value)), ensure_ascii=True)


def printable(text: str) -> str:
    """Return `text` with an escape for whatever would move the cursor, break the line or turn the writing around."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def without_tokens(text: str) -> str:
    """Return `text` with every token in it cut short."""
    return _BISCUIT.sub(r"\1…", _TOKEN.sub(r"\1…", text))


def short(id_: str) -> str:
    """Return an id as short as it can still be recognised."""
    return f"{id_[:12]}…" if len(id_) > 20 else id_


def moment(at: datetime) -> str:
    """Return an instant to the second, UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def moment_of(text: str) -> str:
    """Return an instant that the authority's API gave, to the second, UTC."""
    return moment(datetime.fromisoformat(text))


def moment_of_ms(ms: int) -> str:
    """Return an instant that is given in milliseconds since 1970, to the second, UTC."""
    return moment(datetime.fromtimestamp(ms / 1000, UTC))


def span(seconds: float) -> str:
    """Return a length of time in the unit that suits it."""
    for unit_s, name in _UNITS:
        if seconds >= 2 * unit_s:
            return f"{seconds // unit_s:g} {name}"
    return f"{max(seconds, 0):.0f} s"


def listed(words: Iterable[str]) -> str:
    """Return the words as a sentence lists them."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


@contextmanager
def decisions_told() -> Iterator[None]:
    """Write what guards deny and cut to stderr, a line of JSON each, while the block lasts."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    decisions = logging.getLogger("countermand.decision")
    decisions.addHandler(handler)
    decisions.setLevel(logging.INFO)
    decisions.propagate = False
    try:
        yield
    finally:
        decisions.removeHandler(handler)
        decisions.setLevel(logging.NOTSET)
        decisions.propagate = True


def until_signalled() -> asyncio.Event:
    """Return an event that Ctrl-C, or a polite kill, sets. A second one ends the program at once."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        stopped.set()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    return stopped


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run `work` to its end."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
