"""Good Biscuits on a machine that does other things: none is denied because its authorization had to wait.

The library gives an authorization a millisecond of wall clock, of which a busy machine may take all. Ours is bounded by
what a token can cost, and has seconds.
"""

import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import pytest

from countermand.enforce.biscuits import Biscuits
from countermand.enforce.decision import Deny
from countermand.enforce.guard import Guard
from countermand.stores.memory import InMemoryRevocationStore
from tests.biscuits import ROOT_KEY, Ed25519, compiled, sign
from tests.running import PROOF
from tests.unit.guarded import guard
from tests.unit.mandates import NOW_S

pytestmark = pytest.mark.anyio

AUTHORIZATIONS: Final = 100_000 if PROOF else 2_000
BUSY: Final = 4
MAX_BLOCKS: Final = 10
EACH: Final = 10
"""Tokens of each number of blocks."""
TIMES: Final = 4
"""How often one guard sees each: for the first time, and then again."""

_BURN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))"
_CHECKS = (
    "check if time($now), $now < 2100-01-01T00:00:00Z",
    'check if method($method), ["GET", "HEAD"].contains($method)',
    'check if path($path), $path.starts_with("/notes")',
)


@pytest.fixture
def busy_machine() -> Iterator[None]:
    """Processes that leave no core alone."""
    burning = [subprocess.Popen([sys.executable, "-c", _BURN]) for _ in range(BUSY)]
    try:
        yield
        assert [process.poll() for process in burning] == [None] * BUSY
    finally:
        for process in burning:
            process.kill()
            process.wait()


def tokens() -> list[str]:
    rights = "".join(f'right("/notes/{number}", "GET");' for number in range(10))
    codes = [f'user("alice"); {rights}', *(_CHECKS[number % len(_CHECKS)] for number in range(MAX_BLOCKS - 1))]
    contents = compiled(*codes)
    return [
        str(sign(contents[:blocks], following=[Ed25519(10_000 + number)]))
        for blocks in range(1, MAX_BLOCKS + 1)
        for number in range(EACH)
    ]


def new_guard(biscuits: Biscuits) -> Guard:
    """A guard that has seen no token."""
    return guard(InMemoryRevocationStore(), keys=None, issuer="", biscuits=biscuits, clock_s=lambda: NOW_S)


async def test_no_good_token_is_denied_while_others_take_every_core(busy_machine: None) -> None:
    texts = tokens()
    biscuits = Biscuits(ROOT_KEY, 'allow if user("alice"), path($path), method($method), right($path, $method)')
    facts = {"method": "GET", "path": "/notes/7"}
    denials: list[Deny] = []
    asked = 0
    while asked < AUTHORIZATIONS:
        guarding = new_guard(biscuits)
        for text in texts * TIMES:
            decision = await guarding.decide(text, facts=facts)
            asked += 1
            if isinstance(decision, Deny):
                denials.append(decision)

    assert asked >= AUTHORIZATIONS
    assert denials == []
