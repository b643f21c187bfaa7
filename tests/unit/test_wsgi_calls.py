"""Calls in flight through a WSGI app: cut or held between two chunks, and what the client gets then."""

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from countermand.enforce import inflight
from countermand.enforce.guard import Guard
from countermand.enforce.trace import Outcome
from countermand.log.anchor import Kind
from tests.running import until
from tests.unit.guarded import Log, Store, guard
from tests.unit.mandates import NOW_S, SESSION, claims_json, sign
from tests.unit.wsgi_served import PLAIN, Chunks, Served, request, served

STALE_MS = 40_000


class LogGuarded(Log):
    """A log whose time is passed by hand, and a guard over its replica."""

    def __init__(self) -> None:
        super().__init__()
        self.publish()
        self.guard = guard(self.replica, clock_s=lambda: self.now_ms() / 1000)
        self.on_applied = self.guard.on_applied

    def revoke_session(self) -> None:
        self.revoke(Kind.SESSION, SESSION)

    def pass_ms(self, ms: int) -> None:
        self.passed_ms += ms


@pytest.fixture
def log() -> Iterator[LogGuarded]:
    made = LogGuarded()
    yield made
    assert made.guard.in_flight == 0
    made.guard.close()


def at(number: int, what: Callable[[], object]) -> Callable[[int], None]:
    """Do this before chunk `number` is made."""

    def before(now: int) -> None:
        if now == number:
            what()

    return before


def test_an_answer_is_cut_between_two_chunks(log: LogGuarded) -> None:
    app = Chunks(b"one ", b"two ", b"three ", b"four", before=at(2, log.revoke_session))

    answer = served(log.guard, app)

    assert (answer.status, answer.body) == (200, b"one two ")
    assert isinstance(answer.broke, ConnectionResetError)
    assert (app.made, app.closed) == (3, True)


