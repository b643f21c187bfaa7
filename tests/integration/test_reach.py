"""What a revocation says it reaches is what the tree draws as standing: two ways of asking that share no query."""

from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from countermand.authority.model import Reach, SubjectType
from countermand.log.anchor import Kind, kind_of
from tests.integration.family import Family, gather_family
from tests.integration.rooms import Rooms

pytestmark = pytest.mark.anyio

AHEAD_MS = 3_600_000
Event = Callable[[Family], Awaitable[object]]


@pytest.fixture
async def family(rooms: Rooms) -> Family:
    """The family, a session of bob's with alice's application, and one opened while the clock was an hour ahead."""
    family = await gather_family(rooms)
    await _session(family, "guest", "alice", "bob")
    rooms.clock.wall_ms += AHEAD_MS
    await _session(family, "ahead", "alice", "alice")
    rooms.clock.wall_ms -= AHEAD_MS
    return family


async def _session(family: Family, name: str, application: str, subject: str) -> None:
    opened = family.rooms.service.opening.open_session
    family.session[name] = await opened(family.application[application].id, subject, SubjectType.USER, 7_200)


async def _nothing(_family: Family) -> None:
    pass


def _cut_off(target: str, before_ms: int | None = None) -> Event:
    """Cut off now, or what was opened until so many milliseconds from now, of which as many then pass."""

    async def event(family: Family) -> None:
        kind, _, name = target.partition(":")
        named = f"{kind}:{family.application[name].id}" if kind == "application" else target
        now_ms = family.rooms.clock.wall_ms
        family.rooms.clock.advance(1_000)
        moment_ms = None if before_ms is None else now_ms + before_ms
        await family.rooms.service.revoking.cut_off(named, before_ms=moment_ms)

    return event


async def _revoke_planner(family: Family) -> None:
    await family.rooms.service.revoking.revoke(Kind.AGENT, family.agent["planner"].id)


EVENTS = {
    "nothing": _nothing,
    "a revocation": _revoke_planner,
    "a cutoff for everyone": _cut_off("all"),
    "a cutoff for a subject": _cut_off("subject:alice"),
    "a cutoff for an application": _cut_off("application:bob"),
    "a cutoff for the moment in which it was opened": _cut_off("all", 0),
    "a cutoff for a moment before": _cut_off("all", -1),
    "a cutoff for a moment after": _cut_off("subject:alice", 1),
    "a cutoff for a moment before, of an application": _cut_off("application:alice", -1),
}


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS.keys())
async def test_a_preview_counts_what_the_tree_draws_as_standing(family: Family, event: Event) -> None:
    service = family.rooms.service
    await event(family)
    await _session(family, "again", "alice", "alice")
    groups = (family.application, family.session, family.grant, family.agent, family.edge)
    counted = {}
    drawn = {}
    for id_ in (one.id for group in groups for one in group.values()):
        kind = kind_of(id_)
        assert kind is not None
        counted[id_] = (await service.revoking.preview(kind, id_)).reach.counts
        drawn[id_] = Counter(node.kind for node in (await service.reading.tree(id_)).nodes if node.stands)
    assert counted == drawn


async def test_after_a_cutoff_only_what_was_opened_since_and_what_no_cutoff_ends_is_counted(family: Family) -> None:
    await family.rooms.service.revoking.cut_off("all")
    await _session(family, "again", "alice", "alice")
    reach = (await family.rooms.service.revoking.preview(Kind.APPLICATION, family.application["alice"].id)).reach
    assert reach.counts == {Kind.APPLICATION: 1, Kind.GRANT: 1, Kind.SESSION: 1}


@pytest.mark.parametrize("cutoff", [False, True])
async def test_where_too_many_have_expired_the_newest_are_counted_and_it_is_said_that_there_may_be_more(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, *, cutoff: bool
) -> None:
    application = await rooms.service.opening.create_application("years")
    for lifetime_s in (10, 1, 1, 10):
        await rooms.service.opening.open_session(application.id, "alice", SubjectType.USER, lifetime_s)
    rooms.clock.advance(2_000)

    async def preview() -> Reach:
        if cutoff:
            return (await rooms.service.revoking.preview_cutoff("subject:alice")).reach
        return (await rooms.service.revoking.preview(Kind.APPLICATION, application.id)).reach

    itself = {} if cutoff else {Kind.APPLICATION: 1}
    assert await preview() == Reach({Kind.SESSION: 2} | itself, is_whole=True)
    monkeypatch.setattr("countermand.authority.cascade.LOOKED_AT", 1)
    monkeypatch.setattr("countermand.authority.revoking.COUNTED", 2)
    assert await preview() == Reach({Kind.SESSION: 1}, is_whole=False)


@pytest.mark.parametrize(("most", "is_whole"), [(4, False), (5, False), (6, True)])
async def test_what_is_more_than_can_be_counted_is_said_to_be_more(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, most: int, *, is_whole: bool
) -> None:
    family = await gather_family(rooms)
    monkeypatch.setattr("countermand.authority.revoking.COUNTED", most)
    reach = (await rooms.service.revoking.preview(Kind.SESSION, family.session["alice"].id)).reach
    assert reach.is_whole is is_whole
    assert sum(reach.counts.values()) == min(most + 1, 6)
