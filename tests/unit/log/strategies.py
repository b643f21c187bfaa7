"""Hypothesis strategies for the log: texts that the ledger may hold, true entries, and mutated bytes."""

import re

from hypothesis import strategies as st

from countermand.log.anchor import PREFIXES, Anchor, Kind, own_id
from countermand.log.entry import Entry

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
MAX = 2**53 - 1

texts = st.text(max_size=40).filter(lambda text: not CONTROL.search(text))
names = texts.filter(bool)


own_ids = st.builds(own_id, st.sampled_from(sorted(PREFIXES)), st.binary(min_size=16, max_size=16))
ids = st.one_of(own_ids, names)
times = st.integers(1, MAX)
plain_kinds = st.sampled_from([kind for kind in Kind if kind is not Kind.CUTOFF])
anchors_ = st.builds(Anchor, plain_kinds, ids, st.one_of(st.just(""), names))

plain_entries = st.builds(
    Entry,
    generation=times,
    seq=times,
    kind=plain_kinds,
    id=ids,
    at_ms=times,
    reason=texts,
    issuer=st.one_of(st.just(""), names),
    expires_at_ms=st.none() | times,
)
_targets = st.builds("{}:{}".format, st.sampled_from(["subject", "application"]), names)
cutoff_entries = st.builds(
    Entry,
    generation=times,
    seq=times,
    kind=st.just(Kind.CUTOFF),
    id=_targets,
    at_ms=times,
    reason=texts,
    issuer=st.one_of(st.just(""), names),
    issued_before_ms=st.none() | times,
    expires_at_ms=st.none() | times,
)
entries = st.one_of(plain_entries, cutoff_entries)


@st.composite
def mutated(draw: st.DrawFn, true: bytes) -> bytes:
    """`true` with some bytes replaced, removed, inserted or repeated."""
    data = bytearray(true)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 8)))
        data[start:end] = draw(st.one_of(st.binary(max_size=8), st.just(bytes(data[start:end]) * 2)))
    return bytes(data)
