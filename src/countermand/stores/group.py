"""The stream as one consumer of a group sees it, on any client that has the methods.

Foreign errors end here: what a server or a connection does wrong is a StoreError, and mistakes of the program pass.
"""

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from countermand.errors import StoreError
from countermand.stores.client import belong_together, is_cluster
from countermand.stores.message import Message, MessageId, Page, parse_claim, parse_read
from countermand.stores.outage import describe

NEEDED: Final = ("xgroup_create", "xreadgroup", "xack")
START: Final = "0-0"
IDLE_MS: Final = 30_000
"""A message that its consumer has left alone for so long is another's to take."""
DEAD_SUFFIX: Final = ".dead"
DEAD_LETTERS: Final = 10_000
MISTAKES: Final = (TypeError, NameError, AssertionError, NotImplementedError)
"""Errors that no server causes. Not AttributeError: clients raise it where a connection goes away beneath them."""

_NEW: Final = ">"
_UNSAID_TIMEOUT_S: Final = 5.0  # redis-py's own since 8; a shorter wait than there could be does no harm
_LONGEST_MARGIN_MS: Final = 1000
_SHORTEST_MARGIN_MS: Final = 150  # Redis looks after those who wait ten times a second
_END: Final = 1 << 128  # no id comes after it

_Letter: TypeAlias = Mapping[str, MessageId]

_log = logging.getLogger(__name__)


def _says(error: BaseException | None, *codes: str) -> bool:
    """Whether a server's error has one of `codes`. Clients leave the code in the text, or make a class of it."""
    told = {str(error).partition(" ")[0], type(error).__name__, getattr(error, "status_code", None)}
    return not told.isdisjoint(codes)


@dataclass(frozen=True, slots=True)
class Burial:
    """Which dead letters were written, which never can be, and why the others were not."""

    written: list[MessageId]
    lost: list[MessageId]
    fault: StoreError | None


