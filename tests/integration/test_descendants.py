"""A revocation that reaches thousands: one entry, at once; and the job that tells each of them afterwards."""

import os
import time
from itertools import cycle, islice
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select

from countermand.authority import tables
from countermand.authority.cascade import ANSWERED
from countermand.authority.descendants import PAGE
from countermand.authority.model import UNKNOWN, Reach, Session, SubjectType, TokenExchange
from countermand.log.anchor import Kind, own_id
from countermand.tokens.mandate import LEEWAY_S
from tests.integration.family import Family, gather_family
from tests.integration.rooms import LATER_MS, NOW_MS, Rooms, rooms_open
from tests.integration.verifier import TOOLS, Verifier
from tests.looking import writing

pytestmark = pytest.mark.anyio

MANY = 10_000
DEEP = 10


async def told(rooms: Rooms) -> list[str]:
    """Return what the jobs tell, all of them, in order."""
    ids: list[str] = []
    while (page := await rooms.service.descendants.next()) is not None:
        assert len(page.anchors) <= PAGE
        ids += [anchor.id for anchor in page.anchors]
        await rooms.service.descendants.done(page)
    return ids


async def grow(rooms: Rooms, session: Session, root_id: str) -> list[list[str]]:
    """Put 10,000 agents below one, in ten levels, in one transaction; return their ids by level."""
    anchors, lineage = tables.anchors.c, tables.lineage.c
    async with rooms.database.read() as connection:
        root = (await connection.execute(select(anchors.number).where(anchors.id == root_id))).scalar_one()
        above = (await connection.execute(select(lineage.ancestor).where(lineage.descendant == root))).scalars().all()
        last = (await connection.execute(select(func.max(anchors.number)))).scalar_one()
    opened = {"kind": Kind.AGENT, "created_at_ms": NOW_MS, "opened_seq": 0, "expires_at_ms": LATER_MS, "name": "leaf"}
    opened |= {"application_id": session.application_id, "session_id": session.id}
    rows, pairs, levels = [], [], [[(root_id, list(above))]]
    for _ in range(DEEP):
        level = []
        for parent_id, path in islice(cycle(levels[-1]), MANY // DEEP):
            last, id_ = last + 1, own_id(Kind.AGENT, os.urandom(16))
            rows.append({"number": last, "id": id_, "parent_id": parent_id} | opened)
            pairs += [{"ancestor": ancestor, "descendant": last} for ancestor in [*path, last]]
            level.append((id_, [*path, last]))
        levels.append(level)
    async with writing(rooms.database) as connection:
        await connection.execute(insert(tables.anchors), rows)
        await connection.execute(insert(tables.lineage), pairs)
    return [[id_ for id_, _ in level] for level in levels[1:]]


async def test_ten_thousand_descendants_end_by_one_entry_and_their_siblings_do_not(rooms: Rooms) -> None:
    opening, minting, clock = rooms.service.opening, rooms.service.minting, time.monotonic
    application = await opening.create_application("fleet")
    session = await opening.open_session(application.id, "alice", SubjectType.USER, 3600)
    await opening.create_grant(application.id, "alice", ["read"], [TOOLS], 3600)
    root, sibling = [await opening.start_agent(application.id, "one", 3600, session_id=session.id) for _ in range(2)]
    levels = await grow(rooms, session, root.id)
    token = (await minting.issue(session.id, [TOOLS], ["read"])).token

    async def mandate(agent_id: str) -> str:
        asked = TokenExchange(subject_token=token, audience=(TOOLS,), agent_id=agent_id)
        return (await minting.exchange(application.id, asked)).token

    leaf = levels[-1][-1]
    tokens = {"root": await mandate(root.id), "leaf": await mandate(leaf), "sibling": await mandate(sibling.id)}
    verifier = Verifier(rooms)
    assert await verifier.passing(session=token, **tokens) == {"session", *tokens}
    preview = await rooms.service.revoking.preview(Kind.AGENT, root.id)

    began_s = clock()
    revocation = await rooms.service.revoking.revoke(Kind.AGENT, root.id)
    took_s = clock() - began_s

    assert revocation.seq == (await rooms.head()).rev.seq == 1
    assert preview.reach.counts == {Kind.AGENT: MANY + 1}
    assert revocation.reach in (Reach({Kind.AGENT: ANSWERED + 1}, is_whole=False), UNKNOWN), "counted if there is time"
    assert await verifier.passing(session=token, **tokens) == {"session", "sibling"}
    assert took_s < 1, "a tenth of a second on a machine that does nothing else; see make bench"
    assert sorted(await told(rooms)) == sorted(id_ for level in levels for id_ in level)


@pytest.fixture
async def family(rooms: Rooms) -> Family:
    return await gather_family(rooms)


async def test_descendants_are_told_in_the_order_in_which_they_came_and_only_what_documented_claims_name(
    family: Family,
) -> None:
    await family.rooms.service.revoking.revoke(Kind.GRANT, family.grant["alice"].id)
    below = [family.edge["first"].id, family.edge["second"].id, family.agent["hand"].id]
    assert await told(family.rooms) == below
    await family.rooms.service.revoking.revoke(Kind.APPLICATION, family.application["carol"].id)
    assert await told(family.rooms) == [family.session["carol"].id, family.agent["tester"].id]


async def test_what_has_no_descendants_makes_no_job(family: Family) -> None:
    await family.rooms.service.revoking.revoke(Kind.DELEGATION, family.edge["second"].id)
    await family.rooms.service.revoking.revoke(Kind.AGENT, family.agent["hand"].id)
    assert await family.rooms.service.descendants.next() is None


async def test_what_has_expired_is_not_told(family: Family) -> None:
    opening = family.rooms.service.opening
    alices, planner = family.application["alice"].id, family.agent["planner"].id
    brief = await opening.start_agent(alices, "brief", 60, parent_id=planner)
    await family.rooms.service.revoking.revoke(Kind.AGENT, planner)
    family.rooms.clock.advance(60_000 + LEEWAY_S * 1000)
    assert brief.id not in await told(family.rooms)


async def test_a_job_goes_on_where_it_was_left_even_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("countermand.authority.descendants.PAGE", 2)
    async with rooms_open(tmp_path) as rooms:
        family = await gather_family(rooms)
        await rooms.service.revoking.revoke(Kind.SESSION, family.session["alice"].id)
        first = await rooms.service.descendants.next()
        assert first is not None
        again = await rooms.service.descendants.next()
        assert again == first, "not noted, so told again"
        await rooms.service.descendants.done(first)
    async with rooms_open(tmp_path) as rooms:
        rest = await told(rooms)
        ids = [anchor.id for anchor in first.anchors] + rest
        assert len(ids) == len(set(ids))
        agents = [family.agent[name].id for name in ("planner", "helper", "hand")]
        assert sorted(ids) == sorted([*agents, *(edge.id for edge in family.edge.values())])
        assert await rooms.service.descendants.next() is None


async def test_counting_is_no_slower_where_everything_has_ended_already(rooms: Rooms) -> None:
    """It runs while the database is held, so it must not take seconds: it did, for every pair of reached and ended."""
    opening, revoking = rooms.service.opening, rooms.service.revoking
    application = await opening.create_application("fleet")
    session = await opening.open_session(application.id, "alice", SubjectType.USER, 3600)
    root = await opening.start_agent(application.id, "one", 3600, session_id=session.id)
    await grow(rooms, session, root.id)
    await revoking.cut_off(f"application:{application.id}")
    began_s = time.monotonic()
    preview = await revoking.preview(Kind.APPLICATION, application.id)
    assert preview.reach == Reach({Kind.APPLICATION: 1})
    assert time.monotonic() - began_s < 5, "a tenth of a second; twelve, when it was wrong"
    revocation = await revoking.revoke(Kind.APPLICATION, application.id)
    assert not revocation.reach.is_whole, "more is below it than is looked at for an answer"
