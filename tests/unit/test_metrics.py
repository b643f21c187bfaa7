"""What guards count, as Prometheus scrapes it."""

import asyncio
import re

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from countermand.enforce.decision import Requirements
from countermand.enforce.guard import Guard
from countermand.enforce.metrics import GuardMetrics
from countermand.errors import KeysError
from countermand.log.anchor import Kind
from countermand.log.verdict import Unknown
from tests.clocks import held
from tests.unit.guarded import TOKEN_TEXT, Answers, HeldLog, Keys, Served, Streaming, guard, http
from tests.unit.mandates import AUDIENCE, SESSION

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def scraped(*guards: Guard) -> dict[str, float]:
    """Return every sample by its text, the labels in the order of their names."""
    registry = CollectorRegistry()
    registry.register(GuardMetrics(*guards))
    found = {}
    for line in generate_latest(registry).decode().splitlines():
        if not line.startswith("#"):
            name, labels, value = re.fullmatch(r"(\w+)\{(.*)\} (.*)", line).groups()  # type: ignore[union-attr]
            found[f"{name}{{{','.join(sorted(labels.split(',')))}}}"] = float(value)
    return found


def decisions(outcome: str, code: str = "", anchor_kind: str = "", audience: str = AUDIENCE) -> str:
    labels = f'anchor_kind="{anchor_kind}",audience="{audience}",code="{code}",outcome="{outcome}"'
    return f"countermand_decisions_total{{{labels}}}"


IN_FLIGHT = f'countermand_calls_in_flight{{audience="{AUDIENCE}"}}'
STALENESS = f'countermand_staleness_seconds{{audience="{AUDIENCE}"}}'


async def test_decisions_are_counted_by_what_they_were() -> None:
    guarding = guard()
    for token in (TOKEN_TEXT, TOKEN_TEXT, None, "nonsense"):
        await guarding.decide(token)
    await guarding.decide(TOKEN_TEXT, Requirements.of(required_scopes=["admin"]))
    samples = scraped(guarding)
    assert samples[decisions("allowed")] == 2
    assert samples[decisions("denied", "missing_token")] == 1
    assert samples[decisions("denied", "invalid_token")] == 1
    assert samples[decisions("denied", "insufficient_scope")] == 1
    assert samples[IN_FLIGHT] == 0
    assert STALENESS not in samples, "a store cannot say how stale it is"


@pytest.mark.parametrize(
    ("denying", "code"),
    [
        (guard(Answers(Unknown("stale"))), "revocation_unavailable"),
        (guard(keys=Keys(KeysError("none"))), "keys_unavailable"),
    ],
)
async def test_what_cannot_be_known_is_counted(denying: Guard, code: str) -> None:
    await denying.decide(TOKEN_TEXT)
    assert scraped(denying)[decisions("denied", code)] == 1


@held
async def test_a_call_is_counted_while_it_lasts_and_when_it_is_cut() -> None:
    log = HeldLog()
    guarding = log.guard()
    request = Served(guarding.asgi(Streaming()), http())
    await asyncio.sleep(0.5)
    before = scraped(guarding)
    assert before[IN_FLIGHT] == 1
    assert before[STALENESS] == 0.5
    assert before[decisions("allowed")] == 1
    log.revoke(Kind.SESSION, SESSION)
    await request.ended()
    after = scraped(guarding)
    assert after[IN_FLIGHT] == 0
    assert after[decisions("cut", "session_revoked", "session")] == 1


async def test_guards_of_several_audiences_are_told_apart() -> None:
    other = guard(audience="resource://other")
    await other.decide(None)
    samples = scraped(guard(), other)
    assert samples[decisions("denied", "missing_token", audience="resource://other")] == 1
    assert samples[decisions("allowed")] == 0
    assert decisions("denied", "missing_token") not in samples
