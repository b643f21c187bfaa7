"""Bytes in and out, the same way for every record: big-endian numbers, length before text, nothing left over.

Source: docs/protocol.md, "Bytes".
"""

import base64
import binascii
from typing import Final

from countermand.errors import MalformedError

MAX_MS: Final = 2**53 - 1
"""Numbers stay exact where numbers are doubles (JSON, JavaScript)."""
_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/   ")  # a space is in no alphabet
_PADDING = (b"", b"", b"==", b"=")  # by how many characters there are over four; there is nothing with one
_LAST = (b"", b"", b"AQgw", b"AEIMQUYcgkosw048")  # the last character has bits to spare, which are zeros
_VARINT_BYTES = 8  # 53 bits, seven at a time


class Reader:
    """Reads a record from its start to its end. Every method raises MalformedError where the bytes end early."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data = data
        self._at = at

    @property
    def at(self) -> int:
        """How many bytes have been read."""
        return self._at

    def take(self, length: int) -> bytes:
        """Return the next `length` bytes."""
        end = self._at + length
        if end > len(self._data):
            raise MalformedError("the record ends early")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, length: int) -> int:
        """Return an unsigned big-endian number of `length` bytes, at most 2**53 - 1."""
        value = int.from_bytes(self.take(length))
        if value > MAX_MS:
            raise MalformedError("a number is over 2**53 - 1")
        return value

    def sized(self) -> bytes:
        """Return the bytes after their number in two bytes."""
        start = self._at + 2
        end = start + int.from_bytes(self._data[self._at : start])
        if end > len(self._data):
            raise MalformedError("the record ends early")
        self._at = end
        return self._data[start:end]

    def varint(self) -> int:
        """Return an unsigned LEB128 number in its shortest form, at most 2**53 - 1."""
        value = shift = 0
        for byte in self._data[self._at : self._at + _VARINT_BYTES]:
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        else:
            raise MalformedError("a number is too long, or the record ends early")
        self._at += shift // 7 + 1
        if value > MAX_MS or (byte == 0 and shift):
            raise MalformedError("a number is not in its shortest form")
        return value

    def end(self) -> None:
        """Refuse bytes after the end."""
        if self._at != len(self._data):
            raise MalformedError("bytes follow the record's end")


def number(value: int, length: int) -> bytes:
    """Return `value` as an unsigned big-endian number. Raises: MalformedError, out of range."""
    if not 0 <= value <= min(MAX_MS, 256**length - 1):
        raise MalformedError(f"{value} does not fit the record")
    return value.to_bytes(length)


def sized(encoded: bytes) -> bytes:
    """Return `encoded` with its length in two bytes before it."""
    return number(len(encoded), 2) + encoded


def varint(value: int) -> bytes:
    """Return `value` as LEB128 in its shortest form. Raises: MalformedError, out of range."""
    if not 0 <= value <= MAX_MS:
        raise MalformedError(f"{value} does not fit the record")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def to_base64(data: bytes) -> str:
    """Return unpadded base64url (RFC 4648 §5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64(text: str | bytes) -> bytes:
    """Return the bytes that unpadded base64url writes. Raises: MalformedError, also for any second spelling."""
    try:
        encoded = text.encode("ascii") if isinstance(text, str) else text
        over = len(encoded) % 4
        data = binascii.a2b_base64(encoded.translate(_TO_STANDARD) + _PADDING[over], strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise MalformedError("not base64url") from None
    if over and encoded[-1] not in _LAST[over]:
        raise MalformedError("not base64url in its only spelling")
    return data
