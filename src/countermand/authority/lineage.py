"""What rests on what: every anchor of our own making, and all the ancestors on which its authority rests.

Ancestry never changes once an anchor is opened. Who opens something new, or mints, locks every ancestor before
checking; who revokes locks what is revoked. So either the one sees the other, or it comes first and the other sees it.
Source: docs/protocol.md, "Path".
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.database import line_up
from countermand.authority.ledger import Bound, Ledger
from countermand.errors import InvalidValueError, NotActiveError, NotFoundError
from countermand.log.anchor import EVERYONE, MAX_PATH, Anchor, Kind, kind_of
from countermand.log.state import CLOCK_TOLERANCE_MS

WORDS: Final = {
    Kind.APPLICATION: "application",
    Kind.SESSION: "session",
    Kind.AGENT: "agent",
    Kind.GRANT: "grant",
    Kind.DELEGATION: "delegation",
}
"""The kinds that have a row, and what they are called."""
CUTTABLE: Final = frozenset({Kind.SESSION, Kind.AGENT})
"""What a cutoff ends: grants outlast it, and edges end with the agents that they come from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of `anchors`; see there for which columns a kind has."""

    id: str
    kind: Kind
    created_at_ms: int
    opened_seq: int
    number: int = 0
    application_id: str | None = None
    parent_id: str | None = None
    session_id: str | None = None
    delegation_id: str | None = None
    source_id: str | None = None
    target_id: str | None = None
    grant_id: str | None = None
    name: str | None = None
    subject: str | None = None
    subject_type: str | None = None
    scopes: list[str] | None = None
    audience: list[str] | None = None
    depth: int | None = None
    expires_at_ms: int | None = None
    closed_at_ms: int | None = None
    revoked_at_ms: int | None = None
    labels: list[str] | None = None

    @classmethod
    def of(cls, columns: Sequence[Any]) -> "Row":
        """Return the row whose columns the database gives, in the table's order."""
        named = dict(zip(tables.anchors.c.keys(), columns, strict=True))
        return cls(**{**named, "kind": Kind(named["kind"])})

    @property
    def cutoff_targets(self) -> tuple[str, ...]:
        """The ids of the cutoffs that would end it."""
        if self.kind not in CUTTABLE:
            return ()
        subjects = (str(Anchor(Kind.SUBJECT, self.subject)),) if self.subject else ()
        return (EVERYONE, *subjects, f"{Kind.APPLICATION.text}:{self.application_id}")

    def is_cut_by(self, bound: Bound, now_ms: int) -> bool:
        """Whether it was opened before this cutoff; or seems to be opened in the future, by a clock that was ahead."""
        is_early = bound.before_ms > 0 and self.created_at_ms > now_ms + CLOCK_TOLERANCE_MS
        return self.opened_seq < bound.seq or self.created_at_ms <= bound.before_ms or is_early


class Lineage:
    """Some anchors and every ancestor of theirs, root first, as locked and read by one transaction."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = sorted(rows, key=lambda row: row.number)
        self._by_id = {row.id: row for row in self.rows}

    def __getitem__(self, id_: str | None) -> Row:
        """Return the row of an id that was asked for, or of any ancestor's."""
        return self._by_id[id_ or ""]

    def __contains__(self, id_: object) -> bool:
        return id_ in self._by_id

    def __or__(self, other: "Lineage") -> "Lineage":
        return Lineage((self._by_id | other._by_id).values())

    @property
    def expires_at_ms(self) -> int | None:
        """When the first of them expires."""
        return min((row.expires_at_ms for row in self.rows if row.expires_at_ms is not None), default=None)

    @property
    def path(self) -> list[Anchor]:
        """Every one as an anchor, and before each session its subject."""
        path: list[Anchor] = []
        for row in self.rows:
            if row.kind is Kind.SESSION and row.subject:
                path.append(Anchor(Kind.SUBJECT, row.subject))
            path.append(Anchor(row.kind, row.id))
        return list(dict.fromkeys(path))

    async def require_standing(self, connection: AsyncConnection, ledger: Ledger, now_ms: int) -> None:
        """Refuse where any of them has ended: revoked, closed, expired, or opened before a cutoff for it.

        Raises: NotActiveError.
        """
        bounds = await ledger.cutoffs(connection, {target for row in self.rows for target in row.cutoff_targets})
        for row in self.rows:
            expired = row.expires_at_ms is not None and row.expires_at_ms <= now_ms
            cut = any(row.is_cut_by(bounds[target], now_ms) for target in row.cutoff_targets if target in bounds)
            if expired or cut or row.revoked_at_ms is not None or row.closed_at_ms is not None:
                raise NotActiveError(f"the {WORDS[row.kind]} {row.id} has ended")


