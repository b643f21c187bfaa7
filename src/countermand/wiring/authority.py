"""An authority put together, run and served for as long as a block lasts."""

import fcntl
import ipaddress
import os
import stat
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from countermand.authority.access import Access
from countermand.authority.biscuits import BiscuitReader
from countermand.authority.database import Database
from countermand.authority.heartbeat import Heartbeat
from countermand.authority.keys import Keys, open_keys, write_secret
from countermand.authority.ledger import Ledger
from countermand.authority.minting import Policy
from countermand.authority.model import ReplicaReport, Role
from countermand.authority.postgres import PostgresDatabase
from countermand.authority.reader import LedgerReader
from countermand.authority.relay import Relay
from countermand.authority.replicas import OWN_KEY
from countermand.authority.service import Authority
from countermand.authority.source import Source, Stream
from countermand.authority.sqlite import SqliteDatabase
from countermand.authority.witnesses import LogWitness, Witness, Witnesses
from countermand.enforce.guard import Guard
from countermand.errors import AuthorityError, ConfigurationError, DataError
from countermand.log.checkpoint import Pin
from countermand.log.state import LogState
from countermand.replica.replica import MAX_STALENESS_S, Replica
from countermand.replica.report import Reporter
from countermand.server.app import create_app
from countermand.settings import AuthoritySettings, DataDir
from countermand.tokens.jwks import KeySet
from countermand.transport.http import check_url
from countermand.wiring import following_guard, new_replica_id, redis_log, system_clock
from countermand.wiring.serve import bound, serving
from countermand.wiring.tasks import beside


@dataclass(frozen=True, slots=True)
class RunningAuthority:
    """An authority that runs: its use cases, who may call them, its log, and what a replica is told to believe."""

    service: Authority
    access: Access
    heartbeat: Heartbeat
    log: LedgerReader
    keys: Keys
    issuer: str
    entries: int
    """How many the ledger had when this began: how many revocations were ever made."""

    @property
    def pin(self) -> Pin:
        """What a replica is told to believe."""
        return self.keys.pin

    def guard(self, audience: str, *, max_staleness_s: float = MAX_STALENESS_S) -> Guard:
        """Return a guard for this very process: it follows the ledger itself, is handed the keys, and reports."""
        replica = Replica(LogState(self.pin), system_clock, max_staleness_s=max_staleness_s, local=True)
        self.heartbeat.sign_soon()  # what was signed before the replica's start does not count for it
        reporter = Reporter(replica, new_replica_id, self._report)
        return following_guard(
            _OwnKeys(self.keys), replica, self.log, issuer=self.issuer, audience=audience, reporter=reporter
        )

    async def _report(self, said: Mapping[str, Any]) -> None:
        """Take the report of a replica in this process. What it has applied proves nothing that we have not signed."""
        own = {name: value for name, value in said.items() if name != "proof"}
        await self.service.replicas.report(OWN_KEY, ReplicaReport(**own))


