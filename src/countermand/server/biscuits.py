"""Biscuits under /v1: revoked by the token itself, registered, and listed. By bare ids they are revoked like all else.

Registering is for administrators, and for applications, each with its own key and for what is its own.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Response
from starlette.responses import StreamingResponse
from starlette.types import Send

from countermand.authority.access import Caller
from countermand.authority.export import Export, RevokedBiscuits
from countermand.authority.model import Role
from countermand.authority.registering import Registering, Registration
from countermand.authority.service import Authority
from countermand.errors import CountermandError, InvalidValueError
from countermand.server.bodies.biscuits import BiscuitsOut, NewBiscuitRevocation, NewBiscuits
from countermand.server.bodies.revocations import PreviewOut, RevocationOut
from countermand.server.caller import requires_one_of
from countermand.server.revocations import Wait, answer_of, check_wait, received

_IfNoneMatch = Annotated[str | None, Header(description="The tag of a list that the caller has (RFC 9110 §13.1.2).")]
_LISTED: Final[dict[int | str, dict[str, Any]]] = {304: {"description": "The list is the one that the caller has."}}

_log: Final = logging.getLogger(__name__)


class _Ids(StreamingResponse):
    """Ids, one a line. What breaks off has no end: whoever reads it must not take it for the whole."""

    media_type = "text/plain"

    async def stream_response(self, send: Send) -> None:
        """See Starlette. The server closes a connection on which an answer has no end."""
        try:
            await super().stream_response(send)
        except CountermandError as error:
            _log.warning("a list of revoked Biscuits breaks off: %s", error, extra={"code": error.code})


def add_biscuits(router: APIRouter, authority: Authority) -> None:
    """Add the route that revokes by token: 201 where this made an entry, 200 where one stood or it is a dry run."""
    biscuits, receipts = authority.biscuits, authority.receipts

    @router.post("/biscuit/revocations", status_code=201, responses={200: {"model": RevocationOut | PreviewOut}})
    async def revoke_biscuit(
        body: NewBiscuitRevocation, response: Response, wait: Wait = None
    ) -> RevocationOut | PreviewOut:
        """Revoke a block of a token that is verified first, and all that carries it: the last, if none is named."""
        check_wait(wait, dry_run=body.dry_run)
        if body.dry_run:
            return answer_of(await biscuits.preview_token(body.token, body.block, body.reason), response)
        done = await biscuits.revoke_token(body.token, body.block, body.reason)
        return await received(receipts, answer_of(done, response), done.seq, wait)


def revoked_router(export: Export) -> APIRouter:
    """Return the routes on which verifiers of any kind fetch what is revoked."""
    may_read = Depends(requires_one_of(Role.READER, Role.REPLICA))
    router = APIRouter(prefix="/v1/biscuit", dependencies=[may_read])

    @router.get("/revoked", response_class=_Ids, responses=_LISTED)
    async def list_revoked_biscuits(if_none_match: _IfNoneMatch = None) -> Response:
        """Every form of every revocation id in force, in lower-case hex, one a line, with a tag of the whole."""
        listed = await export.newest()
        return _not_modified(listed, if_none_match) or _Ids(_lines(export, listed), headers=_headers(listed))

    @router.head("/revoked", response_class=_Ids, responses=_LISTED)
    async def look_at_revoked_biscuits(if_none_match: _IfNoneMatch = None) -> Response:
        """What GET answers, without the list."""
        listed = await export.newest()
        return _not_modified(listed, if_none_match) or _Ids(iter(()), headers=_headers(listed))

    return router


def _headers(listed: RevokedBiscuits) -> dict[str, str]:
    return {"etag": f'"{listed.tag}"', "cache-control": "private, no-cache"}


def _not_modified(listed: RevokedBiscuits, if_none_match: str | None) -> Response | None:
    """Return the answer for a caller that has this list (RFC 9110 §15.4.5)."""
    tags = {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")}
    return Response(status_code=304, headers=_headers(listed)) if tags & {f'"{listed.tag}"', "*"} else None


async def _lines(export: Export, listed: RevokedBiscuits) -> AsyncGenerator[bytes, None]:
    async with aclosing(export.pages(listed)) as pages:
        async for ids in pages:
            yield "".join(f"{id_}\n" for id_ in ids).encode()


def registering_router(registering: Registering) -> APIRouter:
    """Return the route that registers: 201 where one of the ids was new, 200 where none was."""
    router = APIRouter(prefix="/v1")

    @router.post("/biscuits", status_code=201, responses={200: {"model": BiscuitsOut}})
    async def register_biscuits(
        body: NewBiscuits,
        response: Response,
        caller: Annotated[Caller, Depends(requires_one_of(Role.ADMINISTRATOR, Role.APPLICATION))],
    ) -> BiscuitsOut:
        """Register the ids of Biscuits for what they are to end with: a session, or a subject of an application."""
        registered = await _register(registering, body, caller.application_id)
        response.status_code = 201 if registered.new else 200
        return BiscuitsOut.of(registered)

    return router


async def _register(registering: Registering, body: NewBiscuits, owner_id: str | None) -> Registration:
    match body.session_id, body.application_id, body.subject:
        case str(session_id), None, None:
            return await registering.for_session(body.ids, session_id, body.expires_at_ms, owner_id=owner_id)
        case None, str(application_id), str(subject):
            return await registering.for_subject(
                body.ids, application_id, subject, body.expires_at_ms, owner_id=owner_id
            )
    raise InvalidValueError("Biscuits are registered for a session, or for a subject of an application")
