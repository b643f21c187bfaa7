"""The rooms of an authority, put together by hand: on a real database, with real keys and a clock that is held."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.access import Access
from countermand.authority.appending import Appended, Draft, append, entry_row
from countermand.authority.database import Database
from countermand.authority.heartbeat import Heartbeat
from countermand.authority.keys import Keys, open_keys
from countermand.authority.ledger import Head, Ledger, read_head
from countermand.authority.minting import Policy
from countermand.authority.model import ReplicaReport, Session, SubjectType
from countermand.authority.reader import LedgerReader
from countermand.authority.service import Authority
from countermand.authority.witnesses import Witness, Witnesses
from countermand.log.anchor import Kind, Rev, own_id
from countermand.log.chain import Candidate
from countermand.log.checkpoint import Pin
from countermand.log.freshness import Instant
from countermand.settings import DataDir
from tests.databases import DATABASES
from tests.integration.biscuits import read
from tests.looking import writing

ISSUER: Final = "https://authority.example"
AUDIENCE: Final = "https://api.example"
NOW_MS: Final = 1_800_000_000_000
LATER_MS: Final = 4_000_000_000_000
"""Far enough off for what a test leaves in the database to outlive it."""


class HeldClock:
    """Both clocks of a machine; they move when told to, and count how often they were read."""

    def __init__(self, wall_ms: int = NOW_MS) -> None:
        self.wall_ms = wall_ms
        self.boot_ms = 5_000_000
        self.readings = 0

    def __call__(self) -> Instant:
        self.readings += 1
        return Instant(self.wall_ms, self.boot_ms)

    def peek_ms(self) -> int:
        """What the wall clock says, to whom nobody counts."""
        return self.wall_ms

    def advance(self, ms: int) -> None:
        self.wall_ms += ms
        self.boot_ms += ms


@dataclass(frozen=True, slots=True)
class Rooms:
    """An authority in pieces. Nothing signs, unless a test runs `heartbeat`."""

    data: DataDir
    clock: HeldClock
    database: Database
    ledger: Ledger
    keys: Keys
    heartbeat: Heartbeat
    service: Authority
    access: Access
    reader: LedgerReader

    @property
    def pin(self) -> Pin:
        return self.keys.pin

    async def head(self) -> Head:
        async with self.database.read() as connection:
            return await read_head(connection)

    async def candidates(self) -> list[Candidate]:
        """Return the whole ledger."""
        pages = self.ledger.pages(0, (await self.head()).rev.seq)
        return [candidate async for page in pages for candidate in page]

    async def append(self, count: int, *, expires_at_ms: int | None = LATER_MS, reason: str = "") -> None:
        """Append revocations of `count` sessions that never were, in one transaction."""
        async with writing(self.database) as connection:
            await self.append_in(connection, count, expires_at_ms=expires_at_ms, reason=reason)

    async def append_biscuits(self, ids: Sequence[str], *, expires_at_ms: int | None = None) -> None:
        """Append the revocations of Biscuits, past all that would say how long they last."""
        at_ms = self.clock.wall_ms
        drafts = [Draft(kind=Kind.BISCUIT, id=id_, at_ms=at_ms, expires_at_ms=expires_at_ms) for id_ in ids]
        async with writing(self.database) as connection:
            await append(self.database, connection, drafts, at_ms)

    async def append_in(
        self,
        connection: AsyncConnection,
        count: int = 1,
        *,
        expires_at_ms: int | None = LATER_MS,
        reason: str = "",
    ) -> None:
        """Append such revocations in a transaction of the caller's, as its last step."""
        drafts = [self.draft(expires_at_ms, reason) for _ in range(count)]
        if drafts:
            await append(self.database, connection, drafts, self.clock.wall_ms)

    def draft(self, expires_at_ms: int | None = LATER_MS, reason: str = "") -> Draft:
        """Return the revocation of a session that never was."""
        id_, at_ms = own_id(Kind.SESSION, os.urandom(16)), self.clock.wall_ms
        return Draft(kind=Kind.SESSION, id=id_, at_ms=at_ms, expires_at_ms=expires_at_ms, reason=reason)

    async def fill(self, count: int) -> int:
        """Append as `append` does, in two statements, for ledgers of some length; return after which number."""
        async with writing(self.database) as connection:
            head = (await connection.execute(select(tables.head).with_for_update())).one()
            link, rows = head.link, []
            for seq in range(head.seq + 1, head.seq + 1 + count):
                entry = self.draft().at(Rev(head.generation, seq))
                rows.append(entry_row(Appended(entry, Candidate(seq, link, entry.to_bytes()))))
                link = rows[-1]["link"]
            await connection.execute(insert(tables.entries), rows)
            await connection.execute(update(tables.head).values(seq=head.seq + count, link=link))
        return int(head.seq)

    async def report(self, key_id: str, report: ReplicaReport, proof: bytes = b"") -> None:
        """Report, and write what was reported."""
        replicas = self.service.replicas
        await asyncio.gather(replicas.report(key_id, report, proof), replicas.write())

    async def session(self, lifetime_s: int = 3600, subject: str = "alice") -> Session:
        """Open a session with an application of its own."""
        application = await self.service.opening.create_application("notes")
        return await self.service.opening.open_session(application.id, subject, SubjectType.USER, lifetime_s)


