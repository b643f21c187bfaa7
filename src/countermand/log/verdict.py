"""The three answers to the one question: is one of these anchors revoked?"""

from dataclasses import dataclass
from typing import Final

from countermand.log.anchor import Anchor


@dataclass(frozen=True, slots=True)
class Clear:
    """None of the anchors is revoked, and the answer is fresh enough to stand on."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """`anchor` is revoked by entry `seq`. A cutoff names the subject or application it is for, or `cutoff:all`."""

    anchor: Anchor
    seq: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing says that an anchor is revoked, and nothing fresh enough says that it is not. `reason` is a code."""

    reason: str


Verdict = Clear | Revoked | Unknown
CLEAR: Final = Clear()
