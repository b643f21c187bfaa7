"""How revocations are asked: a replica at once, a documented store by its flat ids.

Only True and False are answers of a store. Whatever else comes back, or is raised, is Unknown: never a pass.
Source: the documented store contract, `countermand.stores.contract`.
"""

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias, runtime_checkable

from countermand.errors import ConfigurationError
from countermand.log.anchor import Anchor, Anchors, Kind
from countermand.log.verdict import CLEAR, Clear, Revoked, Unknown, Verdict
from countermand.log.wire import flat_id
from countermand.stores.contract import RevocationStore, is_blocking

STORE_TIMEOUT_S: Final = 5.0  # one bounded wait for all anchors of a token; redis-py's own is 5 s
NO_SEQ: Final = 0  # a store does not know which entry revoked

_VERDICTS = (Clear, Revoked, Unknown)

_log = logging.getLogger(__name__)


@runtime_checkable
class Revocations(Protocol):
    """What is revoked, as a replica knows it."""

    def check(self, anchors: Anchors, max_staleness_s: float | None = None) -> Verdict:
        """Return whether a token with these anchors stands, judged in this order.

        1. An anchor is revoked: Revoked, root first, however stale the answer is.
        2. A cutoff reaches the token: Revoked.
        3. What is known is older than the stricter of `max_staleness_s` and the own bound, or nothing is known yet:
           Unknown.
        4. Clear.

        It never waits, never raises, and may be called from any thread.
        """
        ...


Question: TypeAlias = tuple[Anchors, float | None]
"""A token's anchors, and how stale the answer may be."""


class Asked(Protocol):
    """Revocations of either kind, as the guard asks them. No method ever raises."""

    @property
    def blocking(self) -> bool:
        """Whether asking waits for something outside the process. Then `check` is not for an event loop."""
        ...

    def check(self, anchors: Anchors, max_staleness_s: float | None) -> Verdict:
        """See Revocations.check."""
        ...

    async def ask(self, questions: Sequence[Question]) -> Sequence[Verdict]:
        """Return the answers in the same order, in one bounded wait for all of them."""
        ...


AnyRevocations: TypeAlias = Revocations | RevocationStore


def asked(revocations: object) -> Asked:
    """Return how to ask `revocations`; what offers both faces is asked for its verdict.

    Raises:
        ConfigurationError: None, a class, or neither Revocations nor a RevocationStore; or asked with coroutines.
    """
    if isinstance(revocations, type):
        raise ConfigurationError("revocations is an object that knows what is revoked, not its class")
    if isinstance(revocations, Revocations):
        return CheckedRevocations(revocations)
    if isinstance(revocations, RevocationStore):
        return StoreRevocations(revocations)
    raise ConfigurationError("revocations has `check`, or is a store with `is_revoked` and `mark_revoked`")


class CheckedRevocations:
    """Revocations that answer at once."""

    blocking = False

    def __init__(self, revocations: Revocations) -> None:
        _refuse_async(revocations.check)
        self._revocations = revocations

    def check(self, anchors: Anchors, max_staleness_s: float | None) -> Verdict:
        """See Asked."""
        try:
            verdict: object = self._revocations.check(anchors, max_staleness_s)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is no answer
            _log.error("what knows the revocations failed (%s)", type(error).__name__)
            return Unknown("check_error")
        if isinstance(verdict, _VERDICTS):
            return verdict
        _drop(verdict)
        return Unknown("check_error")

    async def ask(self, questions: Sequence[Question]) -> Sequence[Verdict]:
        """See Asked."""
        return [self.check(*question) for question in questions]


class StoreRevocations:
    """A documented store, asked for every id of the path by its flat form.

    A store knows no cutoffs and no staleness: where a staleness is required it can only answer Revoked or Unknown. Nor
    is it asked for subjects: a subject's name could be somebody's session id, and ending one must not end the other.
    One that blocks is asked in a thread, once for all ids.

    Raises:
        ConfigurationError: `is_revoked` is a coroutine function.
    """

    def __init__(self, store: RevocationStore, *, timeout_s: float = STORE_TIMEOUT_S) -> None:
        _refuse_async(store.is_revoked)
        self._store = store
        self._timeout_s = timeout_s
        self._failing = False
        self.blocking = is_blocking(store)

    def check(self, anchors: Anchors, max_staleness_s: float | None) -> Verdict:
        """See Asked."""
        return self._check(anchors, max_staleness_s, set())

    def _check(self, anchors: Anchors, max_staleness_s: float | None, clear: set[str]) -> Verdict:
        verdict = self._ask_all(anchors, clear)
        if isinstance(verdict, Clear) and max_staleness_s is not None:
            return Unknown("no_staleness")
        return verdict

    async def ask(self, questions: Sequence[Question]) -> Sequence[Verdict]:
        """See Asked. What is not answered in time is not known."""
        if not self.blocking:
            return [self.check(*question) for question in questions]
        answers: list[Verdict] = []
        nobody_waits = threading.Event()
        try:
            async with asyncio.timeout(self._timeout_s):
                await asyncio.to_thread(self._answer, questions, answers, nobody_waits)
        except TimeoutError:
            self._failed("no answer in time", "store_timeout")
        finally:
            nobody_waits.set()
        in_time = tuple(answers)
        return *in_time, *[Unknown("store_timeout")] * (len(questions) - len(in_time))

    def _answer(self, questions: Sequence[Question], answers: list[Verdict], nobody_waits: threading.Event) -> None:
        clear: set[str] = set()  # calls in flight share many ids
        for question in questions:
            answers.append(self._check(*question, clear))
            if nobody_waits.is_set():
                break

    def _ask_all(self, anchors: Anchors, clear: set[str]) -> Verdict:
        """Ask root first, and stop at the first id that is revoked, or about which there is no answer.

        What is known to be `clear` is not asked again.
        """
        for id_, anchor in _flat_ids(anchors).items():
            if id_ in clear:
                continue
            try:
                answer: object = self._store.is_revoked(id_)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is no answer
                return self._failed(type(error).__name__, "store_error")
            if answer is True:
                return Revoked(anchor, NO_SEQ)
            if answer is not False:
                _drop(answer)
                return self._failed(f"it answered with {type(answer).__name__}", "store_error")
            clear.add(id_)
        if self._failing:
            self._failing = False
            _log.warning("the revocation store answers again")
        return CLEAR

    def _failed(self, why: str, reason: str) -> Unknown:
        if not self._failing:
            self._failing = True
            _log.error("the revocation store does not answer: tokens are refused (%s)", why)
        return Unknown(reason)


def _flat_ids(anchors: Anchors) -> dict[str, Anchor]:
    """Return what to ask, root first. An id that is no ASCII may have been marked as it is, or as we publish it."""
    ids: dict[str, Anchor] = {}
    for anchor in anchors.path:
        if anchor.kind is not Kind.SUBJECT:
            ids.setdefault(flat_id(anchor), anchor)
            if not anchor.issuer:
                ids.setdefault(anchor.id, anchor)
    return ids


def _refuse_async(method: Callable[..., object]) -> None:
    if inspect.iscoroutinefunction(method):
        raise ConfigurationError("revocations are asked with plain functions: a coroutine is no answer")


def _drop(answer: object) -> None:
    if inspect.iscoroutine(answer):
        answer.close()  # or Python warns that nobody awaited it
