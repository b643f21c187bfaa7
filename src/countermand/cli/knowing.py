"""What is known of the anchors of a token, and how good that knowledge is."""

from dataclasses import dataclass
from typing import Final

from countermand.log.anchor import Anchor, Anchors, Kind
from countermand.log.state import LogState
from countermand.replica.replica import Replica, ReplicaState

_CUTOFF_TARGETS: Final = frozenset({Kind.SUBJECT, Kind.APPLICATION})


@dataclass(frozen=True, slots=True)
class AnchorState:
    """What is known of one anchor: None where nothing is. Entries are numbers of the ledger."""

    kind: str
    id: str
    issuer: str
    is_revoked: bool | None
    revoked_by: int | None
    cut_off_by: int | None


@dataclass(frozen=True, slots=True)
class Knowledge:
    """How good the answer is: up to which entry the log is applied here, and how old that is."""

    is_fresh: bool
    seq: int
    staleness_ms: int | None
    error: str | None

    @classmethod
    def of(cls, replica: Replica) -> "Knowledge":
        """Return what `replica` is good for now."""
        status = replica.status()
        return cls(status.state is ReplicaState.FRESH, status.rev.seq, status.staleness_ms, status.error)

    @property
    def sentence(self) -> str:
        """It in words."""
        if self.staleness_ms is None:
            return f"NOTHING IS KNOWN: the log could not be followed ({self.error or 'nothing came in time'})"
        age = f"as of entry {self.seq}, {self.staleness_ms / 1000:.1f} s old"
        return age if self.is_fresh else f"TOO OLD TO SAY: {age} ({self.error or 'no checkpoint in time'})"


def look(state: LogState, anchors: Anchors, anchor: Anchor, now_ms: int, *, is_known: bool) -> AnchorState:
    """Return what is known of one of `anchors`.

    What is known to be revoked is, however old the knowledge; the rest only fresh knowledge can tell.
    """
    revoked_by = state.seq_of(anchor.key)
    reached = None
    if anchor.kind in _CUTOFF_TARGETS:
        alone = state.find(Anchors((anchor,), anchors.issued_at_s, anchors.rev), now_ms)
        reached = alone.seq if alone is not None and revoked_by is None and alone.anchor == anchor else None
    is_revoked = True if revoked_by is not None else False if is_known else None
    return AnchorState(anchor.kind.text, anchor.id, anchor.issuer, is_revoked, revoked_by, reached)


def cut_off_with_everyone(state: LogState, anchors: Anchors, now_ms: int) -> int | None:
    """Return the entry of a cutoff for everyone, if one reaches a token with these anchors."""
    everyone = state.find(Anchors((), anchors.issued_at_s, anchors.rev), now_ms)
    return everyone.seq if everyone else None
