"""What the consumer does with a message: any bytes, any signature, and stores that refuse it. No server."""

import hashlib
import hmac
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countermand.errors import StoreError
from countermand.log.wire import REVOCATION_STREAM
from countermand.stores.consumer import RedisRevocationConsumer
from countermand.stores.marking import Marker
from countermand.stores.message import parse_claim, parse_read
from countermand.stores.outage import describe
from tests.unit.stream_clients import (
    FIELDS,
    FOR_GOOD,
    KEY,
    OTHER_KEY,
    BuryingClient,
    Entry,
    Fields,
    HeldTime,
    MinimalClient,
    PickyStore,
    PipeliningClient,
    RecordingStore,
    RedisError,
    consumer_of,
    entries,
    polls,
    signed,
)

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "hmac.json").read_text("utf-8"))

# Messages

ANCHORS = ["session_id", "sid", "root_sid", "agent_session_id", "delegation_edge_id"]


def test_every_anchor_of_a_message_is_marked_once() -> None:
    store = RecordingStore()
    fields = {**dict.fromkeys(ANCHORS, "same"), "sid": "other", "root_sid": "", "grant_id": "none", "reason": "none"}

    consumer_of(MinimalClient(*entries(fields, {"sid": "other"})), store).poll_once()

    assert store.marked == ["same", "other"]


@pytest.mark.parametrize("name", ANCHORS)
def test_any_one_anchor_is_enough(name: str) -> None:
    store = RecordingStore()

    consumer_of(MinimalClient(*entries({name.encode(): "ö".encode()})), store).poll_once()

    assert store.marked == ["ö"]


@pytest.mark.parametrize(
    "fields",
    [
        {b"reason": b"none", b"grant_id": b"g"},
        {b"session_id": b""},
        {b"session_id": b"\xff"},
        {b"session_id\xff": b"a"},
        {"session_id": "\ud800"},
        {"session_id": 7},
    ],
)
def test_a_message_without_a_readable_anchor_is_a_dead_letter(fields: Fields) -> None:
    client, store = BuryingClient(*entries(fields)), RecordingStore()
    consumer = consumer_of(client, store)

    assert consumer.poll_once() == 1

    assert (store.marked, client.acknowledged) == ([], [b"1-0"])
    assert [letter[:2] for letter in client.letters] == [(b"1-0", "missing_revocation_anchor")]
    assert (consumer.applied, consumer.dead_lettered, consumer.failures) == (0, 1, 0)


def test_the_payload_of_a_dead_letter_is_its_fields_with_what_is_no_text_escaped() -> None:
    client = BuryingClient(*entries({b"reason": "schön".encode(), b"\xff": b"\xfe\n"}))

    consumer_of(client).poll_once()

    assert client.letters[0][2] == {"reason": "schön", "\\xff": "\\xfe\n"}


def test_an_anchor_that_cannot_be_read_does_not_hide_another() -> None:
    store = RecordingStore()

    consumer_of(MinimalClient(*entries({b"session_id": b"\xff", b"sid": b"a"})), store).poll_once()

    assert store.marked == ["a"]


def test_a_message_that_was_trimmed_is_acknowledged_and_counts_for_nothing() -> None:
    client = BuryingClient()
    client.pending = entries({}, FIELDS)
    consumer = consumer_of(client)

    assert consumer.poll_once() == 1

    assert client.acknowledged == [b"1-0", b"2-0"]
    assert (consumer.applied, consumer.dead_lettered, client.letters) == (1, 0, [])


# Signatures

A = {"session_id": "a"}
SIGNED = signed(A)


@pytest.mark.parametrize("case", VECTORS["signatures"], ids=lambda case: case["_sig"][:8])
def test_a_known_signature_holds(case: Any) -> None:
    client = BuryingClient(*entries({**case["fields"], "_sig": case["_sig"]}))
    store = RecordingStore()
    key = bytes.fromhex(VECTORS["key"])
    consumer = RedisRevocationConsumer(client, store, "c", stream=case["stream"], stream_hmac_key=key)

    assert consumer.poll_once() == 1

    has_anchor = any(case["fields"].get(name) for name in ANCHORS)
    assert (consumer.applied, consumer.dead_lettered) == ((1, 0) if has_anchor else (0, 1))
    assert bool(store.marked) == has_anchor


