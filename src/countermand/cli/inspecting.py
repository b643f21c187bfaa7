"""`inspect`: what a token says, whether that is proven, and what the log says of all that it rests on."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from countermand.cli.following import UNKNOWN_EXIT, following, knows
from countermand.cli.knowing import AnchorState, Knowledge, cut_off_with_everyone, look
from countermand.cli.terminal import (
    DataDirOption,
    JsonOption,
    moment,
    printable,
    run,
    say,
    say_json,
    short,
    span,
    without_tokens,
)
from countermand.cli.tokens import (
    DOES_NOT_HOLD,
    Opened,
    Proof,
    PublicKeyOption,
    RawInputOption,
    TokenArgument,
    is_biscuit,
    open_token,
    prove,
    read_token,
)
from countermand.errors import MalformedTokenError, TokenError
from countermand.log.anchor import Anchors
from countermand.settings import ClientSettings, biscuit_keys, read_policy
from countermand.tokens.claims import instant
from countermand.wiring import system_clock

_LONG: Final = 72


@dataclass(frozen=True, slots=True)
class Findings:
    """All that `inspect` finds out. `unreadable` says why no guard would read the claims; then there are no anchors."""

    opened: Opened
    proof: Proof
    anchors: tuple[AnchorState, ...]
    unreadable: str | None
    cut_off_by: int | None
    """The cutoff for everyone that reaches the token; then none for a subject or an application is looked for."""
    knowledge: Knowledge

    def to_json(self) -> dict[str, Any]:
        """Return them as `--json` prints them."""
        return {
            "header": self.opened.header,
            "claims": self.opened.claims,
            "signature": asdict(self.proof),
            "unreadable": self.unreadable,
            "anchors": [asdict(anchor) for anchor in self.anchors],
            "cutoff_for_all": self.cut_off_by,
            "knowledge": asdict(self.knowledge),
        }


def inspect(
    token: TokenArgument = None,
    *,
    raw_input: RawInputOption = False,
    public_key: PublicKeyOption = None,
    policy: Annotated[
        Path | None, typer.Option(help="A file of Datalog, by which a verified Biscuit is authorized, as of now.")
    ] = None,
    fact: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TEXT", help='A fact for the policy, NAME("TEXT"), as of a request; may be given again.'
        ),
    ] = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Show what a token says, and what of its path is revoked by which entry. Of a Biscuit, block by block.

    It says whether the claims are proven, and decides nothing: a token may have expired, or be forged. The code of a
    block is shown as the token writes it: a text in it may look like statements. Exits 3 where the log cannot be known
    now; a Biscuit is shown without an authority, too.
    """
    text = read_token(token, raw=raw_input)
    if is_biscuit(text):
        from countermand.cli.blocks import inspect_biscuit  # noqa: PLC0415 - an extra

        asked = None if policy is None else (read_policy(policy), facts_of(fact or []))
        is_known = inspect_biscuit(
            text, biscuit_keys(public_key), asked, ClientSettings.find(data_dir), as_json=as_json
        )
    elif public_key or policy or fact:
        raise typer.BadParameter("that is no Biscuit: leave out --public-key, --policy and --fact")
    else:
        is_known = _inspect_mandate(ClientSettings.read(data_dir), text, as_json=as_json)
    raise typer.Exit(0 if is_known else UNKNOWN_EXIT)


def facts_of(texts: Sequence[str]) -> dict[str, str]:
    """Return the facts that are written NAME=TEXT, by their names."""
    facts = {name: text for name, equals, text in (text.partition("=") for text in texts) if equals}
    if len(facts) != len(texts):
        raise typer.BadParameter("a fact is written NAME=TEXT, each name once; what else there is, the policy can say")
    return facts


def _inspect_mandate(settings: ClientSettings, text: str, *, as_json: bool) -> bool:
    """Show a mandate; return whether the log is known."""
    findings = run(_examine(settings, open_token(text)))
    if as_json:
        say_json(findings.to_json())
    else:
        say(*_told(findings))
    return findings.knowledge.is_fresh


