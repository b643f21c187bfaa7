"""One key that signs mandates, one key that verifies them.

A key has one algorithm, by its own type: no header can choose another for it.
Source: RFC 7517 (JWK), RFC 7518 (ES256, RS256), RFC 9864 (Ed25519), RFC 7638 (thumbprint).
"""

from dataclasses import dataclass, field
from typing import Final, Self, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from countermand.errors import ConfigurationError, InvalidValueError

ALGORITHMS: Final = ("ES256", "Ed25519", "RS256")
MIN_RSA_BITS: Final = 2048  # NIST SP 800-131A: the least that may still be verified
MAX_RSA_BITS: Final = 8192  # above it one verification costs a millisecond or more
MAX_RSA_EXPONENT: Final = 2**32 - 1  # 65537 is usual; a long one makes a verification as slow as a signature
_NEW_RSA_BITS: Final = 3072  # NIST SP 800-57: the 128 bits of security that the other two have

PrivateKey: TypeAlias = EllipticCurvePrivateKey | Ed25519PrivateKey | RSAPrivateKey
PublicKey: TypeAlias = EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey
_JoseKey: TypeAlias = ECKey | OKPKey | RSAKey

_REGISTRY = JWSRegistry(algorithms=ALGORITHMS)
_SHA256 = hashes.SHA256()
_ES256 = ec.ECDSA(_SHA256)
_PKCS1 = padding.PKCS1v15()
_P256_BYTES = 32  # RFC 7518 §3.4: each number in full length


def _jose(key: PrivateKey | PublicKey) -> tuple[str, _JoseKey]:
    """Return the one algorithm of `key`, and joserfc's form of it. Raises: InvalidValueError."""
    if isinstance(key, EllipticCurvePrivateKey | EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return "ES256", ECKey.import_key(key)
    if isinstance(key, Ed25519PrivateKey | Ed25519PublicKey):
        return "Ed25519", OKPKey.import_key(key)
    if isinstance(key, RSAPrivateKey | RSAPublicKey) and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        return "RS256", RSAKey.import_key(key)
    raise InvalidValueError("a key is of P-256, Ed25519, or RSA with 2048 to 8192 bits")


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key and the name that its issuer gave it, None if none. Raises: InvalidValueError."""

    kid: str | None
    public: PublicKey = field(repr=False, compare=False)
    algorithm: str = field(init=False)
    thumbprint: str = field(init=False)
    _jose: _JoseKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        algorithm, jose = _jose(self.public)
        object.__setattr__(self, "algorithm", algorithm)
        object.__setattr__(self, "thumbprint", jose.thumbprint())
        object.__setattr__(self, "_jose", jose)

    def verify(self, message: bytes, signature: bytes) -> bool:
        """True if the holder of the private key signed `message`, by the one algorithm of this key."""
        key = self.public
        try:
            if isinstance(key, EllipticCurvePublicKey):
                key.verify(_der(signature), message, _ES256)
            elif isinstance(key, Ed25519PublicKey):
                key.verify(signature, message)
            else:
                key.verify(signature, message, _PKCS1, _SHA256)
        except InvalidSignature:
            return False
        return True

    def to_jwk(self) -> dict[str, str]:
        """Return the public JWK with `alg` and `use`, and `kid` if it has one."""
        jwk = {name: str(value) for name, value in self._jose.as_dict(private=False).items()}
        named = {} if self.kid is None else {"kid": self.kid}
        return jwk | named | {"alg": self.algorithm, "use": "sig"}


def _der(signature: bytes) -> bytes:
    """Return ECDSA's two numbers, which JWS writes one after the other, in DER. Raises: InvalidSignature."""
    if len(signature) != 2 * _P256_BYTES:
        raise InvalidSignature
    return encode_dss_signature(int.from_bytes(signature[:_P256_BYTES]), int.from_bytes(signature[_P256_BYTES:]))


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key of the authority. `kid` is its RFC 7638 thumbprint. Raises: InvalidValueError."""

    private: PrivateKey = field(repr=False, compare=False)
    algorithm: str = field(init=False)
    kid: str = field(init=False)
    _jose: _JoseKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        algorithm, jose = _jose(self.private)
        object.__setattr__(self, "algorithm", algorithm)
        object.__setattr__(self, "kid", jose.thumbprint())
        object.__setattr__(self, "_jose", jose)

    @classmethod
    def generate(cls, algorithm: str = "ES256") -> Self:
        """Return a new key for one of ALGORITHMS, of the system's randomness. Raises: InvalidValueError."""
        match algorithm:
            case "ES256":
                return cls(ec.generate_private_key(ec.SECP256R1()))
            case "Ed25519":
                return cls(Ed25519PrivateKey.generate())
            case "RS256":
                return cls(rsa.generate_private_key(public_exponent=65537, key_size=_NEW_RSA_BITS))
        raise InvalidValueError(f"mandates are signed with one of {', '.join(ALGORITHMS)}")

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Return the key that `to_pem` wrote.

        Raises:
            ConfigurationError: not an unencrypted private key in PEM, or not one for a mandate.
        """
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigurationError("the signing key is not an unencrypted private key in PEM") from error
        try:
            return cls(private)  # type: ignore[arg-type]  # __post_init__ refuses every other type
        except InvalidValueError as error:
            raise ConfigurationError(f"the signing key cannot sign mandates: {error}") from error

    def to_pem(self) -> bytes:
        """Return the private key as PKCS #8 without a password: whoever reads it can mint mandates."""
        return self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(self, message: bytes) -> bytes:
        """Return the signature of `message`, as JWS writes it."""
        return _REGISTRY.get_alg(self.algorithm).sign(message, self._jose)

    def verifying_key(self) -> VerifyingKey:
        """Return the public half, under the same `kid`."""
        return VerifyingKey(self.kid, self.private.public_key())
