"""The documented consumer: messages of the revocation stream become marks in a store.

Rules:
    1. Acknowledged is only what is applied, or refused and written to the dead letters.
    2. No message stops another. Each poll reads new messages first, whatever becomes of older ones; then a page of
       those. What could not be done stays pending under our own name, and is read again.
    3. A dead server ends nothing: the documented loop runs in a thread that an exception would end silently, and
       revocation with it.
Source: docs/protocol.md, "The documented signature"; the documented contract.
"""

import logging
import math
import random as chance
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from countermand.errors import InvalidValueError, StoreError
from countermand.log.wire import REVOCATION_STREAM
from countermand.stores.client import check_client, without_retries
from countermand.stores.contract import RevocationStore, check_positive
from countermand.stores.group import START, ConsumerGroup
from countermand.stores.marking import Marker
from countermand.stores.message import Message, MessageId, Page, Signing
from countermand.stores.outage import Outage

PACE_S: Final = 0.01
"""Without it the documented loop would take most of a core, and of Python's lock, to hear that there is nothing."""
LOOK_BACK_EVERY_S: Final = 10.0
"""How often older messages are looked for: those of dead consumers, and our own, of which an answer may be lost."""
LARGEST_BATCH: Final = 10_000

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Walk:
    """A way through older messages, a page at a time, and from the start again later. `rest_s`: after a failure."""

    read: Callable[[MessageId], Page]
    outage: Outage
    due_s: float
    rest_s: float = 0.0
    cursor: MessageId = START
    begun_s: float = -math.inf

    @property
    def is_under_way(self) -> bool:
        return self.cursor != START

    def begin_again(self, due_s: float) -> None:
        self.cursor, self.due_s = START, due_s


