"""One token with four anchors: the documented store on Redis, ours, and a replica, which asks nobody.

A million anchors are revoked in both, and none of the token's. Redis is on this machine: over a network every wait is
longer, and there are four of theirs.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from bench.harness import MICRO, Row, each, race
from bench.log import ENTRIES, BenchLog, new_anchors
from bench.shared import PREFIX, published_on, redis_running
from countermand.log.anchor import Anchors
from countermand.log.verdict import CLEAR
from countermand.stores.redis import RedisRevocationStore

ANCHORS: Final = 4
TOKENS: Final = 200
REPEATS: Final = 10
"""Of the replica's turn, which would be too short to be timed."""
PUBLISHED: Final = "the published store on Redis, asked for each"
_FILL: Final = """
for number = ARGV[1], ARGV[2] do
    redis.call('SET', string.format('%sses_%032x', KEYS[1], number), '1', 'PX', 86400000)
end
"""
_FILL_STEP: Final = 50_000


def measure(log: BenchLog) -> list[Row]:
    """Return a row for the replica, and one for our store."""
    asked = [new_anchors(ANCHORS) for _ in range(TOKENS)]
    ids = [[anchor.id for anchor in anchors.path] for anchors in asked]
    with redis_running() as server, server.client() as client, published_on(server, PREFIX) as peers:
        _fill(client)
        peers.call("prepare_check", ids)
        contenders = {
            "replica": each(TOKENS * REPEATS, partial(_check, log, asked * REPEATS)),
            "store": each(TOKENS, partial(_ask, RedisRevocationStore(client), ids)),
        } | peers.contenders({PUBLISHED: ("check",)})
        medians = race(contenders, before=log.heartbeat)
    beside = peers.named(medians, PUBLISHED, factor=MICRO)
    ours = "our store on Redis, asked for all at once"
    return [
        Row(
            "four anchors, a million revoked: a replica",
            "µs",
            medians["replica"] * MICRO,
            beside | {ours: medians["store"] * MICRO},
            "a thousandth of the published store wanted",
        ),
        Row(f"four anchors, a million revoked: {ours}", "µs", medians["store"] * MICRO, beside),
    ]


def _fill(client: Any) -> None:
    for start in range(0, ENTRIES, _FILL_STEP):
        client.eval(_FILL, 1, PREFIX, start, start + _FILL_STEP - 1)


def _check(log: BenchLog, asked: Sequence[Anchors]) -> None:
    check = log.replica.check
    if set(map(check, asked)) != {CLEAR}:
        raise RuntimeError("a token of the bench is not clear")


def _ask(store: RedisRevocationStore, asked: Sequence[Sequence[str]]) -> None:
    if any(any(store.are_revoked(ids)) for ids in asked):
        raise RuntimeError("a token of the bench is revoked")
