"""The guard for threads: who has no event loop asks here, and waits.

The guard runs in an event loop in a daemon thread of its own, which begins with the first question that needs it. So a
process has nothing to lose when it forks before; when it forks later, the child begins anew. Nobody waits without a
limit, and no answer is a denial.

Few questions need the loop. Where a token was verified before, the issuer was asked for its keys within KEYS_S, and the
revocations answer at once, the thread that asks looks for itself. What it can find so is that a token may act; whatever
else there is to say, the loop says.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from countermand.enforce.decision import NO_FACTS, Code, Deny, Requirements
from countermand.enforce.forks import renew_in_children
from countermand.enforce.inflight import Call
from countermand.enforce.trace import Outcome
from countermand.tokens.cache import VerifiedToken
from countermand.tokens.jwks import KeySet

if TYPE_CHECKING:  # a guard makes its thread
    from countermand.enforce.guard import Guard

ANSWER_S: Final = 15.0
"""Longer than all that the guard itself waits for: the log's first word, then keys, then a store; or a call on hold."""
START_S: Final = 3.0
"""How long the first questions wait for the log's first word: before it they could only be refused."""
KEYS_S: Final = 1.0

_POLL_S: Final = 0.02

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class GuardThread:
    """`guard` in a thread of its own. Any other may ask."""

    def __init__(self, guard: "Guard") -> None:
        self.guard = guard
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """See `Renewable`."""
        self._changing = threading.Lock()
        self._thread: _LoopThread | None = None
        self._keys: tuple[KeySet, float] | None = None  # the issuer's, and when it was asked, by the loop's time

    def admit(
        self, token: str | None, required: Requirements, request_id: str, facts: Mapping[str, Any] = NO_FACTS
    ) -> "ThreadCall | Deny":
        """Do as Guard.admit does. What is let in is looked at whenever it is asked whether it `passes`."""
        if token is not None and self._thread is not None:
            known = self.guard.pass_at_once(token, self._fresh_keys(), required, request_id, facts)
            if known is not None:
                return ThreadCall(self, known, required, request_id)
        admitted = self.ask(partial(self._admit, token, required, request_id, facts), Outcome.DENIED, request_id)
        if isinstance(admitted, Deny):
            return admitted
        return ThreadCall(self, admitted.token, required, request_id, admitted)

    def ask(self, question: Callable[[], Awaitable[_T]], otherwise: Outcome, request_id: str) -> _T | Deny:
        """Return the answer to a question, asked in the guard's event loop; if none comes in time, tell `otherwise`."""
        try:
            thread = self._begun()
            answer = thread.answer(question)
            try:
                asked = asyncio.run_coroutine_threadsafe(answer, thread.loop)
            except RuntimeError:  # it was closed a moment ago
                answer.close()
                raise
            try:
                return asked.result(ANSWER_S)
            finally:
                asked.cancel()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is no answer
            _log.error("the guard's thread does not answer (%s)", type(error).__name__)
            denial = Deny.of(Code.REVOCATION_UNAVAILABLE, reason="no_answer")
            self.guard.trace.tell(otherwise, request_id, denial)
            return denial

    def do(self, what: Callable[[], object]) -> None:
        """Have the guard's event loop call `what`, and do not wait for it."""
        thread = self._thread
        if thread is not None:
            with suppress(RuntimeError):  # it was closed a moment ago
                thread.loop.call_soon_threadsafe(what)

    def close(self) -> None:
        """Stop the guard and its thread. Who asks after that begins anew."""
        with self._changing:
            thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive():
            with suppress(RuntimeError):  # it has just ended by itself
                thread.loop.call_soon_threadsafe(thread.stopping.set)
            thread.join(ANSWER_S)

    async def _admit(
        self, token: str | None, required: Requirements, request_id: str, facts: Mapping[str, Any]
    ) -> Call | Deny:
        asked_s = asyncio.get_running_loop().time()
        admitted = await self.guard.admit(token, required, request_id, facts)
        if isinstance(admitted, Call):
            if isinstance(admitted.token.keys, KeySet):
                self._keys = admitted.token.keys, asked_s
            if not admitted.may_pass() and admitted.denial is not None:  # it was cut while a store was thinking
                return admitted.denial
        return admitted

    def _fresh_keys(self) -> KeySet | None:
        thread, known = self._thread, self._keys
        if thread is None or known is None:
            return None
        keys, asked_s = known
        return keys if thread.loop.time() - asked_s < KEYS_S else None

    def _begun(self) -> "_LoopThread":
        """Return the thread; begin one where there is none. Raises: OSError, RuntimeError."""
        with self._changing:
            if self._thread is None or not self._thread.is_alive():  # a fork leaves none alive but the one that forked
                thread = _LoopThread(self.guard)
                thread.start()
                self._thread = thread
            return self._thread


class ThreadCall:
    """A call that a thread makes, until `end`. `denial` says why it was cut, None while it was not.

    Nothing happens to it between two looks: nobody can stop a thread that does something else.
    """

    __slots__ = ("_call", "_request_id", "_required", "_thread", "denial", "token")

    def __init__(
        self,
        thread: GuardThread,
        token: VerifiedToken,
        required: Requirements,
        request_id: str,
        call: Call | None = None,
    ) -> None:
        self.token = token
        self.denial: Deny | None = None
        self._thread = thread
        self._required = required
        self._request_id = request_id
        self._call = call  # there is one once the loop was asked

    def passes(self) -> bool:
        """Look; wait while the call is held; return False if it is cut."""
        if self.denial is None and not self._passes_at_once():
            self.denial = self._thread.ask(self._go_on, Outcome.CUT, self._request_id)
        return self.denial is None

    def end(self) -> None:
        """Let go of the call."""
        if self._call is not None:
            self._thread.do(self._call.end)

    def _passes_at_once(self) -> bool:
        was_cut = self._call is not None and self._call.denial is not None
        return not was_cut and self._thread.guard.lets_pass(self.token, self._required)

    async def _go_on(self) -> Deny | None:
        call = self._call = self._call or self._thread.guard.look_after(self.token, self._required, self._request_id)
        await call.passes()
        return call.denial


class _LoopThread(threading.Thread):
    """Runs the guard in an event loop until `stopping` is set. Raises: OSError, where there is no room for a loop."""

    def __init__(self, guard: "Guard") -> None:
        super().__init__(name="countermand guard", daemon=True)
        self.loop = asyncio.new_event_loop()
        self.stopping = asyncio.Event()
        self._ready = asyncio.Event()
        self._guard = guard

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._main())

    async def answer(self, question: Callable[[], Awaitable[_T]]) -> _T:
        """Return the answer to `question`, asked once the guard is ready."""
        await self._ready.wait()
        return await question()

    async def _main(self) -> None:
        try:
            await self._get_ready()
            await self.stopping.wait()
        finally:
            await self._guard.aclose()

    async def _get_ready(self) -> None:
        """Start the guard, and wait a while for the log's first word."""
        with suppress(Exception):  # whoever asks hears of it
            await self._guard.start()
        with suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                while self._guard.is_starting:  # noqa: ASYNC110  # a replica tells nobody
                    await asyncio.sleep(_POLL_S)
        self._ready.set()
