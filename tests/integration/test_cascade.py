"""What each revocation reaches: the whole subtree by one entry, and nothing beside it."""

from collections.abc import Awaitable, Callable

import pytest

from countermand.authority.model import Revocation
from countermand.errors import CountermandError, InvalidValueError, NotActiveError, NotFoundError
from countermand.log.anchor import Kind, own_id
from countermand.tokens.mandate import Mandate, parse_mandate, verify
from tests.integration.family import Family, gather_family
from tests.integration.rooms import ISSUER, NOW_MS, Rooms
from tests.integration.verifier import TOOLS, Verifier

pytestmark = pytest.mark.anyio

EVERYONE = {"alice", "planner", "helper", "worker", "hand", "tester", "bob", "own", "carol"}
BELOW_ALICE = {"alice", "planner", "helper", "worker", "hand", "tester"}

Ending = Callable[[Family], Awaitable[Revocation]]


@pytest.fixture
async def family(rooms: Rooms) -> Family:
    return await gather_family(rooms)


def revoking(kind: Kind, group: str, name: str) -> Ending:
    """Revoke one of the family's."""

    async def end(family: Family) -> Revocation:
        return await family.rooms.service.revoking.revoke(kind, getattr(family, group)[name].id)

    return end


def cutting(target: str) -> Ending:
    async def end(family: Family) -> Revocation:
        named = target.replace("application:bob", f"application:{family.application['bob'].id}")
        return await family.rooms.service.revoking.cut_off(named)

    return end


CASES = {
    "a subject session: all that is derived from it": (
        revoking(Kind.SESSION, "session", "alice"),
        BELOW_ALICE,
        {Kind.SESSION: 1, Kind.AGENT: 3, Kind.DELEGATION: 2},
    ),
    "an agent: its children and its edges": (
        revoking(Kind.AGENT, "agent", "planner"),
        BELOW_ALICE - {"alice"},
        {Kind.AGENT: 3, Kind.DELEGATION: 2},
    ),
    "an edge: what is below it, and not the receiver's other authority": (
        revoking(Kind.DELEGATION, "edge", "first"),
        {"worker", "hand", "tester"},
        {Kind.AGENT: 1, Kind.DELEGATION: 2},
    ),
    "the last edge: only that": (
        revoking(Kind.DELEGATION, "edge", "second"),
        {"tester"},
        {Kind.DELEGATION: 1},
    ),
    "a receiving agent: all its authority, and what it handed on": (
        revoking(Kind.AGENT, "agent", "worker"),
        {"worker", "hand", "tester", "own"},
        {Kind.AGENT: 2, Kind.DELEGATION: 1},
    ),
    "a receiver's session": (
        revoking(Kind.SESSION, "session", "bob"),
        {"bob", "own", "worker", "hand", "tester"},
        {Kind.SESSION: 1, Kind.AGENT: 2, Kind.DELEGATION: 1},
    ),
    "a grant: what rests on it, and not the session's own mandate": (
        revoking(Kind.GRANT, "grant", "alice"),
        BELOW_ALICE - {"alice"},
        {Kind.GRANT: 1, Kind.DELEGATION: 2, Kind.AGENT: 1},
    ),
    "an application: its sessions, its agents, its grants": (
        revoking(Kind.APPLICATION, "application", "bob"),
        {"bob", "own", "worker", "hand", "tester"},
        {Kind.APPLICATION: 1, Kind.SESSION: 1, Kind.GRANT: 1, Kind.AGENT: 2, Kind.DELEGATION: 1},
    ),
    "a cutoff for a subject": (
        cutting("subject:alice"),
        BELOW_ALICE,
        {Kind.SESSION: 1, Kind.AGENT: 3, Kind.DELEGATION: 2},
    ),
    "a cutoff for an application": (
        cutting("application:bob"),
        {"bob", "own", "worker", "hand", "tester"},
        {Kind.SESSION: 1, Kind.AGENT: 2, Kind.DELEGATION: 1},
    ),
    "a cutoff for all": (cutting("all"), EVERYONE, {Kind.SESSION: 3, Kind.AGENT: 5, Kind.DELEGATION: 2}),
}


@pytest.mark.parametrize(("end", "rejected", "reached"), CASES.values(), ids=CASES.keys())
async def test_one_entry_ends_exactly(
    family: Family, end: Ending, rejected: set[str], reached: dict[Kind, int]
) -> None:
    verifier = Verifier(family.rooms)
    assert await verifier.passing(**family.token) == EVERYONE
    revocation = await end(family)
    assert revocation.seq == (await family.rooms.head()).rev.seq == 1
    assert await verifier.passing(**family.token) == EVERYONE - rejected
    assert revocation.reach.counts == reached


