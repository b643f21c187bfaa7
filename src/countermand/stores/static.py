"""A revocation store that is a list: a text, or a file that is looked at again.

Whoever asks looks at the file, at most once a second; there is no thread for it. Three rules

    1. A file that has changed is loaded a second after the last change: what is being written in its place is half of a
       list. So whoever asks two seconds after a change is answered by it.
    2. As long as it cannot be loaded, because it is gone, unreadable or malformed, or still changes, what was loaded
       before counts, until for `max_staleness_s` the file was not seen to be that.
    3. Then it is loaded even if it still changes. If it cannot be, what was listed stays revoked, and of anything else
       nothing is known: the answer is a StoreError.

Source: the documented store contract, `countermand.stores.contract`; docs/biscuit.md, "Lists".
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final, Self
from weakref import WeakSet

from countermand.errors import ConfigurationError, MalformedError, ReadOnlyStoreError, StoreError
from countermand.log.revocation_id import parse_revocation_id
from countermand.stores.contract import check_sid
from countermand.stores.id_list import FileState, look_at, parse_ids, read_ids

LOOK_S: Final = 1.0
"""How often the file is looked at, and how old its last change is when it is loaded."""
MAX_STALENESS_S: Final = 30.0

_log = logging.getLogger(__name__)


class StaticRevocationStore:
    """A `RevocationStore` that only answers: what is listed is revoked, for as long as it is.

    `parse` and `from_file` make one; `countermand.stores.id_list` says what a list may hold. Of a Biscuit's id every
    twin is revoked, in either case, whichever of them is listed. What is asked while a file is loaded anew goes by what
    was loaded before.
    """

    blocking: ClassVar[bool] = False

    def __init__(
        self,
        ids: frozenset[str],
        file: "_File | None" = None,
        *,
        max_staleness_s: float = math.inf,
        clock_s: Callable[[], float] = lambda: 0.0,  # it stands still: a text is not looked at again
    ) -> None:
        self._ids = ids
        self._file = file
        self._max_staleness_s = max_staleness_s
        self._clock_s = clock_s
        self.renew()
        now_s = clock_s()
        self._look_at_s = now_s + LOOK_S
        self._known_until_s = now_s + max_staleness_s
        _kept.add(self)

    def renew(self) -> None:
        """Begin anew in a child: the thread that looks may not be there, and never end."""
        self._looking = threading.Lock()

    @classmethod
    def parse(cls, text: str, *, source: str = "the list of revoked ids") -> Self:
        """Return the store of the ids that `text` lists. No text at all lists none. `source` is how errors name it.

        Raises:
            ConfigurationError: a line is malformed.
        """
        return cls(parse_ids(text, source))

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        max_staleness_s: float = MAX_STALENESS_S,
        clock_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> Self:
        """Return the store of the ids that a file on a local disk lists whenever it is asked.

        `clock_s` is a monotonic clock, `wall_s` the one by which files are dated.

        Raises:
            ConfigurationError: see `read_ids`; or `max_staleness_s` is not over 2 seconds and finite.
        """
        if not 2 * LOOK_S < max_staleness_s < math.inf:
            raise ConfigurationError("max_staleness_s is over 2 seconds and finite")
        file = _File(Path(path).absolute(), wall_s)
        return cls(file.ids, file, max_staleness_s=max_staleness_s, clock_s=clock_s)

    def is_revoked(self, sid: str) -> bool:
        """See `RevocationStore.is_revoked`.

        Raises:
            StoreError: the list says nothing of `sid`, and is too old.
        """
        now_s = self._clock_s()
        if self._look_at_s <= now_s:
            self._look(now_s)
        known_until_s = self._known_until_s  # read before the ids: never older ids than it speaks of
        ids = self._ids
        if sid in ids:
            return True
        check_sid(sid)
        if sid != sid.lower() and _canonical(sid) in ids:
            return True
        if known_until_s < now_s and sid:
            raise StoreError("the list of revoked ids is too old, and cannot be loaded anew")
        return False

    def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None:  # noqa: ARG002 - the documented signature
        """Raise ReadOnlyStoreError: what is listed is revoked, and nothing else."""
        raise ReadOnlyStoreError("a list only answers: write the id in it")

    def _look(self, now_s: float) -> None:
        """Look at the file, unless a thread does. The others wait only where they would have nothing to go by."""
        if not self._looking.acquire(blocking=self._known_until_s < now_s):
            return
        try:
            if self._file is not None and self._look_at_s <= now_s:
                self._refresh(self._file, now_s)
        finally:
            self._looking.release()

    def _refresh(self, file: "_File", now_s: float) -> None:
        try:
            if file.is_loaded(at_once=self._known_until_s < now_s):
                self._ids = file.ids
                self._known_until_s = now_s + self._max_staleness_s
        finally:
            self._look_at_s = now_s + LOOK_S  # last: until then nobody passes by


class _File:
    """A file, and what was loaded from it. For one thread at a time."""

    def __init__(self, path: Path, wall_s: Callable[[], float]) -> None:
        self._path = path
        self._wall_s = wall_s
        self._loaded: FileState | None = None
        self._refused: FileState | None = None
        self._fails = False
        self.ids: frozenset[str] = frozenset()
        self._load()

    def is_loaded(self, *, at_once: bool) -> bool:
        """Load the file if it has changed; if only just now, then only `at_once`. Return whether `ids` is what it says.

        What fails is logged, once.
        """
        try:
            is_loaded = self._is_loaded(at_once)
        except ConfigurationError as error:
            if not self._fails:
                self._fails = True
                _log.error("the list of revoked ids is not loaded anew: %s", error, extra={"code": error.code})
            return False
        if is_loaded and self._fails:
            self._fails = False
            _log.warning("the list of revoked ids is loaded again")
        return is_loaded

    def _is_loaded(self, at_once: bool) -> bool:
        found = look_at(self._path)
        if found == self._loaded:
            return True
        if found == self._refused or not (at_once or self._rests(found)):
            return False
        try:
            self._load()
        except ConfigurationError as error:
            if error.__cause__ is None:  # what it says, and no passing trouble of the system
                self._refused = found
            raise
        return True

    def _load(self) -> None:
        state, self.ids = read_ids(self._path)
        self._loaded = state if self._rests(state) else None  # a change in the same tick of its clock would not show

    def _rests(self, state: FileState) -> bool:
        return self._wall_s() - state.changed_ns / 1e9 >= LOOK_S


_kept = WeakSet[StaticRevocationStore]()


def _renew() -> None:
    for store in tuple(_kept):
        store.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def _canonical(sid: str) -> str | None:
    """Return the canonical form of a Biscuit's id that is not in lower case, None for any other anchor."""
    try:
        return parse_revocation_id(sid)
    except MalformedError:
        return None
