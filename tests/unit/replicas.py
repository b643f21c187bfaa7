"""What the tests of the replica share: a replica of a real log, and the clocks that it reads."""

from collections.abc import Callable

from countermand.log.anchor import Anchor, Kind
from countermand.log.state import LogState
from countermand.log.verdict import Unknown, Verdict
from countermand.replica.replica import Replica, ReplicaState
from tests.clocks import HeldClocks
from tests.signer import NOW_MS, Signer
from tests.unit.log.helpers import HOUR_MS, anchors, session

ALICE, BOB = Anchor(Kind.SESSION, session(1)), Anchor(Kind.SESSION, session(2))
STARTING, STALE = Unknown("starting"), Unknown("stale")


class World:
    """An authority, a replica of its log, and the replica's clocks. The authority's clock is true."""

    def __init__(self, **options: float) -> None:
        self.signer = Signer()
        self.clocks = HeldClocks()
        self.true_ms = NOW_MS
        self.state = LogState(self.signer.pin)
        self.replica = Replica(self.state, self.clocks, **options)  # type: ignore[arg-type]  # it is the options' own

    def run(self, ms: int) -> None:
        """Let time pass for everyone."""
        self.clocks.run(ms)
        self.true_ms += ms

    def beat(self) -> None:
        """Let a checkpoint arrive, with all that it covers."""
        for candidate in self.signer.candidates:
            self.state.add(candidate)
        self.state.accept(self.signer.checkpoint(self.true_ms), self.clocks())
        while self.state.advance():
            pass

    def revoke(self, anchor: Anchor) -> None:
        self.signer.append(anchor.kind, anchor.id, issuer=anchor.issuer, at_ms=self.true_ms)
        self.beat()

    def check(self, *path: Anchor, max_staleness_s: float | None = None) -> Verdict:
        return self.replica.check(anchors(*path), max_staleness_s)

    def judgement(self) -> ReplicaState:
        return self.replica.status().state


def ready(**options: float) -> World:
    """A world whose replica has just heard its first good checkpoint."""
    world = World(**options)
    world.run(1_000)
    world.beat()
    return world


def seconds_until(world: World, holds: Callable[[], bool]) -> float:
    """Let time pass without a word, a tenth of a second at a time; return after how long `holds` first did."""
    began_ms = world.true_ms
    while not holds():
        world.run(100)
        assert world.true_ms - began_ms < HOUR_MS
    return (world.true_ms - began_ms) / 1000
