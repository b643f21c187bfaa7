"""Revocation ids of Biscuits, in the one form under which they are looked up.

A block's revocation id is its signature: 64 bytes of Ed25519, or the DER of an ECDSA signature over P-256. For every
block there are two of the latter: (r, s) and (r, n-s) both verify, so whoever holds a token can change its id without
any secret. Honest signers emit either. The canonical form is the one with the lower s, in lower-case hex; it is taken
when an id is revoked and when a token is asked about, always from the signature that was verified.
Source: docs/protocol.md, "Biscuit"; RFC 3279 §2.2.3 (Ecdsa-Sig-Value); SEC 2 §2.4.2 (the order n of secp256r1).
"""

from typing import Final

from countermand.errors import MalformedError

ED25519_BYTES: Final = 64
ED25519_DIGITS: Final = 2 * ED25519_BYTES
"""In hex. An id of so many is canonical as soon as they are in lower case."""
MAX_ID_BYTES: Final = 72
"""A DER signature over P-256 has at most so many."""

_ORDER: Final = 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551
_SEQUENCE: Final = 0x30
_INTEGER: Final = 0x02


def parse_revocation_id(text: str) -> str:
    """Return the canonical form of an id that is written in hex, in either case. Raises: MalformedError."""
    if len(text) > 2 * MAX_ID_BYTES or not text.isascii() or not text.isalnum():  # `fromhex` skips white space
        raise MalformedError("a revocation id is the hex of a signature")
    try:
        signature = bytes.fromhex(text)
    except ValueError:
        raise MalformedError("a revocation id is the hex of a signature") from None
    return canonical_id(signature)


def canonical_id(signature: bytes) -> str:
    """Return the canonical form of a block's signature. Raises: MalformedError."""
    if len(signature) == ED25519_BYTES:
        return signature.hex()
    r, s = _parse_der(signature)
    return _to_der(r, min(s, _ORDER - s)).hex()


def twins(id_: str) -> tuple[str, ...]:
    """Return every form, in lower-case hex, that the id with this canonical form can take; that one first."""
    if len(id_) == ED25519_DIGITS:
        return (id_,)
    r, s = _parse_der(bytes.fromhex(id_))
    return id_, _to_der(r, _ORDER - s).hex()


def _parse_der(data: bytes) -> tuple[int, int]:
    """Return r and s of the one DER that writes them. Raises: MalformedError."""
    if len(data) > MAX_ID_BYTES or len(data) < 2 or data[0] != _SEQUENCE or data[1] != len(data) - 2:
        raise MalformedError("a revocation id is a signature of 64 bytes, or the DER of one over P-256")
    r, rest = _parse_integer(data[2:])
    s, rest = _parse_integer(rest)
    if rest or not (0 < r < _ORDER and 0 < s < _ORDER) or _to_der(r, s) != data:
        raise MalformedError("the DER of a signature over P-256 holds two numbers below its order, in one way")
    return r, s


def _parse_integer(data: bytes) -> tuple[int, bytes]:
    if len(data) < 2 or data[0] != _INTEGER or len(data) < 2 + data[1]:
        raise MalformedError("the DER of a signature holds two integers")
    end = 2 + data[1]
    return int.from_bytes(data[2:end]), data[end:]


def _to_der(r: int, s: int) -> bytes:
    numbers = b"".join(bytes((_INTEGER, len(octets))) + octets for octets in (_octets(r), _octets(s)))
    return bytes((_SEQUENCE, len(numbers))) + numbers


def _octets(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1)
