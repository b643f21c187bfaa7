"""Checkpoints: the authority's signed word on where the ledger ended, and when.

A replica believes nothing that no checkpoint covers. Only the authority holds the private key, so a resource server can
verify and cannot forge.
Source: docs/protocol.md, "Checkpoint"; Ed25519 is RFC 8032.
"""

import hashlib
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from countermand.errors import (
    BadSignatureError,
    LogError,
    MalformedError,
    UnknownKeyError,
    UnknownVersionError,
    WrongLogError,
)
from countermand.log import codec
from countermand.log.anchor import Rev
from countermand.log.chain import LINK_BYTES, LogId

VERSION: Final = 2
KEY_ID_BYTES: Final = 16
SIGNATURE_BYTES: Final = 64
CHECKPOINT_BYTES: Final = 1 + 16 + 8 + 8 + LINK_BYTES + 8 + LINK_BYTES + KEY_ID_BYTES + SIGNATURE_BYTES

NO_AUDIT: Final = bytes(LINK_BYTES)

_CONTEXT = b"countermand checkpoint v2\n"
_VERSION = re.compile(r"[1-9][0-9]{0,15}")


def key_id(key: Ed25519PublicKey) -> bytes:
    """Return the first 16 bytes of the SHA-256 of the raw public key."""
    return hashlib.sha256(key.public_bytes_raw()).digest()[:KEY_ID_BYTES]


@dataclass(frozen=True, slots=True)
class Pin:
    """What a resource server is told out of band: which log to follow, and which keys speak for it.

    Written `log_<32 hex>/<key>` with the raw public key in unpadded base64url; several keys are separated by commas.
    Keys of a keyset have its version before them: `log_<32 hex>/<version>/<key>`. See `keyset`.
    """

    log_id: LogId
    keys: Mapping[bytes, Ed25519PublicKey]
    version: int = 0

    @classmethod
    def of(cls, log_id: LogId, *keys: Ed25519PublicKey, version: int = 0) -> Self:
        """Return the pin of `log_id` and `keys`."""
        return cls(log_id, MappingProxyType({key_id(key): key for key in keys}), version)

    def __str__(self) -> str:
        keys = ",".join(codec.to_base64(key.public_bytes_raw()) for key in self.keys.values())
        return f"{self.log_id}/{self.version}/{keys}" if self.version else f"{self.log_id}/{keys}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the pin that `text` writes. Raises: MalformedError."""
        log_id, slash, rest = text.strip().partition("/")
        if not slash:
            raise MalformedError("a pin is a log id, a slash and a public key")
        version, slash, keys = rest.rpartition("/")
        public_keys = [_public_key(key) for key in keys.split(",")]
        return cls.of(LogId.parse(log_id), *public_keys, version=_version(version) if slash else 0)

    def without(self, ids: AbstractSet[bytes]) -> Self:
        """Return the pin without the keys of these ids."""
        keys = {id_: key for id_, key in self.keys.items() if id_ not in ids}
        return replace(self, keys=MappingProxyType(keys))

    def verify(self, context: bytes, log_id: LogId, signer: bytes, body: bytes, signature: bytes) -> None:
        """Refuse what is not of this log, or not signed by one of these keys for this purpose.

        Raises: WrongLogError, UnknownKeyError, BadSignatureError.
        """
        if log_id != self.log_id:
            raise WrongLogError(f"the record is of {log_id}, and {self.log_id} is pinned")
        key = self.keys.get(signer)
        if key is None:
            raise UnknownKeyError(f"the record is signed by key {signer.hex()}, which is not pinned")
        try:
            key.verify(signature, context + body)
        except InvalidSignature:
            raise BadSignatureError("the record's signature does not hold") from None


def sign_record(context: bytes, body: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return `body` with the id of `key` and its signature for the purpose `context`, as `Pin.verify` takes them."""
    signed = body + key_id(key.public_key())
    return signed + key.sign(context + signed)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The ledger `log_id` ended at `rev` with chain hash `link` at `at_ms` (UTC, by the authority's clock).

    `audit` is the newest link of the audit. A snapshot's header says nothing of that: it has NO_AUDIT.
    """

    log_id: LogId
    rev: Rev
    link: bytes
    at_ms: int
    audit: bytes = NO_AUDIT

    def to_bytes(self) -> bytes:
        """Return the 72 bytes that say this, in a checkpoint and in a snapshot's header."""
        rev = codec.number(self.rev.generation, 8) + codec.number(self.rev.seq, 8)
        return self.log_id.raw + rev + self.link + codec.number(self.at_ms, 8)

    @classmethod
    def read(cls, reader: codec.Reader) -> Self:
        """Return what the next 72 bytes say. Raises: MalformedError."""
        log_id = LogId(reader.take(16))
        rev = Rev(reader.number(8), reader.number(8))
        return cls(log_id, rev, reader.take(LINK_BYTES), reader.number(8))

    def sign(self, key: Ed25519PrivateKey) -> bytes:
        """Return the signed record, 185 bytes."""
        return sign_record(_CONTEXT, bytes((VERSION,)) + self.to_bytes() + self.audit, key)


@dataclass(frozen=True, slots=True)
class UnverifiedCheckpoint:
    """What claims to be a checkpoint. The only way on is `verify`."""

    claimed: Checkpoint
    signer: bytes
    body: bytes
    signature: bytes

    def verify(self, pin: Pin) -> Checkpoint:
        """Return the checkpoint if a key of `pin` signed it. Raises: as `Pin.verify`."""
        pin.verify(_CONTEXT, self.claimed.log_id, self.signer, self.body, self.signature)
        return self.claimed


def parse_checkpoint(data: bytes) -> UnverifiedCheckpoint:
    """Return what `data` claims. Raises: MalformedError, UnknownVersionError."""
    if data and data[0] != VERSION:
        raise UnknownVersionError("the checkpoint is of a version that is not known here")
    if len(data) != CHECKPOINT_BYTES:
        raise MalformedError(f"a checkpoint has {CHECKPOINT_BYTES} bytes")
    reader = codec.Reader(data, 1)
    claimed = replace(Checkpoint.read(reader), audit=reader.take(LINK_BYTES))
    signer = reader.take(KEY_ID_BYTES)
    return UnverifiedCheckpoint(claimed, signer, data[: reader.at], reader.take(SIGNATURE_BYTES))


def claimed_signer(signed: bytes) -> bytes:
    """Return the id of the key that a checkpoint names, unverified; none for what is no checkpoint."""
    try:
        return parse_checkpoint(signed).signer
    except LogError:
        return b""


def claimed_rev(signed: bytes) -> Rev:
    """Return the position up to which a checkpoint says that it knows, unverified; 0.0 for what is none."""
    try:
        return parse_checkpoint(signed).claimed.rev
    except LogError:
        return Rev(0, 0)


def claimed_seq(signed: bytes) -> int:
    """Return the number of that position."""
    return claimed_rev(signed).seq


def _version(text: str) -> int:
    if not _VERSION.fullmatch(text) or int(text) > codec.MAX_MS:
        raise MalformedError("the version in a pin is a number from 1")
    return int(text)


def _public_key(text: str) -> Ed25519PublicKey:
    raw = codec.from_base64(text)
    if len(raw) != 32:
        raise MalformedError("an Ed25519 public key has 32 bytes")
    return Ed25519PublicKey.from_public_bytes(raw)
