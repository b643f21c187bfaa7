"""Protobuf, as much of it as a Biscuit is made of, read strictly: one message, one way to be written.

Two of its six wire types, and field numbers below 16, so that a tag is one byte. A field that the message does not have
is a refusal, as is one given twice that may stand once, and a number that is longer than it must be.
Source: the Protocol Buffers encoding, as of proto2.
"""

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from countermand.errors import MalformedTokenError

Field: TypeAlias = tuple[int, int, bytes]
"""Its tag; its number, if it is one; its bytes, if it has a length."""

_LONGEST: Final = 10


Message: TypeAlias = Mapping[int, int]
"""The tags that a message may have; to each that it may have once, a bit, and to the others 0."""


def message(once: Iterable[int] = (), many: Iterable[int] = ()) -> Message:
    """Return what a message may have, once and as often as one likes."""
    return {**{tag: 1 << tag for tag in once}, **dict.fromkeys(many, 0)}


def read_fields(data: bytes, expected: Message) -> list[Field]:
    """Return the fields of a message in their order.

    Raises:
        MalformedTokenError: they are not exactly what is expected.
    """
    found: list[Field] = []
    seen = at = 0
    end = len(data)
    while at < end:
        tag = data[at]
        bit = expected.get(tag)
        if bit is None or bit & seen:
            raise MalformedTokenError("a field of the token is unknown, or given twice")
        seen |= bit
        if at + 1 == end:
            raise MalformedTokenError("the token breaks off")
        number = data[at + 1]
        at += 2
        if number > 0x7F:
            if at < end and 0 < data[at] < 0x80:  # the block's own symbols
                number = number & 0x7F | data[at] << 7
                at += 1
            else:
                number, at = _varint(data, at - 1)
        if tag & 7 == 0:
            found.append((tag, number, b""))
            continue
        if number > end - at:
            raise MalformedTokenError("the token breaks off")
        found.append((tag, 0, data[at : at + number]))
        at += number
    return found


def read_only(data: bytes, expected: Message) -> Field:
    """Return the field of a message that has exactly one.

    Raises:
        MalformedTokenError: it is not one of those expected, or there are more.
    """
    size = len(data)
    if 2 <= size < 0x82 and data[0] in expected:  # nearly all are that short
        tag, number = data[0], data[1]
        if tag & 7 and number == size - 2:
            return tag, 0, data[2:]
        if not tag & 7 and size == 2 and number < 0x80:
            return tag, number, b""
        if not tag & 7 and size == 3 and number > 0x7F and 0 < data[2] < 0x80:
            return tag, number & 0x7F | data[2] << 7, b""
    fields = read_fields(data, expected)
    if len(fields) != 1:
        raise MalformedTokenError("a part of the token is none, or two at once")
    return fields[0]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    for position in range(at, min(at + _LONGEST, len(data))):
        byte = data[position]
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            if byte == 0 or number >> 64:
                break
            return number, position + 1
    raise MalformedTokenError("a number of the token is too long, or breaks off")
