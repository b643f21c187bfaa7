"""Between server and app: what comes in while a call is held or cut, web sockets, and apps that will not stop."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from countermand.enforce.asgi import Message, Receive, Scope, Send
from countermand.log.anchor import Kind
from tests.clocks import held
from tests.unit.guarded import ID_HEADER, TOKEN_TEXT, HeldLog, Served, http, websocket
from tests.unit.mandates import NOW_S, SESSION, claims_json, sign

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
STARTED: Message = {**START, "headers": [ID_HEADER]}
"""As it is at the client."""
CHUNK: Message = {"type": "http.response.body", "body": b"chunk", "more_body": True}
PART: Message = {"type": "http.request", "body": b"part", "more_body": True}
CONNECT: Message = {"type": "websocket.connect"}
SAID: Message = {"type": "websocket.receive", "text": "hello"}


class Listener:
    """A web socket, or an upload: it notes what comes, and when."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.times_s: list[float] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        while True:
            message = await receive()
            self.heard.append(message["type"])
            self.times_s.append(asyncio.get_running_loop().time())
            if message["type"] == "websocket.connect":
                await send({"type": "websocket.accept"})
            if message["type"].endswith("disconnect"):
                return


def open_socket(app: Any, token: str = TOKEN_TEXT) -> Served:
    served = Served(app, websocket(token))
    served.says.put_nowait(CONNECT)
    return served


# Web sockets


@held
async def test_a_web_socket_is_closed_when_its_token_is_revoked() -> None:
    log = HeldLog()
    guarded = log.guard()
    served = open_socket(guarded.asgi(Listener()))
    await asyncio.sleep(1.1)

    log.revoke(Kind.SESSION, SESSION)

    assert await served.ended() == 1.1
    assert served.sent == [
        {"type": "websocket.accept", "headers": [ID_HEADER]},
        {"type": "websocket.close", "code": 1008, "reason": "session_revoked"},
    ]
    assert len(guarded._in_flight) == 0


@held
async def test_what_an_app_leaves_listening_hears_nothing_after_it_has_returned() -> None:
    left_listening: list[asyncio.Task[Message]] = []

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        left_listening.append(asyncio.ensure_future(receive()))
        await asyncio.sleep(1)

    served = open_socket(HeldLog().guard().asgi(app))
    await served.ended()
    served.says.put_nowait(SAID)

    assert (await left_listening[0])["type"] == "websocket.disconnect"


@held
async def test_a_web_socket_is_closed_when_its_token_ends() -> None:
    served = open_socket(HeldLog().guard().asgi(Listener()), sign(claims_json(exp=NOW_S + 5)))

    assert 15 <= await served.ended() <= 15.25
    assert served.sent[-1] == {"type": "websocket.close", "code": 1008, "reason": "invalid_token"}


@held
async def test_a_web_socket_is_closed_with_another_code_when_we_cannot_know() -> None:
    served = open_socket(HeldLog().guard().asgi(Listener()))

    assert 39 <= await served.ended() <= 39.5
    assert served.sent[-1] == {"type": "websocket.close", "code": 1013, "reason": "revocation_unavailable"}


@held
async def test_a_web_socket_is_closed_though_it_was_never_accepted() -> None:
    async def thinks(*_: Any) -> None:
        await asyncio.sleep(100)

    log = HeldLog()
    served = open_socket(log.guard().asgi(thinks))
    await asyncio.sleep(1)
    log.revoke(Kind.SESSION, SESSION)
    await served.ended()

    assert served.sent == [{"type": "websocket.close", "code": 1008, "reason": "session_revoked"}]


