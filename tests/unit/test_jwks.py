"""Key sets as an issuer might publish them, and as an attacker might."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import example, given
from hypothesis import strategies as st

from countermand.errors import KeysError, MalformedKeysError, UnknownTokenKeyError
from countermand.tokens.jwks import MAX_JWKS_BYTES, MAX_KEYS, KeySet, parse_jwks
from countermand.tokens.keys import VerifyingKey
from countermand.tokens.mandate import SigningKey
from tests.unit.mandates import ED25519, ES256, JSON, OTHER_ES256, RS256

EC, OKP, RSA = ES256.verifying_key().to_jwk(), ED25519.verifying_key().to_jwk(), RS256.verifying_key().to_jwk()
POINT = b"".join(base64.urlsafe_b64decode(EC[name] + "=") for name in "xy")


def document(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def kids(data: bytes) -> list[str | None]:
    return [key.kid for key in parse_jwks(data).keys]


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def b64(number: int) -> str:
    return base64url(number.to_bytes((number.bit_length() + 7) // 8))


def without(jwk: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in jwk.items() if name not in names}


def test_a_written_set_is_read_back() -> None:
    keys = KeySet(tuple(key.verifying_key() for key in (ES256, ED25519, RS256)))
    again = parse_jwks(keys.to_json())
    assert again == keys
    assert [key.algorithm for key in again.keys] == ["ES256", "Ed25519", "RS256"]
    for key in (ES256, ED25519, RS256):
        assert again.find(key.kid, key.algorithm).verify(b"message", key.sign(b"message"))
        assert not again.find(key.kid, key.algorithm).verify(b"massage", key.sign(b"message"))


def test_a_written_set_holds_public_members_alone() -> None:
    for member in json.loads(KeySet((ES256.verifying_key(), RS256.verifying_key())).to_json())["keys"]:
        assert set(member) <= {"kty", "crv", "x", "y", "n", "e", "kid", "alg", "use"}


@pytest.mark.parametrize("key", [ES256, ED25519, RS256])
def test_private_members_are_not_retained(key: SigningKey) -> None:
    private = key.verifying_key().to_jwk() | {"d": "c2VjcmV0", "p": "c2VjcmV0", "k": "c2VjcmV0"}
    keys = parse_jwks(document(private))
    assert json.loads(keys.to_json()) == {"keys": [key.verifying_key().to_jwk()]}
    assert "c2VjcmV0" not in repr(keys)


@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x", "alg": "HS256"},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"},
        {},
        [],
        "key",
        None,
        EC | {"kty": "RSA"},
        EC | {"kty": ["EC"]},
        EC | {"crv": "P-384"},
        EC | {"crv": "secp256k1"},
        EC | {"crv": {}},
        EC | {"use": "enc"},
        EC | {"use": None},
        EC | {"key_ops": ["sign", "deriveKey"]},
        EC | {"key_ops": "verify"},
        EC | {"key_ops": {"verify": 1}},
        EC | {"alg": "ES384"},
        EC | {"alg": "RS256"},
        EC | {"alg": None},
        EC | {"kid": 1},
        EC | {"kid": ""},
        EC | {"kid": ["x"]},
        EC | {"kid": "k" * 129},
        EC | {"x": 1},
        EC | {"x": "\u00e9"},
        EC | {"x": EC["x"] + "="},
        EC | {"x": ""},
        EC | {"x": EC["y"], "y": EC["x"]},  # a point beside the curve
        EC | {"x": b64(2**256 - 1)},
        EC | {"x": "A" * 43, "y": "A" * 43},
        EC | {"y": "AAAA" + EC["y"]},
        EC | {"x": base64url(POINT[:31]), "y": base64url(POINT[31:])},  # the same bytes, divided elsewhere
        without(EC, "y"),
        OKP | {"x": OKP["x"][:-1]},
        OKP | {"x": ""},
        OKP | {"crv": "Ed448"},
        OKP | {"crv": "X25519"},
        without(OKP, "x"),
        RSA | {"e": "AA"},
        RSA | {"e": "AQ"},
        RSA | {"e": b64(65536)},
        RSA | {"e": b64(2**33 + 1)},
        RSA | {"e": RSA["n"]},
        RSA | {"n": ""},
        RSA | {"n": "A" * 43},
        RSA | {"n": b64(2**2048)},
        RSA | {"n": b64(2**8192 + 1)},
        RSA | {"n": b64(2**200_000 + 1)},
        RSA | {"n": b64(2**2047 - 1)},
        without(RSA, "e"),
    ],
)
def test_a_key_that_verifies_no_mandate_is_left_out(jwk: object) -> None:
    other = OTHER_ES256.verifying_key().to_jwk()
    assert kids(document(jwk, other)) == [OTHER_ES256.kid]
    with pytest.raises(MalformedKeysError):
        parse_jwks(document(jwk))


def test_a_short_rsa_key_is_left_out_and_2048_bits_are_enough() -> None:
    for bits, expected in ((1024, []), (2048, ["r"])):
        numbers = rsa.generate_private_key(65537, bits).public_key().public_numbers()  # the weak key
        jwk = {"kty": "RSA", "n": b64(numbers.n), "e": b64(numbers.e), "kid": "r"}
        assert kids(document(EC, jwk)) == [ES256.kid, *expected]


@pytest.mark.parametrize("jwk", [EC, OKP, RSA])
def test_optional_members_may_be_missing_or_fit(jwk: dict[str, Any]) -> None:
    for fitting in (without(jwk, "alg", "use"), jwk | {"key_ops": ["verify", "sign"]}, jwk | {"x5c": ["AA"], "z": {}}):
        assert kids(document(fitting)) == [jwk["kid"]]
    assert kids(document(without(jwk, "kid"))) == [None]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"keys":null}',
        b'{"keys":{}}',
        b'{"keys":[]}',
        b'{"keys":[],"keys":[]}',
        b'{"keys":[NaN]}',
        b'{"keys":[' + b"9" * 5000 + b"]}",
        b"[" * 100_000,
        b'{"keys":' * 20_000,
        b"\xff\xfe",
        document(EC).replace(b'"kty"', b'"kid":"x","kty"'),
        document(EC, "\ud800"),
        document(EC).decode().encode("utf-16"),
        document(EC, EC),
        document(EC, OKP | {"kid": EC["kid"]}),
        document(*[EC | {"kid": str(number)} for number in range(MAX_KEYS + 1)]),
        document(EC | {"x5c": ["A" * MAX_JWKS_BYTES]}),
    ],
)
def test_what_is_no_key_set_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedKeysError):
        parse_jwks(data)


def test_64_keys_and_256_kib_are_read() -> None:
    full = document(*[EC | {"kid": str(number)} for number in range(MAX_KEYS)])
    assert len(kids(full + b" " * (MAX_JWKS_BYTES - len(full)))) == MAX_KEYS
    with pytest.raises(MalformedKeysError, match="longer"):
        parse_jwks(full + b" " * (MAX_JWKS_BYTES - len(full) + 1))


def test_a_kid_may_be_shared_with_a_key_that_is_left_out() -> None:
    assert kids(document(EC | {"use": "enc"}, OKP | {"kid": EC["kid"]})) == [EC["kid"]]


def test_a_key_is_found_by_its_name_and_without_one_only_if_it_is_the_only_one() -> None:
    keys = parse_jwks(document(EC, OKP, OTHER_ES256.verifying_key().to_jwk()))
    assert keys.find(ES256.kid, "ES256").kid == ES256.kid
    assert keys.find(None, "Ed25519").kid == ED25519.kid
    assert ES256.kid in keys
    assert RS256.kid not in keys
    for kid, algorithm in ((None, "ES256"), (None, "RS256"), (RS256.kid, "RS256"), ("", "Ed25519")):
        with pytest.raises(UnknownTokenKeyError):
            keys.find(kid, algorithm)


def test_a_key_of_another_curve_is_no_verifying_key() -> None:
    with pytest.raises(ValueError, match="P-256"):
        VerifyingKey("x", ec.generate_private_key(ec.SECP384R1()).public_key())


@given(st.binary())
def test_any_bytes_are_refused_by_our_own_error(data: bytes) -> None:
    with pytest.raises(MalformedKeysError):
        parse_jwks(data)


@given(st.dictionaries(st.sampled_from([*EC, *RSA, "key_ops"]), JSON), st.sampled_from([EC, OKP, RSA]))
def test_any_member_leaves_a_usable_key_or_none(changes: dict[str, Any], jwk: dict[str, Any]) -> None:
    assert OTHER_ES256.kid in kids(document(jwk | changes, OTHER_ES256.verifying_key().to_jwk()))


@given(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=3), st.integers(0, 3)), min_size=1),
    st.binary(max_size=600),
)
def test_any_mutated_set_is_refused_by_our_own_errors_and_its_keys_can_be_asked(
    edits: list[tuple[float, bytes, int]], signature: bytes
) -> None:
    data = bytearray(document(EC, OKP, RSA))
    for where, insert, drop in edits:
        at = int(where * len(data))
        data[at : at + drop] = insert
    try:
        keys = parse_jwks(bytes(data))
    except KeysError:
        return
    assert parse_jwks(keys.to_json()) == keys
    for key in keys.keys:
        assert not key.verify(b"message", signature)


@given(st.sampled_from([ES256, ED25519, RS256]), st.binary(max_size=600))
@example(ES256, bytes(64))
@example(ES256, b"\xff" * 64)
@example(ES256, bytes(31) + b"\x01" + bytes(32))
@example(ED25519, b"\xff" * 64)
@example(RS256, bytes(384))
@example(RS256, b"\xff" * 384)
@example(RS256, b"\xff" * 385)
def test_any_bytes_are_no_signature(key: SigningKey, signature: bytes) -> None:
    assert not key.verifying_key().verify(b"message", signature)
