"""`check`: whether a guard would let a token act now, and why."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from countermand.cli.following import UNKNOWN_EXIT, knows, pinned
from countermand.cli.terminal import DataDirOption, JsonOption, moment, printable, run, say, say_json
from countermand.cli.tokens import TokenArgument, open_token, read_token
from countermand.enforce.decision import Allow, Code, Decision, Deny
from countermand.errors import TokenError, WrongIssuerError
from countermand.log.state import LogState
from countermand.log.verdict import Revoked
from countermand.replica.replica import Replica
from countermand.settings import ClientSettings
from countermand.tokens.claims import audience_of
from countermand.transport.http import HttpLog, check_url
from countermand.wiring import following_guard, keys_of, system_clock


def check(
    token: TokenArgument = None,
    *,
    audience: Annotated[str | None, typer.Option(help="At which audience; the token's own, if left out.")] = None,
    issuer: Annotated[str | None, typer.Option(help="Whose tokens pass; the authority's URL, if left out.")] = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Say whether a guard would let a token act now, and why.

    Exits 0 where it would, 1 where it would not, 3 where it could not know.
    """
    settings = ClientSettings.read(data_dir)
    text = read_token(token)
    authority_url = check_url(settings.url, "the authority's URL")
    asked = audience or _own_audience(text)
    decision, seq = run(_decide(settings, text, asked or authority_url, issuer or authority_url))
    if as_json:
        say_json(_decision_json(decision, seq, asked))
    else:
        colour = "green" if isinstance(decision, Allow) else "red"
        say(Text(_decision_line(decision, seq), colour))
        if audience is None and asked is not None:
            say(f"asked for the token's own audience, {printable(asked)}; --audience asks for another")
        if issuer is None and isinstance(decision, Deny) and decision.reason == WrongIssuerError.code:
            say(f"asked for tokens of {authority_url}; --issuer names another issuer")
    raise typer.Exit(0 if isinstance(decision, Allow) else UNKNOWN_EXIT if decision.may_pass_later else 1)


def _own_audience(token: str) -> str | None:
    """Return the first audience that a token names; None where there is none, and every guard refuses it."""
    try:
        return audience_of(open_token(token).claims)[0]
    except TokenError:
        return None


async def _decide(settings: ClientSettings, token: str, audience: str, issuer: str) -> tuple[Decision, int | None]:
    """Return a guard's decision, and the entry by which it denies, if one does."""
    replica = Replica(LogState(pinned(settings)), system_clock)
    log = HttpLog(settings.url, settings.api_key)
    async with following_guard(keys_of(issuer), replica, log, issuer=issuer, audience=audience) as guard:
        decision = await guard.decide(token)
        if isinstance(decision, Deny) and decision.code is Code.REVOCATION_UNAVAILABLE and await knows(replica):
            decision = await guard.decide(token)
    if isinstance(decision, Allow) or decision.code is not Code.SESSION_REVOKED:
        return decision, None
    verdict = replica.check(open_token(token).anchors())
    return decision, verdict.seq if isinstance(verdict, Revoked) else None


def _decision_line(decision: Decision, seq: int | None) -> str:
    if isinstance(decision, Deny):
        why = printable(decision.reason) + ("" if seq is None else f", entry {seq}")
        return f"deny {decision.status} {decision.code}: {decision.description} ({why})"
    mandate = decision.mandate
    acting = f" by agent {printable(mandate.agent_session_id)}" if mandate.agent_session_id else ""
    scopes = f", scope {printable(' '.join(sorted(mandate.scopes)))}" if mandate.scopes else ""
    return f"allow {printable(mandate.subject)}{acting}{scopes}, until {_until(mandate.expires_at_s)}"


def _until(expires_at_s: float) -> str:
    try:
        return moment(datetime.fromtimestamp(expires_at_s, UTC))
    except (ValueError, OverflowError):
        return "the end of time"


def _decision_json(decision: Decision, seq: int | None, audience: str | None) -> dict[str, Any]:
    if isinstance(decision, Allow):
        return {"decision": "allow", "audience": audience, "claims": dict(decision.mandate.claims)}
    return {
        "decision": "deny",
        "status": decision.status,
        "code": decision.code,
        "description": decision.description,
        "hint": decision.hint,
        "reason": decision.reason,
        "seq": seq,
        "audience": audience,
    }
