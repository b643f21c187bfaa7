"""The command line put together. Each verb is a function in the module of its subject; errors are a line and a code."""

import io
import logging
import sys
from typing import Any, Final

import typer
from rich.logging import RichHandler
from typer.core import TyperGroup

from countermand.authority.actor import mark_request
from countermand.cli.access import access
from countermand.cli.auditing import audit
from countermand.cli.biscuit import biscuit
from countermand.cli.checking import check
from countermand.cli.explaining import explain
from countermand.cli.guarding import forward_auth, gateway
from countermand.cli.inspecting import inspect
from countermand.cli.keys import keys
from countermand.cli.looking import sessions, tail, tree
from countermand.cli.receipts import replicas
from countermand.cli.recovering import ledger
from countermand.cli.revoking import cutoff, revoke
from countermand.cli.running import demo, up
from countermand.cli.terminal import err, printable, without_tokens
from countermand.errors import (
    ConfigurationError,
    CountermandError,
    DataError,
    NotFoundError,
    RefusedError,
    UnreachableError,
)

EXIT_CODES: Final[dict[type[CountermandError], int]] = {
    ConfigurationError: 2,  # as for a wrong option
    DataError: 2,
    UnreachableError: 3,
    RefusedError: 4,
    NotFoundError: 5,
}
"""Any other error of ours exits with 1, as does a demo in which a step did not hold; with 6 who waited in vain."""


class _Verbs(TyperGroup):
    """The verbs together. What they say of a wrong use repeats no token that was typed in the wrong place."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.TyperException as error:
            error.message = without_tokens(error.message)
            raise


app = typer.Typer(
    cls=_Verbs,
    help="Makes a token stop working: everywhere, now, provably.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for _verb in (
    *(up, sessions, tree, revoke, cutoff, replicas, inspect, check, explain, tail),
    *(gateway, forward_auth, demo),
):
    app.command()(_verb)
app.add_typer(biscuit, name="biscuit")
app.add_typer(keys, name="keys")
app.add_typer(ledger, name="ledger")
app.add_typer(audit, name="audit")
app.add_typer(access, name="access")


def run() -> None:
    """Run the verb that was typed. An error of ours becomes one line."""
    handler = RichHandler(console=err, show_path=False)
    handler.addFilter(mark_request)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal has no letter for is no failure
    logging.basicConfig(level=logging.WARNING, format="%(message)s%(request)s", handlers=[handler])
    try:
        app()
    except CountermandError as error:
        err.print(f"countermand: {without_tokens(printable(str(error)))}")
        raise SystemExit(EXIT_CODES.get(type(error), 1)) from None
