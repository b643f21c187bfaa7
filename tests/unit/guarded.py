"""What the tests of `enforce` share: good tokens, and revocations that say what they are told to."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

from countermand.enforce.asgi import ASGIApp, Message, Receive, Scope, Send
from countermand.enforce.decision import Decision, Deny
from countermand.enforce.guard import Guard
from countermand.enforce.revocations import AnyRevocations
from countermand.errors import UnreachableError
from countermand.log.anchor import Anchors, Kind
from countermand.log.entry import Entry
from countermand.log.freshness import Instant
from countermand.log.state import LogState
from countermand.log.verdict import Verdict
from countermand.replica.replica import Replica
from countermand.stores.memory import InMemoryRevocationStore
from countermand.tokens.jwks import KeySet, StaticKeys
from countermand.tokens.mandate import mint
from tests.signer import Signer
from tests.unit.log.helpers import read_snapshot
from tests.unit.mandates import AUDIENCE, CLAIMS, DELEGATED, ES256, FOREIGN, ISSUER, KEYS, NOW_S, sign

TOKEN_TEXT = mint(CLAIMS, ES256)
DELEGATED_TEXT = mint(DELEGATED, ES256)
FOREIGN_TEXT = sign(FOREIGN)
ID_HEADER = (b"x-request-id", b"0" * 32)
"""What every answer has: the random bytes of these tests are zeros."""
SECRETS = [part for token in (TOKEN_TEXT, DELEGATED_TEXT, FOREIGN_TEXT) for part in token.split(".")[1:]]
"""The payloads and the signatures: no message may hold one."""


class Answers:
    """Revocations with one answer, which also notes what they were asked."""

    def __init__(self, verdict: Any) -> None:
        self.verdict = verdict
        self.asked: list[tuple[Anchors, float | None]] = []

    def check(self, anchors: Anchors, max_staleness_s: float | None = None) -> Verdict:
        self.asked.append((anchors, max_staleness_s))
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict  # type: ignore[no-any-return]  # some tests answer with nonsense


class Store:
    """A store of somebody else's: it says nothing about blocking, and `answer` is called for every question."""

    def __init__(self, answer: Callable[[str], Any]) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.threads: set[int] = set()

    def is_revoked(self, sid: str) -> bool:
        self.asked.append(sid)
        self.threads.add(threading.get_ident())
        return self.answer(sid)  # type: ignore[no-any-return]  # some tests answer with nonsense

    def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None:
        raise NotImplementedError


class Keys:
    """A source of keys that counts, and fails when told to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.asked: list[str | None] = []

    async def key_set(self, key_id: str | None) -> KeySet:
        self.asked.append(key_id)
        if self.failure is not None:
            raise self.failure
        return KEYS


class Following:
    """What keeps revocations current, as far as the guard knows."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.running = False
        self.starts = 0
        self.asked = 0

    async def start(self) -> None:
        self.asked += 1
        self.starts += not self.running
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.running = True

    async def aclose(self) -> None:
        self.running = False


class Log:
    """A replica of a real log, and the clock that it reads. `on_applied` is a guard's, once there is one."""

    def __init__(self) -> None:
        self.signer = Signer()
        self.passed_ms = 0
        self.replica = Replica(LogState(self.signer.pin), self.clock, local=True)
        self.on_applied: Callable[[Sequence[Entry]], None] = lambda _entries: None

    def now_ms(self) -> int:
        return NOW_S * 1000 + self.passed_ms

    def clock(self) -> Instant:
        return Instant(self.now_ms(), self.now_ms())

    def publish(self) -> None:
        """Let a checkpoint arrive, with all that it covers."""
        for candidate in self.signer.candidates:
            self.replica.state.add(candidate)
        self.replica.state.accept(self.signer.checkpoint(self.now_ms()), self.clock())
        while entries := self.replica.state.advance():
            self.on_applied(entries)

    def publish_snapshot(self) -> None:
        """Let a snapshot arrive, and no checkpoint."""
        snapshot = read_snapshot(self.signer.snapshot(self.now_ms()), self.signer)
        self.replica.state.load(snapshot, self.clock())
        self.on_applied(())

    def revoke(self, kind: Kind, id_: str, *, issued_before_ms: int | None = None) -> None:
        self.signer.append(kind, id_, at_ms=self.now_ms(), issued_before_ms=issued_before_ms)
        self.publish()


