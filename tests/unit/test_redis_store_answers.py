"""What the store in Redis answers, by clients of every kind: what is an answer, and what it does without one."""

import inspect
import logging
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import redis

import caracalai_revocation_redis
from countermand.errors import InvalidValueError, StoreError
from countermand.stores.breaker import LONG_S, PAUSE_S
from countermand.stores.client import RedisClient
from countermand.stores.contract import DEFAULT_REVOCATION_TTL_MS
from countermand.stores.redis import RedisRevocationStore
from tests.unit.redis_clients import DEAD, KEY, SECRET, HeldClock, Minimal, Pipelining, coroutine

AGAIN = "the revocation store in Redis answers again"


# What is documented


def test_the_documented_signatures_stand() -> None:
    *parameters, clock_s = inspect.signature(RedisRevocationStore).parameters.values()

    assert [(p.name, p.default) for p in parameters] == [
        ("redis", inspect.Parameter.empty),
        ("key_prefix", "caracal:revoked:sessions:"),
        ("default_ttl_ms", 86_400_000),
        ("fail_closed", True),
    ]
    assert {p.kind.name for p in parameters} == {"POSITIONAL_OR_KEYWORD"}
    assert (clock_s.name, clock_s.kind.name) == ("clock_s", "KEYWORD_ONLY")
    assert str(inspect.signature(RedisRevocationStore.is_revoked)) == "(self, sid: str) -> bool"
    assert (
        str(inspect.signature(RedisRevocationStore.mark_revoked))
        == "(self, sid: str, ttl_ms: int | None = None) -> None"
    )


def test_the_documented_import_name_is_the_same_code() -> None:
    assert {"DEFAULT_REVOCATION_TTL_MS", "RedisClient", "RedisRevocationStore"} <= set(
        caracalai_revocation_redis.__all__
    )
    assert caracalai_revocation_redis.RedisRevocationStore is RedisRevocationStore
    assert caracalai_revocation_redis.RedisClient is RedisClient
    assert caracalai_revocation_redis.DEFAULT_REVOCATION_TTL_MS == DEFAULT_REVOCATION_TTL_MS == 86_400_000


def test_a_client_with_get_and_set_is_all_that_is_needed() -> None:
    client = Minimal(**{"ses-1": "1"})
    store = RedisRevocationStore(client)

    assert store.is_revoked("ses-1") is True
    assert store.is_revoked("ses-2") is False
    store.mark_revoked("ses-1")
    store.mark_revoked("ses-1", 5)
    assert store.are_revoked(["ses-2", "ses-1"]) == [False, True]

    assert client.asked == [
        ("get", KEY),
        ("get", "caracal:revoked:sessions:ses-2"),
        ("set", KEY, "1", 86_400_000),
        ("set", KEY, "1", 5),
        ("get", "caracal:revoked:sessions:ses-2"),
        ("get", KEY),
    ]


def test_prefix_and_ttl_are_the_ones_given() -> None:
    client = Minimal()
    store = RedisRevocationStore(client, "revoked/", 7)

    store.mark_revoked("ses-1")

    assert client.asked == [("set", "revoked/ses-1", "1", 7)]


@pytest.mark.parametrize("client", [None, "redis://cache", redis.Redis, SimpleNamespace(get=print), {}], ids=repr)
def test_what_is_no_client_is_refused(client: Any) -> None:
    with pytest.raises(TypeError):
        RedisRevocationStore(client)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"key_prefix": b"revoked:"}, TypeError),
        ({"key_prefix": None}, TypeError),
        ({"fail_closed": 0}, TypeError),
        ({"fail_closed": None}, TypeError),
        ({"default_ttl_ms": True}, TypeError),
        ({"default_ttl_ms": 1000.0}, TypeError),
        ({"default_ttl_ms": 0}, InvalidValueError),
        ({"default_ttl_ms": -1}, InvalidValueError),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        RedisRevocationStore(Minimal(), **options)


# What is no answer

NO_ANSWERS: dict[str, Any] = {
    "an error": DEAD,
    "a coroutine": coroutine,
    "a mock": MagicMock,
    "a number": 1,
    "True": True,
    "False": False,
    "a list": [],
}
every_non_answer = pytest.mark.parametrize("answer", NO_ANSWERS.values(), ids=NO_ANSWERS)


@every_non_answer
@pytest.mark.parametrize("fail_closed", [True, False])
@pytest.mark.parametrize("kind", [Minimal, Pipelining])
def test_only_text_bytes_and_none_are_answers(kind: type[Minimal], answer: Any, fail_closed: bool) -> None:
    store = RedisRevocationStore(kind(**{"ses-1": answer}), fail_closed=fail_closed)

    assert store.is_revoked("ses-1") is fail_closed
    assert store.is_revoked("ses-2") is False
    assert store.failures == 1


@every_non_answer
@pytest.mark.parametrize("kind", [Minimal, Pipelining])
def test_a_batch_that_is_not_wholly_answered_raises_or_passes_what_is_not_known(
    kind: type[Minimal], answer: Any
) -> None:
    values = {"a": "1", "b": answer}

    with pytest.raises(StoreError, match="does not answer"):
        RedisRevocationStore(kind(**values)).are_revoked(["a", "b", "c"])
    open_ = RedisRevocationStore(kind(**values), fail_closed=False)
    assert open_.are_revoked(["a", "b", "c"]) == [True, False, False]
    assert open_.failures == 1


