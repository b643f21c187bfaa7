"""`audit`: who changed what, shown, followed or exported; and `audit verify`, which proves it, with the pin alone."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, TextIO

import typer

from countermand.cli.client import AuthorityClient
from countermand.cli.following import UNKNOWN_EXIT, pinned
from countermand.cli.terminal import (
    DataDirOption,
    moment_of_ms,
    printable,
    run,
    say,
    until_signalled,
    without_tokens,
)
from countermand.errors import ConfigurationError, MalformedError
from countermand.log.audit import (
    MAX_LINE_CHARS,
    AuditProof,
    AuditRow,
    ChainedRow,
    Seal,
    parse_line,
    to_line,
)
from countermand.settings import ClientSettings

_LOOK_S: Final = 1.0

audit: Final = typer.Typer(help="Show who changed what, or prove that nobody has changed that.")


@audit.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    *,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what is changed, until Ctrl-C.")] = False,
    export: Annotated[Path | None, typer.Option(help="Write all that proves it to a new file.")] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Show who changed what, the oldest first."""
    if context.invoked_subcommand is not None:
        return
    if follow and export is not None:
        raise ConfigurationError("an export has an end: follow, or export")
    settings = ClientSettings.read(data_dir)
    if export is not None:
        with _new_file(export) as file:
            run(_export(settings, file))
    else:
        run(_follow(settings) if follow else _show(settings))


@audit.command()
def verify(
    file: Annotated[Path | None, typer.Argument(help="An export; without one, the authority is asked.")] = None,
    *,
    against: Annotated[Path | None, typer.Option(help="An earlier export, which it must go on from.")] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Prove that no row was changed, removed or moved. Exits 1 where one was, 3 where the last are not signed yet."""
    settings = ClientSettings.read(data_dir)
    earlier = None if against is None else _read(against, AuditProof(pinned(settings))).end
    proof = AuditProof(pinned(settings), earlier)
    if file is None:
        run(_prove(settings, proof))
    else:
        _read(file, proof)
    proof.finish()
    say(*_told(proof))
    sealed = proof.sealed[0] if proof.sealed is not None else 0
    raise typer.Exit(0 if sealed == proof.end.number else UNKNOWN_EXIT)


def _read(path: Path, proof: AuditProof) -> AuditProof:
    """Prove an export. Raises: ConfigurationError, MalformedError; and as `AuditProof.add`."""
    for record in _records(path):
        proof.add(record)
    return proof


def _records(path: Path) -> Iterator[ChainedRow | Seal]:
    try:
        with path.open(encoding="ascii") as lines:
            while line := lines.readline(MAX_LINE_CHARS + 1):
                yield parse_line(line)
    except UnicodeDecodeError:
        raise MalformedError(f"{path} is no export: it is not ASCII") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


async def _show(settings: ClientSettings) -> None:
    async with AuthorityClient.open(settings) as client:
        async for records in client.audit():
            say(*_lines(records))


async def _follow(settings: ClientSettings) -> None:
    stopped, after = until_signalled(), 0
    async with AuthorityClient.open(settings) as client:
        while not stopped.is_set():
            async for records in client.audit(after):
                say(*_lines(records))
                after = max([after, *(one.row.number for one in records if isinstance(one, ChainedRow))])
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await stopped.wait()


async def _export(settings: ClientSettings, file: TextIO) -> None:
    async with AuthorityClient.open(settings) as client:
        async for records in client.audit():
            file.writelines(f"{to_line(record)}\n" for record in records)


async def _prove(settings: ClientSettings, proof: AuditProof) -> None:
    async with AuthorityClient.open(settings) as client:
        async for records in client.audit():
            for record in records:
                proof.add(record)


def _new_file(path: Path) -> TextIO:
    """Open a file that is not there yet: an earlier export is evidence. Raises: ConfigurationError."""
    try:
        return path.open("x", encoding="ascii")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made: {error.strerror}") from error


def _lines(records: Iterable[ChainedRow | Seal]) -> Iterator[str]:
    for record in records:
        if isinstance(record, ChainedRow):
            yield _line(record.row)


def _line(row: AuditRow) -> str:
    at = moment_of_ms(row.at_ms)
    entry = "" if row.seq is None else f"entry {row.seq}"
    where = f"from {row.remote} (request {row.request_id})" if row.request_id else ""
    words = (row.role, row.key_id, row.application_id, row.action, row.target, row.issuer, entry, row.reason, where)
    return f"{row.number:>8}  {at}  {without_tokens(printable('  '.join(word for word in words if word)))}"


def _told(proof: AuditProof) -> Iterator[str]:
    rows = proof.end.number
    if proof.sealed is None:
        yield f"{rows} rows, chained; NOTHING IS PROVEN: no signed checkpoint is among them" if rows else "no rows"
        return
    number, checkpoint = proof.sealed
    at = moment_of_ms(checkpoint.at_ms)
    yield f"rows 1 to {number} are proven: {checkpoint.log_id} signed them at {at}"
    if number < rows:
        yield f"rows {number + 1} to {rows} are NOT PROVEN: they are chained, and no signature is kept yet"
