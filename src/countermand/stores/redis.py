"""A revocation store in Redis: what one process marks, all of them see.

Key `<prefix><anchor>` holds `1` and expires with its entry: the format of the published packages, which may read and
write the same keys.
Source: the documented `RedisRevocationStore`; docs/protocol.md.
"""

import hashlib
import inspect
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from countermand.errors import StoreError
from countermand.stores.breaker import CircuitBreaker
from countermand.stores.client import (
    MAX_WAIT_S,
    RedisClient,
    ScriptingRedisClient,
    batch_getter,
    belong_together,
    check_client,
    is_cluster,
    max_connections,
    says,
    without_retries,
)
from countermand.stores.contract import DEFAULT_REVOCATION_TTL_MS, check_anchor, check_positive, check_sid

DEFAULT_KEY_PREFIX: Final = "caracal:revoked:sessions:"
REVOKED: Final = "1"
MARK_SCRIPT: Final = """\
for _, key in ipairs(KEYS) do
  local left = redis.call('PTTL', key)
  local stays = left == -1 or left >= tonumber(ARGV[2])
  if not (stays and redis.call('TYPE', key).ok == 'string') then
    redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
  end
end
return #KEYS
"""
"""Marks KEYS with ARGV[1] for ARGV[2] milliseconds, unless they stand for as long already: the later expiry wins."""
MARK_SHA: Final = hashlib.sha1(MARK_SCRIPT.encode(), usedforsecurity=False).hexdigest()

QUIET_S: Final = 1.0
"""So long after a line in the log comes no other that says whether Redis answers."""

_MAY_SHORTEN: Final = "marking again can shorten an entry"

_log = logging.getLogger(__name__)