@pytest.mark.parametrize(
    "answer",
    [*NO_ANSWERS.values(), None, ["1"], ["1", None, None], "10", b"10", {"a": "1"}],
    ids=[*NO_ANSWERS, "none", "too short", "too long", "a text", "bytes", "a mapping"],
)
def test_a_batch_of_another_shape_is_no_answer(answer: Any) -> None:
    with pytest.raises(StoreError):
        RedisRevocationStore(Pipelining(execute=answer)).are_revoked(["a", "b"])
    assert RedisRevocationStore(Pipelining(execute=answer), fail_closed=False).are_revoked(["a", "b"]) == [False, False]


def test_what_is_not_asked_is_not_a_failure() -> None:
    client = Minimal()
    store = RedisRevocationStore(client)

    assert store.is_revoked("") is False
    with pytest.raises(TypeError):
        store.is_revoked(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        store.are_revoked("ses-1")
    with pytest.raises(TypeError):
        store.are_revoked(["ses-1", b"ses-2"])  # type: ignore[list-item]
    for sid, ttl_ms in (("", None), ("ses-1", 0), ("ses-1", -1)):
        with pytest.raises(InvalidValueError):
            store.mark_revoked(sid, ttl_ms)

    assert client.asked == []
    assert store.failures == 0


@pytest.mark.parametrize(
    ("fail_closed", "counts"), [(True, "everything counts as revoked"), (False, "nothing counts as revoked")]
)
def test_the_log_tells_once_of_a_failure_and_once_that_it_is_over(
    fail_closed: bool, counts: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = Minimal()
    clock = HeldClock()
    store = RedisRevocationStore(client, fail_closed=fail_closed, clock_s=clock)
    for state in (DEAD, DEAD, "1", "1", DEAD):
        clock.now_s += 1
        client.values["ses-1"] = state
        store.is_revoked("ses-1")

    told = [(record.levelno, record.getMessage()) for record in caplog.records]
    failure = (logging.ERROR, f"the revocation store in Redis does not answer: {counts} (ConnectionError)")
    assert told == [failure, (logging.WARNING, AGAIN), failure]
    assert store.failures == 3
    assert SECRET not in caplog.text
    assert "ses-1" not in caplog.text


def test_the_log_tells_no_more_than_once_a_second_and_at_last_how_it_is(caplog: pytest.LogCaptureFixture) -> None:
    client = Minimal(**{"ses-1": "1"})
    clock = HeldClock()
    store = RedisRevocationStore(client, clock_s=clock)
    for _ in range(100):
        for state in (DEAD, "1"):
            client.values["ses-1"] = state
            store.is_revoked("ses-1")
        clock.now_s += 0.01
    assert len(caplog.records) == 1

    clock.now_s += 1
    store.is_revoked("ses-1")
    assert [record.getMessage() for record in caplog.records][1:] == [AGAIN]
    assert store.failures == 100


# A server that lets a question wait


class Frozen(Minimal):
    """Each question takes `wait_s` by `clock`, and then fails."""

    def __init__(self, clock: HeldClock, wait_s: float) -> None:
        super().__init__()
        self.clock = clock
        self.wait_s = wait_s

    def get(self, key: str) -> Any:
        self.clock.now_s += self.wait_s
        super().get(key)
        raise DEAD

    def set(self, key: str, value: str, px: int | None = None) -> Any:
        self.clock.now_s += self.wait_s
        super().set(key, value, px)
        raise DEAD


@pytest.mark.parametrize("fail_closed", [True, False])
def test_after_a_long_wait_for_nothing_all_is_answered_at_once_by_the_fail_mode(fail_closed: bool) -> None:
    clock = HeldClock()
    client = Frozen(clock, LONG_S)
    store = RedisRevocationStore(client, fail_closed=fail_closed, clock_s=clock)

    for number in range(10):
        assert store.is_revoked(f"ses-{number}") is fail_closed
        if fail_closed:
            with pytest.raises(StoreError, match="does not answer"):
                store.are_revoked(["a", "b"])
        else:
            assert store.are_revoked(["a", "b"]) == [False, False]
    assert len(client.asked) == 1
    assert store.failures == 20

    clock.now_s += PAUSE_S
    store.is_revoked("ses-1")
    store.is_revoked("ses-1")
    assert len(client.asked) == 2


def test_a_mark_is_tried_though_no_question_is() -> None:
    clock = HeldClock()
    client = Frozen(clock, LONG_S)
    store = RedisRevocationStore(client, clock_s=clock)
    store.is_revoked("ses-1")

    for _ in range(2):
        with pytest.raises(StoreError):
            store.mark_revoked("ses-1")

    assert len(client.asked) == 3


def test_a_failure_that_was_quick_keeps_nobody_from_asking() -> None:
    clock = HeldClock()
    client = Frozen(clock, LONG_S / 2)
    store = RedisRevocationStore(client, clock_s=clock)

    for _ in range(10):
        assert store.is_revoked("ses-1") is True

    assert len(client.asked) == 10
