"""A snapshot's records are read in one loop: it reads and refuses exactly what reading one after the other does."""

from hypothesis import example, given
from hypothesis import strategies as st

from countermand.errors import LogError
from countermand.log import codec
from countermand.log.anchor import Kind
from countermand.log.revoked import RevokedSet
from countermand.log.snapshot import _read_record, _read_records
from tests.unit.log.strategies import mutated

KEYS = [bytes([number]) * 16 for number in (0, 1, 255)]
HOURS = [0, 1, 500_000, 500_001, 2**14 - 1, 2**14, 2**21 - 1, 2**21]

plain = st.builds(
    lambda kind, key, seq, hour: bytes((kind,)) + key + codec.varint(seq) + codec.varint(hour),
    st.sampled_from([kind for kind in Kind if kind is not Kind.CUTOFF]),
    st.sampled_from(KEYS),
    st.sampled_from([1, 127, 128, 2**21, 2**49 - 1, 2**49, 2**53 - 1]),
    st.sampled_from(HOURS),
)
hashed = st.builds(
    lambda kind, key, seq, hour: bytes((kind | 0x80,)) + 2 * key + codec.varint(seq) + codec.varint(hour),
    st.sampled_from([kind for kind in Kind if kind is not Kind.CUTOFF]),
    st.sampled_from(KEYS),
    st.integers(1, 300),
    st.sampled_from(HOURS),
)
cutoffs = st.builds(
    lambda key, numbers: bytes((Kind.CUTOFF | 0x80,)) + 2 * key + b"".join(map(codec.varint, numbers)),
    st.sampled_from(KEYS),
    st.tuples(st.integers(1, 300), st.sampled_from(HOURS), *[st.integers(0, 300)] * 3),
)
odd = st.builds(
    lambda kind, seq, hour: bytes((kind,)) + KEYS[0] + seq + hour,
    st.sampled_from([0, *Kind, 0x7F]),
    st.sampled_from([b"\0", b"\x81\0", b"\x81\x80\0", b"\xff" * 7 + b"\x7f", b"\xff" * 8, b"\1"]),
    st.sampled_from([b"\xa0\xc2\x1e", b"\xa0\xc2\0", b"\xa0\xc2\x80\0", b"\0"]),
)
bodies = st.lists(st.one_of(plain, plain, hashed, cutoffs, odd), max_size=12)
ONE = bytes((Kind.SESSION,)) + KEYS[0] + b"\1" + codec.varint(500_000)


def one_by_one(body: bytes, count: int) -> RevokedSet:
    reader, revoked = codec.Reader(body), RevokedSet()
    for _ in range(count):
        _read_record(reader, revoked)
    reader.end()
    return revoked


def told(revoked: RevokedSet) -> object:
    """What counts: until when each key is held, and by which entry. An earlier hour may be kept beside it, or not."""
    held = {key: (revoked._hour_of(key), revoked.seq_of(key)) for key in revoked._held}
    return held, revoked._cutoffs, revoked.has_cutoffs


def compare(body: bytes, count: int) -> None:
    try:
        expected: object = told(one_by_one(body, count))
    except LogError as error:
        expected = type(error)
    try:
        found: object = told(_read_records(body, count))
    except LogError as error:
        found = type(error)
    assert found == expected


@given(bodies)
@example([ONE, ONE, ONE[:-3] + codec.varint(500_001), ONE])
@example([ONE, ONE[:-3] + b"\0", ONE[:-3] + codec.varint(500_001), ONE])
@example([ONE, ONE[:17] + b"\xff" * 7 + b"\x7f" + ONE[-3:]])
@example([ONE, ONE[:17] + b"\x81\0" + ONE[-3:]])
def test_records_of_every_form_are_read_as_they_are_one_by_one(records: list[bytes]) -> None:
    body = b"".join(records)
    for count in (len(records), len(records) + 1, max(0, len(records) - 1)):
        compare(body, count)


@given(bodies.flatmap(lambda records: mutated(b"".join(records))), st.integers(0, 12))
def test_bytes_of_any_kind_are_read_as_they_are_one_by_one(body: bytes, count: int) -> None:
    compare(body, count)
