"""Biscuits that applications register end with what they are for: the session, the application, the subject."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from sqlalchemy import func, select

from countermand.authority import tables
from countermand.authority.ledger import DAY_MS, HOUR_MS
from countermand.authority.model import Filter, Reach
from countermand.enforce.biscuits import Biscuits
from countermand.enforce.decision import Allow, Code, Deny
from countermand.enforce.guard import Guard
from countermand.errors import NotActiveError
from countermand.log.anchor import EVERYONE, Kind
from countermand.log.entry import Entry
from countermand.wiring import connect
from tests.integration.admin import AUDIENCE, Admin
from tests.integration.biscuits import ROOT_KEYS, attenuated, ids_of, mint, plain_id, twin_ids
from tests.integration.exchanging import Client, new_client
from tests.integration.problems import refused
from tests.integration.registering import Scene, fill, revoked_in
from tests.integration.rooms import NOW_MS, Rooms
from tests.running import Running, until

pytestmark = pytest.mark.anyio

End = Callable[["Scene"], Awaitable[Any]]


@pytest.fixture
async def scene(rooms: Rooms) -> Scene:
    return await Scene(rooms).open()


ENDS: Final[dict[str, End]] = {
    "the session": lambda s: s.revoking.revoke(Kind.SESSION, s.session.id, "why"),
    "the session above it": lambda s: s.revoking.revoke(Kind.SESSION, s.above.id, "why"),
    "its application": lambda s: s.revoking.revoke(Kind.APPLICATION, s.phone, "why"),
    "the application above it": lambda s: s.revoking.revoke(Kind.APPLICATION, s.desk, "why"),
    "a filter": lambda s: s.rooms.service.sweeping.revoke(Filter(kind=Kind.SESSION, subject="alice"), "why"),
    "a cutoff for its subject": lambda s: s.revoking.cut_off("subject:alice", reason="why"),
    "a cutoff for its application": lambda s: s.revoking.cut_off(f"application:{s.phone}", reason="why"),
    "a cutoff for everyone": lambda s: s.revoking.cut_off(EVERYONE, reason="why"),
    "a cutoff until now": lambda s: s.revoking.cut_off("subject:alice", before_ms=NOW_MS, reason="why"),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_whatever_ends_a_session_ends_the_biscuits_that_are_registered_for_it(scene: Scene, end: End) -> None:
    ids, others = await scene.register(count=3), await scene.register(scene.beside)
    done = await end(scene)
    revoked = await revoked_in(scene.rooms)
    assert set(ids) <= set(revoked)
    assert set(revoked).isdisjoint(others) or end is ENDS["a cutoff for everyone"]
    entries = [Entry.parse(candidate.entry) for candidate in await scene.rooms.candidates()]
    assert [entry.kind for entry in entries].index(Kind.BISCUIT) > 0, "what they end with is dead first"
    assert {entry.reason for entry in entries} == {"why"}
    assert done.reach.counts[Kind.BISCUIT] == len(revoked)
    assert done.last_seq == entries[-1].seq


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_ending_it_again_appends_nothing_for_them(scene: Scene, end: End) -> None:
    await scene.register(count=3)
    await end(scene)
    revoked = await revoked_in(scene.rooms)
    await end(scene)
    assert await revoked_in(scene.rooms) == revoked


async def test_whatever_else_ends_touches_none_of_them(scene: Scene) -> None:
    await scene.register()
    agent = await scene.opening.start_agent(scene.phone, "worker", 60, session_id=scene.session.id)
    grant = await scene.opening.create_grant(scene.phone, "alice", ["read"], ["https://api.example"], 60)
    await scene.revoking.revoke(Kind.SESSION, scene.bobs.id)
    await scene.revoking.revoke(Kind.AGENT, agent.id)
    await scene.revoking.revoke(Kind.GRANT, grant.id)
    await scene.revoking.cut_off("subject:bob")
    await scene.revoking.cut_off("subject:alice", "https://other.example")
    assert await revoked_in(scene.rooms) == []


async def test_a_cutoff_until_an_earlier_time_ends_what_was_registered_by_then(scene: Scene) -> None:
    early = await scene.register()
    scene.rooms.clock.advance(10_000)
    late = await scene.register()
    done = await scene.revoking.cut_off("subject:alice", before_ms=NOW_MS + 5_000)
    assert await revoked_in(scene.rooms) == early
    assert done.reach.counts[Kind.BISCUIT] == 1
    await scene.revoking.cut_off("subject:alice")
    assert await revoked_in(scene.rooms) == early + late


async def test_a_subject_of_an_application_has_biscuits_without_a_session(scene: Scene) -> None:
    registering = scene.rooms.service.registering
    ids = [plain_id() for _ in range(3)]
    for id_, application, subject in zip(
        ids, (scene.desk, scene.desk, scene.phone), ("alice", "dora", "dora"), strict=True
    ):
        await registering.for_subject([id_], application, subject)
    await scene.revoking.cut_off("subject:dora")
    assert await revoked_in(scene.rooms) == ids[1:]
    await scene.revoking.revoke(Kind.APPLICATION, scene.desk)
    assert await revoked_in(scene.rooms) == [*ids[1:], ids[0]]


async def test_a_dry_run_counts_them_and_ends_none(scene: Scene) -> None:
    await scene.register(count=3)
    revoking, sweeping = scene.revoking, scene.rooms.service.sweeping
    previews: list[Any] = [
        await revoking.preview(Kind.SESSION, scene.above.id),
        await revoking.preview(Kind.APPLICATION, scene.phone),
        await sweeping.preview(Filter(kind=Kind.SESSION, label="mine")),
        await revoking.preview_cutoff(EVERYONE),
        await revoking.preview_cutoff("subject:alice", before_ms=NOW_MS),
    ]
    assert [one.reach.counts[Kind.BISCUIT] for one in previews] == [3] * 5
    early = await revoking.preview_cutoff("subject:alice", before_ms=NOW_MS - 1)
    assert Kind.BISCUIT not in early.reach.counts
    assert await revoked_in(scene.rooms) == []


async def test_more_than_are_counted_are_said_to_be_more(scene: Scene) -> None:
    await fill(scene.rooms, f"session:{scene.session.id}", 30)
    async with scene.rooms.database.read() as connection:
        counted = await scene.rooms.service.registered.counted(
            connection, Reach({}), [f"session:{scene.session.id}"], None, NOW_MS, 29
        )
    assert (counted.counts, counted.is_whole) == ({Kind.BISCUIT: 29}, False)


# Registering


async def test_registering_again_changes_nothing_and_every_form_is_one(scene: Scene) -> None:
    registering, (canonical, twin) = scene.rooms.service.registering, twin_ids()
    first = await registering.for_session([twin.upper(), twin, canonical], scene.session.id)
    assert (first.ids, first.new) == ((canonical,), 1)
    again = await registering.for_session([canonical], scene.session.id)
    assert (again.ids, again.new) == ((canonical,), 0)
    await scene.revoking.revoke(Kind.SESSION, scene.session.id)
    assert await revoked_in(scene.rooms) == [canonical]


async def test_one_may_be_registered_for_several_and_ends_with_the_first_that_does(scene: Scene) -> None:
    registering, ids = scene.rooms.service.registering, await scene.register()
    assert (await registering.for_session(ids, scene.bobs.id)).new == 0
    await scene.revoking.revoke(Kind.SESSION, scene.bobs.id)
    assert await revoked_in(scene.rooms) == ids
    await scene.revoking.revoke(Kind.SESSION, scene.session.id)
    assert await revoked_in(scene.rooms) == ids


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_nothing_is_registered_below_what_has_ended(scene: Scene, end: End) -> None:
    await end(scene)
    with pytest.raises(NotActiveError):
        await scene.register()


async def test_what_is_revoked_is_registered_for_nothing(scene: Scene) -> None:
    registering, id_ = scene.rooms.service.registering, plain_id()
    await scene.revoking.revoke(Kind.BISCUIT, id_)
    with pytest.raises(NotActiveError, match="one of these Biscuits has been revoked"):
        await registering.for_session([plain_id(), id_], scene.session.id)
    known = await scene.register()
    await scene.revoking.revoke(Kind.BISCUIT, known[0])
    with pytest.raises(NotActiveError):
        await registering.for_session(known, scene.bobs.id)
    async with scene.rooms.database.read() as connection:
        rows = (await connection.execute(select(tables.biscuits))).all()
    assert [(row.id, row.revoked_at_ms) for row in rows] == [(known[0], NOW_MS)], "its row is marked"


async def test_whoever_registers_one_by_its_own_key_first_owns_it_and_an_administrator_may_all_the_same(
    scene: Scene,
) -> None:
    registering, theirs, new = scene.rooms.service.registering, plain_id(), plain_id()
    await registering.for_subject([theirs], scene.desk, "dora", NOW_MS + DAY_MS, owner_id=scene.desk)
    before = await _registered(scene)
    phone: list[Awaitable[Any]] = [
        registering.for_session([new, theirs], scene.bobs.id, owner_id=scene.phone),
        registering.for_subject([theirs], scene.phone, "dora", owner_id=scene.phone),
    ]
    for attempt in phone:
        with pytest.raises(NotActiveError, match="registered by another application"):
            await attempt
    assert await _registered(scene) == before, "all, or nothing"
    assert (await registering.for_session([theirs], scene.above.id, owner_id=scene.desk)).new == 0
    await registering.for_session([theirs], scene.bobs.id)
    assert (await registering.for_session([theirs, new], scene.bobs.id, owner_id=scene.phone)).new == 1


async def _registered(scene: Scene) -> list[Any]:
    """All that is known of Biscuits, and the audit."""
    async with scene.rooms.database.read() as connection:
        columns = tables.biscuit_anchors.c.number, tables.biscuit_anchors.c.anchor
        named = (await connection.execute(select(*columns).order_by(*columns))).all()
        known = (await connection.execute(select(tables.biscuits))).all()
    return [named, known, (await scene.rooms.service.trail.page(0, 100)).rows]


async def test_of_two_applications_at_once_one_owns_it(scene: Scene) -> None:
    registering, id_ = scene.rooms.service.registering, plain_id()
    both = [registering.for_subject([id_], owner, "dora", owner_id=owner) for owner in (scene.desk, scene.phone)]
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(isinstance(outcome, NotActiveError) for outcome in outcomes) == [False, True]


async def test_what_expires_needs_no_longer_entry_and_the_later_word_counts(scene: Scene) -> None:
    registering, ids = scene.rooms.service.registering, [plain_id() for _ in range(4)]
    day = NOW_MS + 30 * DAY_MS
    await registering.for_session(ids[:3], scene.session.id, day)
    await registering.for_session(ids[1:2], scene.session.id, day + DAY_MS)
    await registering.for_session(ids[1:2], scene.session.id, day)
    await registering.for_session([ids[2], ids[3]], scene.session.id)
    await scene.revoking.revoke(Kind.SESSION, scene.session.id)
    entries = [Entry.parse(candidate.entry) for candidate in await scene.rooms.candidates()]
    lasts = {entry.id: entry.expires_at_ms for entry in entries}
    async with scene.rooms.database.read() as connection:
        kept = [await scene.rooms.ledger.expiry(connection, at_ms - HOUR_MS) for at_ms in (day, day + DAY_MS)]
    assert [lasts[id_] for id_ in ids] == [*kept, None, None]


async def test_what_has_expired_needs_no_entry_and_is_cleaned_away_in_time(scene: Scene) -> None:
    await scene.rooms.service.registering.for_session([plain_id()], scene.session.id, NOW_MS + 60_000)
    kept = await scene.register()
    scene.rooms.clock.advance(31 * DAY_MS)
    await scene.rooms.heartbeat.sign()
    await scene.revoking.revoke(Kind.APPLICATION, scene.phone)
    assert await revoked_in(scene.rooms) == kept
    await scene.rooms.service.cleaning.clean()
    async with scene.rooms.database.read() as connection:
        assert (await connection.execute(select(tables.biscuits.c.id))).scalars().all() == kept
        left = (await connection.execute(select(func.count()).select_from(tables.biscuit_anchors))).scalar_one()
    assert left == 5, "two sessions, two applications and a subject"


# Over HTTP


@pytest.fixture
async def desk(shared: Running, admin: Admin) -> Client:
    return await new_client(admin, admin.http)


async def test_an_application_registers_with_its_own_key_for_what_is_its_own(admin: Admin, desk: Client) -> None:
    own, others = await admin.session(desk.id), await admin.session(await admin.application())
    headers, id_ = {"authorization": f"Bearer {desk.secret}"}, plain_id()

    async def register(**body: Any) -> Any:
        return await admin.http.post("/v1/biscuits", json={"ids": [id_.upper()]} | body, headers=headers)

    made = await register(session_id=own, expires_at="2100-01-01T00:00:00Z")
    assert (made.status_code, made.json()) == (201, {"ids": [id_], "new": 1})
    assert (await register(session_id=own)).status_code == 200
    assert (await register(application_id=desk.id, subject="alice")).status_code == 200
    missing = [
        refused(await register(**body), 404, "not_found")
        for body in ({"session_id": others}, {"session_id": "ses_" + "0" * 32})
    ]
    assert len(set(missing)) == 1, "what is another's is told apart from nothing"
    application = await admin.application()
    refused(await register(application_id=application, subject="alice"), 404, "not_found")
    revoked = await admin.revoke("session", own)
    assert revoked["reach"]["counts"] == {"session": 1, "biscuit": 1}
    refused(await register(session_id=own), 409, "not_active")


async def test_what_another_has_registered_is_answered_as_what_is_revoked(admin: Admin, desk: Client) -> None:
    own, others = await admin.session(desk.id), await new_client(admin, admin.http)
    theirs, revoked = plain_id(), plain_id()
    answers = []
    await admin.revoke("biscuit", revoked)
    for client, subject, ids in ((others, "bob", [theirs]), (desk, "alice", [theirs]), (desk, "alice", [revoked])):
        body = {"application_id": client.id, "subject": subject, "ids": ids}
        headers = {"authorization": f"Bearer {client.secret}"}
        answers.append(await admin.http.post("/v1/biscuits", json=body, headers=headers))
    assert answers[0].status_code == 201
    assert len({refused(answer, 409, "not_active") for answer in answers[1:]}) == 1
    assert (await admin.post("biscuits", ids=[theirs], session_id=own)).status_code == 200


@pytest.mark.parametrize(
    "body",
    [{}, {"session_id": "ses", "subject": "a"}, {"application_id": "app"}, {"subject": "alice"}],
)
async def test_what_they_are_registered_for_is_said_in_one_way(admin: Admin, body: dict[str, str]) -> None:
    response = await admin.post("biscuits", ids=[plain_id()], **body)
    assert refused(response, 422, "invalid_value").startswith("Biscuits are registered for a session, or")


async def test_a_repeated_registration_is_answered_as_the_first(admin: Admin) -> None:
    session, headers = await admin.session(await admin.application()), {"idempotency-key": plain_id()[:32]}
    body = {"ids": [plain_id()], "session_id": session}
    first, again = [await admin.http.post("/v1/biscuits", json=body, headers=headers) for _ in range(2)]
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)


async def test_a_receipt_is_for_the_last_entry_that_came_with_it(admin: Admin) -> None:
    session = await admin.session(await admin.application())
    await admin.make("biscuits", ids=[plain_id(), plain_id()], session_id=session)
    body = {"kind": "session", "id": session}
    answer = (await admin.http.post("/v1/revocations?wait=0.05", json=body)).json()
    assert answer["receipt"]["seq"] == answer["seq"] + 2


async def test_one_that_passes_until_the_last_moment_that_can_be_written_is_never_forgotten(admin: Admin) -> None:
    session, id_ = await admin.session(await admin.application()), plain_id()
    await admin.make("biscuits", ids=[id_], session_id=session, expires_at="9999-12-31T23:59:59.999Z")
    await admin.revoke("session", session)
    [entry] = (await admin.read(f"revocations?kind=biscuit&id={id_}"))["items"]
    assert entry["expires_at"] is None


async def test_a_guard_rejects_what_ended_with_its_session_and_what_its_holder_has_ended(
    shared: Running, admin: Admin, desk: Client
) -> None:
    token, other = mint(), mint()
    session, biscuits = await admin.session(desk.id), Biscuits(ROOT_KEYS, "allow if true")
    await admin.make("biscuits", ids=ids_of(token), session_id=session)
    pin = shared.data.pin.read_text()
    async with connect(shared.url, audience=AUDIENCE, biscuits=biscuits, api_key=shared.replica_key, pin=pin) as guard:
        for good in (token, attenuated(token), other):
            await until(lambda good=good: _passes(guard, good), "the guard follows")  # type: ignore[misc]
        await admin.revoke("session", session)
        for ended in (token, attenuated(token)):
            await until(lambda ended=ended: _rejected(guard, ended), "it is rejected")  # type: ignore[misc]
        assert await _passes(guard, other)
        child = attenuated(other)
        await desk.end(child)
        await until(lambda: _rejected(guard, child), "its holder has ended it")
        assert await _passes(guard, other)


async def _passes(guard: Guard, token: str) -> bool:
    return isinstance(await guard.decide(token), Allow)


async def _rejected(guard: Guard, token: str) -> bool:
    decision = await guard.decide(token)
    return isinstance(decision, Deny) and decision.code is Code.SESSION_REVOKED
