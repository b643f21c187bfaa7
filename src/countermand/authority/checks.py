"""What callers give, checked before a transaction begins. Raises InvalidValueError, with one sentence."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from countermand.authority.model import Filter
from countermand.errors import InvalidValueError, LogError, MalformedError
from countermand.log.anchor import EVERYONE, Anchor, Kind, check_cutoff_target, check_text, kind_of
from countermand.log.revocation_id import parse_revocation_id

MAX_NAME_BYTES: Final = 256
"""For names and subjects: with its kind before it, a subject still fits a cutoff's id of 512 bytes."""
LONGEST_S: Final = 366 * 86_400
"""How long a session, an agent, a grant or a delegation may live."""
MAX_SCOPES: Final = 64
MAX_AUDIENCES: Final = 16
MAX_LABELS: Final = 16
MAX_LABEL_CHARS: Final = 64
MAX_DEPTH: Final = 32
"""How many edges may follow one another; a path has no room for more, with the agents between them."""

_FILTERS_OF_ALL: Final = {"kind", "label", "opened_before_ms", "stands"}
_FILTERS: Final[dict[Kind, set[str]]] = {
    Kind.APPLICATION: set(),
    Kind.SESSION: {"application_id", "subject", "parent_id"},
    Kind.AGENT: {"application_id", "session_id", "parent_id", "delegation_id"},
    Kind.GRANT: {"application_id", "subject"},
    Kind.DELEGATION: {"application_id", "parent_id", "source_id", "target_id", "grant_id"},
}

FOREIGN_KINDS: Final = frozenset({Kind.TOKEN, Kind.SUBJECT, Kind.APPLICATION, Kind.KEY})
"""What a token of another issuer names under that issuer's name."""
BARE_KINDS: Final = frozenset({Kind.SESSION, Kind.AGENT, Kind.DELEGATION, Kind.TOKEN})
"""What documented tokens name by bare ids, in one namespace for all issuers."""


def check_name(what: str, name: str) -> None:
    """Refuse what cannot be a name or a subject."""
    encoded = _checked(what, name)
    if not encoded or len(encoded) > MAX_NAME_BYTES:
        raise InvalidValueError(f"{what} has 1 to {MAX_NAME_BYTES} bytes")


def check_reason(reason: str) -> None:
    """Refuse a reason that the ledger may not hold."""
    _checked("the reason", reason)


def check_life(lifetime_s: int) -> None:
    """Refuse a life that is none, or longer than any."""
    if not 1 <= lifetime_s <= LONGEST_S:
        raise InvalidValueError(f"a life lasts 1 to {LONGEST_S} seconds")


def check_authority(audience: Sequence[str], scopes: Sequence[str]) -> None:
    """Refuse what a mandate could not say."""
    for what, values, most in (("audience", audience, MAX_AUDIENCES), ("scope", scopes, MAX_SCOPES)):
        if len(values) > most:
            raise InvalidValueError(f"a mandate has at most {most} values of {what}")
        for value in values:
            check_name(f"a value of {what}", value)
    if not audience or any(not 0x21 <= ord(char) <= 0x7E or char in '"\\' for scope in scopes for char in scope):
        raise InvalidValueError("a mandate has an audience, and scopes of printable ASCII without spaces")


def check_labels(labels: Sequence[str]) -> None:
    """Refuse what cannot be labels."""
    if len(labels) > MAX_LABELS:
        raise InvalidValueError(f"there are at most {MAX_LABELS} labels")
    for label in labels:
        _checked("a label", label)
        if not 1 <= len(label) <= MAX_LABEL_CHARS:
            raise InvalidValueError(f"a label has 1 to {MAX_LABEL_CHARS} characters")


def check_words(*words: str | None) -> None:
    """Refuse to look for what no text could be."""
    for word in words:
        _checked("what is looked for", word or "")


def check_filter(which: Filter) -> None:
    """Refuse to ask for what this kind does not have, and what no text could be."""
    for name, value in asdict(which).items():
        if value is None or name in _FILTERS_OF_ALL:
            continue
        if name not in _FILTERS[which.kind]:
            raise InvalidValueError(f"a {which.kind.text} has no {name}")
        check_words(value)
    check_words(which.label)


def check_depth(depth: int) -> None:
    """Refuse a depth out of range."""
    if not 0 <= depth <= MAX_DEPTH:
        raise InvalidValueError(f"a depth is 0 to {MAX_DEPTH}")


def check_biscuit_id(id_: str) -> str:
    """Return a Biscuit's revocation id in its canonical form, or refuse what is none."""
    try:
        return parse_revocation_id(id_)
    except MalformedError as error:
        raise InvalidValueError(str(error)) from None


def check_unkept(kind: Kind, issuer: str, id_: str) -> None:
    """Refuse what no token could name under `issuer`, or, with the empty issuer, as a bare id."""
    try:
        Anchor(kind, id_, issuer)
    except MalformedError as error:
        raise InvalidValueError(str(error)) from error
    if kind not in (FOREIGN_KINDS if issuer else BARE_KINDS):
        raise InvalidValueError(f"a {kind.text} cannot be revoked by {'an issuer and an' if issuer else 'a bare'} id")
    if not issuer and kind_of(id_) not in {None, kind if kind is Kind.TOKEN else None}:
        raise InvalidValueError("the id is one of our own making: it is not a bare one")


def check_cutoff(target: str, issuer: str, before_ms: int | None, now_ms: int) -> None:
    """Refuse what cannot be cut off, and a time to come."""
    try:
        check_cutoff_target(issuer, target)
        _checked("the issuer", issuer)
        _checked("the target", target)
    except LogError as error:
        raise InvalidValueError(str(error)) from error
    kind, _, id_ = target.partition(":")
    if target != EVERYONE and kind == Kind.SUBJECT.text:
        check_name("the subject", id_)
    if before_ms is not None and not 1 <= before_ms <= now_ms:
        raise InvalidValueError("a cutoff lies between 1970 and now")


def _checked(what: str, text: str) -> bytes:
    try:
        return check_text(what, text)
    except MalformedError as error:
        raise InvalidValueError(str(error)) from error