class _OwnKeys:
    """The keys of mandates as the register has them: a `KeySource`."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def key_set(self, key_id: str | None) -> KeySet:
        """Return the keys of this moment; `key_id` makes no difference."""
        del key_id
        return self._keys.key_set


@asynccontextmanager
async def serve_authority(settings: AuthoritySettings) -> AsyncIterator[tuple[RunningAuthority, str]]:
    """Run the authority and serve it; give it and its URL.

    Raises:
        ConfigurationError: the address cannot be had.
        DataError: the data directory cannot be used.
    """
    with bound(settings.host, settings.port) as (listener, url):
        if settings.issuer is None and ipaddress.ip_address(listener.getsockname()[0]).is_unspecified:
            raise ConfigurationError("on every address no URL is ours: set COUNTERMAND_ISSUER to the one others use")
        async with run_authority(settings, url) as authority:
            app = create_app(authority.service, authority.access, authority.log, authority.issuer, os.urandom)
            async with serving(app, listener):
                try:
                    yield authority, url
                finally:
                    authority.heartbeat.close()  # ends every feed, so that the server has nothing to wait for
                    authority.service.receipts.close()  # and every wait


@asynccontextmanager
async def run_authority(settings: AuthoritySettings, url: str) -> AsyncIterator[RunningAuthority]:
    """Open the authority in the data directory and run it until the block ends. `url` is where others will find it.

    Raises:
        DataError: the directory cannot be used, or another process is using it.
        ConfigurationError: the issuer is no URL, or the root keys of Biscuits are none.
    """
    issuer = check_url(settings.issuer or url, "the issuer")
    read_biscuit = _biscuit_reader(settings)
    data = settings.data
    with _opened(data, alone=settings.database_url is None):
        database = _database(settings)
        try:
            await database.migrate()
            ledger = await Ledger.open(database, os.urandom(16))
            keys = await open_keys(database, data.keys, system_clock().wall_ms)
            witnesses = Witnesses(database, ledger, keys, _witnesses(settings), system_clock)
            heartbeat = Heartbeat(database, ledger, keys, system_clock, witnesses, os.urandom(16).hex())
            policy = Policy(issuer, settings.mandate_s, settings.retention_days)
            service = await Authority.start(
                database, ledger, heartbeat, keys, policy, system_clock, os.urandom, read_biscuit
            )
            access = Access(database, system_clock, os.urandom)
            await _tell_locals(data, access, keys.pin, url)
            with suppress(AuthorityError):  # the heartbeat will say why
                await heartbeat.sign()  # the witnesses are asked: nothing is answered before
            log = LedgerReader(ledger, heartbeat, keys)
            source = Source(ledger, heartbeat, log, service.descendants, keys)
            rotating = service.rotation.run(partial(_write_pin, data))
            relays = _relays(settings, source)
            keeping = service.cleaning.run(), service.registered.run()
            listening = database.listen(heartbeat.heard)
            async with (
                beside(heartbeat.run(), stop=heartbeat.close),
                beside(listening, rotating, access.run(), service.replicas.run(), *relays, *keeping),
            ):
                yield RunningAuthority(service, access, heartbeat, log, keys, issuer, await ledger.count())
        finally:
            await database.close()


def _relays(settings: AuthoritySettings, source: Source) -> list[Coroutine[Any, Any, None]]:
    """Return what publishes the log where the settings say."""
    if settings.redis_url is None:
        return []
    from countermand.transport.redis import Keys, open_writer  # noqa: PLC0415 - an extra

    keys = Keys.of()
    stream = Stream(keys.stream, settings.stream_keys)
    return [Relay(source, stream, partial(open_writer, settings.redis_url, keys), system_clock).run()]


def _biscuit_reader(settings: AuthoritySettings) -> BiscuitReader | None:
    """Return what verifies Biscuits by the root keys that the settings name. Raises: ConfigurationError."""
    if settings.biscuit_keys is None:
        return None
    try:
        from countermand.tokens.biscuit import RootKeys, parse_biscuit, verify_biscuit  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error.name} is not installed: pip install 'countermand[biscuit]'") from error
    keys = RootKeys.parse(settings.biscuit_keys)
    return lambda token: verify_biscuit(parse_biscuit(token), keys)


def _database(settings: AuthoritySettings) -> Database:
    """Return the database that the settings name. Raises: ConfigurationError."""
    if settings.database_url is not None:
        return PostgresDatabase(settings.database_url)
    return SqliteDatabase(settings.data.database)


def _witnesses(settings: AuthoritySettings) -> list[Witness]:
    """Return who is asked whether the ledger is whole. Raises: ConfigurationError."""
    if settings.redis_url is None:
        return []
    log = redis_log(settings.redis_url)  # what cannot work is said at the start
    from countermand.transport.redis import Keys, open_writer  # noqa: PLC0415 - an extra

    return [LogWitness("redis", partial(open_writer, settings.redis_url, Keys.of()), log)]


@contextmanager
def _opened(data: DataDir, *, alone: bool) -> Iterator[None]:
    """Hold the data directory; for this process alone, where the database is a file in it.

    SQLite could share that file. The memory of the newest entries, and of who leads, could not.
    """
    with ExitStack() as stack:
        try:
            data.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if stat.S_IMODE(data.path.stat().st_mode) & 0o077:
                raise DataError(f"{data.path} is open to others than its owner: chmod 700 {data.path}")
            lock = stack.enter_context(data.lock.open("w"))
            fcntl.flock(lock, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process is using {data.path}") from None
        except OSError as error:
            raise DataError(f"{data.path} cannot be used: {error.strerror}") from error
        yield


async def _tell_locals(data: DataDir, access: Access, pin: Pin, url: str) -> None:
    """Leave in the data directory what the local command line and replicas on this machine need."""
    for role, path in ((Role.ADMINISTRATOR, data.admin_key), (Role.REPLICA, data.replica_key)):
        await access.ensure(role, "made at first start", partial(_write_line, path))
    _write_pin(data, pin)
    _write_line(data.url, url)


def _write_pin(data: DataDir, pin: Pin) -> None:
    _write_line(data.pin, str(pin))


def _write_line(path: Path, line: str) -> None:
    write_secret(path, f"{line}\n".encode())
