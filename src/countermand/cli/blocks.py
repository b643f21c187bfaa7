"""`inspect` of a Biscuit: what each block says, whether that is proven, and whether its id is revoked.

Whoever attenuates a token chooses the texts in its code, and the library writes them as they are. Here a line of code
begins as a statement does, and ours begin in another way, so that none of a token's can pass for one of ours. That a
text shows statements which the token does not have cannot be told from what is written.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from rich.cells import chop_cells
from rich.text import Text

from countermand.cli.following import following, knows
from countermand.cli.knowing import Knowledge, cut_off_with_everyone, look
from countermand.cli.terminal import moment, out, printable, run, say, say_json, span, without_tokens
from countermand.cli.tokens import DOES_NOT_HOLD, HOLDS, NOT_CHECKED, Proof
from countermand.errors import (
    BadTokenSignatureError,
    ConfigurationError,
    MalformedError,
    TokenError,
    UnknownTokenKeyError,
)
from countermand.log.anchor import Anchor, Anchors, Kind
from countermand.log.revocation_id import parse_revocation_id
from countermand.settings import ClientSettings, has_revoked_ids
from countermand.stores.static import StaticRevocationStore
from countermand.tokens.biscuit import (
    Biscuit,
    RootKeys,
    UnverifiedBiscuit,
    WrittenBlock,
    parse_biscuit,
    verify_biscuit,
)
from countermand.tokens.policy import Facts, Policy, Refusal
from countermand.wiring import static_revocations, system_clock

Question: TypeAlias = tuple[str, Facts]
"""A policy, and facts of a request."""

ALLOWED: Final = "allowed"
REFUSED: Final = "refused"
NOT_VERIFIED: Final = "no such key"

_STATEMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_:]*\(|(?:check|reject) (?:if|all) ")
_WHY: Final = {
    Refusal.CHECKS: "a check of the token, or of the policy, does not hold",
    Refusal.POLICIES: "no policy allows it, or the first that matches denies it",
    Refusal.LIMITS: "it took too long",
}
_INDENT: Final = "    "
_SKIPPED: Final = "🙈 Public key check skipped 🔑"
_NOT_ASKED: Final = "🙈 Datalog check skipped 🛡️"
_NO_AUTHORITY: Final = "🙈 Revocation check skipped: no authority has run here, and COUNTERMAND_URL names none"


@dataclass(frozen=True, slots=True)
class BlockState:
    """A block, and what is known of its id: None where nothing is. `canonical_id` None: it is no id at all."""

    written: WrittenBlock
    canonical_id: str | None
    ends_at_s: int | None = None
    is_revoked: bool | None = None
    revoked_by: int | None = None
    is_listed: bool | None = None
    """Whether the list of revoked ids that is configured here has it; None without one."""

    def to_json(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {
            "datalog": self.written.code,
            "revocation_id": self.written.revocation_id,
            "canonical_id": self.canonical_id,
            "external_key": self.written.external_key,
            "expires_at": _instant(self.ends_at_s),
            "revoked": self.is_revoked,
            "revoked_by": self.revoked_by,
            "listed": self.is_listed,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What the Datalog came to: `allowed`, `refused` or `not checked`."""

    state: str
    reason: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """All that is found out of a Biscuit. `knowledge` None: no authority was asked."""

    key_id: int | None
    blocks: tuple[BlockState, ...]
    proof: Proof
    datalog: Answer
    biscuit: Biscuit | None = None
    """The token, if it was verified."""
    knowledge: Knowledge | None = None
    cut_off_by: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return them as `--json` prints them."""
        return {
            "root_key_id": self.key_id,
            "blocks": [block.to_json() for block in self.blocks],
            "expires_at": _instant(self.blocks[-1].ends_at_s),
            "signature": asdict(self.proof),
            "datalog": asdict(self.datalog),
            "cutoff_for_all": self.cut_off_by,
            "knowledge": None if self.knowledge is None else asdict(self.knowledge),
        }


def inspect_biscuit(
    token: str, keys: str | None, question: Question | None, settings: ClientSettings | None, *, as_json: bool
) -> bool:
    """Show a Biscuit; return False where an authority's log cannot be known now.

    Raises:
        MalformedTokenError: it is none.
        ConfigurationError: keys that are none, or a policy that is none, or without a key; or a list that is none.
    """
    unverified = parse_biscuit(token)
    if question is not None and keys is None:
        raise ConfigurationError("a policy is asked about a verified token alone: --public-key verifies it")
    findings = find(unverified, keys, question)
    if has_revoked_ids():
        findings = _with_list(findings, static_revocations())
    if settings is not None:
        findings = run(_look_up(findings, settings))
    if as_json:
        say_json(findings.to_json())
    else:
        say(*told(findings, out.width if out.is_terminal else None))
    return findings.knowledge is None or findings.knowledge.is_fresh


def find(unverified: UnverifiedBiscuit, keys: str | None, question: Question | None) -> Findings:
    """Return what can be found out without an authority.

    Raises:
        MalformedTokenError: a block cannot be read.
        ConfigurationError, InvalidValueError: keys that are none, a policy that is none, or a fact.
    """
    biscuit, proof = prove(unverified, None if keys is None else RootKeys.parse(keys))
    return Findings(unverified.key_id, tuple(_blocks(unverified, biscuit)), proof, _asked(biscuit, question), biscuit)


def _with_list(findings: Findings, listed: StaticRevocationStore) -> Findings:
    """Add what a list says, which is the whole answer where no authority is asked."""

    def looked(block: BlockState) -> BlockState:
        if block.canonical_id is None:
            return block
        is_listed = listed.is_revoked(block.canonical_id)
        return replace(block, is_listed=is_listed, is_revoked=is_listed)

    return replace(findings, blocks=tuple(map(looked, findings.blocks)))


async def _look_up(findings: Findings, settings: ClientSettings) -> Findings:
    """Add what the authority's log says."""
    anchors = Anchors(()) if findings.biscuit is None else findings.biscuit.anchors()
    async with following(settings) as replica:
        is_known = await knows(replica)
        now_ms, state = system_clock().wall_ms, replica.state

        def looked(block: BlockState) -> BlockState:
            if block.canonical_id is None:
                return block
            known = look(state, anchors, Anchor(Kind.BISCUIT, block.canonical_id), now_ms, is_known=is_known)
            return replace(block, is_revoked=block.is_listed or known.is_revoked, revoked_by=known.revoked_by)

        blocks = tuple(map(looked, findings.blocks))
        cut_off_by = cut_off_with_everyone(state, anchors, now_ms) if anchors.path else None
        return replace(findings, blocks=blocks, knowledge=Knowledge.of(replica), cut_off_by=cut_off_by)


