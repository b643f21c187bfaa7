"""How revocations are asked: a replica at once, a documented store by its flat ids.

Only True and False are answers of a store. Whatever else comes back, or is raised, is Unknown: never a pass.
Source: the documented store contract, `countermand.stores.contract`.
"""

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import chain, islice
from typing import Final, Protocol, TypeAlias, runtime_checkable

from countermand.enforce.forks import renew_in_children
from countermand.errors import ConfigurationError, MalformedError
from countermand.log.anchor import Anchor, Anchors, Kind
from countermand.log.revocation_id import ED25519_BYTES, parse_revocation_id, twins
from countermand.log.verdict import CLEAR, Clear, Revoked, Unknown, Verdict
from countermand.log.wire import flat_id
from countermand.stores.contract import BatchRevocationStore, RevocationStore, answers_batches, is_blocking

STORE_TIMEOUT_S: Final = 5.0  # one bounded wait for all anchors of a token; redis-py's own is 5 s
PAGE: Final = 1_000
"""How many ids a store is asked about at once, if it answers batches."""
NO_SEQ: Final = 0  # a store does not know which entry revoked


class _Threads:
    """Of those who ask stores, and of nobody else: a store that hangs keeps them all, for up to its own time-out."""

    def __init__(self) -> None:
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """See `Renewable`."""
        self.pool = ThreadPoolExecutor(32, "revocation-store")


THREADS: Final = _Threads()

_SUBJECT, _BISCUIT = Kind.SUBJECT, Kind.BISCUIT  # looking them up in Kind takes longer than a comparison
_VERDICTS = (Clear, Revoked, Unknown)

_log = logging.getLogger(__name__)


@runtime_checkable
class Dated(Protocol):
    """What can say how old its knowledge is. Revocations need not."""

    def staleness_ms(self) -> int | None:
        """Return how old what is known is now; None where nothing is known yet."""
        ...


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
    """Revocations of either kind, as the guard asks them.

    No method raises an Exception, whatever a store does. What is none, such as SystemExit, leaves; it never passes for
    an answer.
    """

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

    def staleness_ms(self) -> int | None:
        """Return how old what is known is now; None where that is not known."""
        ...


_Path: TypeAlias = dict[str, Anchor]  # a token's anchors by the ids under which a store knows them, root first
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

    def staleness_ms(self) -> int | None:
        """See Asked."""
        try:
            return self._revocations.staleness_ms() if isinstance(self._revocations, Dated) else None
        except Exception as error:  # noqa: BLE001  # a decision does not fail for want of a word about it
            _log.error("what knows the revocations failed (%s)", type(error).__name__)
            return None


class StoreRevocations:
    """A documented store, asked for every id of the path by its flat form.

    A store knows no cutoffs and no staleness: where a staleness is required it can only answer Revoked or Unknown. Nor
    is it asked for subjects: a subject's name could be somebody's session id, and ending one must not end the other.
    One that blocks is asked in a thread, once for all ids; one that answers batches, with all ids at once.

    Raises:
        ConfigurationError: `is_revoked` or `are_revoked` is a coroutine function.
    """

    def __init__(self, store: RevocationStore, *, timeout_s: float = STORE_TIMEOUT_S) -> None:
        _refuse_async(store.is_revoked)
        self._store = store
        self._batches = store if answers_batches(store) else None
        if self._batches is not None:
            _refuse_async(self._batches.are_revoked)
        self._timeout_s = timeout_s
        self._failing = False
        self.blocking = is_blocking(store)

    def check(self, anchors: Anchors, max_staleness_s: float | None) -> Verdict:
        """See Asked."""
        ids = _flat_ids(anchors)
        return self._judge(ids, max_staleness_s, self._answers([ids]))

    async def ask(self, questions: Sequence[Question]) -> Sequence[Verdict]:
        """See Asked. What is not answered in time is not known."""
        if not self.blocking:
            return [self.check(*question) for question in questions]
        verdicts: list[Verdict] = []
        nobody_waits = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                await loop.run_in_executor(THREADS.pool, self._judge_all, questions, verdicts, nobody_waits)
        except TimeoutError:
            self._failed("no answer in time", "store_timeout")
        finally:
            nobody_waits.set()
        in_time = tuple(verdicts)
        return *in_time, *[Unknown("store_timeout")] * (len(questions) - len(in_time))

    def staleness_ms(self) -> int | None:
        """See Asked. A store cannot say."""
        return None

    def _judge_all(self, questions: Sequence[Question], verdicts: list[Verdict], nobody_waits: threading.Event) -> None:
        paths = [_flat_ids(anchors) for anchors, _ in questions]
        answers = self._answers(paths)  # calls in flight share many ids
        for ids, (_, max_staleness_s) in zip(paths, questions, strict=True):
            verdicts.append(self._judge(ids, max_staleness_s, answers))
            if nobody_waits.is_set():
                break

    def _answers(self, paths: Iterable[_Path]) -> "_Answers":
        if self._batches is None:
            return _OneByOne(self._store)
        return _InPages(self._batches, chain.from_iterable(paths))

    def _judge(self, ids: _Path, max_staleness_s: float | None, answers: "_Answers") -> Verdict:
        """Look root first, and stop at the first id that is revoked, or about which there is no answer."""
        for id_, anchor in ids.items():
            answer = answers.about(id_)
            if answer is True:
                return Revoked(anchor, NO_SEQ)
            if answer is not False:
                return self._failed(_no_answer(answer), "store_error")
        if self._failing:
            self._failing = False
            _log.warning("the revocation store answers again")
        return CLEAR if max_staleness_s is None else Unknown("no_staleness")

    def _failed(self, why: str, reason: str) -> Unknown:
        if not self._failing:
            self._failing = True
            _log.error("the revocation store does not answer: tokens are refused (%s)", why)
        return Unknown(reason)


