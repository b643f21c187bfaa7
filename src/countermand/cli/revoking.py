"""Verbs that end something: `revoke` and `cutoff`."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, TypeAlias

import typer

from countermand.cli.asking import ask
from countermand.cli.receipts import WaitOption, check_wait, report_receipt
from countermand.cli.terminal import (
    DataDirOption,
    DryRunOption,
    IssuerOption,
    JsonOption,
    ReasonOption,
    listed,
    moment,
    printable,
    say,
    say_json,
    without_tokens,
)
from countermand.settings import ClientSettings

Answer: TypeAlias = dict[str, Any]


class Revocable(StrEnum):
    """The kinds that can be revoked by their ids."""

    SESSION = "session"
    AGENT = "agent"
    DELEGATION = "delegation"
    GRANT = "grant"
    APPLICATION = "application"
    TOKEN = "token"  # noqa: S105 - a kind, not a password


def revoke(  # noqa: PLR0913 - one for each option
    kind: Annotated[
        Revocable, typer.Argument(metavar="KIND", help="session, agent, delegation, grant, application or token.")
    ],
    id_: Annotated[str, typer.Argument(metavar="ID", help="Its id; a token's is its claim jti.")],
    *,
    dry_run: DryRunOption = False,
    cascade: Annotated[
        bool, typer.Option("--cascade", help="A grant: end what rests on it too, not only what is still to come.")
    ] = False,
    reason: ReasonOption = "",
    issuer: IssuerOption = "",
    bare: Annotated[
        bool, typer.Option("--bare", help="The id is in the documented namespace that all issuers share.")
    ] = False,
    wait: WaitOption = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Revoke something, for ever, with all that rests on it.

    A grant is closed: nothing new comes of it, and what rests on it goes on. With --cascade that ends too.
    """
    closes = kind is Revocable.GRANT and not cascade
    if without_tokens(id_) != id_:
        raise typer.BadParameter("that is a token and not its id: `countermand inspect` shows its jti")
    if issuer and bare:
        raise typer.BadParameter("an id is bare or an issuer's: give --bare or --issuer")
    if cascade and kind is not Revocable.GRANT:
        raise typer.BadParameter("--cascade is for a grant: whatever else is revoked ends with all that rests on it")
    if closes and (reason or dry_run or issuer or bare or wait):
        raise typer.BadParameter("a grant is only closed, which takes no such option: add --cascade to revoke it")
    check_wait(wait, dry_run=dry_run)
    settings = ClientSettings.read(data_dir)
    if closes:
        grant = ask(settings, lambda client: client.close_grant(id_))
        _report(grant, _closed(grant), as_json=as_json)
        return
    answer = ask(
        settings,
        lambda client: client.revoke(kind, id_, reason, issuer=issuer, bare=bare, dry_run=dry_run, wait_s=wait),
    )
    is_kept = kind is not Revocable.TOKEN and not issuer and not bare
    _report(answer, _revoked(f"{kind} {printable(id_)}", answer, is_kept=is_kept), as_json=as_json)
    if wait is not None:
        report_receipt(answer, as_json=as_json)


def cutoff(  # noqa: PLR0913 - one for each option
    *,
    subject: Annotated[str | None, typer.Option(help="What was issued to this subject.")] = None,
    application: Annotated[str | None, typer.Option(help="What was issued to this application.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="What was issued to anybody.")] = False,
    before: Annotated[
        str | None, typer.Option(help="Up to when: an RFC 3339 time with its offset; now, if left out.")
    ] = None,
    dry_run: DryRunOption = False,
    reason: ReasonOption = "",
    issuer: IssuerOption = "",
    wait: WaitOption = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Reject all that was issued until now, or until a moment.

    It was issued to one subject, to one application, or to anybody: give one of the three.
    """
    targets = [f"subject:{subject}"] if subject is not None else []
    targets += [f"application:{application}"] if application is not None else []
    targets += ["all"] if everyone else []
    if len(targets) != 1:
        raise typer.BadParameter("give one of --subject, --application and --all")
    until = _instant(before)
    check_wait(wait, dry_run=dry_run)
    settings = ClientSettings.read(data_dir)
    answer = ask(
        settings,
        lambda client: client.cut_off(
            targets[0], before=until, issuer=issuer, reason=reason, dry_run=dry_run, wait_s=wait
        ),
    )
    whom = "" if everyone else f" to {printable(targets[0].replace(':', ' ', 1))}"
    what = f"what {printable(issuer) if issuer else 'was'} issued{whom} before {moment(until) if until else 'now'}"
    _report(answer, _cut(what, answer, is_kept=not issuer), as_json=as_json)
    if wait is not None:
        report_receipt(answer, as_json=as_json)


def _report(answer: Answer, sentence: str, *, as_json: bool) -> None:
    if as_json:
        say_json(answer)
    else:
        say(sentence)


def _closed(grant: Mapping[str, Any]) -> str:
    if grant["revoked_at"] is not None:
        return f"grant {grant['id']} was already revoked"
    return f"grant {grant['id']} is closed: nothing new comes of it. What rests on it goes on; --cascade ends that too"


def _revoked(what: str, answer: Answer, *, is_kept: bool) -> str:
    if answer.get("dry_run"):
        return _would(f"revoking {what}", answer, is_kept=is_kept)
    if not answer["is_new"]:
        return f"{what} was already revoked: entry {answer['seq']}"
    return f"{what} is revoked: entry {answer['seq']}{_reached(answer, is_kept=is_kept)}"


def _cut(what: str, answer: Answer, *, is_kept: bool) -> str:
    if answer.get("dry_run"):
        return _would(f"cutting off {what}", answer, is_kept=is_kept)
    return f"{what} is cut off: entry {answer['seq']}{_reached(answer, is_kept=is_kept)}"


def _would(doing: str, answer: Answer, *, is_kept: bool) -> str:
    reach = counted(answer["reach"]) if is_kept else "what cannot be counted: no such ids are kept here"
    return f"{doing} would reach {reach}, as of entry {answer['seq']}"


def _reached(answer: Answer, *, is_kept: bool) -> str:
    return f"; it reached {counted(answer['reach'])}" if is_kept else ""


def counted(reach: Mapping[str, Any]) -> str:
    """Return what a revocation reaches in words: by kind, and how many of each."""
    counts = [f"{count:,} {kind}{'' if count == 1 else 's'}" for kind, count in reach["counts"].items() if count]
    if not counts:
        return "nothing still standing"
    return listed(counts) if reach["is_whole"] else f"at least {listed(counts)}"


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise typer.BadParameter("--before is an RFC 3339 time with its offset, as in 2026-01-31T12:00:00Z")
    return at
