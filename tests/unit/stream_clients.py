"""Clients and stores for tests of the consumer: as small as a client may be, and failing when they are told to."""

import json
from collections.abc import Mapping
from typing import Any

from countermand.errors import StoreFullError
from countermand.log.hmac import stream_signature
from countermand.log.wire import REVOCATION_STREAM
from countermand.stores.consumer import RedisRevocationConsumer
from countermand.stores.memory import InMemoryRevocationStore

KEY = bytes.fromhex("0123456789abcdef" * 4)
OTHER_KEY = b"k" * 32

Fields = Mapping[Any, Any]
Entry = tuple[bytes, Fields]

FIELDS: Fields = {b"session_id": b"a"}


class MinimalClient:
    """Holds a stream and one consumer's pending messages, and has no method that a consumer could do without."""

    def __init__(self, *waiting: Entry) -> None:
        self.waiting = list(waiting)
        self.pending: list[Entry] = []
        self.acknowledged: list[bytes] = []
        self.reads: list[tuple[str, int | None]] = []
        self.fault: Exception | None = None

    def xgroup_create(self, *_: Any, id: str, mkstream: bool) -> None:  # noqa: A002 - redis-py's word
        assert (id, mkstream) == ("0", True)

    def xreadgroup(self, *_: Any, count: int, block: int | None) -> Any:
        if self.fault is not None:
            raise self.fault
        ((stream, after),) = _[-1].items()
        self.reads.append((after, block))
        if after == ">":
            page, self.waiting = self.waiting[:count], self.waiting[count:]
            self.pending += page
        else:
            page = [entry for entry in self.pending if _number(entry[0]) > _number(after)][:count]
        return [[stream, page]] if page else []

    def xack(self, _stream: str, _group: str, *ids: bytes) -> int:
        assert ids
        self.acknowledged += ids
        self.pending = [entry for entry in self.pending if entry[0] not in ids]
        return len(ids)


class AnsweringClient(MinimalClient):
    """Answers every read alike, whatever is asked for."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def xreadgroup(self, *_: Any, **__: Any) -> Any:
        return self.answer


class BuryingClient(MinimalClient):
    """Can write dead letters; while there is a `bury_fault`, only those between each `faulty_every`th."""

    def __init__(self, *waiting: Entry) -> None:
        super().__init__(*waiting)
        self.letters: list[tuple[bytes, str, Any]] = []
        self.bury_fault: Exception | None = None
        self.faulty_every = 1
        self.buries = 0

    def xadd(self, name: str, fields: Any, *, maxlen: int, approximate: bool) -> None:
        assert (name[-5:], maxlen, approximate) == (".dead", 10_000, True)
        self.buries += 1
        if self.bury_fault is not None and self.buries % self.faulty_every == 0:
            raise self.bury_fault
        self.letters.append((fields["source_id"], fields["reason"], json.loads(fields["payload"])))


class PipeliningClient(BuryingClient):
    """Can also write many at once."""

    def __init__(self, *waiting: Entry) -> None:
        super().__init__(*waiting)
        self.trips: list[int] = []
        self.trip_fault: Exception | None = None

    def pipeline(self, *, transaction: bool) -> "Pipeline":
        assert transaction is False
        return Pipeline(self)


class Pipeline:
    def __init__(self, client: PipeliningClient) -> None:
        self.client = client
        self.commands: list[Any] = []

    def xadd(self, *args: Any, **options: Any) -> None:
        self.commands.append((args, options))

    def execute(self, *, raise_on_error: bool) -> list[Any]:
        assert raise_on_error is False
        if self.client.trip_fault is not None:
            raise self.client.trip_fault
        self.client.trips.append(len(self.commands))
        return [self._answer(args, options) for args, options in self.commands]

    def _answer(self, args: Any, options: Any) -> Any:
        try:
            return self.client.xadd(*args, **options)
        except RedisError as error:
            return error


class ClaimingClient(MinimalClient):
    """Gives `pages` to XAUTOCLAIM, by the cursor that asks for them."""

    def __init__(self, pages: Mapping[str, Any], *waiting: Entry) -> None:
        super().__init__(*waiting)
        self.pages = pages
        self.claims: list[str] = []

    def xautoclaim(self, *_: Any, start_id: bytes | str, count: int) -> Any:
        assert (_[3], count) == (30_000, 50)
        self.claims.append(as_bytes(start_id).decode())
        page = self.pages[self.claims[-1]]
        if isinstance(page, Exception):
            raise page
        return page


class RedisError(Exception):
    """A server's error, as a client of any make says it: the code is in the text."""


class NoPermissionError(RedisError):
    """As older versions of redis-py say it: the code is the name of the class, and not in the text."""


class CodedError(RedisError):
    """As newer versions say it."""

    status_code = "NOPERM"


FOR_GOOD = [
    RedisError("WRONGTYPE Operation against a key holding the wrong kind of value"),
    NoPermissionError("this user has no permissions"),
    CodedError("this user has no permissions"),
    RedisError("unknown command `XADD`, with args beginning with: "),
]
"""Errors that the same command will have again."""


class RecordingStore:
    """A store that remembers what was marked, and when."""

    def __init__(self) -> None:
        self.marked: list[str] = []

    def is_revoked(self, sid: str) -> bool:
        return sid in self.marked

    def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None:
        assert ttl_ms is None
        self.marked.append(sid)


class PickyStore(RecordingStore):
    """Takes all but `refused`, at which it raises `fault`."""

    def __init__(self, *refused: str) -> None:
        super().__init__()
        self.refused = set(refused)
        self.asked: list[str] = []
        self.fault: Exception = StoreFullError("full")

    def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None:
        self.asked.append(sid)
        if sid in self.refused:
            raise self.fault
        super().mark_revoked(sid, ttl_ms)


class HeldTime:
    """A clock in seconds that moves when told to, or when someone sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


def as_bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text


def entries(*fields: Fields) -> list[Entry]:
    """Messages 1-0, 2-0 and so on."""
    return [(f"{n}-0".encode(), each) for n, each in enumerate(fields, 1)]


def polls(consumer: RedisRevocationConsumer, times: int) -> int:
    """Return how many messages were dealt with."""
    return sum(consumer.poll_once() for _ in range(times))


def signed(fields: Mapping[str, str], key: bytes = KEY, stream: str = REVOCATION_STREAM) -> dict[str, str]:
    return {**fields, "_sig": stream_signature(key, stream, fields)}


def consumer_of(
    client: Any, store: Any = None, time: HeldTime | None = None, **options: Any
) -> RedisRevocationConsumer:
    """A consumer whose time is held, and whose chance is none."""
    time = time or HeldTime()
    store = store or InMemoryRevocationStore()
    given: dict[str, Any] = {"clock_s": time, "sleep": time.sleep, "random": lambda: 1.0}
    return RedisRevocationConsumer(client, store, "replica-1", **{**given, **options})


def _number(message_id: bytes | str) -> int:
    return int(as_bytes(message_id).partition(b"-")[0])
