"""What a log must offer to be followed, and a way to be written to.

Whoever implements it proves nothing: `state` verifies all that comes out.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from countermand.log.chain import Candidate


@dataclass(frozen=True, slots=True)
class Batch:
    """Records as they came, unverified: candidates for entries, and what is signed.

    That is checkpoints, keysets in their order, and successions; the keysets are for those, too, that came with them.

    `has_more`: the next ones are there already, and what is missing may be among them.
    """

    candidates: Sequence[Candidate] = ()
    checkpoints: Sequence[bytes] = ()
    has_more: bool = False
    keysets: Sequence[bytes] = ()
    successions: Sequence[bytes] = ()


class LogReader(Protocol):
    """A way on which the log travels to a replica.

    Entries come in the order of their numbers, and a checkpoint every second while the authority lives. Every keyset
    that there ever was comes before the first checkpoint, and a new one before the first that is signed by a key of its
    own. Any of them may be lost, repeated, reordered or forged on the way.

    Every method raises only errors of our tree; a `TransportError` says that trying again may help.
    """

    def follow(self, after: int) -> AsyncGenerator[Batch, None]:
        """Yield what follows entry `after`, for ever; end or raise when the way is broken."""
        ...

    def snapshot(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the newest snapshot, header first, in any split."""
        ...


@dataclass(frozen=True, slots=True)
class Written:
    """What a way holds, and its own names for parts of it: the newest checkpoint is its `end`.

    `checkpoints` are signed and unverified, the newest first. `first` and `last` name the first and the last message
    appended since; `is_whole` False: one of them was gone when it was looked for. `has_snapshot`: there is one.
    """

    end: str
    checkpoints: Sequence[bytes] = ()
    first: str = ""
    last: str = ""
    is_whole: bool = True
    has_snapshot: bool = False


class LogWriter(Protocol):
    """A way of the log, written to by the authority alone. Every method raises only TransportError."""

    async def look(self) -> Written:
        """Return what the way holds."""
        ...

    async def append(
        self,
        messages: Sequence[Mapping[str, str]],
        signed: bytes | None,
        after: Written,
        succession: bytes | None = None,
    ) -> Written | None:
        """Append `messages`, then the checkpoint `signed` that covers them, in one step; return what is there now.

        A `succession` travels with the checkpoint, whose generation it says has begun.

        None, and nothing is written, where the newest checkpoint is another than `after` says.
        """
        ...

    async def put_snapshot(self, data: bytes) -> None:
        """Put a snapshot in the place of the one before."""
        ...

    async def put_keysets(self, document: bytes) -> None:
        """Put all keysets, one after the other, in the place of those before.

        More that come after these stay where they are: whoever puts these may have forgotten them.
        """
        ...

    async def trim(self, before_ms: int) -> None:
        """Drop messages from before `before_ms` (UTC, by the way's own clock)."""
        ...
