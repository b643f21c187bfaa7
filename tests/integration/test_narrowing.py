"""Authority only narrows: scopes, audience, depth and life; and nobody exchanges a mandate for what is not below it."""

from dataclasses import replace

import pytest

from countermand.authority.model import SubjectType, TokenExchange
from countermand.errors import (
    BadTokenSignatureError,
    ExceededError,
    ExpiredTokenError,
    ForbiddenError,
    InvalidScopeError,
    InvalidTargetError,
    InvalidValueError,
    MalformedTokenError,
    NotActiveError,
    NotFoundError,
    UnknownTokenKeyError,
    WrongIssuerError,
)
from countermand.log.anchor import MAX_PATH, Kind, own_id
from countermand.tokens.mandate import Mandate, SigningKey, mint, parse_mandate, verify
from tests.integration.family import HOUR_S, Family, gather_family
from tests.integration.rooms import ISSUER, Rooms
from tests.integration.verifier import TOOLS, Verifier
from tests.unit.mandates import CLAIMS

pytestmark = pytest.mark.anyio


@pytest.fixture
async def family(rooms: Rooms) -> Family:
    return await gather_family(rooms)


def read(family: Family, token: str) -> Mandate:
    keys = family.rooms.service.minting.key_set
    now_s = family.rooms.clock.wall_ms / 1000
    return verify(parse_mandate(token), keys, issuer=ISSUER, audience=TOOLS, now_s=now_s)


async def test_a_mandate_three_deep_says_all_of_its_way(family: Family) -> None:
    mandate = read(family, family.token["tester"])
    first, second = family.edge["first"], family.edge["second"]
    assert mandate.subject == "alice", "on whose behalf, not by whom"
    assert mandate.session_id == mandate.root_session_id == family.session["alice"].id
    assert mandate.client_id == family.application["carol"].id
    assert (mandate.agent_session_id, mandate.delegation_edge_id) == (family.agent["tester"].id, second.id)
    assert (mandate.delegation_path, mandate.hop_count) == ((first.id, second.id), 2)
    assert mandate.claims["delegation_chain"] == [
        {
            "application_id": family.application[owner].id,
            "agent_session_id": family.agent[source].id,
            "delegation_edge_id": edge.id,
        }
        for owner, source, edge in (("alice", "planner", first), ("bob", "worker", second))
    ]
    assert mandate.scopes == {"read"}
    exchanged = [f"token:{read(family, family.token[name]).token_id}" for name in ("alice", "planner", "worker")]
    path = mandate.claims["path"]
    assert isinstance(path, list)
    assert path[-3:] == exchanged
    assert len(set(path)) == len(path)
    assert set(path) == set(exchanged) | {
        *(f"application:{one.id}" for one in family.application.values()),
        *(f"subject:{name}" for name in ("alice", "bob", "carol")),
        *(f"session:{one.id}" for one in family.session.values()),
        *(f"agent:{family.agent[name].id}" for name in ("planner", "worker", "tester")),
        *(f"delegation:{one.id}" for one in family.edge.values()),
        f"grant:{family.grant['alice'].id}",
    }


async def test_an_agent_started_under_an_edge_acts_by_it_and_no_further(family: Family) -> None:
    mandate = read(family, family.token["hand"])
    assert (mandate.agent_session_id, mandate.delegation_edge_id) == (
        family.agent["hand"].id,
        family.edge["first"].id,
    )
    hand, tester = family.agent["hand"].id, family.agent["tester"].id
    opening = family.rooms.service.opening
    with pytest.raises(ExceededError, match="name that, or one below it"):
        await opening.delegate(hand, tester, ["read"], [TOOLS], 60)
    edge = await opening.delegate(hand, tester, ["read"], [TOOLS], 60, parent_id=family.edge["first"].id)
    family.edge["third"] = edge
    mandate = read(family, await family.exchange("hand", edge="third"))
    assert mandate.delegation_path == (family.edge["first"].id, edge.id)


