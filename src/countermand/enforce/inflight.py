"""Calls in flight: what was let in goes on only while it would be let in again.

A call is registered before it is decided: what is applied before the decision is seen by it, and what is applied after
it finds the call registered. From then on

    1. nothing passes without a look: has the token ended, is it revoked, is what we know fresh enough;
    2. every call is looked at when something was applied, and each quarter of a second, for those that are idle;
    3. a call whose token ended or is revoked is cut, for good;
    4. a call of which we cannot know is held: nothing passes until we know again, and after HOLD_S it is cut.

A store that blocks is asked about all calls together, and they are looked at, once a second; a look goes by its last
answer. Where it cannot answer for all of them in time, the others are held, and asked about first the next time.
Source: docs/protocol.md, "In flight".
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Final

from countermand.enforce.decision import Code, Deny
from countermand.enforce.forks import renew_in_children
from countermand.enforce.revocations import Asked
from countermand.enforce.trace import Outcome, Trace
from countermand.errors import ExpiredTokenError
from countermand.log.verdict import CLEAR, Clear, Revoked, Verdict
from countermand.tokens.cache import VerifiedToken

HOLD_S: Final = 10.0
"""How long a call is held, from when we were first seen not to know."""
LOOK_S: Final = 0.25
ASK_S: Final = 1.0
"""How often a store that blocks is asked."""

_EXPIRED = Deny.of(Code.INVALID_TOKEN, description="the token has expired", reason=ExpiredTokenError.code)


class Call:
    """A call that is in flight until `end`, or until it is cut. It belongs to the event loop that registered it.

    `denial` says why it was cut, None while it was not. `answer` is a blocking store's last.
    """

    __slots__ = (
        *("_held_since_s", "_on_cut", "_released", "_watch"),
        *("answer", "denial", "max_staleness_s", "request_id", "token"),
    )

    def __init__(self, watch: "_Watch", token: VerifiedToken, max_staleness_s: float | None, request_id: str) -> None:
        self.token = token
        self.request_id = request_id
        self.max_staleness_s = max_staleness_s
        self.denial: Deny | None = None
        self.answer: Verdict = CLEAR  # nothing passes before the decision, which asks for itself
        self._watch = watch
        self._on_cut: Callable[[Deny], object] | None = None
        self._held_since_s = 0.0
        self._released: asyncio.Event | None = None  # there is one while the call is held

    def on_cut(self, tell: Callable[[Deny], object]) -> None:
        """Have `tell` called with the denial when the call is cut, in its event loop."""
        self._on_cut = tell

    def may_pass(self) -> bool:
        """Look, and return whether anything may pass now. If not, the call is held, or cut."""
        self._watch.look(self)
        return self.denial is None and not self.is_held

    @property
    def is_held(self) -> bool:
        """Whether nothing passes, because we cannot know."""
        return self._released is not None

    async def passes(self) -> bool:
        """Wait while the call is held; return False if it is cut."""
        while not self.may_pass():
            if self._released is None:
                return False
            await self._released.wait()
        return True

    def end(self) -> None:
        """Let go of the call: what it still does is its own affair."""
        self._watch.calls.discard(self)
        self._on_cut = None
        self._free()

    def release(self) -> None:
        """Hold the call no longer, if it was held."""
        if self._free():
            self._tell(Outcome.RELEASED)

    def hold(self, denial: Deny, now_s: float) -> None:
        """Let nothing pass; cut the call with `denial` if it has been held for too long. `now_s` is its loop's time."""
        if self._released is None:
            self._released, self._held_since_s = asyncio.Event(), now_s
            self._tell(Outcome.HELD, denial)
        elif now_s - self._held_since_s >= HOLD_S:
            self.cut(denial)

    def cut(self, denial: Deny) -> None:
        """End the call: from here on nothing passes."""
        self._tell(Outcome.CUT, denial)
        self.denial = denial
        tell = self._on_cut
        self.end()
        if tell is not None:
            tell(denial)

    def _free(self) -> bool:
        released, self._released = self._released, None
        if released is not None:
            released.set()
        return released is not None

    def _tell(self, outcome: Outcome, denial: Deny | None = None) -> None:
        self._watch.trace.tell(outcome, self.request_id, denial, self.token, self.max_staleness_s)


