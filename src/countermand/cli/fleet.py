"""The demo's fleet: two people's sessions, agents that start agents, and delegations three deep.

    alice's session
    └── planner, who starts scout, researcher, reader and scribe
        └── and delegates to researcher
            └── who delegates to reader
                ├── who delegates to scribe
                └── and starts helper under it
    bob's session
    └── clerk

The reader calls twice over: by what was delegated to it, and by what it has of its own. Every mandate comes from a
session's, by exchange, link by link.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from countermand.cli.callers import Caller, Holder, Listener, OnChange
from countermand.cli.client import ApplicationClient, AuthorityClient

AUDIENCE: Final = "resource://demo"
SCOPE: Final = ("read",)
LIFE_S: Final = 43_200
"""As long as a session."""


@dataclass(frozen=True, slots=True)
class Link:
    """One exchange on the way from a session to an agent, by the application that makes it."""

    application: ApplicationClient
    agent_id: str
    delegation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Fleet:
    """Who calls, and the ids of what can be revoked. `listener` holds the scribe's stream."""

    callers: tuple[Caller, ...]
    listener: Listener
    sessions: dict[str, str]
    """By subject."""
    agents: dict[str, str]
    delegations: dict[str, str]
    """By the receiver's name."""

    @property
    def clients(self) -> tuple[Caller | Listener, ...]:
        """Everyone."""
        return *self.callers, self.listener

    def named(self, *names: str) -> tuple[Caller, ...]:
        """Return the callers of these names."""
        return tuple(caller for caller in self.callers if caller.name in names)

    def others(self, *names: str) -> tuple[Caller, ...]:
        """Return the callers of all other names."""
        return tuple(caller for caller in self.callers if caller.name not in names)


@asynccontextmanager
async def fleet_of(client: AuthorityClient, url: str, on_change: OnChange) -> AsyncIterator[Fleet]:
    """Register two applications, open everything at the authority at `url`, and give the fleet, which rests still."""
    desk, tools = [str((await client.create_application(name))["id"]) for name in ("desk", "tools")]
    secrets = [(id_, await client.create_key(id_)) for id_ in (desk, tools)]
    async with ApplicationClient.open_all(url, secrets) as (at_desk, at_tools):
        yield await _Founding(client, at_desk, at_tools, on_change).found()


class _Founding:
    """Opens the fleet. `desk` is the application of whom people talk to, `tools` that of whom these set to work."""

    def __init__(
        self, client: AuthorityClient, desk: ApplicationClient, tools: ApplicationClient, on_change: OnChange
    ) -> None:
        self._client = client
        self._desk = desk
        self._tools = tools
        self._on_change = on_change
        self._agents: dict[str, str] = {}
        self._edges: dict[str, str] = {}

    async def found(self) -> Fleet:
        """Open everything, from the roots down."""
        for application, subject in ((self._desk, "alice"), (self._tools, "alice"), (self._desk, "bob")):
            await self._client.create_grant(application.id, subject, SCOPE, AUDIENCE)
        alice, bob = [
            str((await self._client.open_session(self._desk.id, subject))["id"]) for subject in ("alice", "bob")
        ]
        await self._start("planner", self._desk, session_id=alice)
        await self._start("clerk", self._desk, session_id=bob)
        for name in ("scout", "researcher", "reader", "scribe"):
            await self._start(name, self._tools, parent_id=self._agents["planner"])
        await self._delegate("planner", "researcher", depth=2)
        await self._delegate("researcher", "reader", depth=1, parent="researcher")
        await self._delegate("reader", "scribe", depth=0, parent="reader")
        await self._start("helper", self._tools, parent_id=self._agents["reader"], delegation_id=self._edges["reader"])
        planner = [Link(self._desk, self._agents["planner"])]
        researcher = [*planner, self._by_edge("researcher")]
        reader = [*researcher, self._by_edge("reader")]
        scribe = self._holder(alice, [*reader, self._by_edge("scribe")])
        callers = (
            Caller("planner", self._holder(alice, planner), self._on_change),
            Caller("scout", self._holder(alice, [*planner, self._of_its_own("scout")]), self._on_change),
            Caller("researcher", self._holder(alice, researcher), self._on_change),
            Caller("reader", self._holder(alice, reader), self._on_change),
            Caller("reader itself", self._holder(alice, [*planner, self._of_its_own("reader")]), self._on_change),
            Caller("helper", self._holder(alice, [*reader, self._of_its_own("helper")]), self._on_change),
            Caller("scribe", scribe, self._on_change),
            Caller("clerk", self._holder(bob, [Link(self._desk, self._agents["clerk"])]), self._on_change),
        )
        listener = Listener("scribe's stream", scribe, self._on_change)
        return Fleet(callers, listener, {"alice": alice, "bob": bob}, self._agents, self._edges)

    async def _start(self, name: str, application: ApplicationClient, **where: str) -> None:
        agent = await self._client.start_agent(application.id, name, LIFE_S, **where)
        self._agents[name] = str(agent["id"])

    async def _delegate(self, source: str, target: str, *, depth: int, parent: str | None = None) -> None:
        ends = self._agents[source], self._agents[target]
        parent_id = self._edges[parent] if parent else None
        edge = await self._client.delegate(*ends, SCOPE, AUDIENCE, LIFE_S, depth=depth, parent_id=parent_id)
        self._edges[target] = str(edge["id"])

    def _by_edge(self, name: str) -> Link:
        return Link(self._tools, self._agents[name], self._edges[name])

    def _of_its_own(self, name: str) -> Link:
        return Link(self._tools, self._agents[name])

    def _holder(self, session_id: str, links: list[Link]) -> Holder:
        return Holder(_minter(self._client, session_id, links))


def _minter(client: AuthorityClient, session_id: str, links: list[Link]) -> Callable[[], Awaitable[str]]:
    async def mint() -> str:
        token = await client.issue_mandate(session_id, AUDIENCE, SCOPE)
        for link in links:
            token = await link.application.exchange(
                token, AUDIENCE, agent_id=link.agent_id, delegation_id=link.delegation_id
            )
        return token

    return mint