@pytest.mark.parametrize(
    ("name", "agent", "edge"),
    [
        ("own", None, "first"),  # the receiver's own authority is not the edge's
        ("worker", "worker", None),  # nor the other way
        ("hand", "worker", None),  # a child is not its parent
        ("hand", None, "first"),
        ("helper", "planner", None),
        ("tester", None, "first"),  # nor is a receiver the one above it
        ("worker", "hand", "first"),  # an edge has one receiver
        ("bob", "planner", None),  # a stranger
        ("planner", "tester", None),  # an agent elsewhere, without the edge
    ],
)
async def test_a_mandate_is_not_exchanged_for_what_is_not_below_it(
    family: Family, name: str, agent: str | None, edge: str | None
) -> None:
    with pytest.raises((ForbiddenError, InvalidValueError)):
        await family.exchange(name, agent=agent, edge=edge)


async def test_only_who_will_act_or_delegates_to_it_exchanges_a_mandate(family: Family) -> None:
    asked = TokenExchange(
        subject_token=family.token["planner"], audience=(TOOLS,), delegation_id=family.edge["first"].id
    )
    for owner in ("alice", "bob"):
        await family.rooms.service.minting.exchange(family.application[owner].id, asked)
    with pytest.raises(ForbiddenError):
        await family.rooms.service.minting.exchange(family.application["carol"].id, asked)


async def test_scopes_only_shrink(family: Family) -> None:
    assert read(family, await family.exchange("planner")).scopes == {"read", "write"}
    family.token["narrow"] = await family.exchange("alice", agent="planner", scopes=("read",))
    assert read(family, family.token["narrow"]).scopes == {"read"}
    asked = TokenExchange(subject_token=family.token["narrow"], audience=(TOOLS,), scopes=("read", "write"))
    alices = family.application["alice"].id
    with pytest.raises(InvalidScopeError, match="the exchanged mandate does not have"):
        await family.rooms.service.minting.exchange(alices, asked)
    with pytest.raises(InvalidScopeError):
        await family.exchange("worker", edge="second", scopes=("write",))
    with pytest.raises(InvalidScopeError):
        await family.exchange("alice", agent="planner", scopes=("admin",))


async def test_an_audience_is_had_only_where_it_was_given(family: Family) -> None:
    for name in ("planner", "worker"):
        asked = TokenExchange(subject_token=family.token[name], audience=(TOOLS, "https://else.example"))
        with pytest.raises(InvalidTargetError):
            await family.rooms.service.minting.exchange(
                family.application["alice" if name == "planner" else "bob"].id, asked
            )


@pytest.mark.parametrize(
    ("wanted", "refusal"),
    [
        ({"scopes": ["read", "write"]}, InvalidScopeError),
        ({"audience": ["https://else.example"]}, InvalidTargetError),
        ({"depth": 1}, ExceededError),
        ({"parent": None}, InvalidScopeError),
    ],
)
async def test_a_delegation_hands_on_no_more_than_there_is(
    family: Family, wanted: dict[str, object], refusal: type[Exception]
) -> None:
    opening = family.rooms.service.opening
    worker, tester = family.agent["worker"].id, family.agent["tester"].id
    parent = await opening.delegate(family.agent["planner"].id, worker, ["read"], [TOOLS], 60, depth=1)
    values = {"scopes": ["read"], "audience": [TOOLS], "depth": 0, "parent": parent.id} | wanted
    if values["parent"] is None:
        values["scopes"] = ["admin"]
    with pytest.raises(refusal):
        await opening.delegate(
            worker,
            tester,
            values["scopes"],  # type: ignore[arg-type]
            values["audience"],  # type: ignore[arg-type]
            60,
            depth=values["depth"],  # type: ignore[arg-type]
            parent_id=values["parent"],  # type: ignore[arg-type]
        )


