"""The log over Redis Streams: entries beside messages of others on one stream, checkpoints on another.

A snapshot and the keysets lie beside them.
Redis is a way and no record. Whatever it loses, repeats, reorders or is made to say is noticed by those who verify:
here nothing is believed. Every wait is bounded, far below any staleness that could be allowed.
Source: docs/protocol.md, "Redis"; redis.io/docs/latest/develop/data-types/streams.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeAlias

from countermand.errors import BadAnswerError, ConfigurationError, LogError, MalformedError, UnreachableError
from countermand.log import codec
from countermand.log.chain import Candidate
from countermand.log.checkpoint import CHECKPOINT_BYTES, claimed_seq, claimed_signer
from countermand.log.keyset import MAX_DOCUMENT_BYTES, split_keysets
from countermand.log.ports import Batch, Written
from countermand.log.snapshot import HEADER_BYTES
from countermand.log.succession import SUCCESSION_BYTES
from countermand.log.wire import (
    CHECKPOINT_FIELD,
    ENTRY_FIELD,
    PREVIOUS_FIELD,
    REVOCATION_STREAM,
    SEQ_FIELD,
    SUCCESSION_FIELD,
    to_candidate,
)
from countermand.transport.redis_client import ANSWER_S, BLOCK_MS, Client, RedisUrl, our_errors

PAGE: Final = 1_000
CHUNK_BYTES: Final = 1_048_576
SLOWEST_BYTES_S: Final = 1_000_000
"""A second, of a snapshot on its way to Redis."""
QUIET_S: Final = 2.5
"""Checkpoints come every second: without one for so long, the cursors are dropped."""
KEYSETS_S: Final = 2.0
"""How often a reader looks for keysets, beside when a checkpoint names another key than those before."""
ASK_AGAIN_S: Final = 2.0
"""How often a writer asks whether its master is still the one."""

_log = logging.getLogger(__name__)

_BEGINNING: Final = b"0-0"
_SEQ: Final = SEQ_FIELD.encode()
_CHECKPOINT: Final = CHECKPOINT_FIELD.encode()
_SUCCESSION: Final = SUCCESSION_FIELD.encode()
_PREVIOUS: Final = PREVIOUS_FIELD.encode()
_ENTRY: Final = ENTRY_FIELD.encode()
_Messages: TypeAlias = list[tuple[bytes, list[bytes]]]
"""Ids, and names and values in turn: a dictionary of each would take as long as all the rest."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of one log's keys, all in one slot of a cluster."""

    stream: str
    checkpoints: str
    snapshot: str
    keysets: str

    @classmethod
    def of(cls, stream: str = REVOCATION_STREAM) -> "Keys":
        """Return the names beside `stream`. Raises: ConfigurationError, for braces that are not one whole tag."""
        tag = stream[1:-1] if stream.startswith("{") and stream.endswith("}") else stream
        if not tag or "{" in tag or "}" in tag:
            raise ConfigurationError("a stream's name holds no braces, or is one whole tag in braces")
        return cls(stream, *(f"{{{tag}}}.{name}" for name in ("checkpoints", "snapshot", "keysets")))


