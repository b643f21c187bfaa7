"""What a fork leaves behind in the child: locks that a thread held which is not there, and loops that never run."""

import os
from collections.abc import Callable
from weakref import WeakMethod

_renewals: set[WeakMethod[Callable[[], None]]] = set()


def renew_in_children(renew: Callable[[], None]) -> None:
    """Have a bound method called in every process that is forked from this one, while its object lives."""
    _renewals.add(WeakMethod(renew, _renewals.discard))


def _renew() -> None:
    for renewal in tuple(_renewals):
        if (renew := renewal()) is not None:
            renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
