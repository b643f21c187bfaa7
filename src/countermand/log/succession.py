"""Successions: the authority's signed word that a generation of the log has ended, and where the next one begins.

After a restore or a fork nobody can say what the old generation's next entry would have been. So a new one begins above
every number that anybody has seen, and its first link is made of the record itself: two recoveries that differ have no
link in common.
Source: docs/protocol.md, "Succession"; Ed25519 is RFC 8032.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from countermand.errors import MalformedError, UnknownVersionError
from countermand.log import codec
from countermand.log.anchor import Rev
from countermand.log.chain import LINK_BYTES, LogId
from countermand.log.checkpoint import KEY_ID_BYTES, SIGNATURE_BYTES, Pin, sign_record

VERSION: Final = 1
SUCCESSION_BYTES: Final = 1 + 16 + 8 + 8 + LINK_BYTES + 8 + 8 + KEY_ID_BYTES + SIGNATURE_BYTES

_CONTEXT = b"countermand succession v1\n"
_LINK = b"countermand succession link v1\n"


@dataclass(frozen=True, slots=True)
class Succession:
    """Generation `ended.generation` of `log_id` ended at `ended` with `ended_link`; the next begins behind `seq`.

    `ended` is the furthest position that anybody was seen at, `seq` no less than any number that was seen; `at_ms` is
    when this was decided (UTC, by the authority's clock).

    Raises:
        MalformedError: a generation below 1, or a `seq` below the one that ended.
    """

    log_id: LogId
    ended: Rev
    ended_link: bytes
    seq: int
    at_ms: int

    def __post_init__(self) -> None:
        if not 1 <= self.ended.generation < codec.MAX_MS or self.seq < self.ended.seq:
            raise MalformedError("a generation begins behind the one before it")

    @property
    def rev(self) -> Rev:
        """Where the new generation begins: its first entry has the next number."""
        return Rev(self.ended.generation + 1, self.seq)

    @property
    def link(self) -> bytes:
        """The chain's link at `rev`."""
        return hashlib.sha256(_LINK + self._to_bytes()).digest()

    def sign(self, key: Ed25519PrivateKey) -> bytes:
        """Return the signed record, 161 bytes."""
        return sign_record(_CONTEXT, bytes((VERSION,)) + self._to_bytes(), key)

    @classmethod
    def verify(cls, data: bytes, pin: Pin) -> Self:
        """Return the succession that `data` writes if a key of `pin` signed it.

        Raises: MalformedError, UnknownVersionError, and as `Pin.verify`.
        """
        if data and data[0] != VERSION:
            raise UnknownVersionError("the succession is of a version that is not known here")
        if len(data) != SUCCESSION_BYTES:
            raise MalformedError(f"a succession has {SUCCESSION_BYTES} bytes")
        reader = codec.Reader(data, 1)
        log_id = LogId(reader.take(16))
        ended = Rev(reader.number(8), reader.number(8))
        claimed = cls(log_id, ended, reader.take(LINK_BYTES), reader.number(8), reader.number(8))
        signer = reader.take(KEY_ID_BYTES)
        pin.verify(_CONTEXT, log_id, signer, data[: reader.at], reader.take(SIGNATURE_BYTES))
        return claimed

    def _to_bytes(self) -> bytes:
        """Return the 80 bytes that say this."""
        ended = codec.number(self.ended.generation, 8) + codec.number(self.ended.seq, 8) + self.ended_link
        return self.log_id.raw + ended + codec.number(self.seq, 8) + codec.number(self.at_ms, 8)
