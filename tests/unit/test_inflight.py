"""Answers that take their time: cut when their token ends, held when nobody can know; in a held event loop."""

import asyncio
import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from countermand.enforce import inflight
from countermand.enforce.asgi import Message
from countermand.enforce.guard import Guard
from countermand.enforce.inflight import InFlight
from countermand.enforce.revocations import Question
from countermand.enforce.trace import Trace
from countermand.log.anchor import Anchors, Kind, own_id
from countermand.log.verdict import CLEAR, Unknown, Verdict
from countermand.stores.memory import InMemoryRevocationStore
from countermand.tokens.cache import VerifiedToken
from tests.clocks import held
from tests.unit.guarded import (
    DELEGATED_TEXT,
    SECRETS,
    TOKEN_TEXT,
    HeldLog,
    Served,
    Store,
    Streaming,
    guard,
    http,
)
from tests.unit.mandates import AGENT, APPLICATION, ED25519, ES256, KEYS, NOW_S, SESSION, claims_json, read, sign

ENDINGS = {
    "its session is revoked": (Kind.SESSION, SESSION, "session_revoked"),
    "its application is revoked": (Kind.APPLICATION, APPLICATION, "session_revoked"),
    "its key is withdrawn": (Kind.KEY, ES256.kid, "session_revoked"),
    "everyone is cut off": (Kind.CUTOFF, "all", "session_revoked"),
    "its subject is cut off": (Kind.CUTOFF, "subject:alice", "session_revoked"),
}


def left(guarded: Guard) -> int:
    """How many calls are registered."""
    return len(guarded._in_flight)


async def heartbeats(log: HeldLog, count: int) -> None:
    """A checkpoint a second."""
    for _ in range(count):
        await asyncio.sleep(1)
        log.publish()


# Cut


@held
@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_stream_is_cut_at_once_and_without_its_end(ending: str) -> None:
    kind, id_, _ = ENDINGS[ending]
    log, app = HeldLog(), Streaming()
    guarded = log.guard()
    token = sign(claims_json(rev=[1, 0]))
    served = Served(guarded.asgi(app), http(token))
    await asyncio.sleep(1)
    log.revoke(Kind.SESSION, "ses_" + "ee" * 16)
    await asyncio.sleep(1.5)

    log.revoke(kind, id_)

    assert await served.ended() == 2.5
    assert app.ended == "cancelled"
    assert (served.status(), served.chunks(), served.is_whole()) == (200, 3, False)
    assert left(guarded) == 0


@held
async def test_a_stream_is_cut_when_a_snapshot_brings_the_revocation() -> None:
    log, app = HeldLog(), Streaming()
    served = Served(log.guard().asgi(app), http())
    await asyncio.sleep(2.5)
    log.signer.append(Kind.SESSION, SESSION)

    log.publish_snapshot()

    assert await served.ended() == 2.5
    assert (app.ended, served.is_whole()) == ("cancelled", False)


@held
async def test_only_what_rests_on_what_was_revoked_is_cut() -> None:
    log = HeldLog()
    guarded = log.guard()
    agents, plain = (Served(guarded.asgi(Streaming(6)), http(token)) for token in (DELEGATED_TEXT, TOKEN_TEXT))
    await asyncio.sleep(2.5)
    assert left(guarded) == 2

    log.revoke(Kind.AGENT, AGENT)

    assert await agents.ended() == 2.5
    await plain.ended()
    assert (agents.is_whole(), plain.is_whole(), plain.chunks()) == (False, True, 6)
    assert left(guarded) == 0


@held
async def test_a_stream_ends_with_its_token_and_the_leeway() -> None:
    log, app = HeldLog(), Streaming()
    token = sign(claims_json(exp=NOW_S + 5))
    guarded = log.guard()
    served = Served(guarded.asgi(app), http(token))

    ended_s = await served.ended()

    assert 15 <= ended_s <= 15.25
    assert (app.ended, served.times_s[-1], served.is_whole(), left(guarded)) == ("cancelled", 14, False, 0)


@held
async def test_an_idle_stream_ends_with_its_token() -> None:
    log, app = HeldLog(), Streaming(period_s=20)
    served = Served(log.guard().asgi(app), http(sign(claims_json(exp=NOW_S + 5))))

    assert 15 <= await served.ended() <= 15.25


@held
async def test_a_chunk_that_comes_just_after_the_end_of_the_token_is_not_sent() -> None:
    log = HeldLog()
    app = Streaming(period_s=15.1)  # between two looks of the timer
    served = Served(log.guard().asgi(app), http(sign(claims_json(exp=NOW_S + 5.05))))

    assert await served.ended() == 15.1
    assert served.chunks() == 1


