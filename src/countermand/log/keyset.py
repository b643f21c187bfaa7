"""Keysets: which keys speak for a log from now on, signed by one that spoke for it before.

A resource server pins its first keys, and follows from there one keyset after the other, never back. So a key may be
replaced while replicas run, and one that is withdrawn speaks no more; only a holder of the keys before can say so.
Source: docs/protocol.md, "Keyset".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from countermand.errors import KeysetError, MalformedError, UnknownVersionError
from countermand.log import codec
from countermand.log.chain import LogId
from countermand.log.checkpoint import KEY_ID_BYTES, SIGNATURE_BYTES, Pin, sign_record

VERSION: Final = 1
MAX_KEYS: Final = 8
"""In one keyset; a rotation has two."""
MAX_KEYSETS: Final = 1_024
"""Of one log, ever: some 500 rotations. Whoever follows from the first pin reads them all."""
PUBLIC_KEY_BYTES: Final = 32
MAX_KEYSET_BYTES: Final = 1 + 16 + 8 + 1 + MAX_KEYS * PUBLIC_KEY_BYTES + KEY_ID_BYTES + SIGNATURE_BYTES
MAX_DOCUMENT_BYTES: Final = MAX_KEYSETS * MAX_KEYSET_BYTES

_CONTEXT = b"countermand keyset v1\n"


@dataclass(frozen=True, slots=True)
class UnverifiedKeyset:
    """What claims to be a keyset. The only way on is `follow`."""

    claimed: Pin
    signer: bytes
    body: bytes
    signature: bytes

    def follow(self, pin: Pin) -> Pin:
        """Return what is believed after `pin`, if this is the keyset that comes next.

        Raises:
            KeysetError: it is not the next one: lower, the same, or one was left out.
            WrongLogError, UnknownKeyError, BadSignatureError: as `Pin.verify`.
        """
        if self.claimed.version != pin.version + 1:
            raise KeysetError(f"keyset {self.claimed.version} does not follow keyset {pin.version}")
        pin.verify(_CONTEXT, self.claimed.log_id, self.signer, self.body, self.signature)
        return self.claimed


def sign_keyset(pin: Pin, key: Ed25519PrivateKey) -> bytes:
    """Return the signed record that `pin`'s keys speak for its log from its version on. Raises: MalformedError."""
    if not 1 <= len(pin.keys) <= MAX_KEYS or pin.version < 1:
        raise MalformedError(f"a keyset has a version from 1, and 1 to {MAX_KEYS} keys")
    body = bytes((VERSION,)) + pin.log_id.raw + codec.number(pin.version, 8) + codec.number(len(pin.keys), 1)
    body += b"".join(sorted(public.public_bytes_raw() for public in pin.keys.values()))
    return sign_record(_CONTEXT, body, key)


def parse_keyset(data: bytes) -> UnverifiedKeyset:
    """Return what `data` claims. Raises: MalformedError, UnknownVersionError."""
    reader = codec.Reader(data)
    keyset = _read(reader)
    reader.end()
    return keyset


def split_keysets(document: bytes) -> Sequence[bytes]:
    """Return the records that stand one after the other in `document`, unverified.

    Raises: MalformedError, UnknownVersionError; also for more of them than a log may have.
    """
    if len(document) > MAX_DOCUMENT_BYTES:
        raise MalformedError("there are more keysets than a log may have")
    reader = codec.Reader(document)
    records: list[bytes] = []
    while reader.at < len(document):
        start = reader.at
        _read(reader)
        records.append(document[start : reader.at])
    return records


def _read(reader: codec.Reader) -> UnverifiedKeyset:
    form = reader.take(1)
    if form[0] != VERSION:
        raise UnknownVersionError("the keyset is of a version that is not known here")
    log_id, version, count = reader.take(16), reader.number(8), reader.number(1)
    if version < 1 or not 1 <= count <= MAX_KEYS:
        raise MalformedError("a keyset's version or its number of keys is out of range")
    raw = [reader.take(PUBLIC_KEY_BYTES) for _ in range(count)]
    if raw != sorted(set(raw)):
        raise MalformedError("a keyset's keys are not each there once, in order")
    signer = reader.take(KEY_ID_BYTES)
    body = form + log_id + codec.number(version, 8) + codec.number(count, 1) + b"".join(raw) + signer
    claimed = Pin.of(LogId(log_id), *map(Ed25519PublicKey.from_public_bytes, raw), version=version)
    return UnverifiedKeyset(claimed, signer, body, reader.take(SIGNATURE_BYTES))