class InFlight:
    """The calls that one guard let in. Each event loop looks after its own; any thread may ask for a recheck."""

    def __init__(self, asked: Asked, clock_s: Callable[[], float], trace: Trace) -> None:
        self._asked = asked
        self._clock_s = clock_s
        self._trace = trace
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """See `Renewable`."""
        self._watches: dict[asyncio.AbstractEventLoop, _Watch] = {}
        self._changing = threading.Lock()

    def __len__(self) -> int:
        return sum(len(watch.calls) for watch in self._all())

    def register(self, token: VerifiedToken, max_staleness_s: float | None, request_id: str = "") -> Call:
        """Return a call by `token`, which is looked after from now on. Decide after, never before."""
        loop = asyncio.get_running_loop()
        watch = self._watches.get(loop) or self._begin(loop)
        call = Call(watch, token, max_staleness_s, request_id)
        watch.calls.add(call)
        return call

    def recheck(self, keys: frozenset[bytes] | None = None) -> None:
        """Have calls looked at as soon as their event loops come to it: those with one of these anchors, or all."""
        for watch in self._all():
            watch.wake(keys)

    def _all(self) -> list["_Watch"]:
        with self._changing:
            return list(self._watches.values())

    def _begin(self, loop: asyncio.AbstractEventLoop) -> "_Watch":
        watch = _Watch(self._asked, self._clock_s, self._trace, loop, self._let_go)
        with self._changing:
            self._watches = {other: kept for other, kept in self._watches.items() if not other.is_closed()}
            self._watches[loop] = watch
        return watch

    def _let_go(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._changing:
            self._watches.pop(loop, None)


class _Watch:
    """Looks after the calls of one event loop, by its timers, until a look finds none."""

    def __init__(
        self,
        asked: Asked,
        clock_s: Callable[[], float],
        trace: Trace,
        loop: asyncio.AbstractEventLoop,
        let_go: Callable[[asyncio.AbstractEventLoop], None],
    ) -> None:
        self.calls: set[Call] = set()
        self.trace = trace
        self._asked = asked
        self._clock_s = clock_s
        self._loop = loop
        self._let_go = let_go
        self._asking: asyncio.Task[None] | None = None
        self._period_s = ASK_S if asked.blocking else LOOK_S
        loop.call_later(self._period_s, self._tick)

    def look(self, call: Call) -> None:
        """Cut, hold or release a call by what is known now. One that has ended is left alone."""
        if call not in self.calls:
            return
        if not self._clock_s() < call.token.ends_at_s:
            call.cut(_EXPIRED)
            return
        asked = self._asked
        verdict = call.answer if asked.blocking else asked.check(call.token.anchors, call.max_staleness_s)
        if isinstance(verdict, Clear):
            call.release()
        elif isinstance(verdict, Revoked):
            call.cut(Deny.by(verdict))
        else:
            call.hold(Deny.by(verdict), self._loop.time())

    def wake(self, keys: frozenset[bytes] | None) -> None:
        """Look soon at every call, or at those with one of these anchors. Called from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._look_at, keys)
        except RuntimeError:  # the loop was closed, and its calls ended with it
            self._let_go(self._loop)

    def _tick(self) -> None:
        if not self.calls:
            self._let_go(self._loop)
            return
        self._loop.call_later(self._period_s, self._tick)
        if self._asked.blocking and self._asking is None:
            self._asking = self._loop.create_task(self._ask(), name="countermand calls in flight")
        self._look_at(None)

    def _look_at(self, keys: frozenset[bytes] | None) -> None:
        for call in tuple(self.calls):
            if keys is None or not keys.isdisjoint(call.token.anchors.keys):
                self.look(call)

    async def _ask(self) -> None:
        calls = sorted(self.calls, key=lambda call: not call.is_held)
        try:
            answers = await self._asked.ask([(call.token.anchors, call.max_staleness_s) for call in calls])
            for call, answer in zip(calls, answers, strict=True):
                call.answer = answer
                self.look(call)
        finally:
            self._asking = None
