"""Writes the test vectors as JSON: what every implementation must read and write, and what it must refuse.

Keys and times are fixed, so it always writes the same files: `python -m tests.vectors.make`.
Binary values are lower-case hex, times are milliseconds since 1970.
"""

import hashlib
import json
from pathlib import Path
from typing import Final

from tests.vectors.biscuit import biscuits
from tests.vectors.reference import (
    AUDIT,
    CHECKPOINT,
    COUNTING,
    ENTRIES,
    KEYSET,
    KINDS,
    LOG,
    MAX,
    NOW,
    OTHER_LOG,
    OTHER_SEED,
    PREFIXES,
    SEED,
    SNAPSHOT,
    SUCCESSION,
    Json,
    anchor_key,
    audit_chain,
    audit_genesis,
    b64,
    chain,
    checkpoint,
    entry,
    fields,
    genesis,
    hour,
    key_id,
    log_text,
    position,
    public,
    record,
    signed,
    succession,
    tag,
    u64,
    varint,
)

HERE: Final = Path(__file__).parent

# Anchor


def anchors() -> Json:
    cases = [(kind, "", f"{prefix}_{COUNTING}") for kind, prefix in PREFIXES.items()]
    cases += [
        ("agent", "", f"ses_{COUNTING}"),
        ("session", "", f"ses_{COUNTING.upper()}"),
        ("session", "https://idp.example", f"ses_{COUNTING}"),
        ("session", "", "a session of somebody else"),
        ("token", "ab", "c"),
        ("token", "a", "bc"),
        ("biscuit", "", "ff" * 64),
        ("subject", "", "zoë"),
        ("subject", "", "urn:x:y"),
        ("key", "", "signing-key-1"),
        ("cutoff", "", "all"),
        ("cutoff", "", "subject:zoë"),
        ("cutoff", "https://idp.example", "subject:zoë"),
    ]
    refused = [
        ("", "malformed_record"),
        ("session", "malformed_record"),
        ("session:", "malformed_record"),
        ("session:a\nb", "malformed_record"),
        ("session:a\u0085b", "malformed_record"),
        ("session:a\u2028b", "malformed_record"),
        ("session:" + "é" * 257, "malformed_record"),
        ("Session:x", "unknown_kind"),
        ("tenant:x", "unknown_kind"),
    ]
    return {
        "kinds": {kind: number for number, kind in enumerate(KINDS, 1)},
        "keys": [
            {
                "kind": kind,
                "issuer": issuer,
                "id": id_,
                "path_text": f"{kind}:{id_}",
                "key": anchor_key(kind, issuer, id_).hex(),
            }
            for kind, issuer, id_ in cases
        ],
        "refused": [{"path_text": text, "code": code} for text, code in refused],
    }


# Entry and chain


EXTREMES: Final = [
    entry(generation=MAX, seq=MAX, at_ms=MAX, expires_at_ms=MAX, id="x" * 512, reason="r" * 512, issuer="i" * 512),
    entry(kind="cutoff", id="all", issued_before_ms=MAX),
    entry(at_ms=1, expires_at_ms=1, id="é" * 256),
]


def patched(data: bytes, offset: int, new: bytes) -> str:
    return (data[:offset] + new + data[offset + len(new) :]).hex()


def entries() -> Json:
    _, true = ENTRIES[0]
    bad, unknown = "malformed_record", "unknown_kind"
    refused = [
        ("no bytes", "", bad),
        ("version 0", patched(true, 0, b"\0"), "unknown_version"),
        ("version 2", patched(true, 0, b"\2"), "unknown_version"),
        ("kind 0", patched(true, 1, b"\0"), unknown),
        ("kind 11", patched(true, 1, b"\x0b"), unknown),
        ("generation 0", patched(true, 2, bytes(8)), bad),
        ("seq 0", patched(true, 10, bytes(8)), bad),
        ("time 0", patched(true, 18, bytes(8)), bad),
        ("a number over 2**53 - 1", patched(true, 10, u64(MAX + 1)), bad),
        ("issued_before on a session", patched(true, 34, u64(1)), bad),
        ("cut short", true[:-1].hex(), bad),
        ("a byte after its end", true.hex() + "00", bad),
        ("the head alone", true[:42].hex(), bad),
        ("a length past its end", patched(true, 42, b"\xff\xff"), bad),
        ("no id", entry(id="")[1].hex(), bad),
        ("a text that is not UTF-8", patched(true, 46, b"\xff"), bad),
        ("a surrogate", patched(true, 46, b"\xed\xa0\x80"), bad),
        ("an overlong form", patched(true, 46, b"\xc0\xaf"), bad),
        ("a newline", entry(reason="a\nb")[1].hex(), bad),
        ("a C1 control character", entry(reason="a\u0085b")[1].hex(), bad),
        ("a line separator", entry(reason="a\u2028b")[1].hex(), bad),
        ("a text of 513 bytes", entry(reason="x" * 513)[1].hex(), bad),
        ("a cutoff for a session", entry(kind="cutoff", id=f"session:ses_{COUNTING}")[1].hex(), bad),
        ("a cutoff for nobody", entry(kind="cutoff", id="subject:")[1].hex(), bad),
        ("a cutoff for a bare name", entry(kind="cutoff", id="alice")[1].hex(), bad),
        ("a cutoff for everyone with an issuer", entry(kind="cutoff", id="all", issuer="x")[1].hex(), bad),
        ("a cutoff for an unknown kind", entry(kind="cutoff", id="tenant:x")[1].hex(), unknown),
    ]
    return {
        "entries": [{**values, "bytes": data.hex()} for values, data in ENTRIES + EXTREMES],
        "refused": [{"what": what, "bytes": data, "code": code} for what, data, code in refused],
    }


