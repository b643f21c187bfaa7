"""The guard in a thread of its own: when it is asked, when it need not be, and what is said when it does not answer."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from countermand.enforce import thread as thread_module
from countermand.enforce.decision import NOTHING_REQUIRED, Code, Deny
from countermand.enforce.guard import Guard
from countermand.enforce.thread import GuardThread, ThreadCall
from countermand.log.verdict import CLEAR, Unknown
from countermand.tokens.jwks import KeySet
from tests.unit.guarded import DELEGATED_TEXT, TOKEN_TEXT, Answers, Following, Keys, Store, guard
from tests.unit.mandates import KEYS


class OnAir:
    """Makes guards, and closes them in the end."""

    def __init__(self) -> None:
        self.guards: list[Guard] = []

    def __call__(self, revocations: Any = None, **options: Any) -> Guard:
        self.guards.append(guard(revocations, **options))
        return self.guards[-1]


@pytest.fixture
def made() -> Iterator[OnAir]:
    on_air = OnAir()
    yield on_air
    for one in on_air.guards:
        one.close()


def ask(guarding: Guard, token: str = TOKEN_TEXT) -> ThreadCall | Deny:
    answer = guarding.thread.admit(token, NOTHING_REQUIRED, "job-1")
    if isinstance(answer, ThreadCall):
        answer.end()
    return answer


def reason(answer: ThreadCall | Deny) -> str:
    assert isinstance(answer, Deny)
    assert answer.code is Code.REVOCATION_UNAVAILABLE
    return answer.reason


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "countermand guard"]


def test_it_begins_with_the_first_question_and_ends_when_it_is_closed(made: OnAir) -> None:
    background = Following()
    guarding = made(background=background)
    assert threads() == []

    for _ in range(2):
        assert ask(guarding)
        assert (len(threads()), background.running) == (1, True)
        for _ in range(2):
            guarding.close()
            assert (threads(), background.running) == ([], False)
    assert background.starts == 2


def test_a_token_that_is_known_is_asked_about_where_it_is_asked(made: OnAir) -> None:
    keys = Keys()
    guarding = made(keys=keys, background=Following())

    for _ in range(10):
        assert ask(guarding)

    assert len(keys.asked) == 1


@pytest.mark.parametrize("token", [None, "nonsense", DELEGATED_TEXT])
def test_another_token_is_asked_about_in_the_loop(made: OnAir, token: str) -> None:
    guarding = made()
    ask(guarding)

    assert isinstance(ask(guarding, token), ThreadCall) is (token == DELEGATED_TEXT)


def test_after_a_while_the_issuer_is_asked_for_its_keys_again(made: OnAir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_module, "KEYS_S", 0.0)
    keys = Keys()
    guarding = made(keys=keys)

    for _ in range(3):
        assert ask(guarding)

    assert len(keys.asked) == 3


def test_a_token_passes_where_it_is_asked_only_under_the_keys_that_verified_it(made: OnAir) -> None:
    guarding = made()
    ask(guarding)

    assert guarding.pass_at_once(TOKEN_TEXT, KEYS, NOTHING_REQUIRED) is not None
    assert guarding.pass_at_once(TOKEN_TEXT, KeySet(KEYS.keys[:1]), NOTHING_REQUIRED) is None
    assert guarding.pass_at_once(DELEGATED_TEXT, KEYS, NOTHING_REQUIRED) is None


def test_where_nothing_follows_the_loop_is_asked(made: OnAir) -> None:
    background = Following()
    guarding = made(background=background)
    ask(guarding)
    background.running = False

    assert ask(guarding)
    assert background.starts == 2


def test_a_store_that_blocks_is_never_asked_where_it_is_asked(made: OnAir) -> None:
    store = Store(lambda _id: False)
    guarding = made(store)

    for _ in range(3):
        assert ask(guarding)

    assert threading.get_ident() not in store.threads


def test_many_threads_ask_at_once(made: OnAir) -> None:
    guarding = made(background=Following())

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: ask(guarding, (TOKEN_TEXT, DELEGATED_TEXT)[number % 2]), range(400)))

    assert all(isinstance(answer, ThreadCall) for answer in answers)
    assert len(threads()) == 1


# No answer is a denial


class Hanging:
    """Keys that never come."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    async def key_set(self, key_id: str | None) -> KeySet:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError(key_id)


def test_no_answer_in_time_is_a_denial_that_is_told(
    made: OnAir, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(thread_module, "ANSWER_S", 0.05)
    caplog.set_level("INFO", "countermand.decision")

    assert reason(ask(made(keys=Hanging()))) == "no_answer"

    (told,) = [record.__dict__["decision"] for record in caplog.records if "decision" in record.__dict__]
    assert (told["outcome"], told["request_id"], told["status"]) == ("denied", "job-1", 503)


def test_who_waits_while_it_is_closed_is_denied(made: OnAir) -> None:
    keys = Hanging()
    guarding = made(keys=keys)

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, guarding)
        keys.asked.wait()
        guarding.close()

        assert reason(asked.result()) == "no_answer"


def test_where_there_is_no_room_for_a_loop_or_a_thread_everything_is_denied(
    made: OnAir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any) -> Any:
        raise OSError("too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "new_event_loop", no_room)
        guarding = made()
        assert reason(ask(guarding)) == "no_answer"

    assert ask(guarding)


def test_a_question_to_a_loop_that_was_closed_is_a_denial(made: OnAir, monkeypatch: pytest.MonkeyPatch) -> None:
    guarding = made()
    ask(guarding)
    ended = guarding.thread._thread
    guarding.close()
    monkeypatch.setattr(GuardThread, "_begun", lambda _self: ended)

    assert reason(ask(guarding)) == "no_answer"


def test_a_call_goes_on_only_if_somebody_says_so(made: OnAir, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(CLEAR)
    guarding = made(answers)
    call = guarding.thread.admit(TOKEN_TEXT, NOTHING_REQUIRED, "job-1")
    assert isinstance(call, ThreadCall)
    assert call.passes()
    answers.verdict = Unknown("stale")
    monkeypatch.setattr(thread_module, "ANSWER_S", 0.05)

    assert not call.passes()
    answers.verdict = CLEAR
    assert not call.passes(), "what was cut stays cut"
    call.end()


# The first word of the log


class HearsLater(Following):
    """A log whose first word comes a while after the start."""

    def __init__(self, answers: Answers, after_s: float) -> None:
        super().__init__()
        self.answers = answers
        self.after_s = after_s

    async def start(self) -> None:
        if not self.running:
            asyncio.get_running_loop().call_later(self.after_s, setattr, self.answers, "verdict", CLEAR)
        await super().start()


def test_the_first_questions_wait_for_the_first_word_of_the_log(made: OnAir) -> None:
    answers = Answers(Unknown("starting"))

    assert ask(made(answers, background=HearsLater(answers, 0.1)))


def test_they_do_not_wait_for_ever(made: OnAir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_module, "START_S", 0.05)
    answers = Answers(Unknown("starting"))

    assert reason(ask(made(answers, background=HearsLater(answers, 60)))) == "starting"


def test_what_cannot_start_is_a_denial(made: OnAir) -> None:
    background = Following()
    background.failure = RuntimeError("a defect")

    assert reason(ask(made(background=background))) == "not_following"
