"""The formats of docs/protocol.md, written a second time: it imports nothing of the package that it is to test."""

import base64
import hashlib
import hmac
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Json = dict[str, Any]

SEED: Final = bytes(range(0x01, 0x21))
OTHER_SEED: Final = bytes(range(0x21, 0x41))
LOG: Final = bytes(range(0xA0, 0xB0))
OTHER_LOG: Final = bytes(range(0xB0, 0xC0))
NOW: Final = 1_800_000_000_000
DAY: Final = 86_400_000
MAX: Final = 2**53 - 1
KINDS: Final = (
    *("session", "agent", "delegation", "grant", "token", "biscuit", "application", "subject", "key"),
    "cutoff",
)
PREFIXES: Final = {
    "session": "ses",
    "agent": "agt",
    "delegation": "edg",
    "grant": "grt",
    "application": "app",
    "token": "tok",
}
COUNTING: Final = bytes(range(16)).hex()


def u64(number: int) -> bytes:
    return number.to_bytes(8)


def sized(text: str) -> bytes:
    return len(text.encode()).to_bytes(2) + text.encode()


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number % 128 + 128])
        number //= 128
    return out + bytes([number])


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def log_text(log: bytes) -> str:
    return "log_" + log.hex()


def public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def key_id(seed: bytes) -> bytes:
    return hashlib.sha256(public(seed)).digest()[:16]


CHECKPOINT: Final = "countermand checkpoint v2\n"
SNAPSHOT: Final = "countermand snapshot v1\n"
KEYSET: Final = "countermand keyset v1\n"
SUCCESSION: Final = "countermand succession v1\n"


def signed(context: str, body: bytes, seed: bytes = SEED) -> bytes:
    return body + Ed25519PrivateKey.from_private_bytes(seed).sign(context.encode() + body)


# Anchor


def anchor_key(kind: str, issuer: str, id_: str) -> bytes:
    number = bytes([KINDS.index(kind) + 1])
    prefix, _, digits = id_.partition("_")
    own = (
        not issuer and PREFIXES.get(kind) == prefix and len(digits) == 32 and not set(digits) - set("0123456789abcdef")
    )
    if own:
        return number + bytes.fromhex(digits)
    return number + hashlib.sha256(len(issuer.encode()).to_bytes(4) + issuer.encode() + id_.encode()).digest()


# Entry and chain


def entry(**given: Any) -> tuple[Json, bytes]:
    """Return an entry's values and its bytes."""
    values: Json = {
        "generation": 1,
        "seq": 1,
        "kind": "session",
        "issuer": "",
        "id": f"ses_{COUNTING}",
        "reason": "",
        "at_ms": NOW,
        "expires_at_ms": None,
        "issued_before_ms": None,
    } | given
    numbers = [values[name] or 0 for name in ("generation", "seq", "at_ms", "expires_at_ms", "issued_before_ms")]
    head = bytes([1, KINDS.index(values["kind"]) + 1]) + b"".join(map(u64, numbers))
    return values, head + sized(values["issuer"]) + sized(values["id"]) + sized(values["reason"])


def genesis(log: bytes, generation: int) -> bytes:
    return hashlib.sha256(b"countermand genesis v1\n" + log + u64(generation)).digest()


def next_link(previous: bytes, data: bytes) -> bytes:
    return hashlib.sha256(b"countermand link v1\n" + previous + data).digest()


def succession(ended: tuple[int, int], link: bytes, seq: int, at_ms: int, log: bytes = LOG) -> tuple[Json, bytes]:
    """Return what a succession says, with the link that it makes, and the first 81 bytes of one."""
    said = log + u64(ended[0]) + u64(ended[1]) + link + u64(seq) + u64(at_ms)
    values = {
        "log_id": log_text(log),
        "ended": {"generation": ended[0], "seq": ended[1], "link": link.hex()},
        "begun": {
            "generation": ended[0] + 1,
            "seq": seq,
            "link": hashlib.sha256(b"countermand succession link v1\n" + said).hexdigest(),
        },
        "at_ms": at_ms,
    }
    return values, bytes([1]) + said


# Snapshot


