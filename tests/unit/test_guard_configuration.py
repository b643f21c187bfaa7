"""A guard or a requirement that could not work is refused when it is made."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from countermand.enforce.decision import NOTHING_REQUIRED, Requirements
from countermand.enforce.guard import Guard
from countermand.errors import ConfigurationError
from countermand.stores.memory import InMemoryRevocationStore
from countermand.tokens.jwks import StaticKeys
from tests.unit.guarded import guard
from tests.unit.mandates import AUDIENCE, ISSUER, KEYS, NOW_S


def test_requirements_that_add_nothing_are_the_ones_that_were_there() -> None:
    strict = Requirements.of(required_scopes=["read"])
    assert NOTHING_REQUIRED & Requirements.of() is NOTHING_REQUIRED
    assert strict & Requirements.of() is strict
    assert Requirements.of() & strict is strict


def test_a_guard_without_revocations_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        Guard(StaticKeys(KEYS), issuer=ISSUER, audience=AUDIENCE, clock_s=lambda: NOW_S, random=bytes)  # type: ignore[call-arg]


async def async_is_revoked(sid: str) -> bool:
    return False


@pytest.mark.parametrize(
    "revocations",
    [
        None,
        object(),
        {},
        InMemoryRevocationStore,
        SimpleNamespace(is_revoked=lambda _: False),
        SimpleNamespace(is_revoked=async_is_revoked, mark_revoked=print),
        SimpleNamespace(check=async_is_revoked),
    ],
)
def test_a_guard_that_could_not_ask_its_revocations_is_refused(revocations: Any) -> None:
    with pytest.raises(ConfigurationError):
        Guard(StaticKeys(KEYS), revocations, issuer=ISSUER, audience=AUDIENCE, clock_s=lambda: NOW_S, random=bytes)


@pytest.mark.parametrize(
    "options",
    [
        {"keys": None},
        {"issuer": ""},
        {"audience": ""},
        {"requirements": Requirements.of(max_staleness_s=10)},
    ],
)
def test_a_guard_that_could_not_answer_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        guard(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"required_scopes": "read"},
        {"required_scopes": ["read write"]},
        {"required_scopes": [""]},
        {"required_scopes": ['a"b']},
        {"max_hops": -1},
        {"max_hops": True},
        {"max_staleness_s": 2},
        {"max_staleness_s": math.inf},
        {"max_staleness_s": math.nan},
    ],
)
def test_requirements_that_no_token_could_meet_or_that_are_no_limit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Requirements.of(**options)
