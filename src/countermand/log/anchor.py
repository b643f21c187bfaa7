"""Anchors: the ids by which a token can be revoked.

An anchor is (kind, issuer, id). Revoking it rejects every token that carries it. Ids of our own making (a prefix and
128 random bits) have the empty issuer; the id of somebody else's token carries the issuer that gave it, so that nobody
can revoke another issuer's tokens by choosing an id.
Source: docs/protocol.md, "Anchor".
"""

import hashlib
import re
from binascii import a2b_hex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Self

from countermand.errors import InvalidValueError, MalformedError, UnknownKindError

MAX_TEXT_BYTES: Final = 512
MAX_PATH: Final = 64
OWN_KEY_BYTES: Final = 17

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Kind(IntEnum):
    """What an entry revokes. The number is its byte on the wire; the lower-case name is its text."""

    SESSION = 1
    AGENT = 2
    DELEGATION = 3
    GRANT = 4
    TOKEN = 5
    BISCUIT = 6
    APPLICATION = 7
    SUBJECT = 8
    KEY = 9
    CUTOFF = 10

    @property
    def text(self) -> str:
        """The lower-case name, as in a path and on the command line."""
        return self.name.lower()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the kind that `text` names. Raises: UnknownKindError."""
        for kind in cls:
            if kind.text == text:
                return kind
        raise UnknownKindError(f"no kind of entry is called {text[:32]!r}")


PREFIXES: Final = {
    Kind.SESSION: "ses_",
    Kind.AGENT: "agt_",
    Kind.DELEGATION: "edg_",
    Kind.GRANT: "grt_",
    Kind.APPLICATION: "app_",
    Kind.TOKEN: "tok_",
}
"""Ids of our own making: the prefix, then 128 random bits as 32 lower-case hex digits."""

_KINDS_BY_NUMBER = {int(kind): kind for kind in Kind}
_KIND_BYTES = [bytes((number,)) for number in range(len(Kind) + 1)]
_BISCUIT: Final = _KIND_BYTES[Kind.BISCUIT]
_NO_ISSUER: Final = (0).to_bytes(4)
_KINDS_BY_PREFIX = {prefix: kind for kind, prefix in PREFIXES.items()}
_OWN_ID_CHARS = 36
_PREFIX_CHARS = 4


def kind_numbered(number: int) -> Kind:
    """Return the kind with this byte on the wire. Raises: UnknownKindError."""
    kind = _KINDS_BY_NUMBER.get(number)
    if kind is None:
        raise UnknownKindError(f"kind {number} is not known here")
    return kind


def own_id(kind: Kind, random_bits: bytes) -> str:
    """Return the id of `kind` that 16 random bytes make."""
    if len(random_bits) != 16:
        raise InvalidValueError("an id is made of 16 random bytes")
    return PREFIXES[kind] + random_bits.hex()


def kind_of(own: str) -> Kind | None:
    """Return the kind of an id of our own making, None for any other text."""
    kind = _KINDS_BY_PREFIX.get(own[:_PREFIX_CHARS])
    return kind if kind is not None and _own_key(kind, own) is not None else None


def _own_key(kind: Kind, id_: str) -> bytes | None:
    """Return the key of an id of our own making, None for any other. A regular expression takes several times as long.

    The digits are written again and compared: upper case is another id.
    """
    if len(id_) != _OWN_ID_CHARS or PREFIXES.get(kind) != id_[:_PREFIX_CHARS]:
        return None
    digits = id_[_PREFIX_CHARS:]
    try:
        random_bits = a2b_hex(digits)
    except ValueError:
        return None
    return _KIND_BYTES[kind] + random_bits if random_bits.hex() == digits else None


def check_text(name: str, text: str) -> bytes:
    """Return `text` in UTF-8 if the ledger may hold it as a reason, an issuer or an id.

    Raises:
        MalformedError: over 512 bytes, not encodable, or with a control character.
    """
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise MalformedError(f"{name} is not valid Unicode") from None
    if len(encoded) > MAX_TEXT_BYTES or not text.isprintable():
        _check(name, text, len(encoded))
    return encoded


def parse_text(name: str, encoded: bytes) -> str:
    """Return the text that `encoded` writes. Raises: MalformedError, where `check_text` would, or not UTF-8."""
    try:
        text = encoded.decode()
    except UnicodeDecodeError:
        raise MalformedError(f"{name} is not UTF-8") from None
    if len(encoded) > MAX_TEXT_BYTES or not text.isprintable():
        _check(name, text, len(encoded))
    return text


def _check(name: str, text: str, length: int) -> None:
    """Look closer at a text that is too long or not printable, which refuses too much and costs little."""
    if length > MAX_TEXT_BYTES:
        raise MalformedError(f"{name} is longer than {MAX_TEXT_BYTES} bytes")
    if _CONTROL.search(text):
        raise MalformedError(f"{name} holds a control character")


def anchor_key(kind: Kind, issuer: str, id_: str) -> bytes:
    """Return the bytes under which a replica looks the anchor up: 17 for an id of our own making, 33 for any other.

    Injective up to SHA-256: the lengths differ between the two forms, and the hash covers the issuer's length.
    """
    own = None if issuer else _own_key(kind, id_)
    if own is not None:
        return own
    return _hashed_key(kind, issuer.encode(errors="surrogatepass"), id_.encode(errors="surrogatepass"))


def _hashed_key(kind: Kind, issuer: bytes, id_: bytes) -> bytes:
    return _KIND_BYTES[kind] + hashlib.sha256(len(issuer).to_bytes(4) + issuer + id_).digest()


def _checked_key(kind: Kind, issuer: str, id_: str) -> bytes:
    """Return the key of what is not an id of our own making. Raises: MalformedError."""
    if not id_:
        raise MalformedError("an anchor has an id")
    id_bytes = check_text("the id", id_)
    return _hashed_key(kind, check_text("the issuer", issuer), id_bytes)


@dataclass(frozen=True, slots=True)
class Anchor:
    """One revocable id. `issuer` is empty for what this authority named itself.

    Raises:
        MalformedError: the id is empty, or a text is not one that the ledger may hold.
    """

    kind: Kind
    id: str
    issuer: str = ""
    key: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        key = None if self.issuer else _own_key(self.kind, self.id)
        if key is None:
            key = _checked_key(self.kind, self.issuer, self.id)
        object.__setattr__(self, "key", key)

    def __str__(self) -> str:
        return f"{self.kind.text}:{self.id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the anchor that a path writes as `kind:id`. Raises: MalformedError, UnknownKindError."""
        kind, colon, id_ = text.partition(":")
        if not colon:
            raise MalformedError("an anchor is written kind:id")
        return cls(Kind.parse(kind), id_)


