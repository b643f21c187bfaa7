"""Verbs for Biscuits: `biscuit revoke`, by the token itself or by bare ids.

A token that does not verify revokes nothing: the authority verifies it, or we do, where only we have its issuer's keys.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from countermand.cli.asking import ask
from countermand.cli.client import AuthorityClient
from countermand.cli.receipts import WaitOption, check_wait, report_receipt
from countermand.cli.terminal import (
    DataDirOption,
    DryRunOption,
    JsonOption,
    ReasonOption,
    moment_of,
    say,
    say_json,
    short,
)
from countermand.cli.tokens import PublicKeyOption, RawInputOption, TokenArgument, is_biscuit, read_token
from countermand.errors import (
    ConfigurationError,
    CountermandError,
    InvalidValueError,
    TransportError,
    UnknownTokenKeyError,
)
from countermand.log.anchor import Kind
from countermand.log.revocation_id import parse_revocation_id
from countermand.settings import ClientSettings, biscuit_keys

biscuit: Final = typer.Typer(help="Biscuits: revoke them.", no_args_is_help=True)

_AND_ALL: Final = "and all that derives from it"
_ABOVE: Final = "; the tokens from which it derives go on"


@biscuit.callback()
def _biscuit() -> None:
    """Stand before the verbs: with one alone, its name would be left out."""


@biscuit.command()
def revoke(  # noqa: PLR0913 - one for each option
    token: TokenArgument = None,
    *,
    family: Annotated[
        bool,
        typer.Option(
            "--family", help="End whatever carries its authority block: it, and all that was ever made of it."
        ),
    ] = False,
    block: Annotated[
        int | None, typer.Option(min=0, help="End what carries this block, as `countermand inspect` counts them.")
    ] = None,
    id_: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="HEX", help="A revocation id, in the place of a token; may be given again."),
    ] = None,
    raw_input: RawInputOption = False,
    public_key: PublicKeyOption = None,
    dry_run: DryRunOption = False,
    reason: ReasonOption = "",
    wait: WaitOption = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """End a Biscuit and all that derives from it; the tokens from which it derives go on.

    The token is verified, by the authority or, where that does not know the issuer's keys, by --public-key. An id given
    by --id is revoked as it is; of several, those that were before one failed are told, and the others named.
    """
    if id_ and (token or family or block is not None or raw_input or public_key):
        raise typer.BadParameter("an id stands for itself: leave out the token and what is said of one")
    if family and block is not None:
        raise typer.BadParameter("the family is block 0: give --family or --block")
    check_wait(wait, dry_run=dry_run)
    failure: CountermandError | None = None
    if id_:
        ids = [parse_revocation_id(one) for one in id_]  # all of them, before any is revoked
        settings = ClientSettings.read(data_dir)
        answer, failure = ask(settings, lambda client: _revoke_ids(client, ids, reason, wait, dry_run=dry_run))
        told = [_told(f"whatever carries {short(one['id'])}", one["answer"], _ABOVE) for one in answer["revocations"]]
        told += [f"whatever carries {short(one)} may go on: see the error" for one in answer.get("unanswered", ())]
        answer |= {"revocations": [one["answer"] for one in answer["revocations"]]}
    else:
        chosen = 0 if family else block
        text, keys = _read(token, raw=raw_input), biscuit_keys(public_key)
        settings = ClientSettings.read(data_dir)
        answer = ask(settings, lambda client: _revoke(client, text, keys, chosen, reason, wait, dry_run=dry_run))
        told = [_told(_named(chosen), answer, "" if chosen == 0 else _ABOVE)]
    if as_json:
        say_json(answer)
    else:
        say(*told)
    if failure is not None:
        raise failure
    if wait is not None:
        report_receipt(answer, as_json=as_json)


def _read(argument: str | None, *, raw: bool) -> str:
    text = read_token(argument, raw=raw)
    if not is_biscuit(text):
        raise typer.BadParameter("that is no Biscuit: a mandate is revoked by its jti, with `countermand revoke token`")
    return text


async def _revoke(
    client: AuthorityClient,
    token: str,
    keys: str | None,
    block: int | None,
    reason: str,
    wait_s: float | None,
    *,
    dry_run: bool,
) -> dict[str, Any]:
    """Revoke a block of a token, and return the authority's answer with `expires_at`."""
    try:
        answer = await client.revoke_biscuit(token, block, reason, dry_run=dry_run, wait_s=wait_s)
    except UnknownTokenKeyError as refusal:
        if keys is None:
            raise ConfigurationError(
                f"the authority cannot verify it ({refusal}), and no key is named here: give --public-key, or set "
                "COUNTERMAND_BISCUIT_KEYS"
            ) from None
        id_ = _verified_id(token, keys, block)
        answer = await client.revoke(Kind.BISCUIT.text, id_, reason, dry_run=dry_run, wait_s=wait_s)
    return await _with_expiry(client, answer)


