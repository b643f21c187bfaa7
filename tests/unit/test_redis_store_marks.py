"""How the store in Redis marks, by clients of every kind: by a script where one runs, and plainly where none does."""

from typing import Any

import pytest
import redis

from countermand.errors import InvalidValueError, StoreError
from countermand.stores.redis import MARK_SCRIPT, MARK_SHA, RedisRevocationStore
from tests.unit.redis_clients import DEAD, KEY, SECRET, Minimal, Prefixed, Scripting, coroutine, names

# Marking


@pytest.mark.parametrize("failure", [DEAD, OSError(SECRET), coroutine], ids=["dead", "an error", "a coroutine"])
@pytest.mark.parametrize(("kind", "method"), [(Minimal, "set"), (Scripting, "evalsha")])
def test_a_mark_that_was_not_taken_raises_without_a_secret(kind: type[Minimal], method: str, failure: Any) -> None:
    with pytest.raises(StoreError) as caught:
        RedisRevocationStore(kind(**{method: failure})).mark_revoked("ses-1")

    assert str(caught.value).startswith("Redis did not take the revocation (")
    assert SECRET not in str(caught.value)
    assert KEY not in str(caught.value)
    assert isinstance(caught.value.__cause__, Exception)
    if isinstance(failure, Exception):
        assert caught.value.__cause__ is failure


def test_where_scripts_run_a_mark_is_one_script() -> None:
    client = Scripting()

    RedisRevocationStore(client).mark_revoked("ses-1", 5)

    assert client.asked == [("evalsha", MARK_SHA, 1, KEY, "1", 5)]


@pytest.mark.parametrize("unknown", [redis.exceptions.NoScriptError("none"), OSError("NOSCRIPT No matching script")])
def test_a_server_that_does_not_know_the_script_is_told_it(unknown: Exception) -> None:
    client = Scripting(evalsha=unknown)

    RedisRevocationStore(client).mark_revoked("ses-1", 5)

    assert client.asked[1:] == [("eval", MARK_SCRIPT, 1, KEY, "1", 5)]


def test_a_script_is_sent_only_where_it_is_not_known() -> None:
    client = Scripting(evalsha=DEAD)

    with pytest.raises(StoreError):
        RedisRevocationStore(client).mark_revoked("ses-1")

    assert names(client) == ["evalsha"], "a dead server costs one wait"


NO_SCRIPTS = {
    "no command": redis.ResponseError("unknown command 'EVALSHA', with args beginning with: "),
    "no right": redis.exceptions.NoPermissionError("this user has no permissions to run the 'evalsha' command"),
    "no right, in another client's words": OSError("NOPERM this user has no permissions to run the 'evalsha' command"),
    "no right to what is in it": redis.ResponseError("The user executing the script can't run this command or sub"),
}
every_refusal = pytest.mark.parametrize("refusal", NO_SCRIPTS.values(), ids=NO_SCRIPTS)


@every_refusal
@pytest.mark.parametrize("known", [True, False], ids=["of a known script", "of a script that has to be sent"])
def test_where_no_script_runs_a_mark_is_a_plain_set(
    refusal: Exception, known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    client = Scripting(evalsha=refusal if known else redis.exceptions.NoScriptError("none"), eval=refusal)
    store = RedisRevocationStore(client)

    store.mark_revoked("ses-1", 5)
    store.mark_revoked("ses-1", 5)
    store.mark_all(["ses-1"])

    assert client.asked[-3:] == [*[("set", KEY, "1", 5)] * 2, ("set", KEY, "1", 86_400_000)]
    assert names(client)[:-3] == (["evalsha"] if known else ["evalsha", "eval"])
    assert [record.getMessage() for record in caplog.records] == [
        "Redis runs no script for us: marking again can shorten an entry"
    ]


@every_refusal
def test_where_nothing_can_be_set_either_it_says_so_and_tries_the_script_again(
    refusal: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    client = Scripting(evalsha=refusal, set=DEAD)
    store = RedisRevocationStore(client)

    for _ in range(2):
        with pytest.raises(StoreError):
            store.mark_revoked("ses-1")

    assert names(client) == ["evalsha", "set"] * 2
    assert caplog.records == []


def test_a_client_with_its_own_set_is_marked_by_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(redis.Redis, "execute_command", lambda _self, *args, **_options: asked.append(args))
    client = Prefixed()
    client.prefix = "app:"

    RedisRevocationStore(client, "p:").mark_revoked("a", 5)

    assert asked == [("SET", "app:p:a", "1", "PX", 5)]
    assert [record.getMessage() for record in caplog.records] == [
        "this Redis client has a `get` or `set` of its own: marking again can shorten an entry"
    ]


# Marking many


def test_many_marks_are_one_script_where_scripts_run() -> None:
    client = Scripting()
    store = RedisRevocationStore(client, "p:", 7)

    store.mark_all(["a", "b"])
    store.mark_all([])

    assert client.asked == [("evalsha", MARK_SHA, 2, "p:a", "p:b", "1", 7)]


def test_many_marks_are_one_set_each_where_no_scripts_run() -> None:
    client = Minimal()

    RedisRevocationStore(client, "p:", 7).mark_all(["a", "b"])

    assert client.asked == [("set", "p:a", "1", 7), ("set", "p:b", "1", 7)]


@pytest.mark.parametrize(
    ("sids", "refusal"), [(["a", ""], InvalidValueError), (["a", None], TypeError), ("a", TypeError)]
)
def test_of_many_marks_none_is_made_if_one_cannot_be(sids: Any, refusal: type[Exception]) -> None:
    client = Minimal()

    with pytest.raises(refusal):
        RedisRevocationStore(client).mark_all(sids)
    assert client.asked == []


def test_many_marks_that_were_not_taken_raise() -> None:
    with pytest.raises(StoreError):
        RedisRevocationStore(Scripting(evalsha=DEAD)).mark_all(["a", "b"])
    with pytest.raises(StoreError):
        RedisRevocationStore(Minimal(set=DEAD)).mark_all(["a", "b"])