class ConsumerGroup:
    """`consumer` of `group` on `stream`, reading through `client` at most `batch_size` messages at a time.

    Every method raises StoreError when the server does not do as it is asked; its cause is the client's own error. A
    group that was lost is created again, from the beginning of the stream. A client whose answers would have to be
    awaited is a TypeError.
    """

    def __init__(self, client: Any, stream: str, group: str, consumer: str, batch_size: int) -> None:
        if missing := [name for name in NEEDED if not callable(getattr(client, name, None))]:
            raise TypeError(f"a client reads a stream with {missing[0]}; {type(client).__name__} has not")
        self._client = client
        self._stream = stream
        self._group = group
        self._consumer = consumer
        self._batch_size = batch_size
        # One message that is not UTF-8 fails the whole answer of a client that decodes; redis-py can be told not to.
        self._reads_raw = _decodes(client) and belong_together(client, "xreadgroup", "xautoclaim")
        self._pipelines = belong_together(client, "xadd", "pipeline") and not is_cluster(client)
        self.can_claim = hasattr(client, "xautoclaim")
        self.longest_block_ms = _longest_block_ms(client)

    def create(self) -> None:
        """Create the group, and the stream if need be; it may exist already."""
        try:
            _call(self._client.xgroup_create, self._stream, self._group, id="0", mkstream=True)
        except StoreError as error:
            cause = error.__cause__  # a full server refuses before it looks whether there is anything to do
            denied = _says(cause, "OOM", "OutOfMemoryError", "NOPERM", "NoPermissionError", "READONLY", "ReadOnlyError")
            if not (_says(cause, "BUSYGROUP") or (denied and self._exists())):
                raise

    def read_new(self, block_ms: int | None = None) -> list[Message]:
        """Read new messages, waiting for one. They are pending from then on, even if the answer is lost."""
        if self.longest_block_ms is not None and block_ms is not None:
            block_ms = min(block_ms, self.longest_block_ms) or None
        try:
            return self._read(_NEW, block_ms)
        except StoreError as error:
            self._decoding_failed(error)
            raise

    def read_own(self, after: MessageId) -> Page:
        """Read what is pending under our own name, and comes after an id. What cannot be read at all is passed over."""
        try:
            return _page(self._read(after))
        except StoreError as error:
            if not self._decoding_failed(error):
                raise
        return self._pass_over(after)

    def claim(self, cursor: MessageId) -> Page:
        """Take over a page of what other consumers have left alone."""
        return parse_claim(self._with_group(lambda: self._claim(cursor)))

    def acknowledge(self, ids: Sequence[MessageId]) -> None:
        """Say that all of `ids` are done."""
        _call(self._client.xack, self._stream, self._group, *ids)

    def bury(self, refused: Sequence[tuple[Message, str]]) -> Burial:
        """Write a dead letter for each message and the reason to refuse it. It does not raise: see `Burial`."""
        letters = [{"source_id": each.id, "reason": reason, "payload": each.payload} for each, reason in refused]
        burial = Burial([], [], None)
        for (message, _), outcome in zip(refused, self._write(letters), strict=False):
            if isinstance(outcome, StoreError):
                burial = replace(burial, fault=outcome)
            else:
                (burial.written if outcome else burial.lost).append(message.id)
        return burial

    def lag(self) -> int | None:
        """How many messages the group has not done, pending ones included; None where the server does not tell.

        Redis counts the undelivered since version 7. Before, only "none" can be told.
        """
        group = self._find()
        if not group:
            return None
        undelivered = group.get("lag") if "lag" in group else self._undelivered(group.get("last-delivered-id"))
        pending = group.get("pending")
        return pending + undelivered if isinstance(pending, int) and isinstance(undelivered, int) else None

    def _undelivered(self, delivered: object) -> int | None:
        try:
            stream = _call(self._client.xinfo_stream, self._stream)
        except (StoreError, AttributeError, *MISTAKES):
            return None
        last = stream.get("last-generated-id") if isinstance(stream, Mapping) else None
        return 0 if last is not None and last == delivered else None

    def _exists(self) -> bool:
        with suppress(StoreError):
            return bool(self._find())
        return False

    def _find(self) -> Mapping[str, Any]:
        """Return what the server tells of the group: nothing where there is none, or the client cannot ask."""
        try:
            groups = _call(self._client.xinfo_groups, self._stream)
        except (AttributeError, *MISTAKES):
            return {}
        for group in groups if isinstance(groups, list | tuple) else ():
            if isinstance(group, Mapping) and group.get("name") in (self._group, self._group.encode()):
                return group
        return {}

    def _with_group(self, ask: Callable[[], Any]) -> Any:
        try:
            return _call(ask)
        except StoreError as error:
            if not _says(error.__cause__, "NOGROUP", "UNBLOCKED"):
                raise
        self.create()
        return _call(ask)

    # Reading

    def _read(self, after: MessageId, block_ms: int | None = None) -> list[Message]:
        return parse_read(self._with_group(lambda: self._xreadgroup(after, block_ms)))

    def _xreadgroup(self, after: MessageId, block_ms: int | None) -> Any:
        if not self._reads_raw:
            streams = {self._stream: after}
            return self._client.xreadgroup(self._group, self._consumer, streams, count=self._batch_size, block=block_ms)
        block = () if block_ms is None else ("BLOCK", block_ms)
        whose = ("GROUP", self._group, self._consumer, "COUNT", self._batch_size, *block)
        return self._raw("XREADGROUP", *whose, "STREAMS", self._stream, after)

    def _claim(self, cursor: MessageId) -> Any:
        whose = (self._stream, self._group, self._consumer, IDLE_MS)
        if not self._reads_raw:
            return self._client.xautoclaim(*whose, start_id=cursor, count=self._batch_size)
        return self._raw("XAUTOCLAIM", *whose, cursor, "COUNT", self._batch_size)

    def _raw(self, *command: object) -> Any:
        return self._client.execute_command(*command, NEVER_DECODE=True)

    def _decoding_failed(self, error: StoreError) -> bool:
        """Whether it was the client that failed. From then on it reads one by one, so that one fails alone."""
        if not isinstance(error.__cause__, UnicodeError):
            return False
        if self._batch_size > 1:
            self._batch_size = 1
            _log.warning(
                "the Redis client decodes, and failed at a message: it is left pending, and all are read alone"
            )
        return True

    def _pass_over(self, after: MessageId) -> Page:
        """Go on behind the next message if it cannot be decoded. Only the server knows its id: halving finds it."""
        low, high = _number(after), _END
        fault = self._decoding_fault(low)
        if fault is None:
            return _page(self._read(after))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._decoding_fault(middle) == fault else (low, middle)
        return Page([], _id(high))

    def _decoding_fault(self, after: int) -> object:
        """What cannot be decoded in the next message; None if all can."""
        try:
            self._read(_id(after))
        except StoreError as error:
            if not self._decoding_failed(error):
                raise
            return error.__cause__ and error.__cause__.args
        return None

    # Dead letters: True for one that was written, False for one that never can be, else what stood in its way

    def _write(self, letters: Sequence[_Letter]) -> Iterable[bool | StoreError]:
        if not hasattr(self._client, "xadd"):
            return [False] * len(letters)
        if self._pipelines and len(letters) > 1:
            try:
                return self._write_at_once(letters)
            except MISTAKES:
                self._pipelines = False
        return self._write_each(letters)

    def _write_at_once(self, letters: Sequence[_Letter]) -> Iterable[bool | StoreError]:
        pipeline = self._client.pipeline(transaction=False)
        for letter in letters:
            self._xadd(pipeline, letter)
        try:
            answers = _call(pipeline.execute, raise_on_error=False)
        except StoreError as error:
            return [error]
        return [_outcome(_translated(answer)) if isinstance(answer, Exception) else True for answer in answers]

    def _write_each(self, letters: Sequence[_Letter]) -> Iterator[bool | StoreError]:
        """Write one after the other, and none after the first that fails: each could cost a wait."""
        for letter in letters:
            try:
                _call(self._xadd, self._client, letter)
            except MISTAKES:
                yield False
            except StoreError as error:
                outcome = _outcome(error)
                yield outcome
                if outcome:
                    return
            else:
                yield True

    def _xadd(self, client: Any, letter: _Letter) -> Any:
        return client.xadd(self._stream + DEAD_SUFFIX, letter, maxlen=DEAD_LETTERS, approximate=True)