BAD_SIGNATURES: dict[str, Fields] = {
    "of another key": signed(A, OTHER_KEY),
    "of another stream": signed(A, stream="other"),
    "of other fields": {**SIGNED, "reason": "b"},
    "upper case": {**A, "_sig": SIGNED["_sig"].upper()},
    "with a space": {**A, "_sig": SIGNED["_sig"] + " "},
    "cut short": {**A, "_sig": SIGNED["_sig"][:-1]},
    "empty": {**A, "_sig": ""},
    "not ASCII": {**A, "_sig": "é" * 64},
    "not UTF-8": {b"session_id": b"a", b"_sig": b"\xff" * 64},
    "no text": {**A, "_sig": 7},
    "with a field that is not UTF-8": {**SIGNED, b"reason": b"\xff"},
    "of the escaped form of what is not UTF-8": {**signed({**A, "reason": "\\xff"}), "reason": b"\xff"},
    "with a surrogate": {**SIGNED, "reason": "\udcff"},
}


@pytest.mark.parametrize("required", [None, True, False])
@pytest.mark.parametrize("fields", BAD_SIGNATURES.values(), ids=BAD_SIGNATURES)
def test_a_wrong_signature_is_refused_required_or_not(fields: Fields, required: bool | None) -> None:
    client, store = BuryingClient(*entries(fields, SIGNED)), RecordingStore()
    consumer = consumer_of(client, store, stream_hmac_key=KEY, require_signature=required)

    assert consumer.poll_once() == 2

    assert [letter[:2] for letter in client.letters] == [(b"1-0", "invalid_signature")]
    assert store.marked == ["a"]


@pytest.mark.parametrize(("key", "required", "applied"), [
    (None, None, True), (None, False, True), (KEY, False, True), (KEY, None, False), (KEY, True, False),
])  # fmt: skip
def test_a_missing_signature_is_refused_where_one_is_required(
    key: bytes | None, required: bool | None, applied: bool
) -> None:
    store = RecordingStore()

    consumer_of(MinimalClient(*entries(A)), store, stream_hmac_key=key, require_signature=required).poll_once()

    assert store.marked == (["a"] if applied else [])


def tagged(fields: Mapping[str, str]) -> dict[str, str]:
    """`fields` under the tag that the format would give them if it did not refuse to."""
    text = "\n".join([REVOCATION_STREAM, *(f"{name}={fields[name]}" for name in sorted(fields))]) + "\n"
    return {**fields, "_sig": hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest()}


AMBIGUOUS = [
    {"session_id": "a", "reason": "b\nsid=c"},
    {"session_id": "a\n"},
    {"session_id": "a", "reason\nsid": "c"},
    {"session_id": "a", "reason=b": "c"},
    {"session_id=a": "", "sid": "c"},
]


def test_the_tag_of_these_tests_is_the_documented_one() -> None:
    assert tagged(A) == SIGNED


@pytest.mark.parametrize("fields", AMBIGUOUS, ids=str)
def test_fields_that_could_be_read_as_others_under_their_signature_are_refused(fields: dict[str, str]) -> None:
    client, store = BuryingClient(*entries(tagged(fields))), RecordingStore()

    assert consumer_of(client, store, stream_hmac_key=KEY).poll_once() == 1

    assert (store.marked, [letter[1] for letter in client.letters]) == ([], ["invalid_signature"])


def test_signatures_are_compared_in_constant_time_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[object, object]] = []

    def differs(one: object, other: object) -> bool:
        compared.append((one, other))
        return False

    monkeypatch.setattr("countermand.log.hmac.hmac.compare_digest", differs)
    store = RecordingStore()

    consumer_of(MinimalClient(*entries(SIGNED)), store, stream_hmac_key=KEY).poll_once()

    assert compared == [(SIGNED["_sig"].encode(), SIGNED["_sig"].encode())]
    assert store.marked == []


def test_without_a_key_a_signature_says_nothing() -> None:
    store = RecordingStore()

    consumer_of(MinimalClient(*entries({**A, "_sig": "wrong"})), store).poll_once()

    assert store.marked == ["a"]


