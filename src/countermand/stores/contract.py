"""What every revocation store promises.

The names, the signatures and the default are documented and fixed. What the documents leave open is decided here; one
suite, tests/contract/test_revocation_store.py, holds every store of ours to it.
"""

from collections.abc import Sequence
from typing import Final, Protocol, TypeGuard, runtime_checkable

from countermand.errors import InvalidValueError

DEFAULT_REVOCATION_TTL_MS: Final = 86_400_000
"""24 hours: longer than any mandate lives, so an entry outlives the tokens that it rejects."""


@runtime_checkable
class RevocationStore(Protocol):
    """Which anchors are revoked. Any object with these two methods is a store.

    `sid` is the id of any anchor, not only of a session: it is opaque, and compared exactly.

    - Threads: both methods may be called from any thread at any time.
    - Atomicity: each call is one step. Once `mark_revoked` has returned, the same store answers True to every question
      until the time is up. When it refuses its arguments, or for want of room, nothing has changed.
    - Repeats: marking again never shortens an entry; the later expiry wins.
    - Nothing ends an entry early: a store that has no room for another refuses it and evicts none.
    - A store that cannot know does not answer False, unless it was told to when it was made.
    - A store that is fed another way only answers: its `mark_revoked` raises ReadOnlyStoreError.
    - A store whose answers never wait says so with a class attribute: see `is_blocking`.
    """

    def is_revoked(self, sid: str) -> bool:
        """True while an entry for `sid` is in force. False for the empty string, which is no anchor.

        Raises:
            TypeError: `sid` is no string. It could match no entry, and False would let its token pass.
        """
        ...

    def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None:
        """Revoke `sid` for `ttl_ms` milliseconds from now; None means the store's default.

        Raises:
            InvalidValueError: `sid` is empty, or `ttl_ms` is zero or negative. It is a ValueError.
            TypeError: `sid` is no string, or `ttl_ms` is no int (a bool is none).
            StoreFullError: a new entry finds no room.
            ReadOnlyStoreError: the store only answers; raised whatever the arguments.
        """
        ...


@runtime_checkable
class BatchRevocationStore(RevocationStore, Protocol):
    """A store that answers many questions in one wait. No store needs to; see `answers_batches`."""

    def are_revoked(self, sids: Sequence[str]) -> Sequence[bool]:
        """Return what `is_revoked` says of each of `sids`, in the same order. But where it cannot know, it says so.

        Whoever asks here can tell "revoked" from "not known"; `is_revoked` has no word for it.

        Raises:
            StoreError: it cannot know, and was not told to let pass what it does not know.
            TypeError: `sids` is a str, or one of them is no string.
        """
        ...


def answers_batches(store: object) -> TypeGuard[BatchRevocationStore]:
    """True if `are_revoked` may be asked in place of `is_revoked`."""
    return offers(store, "are_revoked", instead_of="is_revoked")


def offers(store: object, batch: str, *, instead_of: str) -> bool:
    """True if the class of `store` has a method `batch`, and no subclass has changed `instead_of` alone."""
    if instead_of in getattr(store, "__dict__", ()):
        return False
    for owner in type(store).__mro__:
        if batch in vars(owner) or instead_of in vars(owner):
            return batch in vars(owner)
    return False


def is_blocking(store: object) -> bool:
    """True unless the class of `store` says `blocking = False`: asking it waits for nothing outside the process.

    An event loop asks a blocking store in a thread. Only the class is looked at: a wrapper that passes on the
    attributes of what it wraps does not thereby promise to be as quick.
    """
    return getattr(type(store), "blocking", True) is not False


def check_sid(sid: object) -> None:
    """Refuse what no store can be asked about. Raises: TypeError."""
    if not isinstance(sid, str):
        raise TypeError(f"an anchor is a str, not {type(sid).__name__}")


def check_anchor(sid: object) -> None:
    """Refuse what no store can revoke. Raises: TypeError, InvalidValueError."""
    check_sid(sid)
    if not sid:
        raise InvalidValueError("an anchor is not empty")


def check_positive(name: str, number: object) -> None:
    """Refuse all but an int above zero; `name` is the argument's. Raises: TypeError, InvalidValueError."""
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{name} is an int, not {type(number).__name__}")
    if number <= 0:
        raise InvalidValueError(f"{name} is above zero, not {number}")
