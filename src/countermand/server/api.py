"""The admin API under /v1. Here requests become calls of the authority's use cases, and nothing else happens."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from countermand.authority.access import Access
from countermand.authority.minting import Minting
from countermand.authority.model import Role
from countermand.authority.opening import Opening
from countermand.authority.revoking import Revoking
from countermand.authority.service import Authority
from countermand.server.bodies import (
    AgentOut,
    ApplicationOut,
    DelegationOut,
    GrantOut,
    KeyOut,
    MandateOut,
    NewAgent,
    NewApplication,
    NewDelegation,
    NewGrant,
    NewKey,
    NewMandate,
    NewSession,
    SessionOut,
    SessionsOut,
    TreeOut,
)
from countermand.server.caller import requires
from countermand.server.revocations import add_revocations


def admin_router(authority: Authority, access: Access) -> APIRouter:
    """Return the routes for administrators."""
    router = APIRouter(prefix="/v1", dependencies=[Depends(requires(Role.ADMINISTRATOR))])
    _add_applications(router, authority.opening, access)
    _add_sessions(router, authority.opening, authority.minting)
    _add_agents(router, authority.opening)
    _add_grants(router, authority.opening, authority.revoking)
    _add_delegations(router, authority.opening)
    add_revocations(router, authority.revoking)
    return router


def _add_applications(router: APIRouter, opening: Opening, access: Access) -> None:
    @router.post("/applications", status_code=201)
    async def create_application(body: NewApplication) -> ApplicationOut:
        """Register an application."""
        return ApplicationOut.of(await opening.create_application(body.name))

    @router.get("/applications/{application_id}")
    async def read_application(application_id: str) -> ApplicationOut:
        """One application."""
        return ApplicationOut.of(await opening.application(application_id))

    @router.post("/applications/{application_id}/keys", status_code=201)
    async def create_key(application_id: str, body: NewKey, response: Response) -> KeyOut:
        """Make a key with which the application asks for mandates. It is shown this once."""
        response.headers["cache-control"] = "no-store"
        return KeyOut(client_id=application_id, client_secret=await access.create_for(application_id, body.name))


def _add_sessions(router: APIRouter, opening: Opening, minting: Minting) -> None:
    @router.post("/sessions", status_code=201)
    async def open_session(body: NewSession) -> SessionOut:
        """Open a subject session; with a parent, one that is derived from it."""
        opened = await opening.open_session(
            body.application_id, body.subject, body.subject_type, body.lifetime_s, body.parent_id
        )
        return SessionOut.of(opened)

    @router.get("/sessions")
    async def list_sessions(after: Annotated[str, Query(max_length=64)] = "") -> SessionsOut:
        """A page of subject sessions, in the order of their ids."""
        return SessionsOut.of(await opening.sessions(after))

    @router.get("/sessions/{session_id}")
    async def read_session(session_id: str) -> SessionOut:
        """One subject session."""
        return SessionOut.of(await opening.session(session_id))

    @router.post("/sessions/{session_id}/mandates", status_code=201)
    async def issue_mandate(session_id: str, body: NewMandate, response: Response) -> MandateOut:
        """Mint a mandate on a session."""
        response.headers["cache-control"] = "no-store"
        return MandateOut.of(await minting.issue(session_id, body.audience, body.scope))

    @router.get("/tree/{anchor_id}")
    async def read_tree(anchor_id: str) -> TreeOut:
        """An anchor of any kind, and what rests on it."""
        return TreeOut.of(await opening.tree(anchor_id))


def _add_agents(router: APIRouter, opening: Opening) -> None:
    @router.post("/agents", status_code=201)
    async def start_agent(body: NewAgent) -> AgentOut:
        """Start an agent on a session, or by another agent."""
        started = await opening.start_agent(
            body.application_id,
            body.name,
            body.lifetime_s,
            session_id=body.session_id,
            parent_id=body.parent_id,
            delegation_id=body.delegation_id,
        )
        return AgentOut.of(started)

    @router.get("/agents/{agent_id}")
    async def read_agent(agent_id: str) -> AgentOut:
        """One agent."""
        return AgentOut.of(await opening.agent(agent_id))


def _add_grants(router: APIRouter, opening: Opening, revoking: Revoking) -> None:
    @router.post("/grants", status_code=201)
    async def create_grant(body: NewGrant) -> GrantOut:
        """Give an application a subject's leave."""
        created = await opening.create_grant(
            body.application_id, body.subject, body.scope, body.audience, body.lifetime_s
        )
        return GrantOut.of(created)

    @router.get("/grants/{grant_id}")
    async def read_grant(grant_id: str) -> GrantOut:
        """One grant."""
        return GrantOut.of(await opening.grant(grant_id))

    @router.post("/grants/{grant_id}/close")
    async def close_grant(grant_id: str) -> GrantOut:
        """Close a grant for the future; what was opened and minted by it goes on."""
        return GrantOut.of(await revoking.close_grant(grant_id))


def _add_delegations(router: APIRouter, opening: Opening) -> None:
    @router.post("/delegations", status_code=201)
    async def delegate(body: NewDelegation) -> DelegationOut:
        """Hand an agent a part of what another has."""
        made = await opening.delegate(
            body.source_id,
            body.target_id,
            body.scope,
            body.audience,
            body.lifetime_s,
            depth=body.depth,
            parent_id=body.parent_id,
        )
        return DelegationOut.of(made)

    @router.get("/delegations/{delegation_id}")
    async def read_delegation(delegation_id: str) -> DelegationOut:
        """One delegation."""
        return DelegationOut.of(await opening.delegation(delegation_id))