class RedisLog:
    """A `LogReader` with cursors of its own: no group, for every replica reads everything.

    `url` may hold a password; it is told to nobody.

    Raises:
        ConfigurationError: a URL that cannot be used.
    """

    def __init__(self, url: str, keys: Keys) -> None:
        self._url = RedisUrl.parse(url)
        self._keys = keys
        self._began_after = -1

    async def follow(self, after: int) -> AsyncGenerator[Batch, None]:
        """Yield what follows entry `after`; end by raising, also where no checkpoint comes any more.

        Ids in Redis may fall behind a cursor, as after a failover: nothing would be read again, and nothing say so.

        Raises: TransportError.
        """
        with our_errors():
            async with (
                self._url.open(self._keys.checkpoints) as client,
                aclosing(self._batches(client, after)) as batches,
            ):
                _leave_as_it_comes(client)
                async for batch in batches:
                    yield batch

    async def _batches(self, client: Client, after: int) -> AsyncGenerator[Batch, None]:
        clock_s = asyncio.get_running_loop().time
        cursors, heard_s = await self._start(client, after), clock_s()
        held: list[bytes] = []
        told: bytes | None = None  # the newest succession: it comes with every checkpoint
        known: list[bytes] = []  # the newest that came with an entry, and comes by itself as well
        signers: set[bytes] = set()
        keysets: Sequence[bytes] = ()
        keysets_s = -KEYSETS_S
        while clock_s() - heard_s < QUIET_S:
            messages, signed = await self._read(client, cursors, block_ms=None if held else BLOCK_MS)
            borne = list(islice(_checkpoints(reversed(messages)), 1))
            known = borne or known
            held += [checkpoint for checkpoint in _checkpoints(signed) if checkpoint not in known]
            newest = list(islice(_successions(reversed(signed)), 1))
            begun = [succession for succession in newest if succession != told]
            told = begun[0] if begun else told
            heard_s = clock_s() if signed else heard_s
            named = {claimed_signer(checkpoint) for checkpoint in borne + held}
            if named - signers or clock_s() - keysets_s >= KEYSETS_S:
                signers, keysets_s = named or signers, clock_s()
                found = await self._read_keysets(client)
                if found and found != keysets:
                    keysets = found
                    yield Batch(keysets=keysets)
            if len(messages) == PAGE:  # there may be more, which the held ones cover
                yield Batch(_candidates(messages), borne, has_more=True, successions=begun)
                held = held[-PAGE:]
            elif messages or held or begun:
                yield Batch(_candidates(messages), borne + held, successions=begun)
                held = []
        raise UnreachableError("redis gives no checkpoint any more")

    async def held(self) -> AsyncGenerator[Batch, None]:
        """Yield the keysets, every entry and every succession that is there, from the first on, and end.

        Nobody need be writing: whoever asks may be the only writer, and have forgotten.

        Raises: TransportError.
        """
        with our_errors():
            async with self._url.open(self._keys.checkpoints) as client:
                _leave_as_it_comes(client)
                yield Batch(keysets=await self._read_keysets(client))
                cursors = dict.fromkeys((self._keys.stream, self._keys.checkpoints), _BEGINNING)
                while any(found := await self._read(client, cursors, block_ms=None)):
                    messages, signed = found
                    yield Batch(_candidates(messages), successions=tuple(dict.fromkeys(_successions(signed))))

    async def snapshot(self) -> AsyncGenerator[bytes, None]:
        """Yield the newest snapshot, header first. One that is replaced meanwhile does not hold.

        Raises: TransportError.
        """
        start, end = 0, HEADER_BYTES
        with our_errors():
            async with self._url.open(self._keys.checkpoints) as client:
                while chunk := await client.getrange(self._keys.snapshot, start, end - 1):
                    if not isinstance(chunk, bytes):
                        raise BadAnswerError("redis answered with something else than a snapshot")
                    yield chunk
                    start, end = end, end + CHUNK_BYTES
        if start == 0:
            raise BadAnswerError("redis holds no snapshot")

    async def _read_keysets(self, client: Client) -> Sequence[bytes]:
        """Return what there is; nothing of what cannot be read, for the checkpoints may do without."""
        document = await client.getrange(self._keys.keysets, 0, MAX_DOCUMENT_BYTES)
        try:
            return split_keysets(document) if isinstance(document, bytes) else ()
        except LogError as error:
            _log.debug("the keysets on redis cannot be read: %s", error)
            return ()

    async def _start(self, client: Client, after: int) -> dict[str, bytes]:
        """Return where to begin: behind entry `after`, and with the newest checkpoint.

        Whoever begins where it began the last time, and is behind, has made no way: it reads the whole stream, whatever
        the messages at its end may have said of their numbers.
        """
        newest = await client.xrevrange(self._keys.checkpoints, count=2)
        is_stuck = after == self._began_after and any(claimed_seq(signed) > after for signed in _checkpoints(newest))
        self._began_after = after
        return {
            self._keys.stream: _BEGINNING if is_stuck else await self._find(client, after),
            self._keys.checkpoints: newest[1][0] if len(newest) > 1 else _BEGINNING,
        }

    async def _find(self, client: Client, after: int) -> bytes:
        """Return where the newest checkpoint lies that does not go beyond entry `after`: what follows came later.

        Messages are not looked through: between two entries there may be a million of descendants.
        """
        end = "+"
        page: _Messages = []
        while after and (page := await client.xrevrange(self._keys.checkpoints, max=end, count=PAGE)):
            for id_, flat in page:
                if any(0 < claimed_seq(signed) <= after for signed in _checkpoints([(id_, flat)])):
                    return b"%d-0" % (int(id_.partition(b"-")[0]) - 1)  # in one millisecond it may have come first
            end = "(" + page[-1][0].decode()
        return _BEGINNING

    async def _read(
        self, client: Client, cursors: dict[str, bytes], *, block_ms: int | None
    ) -> tuple[_Messages, _Messages]:
        """Wait for what comes after `cursors`, and move them: messages of the stream, and of the checkpoints'."""
        answer = await client.xread(cursors, count=PAGE, block=block_ms)
        pairs = answer.items() if isinstance(answer, dict) else answer or ()  # by the version of the protocol
        found: dict[str, _Messages] = {_text(name): messages for name, messages in pairs}
        for name, messages in found.items():
            cursors[name] = messages[-1][0]
        return found.get(self._keys.stream, []), found.get(self._keys.checkpoints, [])


