"""The one form of a Biscuit's revocation id: no change that keeps a signature valid leads to another."""

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from countermand.errors import MalformedError
from countermand.log.revocation_id import canonical_id, parse_revocation_id, twins

N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
NUMBERS = st.integers(1, N - 1)


def test_64_bytes_stay_as_they_are_in_lower_case() -> None:
    assert parse_revocation_id("AB" * 64) == parse_revocation_id("ab" * 64) == canonical_id(b"\xab" * 64) == "ab" * 64
    assert twins("ab" * 64) == ("ab" * 64,)


@given(NUMBERS, NUMBERS)
def test_both_signatures_that_verify_have_one_id(r: int, s: int) -> None:
    one, other = encode_dss_signature(r, s), encode_dss_signature(r, N - s)
    if 64 in {len(one), len(other)}:  # takes an r of 25 bytes: nobody has ever seen one
        return
    assert canonical_id(one) == canonical_id(other) == encode_dss_signature(r, min(s, N - s)).hex()
    assert set(twins(canonical_id(one))) == {one.hex(), other.hex()}


def good() -> bytes:
    return encode_dss_signature(N - 1, 2**255)


BAD = {
    "empty": "",
    "not hex": "zz" * 64,
    "an odd digit": "ab" * 63 + "a",
    "a digit more": "ab" * 64 + "a",
    "white space": "ab" * 63 + " a" + "b ",
    "other digits": "\u0660" * 128,
    "63 bytes": "ab" * 63,
    "65 bytes": "ab" * 65,
    "much": "ab" * 100_000,
    "a byte after it": (good() + b"\0").hex(),
    "a byte too few": good()[:-1].hex(),
    "a long form of the length": (b"\x30\x81" + good()[1:]).hex(),
    "another tag": (b"\x31" + good()[1:]).hex(),
    "a negative number": "3006020181020101",
    "a zero before it": "300702020001020101",
    "no s": "3003020101",
    "three numbers": "3009020101020101020101",
    "r is zero": encode_dss_signature(0, 1).hex(),
    "s is zero": encode_dss_signature(1, 0).hex(),
    "r is the order": encode_dss_signature(N, 1).hex(),
    "s is the order": encode_dss_signature(1, N).hex(),
    "an empty integer": "3004020002 00".replace(" ", ""),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_revocation_id(text)


@given(st.binary(max_size=80) | st.binary(max_size=70).map(lambda body: bytes((0x30, len(body))) + body))
def test_no_bytes_raise_anything_else_and_what_is_accepted_has_twins(data: bytes) -> None:
    try:
        id_ = canonical_id(data)
    except MalformedError:
        return
    assert data.hex() in twins(id_)
    assert parse_revocation_id(id_.upper()) == id_
