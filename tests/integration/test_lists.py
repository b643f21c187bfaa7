"""Lists: newest first, by cursor and filter, each along an index, and every one whole."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import listing
from countermand.authority.listing import find_anchors, find_entries
from countermand.authority.model import Filter, SubjectType
from countermand.errors import InvalidValueError
from countermand.log.anchor import Kind
from tests.integration.admin import AUDIENCE, Admin, Json
from tests.integration.problems import refused
from tests.integration.rooms import Rooms, insert_sessions

pytestmark = pytest.mark.anyio

KINDS: Final = ("applications", "sessions", "agents", "grants", "delegations")


async def _pages(admin: Admin, path: str, **query: Any) -> list[list[str]]:
    """Read a list to its end; return the ids, page by page."""
    pages: list[list[str]] = []
    place: dict[str, str] | None = {}
    while place is not None:
        response = await admin.http.get(f"/v1/{path}", params=query | place)
        assert response.status_code == 200, response.text
        page = response.json()
        assert set(page) == {"items", "next"}
        pages.append([one["id"] for one in page["items"]])
        place = {"after": page["next"]} if page["next"] else None
    return pages


async def _ids(admin: Admin, path: str, **query: Any) -> list[str]:
    return [id_ for page in await _pages(admin, path, **query) for id_ in page]


@pytest.fixture
async def tree(admin: Admin) -> Json:
    """Two of every kind, one of which is below the other where that may be."""
    application, other = [await admin.application() for _ in range(2)]
    session = await admin.session(application, f"subject of {application}")
    below = (await admin.make("sessions", application_id=application, parent_id=session))["id"]
    planner = await admin.agent(application, session_id=session)
    helper = await admin.agent(other, parent_id=planner)
    grants = [await admin.grant(app, "read", subject=f"subject of {application}") for app in (application, other)]
    edge = await admin.delegation(planner, helper, "read", depth=1)
    under = await admin.agent(other, parent_id=helper, delegation_id=edge)
    next_edge = await admin.delegation(helper, planner, "read", parent_id=edge)
    return {
        "application": application,
        "other": other,
        "session": session,
        "below": below,
        "planner": planner,
        "helper": helper,
        "under": under,
        "grants": grants,
        "edge": edge,
        "next": next_edge,
        "subject": f"subject of {application}",
    }


FILTERED: Final[list[tuple[str, Callable[[Json], Json], Callable[[Json], list[str]]]]] = [
    ("sessions", lambda t: {"application_id": t["application"]}, lambda t: [t["below"], t["session"]]),
    ("sessions", lambda t: {"subject": t["subject"]}, lambda t: [t["below"], t["session"]]),
    ("sessions", lambda t: {"parent_id": t["session"]}, lambda t: [t["below"]]),
    ("sessions", lambda t: {"subject": t["subject"], "parent_id": t["session"]}, lambda t: [t["below"]]),
    ("sessions", lambda t: {"subject": "nobody", "application_id": t["application"]}, lambda _: []),
    ("agents", lambda t: {"application_id": t["other"]}, lambda t: [t["under"], t["helper"]]),
    ("agents", lambda t: {"session_id": t["session"]}, lambda t: [t["under"], t["helper"], t["planner"]]),
    ("agents", lambda t: {"session_id": t["session"], "application_id": t["application"]}, lambda t: [t["planner"]]),
    ("agents", lambda t: {"parent_id": t["planner"]}, lambda t: [t["helper"]]),
    ("agents", lambda t: {"delegation_id": t["edge"]}, lambda t: [t["under"]]),
    ("agents", lambda t: {"session_id": t["below"]}, lambda _: []),
    ("sessions", lambda t: {"parent_id": t["planner"]}, lambda _: []),
    ("grants", lambda t: {"subject": t["subject"]}, lambda t: t["grants"][::-1]),
    ("grants", lambda t: {"application_id": t["other"]}, lambda t: [t["grants"][1]]),
    ("delegations", lambda t: {"source_id": t["planner"]}, lambda t: [t["edge"]]),
    ("delegations", lambda t: {"target_id": t["planner"]}, lambda t: [t["next"]]),
    ("delegations", lambda t: {"parent_id": t["edge"]}, lambda t: [t["next"]]),
    ("delegations", lambda t: {"grant_id": t["grants"][0]}, lambda t: [t["next"], t["edge"]]),
    ("delegations", lambda t: {"application_id": t["application"]}, lambda t: [t["edge"]]),
]


@pytest.mark.parametrize(("path", "query", "expected"), FILTERED, ids=range(len(FILTERED)))
@pytest.mark.parametrize("limit", [1, 100])
async def test_a_filter_gives_what_has_all_that_it_names(
    admin: Admin,
    tree: Json,
    path: str,
    query: Callable[[Json], Json],
    expected: Callable[[Json], list[str]],
    limit: int,
) -> None:
    assert await _ids(admin, path, limit=limit, **query(tree)) == expected(tree)


@pytest.mark.parametrize("path", KINDS)
async def test_every_list_is_whole_and_newest_first_in_pages_of_any_size(admin: Admin, tree: Json, path: str) -> None:
    whole = await _ids(admin, path)
    assert len(whole) >= 2
    assert await _ids(admin, path, limit=7) == whole
    newest = {"applications": "other", "sessions": "below", "agents": "under", "delegations": "next"}
    assert whole[0] == (tree["grants"][1] if path == "grants" else tree[newest[path]])


@pytest.mark.parametrize("path", KINDS)
async def test_what_a_list_shows_is_what_is_read_but_for_the_lineage(admin: Admin, tree: Json, path: str) -> None:
    page = (await admin.http.get(f"/v1/{path}", params={"limit": 3})).json()
    for shown in page["items"]:
        assert await admin.shown(f"{path}/{shown['id']}") == shown


async def test_one_is_read_with_all_that_it_rests_on_root_first(admin: Admin, tree: Json) -> None:
    lineage = (await admin.read(f"agents/{tree['under']}"))["lineage"]
    assert lineage[0]["kind"] == "application"
    assert {node["id"] for node in lineage} == {
        *(tree["application"], tree["other"], tree["session"], tree["planner"], tree["helper"]),
        *(tree["edge"], tree["grants"][0]),
    }
    ids = [node["id"] for node in lineage]
    assert ids.index(tree["session"]) < ids.index(tree["planner"]) < ids.index(tree["edge"])
    await admin.revoke("delegation", tree["edge"])
    read = await admin.read(f"agents/{tree['under']}")
    assert not read["stands"]
    assert [node["id"] for node in read["lineage"] if not node["stands"]] == [tree["edge"]]
    assert (await admin.read(f"applications/{tree['other']}"))["lineage"] == []


async def test_what_stands_and_what_has_ended_are_told_apart(admin: Admin, tree: Json) -> None:
    await admin.revoke("session", tree["session"])
    of = {"application_id": tree["application"]}
    assert await _ids(admin, "sessions", stands="true", **of) == []
    assert await _ids(admin, "sessions", stands="false", **of) == [tree["below"], tree["session"]]
    assert await _ids(admin, "agents", stands="false", session_id=tree["session"]) == [
        *(tree["under"], tree["helper"], tree["planner"])
    ]
    assert await _ids(admin, "grants", stands="true", subject=tree["subject"]) == tree["grants"][::-1]


async def test_labels_are_shown_and_found_by_on_every_kind(admin: Admin) -> None:
    application = (await admin.make("applications", name="notes", labels=["x", "blue", "x"]))["id"]
    assert (await admin.read(f"applications/{application}"))["labels"] == ["blue", "x"]
    label = f"team:{application}"
    session = await admin.session(application, labels=[label])
    agents = [
        await admin.agent(application, session_id=session, labels=labels) for labels in ([label, "x"], [label], [])
    ]
    fields = {"subject": "alice", "scope": ["read"], "audience": [AUDIENCE], "labels": [label]}
    grant = (await admin.make("grants", application_id=application, **fields))["id"]
    edge = await admin.delegation(agents[0], agents[1], "read", labels=[label])
    assert await _ids(admin, "sessions", label=label) == [session]
    assert await _ids(admin, "agents", label=label, limit=1) == [agents[1], agents[0]]
    assert await _ids(admin, "agents", label=label, session_id=session, application_id=application) == agents[1::-1]
    assert await _ids(admin, "grants", label=label) == [grant]
    assert await _ids(admin, "delegations", label=label) == [edge]
    assert await _ids(admin, "applications", label=label) == []


@pytest.mark.parametrize(
    "labels",
    [[""], ["x" * 65], ["a\x00"], ["a\n"], ["x"] * 17, [1], "x", ["\ud800"]],
    ids=lambda labels: repr(labels)[:12],
)
async def test_what_can_be_no_label_is_refused(admin: Admin, labels: Any) -> None:
    body = json.dumps({"name": "notes", "labels": labels})
    response = await admin.http.post("/v1/applications", content=body, headers={"content-type": "application/json"})
    refused(response, 422, "invalid_value")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=x",
        "after=",
        "after=0",
        "after=x",
        "after=-1",
        "stands=1",
        "stands=yes",
        "other=1",
    ],
)
async def test_what_no_list_is_asked_for_is_refused(admin: Admin, query: str) -> None:
    for path in (*KINDS, "revocations"):
        if "stands" in query and path == "revocations":
            continue
        refused(await admin.get(f"{path}?{query}"), 422, "invalid_value")


@pytest.mark.parametrize("query", ["subject=%00", "application_id=a%00", "label=%0A", "opened_before=now"])
async def test_what_no_text_could_be_is_refused(admin: Admin, query: str) -> None:
    refused(await admin.get(f"sessions?{query}"), 422, "invalid_value")


async def test_the_ledger_is_listed_newest_first_and_read_by_number(admin: Admin) -> None:
    application = await admin.application()
    sessions = [await admin.session(application) for _ in range(3)]
    entries = [await admin.revoke("session", session, reason="leaked") for session in sessions]
    await admin.make("cutoffs", target="subject:nobody", issued_before="2020-01-01T00:00:00Z")
    await admin.revoke("token", "abc", issuer="https://other.example")
    newest = (await admin.http.get("/v1/revocations", params={"limit": 5})).json()["items"]
    assert [one["kind"] for one in newest] == ["token", "cutoff", "session", "session", "session"]
    assert [one["seq"] for one in newest] == sorted((one["seq"] for one in newest), reverse=True)
    assert (newest[0]["issuer"], newest[0]["expires_at"]) == ("https://other.example", None)
    assert newest[1]["issued_before"] == "2020-01-01T00:00:00Z"
    entry = await admin.read(f"revocations/{entries[0]['seq']}")
    assert entry == newest[4]
    assert entry.items() >= {name: entries[0][name] for name in ("id", "kind", "reason", "revoked_at")}.items()
    assert await _ids(admin, "revocations", id=sessions[1]) == [sessions[1]]
    assert await _ids(admin, "revocations", kind="session", limit=2) == await _ids(admin, "revocations", kind="session")
    assert await _ids(admin, "revocations", kind="agent", id=sessions[1]) == []
    assert await _ids(admin, "revocations", issuer="https://other.example") == ["abc"]
    refused(await admin.get(f"revocations/{newest[0]['seq'] + 1}"), 404, "not_found")
    for no_number in ("x", "-1", "1.0", "9" * 30):
        assert (await admin.get(f"revocations/{no_number}")).status_code in {404, 422}


async def test_what_is_opened_meanwhile_moves_nothing(admin: Admin) -> None:
    application = await admin.application()
    ids = [await admin.session(application) for _ in range(4)]
    first = (await admin.http.get("/v1/sessions", params={"application_id": application, "limit": 2})).json()
    await admin.session(application)
    rest = await _ids(admin, "sessions", application_id=application, after=first["next"])
    assert [one["id"] for one in first["items"]] + rest == ids[::-1]


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_a_page_of_which_most_does_not_match_says_where_to_go_on(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """What is looked at for a page is bounded: what matches may lie behind it."""
    monkeypatch.setattr("countermand.authority.reading.LOOKED_AT", 10)
    old = await rooms.session(lifetime_s=3600, subject="old")
    await insert_sessions(rooms.database, 25)
    which = Filter(kind=Kind.SESSION, subject=None, opened_before_ms=old.created_at_ms, stands=True)
    await rooms.service.revoking.cut_off("subject:alice")
    found: list[str] = []
    page = await rooms.service.reading.page(which, None, limit)
    assert (page.items, page.next is None) == ([], False)
    for _ in range(10):
        found += [one.id for one in page.items]
        if page.next is None:
            break
        page = await rooms.service.reading.page(which, page.next, limit)
    assert found == [old.id]


def _named(kind: Kind, name: str) -> Filter:
    named: dict[str, Any] = {name: "x"}
    return Filter(kind=kind, **named)


ALONG: Final = {
    Kind.APPLICATION: ("label",),
    Kind.SESSION: ("label", "application_id", "subject", "parent_id"),
    Kind.AGENT: ("label", "application_id", "session_id", "delegation_id", "parent_id"),
    Kind.GRANT: ("label", "application_id", "subject"),
    Kind.DELEGATION: ("label", "application_id", "source_id", "target_id", "grant_id", "parent_id"),
}
FILTERS: Final = [
    *(Filter(kind=kind) for kind in ALONG),
    *(_named(kind, name) for kind, names in ALONG.items() for name in names),
    Filter(kind=Kind.SESSION, application_id="x", subject="x", stands=True),
    Filter(kind=Kind.AGENT, label="x", application_id="x", opened_before_ms=1),
]
OF_ENTRIES: Final[list[tuple[Kind | None, str | None, str | None]]] = [
    (None, None, None),
    (Kind.SESSION, None, None),
    (Kind.SESSION, "x", ""),
    (None, "x", None),
]


class Explained:
    """A connection that asks the database beforehand how it would find what it is asked for."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self.plan: list[str] = []

    async def execute(self, query: Any) -> Any:
        compiled = query.compile(self._connection.engine.sync_engine, compile_kwargs={"literal_binds": True})
        found = await self._connection.execute(text(f"EXPLAIN QUERY PLAN {compiled}"))
        self.plan += [row[3] for row in found]
        return await self._connection.execute(query)


