"""The guard follows the lifespan of the app before which it stands, and needs none of the app's own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette

from countermand.enforce.asgi import ASGIApp, Message, Receive, Scope, Send
from tests.unit.guarded import Following, guard

pytestmark = pytest.mark.anyio

STARTUP: Message = {"type": "lifespan.startup"}
SHUTDOWN: Message = {"type": "lifespan.shutdown"}
STARTED, STOPPED = "lifespan.startup.complete", "lifespan.shutdown.complete"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def background() -> Following:
    return Following()


class Server:
    """What a server hears in one life of an app, and whether the background ran at that moment."""

    def __init__(self, background: Following) -> None:
        self.background = background
        self.says = [STARTUP, SHUTDOWN]
        self.heard: list[tuple[str, bool]] = []

    async def receive(self) -> Message:
        return self.says.pop(0)

    async def send(self, message: Message) -> None:
        self.heard.append((message["type"], self.background.running))

    async def run(self, app: ASGIApp) -> list[tuple[str, bool]]:
        guarded = guard(background=self.background).asgi(app)
        await guarded({"type": "lifespan", "state": {}}, self.receive, self.send)
        return self.heard


@pytest.fixture
def server(background: Following) -> Server:
    return Server(background)


async def test_the_guard_is_started_before_the_app_and_closed_after_it(background: Following, server: Server) -> None:
    seen: list[bool] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        seen.append(background.running)
        yield
        seen.append(background.running)

    assert await server.run(Starlette(lifespan=lifespan)) == [(STARTED, True), (STOPPED, False)]
    assert seen == [True, True]
    assert background.starts == 1


async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotImplementedError(scope["type"])


async def ignoring(scope: Scope, receive: Receive, send: Send) -> None:
    return


@pytest.mark.parametrize("app", [refusing, ignoring])
async def test_an_app_without_lifespan_has_the_guards_own(app: ASGIApp, server: Server) -> None:
    assert await server.run(app) == [(STARTED, True), (STOPPED, False)]


async def test_a_background_that_cannot_run_fails_the_start_and_the_app_is_not_asked(
    background: Following, server: Server
) -> None:
    background.failure = OSError("gone")

    assert await server.run(refusing) == [("lifespan.startup.failed", False)]


async def test_an_app_that_fails_to_start_says_so_and_the_guard_is_closed(
    background: Following, server: Server
) -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if background.running:
            raise OSError("no disk")
        yield

    with pytest.raises(OSError, match="no disk"):
        await server.run(Starlette(lifespan=lifespan))

    assert server.heard == [("lifespan.startup.failed", True)]
    assert not background.running