def _outcome(fault: StoreError) -> bool | StoreError:
    """False if a server will answer the same to the same command again, until a person changes something."""
    cause = fault.__cause__
    hopeless = _says(cause, "WRONGTYPE", "NOPERM", "NoPermissionError") or "unknown command" in str(cause)
    return False if hopeless else fault


def _call(ask: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        answer = ask(*args, **options)
    except MISTAKES:
        raise
    except Exception as error:
        raise _translated(error) from error
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()  # or Python warns that nobody awaited it
        raise TypeError("this Redis client is one for asyncio: the documented contract waits for its answers")
    return answer


def _translated(error: Exception) -> StoreError:
    translated = StoreError(f"redis: {describe(error)}")
    translated.__cause__ = error
    return translated


def _page(messages: list[Message]) -> Page:
    return Page(messages, messages[-1].id if messages else None)


def _decodes(client: Any) -> bool:
    """Whether a client of redis-py's kind gives text instead of bytes."""
    encoder = client.get_encoder() if hasattr(client, "get_encoder") else None
    return getattr(encoder, "decode_responses", False) is True


def _number(message_id: MessageId) -> int:
    """An id as a number: 64 bits of milliseconds, and 64 to tell those of one apart."""
    text = message_id.decode() if isinstance(message_id, bytes) else message_id
    at_ms, _, sequence = text.partition("-")
    return (int(at_ms) << 64) + int(sequence or 0)


def _id(number: int) -> MessageId:
    return f"{number >> 64}-{number & (1 << 64) - 1}"


def _longest_block_ms(client: Any) -> int | None:
    """How long a read may wait before the client takes silence for a fault; None if for ever, 0 if not at all."""
    for holder in ("connection_pool", "nodes_manager"):
        options = getattr(getattr(client, holder, None), "connection_kwargs", None)
        if isinstance(options, Mapping):
            timeout_s = options.get("socket_timeout", _UNSAID_TIMEOUT_S)
            if timeout_s is None:
                return None
            timeout_ms = int(timeout_s * 1000)
            margin_ms = min(max(timeout_ms // 2, _SHORTEST_MARGIN_MS), _LONGEST_MARGIN_MS)
            return max(timeout_ms - margin_ms, 0)
    return None
