"""URL to client: the one Redis that holds the log now, found anew for every connection.

    redis://    rediss://    unix://             that server
    redis+sentinel://host,host/service[/db]      the master that most of these Sentinels name
    redis+cluster://host,host                    the master of the log's slot, by most of these nodes

All keys of a log are in one slot, so that one server is all it takes. Masters alone are asked: a replica of Redis may
lag, take no writes, and be cut off without knowing. Here is one attempt and our own time-outs: what redis-py would
retry costs seconds, and whoever follows or publishes tries again by itself, from the beginning.
Source: docs/protocol.md, "Redis"; redis.io/docs/latest/develop/reference/sentinel-clients;
redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec, "MOVED Redirection".
"""

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlencode

import redis.asyncio as aioredis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from countermand.errors import (
    BadAnswerError,
    ConfigurationError,
    CountermandError,
    RefusedError,
    TransportError,
    UnreachableError,
)
from countermand.transport.http import is_loopback

CONNECT_S: Final = 2.0
"""For a connection that can be used, its handshakes included."""
ANSWER_S: Final = 5.0
"""For one answer, over what we ask Redis to wait."""
BLOCK_MS: Final = 1_000
FIND_S: Final = 1.0
"""For those who are asked where the log is, all together: a follower gives up where it hears nothing for 3 s."""
SENTINEL_PORT: Final = 26_379
REDIS_PORT: Final = 6_379
SCHEMES: Final = (
    *("redis", "redis+sentinel", "redis+cluster"),
    *("rediss", "rediss+sentinel", "rediss+cluster", "unix"),
)

_OURS: Final[dict[str, Any]] = {
    "socket_connect_timeout": CONNECT_S,
    "socket_timeout": None,  # see _Bounded
    "retry": Retry(NoBackoff(), 0),
    "retry_on_timeout": False,
    "decode_responses": False,
    "encoding": "utf-8",
}
"""Options that no URL changes."""
_FULL: Final = "OOM command not allowed"  # inside a script, where Redis 6.2 and 7.0 have no code for either
_DENIED: Final = ("can't run this command", "can't access at least one of the keys")
_CHANGES_OVER: Final = (AskError, ClusterDownError, ReadOnlyError, TryAgainError)  # a MovedError is an AskError

Client: TypeAlias = Any  # redis-py's own types are unions of what every version of the protocol may answer
_Options: TypeAlias = dict[str, Any]
_Address: TypeAlias = tuple[str, int]


@contextmanager
def our_errors() -> Iterator[None]:
    """Raise whatever Redis or the network raised as an error of our tree.

    Redis's own texts may name users and keys: only their first word, which is a code, is told.
    """
    try:
        yield
    except CountermandError:
        raise
    except (AuthenticationError, NoPermissionError) as error:
        raise RefusedError(f"redis refused our credential: {type(error).__name__}") from error
    except _CHANGES_OVER as error:
        raise UnreachableError(f"redis is changing over: {type(error).__name__}") from error
    except ResponseError as error:
        raise _refusal(error) from error
    except (RedisError, OSError, TimeoutError) as error:
        raise UnreachableError(_why(error)) from error
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise BadAnswerError(f"redis answered in a shape that it never has: {type(error).__name__}") from error


def _refusal(error: ResponseError) -> TransportError:
    if isinstance(error, OutOfMemoryError) or _FULL in str(error):
        return BadAnswerError("redis is full: it has reached its maxmemory")
    if any(sentence in str(error) for sentence in _DENIED):
        return RefusedError("redis refused our user a command of the script")
    return BadAnswerError(f"redis answered with an error: {str(error).partition(' ')[0][:32]}")


