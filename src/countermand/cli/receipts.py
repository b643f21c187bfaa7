"""Who enforces a revocation, in words; and `replicas`, which lists all who could."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from countermand.cli.asking import ask
from countermand.cli.terminal import DataDirOption, JsonOption, moment, moment_of, printable, say, say_json, span
from countermand.settings import ClientSettings

NOT_ENFORCED_EXIT: Final = 6
"""It is revoked, and not known to be enforced by all replicas; or by any."""
LONGEST_S: Final = 60

WaitOption = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        max=LONGEST_S,
        metavar="SECONDS",
        help=f"Wait until all replicas enforce it. Exits {NOT_ENFORCED_EXIT} where they do not in time.",
    ),
]

_SECOND: Final = timedelta(seconds=1)
_HEADS: Final = ("replica", "key", "at", "behind", "refuses after", "last heard", "")


def check_wait(wait: float | None, *, dry_run: bool) -> None:
    """Refuse to wait for what a dry run does not make. Raises: BadParameter."""
    if wait is not None and dry_run:
        raise typer.BadParameter("a dry run makes no entry: leave out --wait")


def report_receipt(answer: Mapping[str, Any], *, as_json: bool) -> None:
    """Say who enforces what was revoked, unless it is told as JSON. Raises: Exit, where not all are known to."""
    receipt = answer.get("receipt")
    if not as_json:
        say(*sentences(receipt))
    if not is_enforced(receipt):
        raise typer.Exit(NOT_ENFORCED_EXIT)


def is_enforced(receipt: Mapping[str, Any] | None) -> bool:
    """Whether all replicas are known to enforce it, and there is one."""
    return receipt is not None and bool(receipt["is_enforced"])


def sentences(receipt: Mapping[str, Any] | None) -> Iterator[str]:
    """Say who enforces it, who does not, and from when on that lets nothing pass."""
    if receipt is None:
        yield "who enforces it could not be found out"
        return
    if receipt["of"] == 0:
        yield "no replica reports: nobody is known to enforce it"
        return
    yield _counted(receipt)
    for one in receipt["behind"]:
        yield f"behind: {_named(one)}, {_until(one['refuses_at'])}"
    more = receipt["of"] - receipt["enforced"] - len(receipt["behind"])
    if more:
        yield f"behind: {more:,} more"
    behind = {(one["key_id"], one["replica_id"]) for one in receipt["behind"]}
    for one in receipt["best_effort"]:
        if (one["key_id"], one["replica_id"]) not in behind:
            yield f"best effort: {printable(one['replica_id'])}, which lets pass what it cannot know"


def _counted(receipt: Mapping[str, Any]) -> str:
    one_or_many = "replica enforces" if receipt["of"] == 1 else "replicas enforce"
    last = "" if receipt["last_ms"] is None else f", the last after {receipt['last_ms']:,} ms"
    refusing = f"; {receipt['refusing']:,} of them by refusing all: silent for too long" if receipt["refusing"] else ""
    return f"{receipt['enforced']:,} of {receipt['of']:,} {one_or_many} it{last}{refusing}"


def _named(one: Mapping[str, Any]) -> str:
    return f"{printable(one['replica_id'])} at {one['generation']}.{one['seq']}, heard {moment_of(one['reported_at'])}"


def _until(refuses_at: str | None) -> str:
    """A part of a second counts as a whole one: it is the latest."""
    if refuses_at is None:
        return "which may let pass for ever"
    at = datetime.fromisoformat(refuses_at) + _SECOND - timedelta.resolution
    return f"which refuses from {moment(at)} on"


def replicas(*, as_json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """List the replicas that have reported within a day, and how far each has come.

    Those that follow over Redis alone report nothing, and are not here.
    """
    settings = ClientSettings.read(data_dir)
    answer = ask(settings, lambda client: client.replicas())
    if as_json:
        say_json(answer)
    elif not answer["items"]:
        say("no replica has reported")
    else:
        rows = [_HEADS, *map(_row, answer["items"])]
        say(*_aligned(rows))


def _row(one: Mapping[str, Any]) -> Sequence[str]:
    return (
        printable(one["replica_id"]),
        printable(one["key_id"]) or "the authority's",
        f"{one['generation']}.{one['seq']}",
        f"{one['behind']:,}",
        span(one["max_staleness_ms"] / 1000) if one["strict"] else "best effort",
        moment_of(one["reported_at"]),
        "live" if one["live"] else "silent",
    )


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[Text]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield Text("  ".join(cells).rstrip(), "dim" if number == 0 or row[-1] == "silent" else "")