_CUTOFF_KINDS = frozenset({Kind.SUBJECT, Kind.APPLICATION})

EVERYONE: Final = "all"
"""The id of a cutoff for every token; any other cutoff's id is `subject:…` or `application:…`."""


def check_cutoff_target(issuer: str, id_: str) -> None:
    """Refuse what cannot be the target of a cutoff. Raises: MalformedError, UnknownKindError."""
    if id_ == EVERYONE:
        if issuer:
            raise MalformedError("a cutoff for everyone has no issuer: no token would look for it")
    elif Anchor.parse(id_).kind not in _CUTOFF_KINDS:
        raise MalformedError("a cutoff is for a subject, an application or everyone")


def _cutoff_targets(path: Iterable["Anchor"]) -> Iterator[tuple["Anchor", bytes]]:
    yield _EVERYONE, _EVERYONE.key
    for anchor in path:
        if anchor.kind in _CUTOFF_KINDS:
            yield anchor, anchor_key(Kind.CUTOFF, anchor.issuer, str(anchor))


_EVERYONE = Anchor(Kind.CUTOFF, EVERYONE)


@dataclass(frozen=True, slots=True, order=True)
class Rev:
    """A ledger position: what the transaction that minted a mandate saw as the head."""

    generation: int
    seq: int


@dataclass(frozen=True, slots=True)
class Anchors:
    """All by which one token can be revoked.

    `path` is every ancestor, root first. `issued_at_s` is the token's `iat` (seconds since 1970, UTC), `rev` the ledger
    position its minting saw; both None where the token does not say, and then every cutoff that reaches it applies.
    `keys` are those of the path, worked out once, because they are asked for on every call.
    """

    path: tuple[Anchor, ...]
    issued_at_s: float | None = None
    rev: Rev | None = None
    keys: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    _targets: tuple[tuple[Anchor, bytes], ...] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", tuple([anchor.key for anchor in self.path]))

    @property
    def cutoff_targets(self) -> tuple[tuple[Anchor, bytes], ...]:
        """Every target whose cutoff would reach this token, with its key: everyone first, then root first.

        Worked out when they are first asked for: most of the time no cutoff is in force.
        """
        targets = self._targets
        if targets is None:
            targets = tuple(_cutoff_targets(self.path))
            object.__setattr__(self, "_targets", targets)
        return targets


class BiscuitAnchors(Anchors):
    """The same of a Biscuit, by its revocation ids in their canonical form, the authority block's first.

    A token that comes for the first time is asked about by its keys. What they are the keys of is worked out only when
    somebody asks for it, which is when one of them is revoked.
    """

    __slots__ = ("_ids", "_path")
    _ids: Sequence[str]
    _path: tuple[Anchor, ...]
    rev = None
    cutoff_targets = ((_EVERYONE, _EVERYONE.key),)
    """That of everyone: nobody knows by whom a Biscuit was issued, and a subject is its issuer's word."""

    def __init__(self, ids: Sequence[str], issued_at_s: float | None) -> None:
        keep = object.__setattr__
        keep(self, "keys", tuple([_BISCUIT + hashlib.sha256(_NO_ISSUER + id_.encode()).digest() for id_ in ids]))
        keep(self, "issued_at_s", issued_at_s)
        keep(self, "_ids", ids)

    @property
    def path(self) -> tuple[Anchor, ...]:
        """See Anchors."""
        try:
            return self._path
        except AttributeError:
            path = tuple([Anchor(Kind.BISCUIT, id_) for id_ in self._ids])
            object.__setattr__(self, "_path", path)
            return path