class RedisRevocationStore:
    """A `RevocationStore` that many processes share through Redis. It waits: ask it in a thread.

    `redis` is redis-py's client, or any `RedisClient`; it stays as it is, see `without_retries`. Where Redis does not
    answer, or answers what cannot be, `is_revoked` says True; with `fail_closed=False` it says False, and revoked
    tokens pass. A server that let a question wait for nothing is left alone for a second: until then questions are
    answered as if it had failed again, at once. Where no script runs, marking again can shorten an entry.

    A guard asks `are_revoked`, and denies with 503 what is not known. Behind a wrapper that has only `is_revoked` it
    cannot tell an outage from a revocation: it denies with 401, and cuts what is in flight.

    Raises:
        InvalidValueError: `default_ttl_ms` is zero or negative.
        TypeError: an argument of the wrong type; a client for asyncio, or one without `get` and `set`.
    """

    def __init__(
        self,
        redis: RedisClient,
        key_prefix: str = DEFAULT_KEY_PREFIX,
        default_ttl_ms: int = DEFAULT_REVOCATION_TTL_MS,
        fail_closed: bool = True,
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        check_client(redis)
        if not isinstance(redis, RedisClient):
            raise TypeError(f"a Redis client has the methods get and set; {type(redis).__name__} has not")
        _check_type("key_prefix", key_prefix, str)
        check_positive("default_ttl_ms", default_ttl_ms)
        _check_type("fail_closed", fail_closed, bool)
        self._redis: RedisClient = without_retries(redis)
        self._get_batch = batch_getter(self._redis)
        self._scripting = _scripting(self._redis)
        self._key_prefix = key_prefix
        self._default_ttl_ms = default_ttl_ms
        self._fail_closed = fail_closed
        self._clock_s = clock_s
        self._breaker = CircuitBreaker(max_connections(self._redis), MAX_WAIT_S, clock_s)
        self._failures = 0
        self._said_failing = False
        self._quiet_until_s = float("-inf")

    @property
    def failures(self) -> int:
        """How many calls of `is_revoked` and `are_revoked` had no answer of Redis, or were not put to it at all."""
        return self._failures

    def is_revoked(self, sid: str) -> bool:
        """See `RevocationStore.is_revoked`."""
        check_sid(sid)
        if not sid:
            return False
        (answer,) = self._ask(self._get_one, [self._key_prefix + sid])
        return self._fail_closed if isinstance(answer, Exception) else answer

    def are_revoked(self, sids: Sequence[str]) -> list[bool]:
        """See `BatchRevocationStore.are_revoked`. One round trip; one for each node of a cluster."""
        if isinstance(sids, str):
            raise TypeError("anchors are a sequence of str, not one str")
        for sid in sids:
            check_sid(sid)
        keys = [self._key_prefix + sid for sid in sids if sid]
        answers = self._ask(self._get_batch, keys) if keys else []
        failure = _first_failure(answers)
        if failure is not None and self._fail_closed:
            raise StoreError(f"Redis does not answer ({type(failure).__name__})") from failure
        each = iter(answers)
        return [bool(sid) and next(each) is True for sid in sids]

    def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None:
        """See `RevocationStore.mark_revoked`.

        Raises:
            StoreError: Redis did not take it. It may be in force all the same, if only the answer was lost.
        """
        check_anchor(sid)
        if ttl_ms is None:
            ttl_ms = self._default_ttl_ms
        check_positive("ttl_ms", ttl_ms)
        self._mark([self._key_prefix + sid], ttl_ms)

    def mark_all(self, sids: Sequence[str]) -> None:
        """Mark each of `sids` for the default time: in one round trip, unless it is a cluster or no scripts run.

        Raises:
            StoreError: Redis did not take all of them.
            InvalidValueError, TypeError: as `mark_revoked`, and then none is marked.
        """
        if isinstance(sids, str):
            raise TypeError("anchors are a sequence of str, not one str")
        for sid in sids:
            check_anchor(sid)
        keys = [self._key_prefix + sid for sid in sids]
        for part in [[key] for key in keys] if is_cluster(self._redis) else [keys]:
            if part:
                self._mark(part, self._default_ttl_ms)

    def _mark(self, keys: Sequence[str], ttl_ms: int) -> None:
        try:
            self._breaker.call(lambda: self._mark_by_any_means(keys, ttl_ms), always=True)
        except Exception as error:
            raise StoreError(f"Redis did not take the revocation ({type(error).__name__})") from error

    def _mark_by_any_means(self, keys: Sequence[str], ttl_ms: int) -> None:
        scripting = self._scripting
        if scripting is None:
            return self._mark_plainly(keys, ttl_ms)
        try:
            answer = _run(scripting, keys, ttl_ms)
        except Exception as error:
            if not _runs_no_script(error):
                raise
            self._mark_plainly(keys, ttl_ms)
            if self._scripting is not None:
                self._scripting = None
                _log.warning("Redis runs no script for us: %s", _MAY_SHORTEN)
        else:
            if not isinstance(answer, int):
                raise _no_answer(answer)

    def _mark_plainly(self, keys: Sequence[str], ttl_ms: int) -> None:
        for key in keys:
            answer = self._redis.set(key, REVOKED, px=ttl_ms)
            if inspect.isawaitable(answer):
                raise _no_answer(answer)

    def _get_one(self, keys: Sequence[str]) -> Sequence[object]:
        return [self._redis.get(keys[0])]

    def _ask(self, get: Callable[[Sequence[str]], object], keys: Sequence[str]) -> Sequence[bool | Exception]:
        """Return for each key whether an entry stands there, or why that is not known."""
        answers: Sequence[bool | Exception]
        try:
            answers = self._breaker.call(lambda: _read_all(get(keys), len(keys)))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is no answer
            answers = [error] * len(keys)
        self._note(_first_failure(answers))
        return answers

    def _note(self, failure: Exception | None) -> None:
        """Count and log. What is not said because it is too soon is said with a later question, if it is still so."""
        fails = failure is not None
        self._failures += fails
        if fails is self._said_failing:
            return
        now_s = self._clock_s()
        if now_s < self._quiet_until_s:
            return
        self._said_failing, self._quiet_until_s = fails, now_s + QUIET_S
        if failure is None:
            _log.warning("the revocation store in Redis answers again")
        else:
            what = "everything counts as revoked" if self._fail_closed else "nothing counts as revoked"
            _log.error("the revocation store in Redis does not answer: %s (%s)", what, type(failure).__name__)


def _read_all(values: object, count: int) -> Sequence[bool | Exception]:
    if isinstance(values, list | tuple) and len(values) == count:
        return [_read(value) for value in values]
    raise _no_answer(values)


def _first_failure(answers: Sequence[bool | Exception]) -> Exception | None:
    return next((answer for answer in answers if isinstance(answer, Exception)), None)


def _read(value: object) -> bool | Exception:
    """Return whether an entry stands where `value` was found, or why that is not known."""
    if value is None:
        return False
    if isinstance(value, str | bytes):
        return True
    return value if isinstance(value, Exception) else _no_answer(value)


def _no_answer(value: object) -> TypeError:
    if inspect.iscoroutine(value):
        value.close()  # or Python warns that nobody awaited it
    return TypeError(f"{type(value).__name__} is no answer of Redis")


def _scripting(client: RedisClient) -> ScriptingRedisClient | None:
    if not isinstance(client, ScriptingRedisClient):
        return None
    if belong_together(client, "get", "set", "evalsha", "eval"):
        return client
    _log.warning("this Redis client has a `get` or `set` of its own: %s", _MAY_SHORTEN)
    return None


def _run(client: ScriptingRedisClient, keys: Sequence[str], ttl_ms: int) -> object:
    try:
        return client.evalsha(MARK_SHA, len(keys), *keys, REVOKED, ttl_ms)
    except Exception as error:
        if not says(error, "NOSCRIPT", "NoScriptError"):
            raise
    return client.eval(MARK_SCRIPT, len(keys), *keys, REVOKED, ttl_ms)


def _runs_no_script(error: Exception) -> bool:
    """Whether the server has no scripts, or none for this user; or refuses the user what the script does."""
    refusals = ("unknown command", "can't run this command")
    return says(error, "NOPERM", "NoPermissionError") or any(text in str(error).lower() for text in refusals)


def _check_type(name: str, value: object, wanted: type) -> None:
    if not isinstance(value, wanted):
        raise TypeError(f"{name} is a {wanted.__name__}, not {type(value).__name__}")
