"""The replica: answers from memory, never waits, and refuses when it can no longer know.

Source: docs/protocol.md, "Staleness".
"""

import logging
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from countermand.errors import ConfigurationError, ReadOnlyStoreError
from countermand.log.anchor import Anchors, Kind, Rev, anchor_key
from countermand.log.codec import to_base64
from countermand.log.freshness import Freshness, Instant
from countermand.log.state import CLOCK_TOLERANCE_MS, LogState
from countermand.log.verdict import CLEAR, Unknown, Verdict
from countermand.stores.contract import check_sid

MAX_STALENESS_S: Final = 30.0
WARN_STALENESS_S: Final = 5.0
STARTING: Final = "starting"
STALE: Final = "stale"

_FLAT_KINDS = tuple(kind for kind in Kind if kind not in {Kind.SUBJECT, Kind.CUTOFF})
"""Without subjects: the name of one could be somebody's session id, and ending one must not end the other."""
_BEFORE_ANY_CUTOFF_MS = 2**63 - 1
"""For a look-up that began while there was no cutoff: by one that comes meanwhile, nothing was issued in the future."""
_HASHED = re.compile(r"sha256:([0-9a-f]{64})")  # what `log.wire.flat_id` makes of a foreign anchor

_log = logging.getLogger(__name__)


class ReplicaState(StrEnum):
    """What a replica is good for."""

    STARTING = "starting"
    """It has not heard from the authority since its own start, and refuses."""
    FRESH = "fresh"
    STALE = "stale"
    """It has not heard for longer than it should, and still answers."""
    REFUSED = "refused"
    """It can no longer know, and refuses all that it does not know to be revoked."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A replica at one moment. `staleness_ms` is None until it has heard; `error` is the code of the last refusal."""

    state: ReplicaState
    rev: Rev
    entries: int
    staleness_ms: int | None
    error: str | None


