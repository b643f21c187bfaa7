"""What was decided about a request: records on the logger `countermand.decision`, and the id that ties them together.

A record names the request, the token, its session and what ended it, each by its id; never a token or a part of one.
Denials, and what happens to a call in flight, are at INFO, what was let pass is at DEBUG. A record's fields are its
attribute `decision`, as `extra` puts it there. Nothing is made of a record that nobody wants. All are counted, by what
can take few values only.
"""

import json
import logging
import math
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final, Self, TypeAlias

from countermand.enforce.decision import Deny
from countermand.enforce.forks import renew_in_children
from countermand.enforce.revocations import Asked
from countermand.errors import MalformedError
from countermand.tokens.cache import VerifiedToken
from countermand.tokens.mandate import Mandate

HEADER: Final = b"x-request-id"
REQUEST_ID_KEY: Final = "countermand.request_id"
"""Where in the scope the app finds the id of a request."""
ID_BYTES: Final = 16

PASS: Final = logging.DEBUG
DENIAL: Final = logging.INFO
_decisions = logging.getLogger("countermand.decision")
is_wanted = _decisions.isEnabledFor  # every decision asks

_SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_NUMBER: Final = 253_402_300_800_000  # the year 10000 in milliseconds; no other number comes near
_NUMBERS: Final[Mapping[str, tuple[type, ...]]] = {
    "at_ms": (int,),
    "status": (int,),
    "seq": (int,),
    "staleness_ms": (int,),
    "max_staleness_s": (int, float),
}


def is_request_id(text: str) -> bool:
    """Whether `text` can be the id of a request: a short word, which is safe in a header and in a line of a log."""
    return _SANE.fullmatch(text) is not None


def request_id(headers: Iterable[tuple[bytes, bytes]], random: Callable[[int], bytes]) -> str:
    """Return the id that the caller gave, if it gave one and it is one; else a new one."""
    return id_among([value for name, value in headers if name.lower() == HEADER], random)


def id_among(given: Sequence[bytes], random: Callable[[int], bytes]) -> str:
    """Return the same, where these are the values of HEADER."""
    id_ = given[0].decode("latin-1") if len(given) == 1 else ""
    return id_ if is_request_id(id_) else random(ID_BYTES).hex()