@pytest.mark.parametrize(("end", "rejected"), [case[:2] for case in CASES.values()], ids=CASES.keys())
async def test_nothing_new_comes_of_what_was_ended_and_everything_of_what_was_not(
    family: Family, end: Ending, rejected: set[str]
) -> None:
    await end(family)
    for name in EVERYONE - {"alice", "bob", "carol", "own"}:
        if name in rejected:
            with pytest.raises(NotActiveError):
                await family.exchange(name)
        else:
            await family.exchange(name)


async def test_an_edge_leaves_the_receivers_other_authority_and_it_can_be_delegated_to_again(family: Family) -> None:
    opening, revoke = family.rooms.service.opening, family.rooms.service.revoking.revoke
    await revoke(Kind.DELEGATION, family.edge["first"].id)
    assert not (await family.rooms.service.reading.agent(family.agent["worker"].id)).is_delegated
    again = await opening.delegate(family.agent["planner"].id, family.agent["worker"].id, ["read"], [TOOLS], 60)
    assert (await family.rooms.service.reading.agent(family.agent["worker"].id)).is_delegated
    family.edge["again"] = again
    verifier = Verifier(family.rooms)
    assert await verifier.passing(new=await family.exchange("planner", edge="again")) == {"new"}


async def test_a_closed_grant_is_good_for_nothing_new_and_what_was_minted_goes_on(family: Family) -> None:
    grant = family.grant["alice"]
    assert (await family.rooms.service.revoking.close_grant(grant.id)).closed_at_ms == NOW_MS
    assert (await family.rooms.head()).rev.seq == 0, "it is no revocation"
    assert await Verifier(family.rooms).passing(**family.token) == EVERYONE
    for name in ("planner", "worker", "tester"):
        with pytest.raises(NotActiveError):
            await family.exchange(name)
    with pytest.raises(CountermandError):
        await family.exchange("alice", agent="planner")
    with pytest.raises(CountermandError):
        await family.rooms.service.opening.delegate(
            family.agent["planner"].id, family.agent["tester"].id, ["read"], [TOOLS], 60
        )
    await family.exchange("own")


async def test_a_closed_grant_can_still_be_revoked_and_that_ends_what_rests_on_it(family: Family) -> None:
    await family.rooms.service.revoking.close_grant(family.grant["alice"].id)
    await family.rooms.service.revoking.revoke(Kind.GRANT, family.grant["alice"].id)
    assert await Verifier(family.rooms).passing(**family.token) == EVERYONE - (BELOW_ALICE - {"alice"})


async def test_one_token_ends_with_what_it_was_exchanged_for(family: Family) -> None:
    jti = _read(family, "planner").token_id or ""
    await family.rooms.service.revoking.revoke(Kind.TOKEN, jti)
    rejected = {"planner", "helper", "worker", "hand", "tester"}
    assert await Verifier(family.rooms).passing(**family.token) == EVERYONE - rejected
    with pytest.raises(NotActiveError, match="the mandate is revoked"):
        await family.exchange("planner")
    await family.exchange("alice", agent="planner")


async def test_a_withdrawn_key_ends_what_it_signed_also_for_exchange(family: Family) -> None:
    kid = family.rooms.service.minting.key_set.keys[0].kid or ""
    await family.rooms.service.revoking.revoke(Kind.KEY, kid, issuer=ISSUER)
    assert await Verifier(family.rooms).passing(**family.token) == set()
    with pytest.raises(NotActiveError, match="the mandate is revoked"):
        await family.exchange("planner")


async def test_a_session_derived_from_another_ends_with_it_and_not_the_other_way(family: Family) -> None:
    opening, minting = family.rooms.service.opening, family.rooms.service.minting
    parent, other = family.session["alice"], family.application["carol"]
    derived = await opening.open_session(other.id, None, parent.subject_type, 60, parent_id=parent.id)
    token = (await minting.issue(derived.id, [TOOLS], [])).token
    assert (derived.subject, derived.application_id) == ("alice", other.id)
    family.token["derived"] = token
    mandate = _read(family, "derived")
    assert (mandate.session_id, mandate.root_session_id) == (derived.id, parent.id)
    verifier = Verifier(family.rooms)
    await family.rooms.service.revoking.revoke(Kind.SESSION, derived.id)
    assert await verifier.passing(token=token, alice=family.token["alice"]) == {"alice"}
    again = await opening.open_session(other.id, None, parent.subject_type, 60, parent_id=parent.id)
    token = (await minting.issue(again.id, [TOOLS], [])).token
    await family.rooms.service.revoking.revoke(Kind.SESSION, parent.id)
    assert await verifier.passing(token=token) == set()