class Replica:
    """What is revoked, and how old that knowledge is. Strict, unless `best_effort` is asked for.

    It is a `RevocationStore` that only answers, and `is_revoked` says True where it cannot know. Any thread may ask;
    one follower writes.

    Args:
        state: what verifies and holds the log.
        clock: gives the present instant.
        max_staleness_s: above this age, less the clock tolerance, it refuses; over 2 seconds.
        local: in the authority's own process, whose clock is its own: ready without waiting out the tolerance.
        best_effort: let pass what it cannot know, with a warning each second. It lowers the guarantee to none.
    """

    blocking = False

    def __init__(
        self,
        state: LogState,
        clock: Callable[[], Instant],
        *,
        max_staleness_s: float = MAX_STALENESS_S,
        local: bool = False,
        best_effort: bool = False,
    ) -> None:
        self._state = state
        self._clock = clock
        self._limit_ms = _limit_ms(max_staleness_s)
        self._warn_ms = min(WARN_STALENESS_S * 1000, self._limit_ms)
        self._ready_at_ms = clock().wall_ms + (0 if local else CLOCK_TOLERANCE_MS)
        self._best_effort = best_effort
        self._warned = ReplicaState.STARTING
        self._warn_again_ms = 0
        self.error: str | None = None
        if best_effort:
            _log.warning("this replica is best effort: when it cannot know, it lets pass")

    @property
    def state(self) -> LogState:
        """What verifies and holds the log. Only the follower writes to it."""
        return self._state

    def check(self, anchors: Anchors, max_staleness_s: float | None = None) -> Verdict:
        """Say whether a token with these anchors is revoked. What is known to be revoked is, however old the knowledge.

        `max_staleness_s` may only tighten this replica's own. The order closes a race: freshness is read first and the
        clock last, so a thread that sleeps in between finds its knowledge old.

        Raises:
            ConfigurationError: a `max_staleness_s` that bounds nothing.
        """
        state = self._state
        freshness = state.freshness
        found = state.find(anchors, self._clock().wall_ms if state.has_cutoffs else _BEFORE_ANY_CUTOFF_MS)
        if found is not None:
            return found
        limit_ms = self._limit_ms if max_staleness_s is None else min(self._limit_ms, _limit_ms(max_staleness_s))
        return self._clear_if(freshness, limit_ms)

    def is_revoked(self, sid: str) -> bool:
        """Whether the anchor that documented consumers see as `sid` is revoked; True where that cannot be known.

        A bare id says nothing of when its token was issued: cutoffs are not asked here.
        """
        check_sid(sid)
        if not sid:
            return False
        freshness = self._state.freshness
        if any(self._state.seq_of(key) is not None for key in _flat_keys(sid)):
            return True
        return self._clear_if(freshness, self._limit_ms) is not CLEAR

    def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None:  # noqa: ARG002 - the documented signature
        """Raise ReadOnlyStoreError: revoke at the authority, and it will be revoked everywhere."""
        raise ReadOnlyStoreError("a replica follows the authority: revoke there")

    def status(self) -> ReplicaStatus:
        """Return what this replica is good for now."""
        return ReplicaStatus(self._judge(), self._state.rev, len(self._state), self.staleness_ms(), self.error)

    def staleness_ms(self) -> int | None:
        """Return how old what is known is now; None until this replica has heard."""
        freshness = self._state.freshness
        return freshness.staleness_ms(self._clock()) if freshness.applied_at_ms > 0 else None

    def report(self) -> dict[str, object]:
        """Return what the authority is told, as `POST /v1/replicas` takes it."""
        rev = self._state.rev
        return {
            "generation": rev.generation,
            "seq": rev.seq,
            "keyset": self._state.pin.version,
            "strict": not self._best_effort,
            "max_staleness_ms": int(self._limit_ms) + CLOCK_TOLERANCE_MS,
            "at_ms": self._clock().wall_ms,
            "proof": to_base64(self._state.proof or b""),
        }

    def watch(self) -> None:
        """Log when this replica becomes stale, refuses, or is fresh again. The follower calls it, often."""
        state = self._judge()
        if state is self._warned:
            return
        self._warned = state
        level = logging.INFO if state is ReplicaState.FRESH else logging.WARNING
        _log.log(level, "the replica is %s", state, extra={"error": self.error})

    def _judge(self) -> ReplicaState:
        freshness = self._state.freshness
        if freshness.applied_at_ms < self._ready_at_ms:
            return ReplicaState.STARTING
        staleness_ms = freshness.staleness_ms(self._clock())
        if staleness_ms > self._limit_ms:
            return ReplicaState.REFUSED
        return ReplicaState.STALE if staleness_ms > self._warn_ms else ReplicaState.FRESH

    def _clear_if(self, freshness: Freshness, limit_ms: float) -> Verdict:
        ready = freshness.applied_at_ms >= self._ready_at_ms
        if ready and freshness.staleness_ms(self._clock()) <= limit_ms:
            return CLEAR
        reason = STALE if ready else STARTING
        if self._best_effort:
            self._warn_of(reason)
            return CLEAR
        return Unknown(reason)

    def _warn_of(self, reason: str) -> None:
        boot_ms = self._clock().boot_ms
        if boot_ms >= self._warn_again_ms:  # a call in flight asks several times a second
            self._warn_again_ms = boot_ms + 1000
            _log.warning("let pass without knowing: %s", reason)


def _limit_ms(max_staleness_s: float) -> float:
    """Return the age from which to refuse: the bound, less what the clocks may differ. Raises: ConfigurationError."""
    limit_ms = max_staleness_s * 1000 - CLOCK_TOLERANCE_MS
    if not CLOCK_TOLERANCE_MS < limit_ms < math.inf:
        raise ConfigurationError(
            "max_staleness is over 2 seconds, for a checkpoint comes every second and clocks may differ; and finite"
        )
    return limit_ms


def _flat_keys(sid: str) -> Iterator[bytes]:
    """Yield every key under which an anchor with this flat id may be held."""
    for kind in _FLAT_KINDS:
        yield anchor_key(kind, "", sid)
    if hashed := _HASHED.fullmatch(sid):
        for kind in _FLAT_KINDS:
            yield kind.to_bytes() + bytes.fromhex(hashed[1])
