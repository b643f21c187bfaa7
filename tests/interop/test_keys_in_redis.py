"""Each store reads what the other has marked."""

from collections.abc import Callable
from typing import Any

import pytest

from countermand.stores.contract import DEFAULT_REVOCATION_TTL_MS
from countermand.stores.redis import DEFAULT_KEY_PREFIX, RedisRevocationStore
from tests.interop.peer import Published
from tests.redis_server import RedisServer

HOUR_MS = 3_600_000
SLACK_MS = 30_000

Make = Callable[..., Any]


@pytest.fixture(params=["ours marks", "ours asks"])
def pair(request: pytest.FixtureRequest, server: RedisServer, published: Published) -> tuple[Make, Make]:
    """Give two makers of stores, for marking and for asking: one of them is ours."""

    def ours(**options: Any) -> RedisRevocationStore:
        return RedisRevocationStore(server.client(), **options)

    def theirs(**options: Any) -> "_Theirs":
        return _Theirs(published, options)

    return (ours, theirs) if request.param == "ours marks" else (theirs, ours)


class _Theirs:
    def __init__(self, published: Published, options: dict[str, Any]) -> None:
        self._published = published
        self._options = options

    def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None:
        self._published.mark(sid, ttl_ms, **self._options)

    def is_revoked(self, sid: str) -> bool:
        return self._published.is_revoked(sid, **self._options)


IDS = {
    "of our own making": "ses_00112233445566778899aabbccddeeff",
    "letters of the whole of Unicode": "sitzung-ü\N{SNOWMAN}\U0001f600",
    "spaces, newlines and signs": " a:b\n*?[c]\x00",
    "long": "x" * 10_000,
}


@pytest.mark.parametrize("sid", IDS.values(), ids=IDS.keys())
def test_what_one_marks_the_other_sees(pair: tuple[Make, Make], sid: str) -> None:
    marking, asking = (make() for make in pair)
    assert not asking.is_revoked(sid)
    marking.mark_revoked(sid)
    assert asking.is_revoked(sid)
    assert not asking.is_revoked(sid + "x")
    assert not asking.is_revoked("")


def test_with_another_prefix_they_see_each_others_and_no_others(pair: tuple[Make, Make]) -> None:
    marking, asking = pair
    marking(key_prefix="other:é:").mark_revoked("ses-1")
    assert asking(key_prefix="other:é:").is_revoked("ses-1")
    assert not asking().is_revoked("ses-1")


TTLS: dict[str, tuple[dict[str, int], int | None, int]] = {
    "the default": ({}, None, DEFAULT_REVOCATION_TTL_MS),
    "a default of its own": ({"default_ttl_ms": HOUR_MS}, None, HOUR_MS),
    "a time of its own": ({}, HOUR_MS, HOUR_MS),
}


@pytest.mark.parametrize(("options", "ttl_ms", "left_ms"), TTLS.values(), ids=TTLS.keys())
def test_both_write_the_same_value_for_the_same_time(
    pair: tuple[Make, Make], admin: Any, options: dict[str, int], ttl_ms: int | None, left_ms: int
) -> None:
    marking, _ = pair
    marking(**options).mark_revoked("ses-1", ttl_ms)
    assert admin.keys() == [f"{DEFAULT_KEY_PREFIX}ses-1"]
    assert admin.get(f"{DEFAULT_KEY_PREFIX}ses-1") == "1"
    assert left_ms - SLACK_MS < admin.pttl(f"{DEFAULT_KEY_PREFIX}ses-1") <= left_ms


def test_ours_shortens_nothing_that_the_published_store_has_marked_which_itself_shortens(
    server: RedisServer, published: Published, admin: Any
) -> None:
    ours = RedisRevocationStore(server.client())
    published.mark("ses-1", 2 * HOUR_MS)
    ours.mark_revoked("ses-1", HOUR_MS)
    assert admin.pttl(f"{DEFAULT_KEY_PREFIX}ses-1") > HOUR_MS
    published.mark("ses-1", HOUR_MS)
    assert admin.pttl(f"{DEFAULT_KEY_PREFIX}ses-1") <= HOUR_MS


def test_what_has_expired_is_revoked_for_neither(pair: tuple[Make, Make], admin: Any) -> None:
    marking, asking = (make() for make in pair)
    marking.mark_revoked("ses-1")
    admin.pexpire(f"{DEFAULT_KEY_PREFIX}ses-1", -1)
    assert (marking.is_revoked("ses-1"), asking.is_revoked("ses-1")) == (False, False)