def chains() -> Json:
    return {
        "genesis": [
            {"log_id": log_text(log), "generation": generation, "link": genesis(log, generation).hex()}
            for log, generation in ((LOG, 1), (LOG, 2), (OTHER_LOG, 1), (bytes(16), MAX))
        ],
        "links": [
            {"seq": seq, "previous": previous.hex(), "entry": data.hex(), "link": link.hex()}
            for seq, (previous, (_, data), link) in enumerate(zip(chain(), ENTRIES, chain()[1:], strict=False), 1)
        ],
    }


# Checkpoint and pin


def checkpoints() -> Json:
    valid = [
        checkpoint(0, NOW),
        checkpoint(12, NOW + 500),
        checkpoint(5, MAX, audited=0),
        checkpoint(MAX, NOW, generation=MAX, link=bytes(32)),
    ]
    body = checkpoint(12, NOW)[1] + key_id(SEED)
    true = signed(CHECKPOINT, body)
    large = checkpoint(12, NOW)[1][:17] + u64(MAX + 1) + checkpoint(12, NOW)[1][25:] + key_id(SEED)
    flipped = true[:40] + bytes([true[40] ^ 1]) + true[41:]
    refused = [
        ("no bytes", b"", "malformed_record"),
        ("cut short", true[:-1], "malformed_record"),
        ("a byte after its end", true + b"\0", "malformed_record"),
        ("version 1", b"\1" + true[1:], "unknown_version"),
        ("generation over 2**53 - 1", signed(CHECKPOINT, large), "malformed_record"),
        ("another log", signed(CHECKPOINT, checkpoint(12, NOW, OTHER_LOG)[1] + key_id(SEED)), "wrong_log"),
        ("another key", signed(CHECKPOINT, checkpoint(12, NOW)[1] + key_id(OTHER_SEED), OTHER_SEED), "unknown_key"),
        ("another key under our key's id", signed(CHECKPOINT, body, OTHER_SEED), "bad_signature"),
        ("a flipped bit", flipped, "bad_signature"),
        ("signed as a snapshot", signed(SNAPSHOT, body), "bad_signature"),
        ("signed without a context", signed("", body), "bad_signature"),
    ]
    return {
        "private_key": SEED.hex(),
        "public_key": public(SEED).hex(),
        "key_id": key_id(SEED).hex(),
        "pin": f"{log_text(LOG)}/{b64(public(SEED))}",
        "checkpoints": [{**values, "bytes": signed(CHECKPOINT, head + key_id(SEED)).hex()} for values, head in valid],
        "refused": [{"what": what, "bytes": data.hex(), "code": code} for what, data, code in refused],
    }


def pins() -> Json:
    key, other = b64(public(SEED)), b64(public(OTHER_SEED))
    log = log_text(LOG)
    last = key[:-1] + chr(ord(key[-1]) + 1)  # the same bytes, with stray last bits
    refused = [
        "",
        log,
        f"{log}/",
        f"{log}/{key}=",
        f"{log}/{key[:-1]}",
        f"{log}/{last}",
        f"{log}/{key},",
        f"{log.upper()}/{key}",
        f"{log}/0/{key}",
        f"{log}/01/{key}",
        f"{log}/{MAX + 1}/{key}",
        f"{log}/1/",
    ]
    return {
        "private_keys": [SEED.hex(), OTHER_SEED.hex()],
        "pins": [
            {"text": f"{log}/{key}", "log_id": LOG.hex(), "keys": {key_id(SEED).hex(): public(SEED).hex()}},
            {
                "text": f"{log}/12/{key}",
                "log_id": LOG.hex(),
                "version": 12,
                "keys": {key_id(SEED).hex(): public(SEED).hex()},
            },
            {
                "text": f"{log}/{key},{other}",
                "log_id": LOG.hex(),
                "keys": {key_id(seed).hex(): public(seed).hex() for seed in (SEED, OTHER_SEED)},
            },
        ],
        "refused": [{"text": text, "code": "malformed_record"} for text in refused],
    }


