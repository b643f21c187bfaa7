"""Mandates: short-lived signed JWTs that carry authority, and every id by which it can be revoked.

The payload is read once, and only after its signature held. Nothing that a header says chooses a key's algorithm or
where a key comes from. No I/O, no clock.
Source: docs/protocol.md, "Mandate"; RFC 7515 (JWS), RFC 7519 (JWT), RFC 8725 (its dangers), RFC 9068 (access tokens).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from countermand.errors import (
    BadTokenSignatureError,
    ExpiredTokenError,
    InvalidValueError,
    MalformedError,
    MalformedTokenError,
    WrongAudienceError,
    WrongIssuerError,
)
from countermand.log.codec import from_base64, to_base64
from countermand.tokens.claims import (
    Claims,
    Hop,
    Mandate,
    MandateClaims,
    audience_of,
    instant,
    parse_claims,
    read_mandate,
    text,
)
from countermand.tokens.encoding import parse_json
from countermand.tokens.jwks import MAX_KID_CHARS, KeySet
from countermand.tokens.keys import ALGORITHMS, SigningKey

__all__ = [
    "ALGORITHMS",
    "LEEWAY_S",
    "MANDATE_TYPE",
    "MAX_TOKEN_BYTES",
    "Hop",
    "Mandate",
    "MandateClaims",
    "SigningKey",
    "UnverifiedMandate",
    "mint",
    "parse_mandate",
    "verify",
]

MAX_TOKEN_BYTES: Final = 16_384  # a mandate with 64 ancestors has under 5 KB; common servers take headers up to 8 or 16
LEEWAY_S: Final = 10  # clocks of issuer and verifier, the same everywhere
MANDATE_TYPE: Final = "at+jwt"  # RFC 9068 §2.1

_ACCEPTED_TYPES: Final = {MANDATE_TYPE, "jwt"}  # RFC 7519 §5.1; the type may also be missing


@dataclass(frozen=True, slots=True)
class UnverifiedMandate:
    """A token of the right shape. Nothing in it is true yet; `key_id` is good for looking up a key, and no more."""

    algorithm: str
    key_id: str | None
    signing_input: bytes = field(repr=False)
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def parse_mandate(token: str | bytes) -> UnverifiedMandate:
    """Return the parts of a compact JWS that could be a mandate.

    Raises:
        MalformedTokenError: over MAX_TOKEN_BYTES, not three segments of base64url, or a header that we cannot accept.
        BadTokenSignatureError: signed by an algorithm that is not one of ALGORITHMS. No key need be had to say so.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise MalformedTokenError(f"the token is longer than {MAX_TOKEN_BYTES} bytes")
    try:
        data = token.encode("ascii") if isinstance(token, str) else token
        header, payload, signature = data.split(b".", 3)  # a fourth is enough to refuse
        claims, signed = from_base64(payload), from_base64(signature)
        algorithm, key_id = _parse_header(header)
    except (ValueError, MalformedError):
        raise MalformedTokenError("the token is not a signed JWT") from None  # a cause could quote it
    return UnverifiedMandate(algorithm, key_id, data[: -len(signature) - 1], claims, signed)


@lru_cache(maxsize=64)  # all tokens of one key have one header; what is refused is not kept
def _parse_header(encoded: bytes) -> tuple[str, str | None]:
    """Return the algorithm and the key id that an acceptable header names. Raises: ValueError, and of our tree."""
    header = parse_json(from_base64(encoded))
    if not isinstance(header, dict):
        raise MalformedTokenError("the token's header is not an object")
    algorithm, key_id, type_ = header.get("alg"), header.get("kid"), header.get("typ", MANDATE_TYPE)
    if not isinstance(algorithm, str) or algorithm.lower() == "none":
        raise MalformedTokenError("the token names no algorithm of a signature")
    if "kid" in header and not (isinstance(key_id, str) and 0 < len(key_id) <= MAX_KID_CHARS):
        raise MalformedTokenError(f"a key id is a text of 1 to {MAX_KID_CHARS} characters")
    if not isinstance(type_, str) or type_.lower().removeprefix("application/") not in _ACCEPTED_TYPES:
        raise MalformedTokenError("the token is of another type")
    if "crit" in header or "b64" in header:
        raise MalformedTokenError("the token needs an extension that we do not have")
    if algorithm not in ALGORITHMS:
        raise BadTokenSignatureError(f"the token's algorithm is not one of {', '.join(ALGORITHMS)}")
    return algorithm, key_id