def prove(unverified: UnverifiedBiscuit, keys: RootKeys | None) -> tuple[Biscuit | None, Proof]:
    """Return the token if `keys` verify it, and what came of that."""
    if keys is None:
        return None, Proof(NOT_CHECKED, "no root key was given")
    try:
        return verify_biscuit(unverified, keys), Proof(HOLDS, "the signature holds")
    except BadTokenSignatureError as refusal:
        return None, Proof(DOES_NOT_HOLD, str(refusal))
    except UnknownTokenKeyError as refusal:
        return None, Proof(NOT_VERIFIED, str(refusal))
    except TokenError as refusal:
        return None, Proof(REFUSED, f"no guard would read it: {refusal}")


def _asked(biscuit: Biscuit | None, question: Question | None) -> Answer:
    """Raises: ConfigurationError, InvalidValueError."""
    if question is None:
        return Answer(NOT_CHECKED)
    code, facts = question
    policy = Policy(code)
    if biscuit is None:
        return Answer(NOT_CHECKED)
    refusal = policy.refusal(biscuit, facts, system_clock().wall_ms / 1000)
    return Answer(ALLOWED) if refusal is None else Answer(REFUSED, refusal)


def _blocks(unverified: UnverifiedBiscuit, biscuit: Biscuit | None) -> Iterator[BlockState]:
    """Yield what the verified token says, if it was verified. Raises: MalformedTokenError."""
    written = unverified.unproven_blocks() if biscuit is None else biscuit.written_blocks()
    for number, block in enumerate(written):
        ends_at_s = None if biscuit is None else biscuit.ends_at_s(number)
        yield BlockState(block, _canonical(block.revocation_id), ends_at_s)


def _canonical(id_: str) -> str | None:
    try:
        return parse_revocation_id(id_)
    except MalformedError:
        return None


def told(findings: Findings, width: int | None = None) -> Iterator[str | Text]:
    """Yield the lines: the blocks in the layout that Biscuit's own command line has, then what came of the checks.

    On a terminal of `width`, code goes on behind an indent where it would begin another line there.
    """
    for number, block in enumerate(findings.blocks):
        yield f"Block n°{number}:" if number else "Authority block:"
        yield "== Datalog =="
        for line in code_lines(block.written.code):
            first, *more = [line] if width is None else chop_cells(line, max(width - len(_INDENT), 2))
            yield first
            yield from (f"{_INDENT}{rest}" for rest in more)
        yield ""
        yield "== Revocation id =="
        yield block.written.revocation_id
        yield ""
        yield "=========="
        yield ""
    yield from _check_lines(findings)
    yield from _state_lines(findings)