# Keyset


def keyset(
    version: int, seeds: list[bytes], by: bytes, *, log: bytes = LOG, context: str = KEYSET, order: bool = True
) -> bytes:
    keys = [public(seed) for seed in seeds]
    body = b"\1" + log + u64(version) + bytes([len(seeds)]) + b"".join(sorted(keys) if order else keys)
    return signed(context, body + key_id(by), by)


def keysets() -> Json:
    """Keysets that follow one another from the pin, and records that do not follow it."""
    both = sorted([SEED, OTHER_SEED], key=public)
    chained = [(1, both, SEED), (2, [OTHER_SEED], SEED), (3, both, OTHER_SEED)]
    true = keyset(*chained[0])
    refused = [
        ("no bytes", b"", "malformed_record"),
        ("cut short", true[:-1], "malformed_record"),
        ("a byte after its end", true + b"\0", "malformed_record"),
        ("version 2 of the format", b"\2" + true[1:], "unknown_version"),
        ("keyset 0", keyset(0, both, SEED), "malformed_record"),
        ("no keys", keyset(1, [], SEED), "malformed_record"),
        ("nine keys", keyset(1, [bytes([n] * 32) for n in range(1, 10)], SEED), "malformed_record"),
        ("one key twice", keyset(1, [SEED, SEED], SEED), "malformed_record"),
        ("keys out of order", keyset(1, both[::-1], SEED, order=False), "malformed_record"),
        ("one left out before it", keyset(2, both, SEED), "wrong_keyset"),
        ("another log", keyset(1, both, SEED, log=OTHER_LOG), "wrong_log"),
        ("signed by a key that it brings", keyset(1, both, OTHER_SEED), "unknown_key"),
        ("signed as a checkpoint", keyset(1, both, SEED, context=CHECKPOINT), "bad_signature"),
        ("a flipped bit", true[:-1] + bytes([true[-1] ^ 1]), "bad_signature"),
    ]
    return {
        "pin": f"{log_text(LOG)}/{b64(public(SEED))}",
        "keysets": [
            {
                "version": version,
                "private_key": by.hex(),
                "keys": [public(seed).hex() for seed in seeds],
                "bytes": keyset(version, seeds, by).hex(),
                "pin": f"{log_text(LOG)}/{version}/{','.join(b64(public(seed)) for seed in seeds)}",
            }
            for version, seeds, by in chained
        ],
        "refused": [{"what": what, "bytes": data.hex(), "code": code} for what, data, code in refused],
    }


# Succession


def successions() -> Json:
    link = chain()[12]
    valid = [
        succession((1, 12), link, 12, NOW),
        succession((1, 12), link, 40, NOW + 1),
        succession((7, 0), bytes(32), 0, MAX),
        succession((MAX - 1, MAX), link, MAX, NOW),
    ]
    said = succession((1, 12), link, 12, NOW)[1]
    true = signed(SUCCESSION, said + key_id(SEED))

    def of(ended: tuple[int, int], seq: int, log: bytes = LOG, seed: bytes = SEED) -> bytes:
        return signed(SUCCESSION, succession(ended, link, seq, NOW, log)[1] + key_id(seed), seed)

    refused = [
        ("no bytes", b"", "malformed_record"),
        ("cut short", true[:-1], "malformed_record"),
        ("a byte after its end", true + b"\0", "malformed_record"),
        ("version 2", b"\2" + true[1:], "unknown_version"),
        ("generation 0", of((0, 12), 12), "malformed_record"),
        ("a generation after which there is none", of((MAX, 12), 12), "malformed_record"),
        ("beginning before the end", of((1, 12), 11), "malformed_record"),
        ("a number over 2**53 - 1", of((1, 12), MAX + 1), "malformed_record"),
        ("another log", of((1, 12), 12, OTHER_LOG), "wrong_log"),
        ("another key", of((1, 12), 12, seed=OTHER_SEED), "unknown_key"),
        ("another key under our key's id", signed(SUCCESSION, said + key_id(SEED), OTHER_SEED), "bad_signature"),
        ("a flipped bit", true[:40] + bytes([true[40] ^ 1]) + true[41:], "bad_signature"),
        ("signed as a checkpoint", signed(CHECKPOINT, said + key_id(SEED)), "bad_signature"),
        ("signed without a context", signed("", said + key_id(SEED)), "bad_signature"),
    ]
    return {
        "private_key": SEED.hex(),
        "pin": f"{log_text(LOG)}/{b64(public(SEED))}",
        "successions": [{**values, "bytes": signed(SUCCESSION, head + key_id(SEED)).hex()} for values, head in valid],
        "refused": [{"what": what, "bytes": data.hex(), "code": code} for what, data, code in refused],
    }