class HeldLog(Log):
    """The same in a held event loop, whose time is the replica's and the guard's. It begins fresh.

    `step_s` is how far the guard's wall clock was set forward.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step_s = 0.0
        self.publish()

    def now_ms(self) -> int:
        return super().now_ms() + round(asyncio.get_running_loop().time() * 1000)

    def guard(self, **options: Any) -> Guard:
        """A guard over the replica, told of what is applied."""
        made = guard(self.replica, clock_s=lambda: self.now_ms() / 1000 + self.step_s, **options)
        self.on_applied = made.on_applied
        return made


def http(token: str = TOKEN_TEXT, **changes: Any) -> Scope:
    return _scope(token, type="http", method="GET") | changes


def websocket(token: str = TOKEN_TEXT, **changes: Any) -> Scope:
    return _scope(token, type="websocket") | changes


def _scope(token: str, **its: str) -> dict[str, Any]:
    bearer = (b"authorization", f"Bearer {token}".encode())
    return {"path": "/", "query_string": b"", "headers": [bearer], **its}


class Served:
    """One request at a server: what it is sent and when, by the loop's time; `says` is what its client sends.

    `on_sent` is called with each message, once it has arrived.
    """

    def __init__(self, app: ASGIApp, scope: Scope, on_sent: Callable[[Message], None] = lambda _message: None) -> None:
        self.sent: list[Message] = []
        self.times_s: list[float] = []
        self.says: asyncio.Queue[Message] = asyncio.Queue()
        self._on_sent = on_sent
        self.task = asyncio.ensure_future(app(scope, self.says.get, self._hear))

    async def _hear(self, message: Message) -> None:
        self.sent.append(message)
        self.times_s.append(asyncio.get_running_loop().time())
        self._on_sent(message)

    async def ended(self, within_s: float = 60) -> float:
        """Wait for its end; return when that was."""
        async with asyncio.timeout(within_s):
            await self.task
        return asyncio.get_running_loop().time()

    def chunks(self) -> int:
        """How many parts of a body were sent."""
        return sum(message["type"] == "http.response.body" for message in self.sent)

    def status(self) -> int | None:
        """The status of the answer, None while there is none."""
        return self.sent[0]["status"] if self.sent else None

    def is_whole(self) -> bool:
        """Whether the answer has its end."""
        return self.sent[-1]["type"] == "http.response.body" and not self.sent[-1].get("more_body", False)


class Streaming:
    """An app that sends a chunk at once and then each `period_s`, `count` of them; it notes how it ended."""

    def __init__(self, count: int = 1_000, period_s: float = 1.0) -> None:
        self.count = count
        self.period_s = period_s
        self.ended = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        self.ended = "running"
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for number in range(1, self.count + 1):
                await send({"type": "http.response.body", "body": b"chunk", "more_body": number < self.count})
                await asyncio.sleep(self.period_s)
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        self.ended = "finished"


def guard(revocations: AnyRevocations | None = None, **options: Any) -> Guard:
    """A guard over an empty store, with the keys of the tests and a clock that stands."""
    store = InMemoryRevocationStore() if revocations is None else revocations
    usual: dict[str, Any] = {"issuer": ISSUER, "audience": AUDIENCE, "clock_s": lambda: NOW_S, "random": bytes}
    return Guard(options.pop("keys", StaticKeys(KEYS)), store, **usual | options)


def denied(decision: Decision) -> Deny:
    assert isinstance(decision, Deny)
    return decision


def revoked(*ids: str) -> InMemoryRevocationStore:
    store = InMemoryRevocationStore()
    for id_ in ids:
        store.mark_revoked(id_)
    return store


UNREACHABLE = UnreachableError("no answer")