class _Answers(Protocol):
    """What a store says of some tokens' ids, asked when it is needed."""

    def about(self, id_: str) -> object:
        """Return what the store says, whatever that is; or what it has raised."""
        ...


class _OneByOne:
    """A store that is asked for each id. What is known to be clear is not asked again."""

    def __init__(self, store: RevocationStore) -> None:
        self._store = store
        self._clear: set[str] = set()

    def about(self, id_: str) -> object:
        """See _Answers."""
        if id_ in self._clear:
            return False
        try:
            answer: object = self._store.is_revoked(id_)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is no answer
            return error
        if answer is False:
            self._clear.add(id_)
        return answer


class _InPages:
    """A store that is asked for the next ids at once, as far as they are needed; each of `ids` may come again."""

    def __init__(self, store: BatchRevocationStore, ids: Iterable[str]) -> None:
        self._store = store
        self._known: dict[str, object] = {}
        self._ahead = iter(dict.fromkeys(ids))

    def about(self, id_: str) -> object:
        """See _Answers."""
        while id_ not in self._known:
            page = tuple(islice(self._ahead, PAGE))
            self._known.update(zip(page, self._ask(page), strict=True))
        return self._known[id_]

    def _ask(self, page: Sequence[str]) -> Sequence[object]:
        try:
            answers: object = self._store.are_revoked(page)
            if isinstance(answers, Sequence):
                said = tuple(answers)
                if len(said) == len(page):
                    return said
        except Exception as error:  # noqa: BLE001  # whatever it is, it is no answer
            return [error] * len(page)
        return [TypeError(_no_answer(answers))] * len(page)


def _flat_ids(anchors: Anchors) -> _Path:
    """Return what to ask, root first. An id that is no ASCII may have been marked as it is, or as we publish it.

    A Biscuit's may have been marked in any of its forms: who marks it may know no canonical one.
    """
    ids: _Path = {}
    for anchor in anchors.path:
        if anchor.kind is not _SUBJECT:
            ids.setdefault(flat_id(anchor), anchor)
            if not anchor.issuer:
                ids.setdefault(anchor.id, anchor)
                if anchor.kind is _BISCUIT:
                    for twin in _twins(anchor.id):
                        ids.setdefault(twin, anchor)
    return ids


@lru_cache(4096)
def _twins(id_: str) -> Iterable[str]:
    if len(id_) == 2 * ED25519_BYTES:  # nearly all, and these have one form
        return ()
    try:
        return twins(parse_revocation_id(id_))
    except MalformedError:
        return ()


def _refuse_async(method: Callable[..., object]) -> None:
    if inspect.iscoroutinefunction(method):
        raise ConfigurationError("revocations are asked with plain functions: a coroutine is no answer")


def _no_answer(answer: object) -> str:
    if isinstance(answer, Exception):
        return type(answer).__name__
    _drop(answer)
    return f"it answered with {type(answer).__name__}"


def _drop(answer: object) -> None:
    if inspect.iscoroutine(answer):
        answer.close()  # or Python warns that nobody awaited it