@held
async def test_a_clock_set_forward_past_the_end_of_the_token_cuts_the_stream() -> None:
    log, app = HeldLog(), Streaming(period_s=20)
    served = Served(log.guard().asgi(app), http())
    await asyncio.sleep(1.1)

    log.step_s += 1_000

    assert await served.ended() == 1.25


@held
async def test_a_clock_set_back_lets_a_stream_go_on_until_the_token_ends_by_it() -> None:
    log, app = HeldLog(), Streaming()
    served = Served(log.guard().asgi(app), http(sign(claims_json(exp=NOW_S + 5))))
    await asyncio.sleep(1.1)

    log.step_s -= 5

    assert 20 <= await served.ended() <= 20.25


@held
async def test_before_its_answer_has_begun_a_call_that_is_cut_is_answered_with_the_denial() -> None:
    async def thinks(*_: Any) -> None:
        await asyncio.sleep(100)

    log = HeldLog()
    guarded = log.guard()
    thinking = Served(guarded.asgi(thinks), http())
    expiring = Served(guarded.asgi(thinks), http(sign(claims_json(exp=NOW_S - 8))))
    await asyncio.sleep(1)
    log.revoke(Kind.SESSION, SESSION)
    await thinking.ended()

    assert [message["type"] for message in thinking.sent] == ["http.response.start", "http.response.body"]
    assert thinking.status() == 401
    assert json.loads(thinking.sent[1]["body"])["error"] == "session_revoked"
    assert any(name == b"www-authenticate" for name, _ in thinking.sent[0]["headers"])
    assert await expiring.ended() == 1
    assert json.loads(expiring.sent[1]["body"])["error"] == "session_revoked"
    assert left(guarded) == 0


@held
async def test_before_its_answer_has_begun_a_call_whose_token_ends_is_told_so() -> None:
    async def thinks(*_: Any) -> None:
        await asyncio.sleep(100)

    served = Served(HeldLog().guard().asgi(thinks), http(sign(claims_json(exp=NOW_S - 8))))
    await served.ended()

    body = json.loads(served.sent[1]["body"])
    assert (served.status(), body["error"], body["error_description"]) == (
        401,
        "invalid_token",
        "the token has expired",
    )


@held
async def test_a_cut_is_logged_as_a_denial_is_and_without_a_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    log = HeldLog()
    served = Served(log.guard().asgi(Streaming()), http())
    await asyncio.sleep(1)
    log.revoke(Kind.SESSION, SESSION)
    await served.ended()

    cuts = [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "countermand.decision"]
    assert cuts == [(logging.DEBUG, "allowed"), (logging.INFO, f"cut: session_revoked (session:{SESSION})")]
    assert not [secret for secret in SECRETS if secret in caplog.text]


# Held


@held
async def test_when_the_replica_is_stale_nothing_more_is_sent_and_when_it_is_fresh_again_it_goes_on() -> None:
    log, app = HeldLog(), Streaming(50)
    served = Served(log.guard().asgi(app), http())
    await asyncio.sleep(35)  # it refuses above 29 s
    assert (served.chunks(), app.ended) == (30, "running")

    log.publish()
    await heartbeats(log, 40)

    assert await served.ended() >= 50
    assert (app.ended, served.chunks(), served.is_whole()) == ("finished", 50, True)
    assert served.times_s[30] == 29
    assert 35 <= served.times_s[31] <= 35.25


@held
async def test_held_for_ten_seconds_a_stream_is_cut() -> None:
    log, app = HeldLog(), Streaming()
    guarded = log.guard()
    served = Served(guarded.asgi(app), http())

    ended_s = await served.ended()

    assert 39 <= ended_s <= 39.5
    assert (served.times_s[-1], served.is_whole(), app.ended, left(guarded)) == (29, False, "cancelled", 0)


@held
async def test_held_for_ten_seconds_an_idle_call_is_answered_that_we_cannot_know() -> None:
    async def thinks(*_: Any) -> None:
        await asyncio.sleep(100)

    served = Served(HeldLog().guard().asgi(thinks), http())

    assert 39 <= await served.ended() <= 39.5
    assert (served.status(), json.loads(served.sent[1]["body"])["error"]) == (503, "revocation_unavailable")


@held
async def test_each_hold_has_its_own_ten_seconds() -> None:
    log, app = HeldLog(), Streaming()
    served = Served(log.guard().asgi(app), http())
    for _ in range(3):
        await asyncio.sleep(37)  # held for the last eight
        log.publish()
    assert app.ended == "running"

    assert 111 + 39 <= await served.ended(within_s=200) <= 111 + 39.5


