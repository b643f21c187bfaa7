"""The admin API under /v1. Here requests become calls of the authority's use cases, and nothing else happens."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from countermand.authority.model import Role
from countermand.authority.service import Authority
from countermand.server.bodies import (
    ApplicationOut,
    MandateOut,
    NewApplication,
    NewMandate,
    NewRevocation,
    NewSession,
    RevocationOut,
    SessionOut,
    SessionsOut,
)
from countermand.server.caller import requires


def admin_router(authority: Authority) -> APIRouter:
    """Return the routes for administrators."""
    router = APIRouter(prefix="/v1", dependencies=[Depends(requires(Role.ADMINISTRATOR))])

    @router.post("/applications", status_code=201)
    async def create_application(body: NewApplication) -> ApplicationOut:
        """Register an application."""
        return ApplicationOut.of(await authority.create_application(body.name))

    @router.post("/sessions", status_code=201)
    async def open_session(body: NewSession) -> SessionOut:
        """Open a subject session."""
        return SessionOut.of(
            await authority.open_session(body.application_id, body.subject, body.subject_type, body.lifetime_s)
        )

    @router.get("/sessions")
    async def list_sessions(after: Annotated[str, Query(max_length=64)] = "") -> SessionsOut:
        """A page of subject sessions, in the order of their ids."""
        page = await authority.sessions(after)
        return SessionsOut(sessions=[SessionOut.of(session) for session in page.sessions], next=page.next)

    @router.get("/sessions/{id}")
    async def read_session(id: str) -> SessionOut:  # noqa: A002 - the path's own word
        """One subject session."""
        return SessionOut.of(await authority.session(id))

    @router.post("/sessions/{id}/mandates", status_code=201)
    async def issue_mandate(id: str, body: NewMandate, response: Response) -> MandateOut:  # noqa: A002
        """Mint a mandate on a session."""
        response.headers["cache-control"] = "no-store"
        return MandateOut.of(await authority.issue_mandate(id, body.audience, body.scope))

    @router.post("/revocations", status_code=201, responses={200: {"model": RevocationOut}})
    async def revoke(body: NewRevocation, response: Response) -> RevocationOut:
        """Revoke, for ever. 201 where this made an entry, 200 where one stood."""
        revocation = await authority.revoke_session(body.id, body.reason)
        response.status_code = 201 if revocation.is_new else 200
        return RevocationOut.of(revocation)

    return router
