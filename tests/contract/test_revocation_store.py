"""The contract of `RevocationStore`, held against every implementation in `tests/contract/stores.py`."""

from collections.abc import Iterator
from typing import Any

import pytest

from countermand.errors import InvalidValueError, ReadOnlyStoreError
from countermand.stores.contract import BatchRevocationStore, RevocationStore, answers_batches, is_blocking
from tests.contract.stores import BATCHING, CASES, DAY_MS, READ_ONLY, WRITABLE, Case, Opened, Time
from tests.redis_server import RedisServer

# Every store can be fed ids of our own making.
SESSION = "ses_" + "0a" * 16
AGENT = "agt_" + "0b" * 16
NO_STRINGS: list[Any] = [None, 7, SESSION.encode(), [SESSION], True]

every_store = pytest.mark.parametrize("case", CASES, ids=str)
every_writable_store = pytest.mark.parametrize("case", WRITABLE, ids=str)
every_batching_store = pytest.mark.parametrize("case", BATCHING, ids=str)
every_read_only_store = pytest.mark.parametrize("case", READ_ONLY, ids=str)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def opened(case: Case, request: pytest.FixtureRequest) -> Opened:
    return case.open(request)


@pytest.fixture
def store(opened: Opened) -> RevocationStore:
    return opened.store


@pytest.fixture
def batching(store: RevocationStore) -> BatchRevocationStore:
    assert answers_batches(store)
    return store


@pytest.fixture
def time(opened: Opened) -> Time:
    return opened.time


# Every store


@every_store
def test_it_is_a_revocation_store(store: RevocationStore) -> None:
    assert isinstance(store, RevocationStore)


@every_store
def test_it_says_whether_asking_it_may_wait(case: Case, store: RevocationStore) -> None:
    assert is_blocking(store) is case.blocking


@every_store
def test_what_nobody_revoked_is_not_revoked(store: RevocationStore) -> None:
    assert store.is_revoked(SESSION) is False


@every_store
def test_what_was_revoked_is_revoked_and_nothing_else_is(opened: Opened) -> None:
    opened.revoke(SESSION)

    assert opened.store.is_revoked(sid=SESSION) is True
    assert opened.store.is_revoked(AGENT) is False
    assert opened.store.is_revoked(SESSION.upper()) is False
    assert opened.store.is_revoked(SESSION + " ") is False


@every_store
def test_an_anchor_can_be_revoked_after_it_was_asked_about(opened: Opened) -> None:
    assert opened.store.is_revoked(SESSION) is False

    opened.revoke(SESSION)

    assert opened.store.is_revoked(SESSION) is True


@every_store
def test_revoking_twice_is_revoking_once(opened: Opened) -> None:
    opened.revoke(SESSION)
    opened.revoke(SESSION)

    assert opened.store.is_revoked(SESSION) is True


@every_store
def test_the_empty_anchor_is_never_revoked(opened: Opened) -> None:
    opened.revoke(SESSION)

    assert opened.store.is_revoked("") is False


@every_store
@pytest.mark.parametrize("sid", NO_STRINGS, ids=repr)
def test_asking_about_what_is_no_string_is_a_fault_and_not_a_no(opened: Opened, sid: Any) -> None:
    opened.revoke(SESSION)

    with pytest.raises(TypeError):
        opened.store.is_revoked(sid)


# Stores that are written to


@every_writable_store
def test_an_entry_is_in_force_from_the_mark_until_its_ttl_is_over(store: RevocationStore, time: Time) -> None:
    store.mark_revoked(sid=SESSION, ttl_ms=time.short_ms)

    time.ends_after(SESSION, time.short_ms)


@every_writable_store
@pytest.mark.parametrize("ttl", [{}, {"ttl_ms": None}], ids=["left out", "None"])
def test_without_a_ttl_an_entry_is_in_force_for_24_hours(
    store: RevocationStore, time: Time, ttl: dict[str, None]
) -> None:
    store.mark_revoked(SESSION, **ttl)

    assert store.is_revoked(SESSION) is True
    time.ends_after(SESSION, DAY_MS)


@every_writable_store
def test_each_entry_has_its_own_time(store: RevocationStore, time: Time) -> None:
    store.mark_revoked(SESSION, DAY_MS)
    store.mark_revoked(AGENT, time.short_ms)

    time.ends_after(AGENT, time.short_ms)

    assert store.is_revoked(SESSION) is True


@every_writable_store
@pytest.mark.parametrize("later_ttl_ms", [1, 1000, None])
def test_marking_again_never_shortens(store: RevocationStore, time: Time, later_ttl_ms: int | None) -> None:
    store.mark_revoked(SESSION, 2 * DAY_MS)
    store.mark_revoked(SESSION, later_ttl_ms)

    assert store.is_revoked(SESSION) is True
    time.ends_after(SESSION, 2 * DAY_MS)


