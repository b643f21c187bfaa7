"""What a fork leaves behind in the child: locks that a thread held which is not there, and loops that never run."""

import os
from typing import Protocol
from weakref import WeakSet


class Renewable(Protocol):
    """What begins anew in a child."""

    def renew(self) -> None:
        """Forget what belongs to the parent."""
        ...


_kept = WeakSet[Renewable]()


def renew_in_children(one: Renewable) -> None:
    """Renew `one`, while it lives, in every process that is forked from this one."""
    _kept.add(one)


def _renew() -> None:
    for one in tuple(_kept):
        one.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