@held
async def test_what_is_revoked_while_it_is_held_is_cut_at_once() -> None:
    log, app = HeldLog(), Streaming()
    served = Served(log.guard().asgi(app), http())
    await asyncio.sleep(33)

    log.revoke(Kind.SESSION, SESSION)

    assert await served.ended() == 33
    assert served.times_s[-1] == 29


@held
async def test_a_route_with_a_tighter_bound_is_held_sooner_and_the_strictest_wins() -> None:
    log = HeldLog()
    guarded = log.guard()
    tight, loose, both = Streaming(), Streaming(), Streaming()
    served = [
        Served(guarded.asgi(tight, max_staleness_s=5), http()),
        Served(guarded.asgi(loose), http()),
        Served(guarded.asgi(guarded.asgi(both, max_staleness_s=5), max_staleness_s=20), http()),
    ]

    ended_s = [await each.ended() for each in served]

    assert [each.times_s[-1] for each in served] == [4, 29, 4]
    assert 14 <= ended_s[0] <= 14.5
    assert 39 <= ended_s[1] <= 39.5
    assert ended_s[2] == ended_s[1]  # that is when we looked; it was cut long before
    assert [app.ended for app in (tight, loose, both)] == ["cancelled"] * 3
    assert left(guarded) == 0


@held
async def test_an_answer_that_would_begin_while_it_is_held_waits() -> None:
    async def late(_scope: Any, _receive: Any, send: Any) -> None:
        await asyncio.sleep(30)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    log = HeldLog()
    served = Served(log.guard().asgi(late), http())
    await asyncio.sleep(33)
    assert served.sent == []

    log.publish()
    await served.ended()
    assert (served.status(), served.is_whole()) == (200, True)


# Its end


@held
async def test_an_answer_that_is_whole_is_no_longer_in_flight_and_what_follows_it_is_not_cut() -> None:
    done: list[str] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})
        await asyncio.sleep(100)
        done.append("background")

    log = HeldLog()
    guarded = log.guard()
    served = Served(guarded.asgi(app), http())
    await asyncio.sleep(1)
    assert left(guarded) == 0
    log.revoke(Kind.SESSION, SESSION)

    await served.ended(within_s=200)
    assert (done, served.is_whole()) == (["background"], True)


@held
async def test_with_trailers_the_answer_ends_with_them() -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"hello"})
        await asyncio.sleep(1)
        await send({"type": "http.response.trailers", "headers": []})
        await asyncio.sleep(1)

    guarded = HeldLog().guard()
    served = Served(guarded.asgi(app), http())
    await asyncio.sleep(0.5)
    assert left(guarded) == 1
    await asyncio.sleep(1)
    assert left(guarded) == 0
    await served.ended()


@held
@pytest.mark.parametrize("token", ["a.b.c", sign(claims_json(), ED25519, {"alg": "Ed25519"}), TOKEN_TEXT])
async def test_a_denied_call_leaves_nothing_registered(token: str) -> None:
    log = HeldLog()
    log.revoke(Kind.SESSION, SESSION)
    guarded = log.guard()

    await Served(guarded.asgi(Streaming()), http(token)).ended()

    assert left(guarded) == 0
    await asyncio.sleep(1)
    assert guarded._in_flight._watches == {}


@held
async def test_a_call_that_lacks_what_is_required_leaves_nothing_registered() -> None:
    guarded = HeldLog().guard()

    served = Served(guarded.asgi(Streaming(), required_scopes=["admin"]), http())
    await served.ended()

    assert (served.status(), left(guarded)) == (403, 0)


@held
async def test_a_call_whose_server_gives_it_up_leaves_nothing_registered() -> None:
    guarded = HeldLog().guard()
    app = Streaming()
    served = Served(guarded.asgi(app), http())
    await asyncio.sleep(1)
    assert left(guarded) == 1

    served.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await served.task

    assert (app.ended, left(guarded)) == ("cancelled", 0)


@held
async def test_a_call_that_fails_fails_as_it_did_and_leaves_nothing_registered() -> None:
    async def fails(*_: Any) -> None:
        await asyncio.sleep(1)
        raise ValueError("a defect")

    guarded = HeldLog().guard()
    served = Served(guarded.asgi(fails), http())

    with pytest.raises(ValueError, match="a defect"):
        await served.ended()
    assert left(guarded) == 0


