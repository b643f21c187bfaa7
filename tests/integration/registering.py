"""What Biscuits are registered for, and what has come of them."""

from typing import Final

from sqlalchemy import insert, select

from countermand.authority import tables
from countermand.authority.model import Session, SubjectType
from countermand.log.anchor import Kind
from countermand.log.entry import Entry
from tests.integration.biscuits import plain_id
from tests.integration.rooms import NOW_MS, Rooms
from tests.looking import writing

HOUR_S: Final = 3_600


class Scene:
    """Alice's session below another of hers, each with its application; and bob's, beside them."""

    def __init__(self, rooms: Rooms) -> None:
        self.rooms = rooms
        self.opening, self.revoking = rooms.service.opening, rooms.service.revoking

    async def open(self) -> "Scene":
        self.desk, self.phone = [(await self.opening.create_application(name)).id for name in ("desk", "phone")]
        self.above = await self._session(self.desk, "alice")
        self.session = await self._session(self.phone, None, self.above.id)
        self.bobs = await self._session(self.phone, "bob")
        self.beside = await self._session((await self.opening.create_application("other")).id, "carol")
        return self

    async def _session(self, application: str, subject: str | None, parent_id: str | None = None) -> Session:
        return await self.opening.open_session(application, subject, SubjectType.USER, HOUR_S, parent_id, ["mine"])

    async def register(self, session: Session | None = None, count: int = 1) -> list[str]:
        ids = [plain_id() for _ in range(count)]
        await self.rooms.service.registering.for_session(ids, (session or self.session).id)
        return ids


async def revoked_in(rooms: Rooms) -> list[str]:
    """The ids of the Biscuits that are revoked, in the order of the ledger."""
    entries = [Entry.parse(candidate.entry) for candidate in await rooms.candidates()]
    return [entry.id for entry in entries if entry.kind is Kind.BISCUIT]


async def fill(rooms: Rooms, anchor: str, count: int) -> list[str]:
    """Register so many at once, past the limit of one request."""
    ids = [plain_id() for _ in range(count)]
    async with writing(rooms.database) as connection:
        await connection.execute(insert(tables.biscuits), [{"id": id_, "created_at_ms": NOW_MS} for id_ in ids])
        query = select(tables.biscuits.c.number).order_by(tables.biscuits.c.number.desc()).limit(count)
        rows = [{"anchor": anchor, "number": number} for number in (await connection.execute(query)).scalars()]
        await connection.execute(insert(tables.biscuit_anchors), rows)
    return ids