def hour(expires_at_ms: int | None) -> int:
    return 0 if expires_at_ms is None else -(-expires_at_ms // 3_600_000)


def record(values: Json) -> bytes:
    key = anchor_key(values["kind"], values["issuer"], values["id"])
    form = key[0] | (0x80 if len(key) == 33 else 0)
    out = bytes([form]) + key[1:] + varint(values["seq"]) + varint(hour(values["expires_at_ms"]))
    if values["kind"] == "cutoff":
        out += b"".join(map(varint, (values["generation"], values["at_ms"], values["issued_before_ms"] or 0)))
    return out


# Fields and the documented signature

KIND_FIELDS: Final = {
    "session": "sid",
    "agent": "agent_session_id",
    "delegation": "delegation_edge_id",
    "grant": "grant_id",
}


def fields(previous: bytes, values: Json, data: bytes) -> dict[str, str]:
    issuer, id_ = values["issuer"].encode(), values["id"]
    if issuer or not id_.isascii():
        id_ = "sha256:" + hashlib.sha256(len(issuer).to_bytes(4) + issuer + id_.encode()).hexdigest()
    out = {
        "zone_id": "default",
        "session_id": id_,
        "reason": values["reason"].encode("ascii", "backslashreplace").decode(),
    }
    if values["kind"] in KIND_FIELDS:
        out[KIND_FIELDS[values["kind"]]] = id_
    return out | {"cm_seq": str(values["seq"]), "cm_prev": b64(previous), "cm_entry": b64(data)}


def tag(key: bytes, stream: str, given: dict[str, str]) -> str:
    text = stream + "\n" + "".join(f"{field}={given[field]}\n" for field in sorted(given))
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


# The history that the files share

ENTRIES: Final = [
    entry(reason="left the company", expires_at_ms=NOW + DAY),
    entry(seq=2, kind="agent", id=f"agt_{COUNTING}", expires_at_ms=NOW + DAY + 1),
    entry(seq=3, kind="delegation", id=f"edg_{COUNTING}", reason='"quoted" \\ départ 🔑', expires_at_ms=NOW + DAY),
    entry(seq=4, kind="grant", id=f"grt_{COUNTING}", reason="grant_revoked"),
    entry(seq=5, kind="token", id="a-jti-of-theirs", issuer="https://idp.example"),
    entry(seq=6, kind="biscuit", id="ab" * 64),
    entry(seq=7, kind="application", id=f"app_{COUNTING}", expires_at_ms=NOW + 30 * DAY),
    entry(seq=8, kind="subject", id="zoë", issuer="https://idp.example"),
    entry(seq=9, kind="key", id="signing-key-1", reason="leaked"),
    entry(seq=10, kind="cutoff", id="all", expires_at_ms=NOW + DAY),
    entry(seq=11, kind="cutoff", id="subject:alice", issued_before_ms=NOW - 12_345),
    entry(seq=12, kind="cutoff", id=f"application:app_{COUNTING}", issuer="https://idp.example"),
]


def chain(log: bytes = LOG, generation: int = 1) -> list[bytes]:
    """Return every link of the history, the genesis first."""
    links = [genesis(log, generation)]
    for _, data in ENTRIES:
        links.append(next_link(links[-1], data))
    return links


def position(
    seq: int, at_ms: int, log: bytes = LOG, generation: int = 1, link: bytes | None = None
) -> tuple[Json, bytes]:
    """Return what a snapshot's header says, and its first 73 bytes."""
    link = link or chain(log, generation)[seq]
    values = {"log_id": log_text(log), "generation": generation, "seq": seq, "link": link.hex(), "at_ms": at_ms}
    return values, b"\1" + log + u64(generation) + u64(seq) + link + u64(at_ms)


def checkpoint(
    seq: int, at_ms: int, log: bytes = LOG, generation: int = 1, link: bytes | None = None, audited: int = 2
) -> tuple[Json, bytes]:
    """Return what a checkpoint that signs row `audited` of the audit says, and its first 105 bytes."""
    values, head = position(seq, at_ms, log, generation, link)
    audit = audit_chain(log)[audited]
    return values | {"audit": audit.hex()}, b"\2" + head[1:] + audit


# Audit

AUDIT_TEXTS: Final = (
    *("action", "target", "issuer", "reason", "role", "key_id", "application_id", "remote", "request_id"),
)


def audit_row(**given: Any) -> tuple[Json, bytes]:
    """Return a row's values and its bytes."""
    values: Json = {"number": 1, "at_ms": NOW, "seq": None} | dict.fromkeys(AUDIT_TEXTS, "") | given
    head = b"\1" + b"".join(u64(values[name] or 0) for name in ("number", "at_ms", "seq"))
    return values, head + b"".join(sized(values[name]) for name in AUDIT_TEXTS)


def audit_genesis(log: bytes) -> bytes:
    return hashlib.sha256(b"countermand audit genesis v1\n" + log).digest()


def next_audit_link(previous: bytes, data: bytes) -> bytes:
    return hashlib.sha256(b"countermand audit link v1\n" + previous + data).digest()


AUDIT: Final = [
    audit_row(action="api_key.create", target="0123456789abcdef", role="authority"),
    audit_row(
        number=2,
        seq=1,
        action="session.revoke",
        target=f"ses_{COUNTING}",
        reason="left the company",
        role="operator",
        key_id="0123456789abcdef",
        remote="192.0.2.7",
        request_id="req-1",
    ),
    audit_row(
        number=3,
        at_ms=NOW + 1,
        seq=MAX,
        action="subject.revoke",
        target="zoë",
        issuer="https://idp.example",
        reason='"quoted" \\ départ 🔑',
        role="application",
        key_id="fedcba9876543210",
        application_id=f"app_{COUNTING}",
        remote="2001:db8::1",
        request_id="0123456789abcdef0123456789abcdef",
    ),
]


def audit_chain(log: bytes = LOG) -> list[bytes]:
    """Return every link of the audit, the genesis first."""
    links = [audit_genesis(log)]
    for _, data in AUDIT:
        links.append(next_audit_link(links[-1], data))
    return links
