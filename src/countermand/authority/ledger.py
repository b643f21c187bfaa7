"""The ledger: the append-only, gapless, hash-chained record of revocations, written in the revoking transaction.

How it grows is in `appending`. Source: docs/protocol.md, "Chain".
"""

from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import and_, case, func, insert, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.database import Database
from countermand.errors import DataError, DisputedError
from countermand.log.anchor import EVERYONE, Anchors, Kind, Rev
from countermand.log.audit import audit_genesis
from countermand.log.chain import Candidate, LogId, genesis
from countermand.log.entry import Entry
from countermand.log.revoked import RevokedSet
from countermand.log.state import CLOCK_TOLERANCE_MS, FIRST_GENERATION
from countermand.log.succession import Succession
from countermand.log.verdict import Revoked
from countermand.tokens.mandate import LEEWAY_S

DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
PAGE: Final = 1_000
"""Entries read at a time: some 300 KB."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where the ledger ends. Disputed: a witness knows of another end, and nothing may be built on this one."""

    rev: Rev
    link: bytes
    is_disputed: bool = False

    def require_undisputed(self) -> "Head":
        """Return this head. Raises: DisputedError."""
        if self.is_disputed:
            raise DisputedError
        return self


@dataclass(frozen=True, slots=True)
class Bound:
    """All cutoffs for one target: what was opened before entry `seq`, or at `before_ms` or earlier, has ended."""

    seq: int
    before_ms: int


async def read_head(connection: AsyncConnection) -> Head:
    """Return where the ledger ends, as the transaction of `connection` sees it."""
    row = (await connection.execute(select(tables.head))).one()
    return Head(Rev(row.generation, row.seq), row.link, row.disputed_at_ms is not None)


def retention_ms(longest_mandate_s: int, leeway_s: int) -> int:
    """Return how long an entry is kept: what it ended has expired everywhere by then, and an hour more."""
    return max(DAY_MS, (longest_mandate_s + leeway_s) * 1000) + HOUR_MS


