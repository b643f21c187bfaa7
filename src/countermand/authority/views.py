"""Rows as their callers see them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import cascade, tables
from countermand.authority.lineage import Row
from countermand.authority.model import (
    Agent,
    Anchored,
    Application,
    Delegation,
    Grant,
    Reach,
    Revocation,
    Session,
    SubjectType,
    TreeNode,
)
from countermand.log.anchor import Kind
from countermand.log.entry import Entry


@dataclass(frozen=True, slots=True)
class Seen:
    """A row, and what only other rows say of it. As it is here by default, it has just been opened."""

    row: Row
    stands: bool = True
    is_delegated: bool = False
    lineage: tuple[TreeNode, ...] = ()


async def see(connection: AsyncConnection, numbers: Sequence[int], now_ms: int) -> list[Seen]:
    """Return the rows with these numbers, the newest first."""
    number = tables.anchors.c.number
    query = select(tables.anchors, cascade.stands(now_ms).label("stands")).where(number.in_(numbers))
    found = (await connection.execute(query.order_by(number.desc()))).all()
    rows = [(Row.of(columns), bool(stands)) for *columns, stands in found]
    delegated = await _delegated(connection, [row.id for row, _ in rows if row.kind is Kind.AGENT], now_ms)
    return [Seen(row, stands, row.id in delegated) for row, stands in rows]


async def _delegated(connection: AsyncConnection, agent_ids: Sequence[str], now_ms: int) -> set[str]:
    """Return those of the agents that hold an inbound edge that stands."""
    if not agent_ids:
        return set()
    target_id = tables.anchors.c.target_id
    inbound = select(target_id).where(target_id.in_(agent_ids), cascade.stands(now_ms)).distinct()
    return set((await connection.execute(inbound)).scalars())


def application_of(seen: Seen) -> Application:
    """Return an application's row as one."""
    return Application(name=seen.row.name or "", **_common(seen))


def session_of(seen: Seen) -> Session:
    """Return a session's row as one."""
    row = seen.row
    return Session(
        subject=row.subject or "",
        subject_type=SubjectType(row.subject_type or ""),
        application_id=row.application_id or "",
        parent_id=row.parent_id,
        expires_at_ms=row.expires_at_ms or 0,
        **_common(seen),
    )


def agent_of(seen: Seen) -> Agent:
    """Return an agent's row as one."""
    row = seen.row
    return Agent(
        name=row.name or "",
        application_id=row.application_id or "",
        session_id=row.session_id or "",
        parent_id=row.parent_id,
        delegation_id=row.delegation_id,
        is_delegated=seen.is_delegated,
        expires_at_ms=row.expires_at_ms or 0,
        **_common(seen),
    )


def grant_of(seen: Seen) -> Grant:
    """Return a grant's row as one."""
    row = seen.row
    return Grant(
        subject=row.subject or "",
        application_id=row.application_id or "",
        scopes=tuple(row.scopes or ()),
        audience=tuple(row.audience or ()),
        expires_at_ms=row.expires_at_ms or 0,
        closed_at_ms=row.closed_at_ms,
        **_common(seen),
    )


def delegation_of(seen: Seen) -> Delegation:
    """Return a delegation's row as one."""
    row = seen.row
    return Delegation(
        source_id=row.source_id or "",
        target_id=row.target_id or "",
        parent_id=row.parent_id,
        grant_id=row.grant_id or "",
        scopes=tuple(row.scopes or ()),
        audience=tuple(row.audience or ()),
        depth=row.depth or 0,
        expires_at_ms=row.expires_at_ms or 0,
        **_common(seen),
    )


VIEWS: Final[Mapping[Kind, Callable[[Seen], Anchored]]] = {
    Kind.APPLICATION: application_of,
    Kind.SESSION: session_of,
    Kind.AGENT: agent_of,
    Kind.GRANT: grant_of,
    Kind.DELEGATION: delegation_of,
}


def revocation_of(entry: Entry, reach: Reach, *, is_new: bool = True) -> Revocation:
    """Return an entry as who revoked sees it."""
    return Revocation(
        seq=entry.seq,
        generation=entry.generation,
        kind=entry.kind,
        id=entry.id,
        issuer=entry.issuer,
        reason=entry.reason,
        at_ms=entry.at_ms,
        is_new=is_new,
        reach=reach,
    )


def _common(seen: Seen) -> dict[str, Any]:
    row = seen.row
    return {
        "id": row.id,
        "created_at_ms": row.created_at_ms,
        "revoked_at_ms": row.revoked_at_ms,
        "stands": seen.stands,
        "labels": tuple(row.labels or ()),
        "lineage": seen.lineage,
    }
