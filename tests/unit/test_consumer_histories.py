"""Random histories of consumers in one group: faults before and after their effect, lost groups, ends and new lives.

What holds in each: nothing is acknowledged that was not applied or refused; once the faults are over all is applied;
and no fault among older messages keeps a new one waiting.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from countermand.stores.consumer import RedisRevocationConsumer
from countermand.stores.memory import InMemoryRevocationStore
from tests.running import PROOF
from tests.unit.stream_clients import HeldTime, RedisError, as_bytes

NAMES: Final = ("a", "b")
BATCHES: Final = (1, 2, 5)
IDLE_S: Final = 30.0
HISTORIES: Final = settings(max_examples=3000 if PROOF else 60, deadline=None)

READS: Final = frozenset({"xreadgroup >"})
OLDER: Final = frozenset({"xreadgroup", "xautoclaim", "xadd"})
EVERYTHING: Final = READS | OLDER | {"xack", "xgroup_create"}


class Server:
    """A stream with one group, as Redis 6.2 keeps it: who has read a message, and when."""

    def __init__(self, time: HeldTime) -> None:
        self.time = time
        self.stream: dict[int, dict[str, str]] = {}
        self.added = 0
        self.letters: list[bytes] = []
        self.acknowledged: set[int] = set()
        self.lose_group()

    def add(self, fields: dict[str, str]) -> int:
        self.added += 1
        self.stream[self.added] = fields
        return self.added

    def lose_group(self) -> None:
        self.exists = False
        self.delivered = 0
        self.pending: dict[int, tuple[str, float]] = {}

    def create(self) -> None:
        if self.exists:
            raise RedisError("BUSYGROUP Consumer Group name already exists")
        self.exists = True

    def look_up(self) -> None:
        if not self.exists:
            raise RedisError("NOGROUP No such consumer group")

    def read_new(self, consumer: str, count: int) -> list[int]:
        ids = [number for number in self.stream if number > self.delivered][:count]
        for number in ids:
            self.delivered, self.pending[number] = number, (consumer, self.time())
        return ids

    def read_own(self, consumer: str, after: int, count: int) -> list[int]:
        own = (number for number in sorted(self.pending) if self.pending[number][0] == consumer)
        return [number for number in own if number > after][:count]

    def claim(self, consumer: str, start: int, count: int) -> tuple[int, list[int]]:
        """Look at three times `count` at most, so that a page may be empty and not the last."""
        page: list[int] = []
        for looked, number in enumerate(number for number in sorted(self.pending) if number >= start):
            if looked == count * 3 or len(page) == count:
                return number, page
            if self.time() - self.pending[number][1] >= IDLE_S:
                self.pending[number] = consumer, self.time()
                page.append(number)
        return 0, page


class Client:
    """What `faulty` names fails now and then: before its effect, or after it."""

    def __init__(self, server: Server, random: Random) -> None:
        self.server = server
        self.random = random
        self.faulty: frozenset[str] = frozenset()

    def xgroup_create(self, *_: Any, **__: Any) -> None:
        self._do("xgroup_create", self.server.create)

    def xreadgroup(self, _group: str, consumer: str, streams: dict[str, Any], *, count: int, block: None) -> Any:
        assert block is None
        ((stream, after),) = streams.items()

        def read() -> Any:
            self.server.look_up()
            new = after == ">"
            ids = (
                self.server.read_new(consumer, count) if new else self.server.read_own(consumer, _number(after), count)
            )
            return [[stream, [self._entry(number) for number in ids]]]

        return self._do("xreadgroup >" if after == ">" else "xreadgroup", read)

    def xautoclaim(self, _stream: str, _group: str, consumer: str, _idle: int, *, start_id: Any, count: int) -> Any:
        def claim() -> Any:
            self.server.look_up()
            cursor, ids = self.server.claim(consumer, _number(start_id), count)
            return [_id(cursor), [self._entry(number) if number in self.server.stream else None for number in ids]]

        return self._do("xautoclaim", claim)

    def xack(self, _stream: str, _group: str, *ids: bytes) -> None:
        def acknowledge() -> None:
            for number in map(_number, ids):
                self.server.acknowledged.add(number)
                self.server.pending.pop(number, None)

        self._do("xack", acknowledge)

    def xadd(self, _name: str, fields: dict[str, Any], **_: Any) -> None:
        self._do("xadd", lambda: self.server.letters.append(fields["source_id"]))

    def _entry(self, number: int) -> tuple[bytes, Any]:
        return _id(number), self.server.stream.get(number)

    def _do(self, name: str, effect: Callable[[], Any]) -> Any:
        self._may_fail(name)
        answer = effect()
        self._may_fail(name)
        return answer

    def _may_fail(self, name: str) -> None:
        if name in self.faulty and self.random.random() < 0.3:
            raise self.random.choice(
                [ConnectionError("lost"), RedisError("OOM"), KeyboardInterrupt(), TypeError("odd")]
            )


class UnclaimingClient(Client):
    """As of a server before 6.2, or of a client that knows no more."""

    xautoclaim = property()


class FaultyStore(InMemoryRevocationStore):
    faulty = False

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.random = random

    def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None:
        if self.faulty and self.random.random() < 0.4:
            raise self.random.choice([OSError("full"), OSError("full"), TypeError("odd"), KeyboardInterrupt()])
        super().mark_revoked(sid, ttl_ms)


class History:
    """Consumers in one group, with a store each has a share in; and what is to be revoked at the end."""

    def __init__(self, random: Random, made: type[Client]) -> None:
        self.random = random
        self.time = HeldTime()
        self.server = Server(self.time)
        self.client = made(self.server, random)
        self.store = FaultyStore(random)
        self.wanted: dict[int, str] = {}
        names = NAMES if made is Client else NAMES[:1]  # without claims each reads its own again, and no other's
        self.consumers = {name: self.make(name) for name in names}

    def make(self, name: str) -> RedisRevocationConsumer:
        given: dict[str, Any] = {"clock_s": self.time, "sleep": self.time.sleep, "random": self.random.random}
        return RedisRevocationConsumer(self.client, self.store, name, batch_size=self.random.choice(BATCHES), **given)

    def add(self) -> None:
        sid = f"s{self.server.added}"
        if self.random.random() < 0.3:
            self.server.add({"reason": "none"})
        else:
            self.wanted[self.server.add({"session_id": sid})] = sid

    def trim(self) -> None:
        if self.server.stream:
            number = self.random.choice(list(self.server.stream))
            del self.server.stream[number]
            self.wanted.pop(number, None)

    def die(self) -> None:
        name = self.random.choice(list(self.consumers))
        self.consumers[name] = self.make(name)

    def poll(self) -> None:
        self.time.now_s += self.random.choice([0, 0.05, 1, 12])
        with suppress(KeyboardInterrupt, TypeError):
            self.random.choice(list(self.consumers.values())).poll_once()

    def step(self) -> None:
        (act,) = self.random.choices(
            [self.add, self.poll, self.trim, self.die, self.server.lose_group], [40, 50, 3, 4, 3]
        )
        act()

    def is_sound(self) -> bool:
        """Whether all that was acknowledged is applied, as long as it is on the stream."""
        done = (sid for number, sid in self.wanted.items() if number in self.server.acknowledged)
        return all(self.store.is_revoked(sid) for sid in done)

    def left(self) -> Iterator[str]:
        yield from (sid for sid in self.wanted.values() if not self.store.is_revoked(sid))
        yield from map(str, self.server.pending)


def _id(number: int) -> bytes:
    return f"{number}-0".encode()


def _number(message_id: bytes | str) -> int:
    return int(as_bytes(message_id).partition(b"-")[0])


MADE: Final = pytest.mark.parametrize("made", [Client, UnclaimingClient])


@MADE
@HISTORIES
@given(seed=st.integers(0, 2**32))
def test_nothing_is_acknowledged_unapplied_and_all_is_applied_once_the_faults_are_over(
    made: type[Client], seed: int
) -> None:
    random = Random(seed)  # noqa: S311 - a seed, to see it again
    history = History(random, made)
    for _ in range(120):
        history.client.faulty = random.choice([frozenset(), EVERYTHING, OLDER])
        history.store.faulty = random.random() < 0.4
        history.step()
        assert history.is_sound()
    history.client.faulty, history.store.faulty = frozenset(), False

    for _ in range(240):
        for consumer in history.consumers.values():
            consumer.poll_once()
        history.time.now_s += 0.5

    assert list(history.left()) == []


@MADE
@HISTORIES
@given(seed=st.integers(0, 2**32))
def test_whatever_becomes_of_older_messages_a_new_one_is_applied_by_the_next_poll(
    made: type[Client], seed: int
) -> None:
    history = History(Random(seed), made)  # noqa: S311 - as above
    for _ in range(60):
        history.client.faulty = EVERYTHING
        history.store.faulty = True
        history.step()
    history.store.faulty = False
    for _ in range(30):
        history.client.faulty = frozenset()
        for consumer in history.consumers.values():
            while history.server.delivered < max(history.server.stream, default=0):
                consumer.poll_once()
        history.client.faulty = OLDER
        sid = f"new {history.server.added}"
        history.server.add({"session_id": sid})
        history.poll()
        assert history.store.is_revoked(sid)
