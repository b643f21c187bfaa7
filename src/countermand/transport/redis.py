"""The log over Redis Streams: entries beside messages of others on one stream, checkpoints on another, and a snapshot.

Redis is a way and no record. Whatever it loses, repeats, reorders or is made to say is noticed by those who verify:
here nothing is believed. Every wait is bounded, far below any staleness that could be allowed.
Source: docs/protocol.md, "Redis"; redis.io/docs/latest/develop/data-types/streams.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from countermand.errors import (
    BadAnswerError,
    ConfigurationError,
    LogError,
    MalformedError,
    RefusedError,
    UnreachableError,
)
from countermand.log import codec
from countermand.log.chain import Candidate
from countermand.log.checkpoint import CHECKPOINT_BYTES, parse_checkpoint
from countermand.log.ports import Batch, Written
from countermand.log.snapshot import HEADER_BYTES
from countermand.log.wire import REVOCATION_STREAM, SEQ_FIELD, from_fields

CONNECT_S: Final = 2.0
ANSWER_S: Final = 5.0
"""For one answer, over what we ask Redis to wait."""
BLOCK_MS: Final = 1_000
PAGE: Final = 1_000
CHUNK_BYTES: Final = 1_048_576
QUIET_S: Final = 2.5
"""Checkpoints come every second: without one for so long, the cursors are dropped."""
CHECKPOINT_FIELD: Final = "cm_checkpoint"

_log = logging.getLogger(__name__)

_BEGINNING: Final = b"0-0"
_Messages: TypeAlias = list[tuple[bytes, dict[bytes, bytes]]]
_Client: TypeAlias = Any  # its own types are unions of what every version of the protocol may answer


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of one log's keys, all in one slot of a cluster."""

    stream: str
    checkpoints: str
    snapshot: str

    @classmethod
    def of(cls, stream: str = REVOCATION_STREAM) -> "Keys":
        """Return the names beside `stream`. Raises: ConfigurationError, for braces that are not one whole tag."""
        tag = stream[1:-1] if stream.startswith("{") and stream.endswith("}") else stream
        if not tag or "{" in tag or "}" in tag:
            raise ConfigurationError("a stream's name holds no braces, or is one whole tag in braces")
        return cls(stream, f"{{{tag}}}.checkpoints", f"{{{tag}}}.snapshot")


@asynccontextmanager
async def open_redis(url: str) -> AsyncIterator[_Client]:
    """Give a client that tries once and waits no longer than is said above. What it raises is Redis's own.

    Raises:
        ConfigurationError: a URL that cannot be used.
    """
    async with _client_of(url) as client:
        yield client


def _client_of(url: str) -> _Client:
    """Return a client that has not connected yet. What the URL says of time-outs is not taken: ours are bounded."""
    bounded = {"socket_connect_timeout": CONNECT_S, "socket_timeout": ANSWER_S + BLOCK_MS / 1000}
    try:
        pool = aioredis.ConnectionPool.from_url(url)
        pool.connection_kwargs |= {**bounded, "retry": Retry(NoBackoff(), 0), "retry_on_timeout": False}
    except (ValueError, TypeError):
        raise ConfigurationError("the URL of Redis is redis://, rediss:// or unix://, and a host or a path") from None
    return aioredis.Redis.from_pool(pool)


@contextmanager
def _our_errors() -> Iterator[None]:
    """Raise whatever Redis or the network raised as an error of our tree.

    Redis's own texts may name users and keys: only their first word, which is a code, is told.
    """
    try:
        yield
    except (AuthenticationError, NoPermissionError) as error:
        raise RefusedError(f"redis refused our credential: {type(error).__name__}") from error
    except ResponseError as error:
        raise BadAnswerError(f"redis answered with an error: {str(error).partition(' ')[0][:32]}") from error
    except (RedisError, OSError, TimeoutError) as error:
        raise UnreachableError(f"redis did not answer: {type(error).__name__}") from error


