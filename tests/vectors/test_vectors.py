"""The package against the vectors, in both directions, and the vectors against the script that made them."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from countermand.errors import LogError, TokenError
from countermand.log import codec, feed, wire
from countermand.log.anchor import Anchor, Kind, Rev, anchor_key
from countermand.log.audit import audit_genesis, next_audit_link, parse_chained, parse_line, to_line
from countermand.log.chain import Candidate, LogId, genesis, next_link
from countermand.log.checkpoint import NO_AUDIT, Checkpoint, Pin, parse_checkpoint
from countermand.log.entry import Entry
from countermand.log.feed import FeedParser
from countermand.log.hmac import signature_holds, stream_signature
from countermand.log.keyset import parse_keyset, sign_keyset
from countermand.log.revocation_id import canonical_id, parse_revocation_id, twins
from countermand.log.revoked import NEVER, RevokedSet
from countermand.log.snapshot import SnapshotReader, make_snapshot
from countermand.log.state import LogState
from countermand.log.succession import Succession
from countermand.tokens.biscuit import RootKeys, parse_biscuit, verify_biscuit
from tests.vectors import make

HERE = Path(__file__).parent
ANCHOR, ENTRY, CHAIN, CHECKPOINT, PIN, KEYSET, SUCCESSION, SNAPSHOT, FIELDS, EVENTS, HMAC, AUDIT, BISCUIT = (
    json.loads((HERE / f"{name}.json").read_text("utf-8")) for name in make.FILES
)

Vector = dict[str, Any]


def each(vectors: Iterable[Vector]) -> pytest.MarkDecorator:
    vectors = list(vectors)
    assert vectors
    return pytest.mark.parametrize("vector", vectors, ids=[ascii(v.get("what", n))[:40] for n, v in enumerate(vectors)])


def refuses(code: str, parse: Callable[[], object]) -> None:
    with pytest.raises(LogError) as refusal:
        parse()
    assert refusal.value.code == code


@pytest.mark.parametrize("name", list(make.FILES))
def test_the_script_writes_the_files_as_they_are(name: str) -> None:
    assert (HERE / f"{name}.json").read_text("utf-8") == make.render(name)


def test_every_file_is_one_of_the_scripts() -> None:
    assert {path.stem for path in HERE.glob("*.json")} == set(make.FILES)


# anchor.json


def test_kinds() -> None:
    assert {kind.text: int(kind) for kind in Kind} == ANCHOR["kinds"]


@each(ANCHOR["keys"])
def test_anchors(vector: Vector) -> None:
    anchor = Anchor(Kind.parse(vector["kind"]), vector["id"], vector["issuer"])
    assert str(anchor) == vector["path_text"]
    assert Anchor.parse(vector["path_text"]) == Anchor(anchor.kind, anchor.id)
    assert anchor.key.hex() == anchor_key(anchor.kind, anchor.issuer, anchor.id).hex() == vector["key"]


@each(ANCHOR["refused"])
def test_refused_anchors(vector: Vector) -> None:
    refuses(vector["code"], lambda: Anchor.parse(vector["path_text"]))


# entry.json and chain.json


@each(ENTRY["entries"])
def test_entries(vector: Vector) -> None:
    values = {name: value for name, value in vector.items() if name != "bytes"}
    entry = Entry(**values | {"kind": Kind.parse(values["kind"])})
    assert entry.to_bytes().hex() == vector["bytes"]
    assert Entry.parse(bytes.fromhex(vector["bytes"])) == entry


@each(ENTRY["refused"])
def test_refused_entries(vector: Vector) -> None:
    refuses(vector["code"], lambda: Entry.parse(bytes.fromhex(vector["bytes"])))


@each(CHAIN["genesis"])
def test_the_first_link(vector: Vector) -> None:
    assert genesis(LogId.parse(vector["log_id"]), vector["generation"]).hex() == vector["link"]


@each(CHAIN["links"])
def test_links(vector: Vector) -> None:
    previous, entry = bytes.fromhex(vector["previous"]), bytes.fromhex(vector["entry"])
    assert next_link(previous, entry).hex() == vector["link"]
    assert Candidate(vector["seq"], previous, entry).link.hex() == vector["link"]


# checkpoint.json and pin.json


def position(vector: Vector) -> Checkpoint:
    rev = Rev(vector["generation"], vector["seq"])
    audit = bytes.fromhex(vector["audit"]) if "audit" in vector else NO_AUDIT
    return Checkpoint(LogId.parse(vector["log_id"]), rev, bytes.fromhex(vector["link"]), vector["at_ms"], audit)


def private_key(seed: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))


def test_the_key_of_the_checkpoints() -> None:
    pin = Pin.parse(CHECKPOINT["pin"])
    public = private_key(CHECKPOINT["private_key"]).public_key()
    assert public.public_bytes_raw().hex() == CHECKPOINT["public_key"]
    assert [name.hex() for name in pin.keys] == [CHECKPOINT["key_id"]]
    assert str(Pin.of(pin.log_id, public)) == CHECKPOINT["pin"]


@each(CHECKPOINT["checkpoints"])
def test_checkpoints(vector: Vector) -> None:
    assert position(vector).sign(private_key(CHECKPOINT["private_key"])).hex() == vector["bytes"]
    pin = Pin.parse(CHECKPOINT["pin"])
    assert parse_checkpoint(bytes.fromhex(vector["bytes"])).verify(pin) == position(vector)


@each(CHECKPOINT["refused"])
def test_refused_checkpoints(vector: Vector) -> None:
    pin, data = Pin.parse(CHECKPOINT["pin"]), bytes.fromhex(vector["bytes"])
    refuses(vector["code"], lambda: parse_checkpoint(data).verify(pin))


@each(PIN["pins"])
def test_pins(vector: Vector) -> None:
    pin = Pin.parse(vector["text"])
    assert str(pin) == vector["text"]
    assert pin.log_id.raw.hex() == vector["log_id"]
    assert pin.version == vector.get("version", 0)
    assert {name.hex(): key.public_bytes_raw().hex() for name, key in pin.keys.items()} == vector["keys"]


@each(PIN["refused"])
def test_refused_pins(vector: Vector) -> None:
    refuses(vector["code"], lambda: Pin.parse(vector["text"]))


# keyset.json


def test_keysets_follow_one_another_from_the_pin() -> None:
    state = LogState(Pin.parse(KEYSET["pin"]))
    for vector in KEYSET["keysets"]:
        assert sign_keyset(Pin.parse(vector["pin"]), private_key(vector["private_key"])).hex() == vector["bytes"]
        state.rekey(bytes.fromhex(vector["bytes"]))
        assert str(state.pin) == vector["pin"]
        assert state.pin.version == vector["version"]
        assert [key.public_bytes_raw().hex() for key in state.pin.keys.values()] == vector["keys"]


@each(KEYSET["refused"])
def test_refused_keysets(vector: Vector) -> None:
    pin, data = Pin.parse(KEYSET["pin"]), bytes.fromhex(vector["bytes"])
    refuses(vector["code"], lambda: parse_keyset(data).follow(pin))


# succession.json


@each(SUCCESSION["successions"])
def test_successions(vector: Vector) -> None:
    ended, begun = vector["ended"], vector["begun"]
    made = Succession(
        LogId.parse(vector["log_id"]),
        Rev(ended["generation"], ended["seq"]),
        bytes.fromhex(ended["link"]),
        begun["seq"],
        vector["at_ms"],
    )
    assert (made.rev, made.link.hex()) == (Rev(begun["generation"], begun["seq"]), begun["link"])
    assert made.sign(private_key(SUCCESSION["private_key"])).hex() == vector["bytes"]
    assert Succession.verify(bytes.fromhex(vector["bytes"]), Pin.parse(SUCCESSION["pin"])) == made


@each(SUCCESSION["refused"])
def test_refused_successions(vector: Vector) -> None:
    pin, data = Pin.parse(SUCCESSION["pin"]), bytes.fromhex(vector["bytes"])
    refuses(vector["code"], lambda: Succession.verify(data, pin))


# snapshot.json


def filled(data: str) -> RevokedSet:
    reader = SnapshotReader(Pin.parse(SNAPSHOT["pin"]))
    reader.feed(bytes.fromhex(data))
    return reader.finish().revoked


@each(SNAPSHOT["snapshots"])
def test_snapshots(vector: Vector) -> None:
    entries = [Entry.parse(bytes.fromhex(data)) for data in vector["entries"]]
    assert make_snapshot(position(vector), entries, private_key(SNAPSHOT["private_key"])).hex() == vector["bytes"]

    read, held = filled(vector["bytes"]), RevokedSet()
    for entry in entries:
        held.add_entry(entry)
    assert (read._seqs, read._cutoffs) == (held._seqs, held._cutoffs)
    assert len(read) == len(vector["records"])
    for record in vector["records"]:
        key, hour = bytes.fromhex(record["key"]), record["expiry_hour"] or NEVER
        if key[0] == Kind.CUTOFF:
            assert read._cutoffs[key].hour == hour
        else:
            assert read._seqs[hour][key] == record["seq"] == read.seq_of(key)


@each(SNAPSHOT["refused"])
def test_refused_snapshots(vector: Vector) -> None:
    refuses(vector["code"], lambda: filled(vector["bytes"]))


# fields.json, events.json and hmac.json


@each(FIELDS["messages"])
def test_fields(vector: Vector) -> None:
    candidate = Candidate(vector["seq"], bytes.fromhex(vector["previous"]), bytes.fromhex(vector["entry"]))
    assert wire.to_fields(candidate.previous, candidate.entry) == vector["fields"]
    assert list(wire.to_fields(candidate.previous, candidate.entry)) == list(vector["fields"])
    assert wire.from_fields(vector["fields"]) == candidate


@each(FIELDS["refused"])
def test_refused_fields(vector: Vector) -> None:
    refuses(vector["code"], lambda: wire.from_fields(vector["fields"]))


@each(EVENTS["entry_events"])
def test_events_of_entries(vector: Vector) -> None:
    made = feed.entry_event(bytes.fromhex(vector["previous"]), bytes.fromhex(vector["entry"]))
    assert made.decode() == vector["event"]


@each(EVENTS["checkpoint_events"])
def test_events_of_checkpoints(vector: Vector) -> None:
    assert feed.checkpoint_event(bytes.fromhex(vector["checkpoint"])).decode() == vector["event"]


@each(EVENTS["succession_events"])
def test_events_of_successions(vector: Vector) -> None:
    assert feed.succession_event(bytes.fromhex(vector["succession"])).decode() == vector["event"]


@each(EVENTS["streams"])
def test_streams(vector: Vector) -> None:
    batch = FeedParser().feed(vector["stream"].encode())
    assert [candidate.entry.hex() for candidate in batch.candidates] == vector["entries"]
    assert [checkpoint.hex() for checkpoint in batch.checkpoints] == vector["checkpoints"]
    assert [succession.hex() for succession in batch.successions] == vector["successions"]


@each(EVENTS["refused"])
def test_refused_streams(vector: Vector) -> None:
    refuses(vector["code"], lambda: FeedParser().feed(vector["stream"].encode()))


@each(HMAC["signatures"])
def test_documented_signatures(vector: Vector) -> None:
    key, fields = bytes.fromhex(HMAC["key"]), vector["fields"]
    assert stream_signature(key, vector["stream"], fields) == vector["_sig"]
    assert signature_holds(key, vector["stream"], fields | {"_sig": vector["_sig"]})


@each(HMAC["refused"])
def test_refused_documented_signatures(vector: Vector) -> None:
    key, fields = bytes.fromhex(HMAC["key"]), vector["fields"]
    refuses(vector["code"], lambda: stream_signature(key, vector["stream"], fields))
    assert not signature_holds(key, vector["stream"], fields | {"_sig": vector["_sig"]})


def test_base64url_is_the_one_of_the_vectors() -> None:
    assert codec.to_base64(b"\xfb\xff") == "-_8"


# audit.json


@each(AUDIT["rows"])
def test_audit_rows(vector: Vector) -> None:
    chained = parse_chained(vector["row"])
    assert chained.row.to_bytes().hex() == vector["bytes"]
    assert chained.to_json() == vector["row"]
    assert to_line(chained) == vector["line"]
    assert parse_line(vector["line"]) == chained


def test_the_links_of_the_audit() -> None:
    link = audit_genesis(LogId.parse(AUDIT["log_id"]))
    assert link.hex() == AUDIT["genesis"]
    for vector in AUDIT["rows"]:
        link = next_audit_link(link, bytes.fromhex(vector["bytes"]))
        assert link.hex() == vector["row"]["link"]


@each(AUDIT["refused"])
def test_refused_audit_rows(vector: Vector) -> None:
    refuses(vector["code"], lambda: parse_chained(vector["row"]))


# biscuit.json


@each(BISCUIT["biscuits"])
def test_biscuits(vector: Vector) -> None:
    biscuit = verify_biscuit(parse_biscuit(vector["token"]), RootKeys.parse(vector["root_keys"]))
    assert list(biscuit.revocation_ids) == vector["canonical_ids"]
    assert biscuit.revocation_ids == tuple(parse_revocation_id(id_) for id_ in vector["ids"])
    assert [biscuit.ends_at_s(block) for block in range(len(vector["ids"]))] == vector["ends_at_s"]
    assert biscuit.expires_at_s == vector["ends_at_s"][-1]
    assert (biscuit.subject, sorted(biscuit.scopes)) == (vector["subject"], vector["scopes"])
    assert (biscuit.issued_at_s, biscuit.key_id) == (vector["issued_at_s"], vector["key_id"])


@each(BISCUIT["refused"])
def test_refused_biscuits(vector: Vector) -> None:
    with pytest.raises(TokenError) as refusal:
        verify_biscuit(parse_biscuit(vector["token"]), RootKeys.parse(vector["root_keys"]))
    assert refusal.value.code == vector["code"]


@each(BISCUIT["revocation_ids"])
def test_revocation_ids(vector: Vector) -> None:
    assert canonical_id(bytes.fromhex(vector["id"])) == vector["canonical_id"]
    assert list(twins(vector["canonical_id"])) == vector["twins"]
    for form in vector["twins"]:
        assert parse_revocation_id(form.upper()) == vector["canonical_id"]


@each(BISCUIT["refused_ids"])
def test_refused_revocation_ids(vector: Vector) -> None:
    refuses(vector["code"], lambda: parse_revocation_id(vector["id"]))