async def test_a_cutoff_of_an_earlier_time_spares_what_was_issued_after_it(family: Family) -> None:
    clock, opening, minting = family.rooms.clock, family.rooms.service.opening, family.rooms.service.minting
    clock.advance(60_000)
    between_ms = clock.wall_ms
    clock.advance(60_000)
    fresh = await opening.open_session(
        family.application["alice"].id, "alice", family.session["alice"].subject_type, 60
    )
    token = (await minting.issue(fresh.id, [TOOLS], [])).token
    late = (await minting.issue(family.session["bob"].id, [TOOLS], [])).token
    preview = await family.rooms.service.revoking.preview_cutoff("subject:alice", before_ms=between_ms)
    revocation = await family.rooms.service.revoking.cut_off("subject:alice", before_ms=between_ms)
    assert preview.reach == revocation.reach
    assert await Verifier(family.rooms).passing(token=token, late=late, **family.token) == (EVERYONE - BELOW_ALICE) | {
        "token",
        "late",
    }
    with pytest.raises(NotActiveError):
        await minting.issue(family.session["alice"].id, [TOOLS], [])
    await minting.issue(fresh.id, [TOOLS], [])


@pytest.mark.parametrize(("after_ms", "stands"), [(0, False), (1, True)])
async def test_a_cutoff_of_a_moment_ends_what_was_opened_in_that_very_millisecond(
    rooms: Rooms, after_ms: int, *, stands: bool
) -> None:
    moment_ms = rooms.clock.wall_ms
    rooms.clock.advance(after_ms)
    session = await rooms.session()
    rooms.clock.advance(60_000)
    revocation = await rooms.service.revoking.cut_off("subject:alice", before_ms=moment_ms)
    assert revocation.reach.counts == ({} if stands else {Kind.SESSION: 1})
    (node,) = (await rooms.service.reading.tree(session.id)).nodes
    assert node.stands is stands
    if stands:
        await rooms.service.minting.issue(session.id, [TOOLS], [])
    else:
        with pytest.raises(NotActiveError):
            await rooms.service.minting.issue(session.id, [TOOLS], [])


async def test_after_a_cutoff_for_all_new_sessions_work_with_the_grants_that_were_given(family: Family) -> None:
    opening, minting = family.rooms.service.opening, family.rooms.service.minting
    await family.rooms.service.revoking.cut_off("all")
    application, subject_type = family.application["alice"], family.session["alice"].subject_type
    family.session["alice"] = await opening.open_session(application.id, "alice", subject_type, 60)
    family.agent["planner"] = await opening.start_agent(
        application.id, "planner", 60, session_id=family.session["alice"].id
    )
    family.token["alice"] = (await minting.issue(family.session["alice"].id, [TOOLS], ["read"])).token
    token = await family.exchange("alice", agent="planner")
    assert await Verifier(family.rooms).passing(token=token, **family.token) == {"token", "alice"}


@pytest.mark.parametrize("kind", [Kind.SESSION, Kind.AGENT, Kind.DELEGATION, Kind.GRANT, Kind.APPLICATION])
async def test_an_id_of_our_own_kind_that_does_not_exist_is_not_found(rooms: Rooms, kind: Kind) -> None:
    for id_ in (own_id(kind, bytes(16)), "something", ""):
        with pytest.raises(NotFoundError):
            await rooms.service.revoking.revoke(kind, id_)
        with pytest.raises(NotFoundError):
            await rooms.service.revoking.preview(kind, id_)
    assert (await rooms.head()).rev.seq == 0


@pytest.mark.parametrize(
    ("kind", "id_", "issuer"),
    [
        (Kind.SUBJECT, "alice", ""),
        (Kind.GRANT, "grant-1", "https://other.example"),
        (Kind.CUTOFF, "all", ""),
        (Kind.TOKEN, "", ""),
        (Kind.TOKEN, "two\nlines", ""),
        (Kind.TOKEN, "x" * 513, ""),
        (Kind.TOKEN, "jti", "x" * 513),
        (Kind.SESSION, own_id(Kind.SESSION, bytes(16)), ""),
        (Kind.TOKEN, own_id(Kind.AGENT, bytes(16)), ""),
    ],
)
async def test_an_id_that_no_token_could_carry_is_refused(rooms: Rooms, kind: Kind, id_: str, issuer: str) -> None:
    with pytest.raises(InvalidValueError):
        await rooms.service.revoking.revoke(kind, id_, issuer=issuer, bare=not issuer)
    with pytest.raises(InvalidValueError):
        await rooms.service.revoking.preview(kind, id_, issuer=issuer, bare=not issuer)
    assert (await rooms.head()).rev.seq == 0