# Snapshot


def snapshot(seq: int, records: list[bytes], *, length: int | None = None, context: str = SNAPSHOT) -> bytes:
    body = b"".join(records)
    head = position(seq, NOW)[1] + u64(len(records)) + u64(len(body) if length is None else length)
    return signed(context, head + hashlib.sha256(body).digest() + key_id(SEED)) + body


def snapshots() -> Json:
    records = sorted(record(values) for values, _ in ENTRIES)
    true, empty = snapshot(12, records), snapshot(0, [])
    fewer = snapshot(12, records[:-1])
    plain = record(ENTRIES[0][0])
    bad = "malformed_record"
    refused = [
        ("no bytes", b"", bad),
        ("a header cut short", true[:200], bad),
        ("version 2", b"\2" + true[1:], "unknown_version"),
        ("a body cut short", true[:-1], "snapshot_mismatch"),
        ("a byte after its end", true + b"\0", "snapshot_mismatch"),
        ("the header of one, the body of another", true[:201] + fewer[201:], "snapshot_mismatch"),
        ("a flipped bit in the body", true[:-1] + bytes([true[-1] ^ 1]), "snapshot_mismatch"),
        ("a flipped bit in the header", true[:80] + bytes([true[80] ^ 1]) + true[81:], "bad_signature"),
        ("signed as a checkpoint", snapshot(12, records, context=CHECKPOINT), "bad_signature"),
        ("a length over 2**31", snapshot(0, [], length=2**31 + 1), bad),
        ("an unknown kind", snapshot(1, [b"\x0b" + plain[1:]]), "unknown_kind"),
        ("seq 0", snapshot(1, [plain[:17] + varint(0) + varint(0)]), bad),
        ("an hour over 2**24 - 1", snapshot(1, [plain[:17] + varint(1) + varint(2**24)]), bad),
        ("a number not in its shortest form", snapshot(1, [plain[:17] + b"\x81\x00" + varint(0)]), bad),
        ("fewer records than counted", snapshot(1, [plain, b""]), bad),
        ("a record cut short", snapshot(1, [plain[:16]]), bad),
    ]
    return {
        "private_key": SEED.hex(),
        "pin": f"{log_text(LOG)}/{b64(public(SEED))}",
        "snapshots": [
            {**position(0, NOW)[0], "entries": [], "records": [], "bytes": empty.hex()},
            {
                **position(12, NOW)[0],
                "entries": [data.hex() for _, data in ENTRIES],
                "records": [
                    {"key": key.hex(), "seq": values["seq"], "expiry_hour": hour(values["expires_at_ms"]) or None}
                    for values, _ in ENTRIES
                    for key in [anchor_key(values["kind"], values["issuer"], values["id"])]
                ],
                "bytes": true.hex(),
            },
        ],
        "refused": [{"what": what, "bytes": data.hex(), "code": code} for what, data, code in refused],
    }


# Fields, events, the documented signature


def all_fields() -> list[dict[str, str]]:
    return [fields(previous, *given) for previous, given in zip(chain(), ENTRIES, strict=False)]


def messages() -> Json:
    true: Json = all_fields()[0]
    refused = [
        *(
            {name: value for name, value in true.items() if name != missing}
            for missing in ("cm_seq", "cm_prev", "cm_entry")
        ),
        *(true | {"cm_seq": value} for value in ("", "0", "01", "-1", "1.0", " 1", "1" * 17, 1, None)),
        *(true | {"cm_prev": value} for value in ("", true["cm_prev"] + "=", b64(bytes(31)), b64(bytes(33)), None)),
        *(true | {"cm_entry": value} for value in ("*", true["cm_entry"] + "\n", "A" * 4_000, ["A"], None)),
    ]
    return {
        "messages": [
            {"seq": seq, "previous": previous.hex(), "entry": data.hex(), "fields": made}
            for seq, (previous, (_, data), made) in enumerate(zip(chain(), ENTRIES, all_fields(), strict=False), 1)
        ],
        "refused": [{"fields": given, "code": "malformed_record"} for given in refused],
    }


