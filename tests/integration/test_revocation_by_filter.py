"""Revocation by filter: exactly what matches and stands, in whole steps of a bounded size, an entry for each."""

import asyncio
from itertools import pairwise
from typing import Any, Final

import pytest

from countermand.authority import heartbeat as heartbeat_module
from countermand.authority import sweeping
from countermand.authority.model import Filter, SubjectType, Sweep
from countermand.errors import InvalidValueError, MalformedError, NotActiveError
from countermand.log.anchor import Kind
from tests.integration.admin import AUDIENCE, Admin, Json
from tests.integration.problems import refused
from tests.integration.rooms import Rooms, insert_sessions

pytestmark = pytest.mark.anyio

PATH: Final = "revocations/by-filter"
ALICES: Final = Filter(kind=Kind.SESSION, subject="alice")


async def _end(admin: Admin, **body: Any) -> Json:
    response = await admin.post(PATH, **body)
    assert response.status_code in {200, 201}, response.text
    answer: Json = response.json()
    return answer


async def _standing(admin: Admin, **ids: str) -> set[str]:
    kinds = {"ses_": "sessions", "agt_": "agents", "grt_": "grants", "edg_": "delegations", "app_": "applications"}
    read = {name: await admin.read(f"{kinds[id_[:4]]}/{id_}") for name, id_ in ids.items()}
    return {name for name, one in read.items() if one["stands"]}


async def test_it_ends_what_matches_and_nothing_else(admin: Admin) -> None:
    application = await admin.application()
    ids = {
        "red": await admin.session(application, labels=["red"]),
        "both": await admin.session(application, "bob", labels=["red", "blue"]),
        "blue": await admin.session(application, labels=["blue"]),
        "plain": await admin.session(application),
        "other": await admin.session(await admin.application(), labels=["red"]),
    }
    ids["agent"] = await admin.agent(application, session_id=ids["red"])
    answer = await _end(admin, kind="session", application_id=application, label="red", reason="leaked")
    assert answer == {
        "count": 2,
        "first_seq": answer["first_seq"],
        "last_seq": answer["first_seq"] + 1,
        "reach": {"counts": {"session": 2, "agent": 1}, "is_whole": True},
        "next": None,
    }
    assert await _standing(admin, **ids) == {"blue", "plain", "other"}
    for seq in (answer["first_seq"], answer["last_seq"]):
        entry = await admin.read(f"revocations/{seq}")
        assert (entry["kind"], entry["reason"]) == ("session", "leaked")
        assert entry["id"] in {ids["red"], ids["both"]}


async def test_what_it_ended_mints_and_opens_nothing(admin: Admin) -> None:
    application = await admin.application()
    session = await admin.session(application, labels=["gone"])
    agent = await admin.agent(application, session_id=session)
    await _end(admin, kind="session", label="gone", application_id=application)
    refused(await admin.post(f"sessions/{session}/mandates", audience=[AUDIENCE]), 409, "not_active")
    refused(await admin.post("agents", application_id=application, name="x", parent_id=agent), 409, "not_active")


@pytest.mark.parametrize("kind", ["session", "agent", "grant", "delegation", "application"])
async def test_every_kind_is_ended_by_its_label(admin: Admin, kind: str) -> None:
    label = f"application of the test by {kind}"
    application = (await admin.make("applications", name="notes", labels=[label]))["id"]
    session = await admin.session(application, f"{kind}er", labels=["session"])
    first = await admin.agent(application, session_id=session, labels=["agent"])
    second = await admin.agent(application, session_id=session)
    grant = {"subject": f"{kind}er", "scope": ["read"], "audience": [AUDIENCE]}
    granted = (await admin.make("grants", application_id=application, labels=["grant"], **grant))["id"]
    edge = await admin.delegation(first, second, "read", labels=["delegation"])
    ids = {"session": session, "agent": first, "grant": granted, "delegation": edge, "application": application}
    of = {"label": label} if kind == "application" else {"label": kind, "application_id": application}
    answer = await _end(admin, kind=kind, **of)
    assert answer["count"] == 1
    assert kind not in await _standing(admin, **ids)
    assert (await admin.read(f"revocations/{answer['first_seq']}"))["id"] == ids[kind]


async def test_what_has_ended_already_gets_no_second_entry(admin: Admin) -> None:
    application = await admin.application()
    parent = await admin.session(application)
    await admin.make("sessions", application_id=application, parent_id=parent)
    await admin.revoke("session", parent)
    before = await admin.seq()
    response = await admin.post(PATH, kind="session", application_id=application)
    assert response.status_code == 200, "nothing is new"
    assert (response.json()["count"], response.json()["first_seq"], response.json()["last_seq"]) == (0, None, None)
    assert await admin.seq() == before


async def test_a_dry_run_says_what_it_would_reach_and_ends_nothing(admin: Admin) -> None:
    application = await admin.application()
    session = await admin.session(application)
    for _ in range(2):
        await admin.agent(application, session_id=session)
    before = await admin.seq()
    would = await _end(admin, kind="session", application_id=application, dry_run=True)
    assert would == {
        "dry_run": True,
        "seq": before,
        "count": 1,
        "reach": {"counts": {"session": 1, "agent": 2}, "is_whole": True},
        "next": None,
    }
    assert await admin.seq() == before
    done = await _end(admin, kind="session", application_id=application)
    assert (done["count"], done["reach"]) == (would["count"], would["reach"])