def code_lines(code: str) -> Iterator[str]:
    """Yield a line for each statement. A line break that ends none is shown as an escape, as whatever else is none.

    A line that a text in the code makes begin as a statement does is taken for one.
    """
    held = ""
    for line in code.removesuffix("\n").split("\n"):
        if held.endswith(";") and _STATEMENT.match(line):
            yield _shown(held)
            held = line
        else:
            held = f"{held}\n{line}" if held else line
    if held:
        yield _shown(held)


def _shown(code: str) -> str:
    line = printable(without_tokens(code))
    return line if _STATEMENT.match(line) else f"(no statement) {line}"


def _check_lines(findings: Findings) -> Iterator[str | Text]:
    proof, datalog = findings.proof, findings.datalog
    if proof.state == NOT_CHECKED:
        yield _SKIPPED
    elif proof.holds:
        yield f"✅ Public key check succeeded 🔑: {proof.sentence}"
    else:
        yield Text(f"❌ Public key check failed 🔑: {proof.sentence}", "bold red")
    if datalog.state == NOT_CHECKED:
        yield _NOT_ASKED
    elif datalog.state == ALLOWED:
        yield "✅ Datalog check succeeded 🛡️: the policy allows it now"
    elif datalog.reason is not None:
        yield Text(f"❌ Datalog check failed 🛡️: {_WHY[datalog.reason]}", "bold red")
    if not proof.holds:
        yield Text("NOTHING OF THIS IS PROVEN: no fact is true yet, and the ids may be another token's", "bold red")


def _state_lines(findings: Findings) -> Iterator[str | Text]:
    yield from _expiry(findings.blocks[-1].ends_at_s)
    for number, block in enumerate(findings.blocks):
        if block.written.external_key is not None:
            yield f"block {number} was signed by a third party: {printable(block.written.external_key)}"
    knowledge, has_list = findings.knowledge, any(block.is_listed is not None for block in findings.blocks)
    if knowledge is None and not has_list:
        yield _NO_AUTHORITY
        return
    yield "revocation ids, the authority block's first"
    for number, block in enumerate(findings.blocks):
        yield _block_line(number, block)
    yield _sum(findings)
    if knowledge is None:
        yield "known      what is listed: no authority was asked"
    else:
        yield Text(f"known      {knowledge.sentence}", "" if knowledge.is_fresh else "bold red")


def _block_line(number: int, block: BlockState) -> Text:
    line = Text(f"    block {number}  ")
    if block.is_revoked:
        return line.append(f"REVOKED by {_ended_by(block)}", "red")
    if block.canonical_id is None:
        return line.append("no revocation id: no guard would read it", "red")
    return line.append("not revoked" if block.is_revoked is False else "not known", "dim")


def _ended_by(block: BlockState) -> str:
    words = [] if block.revoked_by is None else [f"entry {block.revoked_by}"]
    return " and ".join([*words, "the list"] if block.is_listed else words)


def _sum(findings: Findings) -> Text:
    """Say in one line what the blocks' states come to."""
    ended = [f"block {number}, {_ended_by(one)}" for number, one in enumerate(findings.blocks) if one.is_revoked]
    supposed = "" if findings.proof.holds else ", if the ids are its own"
    words = [f"IT IS REVOKED{supposed}: {'; '.join(ended)}"] if ended else []
    words += [] if findings.cut_off_by is None else [f"IT IS CUT OFF: everyone, entry {findings.cut_off_by}"]
    if words:
        return Text(". ".join(words), "bold red")
    if any(block.is_revoked is None for block in findings.blocks):
        return Text("WHETHER IT IS REVOKED IS NOT KNOWN")
    is_all = findings.knowledge is not None and not supposed
    return Text("nothing of this is revoked or cut off" if is_all else "no id of this is revoked")


def _expiry(ends_at_s: int | None) -> Iterator[str]:
    if ends_at_s is None:
        return
    try:
        at = datetime.fromtimestamp(ends_at_s, UTC)
    except (ValueError, OverflowError, OSError):
        return
    ahead_s = (at - datetime.now(UTC)).total_seconds()
    yield f"passes nowhere from {moment(at)} on, {f'in {span(ahead_s)}' if ahead_s > 0 else f'{span(-ahead_s)} ago'}"


def _instant(at_s: int | None) -> str | None:
    try:
        return None if at_s is None else moment(datetime.fromtimestamp(at_s, UTC))
    except (ValueError, OverflowError, OSError):
        return None
