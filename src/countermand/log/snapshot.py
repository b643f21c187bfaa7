"""Snapshots: the signed set of all revocations still in force at one position of the ledger.

The header is verified before any byte of the body is taken, and says how many will come; so a stranger can make a
replica read no more than a header. A snapshot brings revocations and no freshness: that comes from checkpoints alone.
Source: docs/protocol.md, "Snapshot".
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from countermand.errors import MalformedError, SnapshotMismatchError, UnknownVersionError
from countermand.log import codec
from countermand.log.anchor import OWN_KEY_BYTES, Kind, Rev, kind_numbered
from countermand.log.chain import LINK_BYTES
from countermand.log.checkpoint import KEY_ID_BYTES, SIGNATURE_BYTES, Checkpoint, Pin, sign_record
from countermand.log.entry import Entry
from countermand.log.revoked import NEVER, Cutoff, RevokedSet, expiry_hour

VERSION: Final = 1
HEADER_BYTES: Final = 1 + 16 + 8 + 8 + LINK_BYTES + 8 + 8 + 8 + 32 + KEY_ID_BYTES + SIGNATURE_BYTES
MAX_BODY_BYTES: Final = 2**31
"""Some 85 million entries. A larger set wants another form than one body."""

_CONTEXT = b"countermand snapshot v1\n"
_OWN = frozenset(kind for kind in Kind if kind is not Kind.CUTOFF)
_HOUR_BYTES = 3  # until the year 2209
_SEQ_BYTES = 7  # a longer one is read with more care
_HASHED = 0x80  # in a record's kind: 32 bytes of hash follow, and not the 16 bytes of an id of our own making


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """What was in force at `checkpoint`: `count` records, in `length` bytes whose SHA-256 is `digest`."""

    checkpoint: Checkpoint
    count: int
    length: int
    digest: bytes

    def sign(self, key: Ed25519PrivateKey) -> bytes:
        """Return the signed header, 201 bytes."""
        records = codec.number(self.count, 8) + codec.number(self.length, 8) + self.digest
        return sign_record(_CONTEXT, bytes((VERSION,)) + self.checkpoint.to_bytes() + records, key)

    @classmethod
    def verify(cls, data: bytes, pin: Pin) -> Self:
        """Return the header that `data` writes if a key of `pin` signed it.

        Raises: MalformedError, UnknownVersionError, and as `Pin.verify`.
        """
        if data and data[0] != VERSION:
            raise UnknownVersionError("the snapshot is of a version that is not known here")
        if len(data) != HEADER_BYTES:
            raise MalformedError(f"a snapshot's header has {HEADER_BYTES} bytes")
        reader = codec.Reader(data, 1)
        checkpoint = Checkpoint.read(reader)
        count, length, digest = reader.number(8), reader.number(8), reader.take(32)
        signer = reader.take(KEY_ID_BYTES)
        pin.verify(_CONTEXT, checkpoint.log_id, signer, data[: reader.at], reader.take(SIGNATURE_BYTES))
        if length > MAX_BODY_BYTES:
            raise MalformedError("the snapshot is larger than any that we make")
        return cls(checkpoint, count, length, digest)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A verified header and what its records revoke, all of them read."""

    header: SnapshotHeader
    revoked: RevokedSet


class SnapshotReader:
    """Takes a snapshot in any split of its bytes, and gives it when it is whole and true.

    Raises, from `feed` or `finish`: as `SnapshotHeader.verify`, SnapshotMismatchError, and from `finish` MalformedError
    or UnknownKindError for records that the authority signed and that we cannot read.
    """

    def __init__(self, pin: Pin) -> None:
        self._pin = pin
        self._data = bytearray()
        self._header: SnapshotHeader | None = None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._data += chunk
        if self._header is None and len(self._data) >= HEADER_BYTES:
            self._header = SnapshotHeader.verify(bytes(self._data[:HEADER_BYTES]), self._pin)
        if self._header is not None and len(self._data) > HEADER_BYTES + self._header.length:
            raise SnapshotMismatchError("more bytes came than the snapshot's header signs")

    def finish(self) -> Snapshot:
        """Return the snapshot, once all bytes came. A million records take seconds: call it in a thread."""
        if self._header is None:
            raise MalformedError("the snapshot ends before its header does")
        body = bytes(memoryview(self._data)[HEADER_BYTES:])
        if len(body) != self._header.length or hashlib.sha256(body).digest() != self._header.digest:
            raise SnapshotMismatchError("the snapshot's body is not the one that its header signs")
        return Snapshot(self._header, _read_records(body, self._header.count))


def make_snapshot(checkpoint: Checkpoint, entries: Iterable[Entry], key: Ed25519PrivateKey) -> bytes:
    """Return the signed snapshot of `entries`: all in force at `checkpoint`; any order gives the same bytes."""
    records = sorted({_record(entry) for entry in entries})
    body = b"".join(records)
    header = SnapshotHeader(checkpoint, len(records), len(body), hashlib.sha256(body).digest())
    return header.sign(key) + body


def _record(entry: Entry) -> bytes:
    key = entry.key
    hashed = 0 if len(key) == OWN_KEY_BYTES else _HASHED
    hour = expiry_hour(entry.expires_at_ms)
    record = bytes((key[0] | hashed,)) + key[1:] + codec.varint(entry.seq)
    record += codec.varint(0 if hour == NEVER else hour)
    if entry.kind is not Kind.CUTOFF:
        return record
    return record + b"".join(map(codec.varint, (entry.generation, entry.at_ms, entry.issued_before_ms or 0)))


def _read_records(body: bytes, count: int) -> RevokedSet:
    """Read nearly every record in this one loop: an id of our own making, and an hour that was read before."""
    revoked = RevokedSet()
    known: dict[bytes, dict[bytes, int]] = {}  # by an hour's three bytes: key -> seq
    start = 0
    for _ in range(count):
        at = start + OWN_KEY_BYTES
        byte = seq = shift = 0
        for byte in body[at : at + _SEQ_BYTES]:  # as Reader.varint
            seq |= (byte & 0x7F) << shift
            at += 1
            if byte < 0x80:
                break
            shift += 7
        seqs = known.get(body[at : at + _HOUR_BYTES])
        if seqs is not None and body[start] in _OWN and 0 < byte < 0x80:
            seqs.setdefault(body[start : start + OWN_KEY_BYTES], seq)
            start = at + _HOUR_BYTES
        else:
            reader = codec.Reader(body, start)
            hour = _read_record(reader, revoked)
            start = reader.at
            hour_bytes = codec.varint(hour)
            if len(hour_bytes) == _HOUR_BYTES:
                known.setdefault(hour_bytes, {})
    for hour_bytes, seqs in known.items():
        revoked.add_many(seqs, codec.Reader(hour_bytes).varint())
    codec.Reader(body, start).end()
    return revoked


def _read_record(reader: codec.Reader, revoked: RevokedSet) -> int:
    """Return the hour until which it is held."""
    form = reader.take(1)[0]
    kind = kind_numbered(form & ~_HASHED)
    key = kind.to_bytes() + reader.take(32 if form & _HASHED else 16)
    seq, hour = reader.varint(), reader.varint() or NEVER
    if hour > NEVER or seq < 1:
        raise MalformedError("a snapshot's record is out of range")
    if kind is Kind.CUTOFF:
        rev = Rev(reader.varint(), seq)
        at_ms, issued_before_ms = reader.varint(), reader.varint()
        revoked.add_cutoff(key, Cutoff.of(rev, at_ms, issued_before_ms or None, hour))
    else:
        revoked.add(key, seq, hour)
    return hour
