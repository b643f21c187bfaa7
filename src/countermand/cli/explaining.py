"""`explain`: what a resource server decided about a request, and why, from the log that it wrote itself.

The log is a stranger's: lines that are no record of ours are passed over, whatever they are. It is read line by line,
and a line longer than any record is read in parts and passed over too.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import typer
from rich.text import Text

from countermand.cli.asking import ask
from countermand.cli.terminal import (
    DataDirOption,
    JsonOption,
    err,
    moment_of_ms,
    printable,
    say,
    say_json,
    span,
    without_tokens,
)
from countermand.enforce.decision import Code, Deny
from countermand.enforce.trace import Outcome, Record, is_request_id
from countermand.errors import ConfigurationError, CountermandError, MalformedError, NotFoundError
from countermand.log.anchor import Kind
from countermand.settings import ClientSettings

MAX_LINE_BYTES: Final = 65_536
_REASONS_KEPT: Final = 64

ReasonOf = Callable[[Record], str]
"""What an operator gave as the reason for the entry that a record names; empty where that is not to be had."""

_WHY_UNKNOWN: Final = {
    "starting": "the replica had not heard from the authority since it started",
    "stale": "the replica had not heard from the authority for too long",
    "not_following": "nothing kept the replica current: what follows the log did not start",
    "store_error": "the revocation store did not answer",
    "store_timeout": "the revocation store did not answer in time",
    "no_staleness": "a staleness was required, and a revocation store has none",
    "check_error": "what knows the revocations failed",
}
_COLOURS: Final = {Outcome.ALLOWED: "green", Outcome.RELEASED: "green", Outcome.HELD: "yellow"}
_OUTCOMES: Final = {
    Outcome.ALLOWED: "let in",
    Outcome.DENIED: "denied",
    Outcome.HELD: "held, while it was in flight: nothing passed",
    Outcome.RELEASED: "released: it went on",
    Outcome.CUT: "cut, while it was in flight",
}


def explain(
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID", help="The X-Request-Id of the answer.")],
    *,
    log: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The log; standard input, if left out."),
    ] = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Say what a resource server decided about a request, and why, from the log that it wrote.

    The reason of a revocation is added where an authority is configured. Exits 1 where the log says nothing of it.
    """
    if not is_request_id(request_id):
        raise typer.BadParameter("that is no request id: it is up to 64 letters, digits, dots, dashes and underscores")
    reason_of = _reasons(data_dir)
    found = False
    with _opened(log) as lines:
        for record in records_of(lines, request_id):
            found = True
            reason = reason_of(record)
            if as_json:
                say_json(record.to_fields() | ({"revocation_reason": reason} if reason else {}))
            else:
                say(*_told(record, reason))
    if not found:
        err.print(f"the log says nothing of {request_id}")
        raise typer.Exit(1)


@contextmanager
def _opened(log: Path | None) -> Iterator[BinaryIO]:
    if log is not None:
        with log.open("rb") as file:
            yield file
        return
    if sys.stdin.isatty():
        err.print("the log, by standard input; --log reads a file:")
    yield sys.stdin.buffer


def records_of(lines: BinaryIO, request_id: str) -> Iterator[Record]:
    """Yield the records of one request in the order of the log."""
    wanted = request_id.encode()
    for line in _short_lines(lines):
        if wanted in line and (record := _record(line)) is not None and record.request_id == request_id:
            yield record


def _short_lines(lines: BinaryIO) -> Iterator[bytes]:
    is_whole = True
    while line := lines.readline(MAX_LINE_BYTES):
        began, is_whole = is_whole, line.endswith(b"\n")
        if began and (is_whole or len(line) < MAX_LINE_BYTES):
            yield line


def _record(line: bytes) -> Record | None:
    """Return the record in a line of JSON, None where there is none."""
    try:
        read = json.loads(line)
        return Record.parse(read["decision"])
    except (ValueError, TypeError, KeyError, RecursionError, MalformedError):
        return None