class RedisLogWriter:
    """A `LogWriter`. Each append is one step of Redis's own, and happens only where nobody has written since.

    `client` is one of the master that `url` leads to.
    """

    def __init__(self, client: Client, url: RedisUrl, keys: Keys) -> None:
        self._client = client
        self._url = url
        self._keys = keys
        self._append = client.register_script(_APPEND)
        _leave_as_it_comes(client)
        self._clock_s = asyncio.get_running_loop().time
        self._asked_s = self._clock_s()

    async def look(self) -> Written:
        """See LogWriter.look."""
        with our_errors():
            newest = await self._client.xrevrange(self._keys.checkpoints, count=PAGE)
            has_snapshot = await self._client.exists(self._keys.snapshot)
            end = newest[0][0].decode() if newest else ""
            return Written(end, list(_checkpoints(newest)), has_snapshot=bool(has_snapshot))

    async def append(
        self,
        messages: Sequence[Mapping[str, str]],
        signed: bytes | None,
        after: Written,
        succession: bytes | None = None,
    ) -> Written | None:
        """See LogWriter.append."""
        await self._stay()
        records = ["" if record is None else codec.to_base64(record) for record in (signed, succession)]
        arguments = [after.end, after.first, after.last, *records]
        for fields in messages:
            arguments += [str(2 * len(fields)), *(text for pair in fields.items() for text in pair)]
        keys = (self._keys.stream, self._keys.checkpoints, self._keys.snapshot)
        with our_errors():
            answer = await self._append(keys=keys, args=arguments)
            if answer is None:
                return None
            end, first, last, is_whole, has_snapshot = answer
            return Written(_text(end), (), _text(first), _text(last), bool(is_whole), bool(has_snapshot))

    async def _stay(self) -> None:
        """Raise UnreachableError where another master has taken over, unseen: what is written here would be lost."""
        if self._clock_s() - self._asked_s > ASK_AGAIN_S:
            if await self._url.has_moved(self._client, self._keys.checkpoints):
                raise UnreachableError("redis has another master now")
            self._asked_s = self._clock_s()

    async def put_snapshot(self, data: bytes) -> None:
        """See LogWriter.put_snapshot."""
        answer_s = ANSWER_S + len(data) / SLOWEST_BYTES_S
        with our_errors():
            await self._client.execute_command("SET", self._keys.snapshot, data, answer_s=answer_s)

    async def put_keysets(self, document: bytes) -> None:
        """See LogWriter.put_keysets."""
        with our_errors():
            there = await self._client.getrange(self._keys.keysets, 0, MAX_DOCUMENT_BYTES)
            if not (isinstance(there, bytes) and _continues(there, document)):
                await self._client.set(self._keys.keysets, document)

    async def trim(self, before_ms: int) -> None:
        """See LogWriter.trim."""
        with our_errors():
            for name in (self._keys.stream, self._keys.checkpoints):
                await self._client.xtrim(name, minid=before_ms, approximate=True)