def test_while_keys_change_any_of_them_may_have_signed() -> None:
    store = RecordingStore()
    fields = [signed({"sid": "old"}, OTHER_KEY), signed({"sid": "new"}), signed({"sid": "none"}, b"third")]

    consumer_of(MinimalClient(*entries(*fields)), store, stream_hmac_key=[KEY, OTHER_KEY]).poll_once()

    assert store.marked == ["old", "new"]


# Anything at all

texts = st.binary(max_size=12) | st.text(st.characters(codec=None), max_size=8)
names = texts | st.sampled_from([*ANCHORS, "_sig", b"session_id", b"_sig"])
scalars = st.none() | st.integers() | texts
shapes = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=3) | st.tuples(inner, inner),
)


@given(st.lists(st.dictionaries(names, texts, min_size=1), min_size=1, max_size=5), st.sampled_from([None, KEY]))
def test_whatever_the_fields_every_message_is_applied_or_refused(fields: list[Fields], key: bytes | None) -> None:
    client = BuryingClient(*entries(*fields, SIGNED))
    consumer = consumer_of(client, stream_hmac_key=key)

    assert consumer.poll_once() == len(fields) + 1

    assert len(client.acknowledged) == consumer.applied + consumer.dead_lettered == len(fields) + 1
    assert consumer.dead_lettered == len(client.letters)
    assert consumer.failures == 0


@given(shapes)
def test_whatever_the_answer_it_is_parsed(answer: Any) -> None:
    for message in (*parse_read(answer), *parse_read([[b"s", answer]]), *parse_claim(answer).messages):
        assert isinstance(json.loads(message.payload), dict)
        assert all(anchor.encode() for anchor in message.anchors)


# Dead letters that cannot be written


def test_where_the_client_cannot_write_them_refusals_are_logged_counted_and_acknowledged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = MinimalClient(*entries({"reason": "r"}, {"sid": "a"}))
    consumer = consumer_of(client)

    assert consumer.poll_once() == 2

    assert client.acknowledged == [b"2-0", b"1-0"]
    assert consumer.dead_lettered == 1
    assert "dead letters cannot be written" in caplog.text


@pytest.mark.parametrize("fault", FOR_GOOD, ids=lambda fault: str(fault)[:9])
def test_what_will_never_be_written_is_acknowledged(fault: Exception) -> None:
    client = BuryingClient(*entries({"reason": "r"}))
    client.bury_fault = fault
    consumer = consumer_of(client)

    assert consumer.poll_once() == 1

    assert client.acknowledged == [b"1-0"]
    assert (consumer.dead_lettered, consumer.failures) == (1, 0)


class PlainBuryingClient(MinimalClient):
    """Its xadd knows nothing of lengths."""

    def xadd(self, name: str, fields: Any) -> None:
        raise NotImplementedError


def test_an_xadd_that_is_too_simple_cannot_write_them(caplog: pytest.LogCaptureFixture) -> None:
    client = PlainBuryingClient(*entries({"reason": "r"}, {"sid": "a"}))
    consumer = consumer_of(client)

    assert consumer.poll_once() == 2

    assert (client.pending, consumer.dead_lettered, consumer.failures) == ([], 1, 0)
    assert "dead letters cannot be written" in caplog.text


NOT_NOW = [ConnectionError("lost"), RedisError("OOM command not allowed"), RedisError("lost")]
REFUSED: Fields = {"reason": "r"}


