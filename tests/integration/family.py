"""A family that hands authority on: alice's agent to bob's by an edge, bob's to carol's by another, helpers below."""

from dataclasses import dataclass, field
from typing import Final

from countermand.authority.model import Agent, Application, Delegation, Grant, Session, SubjectType, TokenExchange
from tests.integration.rooms import Rooms
from tests.integration.verifier import TOOLS

HOUR_S: Final = 3_600


@dataclass(frozen=True)
class Family:
    """What was opened, and a mandate for everyone, each exchanged from the one above it.

    alice's session → planner → helper (started by planner)
    planner ─ first edge → worker (on bob's session) → under it: hand
    worker ─ second edge → tester (on carol's session)
    own: worker's mandate by bob's own grant, which rests on nothing of alice's
    """

    rooms: Rooms
    application: dict[str, Application]
    session: dict[str, Session]
    grant: dict[str, Grant]
    agent: dict[str, Agent]
    edge: dict[str, Delegation]
    token: dict[str, str] = field(repr=False)

    async def exchange(self, name: str, agent: str | None = None, edge: str | None = None, **wanted: object) -> str:
        """Exchange the mandate called `name`, by whoever it was minted for."""
        target = self.agent[agent].id if agent else None
        delegation = self.edge[edge].id if edge else None
        asked = TokenExchange(
            subject_token=self.token[name],
            audience=(TOOLS,),
            agent_id=target,
            delegation_id=delegation,
            **wanted,  # type: ignore[arg-type]  # a test's own words
        )
        owner = self.application[OWNER[name]].id
        return (await self.rooms.service.minting.exchange(owner, asked)).token


OWNER: Final = {
    "alice": "alice",
    "planner": "alice",
    "helper": "alice",
    "bob": "bob",
    "worker": "bob",
    "hand": "bob",
    "own": "bob",
    "carol": "carol",
    "tester": "carol",
}
"""Whose application holds which mandate."""


async def gather_family(rooms: Rooms) -> Family:
    """Open it all, and mint everybody's mandate."""
    opening, minting = rooms.service.opening, rooms.service.minting
    names = ("alice", "bob", "carol")
    application = {name: await opening.create_application(f"{name}'s") for name in names}
    session = {name: await opening.open_session(application[name].id, name, SubjectType.USER, HOUR_S) for name in names}
    grant = {
        name: await opening.create_grant(application[name].id, name, ["read", "write"], [TOOLS], HOUR_S)
        for name in names
    }
    agent = {
        agent: await opening.start_agent(application[name].id, agent, HOUR_S, session_id=session[name].id)
        for agent, name in (("planner", "alice"), ("worker", "bob"), ("tester", "carol"))
    }
    alices, bobs = application["alice"].id, application["bob"].id
    agent["helper"] = await opening.start_agent(alices, "helper", HOUR_S, parent_id=agent["planner"].id)
    planner, worker, tester = (agent[name].id for name in ("planner", "worker", "tester"))
    edge = {"first": await opening.delegate(planner, worker, ["read", "write"], [TOOLS], HOUR_S, depth=1)}
    edge["second"] = await opening.delegate(worker, tester, ["read"], [TOOLS], HOUR_S, parent_id=edge["first"].id)
    agent["hand"] = await opening.start_agent(bobs, "hand", HOUR_S, parent_id=worker, delegation_id=edge["first"].id)
    token = {name: (await minting.issue(session[name].id, [TOOLS], ["read", "write"])).token for name in names}
    family = Family(rooms, application, session, grant, agent, edge, token)
    token["planner"] = await family.exchange("alice", agent="planner")
    token["helper"] = await family.exchange("planner", agent="helper")
    token["worker"] = await family.exchange("planner", edge="first")
    token["hand"] = await family.exchange("worker", agent="hand")
    token["tester"] = await family.exchange("worker", edge="second")
    token["own"] = await family.exchange("bob", agent="worker")
    return family
