"""What the tests of the log share: a replica's state, fed by hand, and a full comparison of two states."""

from collections.abc import Iterable

from countermand.log.anchor import Anchor, Anchors, Kind, Rev, own_id
from countermand.log.chain import Candidate
from countermand.log.entry import Entry
from countermand.log.freshness import Freshness, Instant
from countermand.log.revoked import Cutoff, RevokedSet
from countermand.log.snapshot import Snapshot, SnapshotReader
from countermand.log.state import LogState
from tests.signer import NOW_MS, Signer

NOW = Instant(NOW_MS, 5_000_000)
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
TOLERANCE_MS = 1_000


def session(number: int) -> str:
    return own_id(Kind.SESSION, number.to_bytes(16))


def anchors(*path: Anchor, issued_at_s: float | None = NOW_MS / 1000, rev: Rev | None = None) -> Anchors:
    return Anchors(path, issued_at_s, rev)


def later(ms: int) -> Instant:
    """`ms` after NOW, by both clocks."""
    return Instant(NOW.wall_ms + ms, NOW.boot_ms + ms)


def signer_of(count: int) -> Signer:
    """An authority that has revoked the sessions 1 to `count`."""
    signer = Signer()
    for number in range(1, count + 1):
        signer.append(Kind.SESSION, session(number))
    return signer


def drain(state: LogState) -> list[Entry]:
    """Advance until nothing more is applied."""
    applied: list[Entry] = []
    while step := state.advance():
        applied += step
    return applied


def feed(
    state: LogState, candidates: Iterable[Candidate] = (), checkpoints: Iterable[bytes] = (), now: Instant = NOW
) -> list[Entry]:
    """Give `state` what came, and return what it applied."""
    for candidate in candidates:
        state.add(candidate)
    for checkpoint in checkpoints:
        state.accept(checkpoint, now)
    return drain(state)


def followed(signer: Signer, now: Instant = NOW) -> LogState:
    """A state that has followed all of the signer's log."""
    state = LogState(signer.pin)
    feed(state, signer.candidates, [signer.checkpoint()], now)
    return state


def read_snapshot(data: bytes, signer: Signer) -> Snapshot:
    reader = SnapshotReader(signer.pin)
    reader.feed(data)
    return reader.finish()


def details(revoked: RevokedSet) -> dict[bytes, tuple[int, int]]:
    """Every key that is held, with the hour until then and its seq."""
    known = {key: (hour, seq) for hour, seqs in sorted(revoked._seqs.items()) for key, seq in seqs.items()}
    assert known.keys() == revoked._held, "a key is held exactly if it has a detail"
    return known


Held = tuple[Rev, bytes, dict[bytes, tuple[int, int]], dict[bytes, Cutoff], Freshness]


def held(state: LogState) -> Held:
    """Everything that a state believes."""
    return state.rev, state.link, details(state._revoked), dict(state._revoked._cutoffs), state.freshness


def numbers(state: LogState, up_to: int) -> set[int]:
    """Which of the sessions 1 to `up_to` are revoked."""
    return {
        number
        for number in range(1, up_to + 1)
        if state.find(anchors(Anchor(Kind.SESSION, session(number))), NOW_MS) is not None
    }