class RedisRevocationConsumer:
    """Consumer `consumer`, a name that no other replica uses, of `group` on `stream`.

    `stream_hmac_key` is the key that signs messages, or several while keys change: any may have signed. With a key a
    signature is required; `require_signature=False` accepts a missing one, and still no wrong one. `block_ms` is how
    long a poll waits for a message; 0 does not wait. The wait ends sooner when older messages are due, after 10 s at
    the latest, and before the client would take silence for a fault: with redis-py's defaults after 3 s.

    One thread polls. Where the class of `store` has `mark_all(sids)`, a batch is marked in one call. `clock_s` is a
    monotonic clock; `random` gives numbers from 0 to 1, to spread the attempts of many replicas.

    Raises:
        InvalidValueError: a name or a key is empty, or a name is not UTF-8; with a key, the stream's has a newline; a
            number is out of its range; a signature is required without key.
        TypeError: an argument of the wrong type; a client for asyncio.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - documented
        self,
        redis: Any,
        store: RevocationStore,
        consumer: str,
        stream: str = REVOCATION_STREAM,
        group: str = "resource-revocation",
        batch_size: int = 50,
        block_ms: int = 0,
        stream_hmac_key: bytes | Sequence[bytes] | None = None,
        require_signature: bool | None = None,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        random: Callable[[], float] = chance.random,
    ) -> None:
        check_client(redis)
        if not callable(getattr(store, "mark_revoked", None)):
            raise TypeError(f"a store has the method mark_revoked; {type(store).__name__} has not")
        for name, value in (("consumer", consumer), ("stream", stream), ("group", group)):
            _check_name(name, value)
        check_positive("batch_size", batch_size)
        if batch_size > LARGEST_BATCH:
            raise InvalidValueError(f"batch_size is at most {LARGEST_BATCH}, not {batch_size}")
        if block_ms != 0:
            check_positive("block_ms", block_ms)
        if require_signature is not None and not isinstance(require_signature, bool):
            raise TypeError("require_signature is a bool or None")
        keys = _keys(stream_hmac_key)
        if require_signature and not keys:
            raise InvalidValueError("a signature cannot be required without stream_hmac_key")
        if keys and "\n" in stream:
            raise InvalidValueError("a stream whose messages are signed has no newline in its name")
        self._signing = Signing(stream, keys, require_signature is not False)
        self._group = ConsumerGroup(without_retries(redis), stream, group, consumer, batch_size)
        self._marker = Marker(store, clock_s)
        self._block_ms = block_ms
        self._clock_s = clock_s
        self._sleep = sleep

        def outage(work: str) -> Outage:
            return Outage(work, clock_s, random)

        self._applied = self._dead_lettered = self._failures = 0
        self._reading = outage("reading the revocation stream")
        self._marking = outage("marking what the revocation stream says")
        self._burying = outage("writing dead letters")
        self._acknowledging = outage("acknowledging messages")
        now_s = self._idle_until_s = clock_s()
        self._own = _Walk(self._group.read_own, outage("reading what is pending"), now_s)
        self._walks = [self._own]
        if self._group.can_claim:
            claiming = outage("claiming messages of dead consumers")
            self._walks.append(_Walk(self._group.claim, claiming, now_s, rest_s=LOOK_BACK_EVERY_S))
        self._seen: set[MessageId] = set()  # in this poll: what is new at its beginning is pending at its end

    @property
    def applied(self) -> int:
        """Messages that were marked and acknowledged."""
        return self._applied

    @property
    def dead_lettered(self) -> int:
        """Messages that were refused and acknowledged, whether or not a dead letter could be written."""
        return self._dead_lettered

    @property
    def failures(self) -> int:
        """Failed attempts at reading, marking, burying or acknowledging."""
        return self._failures

    @property
    def blocks(self) -> bool:
        """Whether a poll waits for a message."""
        return self._block_ms > 0 and self._group.longest_block_ms != 0

    def lag(self) -> int | None:
        """How many messages the whole group has not done; None where Redis, before 7, cannot tell.

        Raises:
            StoreError: the server did not answer.
        """
        return self._group.lag()

    def ensure_group(self) -> None:
        """Create the group, from the beginning of the stream, unless it exists.

        Unlike `poll_once`, it raises when the server is not there: it is called at start, by someone who would want to
        know of a wrong address. It may be left out; polling creates the group as well.

        Raises:
            StoreError: the server did not do it; the cause says why.
        """
        self._group.create()

    @property
    def may_rest(self) -> bool:
        """Whether the next poll has only new messages to look for, and does not wait for them itself."""
        return not self.blocks and self._due_s() > self._clock_s()

    @property
    def store_fails(self) -> bool:
        """Whether there may be messages that the store has not taken."""
        return self._marking.is_on

    def poll_once(self) -> int:
        """Return how many messages were dealt with: applied, or refused.

        When Redis or the store fail, it does not raise: it logs that once, counts it, and waits, from 0.1 s up to 2 s,
        the longer the more often. In a loop that does nothing else, it waits PACE_S between two polls without a
        message; the first of them returns at once, and so does every one of a caller who waits himself.

        Raises:
            TypeError, NameError, AssertionError, NotImplementedError: a mistake in the client or in the store. What
                was read then stays pending, and is read again.
        """
        dealt, wait_s = self.poll()
        if not (dealt or wait_s) and self.may_rest:
            wait_s = self._pace()
        if wait_s > 0:
            self._sleep(wait_s)
        return dealt

    def _pace(self) -> float:
        """Return how much sooner than PACE_S after the last idle poll this one came."""
        now_s = self._clock_s()
        wait_s = max(self._idle_until_s - now_s, 0.0)
        self._idle_until_s = now_s + wait_s + PACE_S
        return wait_s

    def poll(self) -> tuple[int, float]:
        """Do as `poll_once`, and return how long to wait before the next one instead of waiting: 0 if all is well."""
        before = self._dealt
        self._seen.clear()
        try:
            wait_s = self._read_new()
            if not self._reading.is_on:
                self._look_back()
        except BaseException:
            self._own.due_s = self._clock_s()  # what was read, and not dealt with, is pending
            raise
        dealt = self._dealt - before
        return dealt, 0.0 if dealt else wait_s

    @property
    def _dealt(self) -> int:
        return self._applied + self._dead_lettered

    # Reading

    def _read_new(self) -> float:
        """Deal with new messages; return how long to wait if the server fails, or the store takes none of them."""
        try:
            page = self._group.read_new(self._wait_ms())
        except StoreError as error:
            self._own.due_s = self._clock_s()  # the answer may have been lost
            return self._fail(self._reading, error)
        self._reading.over()
        return self._deal(page)

    def _wait_ms(self) -> int | None:
        """How long to wait for a message: at most until something else is to be done."""
        left_ms = (self._due_s() - self._clock_s()) * 1000
        if self._block_ms == 0 or left_ms <= 0:
            return None
        return max(1, int(min(self._block_ms, left_ms)))

    def _due_s(self) -> float:
        """When older messages are to be looked at."""
        return min(walk.due_s for walk in self._walks)

    def _look_back(self) -> None:
        """Deal with a page of older messages, if there are any and it is time."""
        for walk in sorted(self._walks, key=lambda each: each.due_s):
            if walk.due_s > self._clock_s() or self._go_on(walk):
                return

    def _go_on(self, walk: _Walk) -> bool:
        """Take the next page of `walk`; return whether there were messages, or a failure."""
        if not walk.is_under_way:
            walk.begun_s = self._clock_s()
        try:
            page = walk.read(walk.cursor)
        except StoreError as error:
            pause_s = self._fail(walk.outage, error)
            walk.begin_again(self._clock_s() + max(pause_s, walk.rest_s))
            if walk is not self._own:
                self._own.due_s = self._clock_s()  # it may have been claimed all the same
            return True
        walk.outage.over()
        self._move(walk, page)
        pause_s = self._deal(page.messages)
        walk.due_s = max(walk.due_s, self._clock_s() + pause_s)
        return bool(page.messages)

    def _move(self, walk: _Walk, page: Page) -> None:
        """Let the next page be the one behind `page`, whatever becomes of this one: it is pending, and read again."""
        now_s = self._clock_s()
        if page.cursor is not None and page.cursor != walk.cursor:
            walk.cursor, walk.due_s = page.cursor, now_s
        else:
            walk.begin_again(now_s + LOOK_BACK_EVERY_S)
            if walk is self._own:
                for outage in (self._marking, self._burying, self._acknowledging):
                    outage.over(walk.begun_s)
                    walk.due_s = min(walk.due_s, outage.retry_at_s)
        if page.nameless:
            self._own.due_s = now_s  # they are pending under our own name now, and read there with their ids

    def _fail(self, outage: Outage, error: Exception) -> float:
        self._failures += 1
        return outage.failed(error)

    # Doing

    def _deal(self, page: list[Message]) -> float:
        """Apply or refuse, and acknowledge. Return how long to wait if the store took nothing."""
        trimmed, sound, refused = [], [], []
        for message in page:
            if message.id in self._seen:
                continue
            self._seen.add(message.id)
            reason = self._signing.refusal(message)
            if message.is_trimmed:
                trimmed.append(message.id)
            elif reason is None:
                sound.append(message)
            else:
                refused.append((message, reason))
        applied, pause_s = self._apply(sound)
        self._acknowledge(trimmed, applied, self._bury(refused))
        return 0.0 if applied else pause_s

    def _apply(self, messages: list[Message]) -> tuple[list[MessageId], float]:
        """Mark what `messages` revoke; return the ids of those that the store took whole, and a pause for the rest."""
        if not messages:
            return [], 0.0
        anchors = dict.fromkeys(anchor for message in messages for anchor in message.anchors)
        failed = self._marker.mark(list(anchors))
        pause_s = self._leave(self._marking, next(iter(failed.values()))) if failed else 0.0
        return [message.id for message in messages if failed.keys().isdisjoint(message.anchors)], pause_s

    def _bury(self, refused: list[tuple[Message, str]]) -> list[MessageId]:
        """Write dead letters; return the ids of those that were written, and of those that never can be."""
        if not refused or self._burying.rests:
            return []
        burial = self._group.bury(refused)
        if burial.lost:
            _log.error("dead letters cannot be written, and %s are lost", burial.lost, extra={"code": "dead_letters"})
        if burial.fault is not None:
            self._leave(self._burying, burial.fault)
        buried = {*burial.written, *burial.lost}
        if buried:
            reasons = sorted({reason for message, reason in refused if message.id in buried})
            _log.warning("%d messages were refused: %s", len(buried), ", ".join(reasons), extra={"code": reasons[0]})
        return list(buried)

    def _acknowledge(self, trimmed: list[MessageId], applied: list[MessageId], refused: list[MessageId]) -> None:
        ids = [*trimmed, *applied, *refused]
        if not ids:
            return
        try:
            self._group.acknowledge(ids)
        except StoreError as error:
            self._leave(self._acknowledging, error)
            return
        self._applied += len(applied)
        self._dead_lettered += len(refused)

    def _leave(self, outage: Outage, error: Exception) -> float:
        """Note that messages stay pending, to be read again when the pause is over; return it."""
        pause_s = self._fail(outage, error)
        if not self._own.is_under_way:
            self._own.due_s = min(self._own.due_s, outage.retry_at_s)
        return pause_s


def _check_name(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} is a str, not {type(value).__name__}")
    if not value:
        raise InvalidValueError(f"{name} is not empty")
    try:
        value.encode()
    except UnicodeError:
        raise InvalidValueError(f"{name} is not text that UTF-8 can hold") from None


def _keys(given: object) -> tuple[bytes, ...]:
    """Return the keys that were given; none without."""
    if given is None:
        return ()
    keys = (given,) if isinstance(given, bytes) else given
    if not isinstance(keys, list | tuple) or not all(isinstance(key, bytes) for key in keys):
        raise TypeError("stream_hmac_key is bytes, or a list of bytes")
    if not all(keys) or not keys:
        raise InvalidValueError("a key that signs messages is not empty")
    return tuple(keys)
