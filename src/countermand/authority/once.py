"""Requests that come twice, and are done once: who repeats one gets the answer that was given.

A request that carries a key is noted in the very transaction that makes its change, before anything else in it. So it
is noted if and only if it is done, in whatever process, and whatever is killed at whatever moment; and of two at once
the database lets one begin. The answer is put beside it after the commit. Where the process ends between the two, or
the answer holds a secret, who repeats the request hears that it was done, and no more. A revocation that could not end
all in its first transaction is noted with that; who repeats it hears that it was done once nothing of it is left.
Source: draft-ietf-httpapi-idempotency-key-header; docs/adr/0011.
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.database import Database, beginning_with
from countermand.authority.receipts import LONGEST_S
from countermand.errors import AlreadyDoneError, InProgressError, KeyReusedError
from countermand.log.freshness import Instant

ANSWERED_MS: Final = 12_000
"""Whatever was done and is not answered by then will not be: longer than a write may take."""
WAITED_MS: Final = int(LONGEST_S * 1000)
"""How much later, where the request waits for a receipt."""
MAX_KEPT_BYTES: Final = 16_384

_BEGUN: Final = "this request was begun before, and may be going on: ask again"
_REQUESTS: Final = tables.requests.c


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered. `body` None: it is not to be kept."""

    status: int
    media_type: str
    body: bytes | None = field(repr=False)


@dataclass(slots=True)
class Request:
    """A request as it comes: by its caller's key and its own, what it asks for, and which of several that are alike.

    `is_noted`: a transaction that may write has begun for it. `waits`: it is answered only after a wait for a receipt.
    """

    id: Final[bytes]
    fingerprint: Final[bytes]
    attempt: Final[bytes]
    is_noted: bool = False
    waits: bool = False


class Once:
    """The requests in `database`. `random` gives as many random bytes as it is asked for.

    `finish` does what is left of whatever was begun at a time, in ms, or later. It raises UnconfirmedError where it
    cannot.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], Instant],
        random: Callable[[int], bytes],
        finish: Callable[[int], Awaitable[None]],
    ) -> None:
        self._database = database
        self._clock = clock
        self._random = random
        self._finish = finish

    def request(self, caller_id: str, key: str, *asked: bytes) -> Request:
        """Return the request that `asked` describes, under a key that its caller chose."""
        return Request(_digest(caller_id.encode(), key.encode()), _digest(*asked), self._random(16))

    async def find(self, request: Request) -> Answer | None:
        """Return what was answered to the same request before; None where none came.

        Raises:
            KeyReusedError: another came with the same key.
            InProgressError: it is being answered.
            AlreadyDoneError: it was done, with all that it ends, and its answer is not kept.
            UnconfirmedError: it was begun, and not all is done.
        """
        async with self._database.read() as connection:
            row = await _row(connection, request)
        if row is None:
            return None
        if row.fingerprint != request.fingerprint:
            raise KeyReusedError("another request came with this key")
        if row.body is not None:
            return Answer(row.status, row.media_type, row.body)
        answered_ms = ANSWERED_MS + WAITED_MS * request.waits  # the same request waits as long
        if row.status is None:
            if self._clock().wall_ms - row.created_at_ms < answered_ms:
                raise InProgressError(_BEGUN)
            await self._finish(row.created_at_ms)
        raise AlreadyDoneError("this request was done before, and its answer is not kept: look what there is")

    @contextmanager
    def noting(self, request: Request) -> Iterator[None]:
        """Let every transaction that may write, in the block, begin by noting that `request` is done.

        It raises InProgressError, where the same request is noted already, by another who does it.
        """

        async def note(connection: AsyncConnection) -> None:
            await self._note(connection, request)
            request.is_noted = True

        with beginning_with(note):
            yield

    async def _note(self, connection: AsyncConnection, request: Request) -> None:
        row = await _row(connection, request)
        if row is None:
            await self._insert(connection, request)
        elif row.attempt != request.attempt:
            raise InProgressError(_BEGUN)

    async def keep(self, request: Request, answer: Answer) -> None:
        """Keep what was answered. Raises: InProgressError, where the request changed nothing, and another was first."""
        kept = answer.body is not None and len(answer.body) <= MAX_KEPT_BYTES
        values = {
            "status": answer.status,
            "media_type": answer.media_type if kept else None,
            "body": answer.body if kept else None,
        }

        async def work(connection: AsyncConnection) -> None:
            await self._note(connection, request)
            await connection.execute(update(tables.requests).where(_REQUESTS.id == request.id).values(values))

        await self._database.write(work)

    async def _insert(self, connection: AsyncConnection, request: Request) -> None:
        row = insert(tables.requests).values(
            id=request.id,
            fingerprint=request.fingerprint,
            attempt=request.attempt,
            created_at_ms=self._clock().wall_ms,
        )
        try:
            await connection.execute(row)
        except IntegrityError:
            raise InProgressError(_BEGUN) from None


async def _row(connection: AsyncConnection, request: Request) -> Any:
    return (await connection.execute(select(tables.requests).where(_REQUESTS.id == request.id))).first()


def _digest(*parts: bytes) -> bytes:
    """Return a digest of the parts, and of where each ends."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()
