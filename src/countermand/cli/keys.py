"""Verbs for the signing keys: `keys list`, `keys rotate` and `keys withdraw`."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from countermand.cli.asking import ask
from countermand.cli.terminal import DataDirOption, JsonOption, ReasonOption, moment_of, printable, say, say_json
from countermand.settings import ClientSettings

keys = typer.Typer(help="The keys that sign checkpoints and mandates.", no_args_is_help=True)


class SigningPurpose(StrEnum):
    """What a signing key signs."""

    CHECKPOINT = "checkpoint"
    MANDATE = "mandate"


@keys.command("list")
def list_keys(*, as_json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """List the signing keys, where each stands, and what a new replica is told to believe."""
    settings = ClientSettings.read(data_dir)
    answer = ask(settings, lambda client: client.signing_keys())
    if as_json:
        say_json(answer)
        return
    for key in sorted(answer["keys"], key=lambda key: (key["purpose"], key["created_at"])):
        say(f"{key['purpose']:10}  {key['state']:9} since {moment_of(key['since'])}  {key['algorithm']:7}  {key['id']}")
    say(f"keyset {answer['keyset']}", f"pin    {printable(answer['pin'])}")


@keys.command()
def rotate(
    purpose: Annotated[SigningPurpose, typer.Argument(metavar="PURPOSE", help="checkpoint or mandate.")],
    *,
    wait: Annotated[
        int | None,
        typer.Option(
            "--wait", help="Seconds before the new key signs, at the least; what its purpose needs, if left out."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Sign with the new key at once, whoever does not know it.")
    ] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Put a new key in the place of the one that signs. Replicas go on; nobody is started again.

    The new key is made known first, and signs once every live replica that reports knows it and the wait is over.
    """
    settings = ClientSettings.read(data_dir)
    _report(ask(settings, lambda client: client.rotate_signing_key(purpose, wait_s=wait, force=force)), as_json=as_json)


@keys.command()
def withdraw(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Its id, as `keys list` gives it.")],
    *,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Let nobody believe a key any more, at once and for ever. Another one signs from then on.

    Whatever a mandate key has signed is rejected, and calls in flight end. After a checkpoint key was stolen, give the
    new pin to every resource server: one that starts with the old pin believes whoever has that key.
    """
    settings = ClientSettings.read(data_dir)
    _report(ask(settings, lambda client: client.withdraw_signing_key(id_, reason)), as_json=as_json)


def _report(key: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        say_json(dict(key))
        return
    name = f"{key['purpose']} key {printable(key['id'])}"
    if key["state"] == "next":
        say(f"{name} is made known; it signs from {moment_of(key['switch_at'])}, once every live replica knows it")
    else:
        say(f"{name} is {key['state']}")
