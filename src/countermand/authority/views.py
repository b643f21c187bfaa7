"""Rows as their callers see them."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import cascade, tables
from countermand.authority.lineage import Row
from countermand.authority.model import Agent, Application, Delegation, Grant, Session, SubjectType


def application_of(row: Row) -> Application:
    """Return an application's row as one."""
    return Application(row.id, row.name or "", row.created_at_ms, row.revoked_at_ms)


def session_of(row: Row, *, stands: bool) -> Session:
    """Return a session's row as one."""
    return Session(
        id=row.id,
        subject=row.subject or "",
        subject_type=SubjectType(row.subject_type or ""),
        application_id=row.application_id or "",
        parent_id=row.parent_id,
        created_at_ms=row.created_at_ms,
        expires_at_ms=row.expires_at_ms or 0,
        revoked_at_ms=row.revoked_at_ms,
        stands=stands,
    )


def agent_of(row: Row, *, is_delegated: bool) -> Agent:
    """Return an agent's row as one."""
    return Agent(
        id=row.id,
        name=row.name or "",
        application_id=row.application_id or "",
        session_id=row.session_id or "",
        parent_id=row.parent_id,
        delegation_id=row.delegation_id,
        is_delegated=is_delegated,
        created_at_ms=row.created_at_ms,
        expires_at_ms=row.expires_at_ms or 0,
        revoked_at_ms=row.revoked_at_ms,
    )


def grant_of(row: Row) -> Grant:
    """Return a grant's row as one."""
    return Grant(
        id=row.id,
        subject=row.subject or "",
        application_id=row.application_id or "",
        scopes=tuple(row.scopes or ()),
        audience=tuple(row.audience or ()),
        created_at_ms=row.created_at_ms,
        expires_at_ms=row.expires_at_ms or 0,
        closed_at_ms=row.closed_at_ms,
        revoked_at_ms=row.revoked_at_ms,
    )


def delegation_of(row: Row) -> Delegation:
    """Return a delegation's row as one."""
    return Delegation(
        id=row.id,
        source_id=row.source_id or "",
        target_id=row.target_id or "",
        parent_id=row.parent_id,
        grant_id=row.grant_id or "",
        scopes=tuple(row.scopes or ()),
        audience=tuple(row.audience or ()),
        depth=row.depth or 0,
        created_at_ms=row.created_at_ms,
        expires_at_ms=row.expires_at_ms or 0,
        revoked_at_ms=row.revoked_at_ms,
    )


async def is_delegated(connection: AsyncConnection, agent_id: str, now_ms: int) -> bool:
    """Whether the agent holds an inbound edge that stands."""
    inbound = select(tables.anchors.c.id).where(tables.anchors.c.target_id == agent_id, cascade.stands(now_ms)).limit(1)
    return (await connection.execute(inbound)).first() is not None
