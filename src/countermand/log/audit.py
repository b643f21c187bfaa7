"""The audit: who changed what at the authority, in rows that are chained as the ledger's entries are.

Every checkpoint signs the newest link; some of them are kept as seals. So nobody can change, remove or reorder rows up
to a seal without the signing key, and whoever reads them all finds out without asking the authority.
Source: docs/protocol.md, "Audit".
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from countermand.errors import AuditError, MalformedError, UnknownKeyError
from countermand.log import codec
from countermand.log.anchor import check_text
from countermand.log.chain import LINK_BYTES, LogId
from countermand.log.checkpoint import CHECKPOINT_BYTES, Checkpoint, Pin, parse_checkpoint

VERSION: Final = 1
MAX_LINE_CHARS: Final = 65_536
"""A line of an export with texts of the largest size, every character escaped, fits."""
_GENESIS: Final = b"countermand audit genesis v1\n"
_LINK: Final = b"countermand audit link v1\n"
_NONE: Final = 0
_HEX: Final = frozenset("0123456789abcdef")


def audit_genesis(log_id: LogId) -> bytes:
    """Return link 0 of the audit."""
    return hashlib.sha256(_GENESIS + log_id.raw).digest()


def next_audit_link(previous: bytes, row: bytes) -> bytes:
    """Return the link after `previous` (32 bytes) and the canonical bytes of a row."""
    return hashlib.sha256(_LINK + previous + row).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """Change `number`: `action` was done to `target`, because of `reason`; who did it, and from where.

    `at_ms` is by the authority's clock, UTC. `seq` is the ledger's entry, if the change made one. `role` is the key's,
    or `authority` for what it does by itself; then there is no key, no address and no request.
    """

    number: int
    at_ms: int
    seq: int | None
    action: str
    target: str
    issuer: str
    reason: str
    role: str
    key_id: str
    application_id: str
    remote: str
    request_id: str

    def to_bytes(self) -> bytes:
        """Return the canonical bytes; two rows with the same bytes are the same row. Raises: MalformedError."""
        if self.number < 1 or self.at_ms < 1 or (self.seq is not None and self.seq < 1):
            raise MalformedError("number, time and seq count from 1")
        numbers = (self.number, self.at_ms, self.seq or _NONE)
        texts = (codec.sized(check_text(f"the {name}", getattr(self, name))) for name in TEXTS)
        return bytes((VERSION,)) + b"".join(codec.number(value, 8) for value in numbers) + b"".join(texts)


_NUMBERS: Final = ("number", "at_ms", "seq")
TEXTS: Final = tuple(field.name for field in fields(AuditRow) if field.name not in _NUMBERS)
"""The texts of a row, in the order of its bytes."""
TEXTS_AT: Final = 1 + 8 * len(_NUMBERS)
"""Where they begin, behind the version and the numbers."""


@dataclass(frozen=True, slots=True)
class ChainedRow:
    """A row, and the link that is said to follow it."""

    row: AuditRow
    link: bytes

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands among rows and seals."""
        return self.row.number, 0

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the row, and the link in hex."""
        return {field.name: getattr(self.row, field.name) for field in fields(AuditRow)} | {"link": self.link.hex()}


@dataclass(frozen=True, slots=True)
class Seal:
    """A signed checkpoint that is said to sign the link of row `number`."""

    number: int
    signed: bytes

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands among rows and seals: behind its row."""
        return self.number, 1

    def to_json(self) -> dict[str, Any]:
        """Return the number, and the signed bytes in base64url."""
        return {"number": self.number, "checkpoint": codec.to_base64(self.signed)}


def parse_chained(given: object) -> ChainedRow:
    """Return the row that a JSON object writes, and its link. Raises: MalformedError."""
    values = _object(given, {field.name for field in fields(AuditRow)} | {"link"})
    link = values.pop("link")
    if not isinstance(link, str) or len(link) != 2 * LINK_BYTES or not set(link) <= _HEX:
        raise MalformedError("a row's link is 32 bytes in hex")
    for name in _NUMBERS:
        if type(values[name]) is not int and (name, values[name]) != ("seq", None):
            raise MalformedError(f"a row's {name} is a number")
    for name in TEXTS:
        if not isinstance(values[name], str):
            raise MalformedError(f"a row's {name} is a text")
    row = AuditRow(**values)
    row.to_bytes()
    return ChainedRow(row, bytes.fromhex(link))