class RedisLog:
    """A `LogReader` with cursors of its own: no group, for every replica reads everything.

    `url` may hold a password; it is told to nobody.

    Raises:
        ConfigurationError: a URL that cannot be used.
    """

    def __init__(self, url: str, keys: Keys) -> None:
        _client_of(url)  # a URL that cannot be used is an error here, and not at every attempt
        self._url = url
        self._keys = keys
        self._began_after = -1

    async def follow(self, after: int) -> AsyncGenerator[Batch, None]:
        """Yield what follows entry `after`; end by raising, also where no checkpoint comes any more.

        Ids in Redis may fall behind a cursor, as after a failover: nothing would be read again, and nothing say so.

        Raises: TransportError.
        """
        with _our_errors():
            async with open_redis(self._url) as client, aclosing(self._batches(client, after)) as batches:
                async for batch in batches:
                    yield batch

    async def _batches(self, client: _Client, after: int) -> AsyncGenerator[Batch, None]:
        clock_s = asyncio.get_running_loop().time
        cursors, held, heard_s = await self._start(client, after), [], clock_s()
        while clock_s() - heard_s < QUIET_S:
            messages, signed = await self._read(client, cursors)
            held += _checkpoints(signed)
            heard_s = clock_s() if signed else heard_s
            if len(messages) == PAGE:  # there may be more, which these checkpoints cover
                yield Batch(_candidates(messages))
                held = held[-PAGE:]
            elif messages or held:
                yield Batch(_candidates(messages), held)
                held = []
        raise UnreachableError("redis gives no checkpoint any more")

    async def snapshot(self) -> AsyncGenerator[bytes, None]:
        """Yield the newest snapshot, header first. One that is replaced meanwhile does not hold.

        Raises: TransportError.
        """
        start, end = 0, HEADER_BYTES
        with _our_errors():
            async with open_redis(self._url) as client:
                while chunk := await client.getrange(self._keys.snapshot, start, end - 1):
                    yield chunk
                    start, end = end, end + CHUNK_BYTES
        if start == 0:
            raise BadAnswerError("redis holds no snapshot")

    async def _start(self, client: _Client, after: int) -> dict[str, bytes]:
        """Return where to begin: behind entry `after`, and with the newest checkpoint.

        Whoever begins where it began the last time, and is behind, has made no way: it reads the whole stream, whatever
        the messages at its end may have said of their numbers.
        """
        newest = await client.xrevrange(self._keys.checkpoints, count=2)
        is_stuck = after == self._began_after and any(_claims(signed) > after for signed in _checkpoints(newest))
        self._began_after = after
        return {
            self._keys.stream: _BEGINNING if is_stuck else await self._find(client, after),
            self._keys.checkpoints: newest[1][0] if len(newest) > 1 else _BEGINNING,
        }

    async def _find(self, client: _Client, after: int) -> bytes:
        """Return the id of the last message that is not after entry `after`; the beginning, where there is none."""
        end = "+"
        page: _Messages
        while page := await client.xrevrange(self._keys.stream, max=end, count=PAGE):
            for id_, fields in page:
                seq = fields.get(SEQ_FIELD.encode(), b"")
                if seq.isdigit() and len(seq) < 17 and int(seq) <= after:
                    return bytes(id_)
            end = "(" + page[-1][0].decode()
        return _BEGINNING

    async def _read(self, client: _Client, cursors: dict[str, bytes]) -> tuple[_Messages, _Messages]:
        """Wait for what comes after `cursors`, and move them: messages of the stream, and of the checkpoints'."""
        answer = await client.xread(cursors, count=PAGE, block=BLOCK_MS)
        pairs = answer.items() if isinstance(answer, dict) else answer
        found = {_text(name): _flat(messages) for name, messages in pairs}
        for name, messages in found.items():
            cursors[name] = messages[-1][0]
        return found.get(self._keys.stream, []), found.get(self._keys.checkpoints, [])