def verify(unverified: UnverifiedMandate, keys: KeySet, *, issuer: str, audience: str | None, now_s: float) -> Mandate:
    """Return the mandate if it is `issuer`'s, meant for `audience`, and within its time at `now_s`.

    `audience` None is for the issuer itself, which exchanges what it minted for others.

    1. The algorithm is the key's own; the signature holds.
    2. `iss` is `issuer`. 3. `aud` is or holds `audience`, if one is given.
    4. `exp` is ahead; `iat`, and `nbf` if present, are not: each with LEEWAY_S.
    5. Every claim that we act on has its type, and the path is whole.

    Whether anything in it is revoked is another question: see `anchors`.

    Raises:
        BadTokenSignatureError, UnknownTokenKeyError: by 1.
        WrongIssuerError, WrongAudienceError, ExpiredTokenError: by 2, 3 and 4.
        MalformedTokenError: by 5, or a claim of 2 to 4 that is missing or of another type.
    """
    key_id = _check_signature(unverified, keys)
    claims = parse_claims(unverified.payload)
    if text(claims, "iss") != issuer:
        raise WrongIssuerError("the token was issued by someone else")
    if audience is not None and audience not in audience_of(claims):
        raise WrongAudienceError("the token is meant for someone else")
    _check_time(claims, now_s)
    return read_mandate(claims, key_id)


def _check_signature(unverified: UnverifiedMandate, keys: KeySet) -> str | None:
    key = keys.find(unverified.key_id, unverified.algorithm)
    if key.algorithm != unverified.algorithm:
        raise BadTokenSignatureError("the token's algorithm is not that of the key it names")
    if not key.verify(unverified.signing_input, unverified.signature):
        raise BadTokenSignatureError("the token's signature does not hold")
    return key.kid


def _check_time(claims: Claims, now_s: float) -> None:
    """Each comparison is written so that a time which is no number refuses."""
    if not now_s < instant(claims, "exp") + LEEWAY_S:
        raise ExpiredTokenError("the token has expired")
    if not instant(claims, "iat") <= now_s + LEEWAY_S:
        raise ExpiredTokenError("the token was issued in the future")
    if "nbf" in claims and not instant(claims, "nbf") <= now_s + LEEWAY_S:
        raise ExpiredTokenError("the token is not valid yet")


def mint(claims: MandateClaims, key: SigningKey) -> str:
    """Return the signed token. It signs nothing that `verify` would refuse for its shape.

    Raises:
        InvalidValueError: more than 64 ancestors, one whose issuer the path cannot name, a life that ends before it
            begins, a claim that cannot stand in a token, or a token over MAX_TOKEN_BYTES.
    """
    if any(anchor.issuer for anchor in claims.path):
        raise InvalidValueError("a path names ids of our own making: it has no place for an issuer")
    if not claims.issued_at_s < claims.expires_at_s:
        raise InvalidValueError("a mandate expires after it was issued")
    header = _compact({"alg": key.algorithm, "typ": MANDATE_TYPE, "kid": key.kid})
    payload = _compact(claims.to_json())
    try:
        read_mandate(parse_claims(payload), key.kid)
    except MalformedTokenError as error:
        raise InvalidValueError(f"no mandate can say this: {error}") from error
    signing_input = f"{to_base64(header)}.{to_base64(payload)}"
    token = f"{signing_input}.{to_base64(key.sign(signing_input.encode()))}"
    if len(token) > MAX_TOKEN_BYTES:
        raise InvalidValueError(f"the mandate is longer than {MAX_TOKEN_BYTES} bytes")
    return token


def _compact(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
