"""An app that asks for itself: what it did not ask about is open, and from the moment it asks nothing else is."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from countermand.enforce.asgi import MANDATE_KEY, GuardMiddleware, Message, Receive, Scope, Send
from countermand.enforce.asking import Asking, asking
from countermand.enforce.decision import Requirements
from countermand.enforce.guard import Guard
from countermand.errors import DeniedError
from countermand.log.anchor import Kind
from countermand.log.verdict import CLEAR, Unknown
from countermand.tokens.mandate import Mandate
from tests.clocks import held
from tests.unit.guarded import TOKEN_TEXT, Answers, HeldLog, Served, Streaming, guard, http, revoked, websocket
from tests.unit.mandates import NOW_S, SESSION, claims_json, sign

pytestmark = pytest.mark.anyio

OK: Message = {"type": "http.response.start", "status": 200, "headers": []}
END: Message = {"type": "http.response.body", "body": b"done"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class App:
    """Runs `steps`, then answers 200."""

    def __init__(self, *steps: Callable[[Scope, Receive, Send], Awaitable[object]]) -> None:
        self.steps = steps
        self.scope: Scope = {}
        self.raised: list[BaseException] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        for step in self.steps:
            try:
                await step(scope, receive, send)
            except Exception as error:
                self.raised.append(error)
                raise
        await send(OK)
        await send(END)


def asks(guarding: Guard, **requirements: Any) -> Callable[..., Awaitable[object]]:
    required = guarding.combine(Requirements.of(**requirements)) if requirements else None

    async def step(scope: Scope, receive: Receive, send: Send) -> object:
        current = asking(guarding)
        assert current is not None
        return await current.ask(required)

    return step


async def served(guarding: Guard, app: Any, scope: Scope | None = None, **options: Any) -> list[Message]:
    request = Served(GuardMiddleware(app, guarding, on_demand=True, **options), scope or http())
    await request.ended()
    return request.sent


async def test_what_does_not_ask_is_open_to_anybody() -> None:
    app = App()
    sent = await served(guard(), app, http("nonsense"))
    assert sent[0]["status"] == 200
    assert MANDATE_KEY not in app.scope


async def test_who_asks_hears_who_acts() -> None:
    guarding = guard()
    app = App(asks(guarding), asks(guarding))
    sent = await served(guarding, app)
    assert sent[0]["status"] == 200
    assert app.scope[MANDATE_KEY].subject == app.scope["state"]["mandate"].subject == "alice"


@pytest.mark.parametrize(
    ("revocations", "token", "status"),
    [(None, "nonsense", 401), (revoked(SESSION), TOKEN_TEXT, 401), (Answers(Unknown("stale")), TOKEN_TEXT, 503)],
)
async def test_a_denial_is_answered_by_the_guard(revocations: Any, token: str, status: int) -> None:
    guarding = guard(revocations)
    app = App(asks(guarding))
    sent = await served(guarding, app, http(token))
    assert [message.get("status") for message in sent] == [status, None]
    assert isinstance(app.raised[0], DeniedError)


async def test_an_app_that_answers_all_the_same_is_not_heard() -> None:
    guarding = guard(revoked(SESSION))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asks(guarding)(scope, receive, send)
        except DeniedError:
            for message in (OK, END):
                with pytest.raises(ConnectionAbortedError):
                    await send(message)
            assert (await receive())["type"] == "http.disconnect"

    sent = await served(guarding, app)
    assert sent[0]["status"] == 401


async def test_what_was_refused_stays_refused_however_little_is_asked() -> None:
    guarding = guard()
    refused: list[DeniedError] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for requirements in ({"required_scopes": ["admin"]}, {}, {"required_scopes": ["read"]}):
            with pytest.raises(DeniedError) as denied:
                await asks(guarding, **requirements)(scope, receive, send)
            refused.append(denied.value)

    assert (await served(guarding, app))[0]["status"] == 403
    assert len(refused) == 3


async def test_what_is_asked_is_met_together_with_all_that_was_asked_before() -> None:
    answers = Answers(CLEAR)
    guarding = guard(answers)
    app = App(asks(guarding, max_staleness_s=5), asks(guarding, required_scopes=["read"]))
    await served(guarding, app)
    assert {bound for _, bound in answers.asked} == {5}


async def test_two_questions_at_once_are_both_met_while_the_answer_streams() -> None:
    guarding = guard()
    current: list[Asking] = []

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        strict = asks(guarding, required_scopes=["read"])(scope, receive, send)
        await asyncio.gather(asks(guarding)(scope, receive, send), strict, asks(guarding)(scope, receive, send))
        current.append(asking(guarding))  # type: ignore[arg-type]  # it is there
        assert guarding.in_flight == 1

    await served(guarding, App(both))
    assert current[0]._requirements.required_scopes == {"read"}


async def test_who_asks_after_the_answer_is_asked_about_anew_and_nothing_is_left_in_flight() -> None:
    store = revoked()
    guarding = guard(store)
    late: list[BaseException | Mandate] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asks(guarding)(scope, receive, send)
        await send(OK)
        await send(END)
        store.mark_revoked(SESSION)
        late.extend(await asyncio.gather(asks(guarding)(scope, receive, send), return_exceptions=True))  # type: ignore[arg-type]

    await served(guarding, app)
    assert isinstance(late[0], DeniedError)
    assert guarding.in_flight == 0


async def test_what_an_app_leaves_behind_has_nobody_to_ask_and_leaves_nothing_in_flight() -> None:
    guarding = guard()
    kept: list[Asking] = []
    found: list[object] = []
    going_on = asyncio.Event()

    async def left(current: Asking) -> None:
        kept.append(current)
        await going_on.wait()
        found.append(asking(guarding))
        found.append(await current.ask(guarding.combine(Requirements.of(required_scopes=["read"]))))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        current = asking(guarding)
        assert current is not None
        tasks.append(asyncio.create_task(left(current)))
        await send(OK)
        await send(END)

    tasks: list[asyncio.Task[None]] = []
    await served(guarding, app)
    going_on.set()
    await tasks[0]
    assert found[0] is None
    assert isinstance(found[1], Mandate)
    assert guarding.in_flight == 0


async def test_an_answer_that_has_begun_ends_where_a_denial_comes() -> None:
    guarding = guard(revoked(SESSION))

    async def begins(scope: Scope, receive: Receive, send: Send) -> None:
        await send(OK)

    sent = await served(guarding, App(begins, asks(guarding)))
    assert [message["type"] for message in sent] == ["http.response.start"]


async def test_asked_again_with_more_to_meet_a_request_may_be_denied_after_all() -> None:
    guarding = guard()
    app = App(asks(guarding, required_scopes=["read"]), asks(guarding, required_scopes=["admin"]))
    sent = await served(guarding, app)
    assert sent[0]["status"] == 403
    assert guarding.in_flight == 0


async def test_what_the_middleware_requires_is_met_by_whoever_asks() -> None:
    guarding = guard()
    sent = await served(guarding, App(asks(guarding)), requirements=Requirements.of(required_scopes=["admin"]))
    assert sent[0]["status"] == 403


async def test_nothing_is_left_in_flight() -> None:
    guarding = guard()
    app = App(asks(guarding), asks(guarding, required_scopes=["read"]), asks(guarding, required_scopes=["write"]))
    await served(guarding, app)
    assert guarding.in_flight == 0


async def test_a_web_socket_is_refused_where_it_asks() -> None:
    guarding = guard(revoked(SESSION))
    sent = await served(guarding, App(asks(guarding)), websocket())
    assert sent == [{"type": "websocket.close", "code": 1008, "reason": "session_revoked"}]


async def test_a_request_that_came_by_another_guard_or_by_none_has_nobody_to_ask() -> None:
    mine, other = guard(), guard()
    found: list[object] = []

    async def looks(scope: Scope, receive: Receive, send: Send) -> None:
        found.extend([asking(mine), asking(other)])

    await served(other, App(looks))
    assert found[0] is None
    assert found[1] is not None
    assert asking(other) is None


async def test_behind_a_strict_guard_more_can_be_asked() -> None:
    guarding = guard()
    request = Served(guarding.asgi(App(asks(guarding, required_scopes=["admin"]))), http())
    await request.ended()
    assert request.status() == 403


@held
async def test_a_stream_that_asked_is_cut_and_one_that_did_not_goes_on() -> None:
    log = HeldLog()
    guarding = log.guard()
    streaming = Streaming(count=5)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/asks":
            await asks(guarding)(scope, receive, send)
        await streaming(scope, receive, send)

    guarded = GuardMiddleware(app, guarding, on_demand=True)
    asked, open_ = Served(guarded, http(path="/asks")), Served(guarded, http())
    await asyncio.sleep(1.5)
    log.revoke(Kind.SESSION, SESSION)
    await asked.ended()
    await open_.ended()
    assert (asked.chunks(), asked.is_whole()) == (2, False)
    assert (open_.chunks(), open_.is_whole()) == (5, True)


@held
async def test_a_bound_that_a_route_tightens_holds_its_stream() -> None:
    log = HeldLog()
    guarding = log.guard()
    streaming = Streaming(count=100)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asks(guarding)(scope, receive, send)
        await asks(guarding, max_staleness_s=5)(scope, receive, send)
        await streaming(scope, receive, send)

    request = Served(GuardMiddleware(app, guarding, on_demand=True), http())
    ended_s = await request.ended()
    assert 13 < ended_s < 16, "held after 4 s, and cut after 10 more"
    assert not request.is_whole()


@held
async def test_a_token_that_expires_while_the_app_thinks_is_answered() -> None:
    log = HeldLog()
    guarding = log.guard()

    async def thinks(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(60)

    token = sign(claims_json(exp=NOW_S + 5))
    request = Served(GuardMiddleware(App(asks(guarding), thinks), guarding, on_demand=True), http(token))
    ended_s = await request.ended()
    assert ended_s < 20
    assert request.status() == 401
