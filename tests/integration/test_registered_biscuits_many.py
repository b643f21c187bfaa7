"""Many registered Biscuits: ended page by page, whatever happens between; and what is lost with a database."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import registered, registering, tables
from countermand.authority.ledger import DAY_MS
from countermand.authority.model import Filter
from countermand.authority.once import ANSWERED_MS
from countermand.authority.registered import LEFT_MS, PAGE, Debt
from countermand.errors import AlreadyDoneError, BusyError, InProgressError, NotActiveError, UnconfirmedError
from countermand.log.anchor import EVERYONE, Kind
from countermand.log.entry import Entry
from tests.backups import Memory, back_up
from tests.integration.biscuits import plain_id
from tests.integration.registering import Scene, fill, revoked_in
from tests.integration.restoring import remembering, reopened
from tests.integration.rooms import NOW_MS, Rooms, process_on
from tests.running import PROOF

pytestmark = pytest.mark.anyio

End = Callable[["Scene"], Awaitable[Any]]


@pytest.fixture
async def scene(rooms: Rooms) -> Scene:
    return await Scene(rooms).open()


async def test_one_that_is_cleaned_away_while_it_is_registered_again_is_registered(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, ids, attempts = registering._add, await scene.register(), 0

    async def cleaned(connection: AsyncConnection, *arguments: Any) -> set[str]:
        nonlocal attempts
        attempts += 1
        new = await add(connection, *arguments)
        if attempts == 1:  # what registers saw it, and what cleans had locked it
            await connection.execute(delete(tables.biscuit_anchors))
            await connection.execute(delete(tables.biscuits))
        return new

    monkeypatch.setattr(registering, "_add", cleaned)
    done = await scene.rooms.service.registering.for_session(ids, scene.bobs.id)
    assert (done.new, attempts) == (0, 2), "it was done again"
    await scene.revoking.revoke(Kind.SESSION, scene.bobs.id)
    assert await revoked_in(scene.rooms) == ids


@pytest.mark.parametrize("extra", [0, 1, PAGE, PAGE + 7])
async def test_a_thousand_end_in_the_first_transaction_and_the_rest_before_the_answer(scene: Scene, extra: int) -> None:
    anchor = f"session:{scene.session.id}"
    ids = await fill(scene.rooms, anchor, PAGE + extra)
    done = await scene.revoking.revoke(Kind.SESSION, scene.session.id)
    assert sorted(await revoked_in(scene.rooms)) == sorted(ids)
    assert (done.reach.counts[Kind.BISCUIT], done.last_seq) == (len(ids), len(ids) + 1)
    async with scene.rooms.database.read() as connection:
        assert (await connection.execute(select(tables.biscuit_jobs))).all() == []


async def test_a_filter_ends_those_of_many_sessions_and_of_one_that_has_many(scene: Scene) -> None:
    sizes = {scene.session: 600, scene.above: 300, scene.bobs: 1_500, scene.beside: 3}
    ids = [id_ for one, size in sizes.items() for id_ in await fill(scene.rooms, f"session:{one.id}", size)]
    done = await scene.rooms.service.sweeping.revoke(Filter(kind=Kind.SESSION, label="mine"))
    assert sorted(await revoked_in(scene.rooms)) == sorted(ids)
    assert (done.count, done.reach.counts[Kind.BISCUIT], done.last_seq) == (4, len(ids), len(ids) + 4)


async def test_what_a_crash_leaves_is_resumed_by_some_process(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = await fill(scene.rooms, f"session:{scene.session.id}", 3 * PAGE)
    await _crash_behind(scene, 1, monkeypatch)
    assert len(await revoked_in(scene.rooms)) == 2 * PAGE
    other = await process_on(scene.rooms.database, scene.rooms.data, scene.rooms.clock)
    assert await other.service.registered.resume() == 0, "somebody may be at it"
    scene.rooms.clock.advance(LEFT_MS + 1)
    assert await other.service.registered.resume() == PAGE
    assert sorted(await revoked_in(scene.rooms)) == sorted(ids)


async def test_a_job_that_keeps_failing_does_not_keep_others_from_being_done(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    others = await fill(scene.rooms, f"session:{scene.bobs.id}", 2 * PAGE)
    for session in (scene.session, scene.bobs):
        await fill(scene.rooms, f"session:{session.id}", PAGE + 5)
        revoke = partial(scene.revoking.revoke, Kind.SESSION, session.id)
        await _crash_behind(scene, 0, monkeypatch, revoke)
    page = registered._page

    async def failing(connection: AsyncConnection, anchor: str, *place: int) -> Sequence[int]:
        if anchor == f"session:{scene.session.id}":
            raise BusyError("this one fails")
        return await page(connection, anchor, *place)

    scene.rooms.clock.advance(LEFT_MS + 1)
    with monkeypatch.context() as patch:
        patch.setattr(registered, "_page", failing)
        assert await scene.rooms.service.registered.resume() == 2 * PAGE + 5
    assert set(others) <= set(await revoked_in(scene.rooms))
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "job 1 of registered Biscuits is not done: this one fails"
    ]
    assert await scene.rooms.service.registered.resume() == 5


async def test_who_revokes_again_after_a_crash_is_answered_when_all_is_done(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await fill(scene.rooms, f"session:{scene.session.id}", 3 * PAGE)
    await _crash_behind(scene, 0, monkeypatch)
    again = await scene.revoking.revoke(Kind.SESSION, scene.session.id)
    assert (again.is_new, again.reach.counts[Kind.BISCUIT]) == (False, 2 * PAGE)
    assert sorted(await revoked_in(scene.rooms)) == sorted(ids)


async def test_who_revokes_by_filter_again_after_a_crash_is_answered_when_all_is_done(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await fill(scene.rooms, f"session:{scene.session.id}", 3 * PAGE)
    which = Filter(kind=Kind.SESSION, label="mine")
    await _crash_behind(scene, 0, monkeypatch, lambda: scene.rooms.service.sweeping.revoke(which))
    again = await scene.rooms.service.sweeping.revoke(which)
    assert (again.count, again.reach.counts) == (0, {Kind.BISCUIT: 2 * PAGE})
    assert again.last_seq == (await scene.rooms.head()).rev.seq
    assert sorted(await revoked_in(scene.rooms)) == sorted(ids)


async def _crash_behind(
    scene: Scene,
    pages: int,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Revoke, or act, and let the database fail after the first transaction and so many pages."""
    commit, left = scene.rooms.heartbeat.commit, [pages + 1]

    async def failing(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise BusyError("the database is gone")
        return await commit(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(scene.rooms.heartbeat, "commit", failing)
        with pytest.raises(UnconfirmedError, match="not yet every Biscuit"):
            await (act() if act else scene.revoking.revoke(Kind.SESSION, scene.session.id))


async def test_a_request_that_is_repeated_does_what_is_left_and_is_told_that_it_is_done(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, once, clock = await fill(scene.rooms, "subject:erin", 3 * PAGE), scene.rooms.service.once, scene.rooms.clock
    with once.noting(once.request("caller", "key", b"body")):
        await _crash_behind(scene, 0, monkeypatch, lambda: scene.revoking.cut_off("subject:erin"))
    again = once.request("caller", "key", b"body")
    with pytest.raises(InProgressError, match="was begun before"):
        await once.find(again)
    clock.advance(ANSWERED_MS)
    await _crash_behind(scene, 0, monkeypatch, lambda: once.find(again))
    assert PAGE < len(await revoked_in(scene.rooms)) < len(ids)
    with pytest.raises(AlreadyDoneError):
        await once.find(again)
    assert sorted(await revoked_in(scene.rooms)) == sorted(ids)
    assert (await scene.rooms.head()).rev.seq == len(ids) + 1, "one cutoff"


async def test_what_is_left_of_a_cutoff_ends_nothing_that_was_registered_after_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await fill(scene.rooms, "subject:erin", PAGE + 3)

    async def never(_anchors: object) -> registered.Rest:
        return registered.Rest()

    with monkeypatch.context() as patch:
        patch.setattr(scene.rooms.service.registered, "finish", never)
        await scene.revoking.cut_off("subject:erin")
    await scene.rooms.service.registering.for_subject([plain_id()], scene.desk, "erin")
    scene.rooms.clock.advance(LEFT_MS + 1)
    assert await scene.rooms.service.registered.resume() == 3
    assert sorted(await revoked_in(scene.rooms)) == sorted(before)


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
        assert taken <= set(await revoked_in(rooms))
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
    revoked = await revoked_in(scene.rooms)
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
    assert sorted(await revoked_in(scene.rooms)) == sorted(ids)


def _turned(ids: Sequence[str], by: int) -> list[str]:
    return [*ids[by:], *ids[:by]]


# A restore


async def test_a_recovery_takes_up_any_number_of_anchors(scene: Scene) -> None:
    ids, rooms = await scene.register(count=3), scene.rooms
    debts = [Debt(f"session:ses_{number:032x}", None, "") for number in range(70_000)]
    debts.append(Debt(f"session:{scene.session.id}", None, "lost"))

    async def owe(connection: AsyncConnection) -> None:
        await rooms.service.registered.close(connection)
        await rooms.service.registered.owe(connection, debts, NOW_MS)

    await rooms.database.write(owe, alone=True)
    assert (await rooms.service.registered.finish_all()).count == 3
    assert sorted(await revoked_in(rooms)) == sorted(ids)


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
        revoked = await revoked_in(rooms)
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
        assert sorted(await revoked_in(rooms)) == sorted(ids)


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
