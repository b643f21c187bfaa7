"""Settings to objects to lifetimes: the only place that chooses implementations, and where `connect` lives.

Here is what a resource server needs; what an authority needs on top (the `server` extra) is in `wiring.authority`.
"""

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from countermand.enforce.decision import NOTHING_REQUIRED, Requirements
from countermand.enforce.forks import renew_in_children
from countermand.enforce.guard import Guard
from countermand.enforce.revocations import AnyRevocations
from countermand.errors import ConfigurationError, MalformedError
from countermand.log.checkpoint import Pin
from countermand.log.entry import Entry
from countermand.log.freshness import Instant
from countermand.log.ports import LogReader
from countermand.log.state import LogState
from countermand.replica.follow import Follower
from countermand.replica.replica import MAX_STALENESS_S, Replica
from countermand.replica.report import Reporter
from countermand.settings import REVOKED_IDS, replica_credentials, replica_pin, revoked_ids
from countermand.stores.static import StaticRevocationStore
from countermand.tokens.jwks import JwksCache, KeySet, KeySource
from countermand.transport.http import HttpLog, check_url, fetch_keys, is_exposed
from countermand.wiring.tasks import beside

if TYPE_CHECKING:  # extras
    from countermand.enforce.biscuits import Biscuits
    from countermand.transport.redis import RedisLog

_OF_REDIS: Final = ("redis", "unix:")  # how its URLs begin; `redis_log` says which there are
_BOOT_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # macOS's monotonic clock counts suspend
_wall_ns, _clock_ns = time.time_ns, time.clock_gettime_ns  # every decision reads them

_log = logging.getLogger(__name__)