def _why(error: Exception) -> str:
    """Return what stands behind an error of redis-py's, which has one name for all that goes wrong with TLS."""
    why = error.__context__
    if isinstance(why, ssl.SSLCertVerificationError):
        return f"redis shows a certificate that does not hold: {why.verify_message}"
    if isinstance(why, ssl.SSLError):
        return f"there is no TLS with redis: {why.reason}"
    if isinstance(why, FileNotFoundError | PermissionError):
        return "a file or a socket that the URL of redis names cannot be opened"
    return f"redis did not answer: {type(error).__name__}"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """Where the log is, as a URL says it: how to connect to its server, and whom to ask which server that is.

    Without `guides` it is `server` itself. Guides are Sentinels of `service`, or without one, nodes of a cluster.
    """

    server: _Options = field(repr=False)
    guides: tuple[_Options, ...] = field(default=(), repr=False)
    service: str = ""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Return what `url` says; what it says of time-outs and retries is not taken.

        Raises:
            ConfigurationError: a URL that cannot be used. It may hold a password, which is told to nobody.
        """
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in SCHEMES:
            raise ConfigurationError(f"the URL of Redis begins with one of {', '.join(SCHEMES)}, and ://")
        try:
            return cls._asking(scheme, rest) if "+" in scheme else cls(_options(url))
        except (ValueError, TypeError, RedisError):
            raise ConfigurationError(f"this URL cannot be used, of a Redis at {scheme}://") from None

    @classmethod
    def _asking(cls, scheme: str, rest: str) -> Self:
        """Return what stands behind a scheme whose hosts are asked. Raises: ValueError and what redis-py raises."""
        base, _, kind = scheme.partition("+")
        place, _, query = rest.partition("?")
        authority, _, path = place.partition("/")
        credentials, at, listed = authority.rpartition("@")
        hosts = listed.split(",")
        if kind == "cluster":
            server = _options(f"{base}://{credentials}{at}/{_no_database(path)}?{query}")
            return cls(server, tuple(server | _place(base, host, REDIS_PORT) for host in hosts))
        service, db = _service(path)
        of_sentinels, of_servers = _split(query)
        server = _options(f"{base}://{credentials}{at}/{db}?{of_servers}")
        sentinel = _options(f"{base}://{of_sentinels}/?{of_servers}") | {"db": 0}
        return cls(server, tuple(sentinel | _place(base, host, SENTINEL_PORT) for host in hosts), service)

    @property
    def is_exposed(self) -> bool:
        """Whether passwords, and what is revoked, travel to another machine in the clear."""
        places = self.guides or (self.server,)
        return any(
            "connection_class" not in place and not is_loopback(place.get("host", "localhost")) for place in places
        )

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator[Client]:
        """Give a client of the master that holds `key`. It is connected, and what it raises is Redis's own.

        Raises: TransportError, where there is no such master, or it does not let us in.
        """
        async with _client(await self._find(key)) as client:
            with our_errors():
                async with asyncio.timeout(CONNECT_S):
                    pool = client.connection_pool
                    await pool.release(await pool.get_connection())
            yield client

    async def has_moved(self, client: Client, key: str) -> bool:
        """Whether most Sentinels name another master than that of `client`.

        A master that they cannot reach is replaced, and hears nothing of it. In a cluster it stops by itself.
        """
        if not self.service:
            return False
        try:
            votes = await self._votes(key)
        except TransportError:  # they may be down, and the master well
            return False
        here = client.connection_pool.connection_kwargs
        named, count = votes.most_common(1)[0]
        return named != (here["host"], here["port"]) and 2 * count > len(self.guides)

    async def _find(self, key: str) -> _Options:
        """Return how to connect to the master that holds `key`. Raises: TransportError."""
        if not self.guides:
            return self.server
        host, port = (await self._votes(key)).most_common(1)[0][0]
        return self.server | {"host": host, "port": port}

    async def _votes(self, key: str) -> Counter[_Address]:
        """Return how many guides name which master: all who answer in FIND_S, or until more than half agree.

        One alone may have been cut off from the others, and name a master that they have replaced.

        Raises: TransportError, where none names any.
        """
        tasks = [asyncio.create_task(self._ask(guide, key)) for guide in self.guides]
        votes: Counter[_Address] = Counter()
        failure: TransportError = UnreachableError("nobody answered who was asked for redis's master")
        with suppress(TimeoutError):
            async with _cancelled_at_end(tasks), asyncio.timeout(FIND_S):
                for answer in asyncio.as_completed(tasks):
                    try:
                        votes[await answer] += 1
                    except TransportError as error:
                        failure = error
                    if 2 * max(votes.values(), default=0) > len(tasks):
                        break
        if not votes:
            raise failure
        return votes

    async def _ask(self, guide: _Options, key: str) -> _Address:
        """Return whom `guide` names. Raises: TransportError."""
        try:
            with our_errors():
                async with _client(guide) as client:
                    if self.service:
                        return await _ask_sentinel(client, self.service)
                    return await _ask_node(client, guide, key)
        except ValueError as error:  # from what redis-py, or we, cannot parse
            raise BadAnswerError("redis named a master that cannot be read") from error


class _Bounded(aioredis.Redis):
    """A client that waits for an answer no longer than ANSWER_S, connection and all.

    redis-py's own `socket_timeout` would swallow a cancellation that comes while it sends: it uses `asyncio.wait_for`,
    which in Python 3.11 returns where it should raise (python/cpython issue 86296).
    """

    async def execute_command(self, *args: Any, answer_s: float = ANSWER_S, **options: Any) -> Any:
        async with asyncio.timeout(answer_s + BLOCK_MS / 1000):
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


@asynccontextmanager
async def _client(options: _Options) -> AsyncIterator[Client]:
    """Give a client that has not connected yet, and close it at the end."""
    client = _Bounded.from_pool(aioredis.ConnectionPool(**options))
    try:
        yield client
    finally:
        closing = asyncio.create_task(_close(client))
        try:
            await asyncio.wait([closing])
        finally:  # redis-py leaves connections open if it is cancelled while it closes them: let it end first
            await asyncio.wait([closing])


async def _close(client: Client) -> None:
    """Close, whatever the server makes of that; it takes no longer than CONNECT_S."""
    with suppress(RedisError, OSError):
        await client.aclose()


def _options(url: str) -> _Options:
    """Return what redis-py reads in `url`, and is content with. Raises: ValueError, TypeError, RedisError."""
    options: _Options = {**parse_url(url), **_OURS}
    pool: Client = aioredis.ConnectionPool(**options)
    pool.make_connection()
    return options


def _place(base: str, host: str, default_port: int) -> _Options:
    named = parse_url(f"{base}://{host}")
    if named.keys() - {"host", "port", "connection_class"} or "host" not in named:
        raise ValueError("no host, or more than one with a port")
    return {"host": named["host"], "port": named.get("port", default_port)}


def _split(query: str) -> tuple[str, str]:
    """Return the Sentinels' own credentials, as in a URL, and all other options."""
    options = parse_qsl(query)
    own = {name: value for name, value in options if name in {"sentinel_username", "sentinel_password"}}
    others = urlencode([(name, value) for name, value in options if name not in own])
    user, password = (quote(own.get(f"sentinel_{name}", ""), safe="") for name in ("username", "password"))
    return (f"{user}:{password}@" if own else ""), others


def _service(path: str) -> tuple[str, str]:
    service, _, db = path.partition("/")
    service = unquote(service)
    if not service or not (db == "" or (db.isascii() and db.isdigit())):
        raise ValueError("the path of Sentinels is the name of a service, and perhaps a database")
    return service, db


def _no_database(path: str) -> str:
    if path not in {"", "0"}:
        raise ValueError("a cluster has no other database than 0")
    return ""


async def _ask_sentinel(client: Client, service: str) -> _Address:
    match await client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service):
        case [bytes(host), bytes(port)]:
            return host.decode(), int(port)
    raise UnreachableError("the Sentinels know no master by this name")


async def _ask_node(client: Client, node: _Options, key: str) -> _Address:
    """Return who has the slot of `key`: the node itself if it answers, else the one that it points to."""
    try:
        await client.xrevrange(key, count=1)
    except MovedError as moved:
        return moved.host or node["host"], moved.port  # without a host it is where it was asked
    except AskError:  # the slot is on its way to another node, and is still here
        pass
    return node["host"], node["port"]


@asynccontextmanager
async def _cancelled_at_end(tasks: Sequence[asyncio.Task[Any]]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)  # not `gather`: it would cancel them once more, while they close, if it is cancelled