@asynccontextmanager
async def rooms_open(
    path: Path, *, clock: HeldClock | None = None, mandate_s: int = 900, witnesses: Sequence[Witness] = ()
) -> AsyncIterator[Rooms]:
    """Open the authority in `path`/authority, as `wiring` does, and without what beats or listens."""
    data = DataDir(path / "authority")
    await DATABASES.lay(data)
    clock = clock or HeldClock()
    database = DATABASES.open(data, clock.peek_ms)
    try:
        await database.migrate()
        yield await process_on(database, data, clock, mandate_s=mandate_s, witnesses=witnesses)
    finally:
        await database.close()


async def process_on(
    database: Database, data: DataDir, clock: HeldClock, *, mandate_s: int = 900, witnesses: Sequence[Witness] = ()
) -> Rooms:
    """Return the rooms of one more process on a database, with the keys that are in `data`."""
    ledger = await Ledger.open(database, os.urandom(16))
    keys = await open_keys(database, data.keys, clock.wall_ms)
    heard = Witnesses(database, ledger, keys, witnesses, clock)
    heartbeat = Heartbeat(database, ledger, keys, clock, heard, os.urandom(16).hex())
    policy = Policy(ISSUER, mandate_s)
    service = await Authority.start(database, ledger, heartbeat, keys, policy, clock, os.urandom, read)
    reader = LedgerReader(ledger, heartbeat, keys)
    access = Access(database, clock, os.urandom)
    return Rooms(data, clock, database, ledger, keys, heartbeat, service, access, reader)


@asynccontextmanager
async def beating(rooms: Rooms) -> AsyncIterator[asyncio.Task[None]]:
    """Let the heart beat while the block lasts."""
    task = asyncio.create_task(rooms.heartbeat.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def insert_sessions(database: Database, count: int) -> list[str]:
    """Put `count` sessions into the database in one transaction; return their ids, in order."""
    application = own_id(Kind.APPLICATION, os.urandom(16))
    ids = sorted(own_id(Kind.SESSION, os.urandom(16)) for _ in range(count))
    opened = {"created_at_ms": NOW_MS, "opened_seq": 0}
    row = {"kind": Kind.SESSION, "subject": "alice", "subject_type": "user", "application_id": application} | opened
    async with writing(database) as connection:
        parent = {"id": application, "kind": Kind.APPLICATION, "name": "notes"} | opened
        await connection.execute(insert(tables.anchors).values(parent))
        await connection.execute(insert(tables.anchors), [row | {"id": id_, "expires_at_ms": LATER_MS} for id_ in ids])
        query = select(tables.anchors.c.number).order_by(tables.anchors.c.number.desc()).limit(count + 1)
        *numbers, above = (await connection.execute(query)).scalars()
        pairs = [(number, number) for number in (above, *numbers)] + [(above, number) for number in numbers]
        lineage = [{"ancestor": ancestor, "descendant": descendant} for ancestor, descendant in pairs]
        await connection.execute(insert(tables.lineage), lineage)
    return ids