def events() -> Json:
    newest = signed(CHECKPOINT, checkpoint(12, NOW)[1] + key_id(SEED))
    made = [f"event: entry\nid: {given['cm_seq']}\ndata: {json.dumps(given)}\n\n" for given in all_fields()]
    end = f"event: checkpoint\ndata: {b64(newest)}\n\n"
    begun = signed(SUCCESSION, succession((1, 12), chain()[12], 12, NOW)[1] + key_id(SEED))
    begins = f"event: succession\ndata: {b64(begun)}\n\n"
    refused = [
        "event: entry\ndata: {\n\n",
        "event: entry\ndata: []\n\n",
        "event: entry\ndata: {}\n\n",
        "event: checkpoint\ndata: *\n\n",
        f"event: checkpoint\ndata: {b64(newest)}=\n\n",
        "event: succession\ndata: *\n\n",
        "data: " + "x" * 16_384,
    ]
    return {
        "entry_events": [
            {"previous": previous.hex(), "entry": data.hex(), "event": event}
            for previous, (_, data), event in zip(chain(), ENTRIES, made, strict=False)
        ],
        "checkpoint_events": [{"checkpoint": newest.hex(), "event": end}],
        "succession_events": [{"succession": begun.hex(), "event": begins}],
        "streams": [
            {
                "stream": stream,
                "entries": [data.hex() for _, data in ENTRIES],
                "checkpoints": [newest.hex()],
                "successions": [begun.hex()],
            }
            for whole in [": a comment\n\nevent: unknown\ndata: x\n\n" + "".join(made) + begins + end]
            for stream in (whole, whole.replace("\n", "\r\n"))
        ],
        "refused": [{"stream": stream, "code": "malformed_record"} for stream in refused],
    }


def signatures() -> Json:
    key, stream = bytes.fromhex("0123456789abcdef" * 4), "caracal.sessions.revoke"

    documented = {"outbox_id": "outbox-1", "zone_id": "zone-1", "session_id": "authority-record-1"}
    known: list[tuple[str, dict[str, str]]] = [
        ("audit:events", {"action": "transfer", "amount": "100"}),
        ("audit:events", {"active": "true", "count": "0", "name": ""}),
        (stream, documented | {"reason": "grant_revoked", "grant_id": "grant-1"}),
        (stream, {}),
        *((stream, made) for made in all_fields()[:3]),
    ]
    ambiguous = [
        (stream, {"reason": "x\nsid=y"}),
        (stream, {"reason\nsid": "x"}),
        (stream, {"a=b": "c"}),
        (stream + "\na=b", {"c": "d"}),
    ]
    return {
        "key": key.hex(),
        "signatures": [{"stream": name, "fields": given, "_sig": tag(key, name, given)} for name, given in known],
        "refused": [
            {"stream": name, "fields": given, "_sig": tag(key, name, given), "code": "malformed_record"}
            for name, given in ambiguous
        ],
    }


# Audit


def audits() -> Json:
    rows = [values | {"link": link.hex()} for (values, _), link in zip(AUDIT, audit_chain()[1:], strict=True)]
    bad = "malformed_record"
    first = rows[0]
    refused = [
        {},
        {name: value for name, value in first.items() if name != "seq"},
        first | {"more": ""},
        *(first | {"number": value} for value in (0, -1, MAX + 1, "1", 1.0, True, None)),
        *(first | {"seq": value} for value in (0, "1")),
        *(first | {"reason": value} for value in (None, "a\nb", "x" * 513)),
        *(first | {"link": value} for value in (None, "", first["link"][:-1], first["link"].upper(), "é" * 64)),
    ]
    return {
        "log_id": log_text(LOG),
        "genesis": audit_genesis(LOG).hex(),
        "rows": [
            {"row": row, "bytes": data.hex(), "line": json.dumps({"row": row})}
            for row, (_, data) in zip(rows, AUDIT, strict=True)
        ],
        "refused": [{"row": row, "code": bad} for row in refused],
    }


FILES: Final = {
    "anchor": anchors,
    "entry": entries,
    "chain": chains,
    "checkpoint": checkpoints,
    "pin": pins,
    "keyset": keysets,
    "succession": successions,
    "snapshot": snapshots,
    "fields": messages,
    "events": events,
    "hmac": signatures,
    "audit": audits,
    "biscuit": biscuits,
}


def render(name: str) -> str:
    """Return the text of one file."""
    return json.dumps(FILES[name](), indent=1) + "\n"


if __name__ == "__main__":
    for file in FILES:
        (HERE / f"{file}.json").write_text(render(file), encoding="utf-8")