def _is_bounded(plan: list[str]) -> bool:
    """Whether it looks along one index in its order, and at each row that it finds by its own."""
    return (
        bool(plan)
        and not any("TEMP B-TREE" in step for step in plan)
        and not any(step.startswith(("SCAN anchors", "SCAN labels")) for step in plan)
    )


@pytest.mark.sqlite  # it reads the plans
@pytest.mark.parametrize("which", FILTERS, ids=range(len(FILTERS)))
@pytest.mark.parametrize("after", [None, 5])
async def test_no_list_of_anchors_sorts_or_scans_what_it_does_not_show(
    rooms: Rooms, which: Filter, after: int | None
) -> None:
    async with rooms.database.read() as connection:
        explained: Any = Explained(connection)
        await find_anchors(explained, which, after, 1, limit=10, looked_at=10)
    assert _is_bounded(explained.plan), explained.plan
    named = [name for name in ALONG[which.kind] if getattr(which, name) is not None]
    assert "ix_anchors_kind" not in explained.plan[0] or not named, "what is named is fewer than all of a kind"


@pytest.mark.sqlite  # as above
@pytest.mark.parametrize("given", OF_ENTRIES, ids=range(len(OF_ENTRIES)))
@pytest.mark.parametrize("after", [None, 5])
async def test_no_list_of_entries_sorts_or_scans_what_it_does_not_show(
    rooms: Rooms, given: tuple[Kind | None, str | None, str | None], after: int | None
) -> None:
    async with rooms.database.read() as connection:
        explained: Any = Explained(connection)
        await find_entries(explained, *given, after, 10)
    assert _is_bounded(explained.plan), explained.plan


async def test_a_filter_that_a_kind_does_not_have_is_refused(rooms: Rooms) -> None:
    for which in (
        Filter(kind=Kind.AGENT, subject="alice"),
        Filter(kind=Kind.SESSION, session_id="x"),
        Filter(kind=Kind.APPLICATION, application_id="x"),
        Filter(kind=Kind.GRANT, target_id="x"),
    ):
        with pytest.raises(InvalidValueError):
            await rooms.service.reading.page(which, None, 10)
        with pytest.raises(InvalidValueError):
            await rooms.service.sweeping.preview(replace(which, label="x"))


async def test_a_page_looks_at_no_more_than_it_may(rooms: Rooms) -> None:
    application = (await rooms.service.opening.create_application("notes")).id
    for _ in range(3):
        await rooms.service.opening.open_session(application, "alice", SubjectType.USER, 60)
    async with rooms.database.read() as connection:
        which = Filter(kind=Kind.SESSION, application_id="another", subject="alice")
        found, place = await find_anchors(connection, which, None, 1, limit=10, looked_at=2)
    assert (found, place is None) == ([], False)
    assert listing.LOOKED_AT >= listing.LONGEST_PAGE