class Outcome(StrEnum):
    """What happened to a request, or to the call that was made of it."""

    ALLOWED = "allowed"
    DENIED = "denied"
    HELD = "held"
    """In flight, nothing passes: we cannot know."""
    RELEASED = "released"
    """It goes on."""
    CUT = "cut"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One decision. What does not apply is empty, or None.

    `at_ms` is the guard's time, since 1970, UTC. `reason` is that of Deny. `anchor_…` says what was revoked, and `seq`
    by which entry of the ledger. `staleness_ms` is how old the knowledge was, `max_staleness_s` what the request
    allowed, where it did not leave that to the replica. `token_id` is the claim `jti`, or a Biscuit's last id;
    `session_id` is `sid`.
    """

    request_id: str = ""
    outcome: Outcome
    at_ms: int
    code: str = ""
    status: int | None = None
    reason: str = ""
    anchor_kind: str = ""
    anchor_id: str = ""
    anchor_issuer: str = ""
    seq: int | None = None
    staleness_ms: int | None = None
    max_staleness_s: float | None = None
    token_id: str = ""
    session_id: str = ""

    def to_fields(self) -> dict[str, str | int | float]:
        """Return what there is to say, by name."""
        named = ((one.name, getattr(self, one.name)) for one in fields(self))
        return {name: value for name, value in named if value not in {"", None}}

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> Self:
        """Return the record with these fields; others are passed over. Raises: MalformedError."""
        known = {one.name: given[one.name] for one in fields(cls) if one.name in given}
        for name, value in known.items():
            if not _fits(name, value):
                raise MalformedError(f"a decision's {name} is not of its type")
        try:
            read: dict[str, Any] = known | {"outcome": Outcome(str(known.get("outcome")))}
            return cls(**read)
        except (TypeError, ValueError):
            raise MalformedError("a decision says when it was, and one of the outcomes") from None


def _fits(name: str, value: object) -> bool:
    if name in _NUMBERS:
        return type(value) in _NUMBERS[name] and 0 <= value < _MAX_NUMBER  # type: ignore[operator]  # it is a number
    return isinstance(value, str)


Tally: TypeAlias = tuple[str, str, str]
"""An outcome, its code, and the kind of the anchor that was revoked; empty where there is none."""


class Trace:
    """Counts what one guard decides, and tells whoever listens. `allowed` is counted by the guard."""

    def __init__(self, asked: Asked, clock_s: Callable[[], float]) -> None:
        self.allowed = 0
        self._asked = asked
        self._clock_s = clock_s
        self._counts: dict[Tally, int] = {}
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """See `Renewable`."""
        self._counting = threading.Lock()

    def counts(self) -> dict[Tally, int]:
        """Return how often each was, from the beginning."""
        with self._counting:
            return {(Outcome.ALLOWED, "", ""): self.allowed} | self._counts

    def tell(
        self,
        outcome: Outcome,
        request_id: str,
        denial: Deny | None = None,
        token: VerifiedToken | None = None,
        max_staleness_s: float | None = None,
    ) -> None:
        """Count it; log one record, if it is wanted. `token` is None for one that was not verified: it says nothing."""
        if outcome is not Outcome.ALLOWED:
            self._count(outcome, denial)
        level = PASS if outcome is Outcome.ALLOWED else DENIAL
        if not is_wanted(level):
            return
        record = self._record(outcome, request_id, denial, token, max_staleness_s)
        extra = {"decision": record.to_fields()}
        if denial is None:
            _decisions.log(level, "%s", outcome.value, extra=extra)
        else:
            _decisions.log(level, "%s: %s (%s)", outcome.value, denial.code.value, denial.reason, extra=extra)

    def _count(self, outcome: Outcome, denial: Deny | None) -> None:
        code = denial.code.value if denial is not None else ""
        ended_by = denial.ended_by if denial is not None else None
        tally = outcome.value, code, ended_by.anchor.kind.text if ended_by is not None else ""
        with self._counting:
            self._counts[tally] = self._counts.get(tally, 0) + 1

    def _record(
        self,
        outcome: Outcome,
        request_id: str,
        denial: Deny | None,
        token: VerifiedToken | None,
        max_staleness_s: float | None,
    ) -> Record:
        ended_by = denial.ended_by if denial is not None else None
        holder = token.holder if token is not None else None
        return Record(
            request_id=request_id,
            outcome=outcome,
            at_ms=round(self._clock_s() * 1000),
            code=denial.code.value if denial is not None else "",
            status=denial.status if denial is not None else None,
            reason=denial.reason if denial is not None else "",
            anchor_kind=ended_by.anchor.kind.text if ended_by is not None else "",
            anchor_id=ended_by.anchor.id if ended_by is not None else "",
            anchor_issuer=ended_by.anchor.issuer if ended_by is not None else "",
            seq=ended_by.seq or None if ended_by is not None else None,  # a store knows no entries
            staleness_ms=self.staleness_ms() if token is not None else None,
            max_staleness_s=max_staleness_s,
            token_id=(holder.token_id or "") if holder is not None else "",
            session_id=(holder.session_id or "") if isinstance(holder, Mandate) else "",
        )

    def staleness_ms(self) -> int | None:
        """Return how old the knowledge of revocations is; None where that is not known."""
        staleness_ms = self._asked.staleness_ms()
        return None if staleness_ms is None else max(staleness_ms, 0)  # clocks may differ


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON, in ASCII: what a stranger chose neither breaks it nor moves a cursor."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. A decision's fields are in its `decision`."""
        line: dict[str, object] = {
            "at_ms": math.floor(record.created * 1000),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        decision = getattr(record, "decision", None)
        if isinstance(decision, dict):
            line["decision"] = decision
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