def system_clock() -> Instant:
    """Return the present instant by this machine's clocks."""
    return Instant(_wall_ns() // 1_000_000, _clock_ns(_BOOT_CLOCK) // 1_000_000)


class IssuerKeys:
    """The keys that an issuer publishes, fetched over HTTP; one cache for each event loop that asks."""

    def __init__(self, issuer: str) -> None:
        self._issuer = check_url(issuer, "the issuer")
        self._caches: WeakKeyDictionary[asyncio.AbstractEventLoop, JwksCache] = WeakKeyDictionary()
        if is_exposed(self._issuer):
            _log.warning("the issuer %s is not on https: whoever is on the way can change its keys", self._issuer)

    async def key_set(self, key_id: str | None) -> KeySet:
        """See `KeySource`."""
        loop = asyncio.get_running_loop()
        cache = self._caches.get(loop)
        if cache is None:
            cache = self._caches[loop] = JwksCache(lambda: fetch_keys(self._issuer), time.monotonic)
        return await cache.key_set(key_id)


_issuers: dict[str, IssuerKeys] = {}


def keys_of(issuer: str) -> IssuerKeys:
    """Return the keys of `issuer`, the same object each time: warnings and fetches are shared."""
    if issuer not in _issuers:
        _issuers[issuer] = IssuerKeys(issuer)
    return _issuers[issuer]


class Following:
    """A follower in a task of its own, in the event loop that first asks for it: a replica has one writer.

    What reports on the replica, if anything does, runs beside it and ends with it.
    """

    def __init__(self, follower: Follower, reporter: Reporter | None = None) -> None:
        self._follower = follower
        self._reporter = reporter
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """See `Renewable`."""
        self._task: asyncio.Task[None] | None = None
        self._starting = threading.Lock()

    @property
    def running(self) -> bool:
        """Whether it follows, in an event loop that runs."""
        task = self._task
        return task is not None and not task.done() and task.get_loop().is_running()

    async def start(self) -> None:
        """Begin to follow, unless that has begun in an event loop that runs."""
        with self._starting:
            if not self.running:
                self._task = asyncio.create_task(self._run(), name="countermand follower")
                self._task.add_done_callback(_say_why)

    async def _run(self) -> None:
        async with beside(*([self._reporter.run()] if self._reporter else [])):
            await self._follower.run()

    async def aclose(self) -> None:
        """Stop following, if this event loop does, and wait until it has stopped."""
        task = self._task
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            self._task = None
            task.cancel()
            await asyncio.wait([task])


def _say_why(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("the follower failed", exc_info=error)


def guard(
    revocations: AnyRevocations,
    *,
    audience: str,
    issuer: str | None = None,
    biscuits: "Biscuits | None" = None,
    required_scopes: Sequence[str] = (),
) -> Guard:
    """Return a guard that asks `revocations`: a store, which nothing has to be run for; see `connect` for the rest.

    What a store does not know it does not refuse, and it says of no entry how old its knowledge is: that a replica can.

    Raises:
        ConfigurationError: something is missing, or cannot work.
    """
    return Guard(
        None if issuer is None else keys_of(issuer),
        revocations,
        issuer=issuer or "",
        audience=audience,
        biscuits=biscuits,
        clock_s=time.time,
        random=os.urandom,
        requirements=Requirements.of(required_scopes=required_scopes),
    )


def connect(  # noqa: PLR0913 - one for each option
    url: str,
    *,
    audience: str,
    issuer: str | None = None,
    biscuits: "Biscuits | None" = None,
    api_key: str | None = None,
    pin: str | None = None,
    max_staleness_s: float = MAX_STALENESS_S,
    required_scopes: Sequence[str] = (),
    best_effort: bool = False,
) -> Guard:
    """Return a guard that follows the authority at `url`, and accepts mandates for `audience`, or Biscuits, or both.

    It starts with the application that it protects (`guard.asgi(app)`), or with `async with guard`.

    Args:
        url: where the log is followed: the authority, or a Redis on which it publishes (`redis://`,
            `redis+sentinel://`, `redis+cluster://`; over TLS `rediss`).
        audience: which `aud` this resource server answers to.
        issuer: who mints the mandates; the keys are at `<issuer>/.well-known/jwks.json`. Left out: none are accepted.
        biscuits: whose Biscuits are accepted, and what they may do (`countermand.Biscuits`). Left out: none are.
        api_key: a key of role replica, for the authority; COUNTERMAND_API_KEY if left out.
        pin: log id and checkpoint key; COUNTERMAND_PIN if left out.
        max_staleness_s: refuse above this age of knowledge; over 2 seconds.
        required_scopes: what every token must hold.
        best_effort: let pass what cannot be known. It ends the guarantee, and logs.

    Raises:
        ConfigurationError: something is missing, or cannot work.
    """
    (guard,) = connect_all(
        url,
        issuer=issuer,
        biscuits=biscuits,
        audiences={audience: Requirements.of(required_scopes=required_scopes)},
        api_key=api_key,
        pin=pin,
        max_staleness_s=max_staleness_s,
        best_effort=best_effort,
    )
    return guard


def connect_all(
    url: str,
    *,
    audiences: Mapping[str, Requirements],
    issuer: str | None = None,
    biscuits: "Biscuits | None" = None,
    api_key: str | None = None,
    pin: str | None = None,
    max_staleness_s: float = MAX_STALENESS_S,
    best_effort: bool = False,
) -> list[Guard]:
    """Return a guard for each audience, as `connect` does; they share one replica, and what follows the log.

    Whichever starts, starts it for all, and so with the end. Raises: ConfigurationError.
    """
    log, believed = _log_at(url, api_key, pin)
    replica = Replica(LogState(believed), system_clock, max_staleness_s=max_staleness_s, best_effort=best_effort)
    reporter = Reporter(replica, new_replica_id, log.report) if isinstance(log, HttpLog) else None
    keys = None if issuer is None else keys_of(issuer)
    return _following_guards(keys, replica, log, issuer or "", audiences, reporter, biscuits)


def _log_at(url: str, api_key: str | None, pin: str | None) -> tuple[LogReader, Pin]:
    """Return the log at `url`, and what is believed of it. Raises: ConfigurationError."""
    if url.startswith(_OF_REDIS):
        return redis_log(url), parse_pin(replica_pin(pin))
    api_key, pin = replica_credentials(api_key, pin)
    log = HttpLog(url, api_key)
    if is_exposed(url):
        _log.warning("the authority %s is not on https: whoever is on the way can read the API key", url)
    return log, parse_pin(pin)


def new_replica_id() -> str:
    """Return an id for a replica that begins now."""
    return f"rep_{os.urandom(16).hex()}"


def redis_log(url: str) -> "RedisLog":
    """Return the log that an authority publishes on the Redis at `url`. Raises: ConfigurationError."""
    try:
        from countermand.transport.redis import Keys, RedisLog  # noqa: PLC0415 - an extra
        from countermand.transport.redis_client import RedisUrl  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error.name} is not installed: pip install 'countermand[redis]'") from error
    if RedisUrl.parse(url).is_exposed:
        _log.warning("redis is not reached over TLS: whoever is on the way reads its password, and can stop the log")
    return RedisLog(url, Keys.of())


def following_guard(
    keys: KeySource,
    replica: Replica,
    log: LogReader,
    *,
    issuer: str,
    audience: str,
    reporter: Reporter | None = None,
) -> Guard:
    """Return a guard that keeps `replica` on `log`, and hears of what is applied, as `reporter` does.

    Raises: ConfigurationError.
    """
    (guard,) = _following_guards(keys, replica, log, issuer, {audience: NOTHING_REQUIRED}, reporter)
    return guard


def _following_guards(
    keys: KeySource | None,
    replica: Replica,
    log: LogReader,
    issuer: str,
    audiences: Mapping[str, Requirements],
    reporter: Reporter | None = None,
    biscuits: "Biscuits | None" = None,
) -> list[Guard]:
    def on_applied(entries: Sequence[Entry]) -> None:
        for guard in guards:
            guard.on_applied(entries)
        if reporter is not None:
            reporter.on_applied(entries)

    following = Following(follower(replica, log, on_applied), reporter)
    guards = [
        Guard(
            keys,
            replica,
            issuer=issuer,
            audience=audience,
            biscuits=biscuits,
            clock_s=time.time,
            random=os.urandom,
            requirements=requirements,
            background=following,
        )
        for audience, requirements in audiences.items()
    ]
    return guards


def follower(
    replica: Replica, log: LogReader, on_applied: Callable[[Sequence[Entry]], None] = lambda _entries: None
) -> Follower:
    """Return what keeps `replica` on `log`, by this machine's clock."""
    return Follower(replica, log, system_clock, random.random, on_applied=on_applied)


def static_revocations(environ: Mapping[str, str] | None = None) -> StaticRevocationStore:
    """Return the store of what COUNTERMAND_REVOKED_IDS lists, or the file that COUNTERMAND_REVOKED_IDS_FILE names.

    `environ` is read in the place of this process's environment.

    Raises:
        ConfigurationError: neither is set, or both are; or the list cannot be read.
    """
    listed = revoked_ids(environ)
    if isinstance(listed, Path):
        return StaticRevocationStore.from_file(listed)
    return StaticRevocationStore.parse(listed, source=REVOKED_IDS)


def parse_pin(text: str) -> Pin:
    """Return the pin that `text` writes. Raises: ConfigurationError."""
    try:
        return Pin.parse(text)
    except MalformedError as error:
        raise ConfigurationError(f"the pin cannot be used: {error}") from error
