"""The keys that sign mandates: generated, kept in a file, published."""

import hashlib
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519

from countermand.errors import ConfigurationError, InvalidValueError
from countermand.tokens.mandate import SigningKey, mint
from tests.unit.mandates import CLAIMS, ED25519, ES256, RS256, b64, read


@pytest.mark.parametrize("key", [ES256, ED25519, RS256])
def test_a_key_survives_its_pem(key: SigningKey) -> None:
    again = SigningKey.from_pem(key.to_pem())
    assert again == key
    assert read(mint(CLAIMS, again)).key_id == key.kid


def test_a_public_jwk_has_no_private_member_and_its_thumbprint_for_a_name() -> None:
    jwk = ES256.verifying_key().to_jwk()
    assert set(jwk) == {"kty", "crv", "x", "y", "kid", "alg", "use"}
    assert (jwk["kty"], jwk["crv"], jwk["alg"], jwk["use"]) == ("EC", "P-256", "ES256", "sig")
    required = {name: jwk[name] for name in ("crv", "kty", "x", "y")}  # RFC 7638 §3: these, in this order, no spaces
    digest = hashlib.sha256(json.dumps(required, separators=(",", ":")).encode()).digest()
    assert jwk["kid"] == ES256.kid == b64(digest).decode()
    assert set(RS256.verifying_key().to_jwk()) == {"kty", "n", "e", "kid", "alg", "use"}
    assert set(ED25519.verifying_key().to_jwk()) == {"kty", "crv", "x", "kid", "alg", "use"}


def test_a_key_does_not_show_itself() -> None:
    for key in (ES256, ED25519, RS256):
        assert repr(key) == f"SigningKey(algorithm={key.algorithm!r}, kid={key.kid!r})"


def test_a_key_is_generated_for_the_allowed_algorithms_alone() -> None:
    for algorithm in ("HS256", "none", "EdDSA", "ES384", ""):
        with pytest.raises(InvalidValueError):
            SigningKey.generate(algorithm)


def pem(name: str) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | x25519.X25519PrivateKey
    match name:
        case "P-384":
            private = ec.generate_private_key(ec.SECP384R1())
        case "RSA-1024":
            private = rsa.generate_private_key(65537, 1024)  # noqa: S505  # the weak key to refuse
        case "X25519":
            private = x25519.X25519PrivateKey.generate()
        case "locked":
            private = ec.generate_private_key(ec.SECP256R1())
            encryption = serialization.BestAvailableEncryption(b"password")
        case "public":
            form = serialization.PublicFormat.SubjectPublicKeyInfo
            return ES256.private.public_key().public_bytes(serialization.Encoding.PEM, form)
        case _:
            return name.encode()
    return private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize("name", ["P-384", "RSA-1024", "X25519", "locked", "public", "", "not a key"])
def test_a_file_that_holds_no_key_for_mandates_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError):
        SigningKey.from_pem(pem(name))