async def _examine(settings: ClientSettings, opened: Opened) -> Findings:
    try:
        anchors, unreadable = opened.anchors(), None
    except MalformedTokenError as refusal:
        anchors, unreadable = Anchors(()), str(refusal)
    async with following(settings) as replica:
        proof = await prove(opened, settings.url)
        is_known = await knows(replica)
        now_ms = system_clock().wall_ms
        cut_off_by = cut_off_with_everyone(replica.state, anchors, now_ms) if anchors.path else None
        states = tuple(look(replica.state, anchors, anchor, now_ms, is_known=is_known) for anchor in anchors.path)
        return Findings(opened, proof, states, unreadable, cut_off_by, Knowledge.of(replica))


def _told(findings: Findings) -> Iterator[str | Text]:
    """Yield the lines: the danger first."""
    proof = findings.proof
    if proof.holds:
        yield f"signature  holds: {proof.sentence}"
    else:
        loud = "THE SIGNATURE DOES NOT HOLD" if proof.state == DOES_NOT_HOLD else "THE SIGNATURE WAS NOT CHECKED"
        yield Text(f"{loud}: {proof.sentence}. The claims are not proven", "bold red")
    yield f"header     {_json(findings.opened.header)}"
    yield "claims"
    claims = findings.opened.claims
    width = max((len(printable(name)) for name in claims), default=0)
    for name, value in claims.items():
        if name != "path" or findings.unreadable is not None:
            first, *more = _value_lines(value)
            yield f"    {printable(name):{width}}  {first}{_time(claims, name)}"
            yield from (f"    {'':{width}}  {line}" for line in more)
    if findings.unreadable is not None:
        yield Text(f"no guard would read it: {findings.unreadable}", "bold red")
    else:
        yield "rests on, root first"
        yield from _path_lines(findings.anchors)
        yield _sum(findings)
    yield Text(f"known      {findings.knowledge.sentence}", "" if findings.knowledge.is_fresh else "bold red")


def _path_lines(anchors: tuple[AnchorState, ...]) -> Iterator[Text]:
    width = max((len(anchor.kind) for anchor in anchors), default=0)
    for anchor in anchors:
        of = f" of {printable(anchor.issuer)}" if anchor.issuer else ""
        line = Text(f"    {anchor.kind:{width}}  {printable(anchor.id)}{of}  ")
        if anchor.is_revoked:
            line.append(f"REVOKED by entry {anchor.revoked_by}", "red")
        else:
            line.append("not revoked" if anchor.is_revoked is False else "not known", "dim")
        if anchor.cut_off_by is not None:
            line.append(f", CUT OFF by entry {anchor.cut_off_by}", "red")
        yield line


def _sum(findings: Findings) -> Text:
    """Say in one line what the anchors' states come to."""
    ended = [f"{one.kind} {printable(one.id)}, entry {one.revoked_by}" for one in findings.anchors if one.is_revoked]
    cut = [f"{one.kind} {printable(one.id)}, entry {one.cut_off_by}" for one in findings.anchors if one.cut_off_by]
    if findings.cut_off_by is not None:
        cut.insert(0, f"everyone, entry {findings.cut_off_by}")
    words = [f"IT IS REVOKED: {'; '.join(ended)}"] if ended else []
    words += [f"IT IS CUT OFF: {'; '.join(cut)}"] if cut else []
    if words:
        return Text(". ".join(words), "bold red")
    is_known = findings.knowledge.is_fresh
    return Text("nothing of this is revoked or cut off" if is_known else "WHETHER IT IS REVOKED IS NOT KNOWN")


def _value_lines(value: object) -> list[str]:
    """Return a claim's value, a line for each item of a long list. Of an object in one, values are cut short."""
    whole = _json(value)
    if not isinstance(value, list) or len(whole) <= _LONG:
        return [whole]
    return [
        " ".join(short(printable(str(part))) for part in item.values()) if isinstance(item, dict) else _json(item)
        for item in value
    ]


def _json(value: object) -> str:
    return printable(without_tokens(json.dumps(value, ensure_ascii=False)))


def _time(claims: dict[str, object], name: str) -> str:
    """Say when the claims about time are."""
    if name not in {"exp", "iat", "nbf"}:
        return ""
    try:
        at = datetime.fromtimestamp(instant(claims, name), UTC)
    except (TokenError, ValueError, OverflowError):
        return ""
    ahead_s = (at - datetime.now(UTC)).total_seconds()
    if ahead_s > 0:
        return f"  {moment(at)}, in {span(ahead_s)}"
    return f"  {moment(at)}, {'EXPIRED ' if name == 'exp' else ''}{span(-ahead_s)} ago"