def _reasons(data_dir: Path | None) -> ReasonOf:
    """Return how to ask for reasons. Without an authority there are none. Raises: ConfigurationError."""
    try:
        settings = ClientSettings.read(data_dir)
    except ConfigurationError:
        if data_dir is not None:
            raise
        return lambda _record: ""
    return _Reasons(settings).of


class _Reasons:
    """The reasons of entries, as an authority tells them. One that does not answer is not asked again."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._answers = True
        self._entry = lru_cache(_REASONS_KEPT)(self._ask)

    def of(self, record: Record) -> str:
        """See ReasonOf. An entry that is about something else is another authority's."""
        if record.seq is None or not record.anchor_id:
            return ""
        entry = self._entry(record.seq)
        return str(entry.get("reason", "")) if _is_about(entry, record) else ""

    def _ask(self, seq: int) -> dict[str, Any]:
        if not self._answers:
            return {}
        try:
            return ask(self._settings, lambda client: client.revocation(seq))
        except NotFoundError:
            return {}
        except CountermandError as error:
            self._answers = False
            err.print(f"the authority does not tell reasons: {without_tokens(printable(str(error)))}")
            return {}


def _is_about(entry: dict[str, Any], record: Record) -> bool:
    """Whether an entry is the one that a record names: itself, or a cutoff for it."""
    named = record.anchor_kind, record.anchor_id
    cut_off = Kind.CUTOFF.text, ":".join(named)
    return (entry.get("kind"), entry.get("id")) in {named, cut_off} and entry.get("issuer") == record.anchor_issuer


def _told(record: Record, reason: str) -> Iterator[Text]:
    """Yield the lines that tell a record in plain words."""
    answer = f": {record.status} {record.code}" if record.status is not None else ""
    at = moment_of_ms(record.at_ms)
    head = f"{at}  {_OUTCOMES[record.outcome]}{answer}"
    yield Text(_shown(head), _COLOURS.get(record.outcome, "red"))
    for name, words in (
        ("why", _why(record)),
        ("reason", reason),
        ("known", _known(record)),
        ("token", _token(record)),
        ("helps", _helps(record.code)),
    ):
        if words:
            yield Text(f"  {name:8}{_shown(words)}")


def _shown(words: str) -> str:
    return without_tokens(printable(words))


def _why(record: Record) -> str:
    if record.anchor_kind:
        return _ended(record)
    if record.code == Code.REVOCATION_UNAVAILABLE:
        return _why_unknown(record)
    if record.status == 403:
        return f"the request requires more than the token has: {record.reason}"
    if record.code == Code.KEYS_UNAVAILABLE:
        return "the keys of the issuer could not be had"
    return record.reason.replace("_", " ")


def _ended(record: Record) -> str:
    by = "the revocation store says so" if record.seq is None else f"entry {record.seq} of the ledger ends it"
    if record.anchor_kind == Kind.CUTOFF.text:
        return f"the token was issued before a cutoff for everybody: {by}"
    issuer = f" of {record.anchor_issuer}" if record.anchor_issuer else ""
    return f"the token rests on {record.anchor_kind} {record.anchor_id}{issuer}, which is ended: {by}"


def _why_unknown(record: Record) -> str:
    if record.reason == "stale" and record.staleness_ms is not None:
        bound = "" if record.max_staleness_s is None else f"; the request allows {record.max_staleness_s:g} s"
        return f"the replica had not heard from the authority for {span(record.staleness_ms / 1000)}{bound}"
    return _WHY_UNKNOWN.get(record.reason, record.reason)


def _known(record: Record) -> str:
    if record.staleness_ms is None:
        return ""
    return f"what was known of revocations was {record.staleness_ms / 1000:.1f} s old"


def _token(record: Record) -> str:
    session = f"session {record.session_id}" if record.session_id else ""
    return ", ".join(part for part in (record.token_id, session) if part)


def _helps(code: str) -> str:
    return Deny.of(Code(code)).hint if code in set(Code) else ""
