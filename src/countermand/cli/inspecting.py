"""`inspect`: what a token says, whether that is proven, and what the log says of all that it rests on."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

import typer
from rich.text import Text

from countermand.cli.following import UNKNOWN_EXIT, following, knows
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
from countermand.cli.tokens import DOES_NOT_HOLD, Opened, Proof, TokenArgument, open_token, prove, read_token
from countermand.errors import MalformedTokenError, TokenError
from countermand.log.anchor import Anchor, Anchors, Kind
from countermand.log.state import LogState
from countermand.replica.replica import Replica, ReplicaState
from countermand.settings import ClientSettings
from countermand.tokens.claims import instant
from countermand.wiring import system_clock

_LONG: Final = 72
_CUTOFF_TARGETS: Final = frozenset({Kind.SUBJECT, Kind.APPLICATION})


@dataclass(frozen=True, slots=True)
class AnchorState:
    """What is known of one anchor: None where nothing is. Entries are numbers of the ledger."""

    kind: str
    id: str
    issuer: str
    is_revoked: bool | None
    revoked_by: int | None
    cut_off_by: int | None


@dataclass(frozen=True, slots=True)
class Knowledge:
    """How good the answer is: up to which entry the log is applied here, and how old that is."""

    is_fresh: bool
    seq: int
    staleness_ms: int | None
    error: str | None

    @classmethod
    def of(cls, replica: Replica) -> "Knowledge":
        """Return what `replica` is good for now."""
        status = replica.status()
        return cls(status.state is ReplicaState.FRESH, status.rev.seq, status.staleness_ms, status.error)

    @property
    def sentence(self) -> str:
        """It in words."""
        if self.staleness_ms is None:
            return f"NOTHING IS KNOWN: the log could not be followed ({self.error or 'nothing came in time'})"
        age = f"as of entry {self.seq}, {self.staleness_ms / 1000:.1f} s old"
        return age if self.is_fresh else f"TOO OLD TO SAY: {age} ({self.error or 'no checkpoint in time'})"


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


def inspect(token: TokenArgument = None, *, as_json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Show what a token says, and what of its path is revoked by which entry.

    It says whether the claims are proven, and decides nothing: a token may have expired, or be forged. Exits 3 where
    the log cannot be known now.
    """
    settings = ClientSettings.read(data_dir)
    opened = open_token(read_token(token))
    findings = run(_examine(settings, opened))
    if as_json:
        say_json(findings.to_json())
    else:
        say(*_told(findings))
    raise typer.Exit(0 if findings.knowledge.is_fresh else UNKNOWN_EXIT)


async def _examine(settings: ClientSettings, opened: Opened) -> Findings:
    try:
        anchors, unreadable = opened.anchors(), None
    except MalformedTokenError as refusal:
        anchors, unreadable = Anchors(()), str(refusal)
    async with following(settings) as replica:
        proof = await prove(opened, settings.url)
        is_known = await knows(replica)
        now_ms = system_clock().wall_ms
        everyone = replica.state.find(Anchors((), anchors.issued_at_s, anchors.rev), now_ms) if anchors.path else None
        states = tuple(_look(replica.state, anchors, anchor, now_ms, is_known=is_known) for anchor in anchors.path)
        cut_off_by = everyone.seq if everyone else None
        return Findings(opened, proof, states, unreadable, cut_off_by, Knowledge.of(replica))


def _look(state: LogState, anchors: Anchors, anchor: Anchor, now_ms: int, *, is_known: bool) -> AnchorState:
    """What is known to be revoked is, however old the knowledge; the rest only fresh knowledge can tell."""
    revoked_by = state.seq_of(anchor.key)
    reached = None
    if anchor.kind in _CUTOFF_TARGETS:
        alone = state.find(Anchors((anchor,), anchors.issued_at_s, anchors.rev), now_ms)
        reached = alone.seq if alone is not None and revoked_by is None and alone.anchor == anchor else None
    is_revoked = True if revoked_by is not None else False if is_known else None
    return AnchorState(anchor.kind.text, anchor.id, anchor.issuer, is_revoked, revoked_by, reached)


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
