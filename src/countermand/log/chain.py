"""The chain: every link is the hash of the link before it and an entry, so one link stands for a whole history.

The first link is made of the log's id and the generation; so every later one is bound to them.
Source: docs/protocol.md, "Chain".
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final, Self

from countermand.errors import InvalidValueError, MalformedError
from countermand.log import codec

LINK_BYTES: Final = 32

_GENESIS = b"countermand genesis v1\n"
_LINK = b"countermand link v1\n"
_LOG_ID = re.compile(r"log_[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class LogId:
    """128 random bits that name one log, written `log_` and 32 lower-case hex digits."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != 16:
            raise InvalidValueError("a log id has 16 bytes")

    def __str__(self) -> str:
        return f"log_{self.raw.hex()}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the id that `text` writes. Raises: MalformedError."""
        if not _LOG_ID.fullmatch(text):
            raise MalformedError("a log id is log_ and 32 lower-case hex digits")
        return cls(bytes.fromhex(text[4:]))


def genesis(log_id: LogId, generation: int) -> bytes:
    """Return link 0 of a generation."""
    return hashlib.sha256(_GENESIS + log_id.raw + codec.number(generation, 8)).digest()


def next_link(previous: bytes, entry: bytes) -> bytes:
    """Return the link after `previous` (32 bytes) and the canonical bytes of an entry."""
    return hashlib.sha256(_LINK + previous + entry).digest()


@dataclass(slots=True, unsafe_hash=True)  # not `frozen`, as an Entry is not
class Candidate:
    """What claims to be entry `seq`: the link before it, and its bytes. Believed once a checkpoint covers it."""

    seq: Final[int]
    previous: Final[bytes]
    entry: Final[bytes]

    @property
    def link(self) -> bytes:
        """The link that this candidate would make."""
        return next_link(self.previous, self.entry)
