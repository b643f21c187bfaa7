"""The tree of authority as plainly as it can be said: nodes, what each rests on, and what was done to it.

Nothing here is shared with what it checks: no lineage, no path, no ledger. Every question is a walk from the beginning.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

LEEWAY_MS = 10_000
TOLERANCE_MS = 1_000


@dataclass
class Node:
    """Whatever a token can rest on. `order` counts all that ever happened, so that before and after are plain."""

    id: str
    kind: str
    order: int
    created_at_ms: int
    expires_at_ms: int | None
    rests_on: frozenset[str]
    subject: str | None = None
    application: str | None = None
    scopes: frozenset[str] = frozenset()
    source: str | None = None
    target: str | None = None
    edge: str | None = None
    parent: str | None = None
    session: str | None = None
    depth: int = 0
    revoked: bool = False
    closed: bool = False


@dataclass(frozen=True)
class Cutoff:
    """What was issued to `target` before `order`, or by `before_ms`, has ended."""

    target: str
    order: int
    before_ms: int | None


@dataclass(frozen=True)
class Token:
    """A mandate: all that it rests on, and when it was minted."""

    text: str = field(repr=False)
    jti: str
    holder: str
    session: str
    rests_on: frozenset[str]
    tokens: frozenset[str]
    subjects: frozenset[str]
    scopes: frozenset[str]
    order: int
    issued_at_s: int
    expires_at_s: int


@dataclass
class PlainTree:
    """Everything that was opened, minted, revoked and cut off."""

    now_ms: int
    nodes: dict[str, Node] = field(default_factory=dict)
    cutoffs: list[Cutoff] = field(default_factory=list)
    revoked_tokens: set[str] = field(default_factory=set)
    order: int = 0

    def tick(self) -> int:
        """Return the next moment: no two things happen at once."""
        self.order += 1
        return self.order

    def of(self, kind: str) -> list[Node]:
        """Return all of a kind, in the order of their making."""
        return [node for node in self.nodes.values() if node.kind == kind]

    def all_below_it(self, id_: str) -> set[str]:
        """Return what rests on a node, and itself."""
        return {node.id for node in self.nodes.values() if id_ in self.all_above_it(node.id)}

    def all_above_it(self, *ids: str) -> set[str]:
        """Return all that these nodes rest on, through every step, and themselves."""
        found: set[str] = set()
        waiting = list(ids)
        while waiting:
            id_ = waiting.pop()
            if id_ not in found:
                found.add(id_)
                waiting.extend(self.nodes[id_].rests_on)
        return found

    def stands(self, id_: str) -> bool:
        """Whether nothing on which a node rests, itself included, has been revoked, cut off, or has expired."""
        return not any(self._has_ended(self.nodes[above]) for above in self.all_above_it(id_))

    def may_be_used(self, *ids: str) -> bool:
        """Whether something new may rest on these: a closed grant stands, and is good for nothing new."""
        return not any(
            self._has_ended(self.nodes[above]) or self.nodes[above].closed for above in self.all_above_it(*ids)
        )

    def passes(self, token: Token) -> bool:
        """Whether a mandate may act now."""
        if self.now_ms >= token.expires_at_s * 1000 + LEEWAY_MS:
            return False
        if any(self.nodes[id_].revoked for id_ in token.rests_on) or (token.tokens | {token.jti}) & self.revoked_tokens:
            return False
        return not any(self._reaches(cutoff, token) for cutoff in self.cutoffs)

    def basis(self, node: Node) -> Iterator[str]:
        """Yield what a holder's authority comes from, itself first: whose mandates may be exchanged for its own."""
        if node.kind == "delegation":
            yield node.id
            source = self.nodes[node.source or ""]
            if node.parent is None:
                yield from self.basis(source)
            elif self.nodes[node.parent].target == source.id:
                yield from self.basis(self.nodes[node.parent])
            else:
                yield from self.basis(source)
        elif node.kind == "agent":
            yield node.id
            above = node.edge or node.parent or node.session
            yield from self.basis(self.nodes[above or ""])
        else:
            yield node.id
            if node.parent is not None:
                yield from self.basis(self.nodes[node.parent])

    def _has_ended(self, node: Node) -> bool:
        expired = node.expires_at_ms is not None and node.expires_at_ms <= self.now_ms
        return node.revoked or expired or any(self._ends(cutoff, node) for cutoff in self.cutoffs)

    @staticmethod
    def _ends(cutoff: Cutoff, node: Node) -> bool:
        targets = {"all", f"subject:{node.subject}", f"application:{node.application}"}
        if node.kind not in {"session", "agent"} or cutoff.target not in targets:
            return False
        if cutoff.before_ms is None:
            return node.order < cutoff.order
        return node.created_at_ms <= cutoff.before_ms

    def _reaches(self, cutoff: Cutoff, token: Token) -> bool:
        applications = {f"application:{id_}" for id_ in token.rests_on}
        if cutoff.target not in {"all"} | applications | {f"subject:{name}" for name in token.subjects}:
            return False
        if cutoff.before_ms is None:
            return token.order < cutoff.order
        return token.issued_at_s * 1000 <= -(-cutoff.before_ms // 1000) * 1000 + TOLERANCE_MS
