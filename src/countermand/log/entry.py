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

REV_AT: Final = 2
"""Where the generation begins in the bytes, and after it the number: eight bytes each."""

_HEAD = struct.Struct(">BBQQQQQ")  # version, kind, generation, seq, at, expires, issued_before
_TEXTS = ("the issuer", "the id", "the reason")
_NEVER = 0
_CUTOFF: Final = Kind.CUTOFF


@dataclass(slots=True, unsafe_hash=True)  # a replica makes one for each entry: `frozen` takes over twice as long
class Entry:
    """Revocation number `seq` of its generation. Times are milliseconds since 1970, UTC, by the authority's clock.

    `expires_at_ms` None: never forgotten. `issued_before_ms` is for cutoffs only; one without it is "as of now" and
    ends what was minted before its own seq.

    Raises:
        MalformedError: a value that the ledger may not hold.
    """

    generation: Final[int]
    seq: Final[int]
    kind: Final[Kind]
    id: Final[str]
    at_ms: Final[int]
    reason: Final[str] = ""
    issuer: Final[str] = ""
    issued_before_ms: Final[int | None] = None
    expires_at_ms: Final[int | None] = None

    def __post_init__(self) -> None:
        if self.generation < 1 or self.seq < 1 or self.at_ms < 1:
            raise MalformedError("generation, seq and time count from 1")
        if (self.expires_at_ms is not None and self.expires_at_ms < 1) or (
            self.issued_before_ms is not None and self.issued_before_ms < 1
        ):
            raise MalformedError("a time is after 1970")
        if not self.id:
            raise MalformedError("an entry names what it revokes")
        if self.kind is _CUTOFF:
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
        texts = zip(_TEXTS, (self.issuer, self.id, self.reason), strict=True)
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
        if (generation | seq | at_ms | expires_at_ms | issued_before_ms) > codec.MAX_MS:  # all of its bits are ones
            raise MalformedError("a number is over 2**53 - 1")
        issuer, id_, reason = _read_texts(data)
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


def _read_texts(data: bytes) -> list[str]:
    """Return the three sized texts after the fixed part; nothing is left over. Raises: MalformedError."""
    texts = []
    end = _HEAD.size
    try:
        for name in _TEXTS:
            start = end + 2
            end = start + (data[end] << 8 | data[end + 1])
            texts.append(parse_text(name, data[start:end]) if end > start else "")
    except IndexError:
        raise MalformedError("the record ends early") from None
    if end != len(data):
        raise MalformedError("the record ends early, or bytes follow its end")
    return texts
