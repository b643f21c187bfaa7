"""The keys of an issuer, and how long to believe them.

A set holds only what can verify a mandate: everything else in the document is dropped as if it were not there. Private
members are never read. A cache asks the issuer at a bounded rate, whatever tokens arrive.
Source: RFC 7517 §5 (key sets), RFC 7518 §6 (the members of each type), RFC 8037 (OKP).
"""

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

from countermand.errors import InvalidValueError, KeysError, MalformedError, MalformedKeysError, UnknownTokenKeyError
from countermand.log.codec import from_base64
from countermand.tokens.encoding import parse_json
from countermand.tokens.keys import MAX_RSA_EXPONENT, PublicKey, VerifyingKey

MAX_JWKS_BYTES: Final = 262_144  # 64 keys with their certificates stay far below
MAX_KEYS: Final = 64  # an issuer in rotation has two or three
MAX_KID_CHARS: Final = 128  # a thumbprint has 43, a UUID 36
FAILURE_COOLDOWN_S: Final = 1.0  # a caller's Retry-After: sooner, nobody is told to come back
FETCH_TIMEOUT_S: Final = 5.0  # the one wait that a dead issuer costs

_P256_BYTES: Final = 32  # RFC 7518 §6.2.1.2: a coordinate in full length

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys with which an issuer signs.

    Raises:
        MalformedKeysError: there is none, or two have one `kid`.
    """

    keys: tuple[VerifyingKey, ...]
    _by_kid: dict[str, VerifyingKey] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        named = [(key.kid, key) for key in self.keys if key.kid is not None]
        by_kid = dict(named)
        if not self.keys:
            raise MalformedKeysError("the set holds no key that could verify a mandate")
        if len(by_kid) != len(named):
            raise MalformedKeysError("two keys of the set have the same kid")
        object.__setattr__(self, "_by_kid", by_kid)

    def __contains__(self, kid: str) -> bool:
        return kid in self._by_kid

    def find(self, kid: str | None, algorithm: str) -> VerifyingKey:
        """Return the key that a token names; for one that names none, the only key of its algorithm.

        Raises:
            UnknownTokenKeyError: there is no such key, or more than one.
        """
        if kid is not None:
            key = self._by_kid.get(kid)
            if key is None:
                raise UnknownTokenKeyError("the issuer has no key of the id that the token names")
            return key
        suitable = [key for key in self.keys if key.algorithm == algorithm]
        if len(suitable) != 1:
            raise UnknownTokenKeyError("the token names no key, and the issuer has not exactly one for its algorithm")
        return suitable[0]

    def to_json(self) -> bytes:
        """Return the JWK Set, as it stands at `/.well-known/jwks.json`."""
        return json.dumps({"keys": [key.to_jwk() for key in self.keys]}, separators=(",", ":")).encode()


def parse_jwks(data: bytes) -> KeySet:
    """Return the keys in a JWK Set that can verify a mandate.

    Left out: symmetric and unknown types, other curves, RSA out of range, `use` other than `sig`, `key_ops` without
    `verify`, an `alg` that is not the key's own, broken numbers.

    Raises:
        MalformedKeysError: over MAX_JWKS_BYTES or MAX_KEYS, not a JWK Set, no usable key, or two of one `kid`.
    """
    if len(data) > MAX_JWKS_BYTES:
        raise MalformedKeysError(f"the key set is longer than {MAX_JWKS_BYTES} bytes")
    try:
        document = parse_json(data)
    except ValueError as error:
        raise MalformedKeysError("the key set is not JSON that we accept") from error
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list) or len(members) > MAX_KEYS:
        raise MalformedKeysError(f"a key set is an object with at most {MAX_KEYS} keys")
    keys = [_usable_key(jwk) for jwk in members if isinstance(jwk, dict)]
    return KeySet(tuple(key for key in keys if key is not None))


def _usable_key(jwk: dict[str, object]) -> VerifyingKey | None:
    kid = jwk.get("kid")
    key_ops = jwk.get("key_ops", ["verify"])
    if not (kid is None or (isinstance(kid, str) and 0 < len(kid) <= MAX_KID_CHARS)):
        return None
    if jwk.get("use", "sig") != "sig" or not isinstance(key_ops, list) or "verify" not in key_ops:
        return None
    try:
        key = VerifyingKey(kid, _public_key(jwk))
    except (ValueError, MalformedError):
        return None
    return key if jwk.get("alg", key.algorithm) == key.algorithm else None


def _public_key(jwk: dict[str, object]) -> PublicKey:
    """Raises: ValueError, MalformedError."""
    match jwk.get("kty"), jwk.get("crv"):
        case "EC", "P-256":
            x, y = _member(jwk, "x"), _member(jwk, "y")
            if not len(x) == len(y) == _P256_BYTES:
                raise ValueError("a coordinate is not of full length")
            return EllipticCurvePublicKey.from_encoded_point(SECP256R1(), b"\x04" + x + y)  # 4: uncompressed
        case "OKP", "Ed25519":
            return Ed25519PublicKey.from_public_bytes(_member(jwk, "x"))
        case "RSA", _:
            n, e = (int.from_bytes(_member(jwk, name)) for name in "ne")
            if e > MAX_RSA_EXPONENT or n % 2 == 0:
                raise ValueError("a number is out of range")
            return RSAPublicNumbers(e, n).public_key()
    raise ValueError("a type of key that signs no mandate")


def _member(jwk: dict[str, object], name: str) -> bytes:
    value = jwk.get(name)
    if not isinstance(value, str):
        raise ValueError("a number is missing")  # noqa: TRY004  # one error for every broken key
    return from_base64(value)


class KeySource(Protocol):
    """Where the keys of one issuer come from."""

    async def key_set(self, key_id: str | None) -> KeySet:
        """Return the issuer's keys, looked up again within limits if `key_id` is not among them.

        The set may lack `key_id` all the same: to refuse the token is `verify`'s part.

        Raises:
            KeysError: no set can be had.
        """


class StaticKeys:
    """Keys that were handed over and never change."""

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    async def key_set(self, key_id: str | None) -> KeySet:
        """Return the keys; `key_id` makes no difference."""
        del key_id
        return self._keys


class JwksCache:
    """The keys of one issuer, fetched when needed and shared by all callers of one event loop.

    `fetch` returns the document or raises; it is given FETCH_TIMEOUT_S, never runs twice at once, and at most once a
    second after a failure. `clock_s` counts seconds and does not go back. A set is fetched again after `max_age_s`, and
    for an unknown key once per `cooldown_s`. While the issuer fails the old set serves on, for `max_stale_s` in all:
    callers wait for the first failure, and not for those after it.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes]],
        clock_s: Callable[[], float],
        *,
        max_age_s: float = 300,  # how long a key that was withdrawn from the document still verifies
        cooldown_s: float = 10,  # made-up key ids cost the issuer six requests a minute
        max_stale_s: float = 86_400,  # a day: an outage of the issuer's document, not a decision to trust it for ever
    ) -> None:
        if not (0 < max_age_s <= max_stale_s and cooldown_s > 0):
            raise InvalidValueError("the ages and the cooldown of keys are positive, max_stale_s the longest age")
        self._fetch = fetch
        self._clock_s = clock_s
        self._max_age_s = max_age_s
        self._cooldown_s = cooldown_s
        self._max_stale_s = max_stale_s
        self._keys: KeySet | None = None
        self._fetched_at_s = -math.inf
        self._failed_at_s = -math.inf
        self._asked_at_s = -math.inf  # when an unknown key last made us fetch
        self._failure: str | None = None
        self._refreshing: asyncio.Task[None] | None = None

    async def key_set(self, key_id: str | None) -> KeySet:
        """See KeySource."""
        now_s = self._clock_s()
        keys = self._current(now_s)
        old = now_s - self._fetched_at_s >= self._max_age_s
        unknown = keys is not None and key_id is not None and key_id not in keys
        if old or (unknown and now_s - self._asked_at_s >= self._cooldown_s):
            self._begin_refresh(now_s, for_unknown=unknown)
        if keys is None or unknown or (old and self._failure is None):
            await self._refreshed()
            keys = self._current(self._clock_s())
        if keys is None:
            raise KeysError(f"the keys of the issuer cannot be had: {self._failure}")
        return keys

    def _current(self, now_s: float) -> KeySet | None:
        return self._keys if now_s - self._fetched_at_s <= self._max_stale_s else None

    def _begin_refresh(self, now_s: float, *, for_unknown: bool) -> None:
        if self._refreshing is not None and not self._refreshing.done():
            return
        if now_s - self._failed_at_s < FAILURE_COOLDOWN_S:
            return
        if for_unknown:
            self._asked_at_s = now_s
        self._refreshing = asyncio.create_task(self._refresh())
        self._refreshing.add_done_callback(self._let_go)

    def _let_go(self, _task: asyncio.Task[None]) -> None:
        self._refreshing = None  # a task holds its event loop, which may have ended long before the cache does

    async def _refreshed(self) -> None:
        """Wait for the fetch under way, if any. A caller that is cancelled leaves it to the others."""
        if self._refreshing is not None and not self._refreshing.done():
            await asyncio.shield(self._refreshing)

    async def _refresh(self) -> None:
        began_s = self._clock_s()
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                keys = parse_jwks(await self._fetch())
        except Exception as error:  # noqa: BLE001  # whatever a given function raises, it brought no keys
            self._failed_at_s = self._clock_s()
            if self._failure is None:
                _log.warning("the keys of an issuer cannot be fetched (%s)", type(error).__name__)
            self._failure = type(error).__name__
            return
        if self._failure is not None:
            _log.warning("the keys of an issuer can be fetched again")
        self._failure = None
        self._keys = self._keys if keys == self._keys else keys  # the same object, for who compares
        self._fetched_at_s = began_s
