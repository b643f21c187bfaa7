"""What a revocation reaches: one entry ends all that rests on it, and this counts what that is.

Nothing below is touched: tokens carry their paths, and whoever opens or mints looks at every ancestor. What a verifier
that checks four anchors and no path has to be told besides, a job tells it later.
Source: docs/protocol.md, "Path".
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    CTE,
    Column,
    ColumnElement,
    Integer,
    ScalarSelect,
    Select,
    and_,
    cast,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from countermand.authority import tables
from countermand.authority.lineage import CUTTABLE, Row
from countermand.authority.model import Reach, Tree, TreeNode
from countermand.log.anchor import EVERYONE, Kind
from countermand.log.state import CLOCK_TOLERANCE_MS

COUNTED: Final = 16_384
"""How many a dry run counts."""
ANSWERED: Final = 1_024
"""How many a revocation counts for its answer: to count more would take longer than it may."""
LOOKED_AT: Final = 4
"""How many times as many are looked at, the newest: most may have expired."""
DRAWN: Final = 2_000

_ANCHORS: Final = tables.anchors.c
_ENTRIES: Final = tables.entries.c


async def reach_of(connection: AsyncConnection, number: int, now_ms: int, most: int) -> Reach:
    """Count what stands now and rests on the anchor with this number, the anchor included; `most` at the most."""
    lineage = tables.lineage.c
    below = select(lineage.descendant.label("number")).where(lineage.ancestor == number)
    looked_at = _step("looked_at", below.order_by(lineage.descendant.desc()).limit(LOOKED_AT * most + 1))
    return await _count(connection, looked_at, looked_at, now_ms, most)


async def reach_of_many(connection: AsyncConnection, numbers: Sequence[int], now_ms: int, most: int) -> Reach:
    """Count what stands now and rests on any of the anchors with these numbers, they included; `most` at the most."""
    lineage = tables.lineage.c
    below = select(lineage.descendant.label("number")).where(lineage.ancestor.in_(numbers))
    looked_at = _step("looked_at", below.limit(LOOKED_AT * most + 1))
    return await _count(connection, looked_at, _step("below", select(looked_at.c.number).distinct()), now_ms, most)


async def reach_of_cutoff(
    connection: AsyncConnection, target: str, before_ms: int | None, now_ms: int, most: int
) -> Reach:
    """Count what stands now and would be ended by a cutoff for `target`: all that was opened, or was by `before_ms`."""
    hit = [_is_cuttable(_ANCHORS)]
    kind, _, id_ = target.partition(":")
    if kind == Kind.SUBJECT.text:
        hit.append(_ANCHORS.subject == id_)
    elif target != EVERYONE:
        hit.append(_ANCHORS.application_id == id_)
    if before_ms is not None:
        ahead = _ANCHORS.created_at_ms > now_ms + CLOCK_TOLERANCE_MS
        hit.append(or_(_ANCHORS.created_at_ms <= before_ms, ahead))
    lineage = tables.lineage.c
    newest = select(_ANCHORS.number).where(*hit).order_by(_ANCHORS.number.desc()).limit(LOOKED_AT * most + 1)
    looked_at = _step("looked_at", newest)
    last = select(_ANCHORS.number).where(_ANCHORS.number.in_(select(looked_at)), _lasts(now_ms))
    below = select(lineage.descendant.label("number")).where(lineage.ancestor.in_(last)).distinct()
    return await _count(connection, looked_at, _step("below", below), now_ms, most)


async def begin_cascades(connection: AsyncConnection, numbers: Sequence[int]) -> None:
    """Note that the descendants of what is being revoked are still to be told. They are all there: no more can come."""
    lineage, cascades, number = tables.lineage.c, tables.cascades.c, _ANCHORS.number
    newer = select(lineage.descendant).where(lineage.ancestor == number, lineage.descendant > number)
    below = newer.limit(1).scalar_subquery()  # looked up for each: for `exists` a planner may read all that there is
    jobs = select(number, number.label("told")).where(number.in_(numbers), below.is_not(None))
    await connection.execute(insert(tables.cascades).from_select([cascades.number, cascades.told], jobs))


async def tree_of(connection: AsyncConnection, row: Row, now_ms: int) -> Tree:
    """Return what rests on `row`, ancestors first; 2,000 nodes at most."""
    lineage = tables.lineage.c
    nodes = await _nodes(connection, select(lineage.descendant).where(lineage.ancestor == row.number), now_ms)
    return Tree(nodes[:DRAWN], is_whole=len(nodes) <= DRAWN)


async def ancestors_of(connection: AsyncConnection, row: Row, now_ms: int) -> tuple[TreeNode, ...]:
    """Return all that `row` rests on, root first."""
    lineage = tables.lineage.c
    above = select(lineage.ancestor).where(lineage.descendant == row.number, lineage.ancestor != row.number)
    return tuple(await _nodes(connection, above, now_ms))


async def _nodes(connection: AsyncConnection, numbers: Select[tuple[int]], now_ms: int) -> list[TreeNode]:
    """Return the anchors with these numbers, ancestors first, each under the nearest of them; 2,001 at most."""
    query = (
        select(tables.anchors, stands(now_ms).label("stands"))
        .where(_ANCHORS.number.in_(numbers))
        .order_by(_ANCHORS.number)
        .limit(DRAWN + 1)
    )
    nodes: dict[str, TreeNode] = {}
    for *columns, is_standing in await connection.execute(query):
        node = Row.of(columns)
        above = next((id_ for id_ in _above(node) if id_ in nodes), None)
        nodes[node.id] = TreeNode(
            id=node.id,
            kind=node.kind,
            name=node.subject or node.name or "",
            parent_id=above,
            target_id=node.target_id,
            expires_at_ms=node.expires_at_ms,
            revoked_at_ms=node.revoked_at_ms,
            stands=bool(is_standing),
        )
    return list(nodes.values())


def _above(node: Row) -> tuple[str | None, ...]:
    """What a node is drawn under, the nearest first: what ends it soonest."""
    if node.kind == Kind.DELEGATION:
        return node.parent_id, node.source_id, node.grant_id
    return node.delegation_id, node.parent_id, node.session_id, node.application_id


async def _count(connection: AsyncConnection, looked_at: CTE, below: CTE, now_ms: int, most: int) -> Reach:
    """Count what stands of `below`. Each ancestor is judged once: written as `stands`, it takes ten times as long."""
    lineage = tables.lineage.c
    lasting = select(_ANCHORS.number).join(below, below.c.number == _ANCHORS.number).where(_lasts(now_ms))
    reached = _step("reached", lasting.order_by(_ANCHORS.number.desc()).limit(most + 1))
    above = _step("above", select(lineage.ancestor).where(lineage.descendant.in_(select(reached))).distinct())
    ended = _step("ended", _ended_among(above, now_ms))
    # Mostly none has ended, and then nothing is looked up. The sum keeps SQLite from looking up every pair of one that
    # is reached and one that has ended; and a step of its own keeps Postgres from it.
    rests_on_ended = and_(lineage.descendant.in_(select(reached)), (lineage.ancestor + 0).in_(select(ended)))
    gone = _step("gone", select(lineage.descendant).where(exists(select(ended)), rests_on_ended))
    standing = (
        select(_ANCHORS.kind, func.count())
        .where(_ANCHORS.number.in_(select(reached)), _ANCHORS.number.not_in(select(gone)))
        .group_by(_ANCHORS.kind)
    )
    more = or_(_size(looked_at) > LOOKED_AT * most, _size(reached) > most)  # first of the rows: no kind is 0
    found = await connection.execute(union_all(select(literal(0), cast(more, Integer)), standing))
    (_, is_more), *counts = sorted(found, key=lambda row: row[0])
    return Reach({Kind(kind): count for kind, count in counts}, is_whole=not is_more)


def _size(step: CTE) -> ScalarSelect[int]:
    return select(func.count()).select_from(step).scalar_subquery()


def _ended_among(above: CTE, now_ms: int) -> Select[tuple[int]]:
    """Return which of `above` have ended themselves. Cutoffs are looked up once for each subject and application."""
    subject = func.coalesce(_ANCHORS.subject, "")
    members = above.join(tables.anchors, _ANCHORS.number == above.c.ancestor)
    owners = select(subject.label("subject"), _ANCHORS.application_id).select_from(members)
    owner = _step("owner", owners.where(_is_cuttable(_ANCHORS)).distinct()).c
    cutoffs = _cutoffs(owner)
    since = cutoffs.with_only_columns(func.max(_ENTRIES.seq)).where(_ENTRIES.issued_before_ms.is_(None))
    before = cutoffs.with_only_columns(func.max(_ENTRIES.issued_before_ms))
    bounds = _step(
        "bounds",
        select(*owner, since.scalar_subquery().label("seq"), before.scalar_subquery().label("before_ms")),
    )
    cut = or_(
        _ANCHORS.opened_seq < bounds.c.seq,
        _ANCHORS.created_at_ms <= bounds.c.before_ms,
        and_(bounds.c.before_ms.is_not(None), _ANCHORS.created_at_ms > now_ms + CLOCK_TOLERANCE_MS),
    )
    with_bounds = members.outerjoin(
        bounds, and_(bounds.c.subject == subject, bounds.c.application_id == _ANCHORS.application_id)
    )
    ended = or_(_ANCHORS.revoked_at_ms.is_not(None), and_(_is_cuttable(_ANCHORS), cut))
    return select(_ANCHORS.number).select_from(with_bounds).where(ended)


def _step(name: str, query: Select[Any]) -> CTE:
    return query.cte(name).prefix_with("MATERIALIZED")


def stands(now_ms: int) -> ColumnElement[bool]:
    """Whether an anchor has not expired, and no ancestor of it, itself included, has ended."""
    ancestor = tables.anchors.alias("ancestor")
    ended = (
        select(literal(1))
        .select_from(tables.lineage.join(ancestor, ancestor.c.number == tables.lineage.c.ancestor))
        .where(tables.lineage.c.descendant == _ANCHORS.number, _has_ended(ancestor.c, now_ms))
    )
    return and_(_lasts(now_ms), ~exists(ended.correlate(tables.anchors)))


def _lasts(now_ms: int) -> ColumnElement[bool]:
    """None outlives an ancestor, so its own expiry says enough."""
    return or_(_ANCHORS.expires_at_ms.is_(None), _ANCHORS.expires_at_ms > now_ms)


def _has_ended(anchor: ReadOnlyColumnCollection[str, Column[Any]], now_ms: int) -> ColumnElement[bool]:
    return or_(anchor.revoked_at_ms.is_not(None), _is_cut(anchor, now_ms))


def _is_cut(anchor: ReadOnlyColumnCollection[str, Column[Any]], now_ms: int) -> ColumnElement[bool]:
    """What `Row.is_cut_by` says of every cutoff in the ledger: a few looks into an index, however many there are."""
    cutoffs = _cutoffs(anchor)
    since = cutoffs.where(_ENTRIES.issued_before_ms.is_(None), _ENTRIES.seq > anchor.opened_seq)
    dated = cutoffs.where(
        or_(
            _ENTRIES.issued_before_ms >= anchor.created_at_ms,
            and_(_ENTRIES.issued_before_ms.is_not(None), anchor.created_at_ms > now_ms + CLOCK_TOLERANCE_MS),
        )
    )
    return and_(_is_cuttable(anchor), or_(exists(since), exists(dated)))


def _is_cuttable(anchor: ReadOnlyColumnCollection[str, Column[Any]]) -> ColumnElement[bool]:
    """The sum keeps the database from looking along the index by kind, which is most of the table."""
    return (anchor.kind + 0).in_(CUTTABLE)


def _cutoffs(owner: ReadOnlyColumnCollection[str, Any]) -> Select[Any]:
    """The cutoffs for everyone, for a subject, and for an application."""
    targets = (EVERYONE, literal("subject:") + owner.subject, literal("application:") + owner.application_id)
    return select(literal(1)).where(_ENTRIES.kind == Kind.CUTOFF, _ENTRIES.issuer == "", _ENTRIES.id.in_(targets))