@held
async def test_what_an_app_leaves_behind_sends_nothing_after_it_has_returned() -> None:
    """Nobody looks after the call any more; so what would go on in its name is told that the client has gone."""
    left_behind: list[asyncio.Task[None]] = []

    async def go_on(send: Any, receive: Any) -> None:
        await asyncio.sleep(1)
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.body", "body": b"late", "more_body": True})

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        left_behind.append(asyncio.ensure_future(go_on(send, receive)))

    served = Served(HeldLog().guard().asgi(app), http())
    await served.ended()

    with pytest.raises(ConnectionAbortedError):
        await left_behind[0]
    assert served.chunks() == 0


@held
async def test_what_an_app_leaves_behind_and_is_held_is_not_let_go_when_it_returns() -> None:
    left_behind: list[asyncio.Task[None]] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(35)  # nothing is heard meanwhile: what we know is too old
        part = {"type": "http.response.body", "body": b"late", "more_body": True}
        left_behind.append(asyncio.ensure_future(send(part)))
        await asyncio.sleep(1)

    served = Served(HeldLog().guard().asgi(app), http())
    await served.ended()

    with pytest.raises(ConnectionAbortedError):
        await left_behind[0]
    assert served.chunks() == 0


@held
@pytest.mark.parametrize("last", ["http.response.zerocopysend", "http.response.pathsend"])
async def test_an_answer_that_ends_with_a_file_is_in_flight_no_longer(last: str) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": last, "path": "/a/file", "file": 3})
        await asyncio.sleep(2)

    guarded = HeldLog().guard()
    served = Served(guarded.asgi(app), http())
    await asyncio.sleep(1)
    assert left(guarded) == 0
    await served.ended()


@held
async def test_a_time_limit_of_the_apps_own_is_no_cut() -> None:
    async def limited(*_: Any) -> None:
        async with asyncio.timeout(1):
            await asyncio.sleep(2)

    with pytest.raises(TimeoutError):
        await Served(HeldLog().guard().asgi(limited), http()).ended()


@held
async def test_where_nothing_is_in_flight_no_timer_runs() -> None:
    guarded = HeldLog().guard()
    await Served(guarded.asgi(Streaming(1, period_s=0)), http()).ended()
    assert len(guarded._in_flight._watches) == 1
    await asyncio.sleep(1)
    assert guarded._in_flight._watches == {}


@held
async def test_a_plain_decision_registers_nothing() -> None:
    guarded = HeldLog().guard()

    assert await guarded.decide(TOKEN_TEXT)
    assert guarded._in_flight._watches == {}