@every_writable_store
def test_marking_again_for_longer_extends(store: RevocationStore, time: Time) -> None:
    store.mark_revoked(SESSION, time.short_ms)
    time.pass_(time.short_ms // 2)
    store.mark_revoked(SESSION, time.short_ms)
    time.ends_after(SESSION, time.short_ms)

    store.mark_revoked(AGENT, time.short_ms)
    store.mark_revoked(AGENT, DAY_MS)
    time.ends_after(AGENT, DAY_MS)


@every_writable_store
@pytest.mark.parametrize("asked_between", [True, False], ids=["asked between", "not asked between"])
def test_an_anchor_whose_entry_expired_can_be_revoked_again(
    store: RevocationStore, time: Time, asked_between: bool
) -> None:
    store.mark_revoked(SESSION, time.short_ms)
    time.end(SESSION)
    if asked_between:
        assert store.is_revoked(SESSION) is False

    store.mark_revoked(SESSION, time.short_ms)

    time.ends_after(SESSION, time.short_ms)


@every_writable_store
@pytest.mark.parametrize("sid", [" ", "\n", "É", "e\N{COMBINING ACUTE ACCENT}", "a:b*", "x" * 10_000], ids=ascii)
def test_an_anchor_is_opaque_and_compared_exactly(store: RevocationStore, sid: str) -> None:
    store.mark_revoked("é")
    assert store.is_revoked(sid) is False

    store.mark_revoked(sid)

    assert store.is_revoked(sid) is True


@every_writable_store
@pytest.mark.parametrize("ttl_ms", [0, -1, -DAY_MS])
def test_a_ttl_of_zero_or_less_is_refused_and_changes_nothing(store: RevocationStore, time: Time, ttl_ms: int) -> None:
    store.mark_revoked(AGENT, DAY_MS)

    for sid in (SESSION, AGENT):
        with pytest.raises(InvalidValueError):
            store.mark_revoked(sid, ttl_ms)

    assert store.is_revoked(SESSION) is False
    assert store.is_revoked(AGENT) is True
    time.ends_after(AGENT, DAY_MS)


@every_writable_store
@pytest.mark.parametrize("ttl_ms", [True, False, 1000.0, float("nan"), "1000"], ids=repr)
def test_a_ttl_that_is_no_int_is_refused_and_changes_nothing(store: RevocationStore, ttl_ms: Any) -> None:
    with pytest.raises(TypeError):
        store.mark_revoked(SESSION, ttl_ms)

    assert store.is_revoked(SESSION) is False


@every_writable_store
def test_the_empty_anchor_cannot_be_revoked(store: RevocationStore) -> None:
    with pytest.raises(InvalidValueError):
        store.mark_revoked("")

    assert store.is_revoked("") is False


@every_writable_store
@pytest.mark.parametrize("sid", NO_STRINGS, ids=repr)
def test_what_is_no_string_cannot_be_revoked(store: RevocationStore, sid: Any) -> None:
    with pytest.raises(TypeError):
        store.mark_revoked(sid)


# Stores that answer batches


@every_store
def test_it_says_whether_it_answers_batches(case: Case, store: RevocationStore) -> None:
    assert answers_batches(store) is case.batches


@every_batching_store
def test_a_batch_is_answered_as_each_of_its_anchors_is(batching: BatchRevocationStore, opened: Opened) -> None:
    sids = [SESSION, AGENT, "", SESSION, "é", " "]
    opened.revoke(SESSION)
    opened.revoke("é")

    answers = list(batching.are_revoked(sids))

    assert answers == [True, False, False, True, True, False]
    assert answers == [batching.is_revoked(sid) for sid in sids]
    assert list(batching.are_revoked([])) == []


@every_batching_store
@pytest.mark.parametrize("sids", [SESSION, *([sid, AGENT] for sid in NO_STRINGS)], ids=repr)
def test_a_batch_of_what_is_no_string_is_a_fault_and_not_a_no(batching: BatchRevocationStore, sids: Any) -> None:
    with pytest.raises(TypeError):
        batching.are_revoked(sids)


# Stores that only answer


@every_read_only_store
def test_a_store_that_only_answers_refuses_every_mark_and_changes_nothing(opened: Opened) -> None:
    opened.revoke(AGENT)

    for sid in (SESSION, AGENT, ""):
        for ttl_ms in (None, 1000, 0):
            with pytest.raises(ReadOnlyStoreError):
                opened.store.mark_revoked(sid, ttl_ms)

    assert opened.store.is_revoked(SESSION) is False
    assert opened.store.is_revoked(AGENT) is True
