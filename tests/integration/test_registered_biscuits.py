"""Biscuits that applications register end with what they are for: the session, the application, the subject."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import func, insert, select

from countermand.authority import registered, tables
from countermand.authority.ledger import DAY_MS, HOUR_MS
from countermand.authority.model import Filter, Reach, Session, SubjectType
from countermand.authority.registered import LEFT_MS, PAGE
from countermand.errors import BusyError, NotActiveError, UnconfirmedError
from countermand.log.anchor import EVERYONE, Kind
from countermand.log.entry import Entry
from countermand.tokens.mandate import LEEWAY_S
from tests.backups import Memory, back_up
from tests.integration.admin import Admin
from tests.integration.biscuits import plain_id, twin_ids
from tests.integration.exchanging import Client, new_client
from tests.integration.problems import refused
from tests.integration.restoring import remembering, reopened
from tests.integration.rooms import NOW_MS, Rooms, process_on
from tests.looking import writing
from tests.running import PROOF, Running

pytestmark = pytest.mark.anyio

HOUR_S: Final = 3_600

End = Callable[["Scene"], Awaitable[Any]]


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


@pytest.fixture
async def scene(rooms: Rooms) -> Scene:
    return await Scene(rooms).open()


async def _revoked(rooms: Rooms) -> list[str]:
    """The ids of the Biscuits that are revoked, in the order of the ledger."""
    entries = [Entry.parse(candidate.entry) for candidate in await rooms.candidates()]
    return [entry.id for entry in entries if entry.kind is Kind.BISCUIT]


async def _fill(rooms: Rooms, anchor: str, count: int) -> list[str]:
    """Register so many at once, past the limit of one request."""
    ids = [plain_id() for _ in range(count)]
    async with writing(rooms.database) as connection:
        await connection.execute(insert(tables.biscuits), [{"id": id_, "created_at_ms": NOW_MS} for id_ in ids])
        query = select(tables.biscuits.c.number).order_by(tables.biscuits.c.number.desc()).limit(count)
        rows = [{"anchor": anchor, "number": number} for number in (await connection.execute(query)).scalars()]
        await connection.execute(insert(tables.biscuit_anchors), rows)
    return ids


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
    revoked = await _revoked(scene.rooms)
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
    revoked = await _revoked(scene.rooms)
    await end(scene)
    assert await _revoked(scene.rooms) == revoked


async def test_whatever_else_ends_touches_none_of_them(scene: Scene) -> None:
    await scene.register()
    agent = await scene.opening.start_agent(scene.phone, "worker", 60, session_id=scene.session.id)
    grant = await scene.opening.create_grant(scene.phone, "alice", ["read"], ["https://api.example"], 60)
    await scene.revoking.revoke(Kind.SESSION, scene.bobs.id)
    await scene.revoking.revoke(Kind.AGENT, agent.id)
    await scene.revoking.revoke(Kind.GRANT, grant.id)
    await scene.revoking.cut_off("subject:bob")
    await scene.revoking.cut_off("subject:alice", "https://other.example")
    assert await _revoked(scene.rooms) == []


async def test_a_cutoff_until_an_earlier_time_ends_what_was_registered_by_then(scene: Scene) -> None:
    early = await scene.register()
    scene.rooms.clock.advance(10_000)
    late = await scene.register()
    done = await scene.revoking.cut_off("subject:alice", before_ms=NOW_MS + 5_000)
    assert await _revoked(scene.rooms) == early
    assert done.reach.counts[Kind.BISCUIT] == 1
    await scene.revoking.cut_off("subject:alice")
    assert await _revoked(scene.rooms) == early + late


async def test_a_subject_of_an_application_has_biscuits_without_a_session(scene: Scene) -> None:
    registering = scene.rooms.service.registering
    ids = [plain_id() for _ in range(3)]
    for id_, application, subject in zip(
        ids, (scene.desk, scene.desk, scene.phone), ("alice", "dora", "dora"), strict=True
    ):
        await registering.for_subject([id_], application, subject)
    await scene.revoking.cut_off("subject:dora")
    assert await _revoked(scene.rooms) == ids[1:]
    await scene.revoking.revoke(Kind.APPLICATION, scene.desk)
    assert await _revoked(scene.rooms) == [*ids[1:], ids[0]]


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
    assert await _revoked(scene.rooms) == []


async def test_more_than_are_counted_are_said_to_be_more(scene: Scene) -> None:
    await _fill(scene.rooms, f"session:{scene.session.id}", 30)
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
    assert await _revoked(scene.rooms) == [canonical]


async def test_one_may_be_registered_for_several_and_ends_with_the_first_that_does(scene: Scene) -> None:
    registering, ids = scene.rooms.service.registering, await scene.register()
    assert (await registering.for_session(ids, scene.bobs.id)).new == 0
    await scene.revoking.revoke(Kind.SESSION, scene.bobs.id)
    assert await _revoked(scene.rooms) == ids
    await scene.revoking.revoke(Kind.SESSION, scene.session.id)
    assert await _revoked(scene.rooms) == ids


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
    margin = LEEWAY_S * 1000 + HOUR_MS
    assert [lasts[id_] for id_ in ids] == [day + margin, day + DAY_MS + margin, None, None]


async def test_what_has_expired_needs_no_entry_and_is_cleaned_away_in_time(scene: Scene) -> None:
    await scene.rooms.service.registering.for_session([plain_id()], scene.session.id, NOW_MS + 60_000)
    kept = await scene.register()
    scene.rooms.clock.advance(31 * DAY_MS)
    await scene.rooms.heartbeat.sign()
    await scene.revoking.revoke(Kind.APPLICATION, scene.phone)
    assert await _revoked(scene.rooms) == kept
    await scene.rooms.service.cleaning.clean()
    async with scene.rooms.database.read() as connection:
        assert (await connection.execute(select(tables.biscuits.c.id))).scalars().all() == kept
        left = (await connection.execute(select(func.count()).select_from(tables.biscuit_anchors))).scalar_one()
    assert left == 5, "two sessions, two applications and a subject"


# Many


@pytest.mark.parametrize("extra", [0, 1, PAGE, PAGE + 7])
async def test_a_thousand_end_in_the_first_transaction_and_the_rest_before_the_answer(scene: Scene, extra: int) -> None:
    anchor = f"session:{scene.session.id}"
    ids = await _fill(scene.rooms, anchor, PAGE + extra)
    done = await scene.revoking.revoke(Kind.SESSION, scene.session.id)
    assert sorted(await _revoked(scene.rooms)) == sorted(ids)
    assert (done.reach.counts[Kind.BISCUIT], done.last_seq) == (len(ids), len(ids) + 1)
    async with scene.rooms.database.read() as connection:
        assert (await connection.execute(select(tables.biscuit_jobs))).all() == []


async def test_a_filter_ends_those_of_many_sessions_and_of_one_that_has_many(scene: Scene) -> None:
    sizes = {scene.session: 600, scene.above: 300, scene.bobs: 1_500, scene.beside: 3}
    ids = [id_ for one, size in sizes.items() for id_ in await _fill(scene.rooms, f"session:{one.id}", size)]
    done = await scene.rooms.service.sweeping.revoke(Filter(kind=Kind.SESSION, label="mine"))
    assert sorted(await _revoked(scene.rooms)) == sorted(ids)
    assert (done.count, done.reach.counts[Kind.BISCUIT], done.last_seq) == (4, len(ids), len(ids) + 4)


async def test_what_a_crash_leaves_is_resumed_by_some_process(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = await _fill(scene.rooms, f"session:{scene.session.id}", 3 * PAGE)
    await _crash_behind(scene, 1, monkeypatch)
    assert len(await _revoked(scene.rooms)) == 2 * PAGE
    other = await process_on(scene.rooms.database, scene.rooms.data, scene.rooms.clock)
    assert await other.service.registered.resume() == 0, "somebody may be at it"
    scene.rooms.clock.advance(LEFT_MS + 1)
    assert await other.service.registered.resume() == PAGE
    assert sorted(await _revoked(scene.rooms)) == sorted(ids)


async def test_who_revokes_again_after_a_crash_is_answered_when_all_is_done(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await _fill(scene.rooms, f"session:{scene.session.id}", 3 * PAGE)
    await _crash_behind(scene, 0, monkeypatch)
    again = await scene.revoking.revoke(Kind.SESSION, scene.session.id)
    assert (again.is_new, again.reach.counts[Kind.BISCUIT]) == (False, 2 * PAGE)
    assert sorted(await _revoked(scene.rooms)) == sorted(ids)


async def _crash_behind(scene: Scene, pages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Revoke, and let the database fail after the first transaction and so many pages."""
    commit, left = scene.rooms.heartbeat.commit, [pages + 1]

    async def failing(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise BusyError("the database is gone")
        return await commit(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(scene.rooms.heartbeat, "commit", failing)
        with pytest.raises(UnconfirmedError, match="not yet every Biscuit"):
            await scene.revoking.revoke(Kind.SESSION, scene.session.id)


async def test_what_is_left_of_a_cutoff_ends_nothing_that_was_registered_after_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await _fill(scene.rooms, "subject:erin", PAGE + 3)

    async def never(_anchors: object) -> registered.Rest:
        return registered.Rest()

    with monkeypatch.context() as patch:
        patch.setattr(scene.rooms.service.registered, "finish", never)
        await scene.revoking.cut_off("subject:erin")
    await scene.rooms.service.registering.for_subject([plain_id()], scene.desk, "erin")
    scene.rooms.clock.advance(LEFT_MS + 1)
    assert await scene.rooms.service.registered.resume() == 3
    assert sorted(await _revoked(scene.rooms)) == sorted(before)


# Races


RACED: Final = {
    "the session": lambda s: s.revoking.revoke(Kind.SESSION, s.session.id),
    "a session above": lambda s: s.revoking.revoke(Kind.SESSION, s.above.id),
    "a filter": lambda s: s.rooms.service.sweeping.revoke(Filter(kind=Kind.SESSION, subject="alice")),
    "a cutoff for the subject": lambda s: s.revoking.cut_off("subject:alice"),
    "a cutoff for everyone": lambda s: s.revoking.cut_off(EVERYONE),
}


@pytest.mark.parametrize("end", RACED.values(), ids=RACED)
async def test_what_is_registered_while_it_ends_is_refused_or_ended(rooms: Rooms, end: End) -> None:
    for round_ in range(30 if PROOF else 6):
        scene = await Scene(rooms).open()
        registering = [asyncio.ensure_future(_attempt(scene)) for _ in range(12)]
        await asyncio.sleep(0) if round_ % 2 else await asyncio.wait(registering, return_when="FIRST_COMPLETED")
        await end(scene)
        taken = {id_ for id_ in await asyncio.gather(*registering) if id_ is not None}
        assert taken <= set(await _revoked(rooms))
        with pytest.raises(NotActiveError):
            await scene.register()


async def _attempt(scene: Scene) -> str | None:
    try:
        [id_] = await scene.register()
    except NotActiveError:
        return None
    return id_


async def test_a_bare_id_that_is_revoked_while_its_session_is_has_one_entry(scene: Scene) -> None:
    ids = await scene.register(count=20)
    await asyncio.gather(
        scene.revoking.revoke(Kind.SESSION, scene.session.id),
        *(scene.revoking.revoke(Kind.BISCUIT, id_) for id_ in ids),
        scene.revoking.cut_off("subject:alice"),
    )
    revoked = await _revoked(scene.rooms)
    assert sorted(revoked) == sorted(ids)


async def test_the_same_biscuits_are_registered_and_ended_by_many_at_once(scene: Scene) -> None:
    ids = [plain_id() for _ in range(30)]
    registering = scene.rooms.service.registering
    sessions = (scene.session, scene.bobs, scene.beside, scene.above)
    done = await asyncio.gather(
        *(registering.for_session(_turned(ids, turn), sessions[turn % 4].id) for turn in range(12))
    )
    assert sum(one.new for one in done) == 30
    await asyncio.gather(*(scene.revoking.revoke(Kind.SESSION, one.id) for one in sessions))
    assert sorted(await _revoked(scene.rooms)) == sorted(ids)


def _turned(ids: Sequence[str], by: int) -> list[str]:
    return [*ids[by:], *ids[:by]]


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


# A restore


@pytest.fixture
def memory() -> Memory:
    return Memory()


async def test_a_recovery_ends_what_a_lost_revocation_had_ended(tmp_path: Path, memory: Memory) -> None:
    async with remembering(tmp_path, memory) as old:
        scene = await Scene(old).open()
        ends, cut, bare, good = [
            (await scene.register(one))[0] for one in (scene.session, scene.bobs, scene.beside, scene.beside)
        ]
        back_up(old.data, tmp_path / "backup.db")
        await scene.revoking.revoke(Kind.SESSION, scene.session.id)
        await scene.revoking.cut_off("subject:bob")
        await scene.revoking.revoke(Kind.BISCUIT, bare)
    async with reopened(tmp_path, old, memory) as rooms:
        rooms.clock.advance(60_000)
        await rooms.service.recovery.recover(keep_sessions=True)
        revoked = await _revoked(rooms)
        assert {ends, cut, bare} == set(revoked)
        assert good not in revoked
        with pytest.raises(NotActiveError):
            await rooms.service.registering.for_session([bare], scene.beside.id)


async def test_a_recovery_that_keeps_no_session_keeps_no_biscuit(tmp_path: Path, memory: Memory) -> None:
    async with remembering(tmp_path, memory) as old:
        ids = await (await Scene(old).open()).register(count=3)
        back_up(old.data, tmp_path / "backup.db")
        await old.append(2)
    async with reopened(tmp_path, old, memory) as rooms:
        await rooms.service.recovery.recover()
        assert sorted(await _revoked(rooms)) == sorted(ids)


async def test_a_recovery_takes_a_longer_entry_for_another(tmp_path: Path, memory: Memory) -> None:
    async with remembering(tmp_path, memory) as old:
        id_ = plain_id()
        await old.append_biscuits([id_], expires_at_ms=NOW_MS + 2 * DAY_MS)
        back_up(old.data, tmp_path / "backup.db")
        await old.service.revoking.revoke(Kind.BISCUIT, id_)
    async with reopened(tmp_path, old, memory) as rooms:
        await rooms.service.recovery.recover(keep_sessions=True)
        entries = [Entry.parse(candidate.entry) for candidate in await rooms.candidates()]
        assert [entry.expires_at_ms for entry in entries if entry.id == id_] == [NOW_MS + 2 * DAY_MS, None]