def check_kind(id_: str, kind: Kind) -> str:
    """Return `id_` if it could be one of `kind`. Raises: NotFoundError."""
    if kind_of(id_) is not kind:
        raise NotFoundError(f"there is no such {WORDS[kind]}")
    return id_


def kept_ids(path: Iterable[Anchor]) -> list[str]:
    """Return the ids in a path of which there is a row."""
    return [anchor.id for anchor in path if anchor.kind in WORDS and kind_of(anchor.id) is anchor.kind]


async def load(connection: AsyncConnection, ids: Collection[str], *, lock: bool = True) -> Lineage:
    """Return `ids` and their ancestors, locked against revocation until the transaction ends, in the order of ids.

    Without the lock it is for who only looks. Raises: NotFoundError, where one of `ids` does not exist.
    """
    numbers = (
        select(tables.lineage.c.ancestor)
        .join(tables.anchors, tables.anchors.c.number == tables.lineage.c.descendant)
        .where(tables.anchors.c.id.in_(ids))
    )
    query = select(tables.anchors).where(tables.anchors.c.number.in_(numbers)).order_by(tables.anchors.c.id)
    if lock:
        await line_up(connection, numbers, shared=True)
        query = query.with_for_update(read=True)
    found = Lineage([Row.of(row) for row in await connection.execute(query)])
    for id_ in ids:
        if id_ not in found:
            kind = kind_of(id_)
            raise NotFoundError(f"there is no such {WORDS.get(kind, 'anchor') if kind else 'anchor'}")
    return found


async def read_row(connection: AsyncConnection, id_: str, kind: Kind, *, lock: bool = False) -> Row:
    """Return one row; `lock` is for revoking it. Raises: NotFoundError."""
    query = select(tables.anchors).where(tables.anchors.c.id == check_kind(id_, kind))
    if lock:
        await line_up(connection, select(tables.anchors.c.number).where(tables.anchors.c.id == id_), shared=False)
        query = query.with_for_update()
    row = (await connection.execute(query)).first()
    if row is None:
        raise NotFoundError(f"there is no such {WORDS[kind]}")
    return Row.of(row)


async def find_grants(
    connection: AsyncConnection, subject: str | None, application_id: str | None, now_ms: int
) -> list[Row]:
    """Return the grants of a subject to an application that stand, the oldest first, locked as `load` locks."""
    anchors = tables.anchors.c
    query = (
        select(tables.anchors)
        .where(anchors.kind == Kind.GRANT, anchors.subject == subject, anchors.application_id == application_id)
        .where(anchors.closed_at_ms.is_(None), anchors.revoked_at_ms.is_(None), anchors.expires_at_ms > now_ms)
        .order_by(anchors.number)
    )
    await line_up(connection, query.with_only_columns(anchors.number).order_by(None), shared=True)
    return [Row.of(row) for row in await connection.execute(query.with_for_update(read=True))]


async def add(connection: AsyncConnection, row: Row, ancestors: Sequence[Row] = ()) -> None:
    """Insert `row`, which rests on `ancestors`: all of them, through every step.

    Raises: InvalidValueError, where the path of a token could not name so many.
    """
    if len(ancestors) >= MAX_PATH:
        raise InvalidValueError(f"this would rest on more than {MAX_PATH - 1} others: no token could name them all")
    values = {name: value for name, value in asdict(row).items() if name != "number"}
    inserted = await connection.execute(insert(tables.anchors).values(values))
    number = inserted.inserted_primary_key[0]  # type: ignore[index]  # an insert of one row has one
    pairs = [{"ancestor": ancestor, "descendant": number} for ancestor in [*(one.number for one in ancestors), number]]
    await connection.execute(insert(tables.lineage), pairs)
    if row.labels:
        labels = [{"label": label, "kind": row.kind, "number": number} for label in row.labels]
        await connection.execute(insert(tables.labels), labels)