async def test_nobody_delegates_by_an_edge_that_is_not_theirs(family: Family) -> None:
    opening = family.rooms.service.opening
    with pytest.raises(ExceededError, match="does not act by"):
        await opening.delegate(
            family.agent["helper"].id,
            family.agent["tester"].id,
            ["read"],
            [TOOLS],
            60,
            parent_id=family.edge["first"].id,
        )
    with pytest.raises(ExceededError, match="does not hold"):
        await opening.start_agent(
            family.application["alice"].id,
            "thief",
            60,
            parent_id=family.agent["helper"].id,
            delegation_id=family.edge["first"].id,
        )


async def test_nothing_outlives_what_it_rests_on(family: Family) -> None:
    opening, clock = family.rooms.service.opening, family.rooms.clock
    alices, alice = family.application["alice"].id, family.session["alice"]
    agent = await opening.start_agent(alices, "long", 10 * HOUR_S, session_id=alice.id)
    assert agent.expires_at_ms == alice.expires_at_ms
    short = await opening.create_grant(family.application["carol"].id, "carol", ["read"], [TOOLS], 30)
    edge = await opening.delegate(family.agent["tester"].id, agent.id, ["read"], [TOOLS], HOUR_S)
    assert edge.grant_id == family.grant["carol"].id, "the oldest grant that covers it"
    assert edge.expires_at_ms == family.agent["tester"].expires_at_ms
    clock.advance(30_000)
    assert (await family.rooms.service.reading.grant(short.id)).expires_at_ms == clock.wall_ms
    clock.advance(HOUR_S * 1000 - 30_400)
    for name in ("alice", "worker"):
        with pytest.raises((NotActiveError, ExpiredTokenError)):
            await family.exchange(name)


async def test_a_token_that_is_not_ours_or_not_whole_is_not_exchanged(family: Family) -> None:
    now_s = family.rooms.clock.wall_ms // 1000
    fresh = replace(CLAIMS, issuer=ISSUER, issued_at_s=now_s, expires_at_s=now_s + 900)
    ours, stranger = family.rooms.keys.mandate, SigningKey.generate()
    cases: list[tuple[str, type[Exception]]] = [
        ("nothing at all", MalformedTokenError),
        (family.token["alice"][:-8] + "AAAAAAAA", BadTokenSignatureError),
        (mint(fresh, stranger), UnknownTokenKeyError),
        (mint(replace(fresh, issuer="https://other.example"), ours), WrongIssuerError),
        (mint(replace(fresh, expires_at_s=now_s - 11, issued_at_s=now_s - 900), ours), ExpiredTokenError),
        (mint(fresh, ours), ForbiddenError),
    ]
    for token, refusal in cases:
        with pytest.raises(refusal):
            await family.rooms.service.minting.exchange(
                family.application["alice"].id, TokenExchange(subject_token=token, audience=(TOOLS,))
            )


async def test_sixty_four_ancestors_pass_and_sixty_five_are_refused_at_minting(rooms: Rooms) -> None:
    opening, minting = rooms.service.opening, rooms.service.minting
    application = await opening.create_application("deep")
    session = await opening.open_session(application.id, "alice", SubjectType.USER, HOUR_S)
    await opening.create_grant(application.id, "alice", ["read"], [TOOLS], HOUR_S)
    token = (await minting.issue(session.id, [TOOLS], ["read"])).token
    above: dict[str, str] = {"session_id": session.id}
    agents = []
    for number in range(MAX_PATH - 4):
        agents.append(await opening.start_agent(application.id, f"{number}", HOUR_S, **above))
        above = {"parent_id": agents[-1].id}

    async def exchanged(depth: int) -> str:
        asked = TokenExchange(subject_token=token, audience=(TOOLS,), agent_id=agents[depth - 1].id)
        return (await minting.exchange(application.id, asked)).token

    beside = 5  # application, subject, session, grant and the session's token
    deepest = await exchanged(MAX_PATH - beside)
    claims = verify(
        parse_mandate(deepest), minting.key_set, issuer=ISSUER, audience=TOOLS, now_s=rooms.clock.wall_ms / 1000
    ).claims
    assert len(claims["path"]) == MAX_PATH  # type: ignore[arg-type]  # a list
    verifier = Verifier(rooms)
    assert await verifier.passing(deepest=deepest) == {"deepest"}
    with pytest.raises(InvalidValueError, match="at most 64"):
        await exchanged(MAX_PATH - beside + 1)
    for _ in range(2):  # with the application and the session, as many as a path has room for
        agents.append(await opening.start_agent(application.id, "beyond", HOUR_S, parent_id=agents[-1].id))
    with pytest.raises(InvalidValueError, match="no token could name them all"):
        await opening.start_agent(application.id, "too far", HOUR_S, parent_id=agents[-1].id)
    await rooms.service.revoking.revoke(Kind.SESSION, session.id)
    assert await verifier.passing(deepest=deepest) == set()


