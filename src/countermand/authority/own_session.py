"""An application's own session: the subject session on which it acts for itself, and is its own subject.

It has one at a time. That ends as every session does; then the next one is opened when the application asks again, as a
user's is who authenticates again. What keeps an application out is to revoke it, or the grants that it has.
Source: RFC 6749 §4.4.
"""

from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.cascade import stands
from countermand.authority.lineage import Row, add, load
from countermand.authority.model import SubjectType
from countermand.log.anchor import Kind

LIFE_S: Final = 7 * 86_400
"""Much longer than any mandate lives: whoever asks all the time leaves a row a week."""


async def find_own_session(connection: AsyncConnection, application_id: str, now_ms: int, lasting_s: int) -> Row | None:
    """Return the newest own session of an application that stands, and lasts so much longer."""
    anchors = tables.anchors.c
    query = (
        select(tables.anchors)
        .where(anchors.subject == application_id, anchors.application_id == application_id)
        .where(anchors.kind == Kind.SESSION, anchors.subject_type == SubjectType.APPLICATION.value)
        .where(anchors.parent_id.is_(None), anchors.expires_at_ms >= now_ms + lasting_s * 1000, stands(now_ms))
        .order_by(anchors.number.desc())
        .limit(1)
    )
    row = (await connection.execute(query)).first()
    return None if row is None else Row.of(row)


async def add_own_session(
    connection: AsyncConnection, id_: str, application_id: str, now_ms: int, opened_seq: int
) -> None:
    """Open an own session as `id_`. Whoever does it lets nobody else do so meanwhile, and looks whether it stands."""
    row = Row(
        id=id_,
        kind=Kind.SESSION,
        created_at_ms=now_ms,
        opened_seq=opened_seq,
        application_id=application_id,
        subject=application_id,
        subject_type=SubjectType.APPLICATION.value,
        expires_at_ms=now_ms + LIFE_S * 1000,
    )
    await add(connection, row, (await load(connection, [application_id])).rows)
