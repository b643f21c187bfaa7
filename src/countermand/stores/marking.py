"""Marking the anchors of many messages: in one call where the store can, and none of them for want of another."""

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any, Final

from countermand.stores.contract import RevocationStore, offers
from countermand.stores.group import MISTAKES

PATIENCE_S: Final = 1.0
"""A store that refuses is asked no further after this time: each question may be a timeout."""
REMEMBERED: Final = 10_000
"""Anchors that were refused, and are asked last: more than a page holds, at its default size."""


class Marker:
    """Marks in `store`. Where its class has `mark_all(sids)`, a list is one call, which may mark some and raise."""

    def __init__(self, store: RevocationStore, clock_s: Callable[[], float]) -> None:
        self._mark_revoked = store.mark_revoked
        self._mark_all: Callable[[Sequence[str]], object] | None = None
        if offers(store, "mark_all", instead_of="mark_revoked"):
            self._mark_all = getattr(store, "mark_all")  # noqa: B009 - no part of the documented contract
        self._clock_s = clock_s
        self._turns = count(1)
        self._refused: dict[str, int] = {}  # by the turn at which that was, the oldest first

    def mark(self, anchors: Sequence[str]) -> dict[str, Exception]:
        """Mark `anchors`; return which of them the store did not take, and why.

        Those that it refused before come last, the longest ago first: one that it refuses slowly holds up no other.
        """
        return {} if self._marks_at_once(anchors) else self._mark_each(anchors)

    def _marks_at_once(self, anchors: Sequence[str]) -> bool:
        if self._mark_all is None or _attempt(self._mark_all, anchors) is not None:
            return False
        self._forget(anchors)
        return True

    def _mark_each(self, anchors: Sequence[str]) -> dict[str, Exception]:
        give_up_s = self._clock_s() + PATIENCE_S
        failed: dict[str, Exception] = {}
        latest: Exception | None = None
        for anchor in sorted(anchors, key=lambda each: self._refused.get(each, 0)):
            if latest is None or self._clock_s() < give_up_s:
                error = self._mark_one(anchor)
                latest = error or latest
            else:
                error = latest
            if error is not None:
                failed[anchor] = error
        return failed

    def _mark_one(self, anchor: str) -> Exception | None:
        error = _attempt(self._mark_revoked, anchor)
        self._forget([anchor])
        if error is not None:
            self._refused[anchor] = next(self._turns)
            if len(self._refused) > REMEMBERED:
                del self._refused[next(iter(self._refused))]
        return error

    def _forget(self, anchors: Iterable[str]) -> None:
        if self._refused:  # hardly ever
            for anchor in anchors:
                self._refused.pop(anchor, None)


def _attempt(mark: Callable[[Any], object], what: object) -> Exception | None:
    try:
        mark(what)
    except MISTAKES:
        raise
    except Exception as error:  # noqa: BLE001 - any store may be given, and it raises what it likes
        return error
    return None
