"""Revocation ids of Biscuits, of both kinds, and Biscuits that a root key of our own has signed."""

import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

import biscuit_auth
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from countermand.log.revocation_id import canonical_id, twins
from countermand.tokens.biscuit import Biscuit, RootKeys, parse_biscuit, verify_biscuit

ROOT: Final = biscuit_auth.KeyPair()
OTHER: Final = biscuit_auth.KeyPair()
_P256: Final = ec.generate_private_key(ec.SECP256R1())
_SCALAR: Final = _P256.private_numbers().private_value.to_bytes(32)
_P256_ROOT: Final = biscuit_auth.KeyPair.from_private_key(
    biscuit_auth.PrivateKey.from_bytes(_SCALAR, biscuit_auth.Algorithm.Secp256r1)  # type: ignore[call-arg, attr-defined]  # its stubs know one algorithm
)
ROOT_KEYS: Final = f"{ROOT.public_key!r},{_P256_ROOT.public_key!r}"


def read(token: str) -> Biscuit:
    """Open a token as an authority does that knows our root keys."""
    return verify_biscuit(parse_biscuit(token), RootKeys.parse(ROOT_KEYS))


def plain_id() -> str:
    """A revocation id of a block that was signed with Ed25519: there is one form of it."""
    return os.urandom(64).hex()


def twin_ids() -> tuple[str, str]:
    """Both forms of the id of a block that was signed over P-256; the canonical one first."""
    first, second = twins(canonical_id(_P256.sign(os.urandom(8), ec.ECDSA(SHA256()))))
    return first, second


def mint(code: str = "right(1);", *blocks: str, key: biscuit_auth.KeyPair = ROOT, key_id: int | None = None) -> str:
    """Return a Biscuit whose authority block is `code`, attenuated by `blocks`; it may name its root key."""
    builder = biscuit_auth.BiscuitBuilder(code)
    if key_id is not None:
        builder.set_root_key_id(key_id)
    token = builder.build(key.private_key)
    for block in blocks:
        token = token.append(biscuit_auth.BlockBuilder(block))
    return str(token.to_base64())


def attenuated(token: str, block: str = "check if true;") -> str:
    """Return what anybody who holds a token of ours can make of it."""
    parent = biscuit_auth.Biscuit.from_base64(token, ROOT.public_key)
    return str(parent.append(biscuit_auth.BlockBuilder(block)).to_base64())


def malleated() -> tuple[str, str]:
    """Return a token that a key over P-256 has signed, and what its holder can make of it: another form of its id."""
    token = mint(key=_P256_ROOT)
    data = urlsafe_b64decode(token)
    [id_] = biscuit_auth.Biscuit.from_base64(token, _P256_ROOT.public_key).revocation_ids
    [twin] = set(twins(canonical_id(bytes.fromhex(id_)))) - {id_}
    signature, other = bytes.fromhex(id_), bytes.fromhex(twin)
    changed = data.replace(_sized(0x1A, signature), _sized(0x1A, other))  # the field `signature` of the first block
    block_bytes, start = _varint(data, 1)
    block = changed[start : start + block_bytes + len(other) - len(signature)]
    changed = _sized(0x12, block) + changed[start + len(block) :]  # the field `authority` of the token
    return token, urlsafe_b64encode(changed).decode()


def _sized(tag: int, value: bytes) -> bytes:
    low, high = len(value) & 0x7F, len(value) >> 7
    return bytes((tag, low | 0x80, high) if high else (tag, low)) + value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number under 2**14, and where it ends."""
    if data[at] < 0x80:
        return data[at], at + 1
    return data[at] & 0x7F | data[at + 1] << 7, at + 2


def ids_of(token: str) -> list[str]:
    """The ids of a token of ours, that of the authority block first."""
    return list(biscuit_auth.Biscuit.from_base64(token, ROOT.public_key).revocation_ids)
