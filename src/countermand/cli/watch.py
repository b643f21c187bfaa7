"""The demo with a person: a fleet whose answers are printed, and what to type to revoke a part of it."""

import asyncio
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.text import Text

from countermand.cli.callers import ACCEPTED, CUT, Client, Outcome
from countermand.cli.looking import draw
from countermand.cli.stage import Stage, staged
from countermand.cli.terminal import say, say_tree
from countermand.settings import DEFAULT_DATA_DIR, AuthoritySettings


async def watch(settings: AuthoritySettings, stopped: asyncio.Event) -> None:
    """Run the demo until `stopped`: print every change at once, and a summary of all answers each second."""

    def on_change(client: Client, outcome: Outcome) -> None:
        say(
            Text.assemble(
                f"{_now()}  ", (client.name, "bold"), " is " if outcome == CUT else " is answered ", _coloured(outcome)
            )
        )

    async with staged(settings, on_change) as stage:
        await _introduce(stage, settings)
        clients = stage.fleet.clients
        before = [client.calls.copy() for client in clients]
        while not stopped.is_set():
            await _wait(stopped, 1.0)
            say(_summary(clients, before))
            before = [client.calls.copy() for client in clients]


def _summary(clients: Sequence[Client], before: Sequence[Counter[Outcome]]) -> Text:
    """Every outcome of the last second: how often, and who had it."""
    counts: Counter[Outcome] = Counter()
    names: dict[Outcome, list[str]] = {}
    for client, old in zip(clients, before, strict=True):
        for outcome, count in (client.calls - old).items():
            counts[outcome] += count
            names.setdefault(outcome, []).append(client.name)
    parts = [Text.assemble(_coloured(one), f" x{counts[one]}: {', '.join(names[one])}") for one in sorted(counts)]
    return Text(f"{_now()}  ").append(Text("    ").join(parts))


async def _introduce(stage: Stage, settings: AuthoritySettings) -> None:
    fleet = stage.fleet
    say("", f"authority  {stage.authority_url}")
    say(f"revoked    {stage.entries} so far, kept in {settings.data.path}")
    say(f"tool       {stage.tool_url}, protected; each agent calls it five times a second", "")
    for session_id in fleet.sessions.values():
        say_tree(draw((await stage.client.tree(session_id))["nodes"]))
    say("", "Revoke a part of it, in another terminal, and see what ends and what does not:", "")
    for what, words in (
        ("to the reader", ("revoke", "delegation", fleet.delegations["reader"])),
        ("the scout", ("revoke", "agent", fleet.agents["scout"])),
        ("alice's", ("revoke", "session", fleet.sessions["alice"])),
        ("bob's", ("revoke", "session", fleet.sessions["bob"])),
        ("all that was alice's until now", ("cutoff", "--subject", "alice")),
        ("look again", ("tree", fleet.sessions["alice"])),
    ):
        say(Text(f"    {_command(settings, *words)}").append(f"  # {what}", "dim"))
    say("", "Add --dry-run to be told before. It begins with a second or two of 503: a replica that has just started")
    say("does not know yet what is revoked, and lets nothing pass. Ctrl-C ends it; what is revoked stays revoked.", "")


def _command(settings: AuthoritySettings, *words: str) -> str:
    options = [] if settings.data.path == Path(DEFAULT_DATA_DIR) else ["--data-dir", str(settings.data.path)]
    return shlex.join([_program(), *words, *options])


def _program() -> str:
    """Return what to type for this program from here."""
    path = Path(sys.argv[0])
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _coloured(outcome: Outcome) -> Text:
    status, code = outcome
    word = "" if outcome == CUT else status or "nothing"
    return Text(f"{word} {code}".strip(), "green" if outcome == ACCEPTED else "red")


def _now() -> str:
    return f"{datetime.now().astimezone():%H:%M:%S}"


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
