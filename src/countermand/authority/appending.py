"""The last step of a change: what was done goes to the audit, and what it revoked to the ledger.

Each of the two is chained, and its head is one row, which is locked here and not before: so the order of numbers is the
order of commits, and there is no gap. On Postgres the step is one round trip, which commits too: no client holds a head
while it thinks. Source: docs/protocol.md, "Chain" and "Audit"; docs/adr/0009.
"""

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.actor import current_actor
from countermand.authority.database import Database
from countermand.authority.ledger import read_head
from countermand.log.anchor import Kind, Rev
from countermand.log.audit import TEXTS_AT, AuditEnd, AuditRow, next_audit_link
from countermand.log.chain import Candidate
from countermand.log.entry import REV_AT, Entry
from countermand.log.state import FIRST_GENERATION

_ANYWHERE: Final = Rev(FIRST_GENERATION, 1)


@dataclass(frozen=True, slots=True)
class Act:
    """What was done to what: `session.open` and an id. Who did it is known to the context."""

    action: str
    target: str
    issuer: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An entry that is to be appended. Its number and its place in the chain come with the commit.

    Raises:
        MalformedError: an id or a reason that the ledger may not hold.
    """

    kind: Kind
    id: str
    at_ms: int
    expires_at_ms: int | None
    reason: str = ""
    issuer: str = ""
    issued_before_ms: int | None = None

    def __post_init__(self) -> None:
        self.at(_ANYWHERE).to_bytes()

    @property
    def act(self) -> Act:
        """What it is in the audit."""
        action = "cutoff.create" if self.kind is Kind.CUTOFF else f"{self.kind.text}.revoke"
        return Act(action, self.id, self.issuer, self.reason)

    def at(self, rev: Rev) -> Entry:
        """Return it as the entry that stands there."""
        return Entry(
            rev.generation,
            rev.seq,
            self.kind,
            self.id,
            self.at_ms,
            self.reason,
            self.issuer,
            self.issued_before_ms,
            self.expires_at_ms,
        )


Step: TypeAlias = Act | Draft
"""What a change appends: a row of the audit; or such a row, and the entry of which it tells."""


@dataclass(frozen=True, slots=True)
class Appended:
    """A new entry, and as what it travels."""

    entry: Entry
    candidate: Candidate


async def append(
    database: Database, connection: AsyncConnection, steps: Sequence[Step], at_ms: int
) -> tuple[list[Appended], AuditEnd]:
    """Append `steps`, of which there is one at least; return the new entries, and where the audit ends.

    Nothing may be done in the transaction afterwards. `at_ms` is when an act was done; a draft says it itself.
    Raises: DisputedError.
    """
    parts = [_parts(step, at_ms) for step in steps]
    columns = [list(column) for column in zip(*parts, strict=True)]
    rows = await database.append(connection, [list(astuple(current_actor())), *columns])
    if rows is None:
        return await _append(connection, steps, at_ms)
    made = [(seq, previous, data) for seq, previous, data, *_ in rows if seq is not None]
    appended = [Appended(Entry.parse(data), Candidate(seq, previous, data)) for seq, previous, data in made]
    return appended, AuditEnd(*rows[-1][-2:])


async def audit_end(connection: AsyncConnection) -> AuditEnd:
    """Return where the audit ends, as the transaction sees it."""
    row = (await connection.execute(select(tables.audit_head))).one()
    return AuditEnd(row.number, row.link)


async def _append(connection: AsyncConnection, steps: Sequence[Step], at_ms: int) -> tuple[list[Appended], AuditEnd]:
    """Append step by step, where the whole database is ours until the commit."""
    appended = await _append_entries(connection, [step for step in steps if isinstance(step, Draft)])
    seqs = iter(appended)
    end, rows = await audit_end(connection), []
    for step in steps:
        seq = next(seqs).entry.seq if isinstance(step, Draft) else None
        row = _row(step, at_ms, end.number + 1, seq)
        end = AuditEnd(row.number, next_audit_link(end.link, row.to_bytes()))
        rows.append(asdict(row) | {"link": end.link})
    await connection.execute(insert(tables.audit), rows)
    await connection.execute(update(tables.audit_head).values(number=end.number, link=end.link))
    return appended, end


async def _append_entries(connection: AsyncConnection, drafts: Sequence[Draft]) -> list[Appended]:
    if not drafts:
        return []
    head = (await read_head(connection)).require_undisputed()
    appended: list[Appended] = []
    link = head.link
    for seq, draft in enumerate(drafts, head.rev.seq + 1):
        entry = draft.at(Rev(head.rev.generation, seq))
        appended.append(Appended(entry, Candidate(seq, link, entry.to_bytes())))
        link = appended[-1].candidate.link
    await connection.execute(insert(tables.entries), [entry_row(one) for one in appended])
    await connection.execute(update(tables.head).values(seq=appended[-1].entry.seq, link=link))
    return appended


def _row(step: Step, at_ms: int, number: int, seq: int | None) -> AuditRow:
    act, when_ms = (step.act, step.at_ms) if isinstance(step, Draft) else (step, at_ms)
    return AuditRow(number=number, at_ms=when_ms, seq=seq, **asdict(act), **asdict(current_actor()))


def _parts(step: Step, at_ms: int) -> tuple[Any, ...]:
    """Return a step as `append_changes` takes it: a row of the audit, and an entry or nothing.

    Of both, what finds them, and the canonical bytes without what only the database knows: the number, and before that
    the entry's generation.
    """
    row = _row(step, at_ms, 1, 1)
    told = (row.at_ms, row.action, row.target, row.issuer, row.reason, row.to_bytes()[TEXTS_AT:])
    if isinstance(step, Act):
        return *told, None, None, None, None, None
    data = step.at(_ANYWHERE).to_bytes()
    kind = int(step.kind)  # psycopg would write its name
    return *told, data[:REV_AT], data[REV_AT + 16 :], kind, step.expires_at_ms, step.issued_before_ms


def entry_row(appended: Appended) -> dict[str, object]:
    """Return the row of an entry."""
    entry, candidate = appended.entry, appended.candidate
    return {
        "seq": entry.seq,
        "generation": entry.generation,
        "kind": entry.kind,
        "issuer": entry.issuer,
        "id": entry.id,
        "expires_at_ms": entry.expires_at_ms,
        "issued_before_ms": entry.issued_before_ms,
        "previous": candidate.previous,
        "link": candidate.link,
        "data": candidate.entry,
    }