@held
async def test_a_web_socket_that_was_refused_by_an_answer_of_the_apps_own_is_not_closed_as_well() -> None:
    async def refuses(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        await asyncio.sleep(100)

    log = HeldLog()
    served = open_socket(log.guard().asgi(refuses))
    await asyncio.sleep(1)
    log.revoke(Kind.SESSION, SESSION)
    await served.ended()

    assert [message["type"] for message in served.sent] == ["websocket.http.response.start"]


@held
async def test_a_web_socket_whose_client_left_is_not_closed_again() -> None:
    async def lingers(scope: Scope, receive: Receive, send: Send) -> None:
        await Listener()(scope, receive, send)
        await asyncio.sleep(100)

    log = HeldLog()
    guarded = log.guard()
    served = open_socket(guarded.asgi(lingers))
    served.says.put_nowait({"type": "websocket.disconnect", "code": 1001})
    await asyncio.sleep(1)
    log.revoke(Kind.SESSION, SESSION)

    assert await served.ended() == 1
    assert served.sent == [{"type": "websocket.accept", "headers": [ID_HEADER]}]
    assert len(guarded._in_flight) == 0


@held
async def test_a_web_socket_that_its_app_has_closed_is_no_longer_in_flight() -> None:
    async def closes(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
        await asyncio.sleep(10)

    log = HeldLog()
    guarded = log.guard()
    served = open_socket(guarded.asgi(closes))
    await asyncio.sleep(1)
    assert len(guarded._in_flight) == 0
    log.revoke(Kind.SESSION, SESSION)

    assert await served.ended() == 10
    assert served.sent[-1] == {"type": "websocket.close"}


# What the client sends


@held
@pytest.mark.parametrize("message", [PART, SAID], ids=["upload", "web socket"])
async def test_what_a_client_sends_while_its_call_is_held_waits_and_is_not_lost(message: Message) -> None:
    log, app = HeldLog(), Listener()
    served = Served(log.guard().asgi(app), http() if message is PART else websocket())
    served.says.put_nowait(message)
    await asyncio.sleep(30)
    for _ in range(2):
        served.says.put_nowait(message)
    await asyncio.sleep(5)
    assert app.times_s == [0]

    log.publish()
    await asyncio.sleep(1)

    assert app.heard == [message["type"]] * 3
    assert 35 <= app.times_s[1] <= app.times_s[2] <= 35.25
    served.task.cancel()
    await asyncio.wait([served.task])


@held
async def test_what_came_while_a_call_was_held_is_not_lost_to_an_app_that_waits_a_while_at_a_time() -> None:
    heard: list[bytes] = []

    async def impatient(_scope: Scope, receive: Receive, _send: Send) -> None:
        while len(heard) < 3:
            try:
                async with asyncio.timeout(1):
                    heard.append((await receive())["body"])
            except TimeoutError:
                continue

    log = HeldLog()
    served = Served(log.guard().asgi(impatient), http())
    await asyncio.sleep(32)
    for body in (b"1", b"2", b"3"):
        served.says.put_nowait({**PART, "body": body})
    await asyncio.sleep(4)
    assert heard == []
    log.publish()
    await served.ended()

    assert heard == [b"1", b"2", b"3"]


@held
@pytest.mark.parametrize("scope", [http(), websocket()], ids=["http", "websocket"])
async def test_a_client_that_leaves_while_its_call_is_held_is_gone_at_once(scope: Scope) -> None:
    log, app = HeldLog(), Listener()
    guarded = log.guard()
    served = Served(guarded.asgi(app), scope)
    await asyncio.sleep(31)

    served.says.put_nowait({"type": f"{scope['type']}.disconnect"})

    assert await served.ended() == 31
    assert len(guarded._in_flight) == 0


@held
@pytest.mark.parametrize("scope", [http(), websocket()], ids=["http", "websocket"])
async def test_after_a_cut_an_app_that_asks_is_told_that_the_client_has_gone(scope: Scope) -> None:
    heard: list[Message] = []

    async def asks(_scope: Scope, receive: Receive, _send: Send) -> None:
        while len(heard) < 3:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                heard.extend([await receive() for _ in range(3)])

    log = HeldLog()
    served = Served(log.guard().asgi(asks), scope)
    await asyncio.sleep(1)
    log.revoke(Kind.SESSION, SESSION)

    assert await served.ended() == 1
    assert {message["type"] for message in heard} == {f"{scope['type']}.disconnect"}


@held
async def test_two_that_wait_for_messages_while_a_call_is_held_get_each_one_once() -> None:
    heard: list[bytes] = []

    async def hear(receive: Receive) -> None:
        heard.append((await receive())["body"])

    async def pair(_scope: Scope, receive: Receive, _send: Send) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(hear(receive))
            await asyncio.sleep(31)  # the first has its message by now, and holds it
            tasks.create_task(hear(receive))

    log = HeldLog()
    served = Served(log.guard().asgi(pair), http())
    await asyncio.sleep(30)
    for body in (b"1", b"2"):
        served.says.put_nowait({**PART, "body": body})
    await asyncio.sleep(3)
    assert heard == []
    log.publish()
    await served.ended()

    assert sorted(heard) == [b"1", b"2"]


# Apps that will not stop


@held
async def test_an_app_that_swallows_its_cancellation_sends_nothing_more() -> None:
    refused: list[str] = []

    async def stubborn(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(START)
        while len(refused) < 5:
            try:
                await asyncio.sleep(1)
                await send(CHUNK)
            except asyncio.CancelledError:
                continue
            except OSError as error:
                refused.append(type(error).__name__)

    log = HeldLog()
    guarded = log.guard()
    served = Served(guarded.asgi(stubborn), http())
    await asyncio.sleep(2.5)
    log.revoke(Kind.SESSION, SESSION)
    await asyncio.sleep(0)
    assert len(guarded._in_flight) == 0

    await served.ended()
    assert refused == ["ConnectionAbortedError"] * 5
    assert (served.chunks(), served.is_whole()) == (2, False)


@held
async def test_an_app_that_does_nothing_but_send_does_not_keep_the_event_loop_to_itself() -> None:
    async def floods(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(START)
        while not done:
            try:
                await send(CHUNK)
            except (OSError, asyncio.CancelledError):
                continue

    done: list[bool] = []
    log = HeldLog()

    def on_sent(_message: Message) -> None:
        if served.chunks() == 10:
            log.revoke(Kind.SESSION, SESSION)

    served = Served(log.guard().asgi(floods), http(), on_sent)
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(done.append, True)
    await served.ended()

    assert served.chunks() == 10


@held
async def test_an_app_that_does_nothing_but_ask_does_not_keep_the_event_loop_to_itself() -> None:
    async def asks(_scope: Scope, receive: Receive, _send: Send) -> None:
        while not done:
            try:
                await receive()
            except asyncio.CancelledError:
                continue

    done: list[bool] = []
    log = HeldLog()
    served = Served(log.guard().asgi(asks), http())
    await asyncio.sleep(1)
    log.revoke(Kind.SESSION, SESSION)
    for _ in range(10):
        await asyncio.sleep(0)  # the app has its turns between ours
    done.append(True)

    assert await served.ended() == 1


@held
async def test_what_an_app_raises_because_it_is_cut_is_dropped() -> None:
    async def cleans_up_badly(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(START)
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError as cancelled:
            raise ValueError("half done") from cancelled

    log = HeldLog()
    served = Served(log.guard().asgi(cleans_up_badly), http())
    await asyncio.sleep(1)
    log.revoke(Kind.SESSION, SESSION)

    await served.ended()
    assert served.sent == [STARTED]


@held
async def test_a_task_that_an_app_leaves_behind_sends_nothing_after_a_cut() -> None:
    async def sends_later(send: Send) -> None:
        await asyncio.sleep(5)
        await send(CHUNK)

    async def leaves(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(START)
        left.append(asyncio.ensure_future(sends_later(send)))
        await asyncio.sleep(100)

    left: list[asyncio.Future[None]] = []
    log = HeldLog()
    served = Served(log.guard().asgi(leaves), http())
    await asyncio.sleep(1)
    log.revoke(Kind.SESSION, SESSION)
    await served.ended()

    with pytest.raises(ConnectionAbortedError):
        await left[0]
    assert served.sent == [STARTED]


@held
async def test_a_server_that_gives_up_while_it_is_cut_has_its_way() -> None:
    async def thinks(*_: Any) -> None:
        await asyncio.sleep(100)

    log = HeldLog()
    served = Served(log.guard().asgi(thinks), http())
    await asyncio.sleep(1)
    log.revoke(Kind.SESSION, SESSION)
    served.task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await served.task
    assert served.sent == []


# Frameworks


def framework(ended: list[str], *, plain: bool = True) -> Starlette:
    async def chunks() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"chunk"
                await asyncio.sleep(1)
        finally:
            ended.append("closed")

    async def stream(request: Request) -> Response:
        return StreamingResponse(chunks())

    async def upload(request: Request) -> Response:
        ended.extend([part.decode() async for part in request.stream()])
        return JSONResponse(ended)

    async def socket(opened: WebSocket) -> None:
        await opened.accept()
        try:
            async for text in opened.iter_text():
                await opened.send_text(text)
        except WebSocketDisconnect:
            ended.append("disconnected")
        finally:
            ended.append("closed")

    routes = [Route("/", stream), Route("/upload", upload, methods=["POST"]), WebSocketRoute("/socket", socket)]
    app = Starlette(routes=routes)
    if not plain:
        app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    return app


@held
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("version", ["2.3", "2.4"])
async def test_starlettes_streams_are_cut_and_closed(version: str, plain: bool) -> None:
    ended: list[str] = []
    log = HeldLog()
    served = Served(log.guard().asgi(framework(ended, plain=plain)), http(asgi={"spec_version": version}))
    await asyncio.sleep(2.5)

    log.revoke(Kind.SESSION, SESSION)

    assert await served.ended() == 2.5
    assert (served.chunks(), served.is_whole(), ended) == (3, False, ["closed"])


@held
async def test_starlettes_web_sockets_are_cut_and_closed() -> None:
    ended: list[str] = []
    log = HeldLog()
    served = Served(log.guard().asgi(framework(ended)), websocket(path="/socket"))
    for message in (CONNECT, SAID, SAID):
        served.says.put_nowait(message)
    await asyncio.sleep(1)

    log.revoke(Kind.SESSION, SESSION)

    assert await served.ended() == 1
    assert [message.get("text") for message in served.sent] == [None, "hello", "hello", None]
    assert (served.sent[-1]["code"], ended) == (1008, ["closed"])


@held
async def test_an_upload_is_cut_and_answered() -> None:
    ended: list[str] = []
    log = HeldLog()
    served = Served(log.guard().asgi(framework(ended)), http(path="/upload", method="POST"))
    served.says.put_nowait(PART)
    await asyncio.sleep(1)

    log.revoke(Kind.SESSION, SESSION)
    served.says.put_nowait(PART)

    assert await served.ended() == 1
    assert (served.status(), ended) == (401, [])