def test_an_answer_without_its_end_is_not_given_one(log: LogGuarded) -> None:
    def app(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        yield b"all"
        log.revoke_session()

    assert served(log.guard, app).broke


@pytest.mark.parametrize("app", [Chunks(b"one"), Chunks()])
def test_a_call_that_is_cut_before_its_first_chunk_is_answered(log: LogGuarded, app: Chunks) -> None:
    def revoking(environ: WSGIEnvironment, start_response: StartResponse) -> Chunks:
        log.revoke_session()
        return app(environ, start_response)

    answer = served(log.guard, revoking)

    assert (answer.status, json.loads(answer.body)["error"]) == (401, "session_revoked")
    assert app.closed


def test_a_call_is_cut_when_its_token_ends(log: LogGuarded) -> None:
    def lasting() -> None:
        log.pass_ms(20_000)
        log.publish()

    answer = served(log.guard, Chunks(b"one", b"two", before=at(1, lasting)), request(sign(claims_json(exp=NOW_S + 5))))

    assert (answer.body, bool(answer.broke)) == (b"one", True)


def test_what_is_written_passes_no_more_than_what_is_returned(log: LogGuarded) -> None:
    written: list[bytes] = []

    def app(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", PLAIN)
        for chunk in (b"one", b"two", b"three"):
            write(chunk)
            written.append(chunk)
            if chunk == b"two":
                log.revoke_session()
        return []

    answer = served(log.guard, app)

    assert written == [b"one", b"two"]
    assert (answer.status, answer.body, bool(answer.broke)) == (200, b"onetwo", True)


def test_a_call_that_is_cut_before_anything_was_written_is_answered(log: LogGuarded) -> None:
    def app(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        log.revoke_session()
        start_response("200 OK", PLAIN)(b"one")
        return []

    assert served(log.guard, app).status == 401


def test_nothing_is_read_for_a_call_that_was_cut(log: LogGuarded) -> None:
    read: list[bytes] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        stream = environ["wsgi.input"]
        read.append(stream.readline())
        read.append(stream.read(4))
        read.extend(stream.readlines(1))
        log.revoke_session()
        read.extend(stream)
        start_response("200 OK", PLAIN)
        return [b"stored"]

    answer = served(log.guard, app, request(body=b"one\ntwo\nthree\nfour\n"))

    assert read == [b"one\n", b"two\n", b"three\n"]
    assert answer.status == 401


# A call of which we cannot know


def in_a_thread(guarding: Guard, app: Any) -> tuple[threading.Thread, list[Served]]:
    answers: list[Served] = []
    thread = threading.Thread(target=lambda: answers.append(Served(guarding.wsgi(app), request())))
    thread.start()
    return thread, answers


def held(guarding: Guard) -> bool:
    return any(call.is_held for watch in guarding._in_flight._all() for call in tuple(watch.calls))


def test_a_call_is_held_until_we_know_again_and_then_goes_on(log: LogGuarded, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "countermand.decision")
    app = Chunks(b"one", b"two", before=at(1, lambda: log.pass_ms(STALE_MS)))

    thread, answers = in_a_thread(log.guard, app)
    asyncio.run(until(lambda: held(log.guard), "the call is held"))
    log.publish()
    thread.join()

    assert (answers[0].body, answers[0].broke) == (b"onetwo", None)
    told = [record.__dict__["decision"] for record in caplog.records if "decision" in record.__dict__]
    assert [fields["outcome"] for fields in told] == [Outcome.HELD, Outcome.RELEASED]
    asyncio.run(until(lambda: log.guard.in_flight == 0, "nothing is in flight"))


def test_a_call_is_cut_while_it_is_held(log: LogGuarded) -> None:
    app = Chunks(b"one", b"two", before=at(1, lambda: log.pass_ms(STALE_MS)))

    thread, answers = in_a_thread(log.guard, app)
    asyncio.run(until(lambda: held(log.guard), "the call is held"))
    log.revoke_session()
    thread.join()

    assert (answers[0].body, bool(answers[0].broke)) == (b"one", True)


@pytest.mark.parametrize(("number", "status"), [(0, 503), (1, 200)])
def test_a_call_is_held_no_longer_than_that(
    log: LogGuarded, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    monkeypatch.setattr(inflight, "HOLD_S", 0.1)
    app = Chunks(b"one", b"two", before=at(number, lambda: log.pass_ms(STALE_MS)))

    answer = served(log.guard, app)

    assert (answer.status, bool(answer.broke)) == (status, status == 200)


def test_what_was_cut_by_the_loop_does_not_pass_though_we_know_again(
    log: LogGuarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inflight, "HOLD_S", 0.1)

    def lose_sight() -> None:
        log.pass_ms(STALE_MS)
        asyncio.run(until(lambda: log.guard.in_flight == 0, "the loop has cut it"))
        log.publish()

    answer = served(log.guard, Chunks(b"one", b"two", before=at(1, lose_sight)))

    assert (answer.body, bool(answer.broke)) == (b"one", True)


def test_a_store_that_blocks_is_asked_about_a_call_by_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflight, "ASK_S", 0.02)
    revoked = threading.Event()
    store = Store(lambda id_: id_ == SESSION and revoked.is_set())
    guarding = guard(store)

    def endless() -> Iterator[bytes]:
        yield b"one"
        revoked.set()
        while True:
            yield b"."

    def app(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        return endless()

    answer = served(guarding, app)

    assert answer.broke
    assert threading.get_ident() not in store.threads
    assert guarding.in_flight == 0


# What PEP 3333 allows an app


def fail(*_: Any) -> list[bytes]:
    raise ValueError("a defect")


def test_a_head_may_come_with_the_first_chunk_be_replaced_by_an_error_or_stand_alone(log: LogGuarded) -> None:
    def late(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("201 Created", PLAIN)
        yield b""
        yield b"late"

    def fails(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", PLAIN)
        try:
            fail()
        except ValueError:
            start_response("500 Internal Server Error", PLAIN, sys.exc_info())
        return [b"sorry"]

    def empty(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("202 Accepted", PLAIN)
        return []

    answers = [served(log.guard, app) for app in (late, fails, empty)]

    assert [(answer.status, answer.body) for answer in answers] == [(201, b"late"), (500, b"sorry"), (202, b"")]


def test_an_error_after_the_head_was_sent_is_the_servers() -> None:
    def fails(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        yield b"begun"
        try:
            fail()
        except ValueError:
            start_response("500 Internal Server Error", PLAIN, sys.exc_info())
        yield b"sorry"

    with pytest.raises(ValueError, match="a defect"):
        served(guard(), fails)


def test_an_app_that_fails_fails_as_without_a_guard(log: LogGuarded) -> None:
    def fails_later(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        yield b"begun"
        fail()

    def begins_twice(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", PLAIN)
        start_response("200 OK", PLAIN)
        return []

    for app, error in ((fail, ValueError), (fails_later, ValueError), (begins_twice, AssertionError)):
        with pytest.raises(error):
            served(log.guard, app)
