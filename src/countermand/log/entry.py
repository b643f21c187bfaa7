"""Entries: one revocation each, in canonical bytes.

The bytes are injective: two entries with the same bytes are the same entry, and an entry has only one form. A replica
takes everything from these bytes and nothing from the documented fields that travel beside them.
Source: docs/protocol.md, "Entry".
"""

import struct
from dataclasses import dataclass
from typing import Final, Self

from countermand.errors import MalformedError, UnknownVersionError
from countermand.log import codec
from countermand.log.anchor import Kind, Rev, anchor_key, check_cutoff_target, check_text, kind_numbered, parse_text

VERSION: Final = 1
MAX_ENTRY_BYTES: Final = 2048
"""Three texts of 512 bytes and the fixed part fit."""

_HEAD = struct.Struct(">BBQQQQQ")  # version, kind, generation, seq, at, expires, issued_before
_NEVER = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """Revocation number `seq` of its generation. Times are milliseconds since 1970, UTC, by the authority's clock.

    `expires_at_ms` None: never forgotten. `issued_before_ms` is for cutoffs only; one without it is "as of now" and
    ends what was minted before its own seq.

    Raises:
        MalformedError: a value that the ledger may not hold.
    """

    generation: int
    seq: int
    kind: Kind
    id: str
    at_ms: int
    reason: str = ""
    issuer: str = ""
    issued_before_ms: int | None = None
    expires_at_ms: int | None = None

    def __post_init__(self) -> None:
        if self.generation < 1 or self.seq < 1 or self.at_ms < 1:
            raise MalformedError("generation, seq and time count from 1")
        if (self.expires_at_ms is not None and self.expires_at_ms < 1) or (
            self.issued_before_ms is not None and self.issued_before_ms < 1
        ):
            raise MalformedError("a time is after 1970")
        if not self.id:
            raise MalformedError("an entry names what it revokes")
        if self.kind is Kind.CUTOFF:
            check_cutoff_target(self.issuer, self.id)
        elif self.issued_before_ms is not None:
            raise MalformedError("only a cutoff has issued_before")

    @property
    def rev(self) -> Rev:
        """Where in the ledger this entry stands."""
        return Rev(self.generation, self.seq)

    @property
    def key(self) -> bytes:
        """Under which a replica keeps this entry; see `anchor_key`."""
        return anchor_key(self.kind, self.issuer, self.id)

    def to_bytes(self) -> bytes:
        """Return the canonical bytes. Raises: MalformedError, for a text that the ledger may not hold."""
        numbers = (self.generation, self.seq, self.at_ms, self.expires_at_ms or _NEVER, self.issued_before_ms or _NEVER)
        if max(numbers) > codec.MAX_MS:
            raise MalformedError("a number is over 2**53 - 1")
        texts = (("the issuer", self.issuer), ("the id", self.id), ("the reason", self.reason))
        return _HEAD.pack(VERSION, self.kind, *numbers) + b"".join(
            codec.sized(check_text(name, value)) for name, value in texts
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the entry whose canonical bytes are `data`.

        Raises:
            MalformedError: not an entry, or not its canonical form.
            UnknownVersionError, UnknownKindError: made by a newer authority; never to be ignored.
        """
        if data and data[0] != VERSION:
            raise UnknownVersionError("the entry is of a version that is not known here")
        if not _HEAD.size <= len(data) <= MAX_ENTRY_BYTES:
            raise MalformedError("an entry has another length")
        _, kind, generation, seq, at_ms, expires_at_ms, issued_before_ms = _HEAD.unpack_from(data)
        if max(generation, seq, at_ms, expires_at_ms, issued_before_ms) > codec.MAX_MS:
            raise MalformedError("a number is over 2**53 - 1")
        reader = codec.Reader(data, _HEAD.size)
        issuer = parse_text("the issuer", reader.sized())
        id_ = parse_text("the id", reader.sized())
        reason = parse_text("the reason", reader.sized())
        reader.end()
        return cls(
            generation,
            seq,
            kind_numbered(kind),
            id_,
            at_ms,
            reason,
            issuer,
            issued_before_ms or None,
            expires_at_ms or None,
        )