@held
async def test_an_entry_for_others_looks_at_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at thousands of streams for each of many revocations would be all that the event loop does."""
    log = HeldLog()
    guarded = log.guard()
    served = Served(guarded.asgi(Streaming(period_s=100)), http())
    await asyncio.sleep(0.9)
    looks: list[object] = []
    monkeypatch.setattr(inflight._Watch, "look", lambda _watch, call: looks.append(call))

    log.revoke(Kind.SESSION, own_id(Kind.SESSION, b"x" * 16))
    await asyncio.sleep(0)
    assert looks == []
    log.revoke(Kind.SESSION, SESSION)
    await asyncio.sleep(0)
    assert len(looks) == 1

    served.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await served.task


# Stores


@held
async def test_a_store_in_memory_cuts_a_stream_at_the_next_look() -> None:
    store = InMemoryRevocationStore()
    app = Streaming(period_s=20)
    served = Served(guard(store).asgi(app), http())
    await asyncio.sleep(2.1)

    store.mark_revoked(SESSION)

    assert await served.ended() == 2.25
    assert (app.ended, served.is_whole()) == ("cancelled", False)


@held
async def test_a_store_that_blocks_is_asked_once_a_second_for_each_id_of_all_calls_together() -> None:
    asked: list[tuple[float, str]] = []
    marked: set[str] = set()

    def answer(sid: str) -> bool:
        asked.append((round(asyncio.get_running_loop().time(), 3), sid))
        return sid in marked

    guarded = guard(Store(answer))
    apps = [Streaming(period_s=0.2) for _ in range(3)]
    served = [Served(guarded.asgi(app), http()) for app in apps]
    await asyncio.sleep(3.5)

    assert sorted({time_s for time_s, sid in asked if sid == SESSION}) == [0, 1, 2, 3]
    assert len([sid for time_s, sid in asked if sid == SESSION and time_s == 2]) == 1, "the three share it"
    marked.add(SESSION)
    assert [await each.ended() for each in served] == [4, 4, 4]
    assert [app.ended for app in apps] == ["cancelled"] * 3
    assert left(guarded) == 0


class Slow:
    """Revocations that answer for two tokens each time, and know nothing of the others."""

    blocking = True

    def __init__(self) -> None:
        self.asked: list[list[Anchors]] = []

    def check(self, _anchors: Anchors, _max_staleness_s: float | None) -> Verdict:
        raise NotImplementedError

    async def ask(self, questions: Sequence[Question]) -> Sequence[Verdict]:
        self.asked.append([anchors for anchors, _ in questions])
        return [*[CLEAR] * 2, *[Unknown("store_timeout")] * (len(questions) - 2)]

    def staleness_ms(self) -> int | None:
        return None


@held
async def test_a_store_that_answers_for_some_is_asked_about_the_others_first_the_next_time() -> None:
    slow = Slow()
    watched = InFlight(slow, lambda: NOW_S, Trace(slow, lambda: NOW_S))
    verified = VerifiedToken.of(read(TOKEN_TEXT), KEYS)
    tokens = [replace(verified, anchors=Anchors((), number)) for number in range(4)]
    calls = [watched.register(token, None) for token in tokens]
    await asyncio.sleep(1.5)
    late = {call.token.anchors for call in calls if call.is_held}
    assert len(late) == 2
    await asyncio.sleep(1)

    first, second = slow.asked
    assert set(first[2:]) == set(second[:2]) == late
    assert not any(call.denial for call in calls)


@held
async def test_a_store_that_fails_holds_a_stream_and_ends_it_after_ten_seconds() -> None:
    failing = False

    def answer(_sid: str) -> bool:
        if failing:
            raise OSError
        return False

    served = Served(guard(Store(answer)).asgi(Streaming()), http())
    await asyncio.sleep(2.5)
    failing = True
    await asyncio.sleep(5)
    assert served.times_s[-1] <= 3
    failing = False
    await asyncio.sleep(1)
    assert served.times_s[-1] == pytest.approx(8)
    failing = True

    assert await served.ended() == pytest.approx(19)  # asked at 9


class Pensive:
    """A store that blocks, as the guard asks it: it answers the first question at once, and takes 5 s for any other."""

    blocking = True

    def __init__(self) -> None:
        self.asked_s: list[float] = []

    def check(self, anchors: Anchors, max_staleness_s: float | None) -> Verdict:
        raise NotImplementedError

    async def ask(self, questions: Sequence[Question]) -> Sequence[Verdict]:
        self.asked_s.append(asyncio.get_running_loop().time())
        await asyncio.sleep(5 if len(self.asked_s) > 1 else 0)
        return [CLEAR for _ in questions]

    def staleness_ms(self) -> int | None:
        raise NotImplementedError


@held
async def test_a_store_that_thinks_is_not_asked_again_meanwhile_and_holds_nothing_up() -> None:
    guarded, store, app = guard(Store(lambda _sid: False)), Pensive(), Streaming(12)
    guarded._revocations = guarded._in_flight._asked = store

    served = Served(guarded.asgi(app), http())
    await served.ended()

    assert store.asked_s == [0, 1, 7]
    assert (served.times_s[1:], served.is_whole()) == (list(range(12)), True)
    await asyncio.sleep(1)  # for the answer that nobody needs


# Other event loops


class StandingLog(HeldLog):
    """A log for which no time passes, so that any event loop will do."""

    def now_ms(self) -> int:
        return NOW_S * 1000


def test_a_call_in_another_event_loop_is_cut_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflight, "LOOK_S", 3_600)  # so that nothing but the word of what was applied can cut it
    begun, ended = threading.Event(), threading.Event()
    app = Streaming(period_s=30)

    log = StandingLog()
    guarded = log.guard()

    def note(message: Message) -> None:
        if message["type"] == "http.response.body":
            begun.set()

    async def serve() -> None:
        await Served(guarded.asgi(app), http(), note).ended()
        ended.set()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert begun.wait(20)
    log.revoke(Kind.SESSION, SESSION)
    assert ended.wait(20)
    thread.join()

    assert app.ended == "cancelled"
    assert left(guarded) == 0


def test_an_event_loop_that_was_closed_with_a_call_in_it_harms_nobody() -> None:
    log = StandingLog()
    guarded = log.guard()
    loop = asyncio.new_event_loop()

    async def register() -> None:
        await guarded.admit(TOKEN_TEXT, guarded.combine(None))

    loop.run_until_complete(register())
    loop.close()
    assert left(guarded) == 1

    log.revoke(Kind.SESSION, SESSION)

    assert left(guarded) == 0