@pytest.mark.parametrize("made", [BuryingClient, PipeliningClient])
@pytest.mark.parametrize("fault", NOT_NOW, ids=str)
def test_what_may_be_written_later_stays_pending_and_is_written_then(
    made: type[BuryingClient], fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client, time = made(*entries(REFUSED, {"sid": "a"}, REFUSED)), HeldTime()
    consumer = consumer_of(client, None, time)
    client.bury_fault = fault
    if isinstance(client, PipeliningClient) and isinstance(fault, ConnectionError):
        client.trip_fault = fault

    assert polls(consumer, 3) == 1

    assert (client.acknowledged, client.letters) == ([b"2-0"], [])
    assert (consumer.applied, consumer.dead_lettered, consumer.failures) == (1, 0, 1)

    client.bury_fault = None
    if isinstance(client, PipeliningClient):
        client.trip_fault = None
    time.now_s += 0.1

    assert polls(consumer, 3) == 2
    assert sorted(client.acknowledged[1:]) == [b"1-0", b"3-0"]
    assert len(client.letters) == 2
    assert [record.message for record in caplog.records] == [
        f"writing dead letters fails: {describe(fault)}",
        "2 messages were refused: missing_revocation_anchor",
        "writing dead letters works again",
    ]


@pytest.mark.parametrize("made", [BuryingClient, PipeliningClient])
def test_while_dead_letters_cannot_be_written_new_messages_are_applied_without_a_pause(
    made: type[BuryingClient],
) -> None:
    client, store, time = made(*entries(*[REFUSED] * 2000)), RecordingStore(), HeldTime()
    consumer = consumer_of(client, store, time)
    client.bury_fault = RedisError("OOM command not allowed")
    polls(consumer, 40)
    for n in range(3000, 3200):
        client.waiting = [(f"{n}-0".encode(), {"sid": f"a{n}"})]
        assert consumer.poll_once() == 1

    assert len(store.marked) == 200
    assert client.buries < 100
    client.bury_fault = None
    time.now_s += 2
    assert polls(consumer, 200) == 2000
    assert (len(client.letters), client.pending) == (2000, [])


@pytest.mark.parametrize(("made", "each"), [(BuryingClient, 50), (BuryingClient, 7), (PipeliningClient, 7)])
def test_a_letter_that_was_written_is_written_once(made: type[BuryingClient], each: int) -> None:
    client, time = made(*entries(*[REFUSED] * 50)), HeldTime()
    consumer = consumer_of(client, None, time)
    client.bury_fault, client.faulty_every = RedisError("OOM command not allowed"), each
    for _ in range(200):
        consumer.poll_once()
        time.now_s += 1

    assert sorted(int(letter[0].partition(b"-")[0]) for letter in client.letters) == list(range(1, 51))
    assert client.pending == []


def test_the_letters_of_a_page_are_written_in_one_round_trip() -> None:
    client = PipeliningClient(*entries(*[REFUSED] * 60))

    assert polls(consumer_of(client), 2) == 60

    assert client.trips == [50, 10]


@pytest.mark.parametrize("fault", FOR_GOOD, ids=lambda fault: str(fault)[:9])
def test_letters_of_which_some_never_can_be_written_are_acknowledged(fault: Exception) -> None:
    client = PipeliningClient(*entries(*[REFUSED] * 4))
    client.bury_fault, client.faulty_every = fault, 2

    assert consumer_of(client).poll_once() == 4

    assert (len(client.letters), client.pending) == (2, [])


class ChangedBuryingClient(PipeliningClient):
    """Writes dead letters elsewhere than its pipeline would."""

    def __init__(self, *waiting: Entry) -> None:
        super().__init__(*waiting)
        self.xadd = super().xadd  # type: ignore[method-assign]


class OddPipeliningClient(BuryingClient):
    def pipeline(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("made", [ChangedBuryingClient, OddPipeliningClient])
def test_where_no_pipeline_fits_letters_are_written_one_by_one(made: type[BuryingClient]) -> None:
    client = made(*entries(*[REFUSED] * 3))

    assert consumer_of(client).poll_once() == 3

    assert (client.buries, len(client.letters)) == (3, 3)


# Stores that refuse


def test_what_the_store_does_not_take_stays_pending_and_the_others_go_on() -> None:
    client, store, time = (
        MinimalClient(*entries({"sid": "a", "root_sid": "no"}, {"sid": "b"})),
        PickyStore("no"),
        HeldTime(),
    )
    consumer = consumer_of(client, store, time)

    assert consumer.poll_once() == 1

    assert (client.acknowledged, store.marked) == ([b"2-0"], ["a", "b"])
    assert (consumer.applied, consumer.failures, time.slept) == (1, 1, [])

    store.refused.clear()
    time.now_s += 0.2

    assert polls(consumer, 2) == 1
    assert client.acknowledged == [b"2-0", b"1-0"]


def test_a_store_that_takes_again_is_said_to_and_its_next_refusal_is_the_first_of_a_row(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    client, store, time = MinimalClient(*entries(*[{"sid": "no"}] * 3)), PickyStore("no"), HeldTime()
    consumer = consumer_of(client, store, time)
    for _ in range(6):
        consumer.poll_once()
    store.refused.clear()
    while client.pending:
        consumer.poll_once()
        time.now_s += 1
    consumer.poll_once()
    store.refused = {"no"}
    client.waiting = [(b"9-0", {"sid": "no"})]
    time.slept.clear()

    consumer.poll_once()

    assert time.slept == pytest.approx([0.1])
    work = "marking what the revocation stream says"
    assert [record.message for record in caplog.records] == [
        f"{work} fails: StoreFullError",
        f"{work} works again",
        f"{work} fails: StoreFullError",
    ]


def test_a_message_that_is_never_taken_is_tried_every_two_seconds_and_delays_no_other() -> None:
    client, store, time = MinimalClient(*entries({"sid": "no"})), PickyStore("no"), HeldTime()
    consumer = consumer_of(client, store, time)
    for n in range(2, 1000):
        client.waiting.append((f"{n}-0".encode(), {"sid": f"a{n}"}))
        assert consumer.poll_once() == 1
        time.now_s += 0.1

    tries = store.asked.count("no")
    assert 40 < tries < 60
    assert consumer.failures == tries
    assert time.slept == []


def test_a_store_that_takes_nothing_makes_the_consumer_wait() -> None:
    client, store, time = MinimalClient(*entries(*[{"sid": "no"}] * 200)), PickyStore("no"), HeldTime()
    consumer = consumer_of(client, store, time)

    assert [consumer.poll_once() for _ in range(4)] == [0] * 4

    assert client.acknowledged == []
    assert len(time.slept) == 4
    assert all(0 < pause_s <= 2 for pause_s in time.slept)

    store.refused.clear()

    assert sum(consumer.poll_once() for _ in range(10)) == 200


class SlowStore(PickyStore):
    """Takes its time."""

    def __init__(self, time: HeldTime, *refused: str) -> None:
        super().__init__(*refused)
        self.time = time

    def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None:
        self.time.now_s += 0.4
        super().mark_revoked(sid, ttl_ms)


MANY = [f"a{n}" for n in range(50)]


@pytest.mark.parametrize(("refused", "asked"), [((), 50), (MANY, 3)], ids=["slow", "dead"])
def test_a_store_that_fails_slowly_is_not_asked_about_a_whole_batch(refused: Sequence[str], asked: int) -> None:
    time = HeldTime()
    store = SlowStore(time, *refused)
    client = MinimalClient(*entries(*[{"sid": anchor} for anchor in MANY]))

    assert consumer_of(client, store, time).poll_once() == 50 - len(refused)

    assert len(store.asked) == asked
    assert len(client.pending) == len(refused)


class SlowlyRefusingStore(PickyStore):
    """What it refuses takes longer than the consumer's patience."""

    def __init__(self, time: HeldTime, *refused: str) -> None:
        super().__init__(*refused)
        self.time = time

    def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None:
        if sid in self.refused:
            self.time.now_s += 1.1
        super().mark_revoked(sid, ttl_ms)


@pytest.mark.parametrize("bad", [["bad"], ["bad", "worse", "worst"]])
def test_an_anchor_that_is_refused_slowly_does_not_hold_up_the_rest_of_its_page(bad: list[str]) -> None:
    good, time = [f"good {n}" for n in range(20)], HeldTime()
    client = MinimalClient(*entries(*[{"sid": anchor} for anchor in [*bad, *good]]))
    store = SlowlyRefusingStore(time, *bad)
    consumer = consumer_of(client, store, time)
    for _ in range(30):
        consumer.poll_once()
        time.now_s += 0.1

    assert store.marked == good
    assert len(client.pending) == len(bad)


def test_what_was_refused_longest_ago_is_asked_first_of_what_was_refused() -> None:
    names, time = [f"a{n}" for n in range(5)], HeldTime()
    client = MinimalClient(*entries(*[{"sid": anchor} for anchor in names]))
    store = SlowlyRefusingStore(time, *names)
    consumer = consumer_of(client, store, time)
    while len(store.asked) < 10:
        consumer.poll_once()
        time.now_s += 0.1
    assert store.asked[:10] == [*names, *names]

    store.refused = {"a0"}
    while len(client.pending) > 1:
        consumer.poll_once()
        time.now_s += 0.1

    assert store.marked == ["a1", "a2", "a3", "a4"]
    assert len(store.asked) < 20


def test_what_is_remembered_of_refusals_is_bounded() -> None:
    store = PickyStore(*(f"a{n}" for n in range(12_000)))
    marker = Marker(store, HeldTime())

    assert len(marker.mark(sorted(store.refused))) == 12_000

    assert len(marker._refused) == 10_000
    store.refused.clear()
    assert marker.mark([f"a{n}" for n in range(12_000)]) == {}
    assert marker._refused == {}


class WholesaleStore(PickyStore):
    def __init__(self, *refused: str) -> None:
        super().__init__(*refused)
        self.batches: list[list[str]] = []

    def mark_all(self, sids: Sequence[str]) -> None:
        self.batches.append(list(sids))
        if self.refused.intersection(sids):
            raise StoreError("not these")
        self.marked += sids


def test_a_store_that_can_marks_a_batch_in_one_call() -> None:
    store = WholesaleStore()

    assert consumer_of(MinimalClient(*entries({"sid": "a"}, {"sid": "b", "root_sid": "a"})), store).poll_once() == 2

    assert (store.batches, store.asked) == ([["a", "b"]], [])


class ChangedStore(WholesaleStore):
    """Marks otherwise than the class that knows batches."""

    def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None:
        super().mark_revoked(f"changed {sid}", ttl_ms)


class PatchedStore(WholesaleStore):
    def __init__(self) -> None:
        super().__init__()
        self.mark_revoked = self.marked.append  # type: ignore[assignment]


@pytest.mark.parametrize(("store", "marked"), [(ChangedStore(), "changed a"), (PatchedStore(), "a")])
def test_a_store_whose_marking_was_changed_is_not_gone_past(store: WholesaleStore, marked: str) -> None:
    consumer_of(MinimalClient(*entries({"sid": "a"})), store).poll_once()

    assert (store.batches, store.marked) == ([], [marked])


def test_where_a_batch_fails_one_anchor_fails_alone() -> None:
    client, store = MinimalClient(*entries({"sid": "a"}, {"sid": "no"}, {"sid": "b"})), WholesaleStore("no")

    assert consumer_of(client, store).poll_once() == 2

    assert store.marked == ["a", "b"]
    assert [entry[0] for entry in client.pending] == [b"2-0"]


class SlowWholesaleStore(WholesaleStore):
    """Its attempt at a whole batch takes longer than the consumer's patience."""

    time = HeldTime()

    def mark_all(self, sids: Sequence[str]) -> None:
        self.time.now_s += 4
        super().mark_all(sids)


def test_after_a_batch_that_failed_slowly_each_is_asked_for() -> None:
    client, store = MinimalClient(*entries({"sid": "no"}, {"sid": "b"})), SlowWholesaleStore("no")
    store.time = HeldTime()

    assert consumer_of(client, store, store.time).poll_once() == 1

    assert store.marked == ["b"]


def test_what_the_store_did_not_take_is_asked_again_after_a_tenth_of_a_second() -> None:
    client, store, time = MinimalClient(), PickyStore("no"), HeldTime()
    consumer = consumer_of(client, store, time)
    polls(consumer, 3)
    client.waiting = entries({"sid": "no"})
    assert consumer.poll_once() == 0
    store.refused.clear()
    time.now_s += 0.1

    assert consumer.poll_once() == 1


def test_while_the_store_takes_nothing_pages_of_older_messages_are_not_hurried_through() -> None:
    client, store = MinimalClient(), PickyStore("no")
    client.pending = entries(*[{"sid": "no"}] * 500)
    consumer = consumer_of(client, store)

    polls(consumer, 4)

    assert store.asked == ["no"]


def test_after_a_letter_that_could_not_be_written_no_other_is_tried() -> None:
    client = BuryingClient(*entries(*[REFUSED] * 50))
    client.bury_fault = ConnectionError("lost")

    consumer_of(client).poll_once()

    assert client.buries == 1
