"""Attacks on real signed bytes: signature, key, shape, issuer, audience and time."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from countermand.errors import (
    BadTokenSignatureError,
    ExpiredTokenError,
    MalformedTokenError,
    TokenError,
    UnknownTokenKeyError,
    WrongAudienceError,
    WrongIssuerError,
)
from countermand.tokens.jwks import KeySet, parse_jwks
from countermand.tokens.mandate import ALGORITHMS, MAX_TOKEN_BYTES, SigningKey, mint, parse_mandate
from tests.unit.mandates import (
    AUDIENCE,
    BY_ALGORITHM,
    CLAIMS,
    DELEGATED,
    ED25519,
    ES256,
    ISSUER,
    LOOSE_JSON,
    NOW_S,
    OTHER_ES256,
    RS256,
    b64,
    claims_json,
    read,
    sign,
)

# Signature and key


def test_a_token_without_an_algorithm_of_a_signature_is_refused() -> None:
    for algorithm in ("none", "None", "nOnE"):
        header = b64(json.dumps({"alg": algorithm}).encode())
        for signature in (b"", b64(b"x")):
            with pytest.raises(MalformedTokenError):
                parse_mandate(header + b"." + b64(json.dumps(claims_json()).encode()) + b"." + signature)


@pytest.mark.parametrize("key", [ES256, RS256, ED25519])
@pytest.mark.parametrize("kid", [True, False])
def test_a_public_key_is_no_secret_for_hs256(key: SigningKey, kid: bool) -> None:
    public = key.private.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for secret in (pem, json.dumps(key.verifying_key().to_jwk()).encode(), b""):
        header = {"alg": "HS256"} | ({"kid": key.kid} if kid else {})
        signing_input = b64(json.dumps(header).encode()) + b"." + b64(json.dumps(claims_json()).encode())
        tag = hmac.new(secret, signing_input, hashlib.sha256).digest()
        with pytest.raises(BadTokenSignatureError):
            read(signing_input + b"." + b64(tag), KeySet((key.verifying_key(),)))


@pytest.mark.parametrize("algorithm", ["ES384", "EdDSA", "PS256", "RS512", "es256", "", "ES256 "])
def test_an_algorithm_outside_the_list_is_refused_before_any_key_is_asked_for(algorithm: str) -> None:
    with pytest.raises(BadTokenSignatureError):
        parse_mandate(sign(claims_json(), ES256, {"alg": algorithm, "kid": ES256.kid}))


@pytest.mark.parametrize("claimed", ALGORITHMS)
@pytest.mark.parametrize("named", ALGORITHMS)
@pytest.mark.parametrize("signer", ALGORITHMS)
def test_only_a_keys_own_algorithm_verifies_with_it(claimed: str, named: str, signer: str) -> None:
    token = sign(claims_json(), BY_ALGORITHM[signer], {"alg": claimed, "kid": BY_ALGORITHM[named].kid})
    if claimed == named == signer:
        assert read(token).key_id == BY_ALGORITHM[named].kid
    else:
        with pytest.raises(BadTokenSignatureError):
            read(token)


def test_an_unknown_key_id_and_another_key_under_a_known_one_differ() -> None:
    with pytest.raises(UnknownTokenKeyError):
        read(mint(CLAIMS, OTHER_ES256))
    with pytest.raises(BadTokenSignatureError):
        read(sign(claims_json(), OTHER_ES256, {"alg": "ES256", "kid": ES256.kid}))


def test_a_token_that_names_no_key_is_tried_with_the_only_one_of_its_algorithm() -> None:
    token = sign(claims_json(), ES256, {"alg": "ES256"})
    assert read(token).key_id == ES256.kid
    with pytest.raises(UnknownTokenKeyError):
        read(token, KeySet((ES256.verifying_key(), OTHER_ES256.verifying_key())))
    with pytest.raises(UnknownTokenKeyError):
        read(token, KeySet((ED25519.verifying_key(),)))


@pytest.mark.parametrize("member", [{"use": "enc"}, {"key_ops": ["sign"]}, {"key_ops": []}, {"alg": "ES384"}])
def test_a_key_marked_for_something_else_verifies_nothing(member: dict[str, Any]) -> None:
    document = {"keys": [OTHER_ES256.verifying_key().to_jwk(), ES256.verifying_key().to_jwk() | member]}
    keys = parse_jwks(json.dumps(document).encode())
    with pytest.raises(UnknownTokenKeyError):
        read(mint(CLAIMS, ES256), keys)


@pytest.mark.parametrize("key", [ES256, ED25519, RS256])
def test_a_signature_holds_for_its_own_token_alone(key: SigningKey) -> None:
    header, payload, signature = mint(CLAIMS, key).split(".")
    foreign_payload, foreign_signature = mint(DELEGATED, key).split(".")[1:]
    for token in (
        f"{header}.{payload}.{foreign_signature}",
        f"{header}.{foreign_payload}.{signature}",
        f"{header}.{payload}.{signature[:40]}",
        f"{header}.{payload}.{b64(bytes(64)).decode()}",
        f"{header}.{payload}.{'_' * 85}w",  # every bit set: no number of the curve
        f"{header}.{payload}.",
    ):
        with pytest.raises(BadTokenSignatureError):
            read(token)


def test_a_signature_has_one_spelling() -> None:
    """The two numbers have 32 bytes each: with a zero before the second they would be the same numbers."""
    signing_input, _, signature = mint(CLAIMS, ES256).rpartition(".")
    numbers = base64.urlsafe_b64decode(signature + "==")
    with pytest.raises(BadTokenSignatureError):
        read(f"{signing_input}.{b64(numbers[:32] + bytes(1) + numbers[32:]).decode()}")


def test_a_key_in_the_header_is_not_used() -> None:
    header = {
        "alg": "ES256",
        "kid": OTHER_ES256.kid,
        "jwk": OTHER_ES256.verifying_key().to_jwk(),
        "jku": "https://evil.example",
    }
    with pytest.raises(UnknownTokenKeyError):
        read(sign(claims_json(), OTHER_ES256, header))


# Shape


def test_what_is_not_three_segments_of_base64url_is_refused() -> None:
    token = mint(CLAIMS, ES256)
    header, payload, signature = token.split(".")
    for text in (
        "",
        ".",
        "..",
        header,
        f"{header}.{payload}",
        f"{token}.",
        f".{token}",
        f"{token}.{signature}",
        f"{header}..{payload}.{signature}",
        f"{token}=",
        f"{token}\n",
        f" {token}",
        f"Bearer {token}",
        f"{header}=.{payload}.{signature}",
        f"{header}.{payload}.{signature[:-1]}",
        f"{header}.{payload}.{signature[:-2]}+/",
        "." * MAX_TOKEN_BYTES,
        "é" + token,
        "\ud800" + token,
        "\x00" * 100,
    ):
        with pytest.raises(MalformedTokenError):
            parse_mandate(text)


def test_stray_last_bits_do_not_make_a_second_text_of_one_token() -> None:
    token = mint(CLAIMS, ES256)  # 64 bytes of signature: the last character has four bits to spare
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".index(token[-1])
    twin = token[:-1] + "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last + 1]
    read(token)
    with pytest.raises(MalformedTokenError):
        parse_mandate(twin)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"null",
        b'"ES256"',
        b"{",
        b"{}",
        b'{"alg":null}',
        b'{"alg":["ES256"]}',
        b'{"alg":"ES256","alg":"ES256"}',
        b'{"alg":"HS256","alg":"ES256"}',
        b'{"alg":"ES256","x":{"y":1,"y":2}}',
        b'{"alg":"ES256","kid":1}',
        b'{"alg":"ES256","kid":null}',
        b'{"alg":"ES256","kid":""}',
        b'{"alg":"ES256","kid":["k"]}',
        b'{"alg":"ES256","kid":"' + b"k" * 129 + b'"}',
        b'{"alg":"ES256","kid":"\\ud800"}',
        b'{"alg":"ES256","kid":"\xff"}',
        b'{"alg":"ES256","typ":"dpop+jwt"}',
        b'{"alg":"ES256","typ":null}',
        b'{"alg":"ES256","typ":{}}',
        b'{"alg":"ES256","crit":["exp"],"exp":1}',
        b'{"alg":"ES256","crit":[]}',
        b'{"alg":"ES256","b64":true}',
        b'{"alg":"ES256","b64":false,"crit":["b64"]}',
        b'{"alg":"ES256","x":NaN}',
        b'{"alg":"ES256","x":Infinity}',
        b'{"alg":"ES256","x":1e999}',
        b'{"alg":"ES256","x":' + b"9" * 5000 + b"}",
        b'{"alg":"ES256","x":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"alg":"ES256","x":' + b"[" * 16 + b"]" * 16 + b"}",
        b'\xef\xbb\xbf{"alg":"ES256"}',
        '{"alg":"ES256"}'.encode("utf-16"),
        b'{"alg":"ES256"}x',
        b"[" * 12_000,
    ],
)
def test_a_header_that_we_cannot_accept_is_refused(header: bytes) -> None:
    with pytest.raises(MalformedTokenError):
        parse_mandate(sign(claims_json(), ES256, header))


@pytest.mark.parametrize("type_", ["at+jwt", "AT+JWT", "JWT", "jwt", "application/at+jwt"])
def test_both_types_are_accepted(type_: str) -> None:
    read(sign(claims_json(), ES256, {"alg": "ES256", "kid": ES256.kid, "typ": type_}))


def test_16_kib_are_read_and_one_byte_more_is_not() -> None:
    room = MAX_TOKEN_BYTES - len(sign(claims_json(filler=""))) - 8
    filler = room * 3 // 4
    longest = max(
        (token for extra in range(12) if len(token := sign(claims_json(filler="x" * (filler + extra)))) <= 16_384),
        key=len,
    )
    assert len(longest) >= MAX_TOKEN_BYTES - 1
    read(longest)
    for text in ("x" * (MAX_TOKEN_BYTES + 1), b"x" * (MAX_TOKEN_BYTES + 1)):
        with pytest.raises(MalformedTokenError, match="longer"):
            parse_mandate(text)


def test_no_text_shows_the_token() -> None:
    token = mint(CLAIMS, ES256)
    parts = token.split(".")
    unverified = parse_mandate(token)
    shown = repr(unverified) + repr(read(token))
    assert not any(part in shown for part in parts)
    assert "alice" not in repr(unverified)
    with pytest.raises(MalformedTokenError) as refusal:
        parse_mandate(token + ".")
    assert not any(part in repr(refusal.value) for part in parts)
    assert refusal.value.__suppress_context__


# Issuer, audience, time


def test_only_the_very_issuer_is_accepted() -> None:
    for issuer in (ISSUER + "/", ISSUER[:-1], ISSUER.upper(), ISSUER + ".evil.example", ISSUER + "\u200b"):
        with pytest.raises(WrongIssuerError):
            read(sign(claims_json(iss=issuer)))


def test_only_the_very_audience_is_accepted() -> None:
    for audience in (AUDIENCE + "/", AUDIENCE[:-1], [AUDIENCE[:-1]], ["a", "b"]):
        with pytest.raises(WrongAudienceError):
            read(sign(claims_json(aud=audience)))


def test_the_audience_may_be_one_of_a_list() -> None:
    assert read(sign(claims_json(aud=["https://b.example", AUDIENCE]))).audience == ("https://b.example", AUDIENCE)
    assert read(mint(replace(CLAIMS, audience=(AUDIENCE, "b")), ES256)).audience == (AUDIENCE, "b")


def test_the_checks_come_in_their_order() -> None:
    wrong = claims_json(iss="x", aud="x", exp=1, path=3)
    with pytest.raises(BadTokenSignatureError):
        read(sign(wrong, OTHER_ES256, {"alg": "ES256", "kid": ES256.kid}))
    with pytest.raises(WrongIssuerError):
        read(sign(wrong))
    with pytest.raises(WrongAudienceError):
        read(sign(wrong | {"iss": ISSUER}))
    with pytest.raises(ExpiredTokenError):
        read(sign(wrong | {"iss": ISSUER, "aud": AUDIENCE}))
    with pytest.raises(MalformedTokenError):
        read(sign(wrong | {"iss": ISSUER, "aud": AUDIENCE, "exp": NOW_S + 1}))


def test_a_token_lives_ten_seconds_beyond_its_expiry() -> None:
    token = mint(CLAIMS, ES256)
    read(token, now_s=NOW_S + 900 + 9)
    for late_s in (10, 11, float("nan"), float("inf")):
        with pytest.raises(ExpiredTokenError):
            read(token, now_s=NOW_S + 900 + late_s)


@pytest.mark.parametrize("name", ["iat", "nbf"])
def test_a_token_of_the_future_is_refused_ten_seconds_ahead(name: str) -> None:
    read(sign(claims_json(**{name: NOW_S + 10})))
    with pytest.raises(ExpiredTokenError):
        read(sign(claims_json(**{name: NOW_S + 11})))


def test_times_may_have_fractions() -> None:
    mandate = read(sign(claims_json(iat=NOW_S - 0.5, exp=NOW_S + 0.5)))
    assert (mandate.issued_at_s, mandate.expires_at_s) == (NOW_S - 0.5, NOW_S + 0.5)


# Any bytes


@given(st.one_of(st.text(), st.binary()))
def test_any_text_or_bytes_are_refused_by_our_own_error(token: str | bytes) -> None:
    with pytest.raises(MalformedTokenError):
        parse_mandate(token)


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "x"]), LOOSE_JSON))
def test_any_header_is_refused_by_our_own_errors(header: dict[str, Any]) -> None:
    with pytest.raises(TokenError):
        read(sign(claims_json(), ES256, header))


MUTATED = {key: (mint(DELEGATED, key), read(mint(DELEGATED, key))) for key in (ES256, ED25519)}


@given(
    st.sampled_from(list(MUTATED)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=3), st.integers(0, 3)), min_size=1),
)
def test_no_change_of_a_valid_token_passes_with_other_claims(
    key: SigningKey, edits: list[tuple[float, bytes, int]]
) -> None:
    token, mandate = MUTATED[key]
    data = bytearray(token.encode())
    for where, insert, drop in edits:
        at = int(where * len(data))
        data[at : at + drop] = insert
    try:
        survivor = read(bytes(data))
    except TokenError:
        return
    assert survivor == mandate
    assert survivor.claims == mandate.claims


@given(st.sampled_from(list(MUTATED)), st.integers(0, 2), st.data())
def test_no_flipped_bit_of_a_valid_token_passes(key: SigningKey, segment: int, data: st.DataObject) -> None:
    parts = [base64.urlsafe_b64decode(part + "==") for part in MUTATED[key][0].split(".")]
    bit = data.draw(st.integers(0, len(parts[segment]) * 8 - 1))
    flipped = bytearray(parts[segment])
    flipped[bit // 8] ^= 1 << bit % 8
    parts[segment] = bytes(flipped)
    with pytest.raises(TokenError):
        read(b".".join(map(b64, parts)))