async def test_what_does_not_exist_is_not_found(family: Family) -> None:
    opening, alices = family.rooms.service.opening, family.application["alice"].id
    nobody = {kind: own_id(kind, bytes(16)) for kind in (Kind.APPLICATION, Kind.SESSION, Kind.AGENT, Kind.DELEGATION)}
    planner = family.agent["planner"].id
    for work in (
        opening.open_session(nobody[Kind.APPLICATION], "alice", SubjectType.USER, 60),
        opening.open_session(alices, None, SubjectType.USER, 60, nobody[Kind.SESSION]),
        opening.start_agent(alices, "x", 60, session_id=nobody[Kind.SESSION]),
        opening.start_agent(alices, "x", 60, parent_id=nobody[Kind.AGENT]),
        opening.start_agent(alices, "x", 60, parent_id=planner, delegation_id=nobody[Kind.DELEGATION]),
        opening.delegate(planner, nobody[Kind.AGENT], ["read"], [TOOLS], 60),
        opening.delegate(planner, family.agent["worker"].id, ["read"], [TOOLS], 60, parent_id=nobody[Kind.DELEGATION]),
        opening.start_agent(alices, "x", 60, session_id=planner),  # an id of another kind is none
        family.rooms.service.reading.tree("anything"),
    ):
        with pytest.raises(NotFoundError):
            await work


async def test_what_is_named_twice_or_not_at_all_is_refused(family: Family) -> None:
    opening, alices = family.rooms.service.opening, family.application["alice"].id
    planner, session = family.agent["planner"].id, family.session["alice"].id
    for work in (
        opening.open_session(alices, None, SubjectType.USER, 60),
        opening.open_session(alices, "alice", SubjectType.USER, 60, session),
        opening.start_agent(alices, "x", 60),
        opening.start_agent(alices, "x", 60, session_id=session, parent_id=planner),
        opening.start_agent(alices, "x", 60, session_id=session, delegation_id=family.edge["first"].id),
        opening.delegate(planner, planner, ["read"], [TOOLS], 60),
        opening.delegate(planner, family.agent["worker"].id, ["read"], [], 60),
        opening.delegate(planner, family.agent["worker"].id, ["read"], [TOOLS], 60, depth=-1),
        opening.delegate(planner, family.agent["worker"].id, ["read"], [TOOLS], 0),
    ):
        with pytest.raises(InvalidValueError):
            await work


async def test_an_application_gets_nothing_by_the_grant_of_another(family: Family) -> None:
    """Bob's agent is at work on alice's session too: what alice granted bob's application is that application's."""
    opening = family.rooms.service.opening
    alices, bobs = family.application["alice"].id, family.application["bob"].id
    family.agent["guest"] = await opening.start_agent(bobs, "guest", 60, session_id=family.session["alice"].id)
    await opening.create_grant(bobs, "alice", ["write"], [TOOLS], 60)
    asked = TokenExchange(
        subject_token=family.token["alice"], audience=(TOOLS,), scopes=("write",), agent_id=family.agent["guest"].id
    )
    with pytest.raises(ForbiddenError, match="the application that will act"):
        await family.rooms.service.minting.exchange(alices, asked)
    mandate = read(family, (await family.rooms.service.minting.exchange(bobs, asked)).token)
    assert (mandate.client_id, mandate.subject) == (bobs, "alice")
