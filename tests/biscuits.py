"""Biscuits signed by hand, so that every key is ours: of either kind at any block, sealed, of third parties or forged.

What a block says is compiled by the library; what holds the blocks together is written here. The same arguments give
the same bytes. Source: the Biscuit specification, "Cryptography" and `schema.proto`, of its version 3.3.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import biscuit_auth
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of secp256r1."""
ED25519_ORDER: Final = 2**252 + 27742317777372353535851937790883648493

Parts = list[tuple[int, int | bytes]]
"""The fields of a protobuf message, by their numbers, in their order."""


class Ed25519:
    """A key of the first kind, from a number."""

    algorithm: Final = 0
    name: Final = "ed25519"

    def __init__(self, seed: int) -> None:
        self.raw = seed.to_bytes(32)
        self._private = Ed25519PrivateKey.from_private_bytes(self.raw)
        self.public = self._private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)


class Secp256r1:
    """A key of the second kind. `high` chooses which of the two signatures it writes: honest signers write either."""

    algorithm: Final = 1
    name: Final = "secp256r1"

    def __init__(self, seed: int, *, high: bool = False) -> None:
        self.raw = seed.to_bytes(32)
        self._private = ec.derive_private_key(seed, ec.SECP256R1())
        self._high = high
        self.public = self._private.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
        )

    def sign(self, message: bytes) -> bytes:
        signature = self._private.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        _, s = decode_dss_signature(signature)
        return signature if (s > ORDER // 2) is self._high else twin(signature)


Key = Ed25519 | Secp256r1


def text_of(key: Key) -> str:
    """The public key, as it is configured."""
    return f"{key.name}/{key.public.hex()}"


def twin(signature: bytes) -> bytes:
    """The other signature that verifies: anybody can make it."""
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, ORDER - s)


ROOT: Final = Ed25519(1)
OTHER_ROOT: Final = Ed25519(2)
SECP_ROOT: Final = Secp256r1(3)
PARTY: Final = Ed25519(4)
ROOT_KEY: Final = text_of(ROOT)
SECP_ROOT_KEY: Final = text_of(SECP_ROOT)


def compiled(*codes: str, parties: Mapping[int, Key] = {}) -> list[bytes]:
    """What blocks with these codes hold; those of third parties by their numbers."""
    throwaway = biscuit_auth.KeyPair().private_key
    token: Any = biscuit_auth.BiscuitBuilder(codes[0]).build(throwaway)
    for number, code in enumerate(codes[1:], 1):
        block = biscuit_auth.BlockBuilder(code)
        if number in parties:
            party = parties[number]
            private = biscuit_auth.PrivateKey(f"{party.name}-private/{party.raw.hex()}")
            made = token.third_party_request().create_block(private, block)
            token = token.append_third_party(biscuit_auth.PublicKey(text_of(party)), made)
        else:
            token = token.append(block)
    blocks = [part for number, part in read(bytes(token.to_bytes())) if number in {2, 3}]
    return [bytes(dict(read(block))[1]) for block in blocks if isinstance(block, bytes)]


@dataclass(frozen=True, slots=True)
class Signed:
    """A token in its parts."""

    parts: Parts

    def to_bytes(self) -> bytes:
        return write(self.parts)

    def __str__(self) -> str:
        return base64url(self.to_bytes())

    def ids(self) -> list[bytes]:
        """The signatures of its blocks, as they stand there."""
        return [bytes(dict(read(block))[3]) for number, block in self.parts if number in {2, 3}]  # type: ignore[arg-type]  # a block

    def with_signature(self, number: int, signature: bytes) -> "Signed":
        """The same with another signature at one block. No key is asked for."""
        index = [at for at, (field, _) in enumerate(self.parts) if field in {2, 3}][number]
        field, block = self.parts[index]
        changed = [(3, signature) if part[0] == 3 else part for part in read(block)]  # type: ignore[arg-type]  # a block
        return Signed([*self.parts[:index], (field, write(changed)), *self.parts[index + 1 :]])


def sign(
    contents: Sequence[bytes],
    root: Key = ROOT,
    *,
    following: Sequence[Key] = (),
    key_id: int | None = None,
    parties: Mapping[int, Key] = {},
    sealed: bool = False,
    version: int = 1,
) -> Signed:
    """Sign the blocks one after another: the first with `root`, and each with the key that the one before names.

    `following` are those keys, the last one the token's own proof; where there is none, an Ed25519 key is made up.
    """
    keys: list[Key] = [root, *following]
    keys += [Ed25519(1000 + number) for number in range(len(keys), len(contents) + 1)]
    parts: Parts = [] if key_id is None else [(1, key_id)]
    previous = message = b""
    for number, content in enumerate(contents):
        key, after = keys[number], keys[number + 1]
        external = b""
        if number in parties:
            external = parties[number].sign(_external(content, previous))
        written: Parts = [(1, content), (2, public_part(after))]
        ours = version if number not in parties else 1
        signature = key.sign(_payload(content, after, previous if number else None, external, ours))
        written.append((3, signature))
        if external:
            written.append((4, write([(1, external), (2, public_part(parties[number]))])))
        if ours:
            written.append((5, ours))
        parts.append((3 if number else 2, write(written)))
        message = content + _algorithm(after) + after.public + signature
        previous = signature
    proof: Parts = [(2, keys[len(contents)].sign(message))] if sealed else [(1, keys[len(contents)].raw)]
    parts.append((4, write(proof)))
    return Signed(parts)


def public_part(key: Key) -> bytes:
    """A public key, as a message."""
    return write([(1, key.algorithm), (2, key.public)])


def _algorithm(key: Key) -> bytes:
    return key.algorithm.to_bytes(4, "little")


def _payload(content: bytes, after: Key, previous: bytes | None, external: bytes, version: int) -> bytes:
    if version == 0:
        return content + external + _algorithm(after) + after.public
    message = b"\0BLOCK\0\0VERSION\0" + version.to_bytes(4, "little") + b"\0PAYLOAD\0" + content
    message += b"\0ALGORITHM\0" + _algorithm(after) + b"\0NEXTKEY\0" + after.public
    message += b"" if previous is None else b"\0PREVSIG\0" + previous
    return message + (b"\0EXTERNALSIG\0" + external if external else b"")


def _external(content: bytes, previous: bytes) -> bytes:
    return b"\0EXTERNAL\0\0VERSION\0" + (1).to_bytes(4, "little") + b"\0PAYLOAD\0" + content + b"\0PREVSIG\0" + previous


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def raw(token: str) -> bytes:
    """The bytes that the text writes, whether padded or not."""
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))


def read(data: bytes) -> Parts:
    """The fields of a message, in their order."""
    parts: Parts = []
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        size, at = _number(data, at)
        if tag & 7 == 0:
            parts.append((tag >> 3, size))
        else:
            parts.append((tag >> 3, data[at : at + size]))
            at += size
    return parts


def _number(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            return number, at


def write(parts: Parts) -> bytes:
    """The message with these fields."""
    return b"".join(written(*part) for part in parts)


def written(field: int, value: int | bytes, *, longer: int = 0) -> bytes:
    """One field; `longer` bytes longer than its length must be written."""
    if isinstance(value, int):
        return varint(field << 3) + varint(value)
    return varint(field << 3 | 2) + varint(len(value), longer=longer) + value


def varint(number: int, *, longer: int = 0) -> bytes:
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    for _ in range(longer):
        octets[-1] |= 0x80
        octets.append(0)
    return bytes(octets)
