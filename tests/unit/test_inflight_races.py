"""What is applied while a call begins: at each point in between, forced, and nothing goes on.

verified -> (a) -> registered -> (b) -> checked -> (c) -> the app's first line -> its first chunk -> (d)
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from countermand.enforce.guard import Guard
from countermand.enforce.inflight import Call
from countermand.log.anchor import Anchors, Kind
from countermand.log.verdict import Unknown, Verdict
from countermand.tokens.cache import VerifiedToken
from tests.clocks import held
from tests.unit.guarded import TOKEN_TEXT, HeldLog, Served, Store, Streaming, guard, http
from tests.unit.mandates import GRANT


def revoke_by_snapshot(log: HeldLog) -> None:
    log.signer.append(Kind.GRANT, GRANT)
    log.publish_snapshot()


REVOCATIONS: dict[str, Callable[[HeldLog], None]] = {
    "a revocation": lambda log: log.revoke(Kind.GRANT, GRANT),
    "a cutoff": lambda log: log.revoke(Kind.CUTOFF, "all", issued_before_ms=log.now_ms()),
    "a snapshot": revoke_by_snapshot,
}


class Interleaved:
    """A guard over a log, in which something is applied once, exactly before or after a step of a call."""

    def __init__(self, apply: Callable[[HeldLog], None]) -> None:
        self.log = HeldLog()
        self.guard: Guard = self.log.guard()
        self.applied = False
        self._apply = apply

    def once(self) -> None:
        if not self.applied:
            self.applied = True
            self._apply(self.log)

    def before_registration(self) -> None:
        register = self.guard._in_flight.register

        def later(token: VerifiedToken, max_staleness_s: float | None, request_id: str = "") -> Call:
            self.once()
            return register(token, max_staleness_s, request_id)

        self.guard._in_flight.register = later  # type: ignore[method-assign]  # the step itself stays as it is

    def before_check(self) -> None:
        self._around_check(before=self.once, after=lambda: None)

    def after_check(self) -> None:
        self._around_check(before=lambda: None, after=self.once)

    def _around_check(self, before: Callable[[], None], after: Callable[[], None]) -> None:
        check = self.log.replica.check

        def checked(anchors: Anchors, max_staleness_s: float | None = None) -> Verdict:
            before()
            verdict = check(anchors, max_staleness_s)
            after()
            return verdict

        self.log.replica.check = checked  # type: ignore[method-assign]  # as above


POINTS: dict[str, Callable[[Interleaved], None]] = {
    "between verification and registration": Interleaved.before_registration,
    "between registration and check": Interleaved.before_check,
    "between check and the app's first line": Interleaved.after_check,
}


@held
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("what", REVOCATIONS)
async def test_what_is_applied_before_the_app_begins_keeps_it_from_beginning(what: str, point: str) -> None:
    interleaved, app = Interleaved(REVOCATIONS[what]), Streaming()
    POINTS[point](interleaved)

    served = Served(interleaved.guard.asgi(app), http())
    await served.ended()

    assert interleaved.applied
    assert (app.ended, served.status(), served.chunks()) == ("", 401, 1)
    assert len(interleaved.guard._in_flight) == 0


@held
@pytest.mark.parametrize("what", REVOCATIONS)
@pytest.mark.parametrize("kind", ["http.response.start", "http.response.body"])
async def test_what_is_applied_after_the_first_message_lets_no_other_one_pass(what: str, kind: str) -> None:
    interleaved, app = Interleaved(REVOCATIONS[what]), Streaming(period_s=0)

    def on_sent(message: Any) -> None:
        if message["type"] == kind:
            interleaved.once()

    served = Served(interleaved.guard.asgi(app), http(), on_sent)
    await served.ended()

    assert interleaved.applied
    assert (served.sent[-1]["type"], served.chunks()) == (kind, kind.endswith("body"))
    assert (app.ended, len(interleaved.guard._in_flight)) == ("cancelled", 0)


@held
@pytest.mark.parametrize("what", REVOCATIONS)
async def test_without_a_word_to_the_guard_nothing_passes_either(what: str) -> None:
    """The look before each message asks the replica itself."""
    interleaved, app = Interleaved(REVOCATIONS[what]), Streaming(period_s=0.01)
    served = Served(interleaved.guard.asgi(app), http())
    await asyncio.sleep(0.105)
    interleaved.log.on_applied = lambda _entries: None

    interleaved.once()

    assert await served.ended() == pytest.approx(0.11)
    assert served.times_s[-1] == pytest.approx(0.1)
    assert app.ended == "cancelled"


@held
async def test_what_a_slow_store_learns_while_it_is_asked_ends_the_call_before_it_begins() -> None:
    """The decision asked before the revocation, the look of all calls after it; the decision is answered last."""
    answers: list[bool] = []

    class Slow:
        blocking = True

        def check(self, anchors: Anchors, max_staleness_s: float | None) -> Verdict:
            raise NotImplementedError

        async def ask(self, questions: Sequence[Any]) -> Sequence[Verdict]:
            store.answer = lambda _sid: len(answers) > 0
            verdicts = [revocations.check(*question) for question in questions]
            answers.append(True)
            await asyncio.sleep(3 if len(answers) == 1 else 0)
            return verdicts

        def staleness_ms(self) -> int | None:
            raise NotImplementedError

    store = Store(lambda _sid: False)
    guarded, app = guard(store), Streaming()
    revocations = guarded._revocations
    slow = Slow()
    guarded._revocations = guarded._in_flight._asked = slow

    served = Served(guarded.asgi(app), http())

    assert await served.ended() == 3
    assert (app.ended, served.status(), len(guarded._in_flight)) == ("", 401, 0)


@held
async def test_a_call_that_is_given_up_while_a_store_is_asked_leaves_nothing_registered() -> None:
    guarded = guard(Store(lambda _sid: False))

    class Waiting:
        blocking = True

        def check(self, anchors: Anchors, max_staleness_s: float | None) -> Verdict:
            raise NotImplementedError

        async def ask(self, questions: Sequence[Any]) -> Sequence[Verdict]:
            await asyncio.Event().wait()
            return [Unknown("never") for _ in questions]

        def staleness_ms(self) -> int | None:
            raise NotImplementedError

    guarded._revocations = Waiting()
    admitting = asyncio.ensure_future(guarded.admit(TOKEN_TEXT, guarded.combine(None)))
    await asyncio.sleep(0)
    assert len(guarded._in_flight) == 1

    admitting.cancel()
    await asyncio.wait([admitting])

    assert len(guarded._in_flight) == 0


@held
async def test_a_revocation_of_something_else_at_any_point_changes_nothing() -> None:
    for force in POINTS.values():
        interleaved = Interleaved(lambda log: log.revoke(Kind.SESSION, "ses_" + "ee" * 16))
        force(interleaved)
        served = Served(interleaved.guard.asgi(Streaming(3)), http())
        await served.ended()
        assert (interleaved.applied, served.chunks(), served.is_whole()) == (True, 3, True)