async def test_what_was_opened_later_stays(rooms: Rooms) -> None:
    old = await rooms.session()
    rooms.clock.advance(1_000)
    new = await rooms.session()
    swept = await rooms.service.sweeping.revoke(Filter(kind=Kind.SESSION, opened_before_ms=old.created_at_ms))
    assert (swept.count, swept.reach.counts) == (1, {Kind.SESSION: 1})
    read = rooms.service.reading.session
    assert [(await read(session.id)).stands for session in (old, new)] == [False, True]


REFUSED: Final[list[tuple[str, Json]]] = [
    ("no filter", {"kind": "session"}),
    ("no kind", {"label": "x"}),
    ("a kind of nothing that is kept", {"kind": "token", "label": "x"}),
    ("what the kind does not have", {"kind": "agent", "subject": "alice"}),
    ("an unknown filter", {"kind": "session", "name": "x"}),
    ("a place of nowhere", {"kind": "session", "label": "x", "after": "ses_1"}),
    ("no instant", {"kind": "session", "opened_before": "yesterday"}),
    ("a control character", {"kind": "session", "subject": "a\x00"}),
    ("a long reason", {"kind": "session", "label": "x", "reason": "x" * 513}),
]


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("body", [body for _, body in REFUSED], ids=[name for name, _ in REFUSED])
async def test_what_it_cannot_be_asked_for_is_refused(admin: Admin, body: Json, dry_run: bool) -> None:
    refused(await admin.post(PATH, **body, dry_run=dry_run), 422, "invalid_value")


async def test_a_thousand_in_one_transaction_and_the_rest_in_the_next(rooms: Rooms) -> None:
    ids = await insert_sessions(rooms.database, 1_200)
    steps: list[Sweep] = []
    place: str | None = None
    while not steps or place is not None:
        steps.append(await rooms.service.sweeping.revoke(ALICES, "all of them", place))
        place = steps[-1].next
    assert [step.count for step in steps if step.count] == [1_000, 200]
    assert [(step.first_seq, step.last_seq) for step in steps if step.count] == [(1, 1_000), (1_001, 1_200)]
    candidates = await rooms.candidates()
    assert [candidate.seq for candidate in candidates] == list(range(1, 1_201))
    assert all(one.link == following.previous for one, following in pairwise(candidates))
    assert candidates[-1].link == (await rooms.head()).link
    page = await rooms.service.reading.page(Filter(kind=Kind.SESSION, stands=True), None, 100)
    assert (page.items, len(ids)) == ([], 1_200)


async def test_every_entry_that_it_appends_is_signed_at_once(rooms: Rooms) -> None:
    await insert_sessions(rooms.database, 3)
    await rooms.service.sweeping.revoke(ALICES)
    newest = await rooms.heartbeat.after(None)
    assert newest is not None
    assert newest.checkpoint.rev.seq == 3


async def test_a_step_ends_at_its_bound_and_the_next_goes_on_there(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "MOST", 2)
    monkeypatch.setattr(sweeping, "LOOKED_AT", 3)
    await insert_sessions(rooms.database, 8)
    counts: list[int] = []
    place: str | None = None
    while not counts or place is not None:
        would = await rooms.service.sweeping.preview(ALICES, place)
        step = await rooms.service.sweeping.revoke(ALICES, after=place)
        assert (would.count, would.next, would.reach) == (step.count, step.next, step.reach)
        counts.append(step.count)
        place = step.next
    assert sum(counts) == 8
    assert max(counts) == 2


async def test_a_step_that_fails_ends_nothing(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    await insert_sessions(rooms.database, 3)

    async def full(*_: object) -> None:
        raise MalformedError("no entry")

    with monkeypatch.context() as failing:
        failing.setattr(heartbeat_module, "append", full)
        with pytest.raises(MalformedError):
            await rooms.service.sweeping.revoke(ALICES)
    assert (await rooms.head()).rev.seq == 0
    assert (await rooms.service.sweeping.revoke(ALICES)).count == 3


async def test_the_descendants_of_each_are_told(rooms: Rooms) -> None:
    opening = rooms.service.opening
    application = (await opening.create_application("notes")).id
    agents = set()
    for _ in range(2):
        session = await opening.open_session(application, "alice", SubjectType.USER, 600)
        agents.add((await opening.start_agent(application, "worker", 60, session_id=session.id)).id)
    await rooms.service.sweeping.revoke(ALICES)
    told: set[str] = set()
    while (page := await rooms.service.descendants.next()) is not None:
        told |= {anchor.id for anchor in page.anchors}
        await rooms.service.descendants.done(page)
    assert told >= agents


async def test_two_at_once_end_each_once(rooms: Rooms) -> None:
    await insert_sessions(rooms.database, 20)
    steps = await asyncio.gather(*[rooms.service.sweeping.revoke(ALICES) for _ in range(3)])
    assert sum(step.count for step in steps) == 20
    assert (await rooms.head()).rev.seq == 20


async def test_an_empty_filter_is_none_however_it_is_asked(rooms: Rooms) -> None:
    for which in (Filter(kind=Kind.SESSION), Filter(kind=Kind.SESSION, stands=True)):
        with pytest.raises(InvalidValueError):
            await rooms.service.sweeping.revoke(which)


async def test_mandates_of_what_it_ended_are_exchanged_no_more(rooms: Rooms) -> None:
    session = await rooms.session()
    await rooms.service.minting.issue(session.id, ["https://api.example"], [])
    await rooms.service.sweeping.revoke(Filter(kind=Kind.SESSION, subject="alice"))
    with pytest.raises(NotActiveError):
        await rooms.service.minting.issue(session.id, ["https://api.example"], [])
