"""Biscuits of 1, 3 and 10 blocks: what revocation adds to the library, what our guard does, and ids against a million.

Beside all of it stands what an application does with biscuit-python alone: verify the token, and ask the same Datalog
with the same facts and limits. What revocation adds is timed by itself, in the same rounds: it is too little to be seen
as a difference of two larger times.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import biscuit_auth

from bench.harness import MICRO, Contender, Row, each, race
from bench.log import ENTRIES, BenchLog
from countermand.enforce.biscuits import Biscuits
from countermand.enforce.decision import Allow
from countermand.enforce.guard import Guard
from countermand.log.anchor import BiscuitAnchors
from countermand.log.verdict import CLEAR
from countermand.stores.static import StaticRevocationStore
from countermand.tokens.biscuit import revocation_ids
from countermand.tokens.blocks import read_blocks
from countermand.tokens.work import work

BLOCKS: Final = (1, 3, 10)
TOKENS: Final = 100
REPEATS: Final = 10
POLICY: Final = 'allow if user("alice"), method("GET")'
FACTS: Final = {"method": "GET", "path": "/notes"}
PLAIN: Final = "biscuit-python alone: verified and authorized"


def measure(log: BenchLog) -> list[Row]:
    """Return the rows for each number of blocks, and for the look-up of ids alone."""
    rows = [row for blocks in BLOCKS for row in _measure(log, blocks)]
    return [*rows, *_ids(log)]


class Issuer:
    """Issues Biscuits, and verifies them as an application without us would."""

    def __init__(self) -> None:
        pair: Any = biscuit_auth.KeyPair()
        self._private, self.public = pair.private_key, pair.public_key
        self._base: Any  # the library's stubs leave out the limits
        self._base = biscuit_auth.AuthorizerBuilder(POLICY)
        self._limits = self._base.limits()
        self._limits.max_time = timedelta(seconds=1)

    def tokens(self, blocks: int) -> list[str]:
        """Return new tokens of so many blocks, good for a day."""
        return [self._token(blocks).to_base64() for _ in range(TOKENS)]

    def _token(self, blocks: int) -> biscuit_auth.Biscuit:
        token = biscuit_auth.BiscuitBuilder('user("alice"); scope("read")').build(self._private)
        until = {"until": datetime.now(UTC) + timedelta(days=1)}
        for _ in range(blocks - 1):
            token = token.append(biscuit_auth.BlockBuilder("check if time($now), $now < {until}", until))
        return token

    def verify(self, text: str) -> biscuit_auth.Biscuit:
        """Return the token. The library raises for one that is not good."""
        return biscuit_auth.Biscuit.from_base64(text, self.public)

    def authorize(self, token: biscuit_auth.Biscuit) -> None:
        """Ask the Datalog about a request. The library raises for a refusal."""
        code = "time({now}); method({method}); path({path});"
        builder: Any = biscuit_auth.AuthorizerBuilder(code, {"now": datetime.now(UTC), **FACTS})
        builder.merge(self._base)
        builder.set_limits(self._limits)
        builder.build(token).authorize()

    def guard(self, log: BenchLog) -> Guard:
        """Return a guard that has seen no token yet."""
        biscuits = Biscuits(str(self.public), POLICY)
        return Guard(None, log.replica, audience="here", biscuits=biscuits, clock_s=time.time, random=os.urandom)


def _measure(log: BenchLog, blocks: int) -> list[Row]:
    issuer = Issuer()
    texts = issuer.tokens(blocks)
    verified = [issuer.verify(text) for text in texts]
    warm = issuer.guard(log)
    with asyncio.Runner() as runner:

        def decisions(guard: Guard | None = None) -> Contender:
            return lambda: runner.run(_decide(guard or issuer.guard(log), texts))

        contenders = {
            PLAIN: each(TOKENS, partial(_plain, issuer, texts)),
            "revocation": each(TOKENS * REPEATS, partial(_repeat, verified, partial(_revocation, log))),
            "again": each(TOKENS * REPEATS, partial(_check, log, [_anchors(token) for token in verified] * REPEATS)),
            "weighed": each(TOKENS, partial(_repeat_once, verified, _weigh)),
            "cold": decisions(),
            "warm": decisions(warm),
        }
        medians = race(contenders, before=log.heartbeat)
    us = {name: taken_s * MICRO for name, taken_s in medians.items()}
    beside = {PLAIN: us[PLAIN]}
    of = f"a Biscuit of {blocks} block{'s' * (blocks > 1)}"
    return [
        Row(f"what revocation adds, at first sight: {of}", "µs", us["revocation"], beside, "0.02 times that wanted"),
        Row(f"what it adds when the token comes again: {of}", "µs", us["again"], beside, "0.02 times that wanted"),
        Row(f"what it may cost, worked out at first sight: {of}", "µs", us["weighed"], beside),
        Row(f"the guard's decision, cold: {of}", "µs", us["cold"], beside),
        Row(f"the guard's decision, warm: {of}", "µs", us["warm"], beside),
    ]


def _plain(issuer: Issuer, texts: Sequence[str]) -> None:
    for text in texts:
        issuer.authorize(issuer.verify(text))


def _repeat(tokens: Sequence[biscuit_auth.Biscuit], run: Callable[[biscuit_auth.Biscuit], None]) -> None:
    for _ in range(REPEATS):
        _repeat_once(tokens, run)


def _repeat_once(tokens: Sequence[biscuit_auth.Biscuit], run: Callable[[biscuit_auth.Biscuit], None]) -> None:
    for token in tokens:
        run(token)


def _anchors(token: biscuit_auth.Biscuit) -> BiscuitAnchors:
    return BiscuitAnchors(revocation_ids(token), None)


def _revocation(log: BenchLog, token: biscuit_auth.Biscuit) -> None:
    if log.replica.check(BiscuitAnchors(revocation_ids(token), None)) is not CLEAR:
        raise RuntimeError("a token of the bench is not clear")


def _check(log: BenchLog, asked: Sequence[BiscuitAnchors]) -> None:
    check = log.replica.check
    if any(check(anchors) is not CLEAR for anchors in asked):
        raise RuntimeError("a token of the bench is not clear")


def _weigh(token: biscuit_auth.Biscuit) -> None:
    work(read_blocks(bytes(token.to_bytes())))


async def _decide(guard: Guard, texts: Sequence[str]) -> float:
    began_s = time.perf_counter()
    decisions = [await guard.decide(text, facts=FACTS) for text in texts]
    taken_s = time.perf_counter() - began_s
    if not all(isinstance(decision, Allow) for decision in decisions):
        raise RuntimeError("a token of the bench was denied")
    return taken_s / len(texts)


def _ids(log: BenchLog) -> list[Row]:
    """Ids as they are read from a token, ten at a time."""
    tokens = [tuple(os.urandom(64).hex() for _ in range(10)) for _ in range(TOKENS)]
    store = StaticRevocationStore(frozenset(os.urandom(64).hex() for _ in range(ENTRIES)))
    contenders = {
        "replica": each(TOKENS * 10, partial(_ask_replica, log, tokens)),
        "static": each(TOKENS * 10, partial(_ask_store, store, tokens)),
    }
    medians = race(contenders, before=log.heartbeat)
    return [
        Row("ids checked, a million revoked: a replica", "a second", 1 / medians["replica"], {}),
        Row("ids checked, a million revoked: a static list", "a second", 1 / medians["static"], {}),
    ]


def _ask_replica(log: BenchLog, tokens: Sequence[Sequence[str]]) -> None:
    _check(log, [BiscuitAnchors(ids, None) for ids in tokens])


def _ask_store(store: StaticRevocationStore, tokens: Sequence[Sequence[str]]) -> None:
    if any(store.is_revoked(id_) for ids in tokens for id_ in ids):
        raise RuntimeError("a token of the bench is revoked")
