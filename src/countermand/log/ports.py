"""What a log must offer to be followed. Whoever implements it proves nothing: `state` verifies all that comes out."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from countermand.log.chain import Candidate


@dataclass(frozen=True, slots=True)
class Batch:
    """Records as they came, unverified: candidates for entries, and signed checkpoints."""

    candidates: Sequence[Candidate] = ()
    checkpoints: Sequence[bytes] = ()


class LogReader(Protocol):
    """A way on which the log travels to a replica.

    Entries come in the order of their numbers, and a checkpoint every second while the authority lives. Any of them may
    be lost, repeated, reordered or forged on the way. Every method raises only errors of our tree; a `TransportError`
    says that trying again may help.
    """

    def follow(self, after: int) -> AsyncGenerator[Batch, None]:
        """Yield what follows entry `after`, for ever; end or raise when the way is broken."""
        ...

    def snapshot(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the newest snapshot, header first, in any split."""
        ...