class RedisLogWriter:
    """A `LogWriter`. Each append is one step of Redis's own, and happens only where nobody has written since."""

    def __init__(self, client: _Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._append = client.register_script(_APPEND)

    async def look(self) -> Written:
        """See LogWriter.look."""
        with _our_errors():
            newest = await self._client.xrevrange(self._keys.checkpoints, count=PAGE)
            count = await self._client.xlen(self._keys.stream)
            has_snapshot = await self._client.exists(self._keys.snapshot)
        end = newest[0][0].decode() if newest else ""
        return Written(end, _checkpoints(newest), is_whole=count > 0, has_snapshot=bool(has_snapshot))

    async def append(
        self, messages: Sequence[Mapping[str, str]], signed: bytes | None, after: Written
    ) -> Written | None:
        """See LogWriter.append."""
        arguments = [after.end, after.first, after.last, "" if signed is None else codec.to_base64(signed)]
        for fields in messages:
            arguments += [str(2 * len(fields)), *(text for pair in fields.items() for text in pair)]
        keys = (self._keys.stream, self._keys.checkpoints, self._keys.snapshot)
        with _our_errors():
            answer = await self._append(keys=keys, args=arguments)
        if answer is None:
            return None
        end, first, last, is_whole, has_snapshot = answer
        return Written(_text(end), (), _text(first), _text(last), bool(is_whole), bool(has_snapshot))

    async def put_snapshot(self, data: bytes) -> None:
        """See LogWriter.put_snapshot."""
        with _our_errors():
            await self._client.set(self._keys.snapshot, data)

    async def trim(self, before_ms: int) -> None:
        """See LogWriter.trim."""
        with _our_errors():
            for name in (self._keys.stream, self._keys.checkpoints):
                await self._client.xtrim(name, minid=before_ms, approximate=True)


@asynccontextmanager
async def open_writer(url: str, keys: Keys) -> AsyncIterator[RedisLogWriter]:
    """Give what writes to the Redis at `url`. Raises: ConfigurationError."""
    async with open_redis(url) as client:
        yield RedisLogWriter(client, keys)


_APPEND: Final = """
for _, key in ipairs({KEYS[1], KEYS[2]}) do
    local type = redis.call('TYPE', key).ok
    if type ~= 'none' and type ~= 'stream' then
        return redis.error_reply('WRONGTYPE a key of the log is no stream')
    end
end
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
local ends = newest[1] and newest[1][1] or ''
if ends ~= ARGV[1] then
    return false
end
local first, last, is_whole = ARGV[2], ARGV[3], 1
for _, id in ipairs({first, last}) do
    if id ~= '' and #redis.call('XRANGE', KEYS[1], id, id) == 0 then
        is_whole = 0
    end
end
local at = 5
while at <= #ARGV do
    local count = tonumber(ARGV[at])
    last = redis.call('XADD', KEYS[1], '*', unpack(ARGV, at + 1, at + count))
    if first == '' then
        first = last
    end
    at = at + 1 + count
end
if ARGV[4] ~= '' then
    ends = redis.call('XADD', KEYS[2], '*', 'cm_checkpoint', ARGV[4])
end
return {ends, first, last, is_whole, redis.call('EXISTS', KEYS[3])}
"""


def _candidates(messages: _Messages) -> list[Candidate]:
    """Return the entries among messages; those of others are passed over, and so is what cannot be read."""
    found: list[Candidate] = []
    for _, fields in messages:
        if SEQ_FIELD.encode() in fields:
            try:
                found.append(from_fields({_text(name): _text(value) for name, value in fields.items()}))
            except MalformedError as error:
                _log.debug("a message on the stream is no entry: %s", error)
    return found


def _checkpoints(messages: _Messages) -> list[bytes]:
    found: list[bytes] = []
    for _, fields in messages:
        text = fields.get(CHECKPOINT_FIELD.encode())
        if text is not None and len(text) < 4 * CHECKPOINT_BYTES:
            try:
                found.append(codec.from_base64(_text(text)))
            except MalformedError as error:
                _log.debug("a message on the stream is no checkpoint: %s", error)
    return found


def _claims(signed: bytes) -> int:
    """Return the number up to which a checkpoint says that it knows, unverified; 0 for what is none."""
    try:
        return parse_checkpoint(signed).claimed.rev.seq
    except LogError:
        return 0


def _text(data: bytes | str) -> str:
    """Return what must be ASCII to be of ours; anything else becomes a text that is refused later."""
    return data if isinstance(data, str) else data.decode("ascii", "replace")


def _flat(messages: Any) -> _Messages:
    """Return the messages of one stream; the newer protocol of Redis wraps them once more."""
    flat: _Messages = messages[0] if isinstance(messages[0], list) else messages
    return flat
