"""Verbs that run an authority: `up` and `demo`.

What runs one takes a second to import, so it is imported here only when it is asked for: whoever revokes is in a hurry.
"""

from typing import Annotated

import typer
from rich.text import Text

from countermand.cli.terminal import (
    DataDirOption,
    HostOption,
    JsonOption,
    PortOption,
    run,
    say,
    say_json,
    until_signalled,
)
from countermand.settings import DEFAULT_HOST, DEFAULT_PORT, AuthoritySettings


def up(
    *,
    host: HostOption = DEFAULT_HOST,
    port: PortOption = DEFAULT_PORT,
    data_dir: DataDirOption = None,
    redis: Annotated[
        str | None, typer.Option(help="A Redis to publish revocations on, as a URL.", envvar="COUNTERMAND_REDIS_URL")
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Run a protected tool and a fleet of agents that calls it.")
    ] = False,
) -> None:
    """Run an authority, until Ctrl-C."""
    from countermand.cli.watch import watch  # noqa: PLC0415 - see above
    from countermand.wiring.authority import serve_authority  # noqa: PLC0415 - likewise

    settings = AuthoritySettings.read(data_dir=data_dir, host=host, port=port, redis_url=redis)

    async def serve() -> None:
        stopped = until_signalled()
        if demo:
            await watch(settings, stopped)
        else:
            async with serve_authority(settings) as (authority, url):
                say(f"authority  {url}")
                say(f"revoked    {authority.entries} so far, kept in {settings.place}")
                say(f"pin        {authority.pin}")
                await stopped.wait()

    run(serve())


def demo(*, as_json: JsonOption = False) -> None:
    """Revoke a part of a fleet of agents and watch: exactly that ends.

    Exits 0 only if every step held.
    """
    from countermand.cli.demo import play  # noqa: PLC0415 - see above

    report = run(play())
    if as_json:
        say_json(report.to_json())
    else:
        for step in report.steps:
            word = Text("held  ", "green") if step.held else Text("FAILED", "bold red")
            say(word.append(Text(f"  {step.ms:8.1f} ms  {step.name}", "not bold default")), f"        {step.seen}")
    raise typer.Exit(0 if report.held else 1)