class Ledger:
    """The ledger in `database`."""

    def __init__(self, database: Database, log_id: LogId) -> None:
        self._database = database
        self._newest: deque[Candidate] = deque(maxlen=PAGE)  # without a gap; all of them committed
        self.log_id = log_id

    @classmethod
    async def open(cls, database: Database, new_id: bytes) -> "Ledger":
        """Return the ledger in `database`; begin it, as log `new_id` (16 bytes), where there is none.

        Raises:
            DataError: the head is not where the entries end.
        """

        async def work(connection: AsyncConnection) -> Ledger:
            row = (await connection.execute(select(tables.log.c.log_id))).first()
            if row is None:
                await _begin(connection, LogId(new_id))
                return cls(database, LogId(new_id))
            ledger = cls(database, LogId(row.log_id))
            await _check_end(connection, ledger)
            return ledger

        return await database.write(work, alone=True)

    async def succession(self, connection: AsyncConnection, generation: int) -> Succession | None:
        """Return how `generation` began; None for the first, and for one that did not."""
        query = select(tables.successions).where(tables.successions.c.generation == generation)
        row = (await connection.execute(query)).first()
        if row is None:
            return None
        return Succession(self.log_id, Rev(generation - 1, row.ended_seq), row.ended_link, row.seq, row.at_ms)

    async def begun(self, generation: int) -> Succession | None:
        """Return how `generation` began, as `succession` does."""
        async with self._database.read() as connection:
            return await self.succession(connection, generation)

    async def begin(self, connection: AsyncConnection, succession: Succession) -> None:
        """Begin another generation, which nobody disputes. From here on the head is locked, as by `append`."""
        begun, ended = succession.rev, succession.ended
        head = {"generation": begun.generation, "seq": begun.seq, "link": succession.link, "disputed_at_ms": None}
        await connection.execute(update(tables.head).values(head))
        row = {"ended_seq": ended.seq, "ended_link": succession.ended_link, "at_ms": succession.at_ms}
        row |= {"generation": begun.generation, "seq": begun.seq}
        await connection.execute(insert(tables.successions).values(row))
        self._newest.clear()

    async def link_at(self, connection: AsyncConnection, rev: Rev) -> bytes | None:
        """Return the chain's link at a position; None where the ledger has no such position."""
        entries = tables.entries.c
        query = select(entries.link).where(entries.seq == rev.seq, entries.generation == rev.generation)
        link: bytes | None = (await connection.execute(query)).scalar()
        if link is not None:
            return link
        if rev == Rev(FIRST_GENERATION, 0):
            return genesis(self.log_id, FIRST_GENERATION)
        begun = await self.succession(connection, rev.generation)
        return begun.link if begun is not None and begun.rev == rev else None

    async def agrees(self, connection: AsyncConnection, rev: Rev, link: bytes) -> bool:
        """Whether what was seen at `rev` can be of this ledger. Generations that have ended are settled."""
        head = await read_head(connection)
        if rev.generation < head.rev.generation:
            return True
        return rev <= head.rev and await self.link_at(connection, rev) == link

    async def count(self) -> int:
        """Return how many entries there are."""
        async with self._database.read() as connection:
            return (await read_head(connection)).rev.seq

    async def time(self, connection: AsyncConnection, now_ms: int) -> int:
        """Return `now_ms`, or the time of the newest checkpoint where the clock has gone back behind it.

        Entries expire by what is written in them: one made under a clock of yesterday would be forgotten today.
        """
        beaten_ms: int = (await connection.execute(select(tables.heartbeat.c.at_ms))).scalar_one()
        return max(now_ms, beaten_ms)

    async def remember_life(self, connection: AsyncConnection, mandate_s: int) -> None:
        """Note how long mandates live, if it is longer than ever before."""
        longest_s = tables.log.c.longest_mandate_s
        await connection.execute(update(tables.log).where(longest_s < mandate_s).values(longest_mandate_s=mandate_s))

    async def expiry(self, connection: AsyncConnection, now_ms: int) -> int:
        """Return when an entry made now may be forgotten: every mandate that it ends has expired by then."""
        return now_ms + await self.retention_ms(connection)

    async def retention_ms(self, connection: AsyncConnection) -> int:
        """Return how long an entry is kept."""
        longest_s: int = (await connection.execute(select(tables.log.c.longest_mandate_s))).scalar_one()
        return retention_ms(longest_s, LEEWAY_S)

    def remember(self, committed: Iterable[Candidate]) -> None:
        """Keep the newest entries at hand: all who follow ask for them at once."""
        for candidate in committed:
            if self._newest and candidate.seq != self._newest[-1].seq + 1:
                self._newest.clear()
            self._newest.append(candidate)

    async def find(self, connection: AsyncConnection, kind: Kind, id_: str, issuer: str = "") -> Entry | None:
        """Return the newest entry that revokes (kind, issuer, id)."""
        entries = tables.entries.c
        query = (
            select(entries.data)
            .where(entries.id == id_, entries.kind == kind, entries.issuer == issuer)
            .order_by(entries.seq.desc())
            .limit(1)
        )
        row = (await connection.execute(query)).first()
        return None if row is None else Entry.parse(row.data)

    async def find_lasting(
        self, connection: AsyncConnection, kind: Kind, ids: Collection[str], until_ms: int | None
    ) -> Entry | None:
        """Return the newest entry that revokes one of `ids`, without an issuer, as long or longer; None: for ever."""
        entries = tables.entries.c
        never = entries.expires_at_ms.is_(None)
        lasting = never if until_ms is None else or_(never, entries.expires_at_ms >= until_ms)
        query = (
            select(entries.data)
            .where(entries.id.in_(ids), entries.kind == kind, entries.issuer == "", lasting)
            .order_by(entries.seq.desc())
            .limit(1)
        )
        row = (await connection.execute(query)).first()
        return None if row is None else Entry.parse(row.data)

    async def revoked_among(self, connection: AsyncConnection, anchors: Anchors, now_ms: int) -> Revoked | None:
        """Return what ends a token of ours, as a replica would that has applied the whole ledger.

        Of the cutoffs only those are read that can reach it: any number may have been made before it was minted.
        """
        entries = tables.entries.c
        ids = {anchor.id for anchor in anchors.path} | {str(anchor) for anchor in anchors.path} | {EVERYONE}
        minted = anchors.rev or Rev(0, 0)
        after_minted = or_(
            entries.generation > minted.generation,
            and_(entries.generation == minted.generation, entries.seq > minted.seq),
        )
        issued_ms = int((anchors.issued_at_s or 0) * 1000)
        is_ahead = issued_ms > now_ms + CLOCK_TOLERANCE_MS  # such a one is ended by every dated cutoff
        minted_ms = 0 if is_ahead else issued_ms - CLOCK_TOLERANCE_MS - 2000  # further than rounding goes
        reaching = or_(entries.kind != Kind.CUTOFF, after_minted, entries.issued_before_ms >= minted_ms)
        found = await connection.execute(select(entries.data).where(entries.id.in_(ids), reaching))
        revoked = RevokedSet()
        for data in found.scalars():
            revoked.add_entry(Entry.parse(data))
        return revoked.find(anchors, now_ms, CLOCK_TOLERANCE_MS)

    async def cutoffs(self, connection: AsyncConnection, targets: Collection[str]) -> dict[str, Bound]:
        """Return the cutoffs for these targets of our own, each as one: the latest of each bound."""
        entries = tables.entries.c
        as_of_now = case((entries.issued_before_ms.is_(None), entries.seq), else_=0)
        query = (
            select(entries.id, func.max(as_of_now), func.max(entries.issued_before_ms))
            .where(entries.kind == Kind.CUTOFF, entries.issuer == "", entries.id.in_(targets))
            .group_by(entries.id)
        )
        return {id_: Bound(seq, before_ms or 0) for id_, seq, before_ms in await connection.execute(query)}

    async def pages(self, after: int, through: int, *, lasting_ms: int | None = None) -> AsyncIterator[list[Candidate]]:
        """Yield the entries after `after` up to `through`, some at a time; each page is a transaction of its own.

        With `lasting_ms`, only those that expire later than that, or never.
        """
        expires = tables.entries.c.expires_at_ms
        wanted = true() if lasting_ms is None else or_(expires.is_(None), expires > lasting_ms)
        if (
            lasting_ms is None
            and self._newest
            and self._newest[0].seq <= after + 1
            and after < through <= self._newest[-1].seq
        ):
            yield [candidate for candidate in self._newest if after < candidate.seq <= through]
            return
        columns = (tables.entries.c.seq, tables.entries.c.previous, tables.entries.c.data)
        while after < through:
            query = select(*columns).where(tables.entries.c.seq > after, tables.entries.c.seq <= through, wanted)
            async with self._database.read() as connection:
                rows = (await connection.execute(query.order_by(tables.entries.c.seq).limit(PAGE))).all()
            if not rows:
                return
            yield [Candidate(row.seq, row.previous, row.data) for row in rows]
            after = rows[-1].seq

    async def in_force(self, at_ms: int, through: int) -> list[bytes]:
        """Return the bytes of every entry up to `through` that a replica may not have forgotten at `at_ms`."""
        expires = tables.entries.c.expires_at_ms
        query = select(tables.entries.c.data).where(
            tables.entries.c.seq <= through, or_(expires.is_(None), expires > at_ms - CLOCK_TOLERANCE_MS)
        )
        async with self._database.read() as connection:
            return list((await connection.execute(query)).scalars())


async def _begin(connection: AsyncConnection, log_id: LogId) -> None:
    link = genesis(log_id, FIRST_GENERATION)
    await connection.execute(insert(tables.log).values(only=1, log_id=log_id.raw, longest_mandate_s=0))
    await connection.execute(insert(tables.head).values(only=1, generation=FIRST_GENERATION, seq=0, link=link))
    await connection.execute(insert(tables.heartbeat).values(only=1, at_ms=0))
    await connection.execute(insert(tables.audit_head).values(only=1, number=0, link=audit_genesis(log_id)))


async def _check_end(connection: AsyncConnection, ledger: Ledger) -> None:
    head = await read_head(connection)
    last_seq = (await connection.execute(select(func.max(tables.entries.c.seq)))).scalar() or 0
    if last_seq > head.rev.seq or await ledger.link_at(connection, head.rev) != head.link:
        raise DataError("the ledger's head is not where its entries end: restore the database, or ask for help")
