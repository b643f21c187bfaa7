"""The log over HTTP: `GET /v1/log?after=N` as server-sent events, `GET /v1/log/snapshot` as bytes.

Source: docs/protocol.md, "Feed".
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from starlette.responses import StreamingResponse

from countermand.authority.model import Role
from countermand.errors import CountermandError
from countermand.log.codec import MAX_MS
from countermand.log.feed import checkpoint_event, entry_event, keyset_event, succession_event
from countermand.log.ports import LogReader
from countermand.server.caller import requires

_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}  # a proxy that buffers would make us stale

_log = logging.getLogger(__name__)


class _Events(StreamingResponse):
    media_type = "text/event-stream"


class _Bytes(StreamingResponse):
    media_type = "application/octet-stream"


def feed_router(log: LogReader) -> APIRouter:
    """Return the routes on which `log` travels to replicas."""
    router = APIRouter(prefix="/v1/log", dependencies=[Depends(requires(Role.REPLICA))])

    @router.get("", response_class=_Events)
    async def follow(after: Annotated[int, Query(ge=0, le=MAX_MS)] = 0) -> StreamingResponse:
        """Every keyset, every entry after `after` as it is appended, and a checkpoint every second."""
        return _Events(_ended(_events(log, after)), headers=_HEADERS)

    @router.get("/snapshot", response_class=_Bytes)
    async def snapshot() -> StreamingResponse:
        """Every revocation in force, signed: where a new replica starts."""
        return _Bytes(_ended(log.snapshot()), headers=_HEADERS)

    return router


async def _events(log: LogReader, after: int) -> AsyncGenerator[bytes, None]:
    async with aclosing(log.follow(after)) as batches:
        async for batch in batches:
            signed = [keyset_event(one) for one in batch.keysets]
            signed += [succession_event(one) for one in batch.successions]
            entries = [entry_event(candidate.previous, candidate.entry) for candidate in batch.candidates]
            yield b"".join(signed + entries + [checkpoint_event(one) for one in batch.checkpoints])


async def _ended(stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yield `stream`, and end it at an error: its answer has begun, and a replica takes no part for the whole."""
    try:
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                yield chunk
    except CountermandError as error:
        _log.warning("the log is sent no further: %s", error, extra={"code": error.code})
