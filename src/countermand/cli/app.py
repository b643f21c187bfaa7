"""The verbs. Each reads its settings, does one thing over HTTP, and prints; errors are one line and an exit code.

What runs an authority takes a second to import, so the verbs that run one import it themselves: whoever revokes is in a
hurry.
"""

import asyncio
import json
import logging
import signal
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
import uvloop
from rich.console import Console
from rich.logging import RichHandler

from countermand.cli.client import AuthorityClient
from countermand.errors import (
    ConfigurationError,
    CountermandError,
    DataError,
    NotFoundError,
    RefusedError,
    UnreachableError,
)
from countermand.log.entry import Entry
from countermand.log.state import LogState
from countermand.replica.replica import Replica
from countermand.settings import DEFAULT_HOST, DEFAULT_PORT, AuthoritySettings, ClientSettings
from countermand.transport.http import HttpLog
from countermand.wiring import follower, parse_pin, system_clock
from countermand.wiring.tasks import beside

EXIT_CODES: Final[dict[type[CountermandError], int]] = {
    ConfigurationError: 2,  # as for a wrong option
    DataError: 2,
    UnreachableError: 3,
    RefusedError: 4,
    NotFoundError: 5,
}
"""Any other error of ours exits with 1, as does a demo in which a step did not hold."""

_T = TypeVar("_T")
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_out = Console(highlight=False, markup=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

app = typer.Typer(
    help="Makes a token stop working: everywhere, now, provably.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
revoke = typer.Typer(help="Revoke something, for ever.", no_args_is_help=True)
app.add_typer(revoke, name="revoke")

DataDirOption = Annotated[
    Path | None, typer.Option(help="Where the authority keeps its data.  [COUNTERMAND_DATA_DIR, else .countermand]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def run() -> None:
    """Run the verb that was typed. An error of ours becomes one line."""
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=_err, show_path=False)]
    )
    try:
        app()
    except CountermandError as error:
        _err.print(f"countermand: {error}")
        raise SystemExit(EXIT_CODES.get(type(error), 1)) from None


@app.command()
def up(
    *,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = DEFAULT_HOST,
    port: Annotated[
        int, typer.Option(help="The port to listen on; 0 for any free one.", min=0, max=65535)
    ] = DEFAULT_PORT,
    data_dir: DataDirOption = None,
    demo: Annotated[bool, typer.Option("--demo", help="Run a protected service and two callers beside it.")] = False,
) -> None:
    """Run an authority, until Ctrl-C."""
    from countermand.cli.watch import watch  # noqa: PLC0415 - see above
    from countermand.wiring.serve import serve_authority  # noqa: PLC0415

    settings = AuthoritySettings.read(data_dir=data_dir, host=host, port=port)

    async def serve() -> None:
        stopped = _until_signalled()
        if demo:
            await watch(settings, Console(highlight=False, soft_wrap=True), stopped)
        else:
            async with serve_authority(settings) as (authority, url):
                _out.print(f"authority  {url}")
                _out.print(f"revoked    {authority.entries} so far, kept in {settings.data.path}")
                _out.print(f"pin        {authority.pin}")
                await stopped.wait()

    _run(serve())


@revoke.command()
def session(
    id_: Annotated[str, typer.Argument(metavar="ID", help="The session: ses_ and 32 hex digits.")],
    *,
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")] = "",
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Revoke a subject session: every token that rests on it is rejected."""
    settings = ClientSettings.read(data_dir)

    async def call() -> dict[str, Any]:
        async with AuthorityClient.open(settings) as client:
            return await client.revoke("session", id_, reason)

    entry = _run(call())
    if as_json:
        _out.print_json(json.dumps(entry))
    else:
        _out.print(f"session {id_} {'is' if entry['is_new'] else 'was already'} revoked: entry {entry['seq']}")


@app.command()
def tail(*, data_dir: DataDirOption = None) -> None:
    """Print revocations as they are made, each verified as a replica verifies it, until Ctrl-C."""
    settings = ClientSettings.read(data_dir)
    if settings.pin is None:
        raise ConfigurationError("nothing says which log to believe: set COUNTERMAND_PIN")
    replica = Replica(LogState(parse_pin(settings.pin)), system_clock)
    follow = follower(replica, HttpLog(settings.url, settings.api_key), _print_entries)
    _out.print(f"following {settings.url}")

    async def until_stopped() -> None:
        stopped = _until_signalled()
        async with beside(follow.run()):
            await stopped.wait()

    _run(until_stopped())


@app.command()
def demo(*, as_json: JsonOption = False) -> None:
    """Revoke one of two sessions and watch: exactly that one is rejected. Exits 0 only if every step held."""
    from countermand.cli.demo import play  # noqa: PLC0415 - see above

    report = _run(play())
    if as_json:
        _out.print_json(json.dumps(report.to_json()))
    else:
        for step in report.steps:
            _out.print(f"{'held  ' if step.held else 'FAILED'}  {step.ms:8.1f} ms  {step.name}: {step.seen}")
    raise typer.Exit(0 if report.held else 1)


def _print_entries(entries: Sequence[Entry]) -> None:
    for entry in entries:
        at = datetime.fromtimestamp(entry.at_ms / 1000, UTC)
        reason = f"  {entry.reason}" if entry.reason else ""
        _out.print(f"{entry.seq:>8}  {at:%Y-%m-%dT%H:%M:%SZ}  {entry.kind.text}  {entry.id}{reason}")


def _until_signalled() -> asyncio.Event:
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


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
