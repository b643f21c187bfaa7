"""Who may act by what: from a mandate to the one that it is exchanged for, from an agent to one it delegates to.

Authority only narrows. It comes from a subject session, and a grant says which part of it an application may have;
agents inherit it by being started, and hand on parts of it by delegation. The way back to the session is the basis of
whatever acts. A mandate is exchanged only for one whose basis holds what the old one stands for; so nobody gets what is
not below what they have. Everything here is decided from a lineage: no I/O.
Source: docs/protocol.md, "Path"; RFC 8693.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from countermand.authority.lineage import Lineage, Row
from countermand.errors import ExceededError, InvalidScopeError, InvalidTargetError
from countermand.tokens.mandate import Hop, Mandate


@dataclass(frozen=True, slots=True)
class Basis:
    """From what somebody's authority comes: the edges from the root down, the session, and all that stands between."""

    edges: tuple[Row, ...]
    session: Row
    holders: frozenset[str]
    """Whose mandates may be exchanged for one with this basis."""

    @property
    def edge(self) -> Row | None:
        """The last edge, which bounds what may be had; None where a grant alone does."""
        return self.edges[-1] if self.edges else None

    @property
    def hops(self) -> tuple[Hop, ...]:
        """The edges as a mandate names them."""
        return tuple(Hop(edge.application_id or "", edge.source_id or "", edge.id) for edge in self.edges)


def basis_of(lineage: Lineage, *, session_id: str, agent_id: str | None, delegation_id: str | None) -> Basis:
    """Return the basis of an agent, of an edge's receiver where an edge is named, else of a session.

    An agent without an edge of its own acts by the edge under which it, or the nearest agent above it, was started.
    """
    edges: list[Row] = []
    holders: set[str] = set()
    above, edge_id = (agent_id, None) if delegation_id is None else (None, delegation_id)
    while True:
        for agent in _line(lineage, above):
            holders.add(agent.id)
            session_id, edge_id = agent.session_id or "", agent.delegation_id
        if edge_id is None:
            break
        edge = lineage[edge_id]
        edges.insert(0, edge)
        holders.add(edge.id)
        above, edge_id = edge.source_id, edge.parent_id
        if edge_id is not None and lineage[edge_id].target_id == above:
            above = None  # the source acts by that edge itself: what it may do otherwise is not handed on
    sessions = list(_sessions(lineage, session_id))
    return Basis(tuple(edges), sessions[0], frozenset(holders | {session.id for session in sessions}))


def root_of(lineage: Lineage, session: Row) -> Row:
    """Return the session at the root of `session`'s ancestry."""
    return list(_sessions(lineage, session.id))[-1]


def _line(lineage: Lineage, agent_id: str | None) -> Iterator[Row]:
    """Yield an agent and those that started it, up to the one that was started under an edge."""
    while agent_id is not None:
        agent = lineage[agent_id]
        yield agent
        agent_id = None if agent.delegation_id else agent.parent_id


def _sessions(lineage: Lineage, session_id: str | None) -> Iterator[Row]:
    while session_id is not None:
        session = lineage[session_id]
        yield session
        session_id = session.parent_id


def stands_for(mandate: Mandate, lineage: Lineage) -> str:
    """Return the id of what a mandate of ours was minted for: an edge for its receiver, an agent, or a session."""
    edge_id, agent_id = mandate.delegation_edge_id, mandate.agent_session_id
    if edge_id is not None and lineage[edge_id].target_id == agent_id:
        return edge_id
    return agent_id or mandate.session_id or ""


def own_edge(lineage: Lineage, source: Row, parent: Row | None) -> Row | None:
    """Return the edge from which `source` may delegate: `parent`, or None, for what its grant gives.

    Raises: ExceededError, where that is not how `source` has its authority.
    """
    inherited = basis_of(lineage, session_id=source.session_id or "", agent_id=source.id, delegation_id=None).edge
    if parent is not None and source.id != parent.target_id and (inherited is None or inherited.id != parent.id):
        raise ExceededError("the agent does not act by the delegation that is named as the parent")
    if parent is None and inherited is not None:
        raise ExceededError("the agent was started under a delegation: name that, or one below it, as the parent")
    return parent


def covering(
    limits: Sequence[Row],
    scopes: Collection[str] | None,
    audience: Collection[str],
    held: Collection[str] | None = None,
) -> Row:
    """Return the first of `limits` (grants, or an edge) that gives all of this; `scopes` None: whatever it gives.

    `held` are the scopes of a mandate that is exchanged: more cannot be had for it.

    Raises: InvalidScopeError, InvalidTargetError.
    """
    limits = [limit for limit in limits if set(audience) <= set(limit.audience or ())]
    if not limits:
        raise InvalidTargetError("nothing gives access to this audience")
    wanted = set(scopes or ())
    if held is not None and not wanted <= set(held):
        raise InvalidScopeError("a scope is asked for that the exchanged mandate does not have")
    for limit in limits:
        if wanted <= set(limit.scopes or ()):
            return limit
    raise InvalidScopeError("a scope is asked for that was not given")