async def test_bare_and_foreign_ids_are_never_forgotten_and_a_token_of_ours_is(rooms: Rooms) -> None:
    revoking_ = rooms.service.revoking
    made = [
        await revoking_.revoke(Kind.SESSION, "session-1", bare=True),
        await revoking_.revoke(Kind.TOKEN, "jti-1", issuer="https://other.example"),
        await revoking_.revoke(Kind.TOKEN, own_id(Kind.TOKEN, bytes(16))),
    ]
    assert [revocation.seq for revocation in made] == [1, 2, 3]
    again = await revoking_.revoke(Kind.TOKEN, "jti-1", issuer="https://other.example")
    assert (again.seq, again.is_new) == (2, False)
    held = await rooms.ledger.in_force(NOW_MS + 366 * 86_400_000, 3)
    assert len(held) == 2


async def test_our_own_issuer_is_nobody_elses(family: Family) -> None:
    """What is copied out of a token, `iss` beside `jti` or `client_id`, ends what it says."""
    revoking_, verifier = family.rooms.service.revoking, Verifier(family.rooms)
    await revoking_.revoke(Kind.TOKEN, _read(family, "own").token_id or "", issuer=ISSUER)
    assert "own" not in await verifier.passing(**family.token)
    await revoking_.cut_off("subject:carol", ISSUER)
    assert "carol" not in await verifier.passing(**family.token)
    made = await revoking_.revoke(Kind.APPLICATION, family.application["alice"].id, issuer=ISSUER)
    assert (made.issuer, made.reach.counts[Kind.APPLICATION]) == ("", 1)
    assert await verifier.passing(**family.token) == {"bob"}


@pytest.mark.parametrize("target", [f"application:{own_id(Kind.APPLICATION, bytes(16))}", "application:mine"])
async def test_a_cutoff_for_an_application_that_does_not_exist_is_not_found(rooms: Rooms, target: str) -> None:
    with pytest.raises(NotFoundError):
        await rooms.service.revoking.cut_off(target)
    with pytest.raises(NotFoundError):
        await rooms.service.revoking.preview_cutoff(target)
    await rooms.service.revoking.cut_off(target, "https://other.example")
    assert (await rooms.head()).rev.seq == 1, "another issuer's are not known here"


async def test_what_was_opened_by_a_clock_that_was_ahead_does_not_outlast_a_cutoff(rooms: Rooms) -> None:
    rooms.clock.wall_ms += 3_600_000
    session = await rooms.session(lifetime_s=7_200)
    rooms.clock.wall_ms -= 3_600_000
    revocation = await rooms.service.revoking.cut_off("subject:alice", before_ms=rooms.clock.wall_ms)
    assert revocation.reach.counts == {Kind.SESSION: 1}
    with pytest.raises(NotActiveError):
        await rooms.service.minting.issue(session.id, [TOOLS], [])


async def test_a_mandate_from_the_future_is_no_more_exchanged_than_let_in_after_a_dated_cutoff(
    family: Family,
) -> None:
    family.rooms.clock.advance(60_000)
    await family.rooms.service.revoking.cut_off("all", before_ms=family.rooms.clock.wall_ms - 120_000)
    family.token["alice"] = (await family.rooms.service.minting.issue(family.session["alice"].id, [TOOLS], [])).token
    family.rooms.clock.wall_ms -= 5_000
    family.rooms.heartbeat._last_signed = None  # as after a start
    assert await Verifier(family.rooms).passing(alice=family.token["alice"]) == set()
    with pytest.raises(NotActiveError):
        await family.exchange("alice", agent="planner")


@pytest.mark.parametrize(
    ("target", "issuer", "before_ms"),
    [
        ("everyone", "", None),
        ("foo:bar", "", None),
        ("session:ses_1", "", None),
        ("subject:", "", None),
        ("all", "https://other.example", None),
        ("all", "", NOW_MS + 1),
        ("all", "", 0),
        ("subject:" + "x" * 257, "", None),
    ],
)
async def test_a_cutoff_that_could_end_nothing_is_refused(
    rooms: Rooms, target: str, issuer: str, before_ms: int | None
) -> None:
    with pytest.raises(InvalidValueError):
        await rooms.service.revoking.cut_off(target, issuer, before_ms)
    with pytest.raises(InvalidValueError):
        await rooms.service.revoking.preview_cutoff(target, issuer, before_ms)
    assert (await rooms.head()).rev.seq == 0


def _read(family: Family, name: str) -> Mandate:
    keys = family.rooms.service.minting.key_set
    now_s = family.rooms.clock.wall_ms / 1000
    return verify(parse_mandate(family.token[name]), keys, issuer=ISSUER, audience=TOOLS, now_s=now_s)