def parse_seal(given: object) -> Seal:
    """Return the seal that a JSON object writes. Raises: MalformedError."""
    values = _object(given, {"number", "checkpoint"})
    number, checkpoint = values["number"], values["checkpoint"]
    if type(number) is not int or not 0 <= number <= codec.MAX_MS:
        raise MalformedError("a seal's number is one")
    if not isinstance(checkpoint, str) or len(checkpoint) > 2 * CHECKPOINT_BYTES:
        raise MalformedError("a seal's checkpoint is a text")
    return Seal(number, codec.from_base64(checkpoint))


def to_line(record: ChainedRow | Seal) -> str:
    """Return the line of an export that writes `record`, in ASCII."""
    return json.dumps({"row" if isinstance(record, ChainedRow) else "seal": record.to_json()})


def parse_line(line: str) -> ChainedRow | Seal:
    """Return what a line of an export writes. Raises: MalformedError."""
    if len(line) > MAX_LINE_CHARS:
        raise MalformedError("a line is too long")
    try:
        given = json.loads(line)
    except (ValueError, RecursionError):
        raise MalformedError("a line of an export is a JSON object") from None
    if isinstance(given, dict) and list(given) == ["seal"]:
        return parse_seal(given["seal"])
    return parse_chained(_object(given, {"row"})["row"])


@dataclass(frozen=True, slots=True)
class AuditEnd:
    """Where an audit ends: its last number, and the link after that."""

    number: int
    link: bytes


class AuditProof:
    """Proves an audit as it is read, in order: every row, and each seal behind the row that it signs.

    `earlier` is where it was seen to end before: that row must still be the same. `add` raises AuditError for what was
    changed, and as `UnverifiedCheckpoint.verify` for a seal that the pinned authority did not sign. A seal by a key
    that is not pinned may be from before a rotation: it proves nothing, and the next by a pinned key what it would.
    """

    def __init__(self, pin: Pin, earlier: AuditEnd | None = None) -> None:
        self._pin = pin
        self._earlier = earlier
        self.end = AuditEnd(0, audit_genesis(pin.log_id))
        self.sealed: tuple[int, Checkpoint] | None = None
        self._unproven: UnknownKeyError | None = None

    def add(self, record: ChainedRow | Seal) -> None:
        """Take the next row or seal."""
        if isinstance(record, Seal):
            self._add_seal(record)
        else:
            self._add_row(record)

    def finish(self) -> None:
        """Refuse an audit that ends before it did earlier, or under a seal by nobody we know.

        Raises: AuditError, UnknownKeyError.
        """
        if self._unproven is not None:
            raise self._unproven
        if self._earlier is not None and self._earlier.number > self.end.number:
            raise AuditError(self.end.number + 1, f"is missing: there were {self._earlier.number} rows before")

    def _add_row(self, chained: ChainedRow) -> None:
        row, number = chained.row, self.end.number + 1
        if row.number != number:
            raise AuditError(number, f"is missing: row {row.number} stands in its place")
        link = next_audit_link(self.end.link, row.to_bytes())
        if link != chained.link:
            raise AuditError(number, "was changed, or one before it was: its link does not follow")
        if self._earlier is not None and number == self._earlier.number and link != self._earlier.link:
            raise AuditError(number, "or one before it, is another than was there before")
        self.end = AuditEnd(number, link)

    def _add_seal(self, seal: Seal) -> None:
        try:
            checkpoint = parse_checkpoint(seal.signed).verify(self._pin)
        except UnknownKeyError as unknown:
            self._unproven = unknown
            return
        if seal.number > self.end.number:
            raise AuditError(self.end.number + 1, f"is missing: the authority signed {seal.number} rows")
        if seal.number < self.end.number:
            raise MalformedError("a seal stands behind the row that it signs")
        if checkpoint.audit != self.end.link:
            raise AuditError(seal.number, "or one before it, is another than the authority signed")
        self.sealed, self._unproven = (seal.number, checkpoint), None


def _object(given: object, names: set[str]) -> dict[str, Any]:
    if not isinstance(given, Mapping) or set(given) != names:
        raise MalformedError(f"an object has the fields {', '.join(sorted(names))}")
    return dict(given)
