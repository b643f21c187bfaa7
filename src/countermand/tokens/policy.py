"""What a Biscuit may do here: an application's Datalog, asked about one request.

The token's own checks are asked with it. What a token could keep us busy with is bounded before (see `blocks`), so the
limit in time is there for the application's own rules, and wide: a loaded machine must not refuse a good token.
Source: docs/protocol.md, "Biscuit"; the Biscuit specification, version 2, "Datalog".
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, TypeAlias

import biscuit_auth

from countermand.errors import ConfigurationError, InvalidValueError
from countermand.log.revocation_id import twins
from countermand.tokens.biscuit import MAX_BLOCKS, Biscuit
from countermand.tokens.work import AUTHORIZER_FACTS, AUTHORIZER_TEXT

MAX_TIME: Final = timedelta(seconds=1)
"""Of wall clock, and it is given twice. The library's own millisecond refuses good tokens on a loaded machine."""
ATTEMPTS: Final = 2

Term: TypeAlias = str | int | bool | bytes | datetime
Facts: TypeAlias = Mapping[str, Term | tuple[Term, ...]]
"""Of a request, by their names: one term each, or several. `{"operation": "read"}` is `operation("read")`."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_NAMED: Final = re.compile(r"([\w:]+)\s*\(")
_OF_A_REQUEST: Final = frozenset({"method", "path"})
_ALLOWS: Final = re.compile(r"\ballow\s+if\b")
_TIMES: Final = biscuit_auth.Rule("found($time) <- time($time)")
_ENDLESS: Final = "Reached Datalog execution limits"
_DECIDED: Final = "authorization failed:"


class Refusal(StrEnum):
    """Why a Biscuit does not allow a request, for logs."""

    CHECKS = "checks_failed"
    """A check of the token, or of the policy, does not hold."""
    POLICIES = "no_policy_allows"
    """No policy allows it, or the first that matches denies it."""
    FACTS = "facts_too_long"
    """What is known of the request has a text that the token's rules were not weighed for."""
    LIMITS = "datalog_limits"
    FAULT = "datalog_fault"
    """Something in the token or the policy cannot be evaluated: a sum that overflows, a function that nobody has."""


class Policy:
    """The application's Datalog: facts, rules, checks and policies. At least one policy must allow something.

    Every request adds `time(…)`, and the facts that are given with it. With `revocation_facts` it adds a
    `revocation_id(i, bytes)` for each id of block i, in every form that the id can take. `asks_for_the_request` if it
    names a fact that HTTP gives, `method` or `path`. `facts_of_a_name` is the most that a token's own rules find of one
    name, which its work is bounded by.

    Raises:
        ConfigurationError: it is not Datalog, or can allow nothing.
    """

    def __init__(self, code: str, *, revocation_facts: bool = False) -> None:
        self._base: Any  # its stubs leave out the limits
        try:
            self._base = biscuit_auth.AuthorizerBuilder(code)
        except (biscuit_auth.DataLogError, TypeError) as error:
            raise ConfigurationError(f"the policy of Biscuits is not Datalog: {error}") from error
        if _ALLOWS.search(code) is None:
            raise ConfigurationError("a policy of Biscuits without `allow if …` lets nobody in")
        self.asks_for_the_request = not _OF_A_REQUEST.isdisjoint(_NAMED.findall(code))
        self.facts_of_a_name = _facts_of_a_name(code) + (2 * MAX_BLOCKS if revocation_facts else 0)
        self._limits = self._base.limits()
        self._limits.max_time = MAX_TIME
        self._base.set_limits(self._limits)
        if self._tells_time():
            raise ConfigurationError("a policy of Biscuits says nothing of the time: every request brings its own")
        self._revocation_facts = revocation_facts

    def _tells_time(self) -> bool:
        try:
            return bool(self._base.build_unauthenticated().query(_TIMES))
        except (biscuit_auth.AuthorizationError, biscuit_auth.BiscuitValidationError) as error:
            raise ConfigurationError(f"the rules of the policy of Biscuits cannot be run: {error}") from error

    def refusal(self, biscuit: Biscuit, facts: Facts, now_s: float) -> Refusal | None:
        """Return why the Biscuit does not allow a request with these facts at `now_s`; None if it does.

        A text among them has at most AUTHORIZER_TEXT bytes: a client may have chosen it, and the token's rules too.

        Raises:
            InvalidValueError: a fact that Datalog cannot hold. `time` and `revocation_id` are ours.
        """
        if any(map(_is_too_long, facts.values())):
            return Refusal.FACTS
        builder = self._asked(biscuit, facts, now_s)
        for _ in range(ATTEMPTS):
            refusal = self._attempt(builder, biscuit)
            if refusal is not Refusal.LIMITS:
                return refusal
        return Refusal.LIMITS

    def _asked(self, biscuit: Biscuit, facts: Facts, now_s: float) -> Any:
        terms: dict[str, object] = {"now": datetime.fromtimestamp(int(now_s), UTC)}
        lines = ["time({now});", *_lines(facts, terms)]
        if self._revocation_facts:
            lines += _revocation_lines(biscuit)
        try:
            builder: Any = biscuit_auth.AuthorizerBuilder("".join(lines), terms)
        except (biscuit_auth.DataLogError, TypeError, ValueError, OverflowError) as error:
            raise InvalidValueError(
                "a fact about a request is a text, a number, a truth value, bytes or a time since 1970"
            ) from (error)
        builder.merge(self._base)
        builder.set_limits(self._limits)
        return builder

    def _attempt(self, builder: Any, biscuit: Biscuit) -> Refusal | None:
        try:
            builder.build(biscuit.token).authorize()
        except biscuit_auth.AuthorizationError as error:  # its text quotes the token, and stays here
            return _reason(str(error))
        except BaseException as error:
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                return Refusal.FAULT
            raise
        return None


def _facts_of_a_name(code: str) -> int:
    """Return no fewer facts of one name than the code has: how often the name comes, whatever it is there for."""
    return max([AUTHORIZER_FACTS, *Counter(_NAMED.findall(code)).values()])


def _lines(facts: Facts, terms: dict[str, object]) -> Iterable[str]:
    """Yield the code of each fact, and put its terms beside: what a client chose is never written as code."""
    for name, value in facts.items():
        if _NAME.fullmatch(name) is None or name in {"time", "revocation_id"}:
            raise InvalidValueError("a fact about a request has a lower-case name, and not one of ours")
        values = value if isinstance(value, tuple) else (value,)
        names = [f"{name}_{number}" for number in range(len(values))]
        terms.update(zip(names, values, strict=True))
        yield f"{name}({', '.join(f'{{{one}}}' for one in names)});"


def _is_too_long(value: Term | tuple[Term, ...]) -> bool:
    if isinstance(value, tuple):
        return any(map(_is_too_long, value))
    if isinstance(value, str) and not value.isascii():
        return len(value.encode(errors="replace")) > AUTHORIZER_TEXT
    return isinstance(value, str | bytes) and len(value) > AUTHORIZER_TEXT


def _revocation_lines(biscuit: Biscuit) -> list[str]:
    ids = enumerate(biscuit.revocation_ids)
    return [f"revocation_id({block}, hex:{form});" for block, id_ in ids for form in twins(id_)]


def _reason(text: str) -> Refusal:
    if text == _ENDLESS:
        return Refusal.LIMITS
    if not text.startswith(_DECIDED):
        return Refusal.FAULT
    return Refusal.CHECKS if "an allow policy matched" in text.partition(":")[2][:40] else Refusal.POLICIES
