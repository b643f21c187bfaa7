"""What has ended long ago is taken away: never what something rests on, never an entry of the ledger."""

from typing import Final

import pytest
from sqlalchemy import func, select, update

from countermand.authority import cleaning as cleaning_module
from countermand.authority import tables
from countermand.authority.cleaning import ANSWERS_KEPT_MS, Cleaning
from countermand.authority.ledger import DAY_MS
from countermand.authority.model import Filter, SubjectType
from countermand.authority.once import Answer
from countermand.errors import ConfigurationError, NotFoundError
from countermand.log.anchor import Kind
from tests.integration.biscuits import plain_id
from tests.integration.family import Family, gather_family
from tests.integration.registering import revoked_in
from tests.integration.rooms import Rooms
from tests.looking import writing

pytestmark = pytest.mark.anyio

RETENTION_MS: Final = 30 * DAY_MS


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning_module, "PAUSE_S", 0.0)


@pytest.fixture
async def family(rooms: Rooms) -> Family:
    return await gather_family(rooms)


async def _pass(rooms: Rooms, ms: int) -> int:
    """Let time pass, with a heart that beats at its end; clean."""
    rooms.clock.advance(ms)
    await rooms.heartbeat.sign()
    return await rooms.service.cleaning.clean()


async def _left(rooms: Rooms) -> dict[str, int]:
    async with rooms.database.read() as connection:
        left = {
            table.name: (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for table in (tables.anchors, tables.lineage, tables.labels, tables.cascades, tables.entries)
        }
        query = select(func.count()).where(tables.anchors.c.kind == Kind.APPLICATION)
        return left | {"applications": (await connection.execute(query)).scalar_one()}


async def test_all_that_expired_goes_in_the_end_and_the_applications_and_the_ledger_stay(family: Family) -> None:
    rooms = family.rooms
    await rooms.service.revoking.revoke(Kind.SESSION, family.session["alice"].id)
    before = await _left(rooms)
    assert before["cascades"] == 1
    assert await _pass(rooms, 366 * DAY_MS + RETENTION_MS) == before["anchors"] - before["applications"]
    after = await _left(rooms)
    assert (after["anchors"], after["lineage"]) == (before["applications"], before["applications"])
    assert (after["cascades"], after["entries"]) == (0, before["entries"])
    with pytest.raises(NotFoundError):
        await rooms.service.reading.session(family.session["alice"].id)


@pytest.mark.parametrize("step", [1, 2, 3, 200])
async def test_it_comes_to_the_same_in_steps_of_any_size(
    family: Family, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(cleaning_module, "STEP", step)
    await _pass(family.rooms, 366 * DAY_MS + RETENTION_MS)
    left = await _left(family.rooms)
    assert left["anchors"] == left["applications"]


async def test_the_audit_says_how_many_went_and_of_a_pass_that_takes_nothing_there_is_no_trace(rooms: Rooms) -> None:
    for _ in range(3):
        await rooms.session(lifetime_s=60)
    assert await _pass(rooms, 0) == 0
    before = (await rooms.service.trail.page(0, 100)).rows
    assert await _pass(rooms, 61_000 + RETENTION_MS) == 3
    rows = [chained.row for chained in (await rooms.service.trail.page(len(before), 100)).rows]
    assert [(row.action, row.target, row.role) for row in rows] == [("anchors.clean", "3", "authority")]
    assert before[-1].row.action == "session.open"


async def test_what_expired_within_the_retention_stays(rooms: Rooms) -> None:
    session = await rooms.session(lifetime_s=60)
    assert await _pass(rooms, 60_000 + RETENTION_MS) == 0
    assert not (await rooms.service.reading.session(session.id)).stands
    assert await _pass(rooms, 1) == 1
    with pytest.raises(NotFoundError):
        await rooms.service.reading.session(session.id)


async def test_what_was_revoked_after_it_expired_is_kept_from_then_on(rooms: Rooms) -> None:
    session = await rooms.session(lifetime_s=60)
    rooms.clock.advance(20 * DAY_MS)
    await rooms.service.revoking.revoke(Kind.SESSION, session.id)
    assert await _pass(rooms, RETENTION_MS) == 0
    assert await _pass(rooms, 1) == 1


async def test_an_agent_stays_while_a_delegation_names_it(rooms: Rooms) -> None:
    opening = rooms.service.opening
    application = (await opening.create_application("notes")).id
    ids: list[str] = []
    for lifetime_s in (100 * 86_400, 60):
        session = await opening.open_session(application, "alice", SubjectType.USER, 200 * 86_400)
        ids.append((await opening.start_agent(application, "worker", lifetime_s, session_id=session.id)).id)
    source, target = ids
    await opening.create_grant(application, "alice", ["read"], ["https://api.example"], 200 * 86_400)
    edge = await opening.delegate(source, target, ["read"], ["https://api.example"], 100 * 86_400)
    assert await _pass(rooms, RETENTION_MS + 61_000) == 0, "the receiver has expired, and the edge names it"
    assert (await rooms.service.reading.delegation(edge.id)).target_id == target
    assert await _pass(rooms, 100 * DAY_MS) == 3, "the edge, then both agents"


async def test_a_session_stays_for_biscuits_that_go_on_after_it_until_they_have_expired(rooms: Rooms) -> None:
    lasting, unending, revoked, expired = [await rooms.session(lifetime_s=60) for _ in range(4)]
    register, day = rooms.service.registering.for_session, rooms.clock.wall_ms + 60 * DAY_MS
    ids = [plain_id() for _ in range(3)]
    for session, id_, ends_ms in ((lasting, ids[0], day), (unending, ids[1], None), (revoked, ids[2], day)):
        await register([id_], session.id, ends_ms)
    await register([plain_id()], expired.id, rooms.clock.wall_ms + 1)
    await rooms.service.revoking.revoke(Kind.BISCUIT, ids[2])
    assert await _pass(rooms, RETENTION_MS + 61_000) == 3
    assert not (await rooms.service.reading.session(lasting.id)).stands
    done = await rooms.service.revoking.revoke(Kind.SESSION, lasting.id)
    assert done.reach.counts[Kind.BISCUIT] == 1
    assert await revoked_in(rooms) == [ids[2], ids[0]]
    await rooms.service.revoking.cut_off("subject:alice")
    assert await revoked_in(rooms) == [ids[2], ids[0], ids[1]], "nobody ends it by its session any more"
    assert await _pass(rooms, RETENTION_MS + 1) == 1


async def test_a_session_that_stayed_for_its_biscuits_goes_with_the_last_of_them(rooms: Rooms) -> None:
    session = await rooms.session(lifetime_s=60)
    await rooms.service.registering.for_session([plain_id()], session.id, rooms.clock.wall_ms + 60 * DAY_MS)
    assert await _pass(rooms, 60 * DAY_MS + RETENTION_MS) == 0
    assert await _pass(rooms, 1) == 1


async def test_of_a_session_with_very_many_biscuits_only_some_are_looked_at_and_it_stays(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning_module, "BISCUITS_LOOKED_AT", 3)
    many, few = [await rooms.session(lifetime_s=60) for _ in range(2)]
    await rooms.service.registering.for_session([plain_id()], many.id, rooms.clock.wall_ms + 60 * DAY_MS)
    await rooms.service.registering.for_session([plain_id() for _ in range(3)], many.id)
    await rooms.service.registering.for_session([plain_id() for _ in range(2)], few.id)
    assert await _pass(rooms, RETENTION_MS + 61_000) == 1
    assert not (await rooms.service.reading.session(many.id)).stands


async def test_nothing_that_stands_is_touched(family: Family) -> None:
    before = await _left(family.rooms)
    assert await _pass(family.rooms, 0) == 0
    assert await _left(family.rooms) == before


async def test_labels_go_with_what_they_label(rooms: Rooms) -> None:
    application = await rooms.service.opening.create_application("notes", ["kept"])
    await rooms.service.opening.open_session(
        application.id, "alice", SubjectType.USER, 60, labels=["team:payments", "blue"]
    )
    await _pass(rooms, RETENTION_MS + 61_000)
    assert (await _left(rooms))["labels"] == 1
    found = await rooms.service.reading.page(Filter(kind=Kind.APPLICATION, label="kept"), None, 10)
    assert [one.id for one in found.items] == [application.id]


async def test_a_clock_that_is_ahead_of_all_that_was_signed_takes_nothing_away(rooms: Rooms) -> None:
    await rooms.session(lifetime_s=60)
    await rooms.heartbeat.sign()
    rooms.clock.advance(RETENTION_MS + 61_000)
    assert await rooms.service.cleaning.clean() == 0


async def test_what_is_being_told_of_the_dead_is_told_no_more(family: Family) -> None:
    await family.rooms.service.revoking.revoke(Kind.SESSION, family.session["alice"].id)
    page = await family.rooms.service.descendants.next()
    assert page is not None
    await _pass(family.rooms, 366 * DAY_MS + RETENTION_MS)
    await family.rooms.service.descendants.done(page)
    assert await family.rooms.service.descendants.next() is None


async def test_answers_are_kept_for_a_day(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning_module, "STEP", 3)
    once = rooms.service.once
    old = [once.request("caller", str(number), b"") for number in range(7)]
    for request in old:
        await once.keep(request, Answer(200, "text/plain", b"done"))
    await _pass(rooms, ANSWERS_KEPT_MS)
    assert await once.find(old[0]) is not None
    new = once.request("caller", "new", b"")
    await once.keep(new, Answer(200, "text/plain", b"done"))
    await _pass(rooms, 1)
    assert [await once.find(request) for request in old] == [None] * 7
    assert await once.find(new) is not None


async def test_less_than_two_days_are_refused(rooms: Rooms) -> None:
    with pytest.raises(ConfigurationError):
        Cleaning(rooms.database, rooms.clock, 1)


async def test_a_million_that_cannot_go_do_not_keep_one_from_going(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here three, in steps of two: what may not go comes first in the order."""
    monkeypatch.setattr(cleaning_module, "STEP", 2)
    kept = [await rooms.session(lifetime_s=60) for _ in range(3)]
    free = await rooms.session(lifetime_s=61)
    async with writing(rooms.database) as connection:
        ids = [session.id for session in kept]
        revoked = update(tables.anchors).where(tables.anchors.c.id.in_(ids))
        await connection.execute(revoked.values(revoked_at_ms=rooms.clock.wall_ms + RETENTION_MS))
    assert await _pass(rooms, RETENTION_MS + 62_000) == 1
    with pytest.raises(NotFoundError):
        await rooms.service.reading.session(free.id)