@asynccontextmanager
async def open_writer(url: str, keys: Keys) -> AsyncIterator[RedisLogWriter]:
    """Give what writes to the Redis at `url`. Raises: ConfigurationError, TransportError."""
    place = RedisUrl.parse(url)
    async with place.open(keys.checkpoints) as client:
        yield RedisLogWriter(client, place, keys)


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
local at = 6
while at <= #ARGV do
    local count = tonumber(ARGV[at])
    last = redis.call('XADD', KEYS[1], '*', unpack(ARGV, at + 1, at + count))
    if first == '' then
        first = last
    end
    at = at + 1 + count
end
if ARGV[4] ~= '' then
    local fields = {'cm_checkpoint', ARGV[4]}
    if ARGV[5] ~= '' then
        fields = {'cm_checkpoint', ARGV[4], 'cm_succession', ARGV[5]}
    end
    ends = redis.call('XADD', KEYS[2], '*', unpack(fields))
end
return {ends, first, last, is_whole, redis.call('EXISTS', KEYS[3])}
"""


def _leave_as_it_comes(client: Client) -> None:
    """Have streams read as Redis sends them; see _Messages."""
    for command in ("XREAD", "XREVRANGE"):
        client.set_response_callback(command, lambda answer, **_options: answer)


def _fields(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=False))


def _candidates(messages: _Messages) -> list[Candidate]:
    """Return the entries among messages; those of others are passed over, and so is what cannot be read."""
    found: list[Candidate] = []
    for _, flat in messages:
        if _SEQ in flat:  # or it is nothing of ours
            fields = _fields(flat)
            try:
                found.append(to_candidate(fields.get(_SEQ, b""), fields.get(_PREVIOUS, b""), fields.get(_ENTRY, b"")))
            except MalformedError as error:
                _log.debug("a message on the stream is no entry: %s", error)
    return found


def _checkpoints(messages: Iterable[tuple[bytes, list[bytes]]]) -> Iterator[bytes]:
    return _signed(messages, _CHECKPOINT, CHECKPOINT_BYTES)


def _successions(messages: Iterable[tuple[bytes, list[bytes]]]) -> Iterator[bytes]:
    return _signed(messages, _SUCCESSION, SUCCESSION_BYTES)


def _signed(messages: Iterable[tuple[bytes, list[bytes]]], name: bytes, length: int) -> Iterator[bytes]:
    for _, flat in messages:
        text = _fields(flat).get(name) if name in flat else None
        if text is not None and len(text) < 4 * length:
            try:
                yield codec.from_base64(text)
            except MalformedError as error:
                _log.debug("a message on the stream is no signed record: %s", error)


def _continues(there: bytes, document: bytes) -> bool:
    """Whether more keysets come in `there` after those of `document`."""
    try:
        split_keysets(there)
    except LogError:
        return False
    return len(there) > len(document) and there.startswith(document)


def _text(data: bytes | str) -> str:
    """Return what must be ASCII to be of ours; anything else becomes a text that is refused later."""
    return data if isinstance(data, str) else data.decode("ascii", "replace")
