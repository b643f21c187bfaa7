"""A FastAPI app: one route is open, one needs a mandate, one a scope, and one knowledge of at most five seconds' age.

uvicorn --app-dir examples fastapi_app:app
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, Security, WebSocket
from fastapi.responses import StreamingResponse

import countermand
from countermand.enforce.fastapi import protect
from countermand.tokens.mandate import Mandate

AUTHORITY = "http://127.0.0.1:8420"

app = FastAPI()
guard = countermand.connect(AUTHORITY, issuer=AUTHORITY, audience="http://127.0.0.1:8000")
mandates = protect(app, guard)


@app.get("/")
async def welcome() -> str:
    """Answer anybody."""
    return "welcome"


@app.get("/whoami")
async def whoami(mandate: Annotated[Mandate, Depends(mandates)]) -> str:
    """Say who calls."""
    return mandate.subject


@app.get("/notes")
async def notes(mandate: Annotated[Mandate, Security(mandates, scopes=["notes:read"])]) -> str:
    """Answer whoever may read notes."""
    return f"notes of {mandate.subject}"


@app.get("/ticks", dependencies=[Depends(mandates.requiring(max_staleness_s=5))])
async def ticks() -> StreamingResponse:
    """Tick for as long as the mandate lasts."""

    async def tick() -> AsyncIterator[bytes]:
        while True:
            yield b"tick\n"
            await asyncio.sleep(0.1)

    return StreamingResponse(tick())


@app.websocket("/echo")
async def echo(socket: WebSocket, mandate: Annotated[Mandate, Depends(mandates)]) -> None:
    """Say everything back, for as long as the mandate lasts."""
    await socket.accept()
    await socket.send_text(f"hello {mandate.subject}")
    while True:
        await socket.send_text(await socket.receive_text())
