"""What the tests of `enforce` share: good tokens, and revocations that say what they are told to."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from countermand.enforce.decision import Decision, Deny
from countermand.enforce.guard import Guard
from countermand.enforce.revocations import AnyRevocations
from countermand.errors import UnreachableError
from countermand.log.anchor import Anchors
from countermand.log.verdict import Verdict
from countermand.stores.memory import InMemoryRevocationStore
from countermand.tokens.jwks import KeySet, StaticKeys
from countermand.tokens.mandate import mint
from tests.unit.mandates import AUDIENCE, CLAIMS, DELEGATED, ES256, FOREIGN, ISSUER, KEYS, NOW_S, sign

TOKEN_TEXT = mint(CLAIMS, ES256)
DELEGATED_TEXT = mint(DELEGATED, ES256)
FOREIGN_TEXT = sign(FOREIGN)
SECRETS = [part for token in (TOKEN_TEXT, DELEGATED_TEXT, FOREIGN_TEXT) for part in token.split(".")[1:]]
"""The payloads and the signatures: no message may hold one."""


class Answers:
    """Revocations with one answer, which also notes what they were asked."""

    def __init__(self, verdict: Any) -> None:
        self.verdict = verdict
        self.asked: list[tuple[Anchors, float | None]] = []

    def check(self, anchors: Anchors, max_staleness_s: float | None = None) -> Verdict:
        self.asked.append((anchors, max_staleness_s))
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict  # type: ignore[no-any-return]  # some tests answer with nonsense


class Store:
    """A store of somebody else's: it says nothing about blocking, and `answer` is called for every question."""

    def __init__(self, answer: Callable[[str], Any]) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.threads: set[int] = set()

    def is_revoked(self, sid: str) -> bool:
        self.asked.append(sid)
        self.threads.add(threading.get_ident())
        return self.answer(sid)  # type: ignore[no-any-return]  # some tests answer with nonsense

    def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None:
        raise NotImplementedError


class Keys:
    """A source of keys that counts, and fails when told to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.asked: list[str | None] = []

    async def key_set(self, key_id: str | None) -> KeySet:
        self.asked.append(key_id)
        if self.failure is not None:
            raise self.failure
        return KEYS


class Following:
    """What keeps revocations current, as far as the guard knows."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.running = False
        self.starts = 0

    async def start(self) -> None:
        self.starts += not self.running
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.running = True

    async def aclose(self) -> None:
        self.running = False


def guard(revocations: AnyRevocations | None = None, **options: Any) -> Guard:
    """A guard over an empty store, with the keys of the tests and a clock that stands."""
    store = InMemoryRevocationStore() if revocations is None else revocations
    usual: dict[str, Any] = {"issuer": ISSUER, "audience": AUDIENCE, "clock_s": lambda: NOW_S}
    return Guard(options.pop("keys", StaticKeys(KEYS)), store, **usual | options)


def denied(decision: Decision) -> Deny:
    assert isinstance(decision, Deny)
    return decision


def revoked(*ids: str) -> InMemoryRevocationStore:
    store = InMemoryRevocationStore()
    for id_ in ids:
        store.mark_revoked(id_)
    return store


UNREACHABLE = UnreachableError("no answer")
