"""The admin API under /v1. Here requests become calls of the authority's use cases, and nothing else happens."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from countermand.authority.access import Access
from countermand.authority.model import Role
from countermand.authority.revoking import Revoking
from countermand.authority.service import Authority
from countermand.server.audit import audit_router
from countermand.server.biscuits import add_biscuits, registering_router, revoked_router
from countermand.server.bodies.anchors import (
    AgentOut,
    AgentRead,
    AgentsOut,
    ApplicationOut,
    ApplicationRead,
    ApplicationsOut,
    DelegationOut,
    DelegationRead,
    DelegationsOut,
    GrantOut,
    GrantRead,
    GrantsOut,
    NewAgent,
    NewApplication,
    NewDelegation,
    NewGrant,
    NewSession,
    SessionOut,
    SessionRead,
    SessionsOut,
    TreeOut,
)
from countermand.server.bodies.keys import KeyOut, NewKey
from countermand.server.bodies.mandates import MandateOut, NewMandate
from countermand.server.caller import requires_to_change
from countermand.server.filters import AgentsQuery, ApplicationsQuery, DelegationsQuery, GrantsQuery, SessionsQuery
from countermand.server.keys import keys_router
from countermand.server.ledger import add_ledger
from countermand.server.replicas import add_replicas
from countermand.server.revocations import add_revocations
from countermand.server.signing_keys import add_signing_keys


def admin_routers(authority: Authority, access: Access) -> list[APIRouter]:
    """Return the routes of the admin API: readers read; who changes is an administrator, if nothing else is said."""
    router = APIRouter(prefix="/v1", dependencies=[Depends(requires_to_change(Role.ADMINISTRATOR))])
    ending = APIRouter(prefix="/v1", dependencies=[Depends(requires_to_change(Role.OPERATOR))])
    _add_applications(router, authority, access)
    _add_sessions(router, authority)
    _add_agents(router, authority)
    _add_grants(router, authority)
    _add_delegations(router, authority)
    _add_closing(ending, authority.revoking)
    add_revocations(ending, authority)
    add_biscuits(ending, authority)
    add_ledger(router, authority.recovery)
    add_signing_keys(router, authority.rotation, authority.revoking)
    add_replicas(router, authority.replicas, authority.reading)
    biscuits = [registering_router(authority.registering), revoked_router(authority.export)]
    return [router, ending, *biscuits, keys_router(access), audit_router(authority.trail)]


def _add_applications(router: APIRouter, authority: Authority, access: Access) -> None:
    opening, reading = authority.opening, authority.reading

    @router.post("/applications", status_code=201)
    async def create_application(body: NewApplication) -> ApplicationOut:
        """Register an application."""
        return ApplicationOut.of(await opening.create_application(body.name, body.labels))

    @router.get("/applications")
    async def list_applications(query: Annotated[ApplicationsQuery, Query()]) -> ApplicationsOut:
        """A page of applications, newest first."""
        return ApplicationsOut.of(await reading.page(query.which, query.after, query.limit))

    @router.get("/applications/{application_id}")
    async def read_application(application_id: str) -> ApplicationRead:
        """One application, with all that it rests on."""
        return ApplicationRead.of(await reading.application(application_id))

    @router.post("/applications/{application_id}/keys", status_code=201)
    async def create_key(application_id: str, body: NewKey, response: Response) -> KeyOut:
        """Make a key with which the application asks for mandates. It is shown this once."""
        response.headers["cache-control"] = "no-store"
        made = await access.create_for(application_id, body.name, body.lifetime_s)
        return KeyOut(client_id=application_id, client_secret=made.secret)


def _add_sessions(router: APIRouter, authority: Authority) -> None:
    opening, reading, minting = authority.opening, authority.reading, authority.minting

    @router.post("/sessions", status_code=201)
    async def open_session(body: NewSession) -> SessionOut:
        """Open a subject session; with a parent, one that is derived from it."""
        opened = await opening.open_session(
            body.application_id, body.subject, body.subject_type, body.lifetime_s, body.parent_id, body.labels
        )
        return SessionOut.of(opened)

    @router.get("/sessions")
    async def list_sessions(query: Annotated[SessionsQuery, Query()]) -> SessionsOut:
        """A page of subject sessions, newest first."""
        return SessionsOut.of(await reading.page(query.which, query.after, query.limit))

    @router.get("/sessions/{session_id}")
    async def read_session(session_id: str) -> SessionRead:
        """One subject session, with all that it rests on."""
        return SessionRead.of(await reading.session(session_id))

    @router.post("/sessions/{session_id}/mandates", status_code=201)
    async def issue_mandate(session_id: str, body: NewMandate, response: Response) -> MandateOut:
        """Mint a mandate on a session."""
        response.headers["cache-control"] = "no-store"
        return MandateOut.of(await minting.issue(session_id, body.audience, body.scope))

    @router.get("/tree/{anchor_id}")
    async def read_tree(anchor_id: str) -> TreeOut:
        """An anchor of any kind, and what rests on it."""
        return TreeOut.of(await reading.tree(anchor_id))


def _add_agents(router: APIRouter, authority: Authority) -> None:
    opening, reading = authority.opening, authority.reading

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
            labels=body.labels,
        )
        return AgentOut.of(started)

    @router.get("/agents")
    async def list_agents(query: Annotated[AgentsQuery, Query()]) -> AgentsOut:
        """A page of agents, newest first."""
        return AgentsOut.of(await reading.page(query.which, query.after, query.limit))

    @router.get("/agents/{agent_id}")
    async def read_agent(agent_id: str) -> AgentRead:
        """One agent, with all that it rests on."""
        return AgentRead.of(await reading.agent(agent_id))


def _add_grants(router: APIRouter, authority: Authority) -> None:
    opening, reading = authority.opening, authority.reading

    @router.post("/grants", status_code=201)
    async def create_grant(body: NewGrant) -> GrantOut:
        """Give an application a subject's leave."""
        created = await opening.create_grant(
            body.application_id, body.subject, body.scope, body.audience, body.lifetime_s, labels=body.labels
        )
        return GrantOut.of(created)

    @router.get("/grants")
    async def list_grants(query: Annotated[GrantsQuery, Query()]) -> GrantsOut:
        """A page of grants, newest first."""
        return GrantsOut.of(await reading.page(query.which, query.after, query.limit))

    @router.get("/grants/{grant_id}")
    async def read_grant(grant_id: str) -> GrantRead:
        """One grant, with all that it rests on."""
        return GrantRead.of(await reading.grant(grant_id))


def _add_closing(router: APIRouter, revoking: Revoking) -> None:
    @router.post("/grants/{grant_id}/close")
    async def close_grant(grant_id: str) -> GrantOut:
        """Close a grant for the future; what was opened and minted by it goes on."""
        return GrantOut.of(await revoking.close_grant(grant_id))


def _add_delegations(router: APIRouter, authority: Authority) -> None:
    opening, reading = authority.opening, authority.reading

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
            labels=body.labels,
        )
        return DelegationOut.of(made)

    @router.get("/delegations")
    async def list_delegations(query: Annotated[DelegationsQuery, Query()]) -> DelegationsOut:
        """A page of delegations, newest first."""
        return DelegationsOut.of(await reading.page(query.which, query.after, query.limit))

    @router.get("/delegations/{delegation_id}")
    async def read_delegation(delegation_id: str) -> DelegationRead:
        """One delegation, with all that it rests on."""
        return DelegationRead.of(await reading.delegation(delegation_id))
