"""Verbs for the ledger: `ledger recover`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from countermand.cli.asking import ask
from countermand.cli.terminal import DataDirOption, JsonOption, printable, say, say_json
from countermand.settings import ClientSettings

ledger: Final = typer.Typer(help="The ledger: mend it after a restore or a fork.", no_args_is_help=True)


@ledger.callback()
def _ledger() -> None:
    """Stand before the verbs: with one alone, its name would be left out."""


@ledger.command()
def recover(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what was found, and what it would do.")] = False,
    keep_sessions: Annotated[
        bool, typer.Option("--keep-sessions", help="Cut off nothing: you know that no other revocation was lost.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Though no witness disputes the ledger, without one that does not answer, or without keys' files.",
        ),
    ] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Take up a ledger that witnesses contradict, after a restore or a fork: signing has stopped until then.

    It appends again what witnesses hold, takes up their keysets, begins another generation, and cuts off all that was
    opened or issued before.
    """
    settings = ClientSettings.read(data_dir)
    answer = ask(settings, lambda client: client.recover(keep_sessions=keep_sessions, force=force, dry_run=dry_run))
    if as_json:
        say_json(answer)
        return
    say(f"the ledger ended at {answer['generation']}.{answer['seq']}")
    for seen in answer["witnesses"]:
        word = "contradicts" if seen["contradicts"] else "agrees"
        say(f"{printable(seen['witness'])} has seen {seen['generation']}.{seen['seq']}: it {word}")
    say(*_outcome(answer, dry_run=dry_run))


def _outcome(answer: Mapping[str, Any], *, dry_run: bool) -> list[str]:
    advice = _advice(answer["missing_keys"])
    if answer["begun"] is None:
        return [*advice, "nobody disputes it: there is nothing to recover"]
    would = "would be" if dry_run else "were" if answer["lost"] != 1 else "was"
    lines = [f"{_counted(answer['lost'])} that witnesses hold {would} appended again"]
    if answer["missing"]:
        lines.append(f"{_counted(answer['missing'])} or more were seen, and nobody can tell them")
    if answer["keyset"] is not None:
        lines.append(f"keyset {answer['keyset']} that witnesses hold {'would be' if dry_run else 'was'} taken up again")
    begins = "would begin" if dry_run else "has begun"
    lines.append(f"generation {answer['begun']} {begins}")
    ends = "would end" if dry_run else "has ended"
    kept = "what was opened and issued before stands"
    lines.append(f"what was opened or issued before {ends}" if answer["is_cut_off"] else kept)
    return lines + advice


def _advice(missing_keys: Sequence[str]) -> list[str]:
    """Say which files the authority needs, if any."""
    files = ", ".join(f"checkpoint-{printable(id_)}.pem" for id_ in missing_keys)
    lines = [
        f"replicas go by a later keyset, and the authority cannot without {files}",
        "put that into its keys directory and recover again: what it signs until then is refused",
    ]
    return lines if missing_keys else []


def _counted(count: int) -> str:
    return f"{count:,} {'entry' if count == 1 else 'entries'}"
