"""One token's anchors against a million entries: the log's answer, and the replica's with freshness. No cutoff.

A hundred tokens in turn are what a busy service sees; two thousand no longer fit the processor's nearest caches.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from bench.harness import MICRO, Row, each, race
from bench.log import BenchLog, new_anchors
from bench.peers import Peers
from countermand.log.anchor import Anchors
from countermand.log.verdict import CLEAR

LOOK_UPS: Final = 2_000
BARE: Final = "isdisjoint of a bare set"
STORE: Final = "the documented store, asked for each id"


def measure(log: BenchLog, peers: Peers) -> list[Row]:
    """Return rows for 4 and for 32 anchors."""
    peers.call("fill", len(log.state))
    rows = _measure(log, peers, 4, 100, "0.27 wanted") + _measure(log, peers, 32, 100, "2 wanted")
    return rows + _measure(log, peers, 4, LOOK_UPS) + _measure(log, peers, 32, LOOK_UPS)


def _measure(log: BenchLog, peers: Peers, count: int, tokens: int, wanted: str = "") -> list[Row]:
    asked = [new_anchors(count) for _ in range(tokens)]
    log.heartbeat()
    if any(log.replica.check(anchors) is not CLEAR for anchors in asked):
        raise RuntimeError("a token of the bench is not clear")
    ids = [[anchor.id for anchor in anchors.path] for anchors in asked]
    peers.call("prepare_check", ids * (LOOK_UPS // tokens))
    asked *= LOOK_UPS // tokens
    contenders = {
        "find": each(LOOK_UPS, partial(_find, log, asked)),
        "check": each(LOOK_UPS, partial(_check, log, asked)),
        BARE: each(LOOK_UPS, partial(_isdisjoint, log.keys, [anchors.keys for anchors in asked])),
    } | peers.contenders({STORE: ("check",)})
    medians = race(contenders, before=log.heartbeat)
    beside = peers.named(medians, BARE, STORE, factor=MICRO)
    what = f"{count} anchors, {tokens:,} tokens in turn"
    return [
        Row(f"look-up: {what}", "µs", medians["find"] * MICRO, beside, wanted),
        Row(f"look-up and freshness: {what}", "µs", medians["check"] * MICRO, beside),
    ]


def _find(log: BenchLog, asked: Sequence[Anchors]) -> None:
    find, now_ms = log.state.find, time.time_ns() // 1_000_000
    for anchors in asked:
        find(anchors, now_ms)


def _check(log: BenchLog, asked: Sequence[Anchors]) -> None:
    check = log.replica.check
    for anchors in asked:
        check(anchors)


def _isdisjoint(held: set[bytes], asked: Sequence[tuple[bytes, ...]]) -> None:
    holds_none = held.isdisjoint
    for keys in asked:
        holds_none(keys)
