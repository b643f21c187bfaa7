"""The demo with a person: callers whose answers are printed, and what to type to revoke one."""

import asyncio
import shlex
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path

from rich.console import Console

from countermand.cli.demo import ACCEPTED
from countermand.cli.fleet import Caller, Outcome, Stage, staged
from countermand.settings import DEFAULT_DATA_DIR, AuthoritySettings


async def watch(settings: AuthoritySettings, console: Console, stopped: asyncio.Event) -> None:
    """Run the demo until `stopped`: print every change at once, and a summary of all answers each second."""

    def on_change(caller: Caller, outcome: Outcome) -> None:
        console.print(f"{_now()}  [bold]{caller.subject}[/] is answered {_coloured(outcome)}")

    async with staged(settings, on_change) as stage:
        _introduce(stage, settings, console)
        before = [caller.calls.copy() for caller in stage.callers]
        while not stopped.is_set():
            await _wait(stopped, 1.0)
            console.print(f"{_now()}  {_summary(stage, before)}")
            before = [caller.calls.copy() for caller in stage.callers]


def _summary(stage: Stage, before: list[Counter[Outcome]]) -> str:
    return "    ".join(
        f"{caller.subject} "
        + ", ".join(f"{_coloured(outcome)} x{count}" for outcome, count in (caller.calls - old).items())
        for caller, old in zip(stage.callers, before, strict=True)
    )


def _introduce(stage: Stage, settings: AuthoritySettings, console: Console) -> None:
    options = [] if settings.data.path == Path(DEFAULT_DATA_DIR) else ["--data-dir", str(settings.data.path)]
    console.print(f"\nauthority  {stage.authority_url}")
    console.print(f"revoked    {stage.entries} so far, kept in {settings.data.path}")
    console.print(f"service    {stage.service_url}, protected\n")
    console.print("These call the service five times a second. Revoke one, in another terminal:\n")
    for caller in stage.callers:
        command = shlex.join([_program(), "revoke", "session", caller.session_id, *options])
        console.print(f"    {command}   [dim]# {caller.subject}[/]")
    console.print("\nIt begins with a second or two of 503: a replica that has just started does not know yet what is")
    console.print("revoked, and lets nothing pass. Ctrl-C stops all of this; what is revoked stays revoked.\n")


def _program() -> str:
    """Return what to type for this program from here."""
    path = Path(sys.argv[0])
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _coloured(outcome: Outcome) -> str:
    status, code = outcome
    words = f"{status or 'nothing'} {code}".strip()
    return f"[{'green' if outcome == ACCEPTED else 'red'}]{words}[/]"


def _now() -> str:
    return f"{datetime.now().astimezone():%H:%M:%S}"


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
