"""Lists: every kind of anchor and the ledger's entries, newest first, by cursor and filter.

Each page looks along one index, in its order, at a bounded number of rows, and picks of them what has the rest of what
was asked for. So no list costs more than another however long it is, nothing that is opened meanwhile moves what comes
next, and a page may hold few, or none, and not be the last.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.cascade import stands
from countermand.authority.model import Filter
from countermand.errors import InvalidValueError
from countermand.log.anchor import Kind

LONGEST_PAGE: Final = 100
LOOKED_AT: Final = 2_000
"""How many rows a page looks at; whether that many stand is known in some 40 ms."""

_CURSOR: Final = re.compile(r"[1-9a-f][0-9a-f]{0,14}")
_LINKS: Final = ("parent_id", "session_id", "delegation_id", "source_id", "target_id", "grant_id")
"""Of these one row has fewest below it, of an application most: so they come first."""


def parse_cursor(after: str | None) -> int | None:
    """Return the number that a cursor of ours stands for. Raises: InvalidValueError."""
    if after is None:
        return None
    if _CURSOR.fullmatch(after) is None:
        raise InvalidValueError("after is the `next` of a page before")
    return int(after, 16)


def cursor_of(number: int | None) -> str | None:
    """Return the cursor that stands for a number."""
    return None if number is None else f"{number:x}"


async def find_anchors(
    connection: AsyncConnection, which: Filter, after: int | None, now_ms: int, *, limit: int, looked_at: int
) -> tuple[list[int], int | None]:
    """Return the numbers of up to `limit` anchors before `after`, the newest first, and the cursor of the next."""
    number, along, rest = _along(which)
    rest += _rest(which, now_ms)
    return await _pick(connection, along, number, rest, after, limit=limit, looked_at=looked_at)


async def find_entries(
    connection: AsyncConnection, kind: Kind | None, id_: str | None, issuer: str | None, after: int | None, limit: int
) -> tuple[list[int], int | None]:
    """Return the numbers of up to `limit` entries before `after`, the newest first, and the cursor of the next."""
    entries = tables.entries.c
    along = [entries.id == id_] if id_ is not None else [entries.kind == kind] if kind is not None else []
    rest = [column == value for column, value in ((entries.kind, kind), (entries.issuer, issuer)) if value is not None]
    query = select(entries.seq).where(*along)
    return await _pick(connection, query, entries.seq, rest, after, limit=limit, looked_at=LOOKED_AT)


async def _pick(
    connection: AsyncConnection,
    along: Select[tuple[int]],
    number: ColumnElement[int],
    rest: Sequence[ColumnElement[bool]],
    after: int | None,
    *,
    limit: int,
    looked_at: int,
) -> tuple[list[int], int | None]:
    """Look along an index, and pick those that have the rest."""
    most = looked_at if rest else limit + 1
    query = along.add_columns(and_(true(), *rest)).order_by(number.desc()).limit(most)
    if after is not None:
        query = query.where(number < after)
    seen: Sequence[Any] = (await connection.execute(query)).all()
    picked = [found for found, has_the_rest in seen if has_the_rest]
    if len(picked) > limit:
        return picked[:limit], picked[limit - 1]
    return picked, seen[-1][0] if len(seen) == most else None


def _along(which: Filter) -> tuple[ColumnElement[int], Select[tuple[int]], list[ColumnElement[bool]]]:
    """Return the one index in whose order to look, that of what fewest have in common; and what it leaves open."""
    anchors, labels = tables.anchors.c, tables.labels.c
    named = {name: getattr(which, name) for name in (*_LINKS, "subject", "application_id")}
    open_ = {name: value for name, value in named.items() if value is not None}
    if which.label is not None:
        number = labels.number
        query = select(number).join(tables.anchors, anchors.number == number)
        query = query.where(labels.label == which.label, labels.kind == which.kind)
    else:
        number, kind = anchors.number, anchors.kind
        first = next(iter(open_), None)
        along = [] if first is None else [anchors[first] == open_.pop(first)]
        # the sum keeps the database from the index by kind, which is longer
        query = select(number).where(*along, (kind + 0 if first in _LINKS else kind) == which.kind)
    return number, query, [anchors[name] == value for name, value in open_.items()]


def _rest(which: Filter, now_ms: int) -> list[ColumnElement[bool]]:
    """Return what no index says."""
    rest: list[ColumnElement[bool]] = []
    if which.opened_before_ms is not None:
        rest.append(tables.anchors.c.created_at_ms <= which.opened_before_ms)
    if which.stands is not None:
        rest.append(stands(now_ms) if which.stands else ~stands(now_ms))
    return rest
