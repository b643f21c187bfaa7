"""An entry as flat text fields: the documented ones for any consumer, ours beside them for replicas.

A replica reads only the fields `cm_…`; the documented ones are for those who know no more, and prove nothing. Every
value that we write is ASCII.
Source: docs/protocol.md, "Fields".
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from countermand.errors import MalformedError
from countermand.log import codec
from countermand.log.anchor import Anchor, Kind
from countermand.log.chain import LINK_BYTES, Candidate
from countermand.log.entry import MAX_ENTRY_BYTES, Entry
from countermand.log.hmac import STREAM_SIG_FIELD, stream_signature

REVOCATION_STREAM: Final = "caracal.sessions.revoke"
"""The documented stream, on which entries travel beside messages of others."""
ZONE: Final = "default"
SEQ_FIELD: Final = "cm_seq"
PREVIOUS_FIELD: Final = "cm_prev"
ENTRY_FIELD: Final = "cm_entry"
CHECKPOINT_FIELD: Final = "cm_checkpoint"
SUCCESSION_FIELD: Final = "cm_succession"

_KIND_FIELDS = {
    Kind.SESSION: "sid",
    Kind.AGENT: "agent_session_id",
    Kind.DELEGATION: "delegation_edge_id",
    Kind.GRANT: "grant_id",
}
_SEQ_DIGITS = 16
_ENTRY_CHARS = MAX_ENTRY_BYTES * 4 // 3 + 4


def flat_id(named: Entry | Anchor) -> str:
    """Return the id under which documented verifiers, who know neither kinds nor issuers, see an anchor."""
    if named.issuer or not named.id.isascii():
        issuer = named.issuer.encode()
        return "sha256:" + hashlib.sha256(len(issuer).to_bytes(4) + issuer + named.id.encode()).hexdigest()
    return named.id


def documented_fields(named: Entry | Anchor, reason: str) -> dict[str, str]:
    """Return the fields by which a consumer that knows no more than the documents learns that `named` is revoked."""
    anchor = flat_id(named)
    fields = {
        "zone_id": ZONE,
        "session_id": anchor,
        "reason": reason.encode("ascii", "backslashreplace").decode(),
    }
    if named.kind in _KIND_FIELDS:
        fields[_KIND_FIELDS[named.kind]] = anchor
    return fields


def to_fields(previous: bytes, data: bytes, signed: bytes | None = None) -> dict[str, str]:
    """Return the fields of the entry with canonical bytes `data` after `previous`, and of a checkpoint that covers it.

    Raises: as `Entry.parse`.
    """
    entry = Entry.parse(data)
    fields = documented_fields(entry, entry.reason)
    fields[SEQ_FIELD] = str(entry.seq)
    fields[PREVIOUS_FIELD] = codec.to_base64(previous)
    fields[ENTRY_FIELD] = codec.to_base64(data)
    if signed is not None:
        fields[CHECKPOINT_FIELD] = codec.to_base64(signed)
    return fields


def signed_messages(stream: str, fields: Mapping[str, str], keys: Sequence[bytes]) -> list[dict[str, str]]:
    """Return a message for each key, signed with it, since a documented consumer holds one; without keys, one unsigned.

    Raises: MalformedError, for a field that holds a newline.
    """
    if not keys:
        return [dict(fields)]
    return [{**fields, STREAM_SIG_FIELD: stream_signature(key, stream, fields)} for key in keys]


def from_fields(fields: Mapping[str, object]) -> Candidate:
    """Return the candidate that our fields carry, as text. Raises: MalformedError."""
    try:
        seq, previous, entry = fields[SEQ_FIELD], fields[PREVIOUS_FIELD], fields[ENTRY_FIELD]
    except KeyError as missing:
        raise MalformedError(f"the field {missing} is missing") from None
    if not (isinstance(seq, str) and isinstance(previous, str) and isinstance(entry, str)):
        raise MalformedError("a field is not what it should be")
    return to_candidate(*(value.encode("ascii", "replace") for value in (seq, previous, entry)))


def to_candidate(seq: bytes, previous: bytes, entry: bytes) -> Candidate:
    """Return the candidate that these values of our fields carry. Raises: MalformedError."""
    if not (seq.isdigit() and len(seq) <= _SEQ_DIGITS) or seq.startswith(b"0"):
        raise MalformedError("a number is not what it should be")
    if len(entry) > _ENTRY_CHARS:
        raise MalformedError("the entry is too long")
    candidate = Candidate(int(seq), codec.from_base64(previous), codec.from_base64(entry))
    if len(candidate.previous) != LINK_BYTES:
        raise MalformedError("a link has 32 bytes")
    return candidate