def _verified_id(token: str, keys: str, block: int | None) -> str:
    """Return the id of a block of a token that `keys` verify.

    Raises:
        ConfigurationError, TokenError: keys that are none, or a token that they do not verify.
        InvalidValueError: it has no such block.
    """
    from countermand.tokens.biscuit import RootKeys, parse_biscuit, verify_biscuit  # noqa: PLC0415 - an extra

    ids = verify_biscuit(parse_biscuit(token), RootKeys.parse(keys)).revocation_ids
    if block is not None and block >= len(ids):
        raise InvalidValueError(f"the token has no such block: its last is {len(ids) - 1}")
    return ids[-1 if block is None else block]


async def _revoke_ids(
    client: AuthorityClient, ids: Sequence[str], reason: str, wait_s: float | None, *, dry_run: bool
) -> tuple[dict[str, Any], CountermandError | None]:
    """Revoke each id; return the `revocations`, and of the last entry the `receipt` where it is waited for.

    Where one fails after others were done, return those, the ids that are `unanswered`, and why. Raises: what the first
    failed with.
    """
    done: list[dict[str, Any]] = []
    for id_ in ids:
        try:
            answer = await client.revoke(Kind.BISCUIT.text, id_, reason, dry_run=dry_run)
        except CountermandError as error:
            if not done:
                raise
            return {"revocations": done, "unanswered": list(ids[len(done) :])}, error
        done.append({"id": id_, "answer": await _with_expiry(client, answer)})
    if wait_s is None:
        return {"revocations": done}, None
    try:
        receipt = await client.receipt(max(one["answer"]["seq"] for one in done), wait_s)
    except TransportError:
        receipt = None  # they are revoked all the same
    return {"revocations": done, "receipt": receipt}, None


async def _with_expiry(client: AuthorityClient, answer: dict[str, Any]) -> dict[str, Any]:
    """Add until when the entry is kept; nothing where that cannot be found out, and of a dry run, which makes none."""
    if answer.get("dry_run"):
        return answer
    try:
        entry = await client.revocation(answer["seq"])
    except CountermandError:
        return answer
    return answer | {"expires_at": entry.get("expires_at")}


def _named(block: int | None) -> str:
    if block == 0:
        return "the family, which is whatever carries the authority block,"
    return f"this Biscuit {_AND_ALL}" if block is None else f"what carries block {block}, {_AND_ALL},"


def _told(what: str, answer: Mapping[str, Any], above: str) -> str:
    if answer.get("dry_run"):
        unknown = "would reach what cannot be counted: whoever has one can derive others"
        return f"revoking {what} {unknown}, as of entry {answer['seq']}"
    kept = ""
    if "expires_at" in answer:
        at = answer["expires_at"]
        kept = ", kept for ever" if at is None else f", kept until nothing of it passes any more, {moment_of(at)}"
    is_new = "is revoked" if answer["is_new"] else "was already revoked"
    return f"{what} {is_new}: entry {answer['seq']}{kept}{above}"
