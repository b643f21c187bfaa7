"""Random trees, and whatever may happen to them, against the plain tree: who passes, who does not, what is reached."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from countermand.authority.model import Delegation, Reach, Revocation, SubjectType, TokenExchange
from countermand.enforce.decision import Allow, Code
from countermand.errors import CountermandError, ExceededError, ExpiredTokenError, ForbiddenError, NotActiveError
from countermand.log.anchor import Kind
from countermand.tokens.mandate import parse_mandate, verify
from tests.integration.plain_tree import LEEWAY_MS, Cutoff, Node, PlainTree, Token
from tests.integration.rooms import ISSUER, Rooms, rooms_open
from tests.integration.verifier import TOOLS, Verifier
from tests.running import PROOF

_T = TypeVar("_T")
_SCOPES = frozenset({"read", "write"})
_LIVES = st.sampled_from([30, 400, 4000, 4000])
_PICKS = st.integers(0, 99)

scopes = st.sets(st.sampled_from(sorted(_SCOPES)), min_size=1).map(frozenset)


class TreeMachine(RuleBasedStateMachine):
    """The real authority, a real replica and guard that apply its ledger, and the plain tree beside them."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._folder = tempfile.TemporaryDirectory()
        self.tokens: list[Token] = []

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._loop.run_until_complete(work)

    @initialize()
    def begin(self) -> None:
        self.rooms: Rooms = self.run(self._stack.enter_async_context(rooms_open(Path(self._folder.name), mandate_s=60)))
        self.tree = PlainTree(self.rooms.clock.wall_ms)
        self.verifier = Verifier(self.rooms)
        for subject in ("bob", "alice"):
            self.application()
            self.open_session(subject=subject, life_s=4000, pick=0)
            self.grant(subject=subject, wanted=_SCOPES, life_s=4000, pick=0)
            self.start_on_session(life_s=4000, pick=0, other=0)
        self.start_by_agent(life_s=4000, pick=0, other=1, under=False)
        self._hand_down()

    def _hand_down(self) -> None:
        """Delegate from alice's agent to bob's and on to a third, and exchange mandates all the way."""
        _, alices, _ = reversed(self.tree.of("agent"))
        self.delegate(wanted=_SCOPES, life_s=4000, depth=3, source=1, taker=2, parent=None)
        self.delegate(wanted=_SCOPES, life_s=4000, depth=2, source=1, taker=0, parent=0)
        self.issue(wanted=_SCOPES, pick=0)
        for node in (alices, *self.tree.of("delegation")):
            self._exchange(self.tokens[-1], node, None)

    def teardown(self) -> None:
        self.run(self._stack.aclose())
        self._loop.close()
        self._folder.cleanup()

    # What is opened

    @precondition(lambda self: len(self.tree.of("application")) < 4)
    @rule()
    def application(self) -> None:
        made = self.run(self.rooms.service.opening.create_application("notes"))
        self._keep("application", made.id, None, rests_on=())

    @precondition(lambda self: len(self.tree.of("session")) < 4)
    @rule(subject=st.sampled_from(["alice", "bob"]), life_s=_LIVES, pick=_PICKS)
    def open_session(self, subject: str, life_s: int, pick: int) -> None:
        application = self._pick("application", pick)
        work = self.rooms.service.opening.open_session(application.id, subject, SubjectType.USER, life_s)
        made = self._opened(work, application.id)
        if made is not None:
            above = (application.id,)
            self._keep("session", made.id, life_s, above, subject=subject, application=application.id)

    @precondition(lambda self: len(self.tree.of("session")) < 6)
    @rule(life_s=_LIVES, pick=_PICKS, other=_PICKS)
    def derive_session(self, life_s: int, pick: int, other: int) -> None:
        parent, application = self._pick("session", pick), self._pick("application", other)
        opening = self.rooms.service.opening
        work = opening.open_session(application.id, None, SubjectType.USER, life_s, parent.id)
        made = self._opened(work, application.id, parent.id)
        if made is not None:
            above = (application.id, parent.id)
            of = {"subject": parent.subject, "application": application.id, "parent": parent.id}
            self._keep("session", made.id, life_s, above, **of)

    @rule(life_s=_LIVES, pick=_PICKS, other=_PICKS)
    def start_on_session(self, life_s: int, pick: int, other: int) -> None:
        session, application = self._pick("session", pick), self._pick("application", other)
        opening = self.rooms.service.opening
        made = self._opened(
            opening.start_agent(application.id, "bot", life_s, session_id=session.id), application.id, session.id
        )
        if made is not None:
            above = (application.id, session.id)
            self._keep("agent", made.id, life_s, above, application=application.id, session=session.id)

    @rule(life_s=_LIVES, pick=_PICKS, other=_PICKS, under=st.booleans())
    def start_by_agent(self, life_s: int, pick: int, other: int, under: bool) -> None:
        parent, application = self._pick("agent", pick), self._pick("application", other)
        held = [edge for edge in self.tree.of("delegation") if edge.target == parent.id]
        edge = held[other % len(held)].id if under and held else None
        above = [application.id, parent.id, *([edge] if edge else [])]
        opening = self.rooms.service.opening
        work = opening.start_agent(application.id, "bot", life_s, parent_id=parent.id, delegation_id=edge)
        made = self._opened(work, *above)
        if made is not None:
            of = {"application": application.id, "session": parent.session, "parent": parent.id, "edge": edge}
            self._keep("agent", made.id, life_s, tuple(above), **of)

    @precondition(lambda self: len(self.tree.of("grant")) < 6)
    @rule(subject=st.sampled_from(["alice", "bob"]), wanted=scopes, life_s=_LIVES, pick=_PICKS)
    def grant(self, subject: str, wanted: frozenset[str], life_s: int, pick: int) -> None:
        application = self._pick("application", pick)
        work = self.rooms.service.opening.create_grant(application.id, subject, sorted(wanted), [TOOLS], life_s)
        made = self._opened(work, application.id)
        if made is not None:
            of = {"subject": subject, "application": application.id, "scopes": wanted}
            self._keep("grant", made.id, life_s, (application.id,), **of)

    @rule(wanted=scopes, life_s=_LIVES, depth=st.integers(0, 3), source=_PICKS, taker=_PICKS, parent=st.none() | _PICKS)
    def delegate(
        self, wanted: frozenset[str], life_s: int, depth: int, source: int, taker: int, parent: int | None
    ) -> None:
        edges = self.tree.of("delegation")
        edge = edges[-1 - parent % len(edges)] if parent is not None and edges else None
        giver = self.tree.nodes[edge.target or ""] if edge and source % 4 else self._pick("agent", source)
        receiver = self._pick("agent", taker)
        if giver.id == receiver.id:
            return
        parent_id = edge.id if edge else None
        work = self.rooms.service.opening.delegate(
            giver.id, receiver.id, sorted(wanted), [TOOLS], life_s, depth=depth, parent_id=parent_id
        )
        self._delegated(self._tried(work), giver, receiver, parent_id, wanted, depth, life_s)

    def _delegated(
        self,
        made: Delegation | CountermandError,
        source: Node,
        target: Node,
        parent_id: str | None,
        wanted: frozenset[str],
        depth: int,
        life_s: int,
    ) -> None:
        above = [source.id, *([parent_id] if parent_id else [])]
        inherited = next((id_ for id_ in self.tree.basis(source) if id_.startswith("edg_")), None)
        parent = self.tree.nodes[parent_id] if parent_id else None
        entitled = inherited is None if parent is None else parent.target == source.id or inherited == parent.id
        limits = [parent] if parent else self._grants(source)
        covered = [limit for limit in limits if wanted <= limit.scopes]
        if isinstance(made, NotActiveError):
            assert not self.tree.may_be_used(target.id, *above)
        elif isinstance(made, CountermandError):
            assert isinstance(made, ExceededError)
            assert not entitled or not covered or (parent is not None and depth >= parent.depth)
        else:
            assert self.tree.may_be_used(target.id, *above)
            assert entitled
            assert parent is None or depth < parent.depth
            grant = covered[0].id if parent is None else None
            of = {"application": source.application, "source": source.id, "target": target.id, "parent": parent_id}
            rests_on = (*above, *([grant] if grant else []))
            self._keep("delegation", made.id, life_s, rests_on, scopes=wanted, depth=depth, **of)

    # What is minted

    @rule(wanted=scopes, pick=_PICKS)
    def issue(self, wanted: frozenset[str], pick: int) -> None:
        session = self._pick("session", pick)
        made = self._tried(self.rooms.service.minting.issue(session.id, [TOOLS], sorted(wanted)))
        if isinstance(made, CountermandError):
            self._ended(made, self.tree.all_above_it(session.id))
        else:
            assert self.tree.may_be_used(session.id)
            self._minted(made.token, session, self.tree.all_above_it(session.id), None, wanted)

    @rule(wanted=st.none() | scopes, pick=_PICKS, other=_PICKS, anyone=st.booleans())
    def exchange(self, wanted: frozenset[str] | None, pick: int, other: int, anyone: bool) -> None:
        old = self._newest(pick)
        targets = [self.tree.nodes[old.holder], *self.tree.of("agent"), *self.tree.of("delegation")]
        if not anyone:
            targets = [target for target in targets[1:] if old.holder in set(self.tree.basis(target))] or targets
        self._exchange(old, targets[other % len(targets)], wanted)

    def _exchange(self, old: Token, target: Node, wanted: frozenset[str] | None) -> None:
        acting = self.tree.nodes[target.target or ""] if target.kind == "delegation" else target
        asked = TokenExchange(
            subject_token=old.text,
            audience=(TOOLS,),
            scopes=None if wanted is None else tuple(wanted),
            agent_id=target.id if target.kind == "agent" else None,
            delegation_id=target.id if target.kind == "delegation" else None,
        )
        made = self._tried(self.rooms.service.minting.exchange(acting.application or "", asked))
        ids, limits = self._for(old, target)
        held = frozenset(old.scopes)
        covered = [limit for limit in limits if (wanted or frozenset()) <= limit.scopes & held]
        if isinstance(made, NotActiveError):
            self._ended(made, ids, old)
        elif isinstance(made, ExpiredTokenError):
            assert self.tree.now_ms >= old.expires_at_s * 1000 + LEEWAY_MS
        elif isinstance(made, ForbiddenError):
            assert old.holder not in set(self.tree.basis(target))
        elif isinstance(made, CountermandError):
            assert isinstance(made, ExceededError)
            assert not covered
        else:
            assert old.holder in set(self.tree.basis(target))
            assert self.tree.may_be_used(*ids)
            rests_on = ids | self.tree.all_above_it(covered[0].id)
            self._minted(made.token, target, rests_on, old, covered[0].scopes & held if wanted is None else wanted)

    # What is ended: one rule for all ways, or nothing would stand long enough to be worth ending

    @rule(
        how=st.sampled_from(["revoke", "revoke", "close", "token", "cutoff"]), pick=_PICKS, ago_s=st.integers(-25, 25)
    )
    def end(self, how: str, pick: int, ago_s: int) -> None:
        match how:
            case "revoke":
                self._revoke(list(self.tree.nodes.values())[-1 - pick % min(len(self.tree.nodes), 12)])
            case "close":
                node = self._pick("grant", pick)
                self.run(self.rooms.service.revoking.close_grant(node.id))
                node.closed = True
            case "token":
                jti = self._newest(pick).jti
                self.run(self.rooms.service.revoking.revoke(Kind.TOKEN, jti))
                self.tree.revoked_tokens.add(jti)
                self.tree.tick()
            case "cutoff":
                names = [
                    "subject:alice",
                    "subject:bob",
                    *(f"application:{one.id}" for one in self.tree.of("application")),
                ]
                self._cut_off([*names, "all"][pick % (len(names) + 1)], ago_s if ago_s >= 0 else None)
        self.exactly_those_pass_that_should()

    def _revoke(self, node: Node) -> None:
        kind = Kind.parse(node.kind)
        below = [self.tree.nodes[id_] for id_ in self.tree.all_below_it(node.id)]
        expected = Counter(one.kind for one in below if self.tree.stands(one.id))
        preview = self.run(self.rooms.service.revoking.preview(kind, node.id))
        made = self.run(self.rooms.service.revoking.revoke(kind, node.id))
        assert made.is_new is not node.revoked
        if made.is_new:
            self._reached(preview.reach, made, expected)
            assert made.seq == preview.seq + 1
        node.revoked = True
        self.tree.tick()

    def _cut_off(self, target: str, ago_s: int | None) -> None:
        before_ms = None if ago_s is None else self.tree.now_ms - ago_s * 1000
        stood = {id_ for id_ in self.tree.nodes if self.tree.stands(id_)}
        preview = self.run(self.rooms.service.revoking.preview_cutoff(target, before_ms=before_ms))
        made = self.run(self.rooms.service.revoking.cut_off(target, before_ms=before_ms))
        self.tree.cutoffs.append(Cutoff(target, self.tree.tick(), before_ms))
        expected = Counter(self.tree.nodes[id_].kind for id_ in stood if not self.tree.stands(id_))
        self._reached(preview.reach, made, expected)

    @rule(seconds=st.sampled_from([1, 1, 5, 31]))
    def wait(self, seconds: int) -> None:
        self.rooms.clock.advance(seconds * 1000)
        self.tree.now_ms = self.rooms.clock.wall_ms

    # What must hold, whatever happened

    @rule()
    def exactly_those_pass_that_should(self) -> None:
        self.run(self.verifier.apply())
        for token in self.tokens:
            decision = self.run(self.verifier.decide(token.text))
            assert isinstance(decision, Allow) is self.tree.passes(token), (token, decision)
            if not isinstance(decision, Allow):
                assert decision.code in {Code.SESSION_REVOKED, Code.INVALID_TOKEN}

    @rule()
    def every_node_stands_as_it_should(self) -> None:
        for root in self.tree.of("application"):
            tree = self.run(self.rooms.service.reading.tree(root.id))
            assert {node.id for node in tree.nodes} == self.tree.all_below_it(root.id)
            assert {node.id: node.stands for node in tree.nodes} == {
                node.id: self.tree.stands(node.id) for node in tree.nodes
            }

    def _pick(self, kind: str, pick: int) -> Node:
        nodes = self.tree.of(kind)
        return nodes[-1 - pick % len(nodes)]

    def _newest(self, pick: int) -> Token:
        return self.tokens[-1 - pick % min(len(self.tokens), 6)]

    def _tried(self, work: Coroutine[Any, Any, _T]) -> _T | CountermandError:
        try:
            return self.run(work)
        except CountermandError as refusal:
            return refusal

    def _opened(self, work: Coroutine[Any, Any, _T], *above: str) -> _T | None:
        made = self._tried(work)
        assert isinstance(made, NotActiveError) is not self.tree.may_be_used(*above), made
        return None if isinstance(made, CountermandError) else made

    def _keep(self, kind: str, id_: str, life_s: int | None, rests_on: tuple[str, ...], **of: Any) -> None:
        above = [self.tree.nodes[other].expires_at_ms for other in self.tree.all_above_it(*rests_on)]
        lives = [ms for ms in above if ms is not None]
        if life_s is not None:
            lives.append(self.tree.now_ms + life_s * 1000)
        self.tree.nodes[id_] = Node(
            id_, kind, self.tree.tick(), self.tree.now_ms, min(lives, default=None), frozenset(rests_on), **of
        )

    def _grants(self, source: Node) -> list[Node]:
        subject = self.tree.nodes[source.session or ""].subject
        return [
            grant
            for grant in self.tree.of("grant")
            if (grant.subject, grant.application) == (subject, source.application) and self.tree.may_be_used(grant.id)
        ]

    def _for(self, old: Token, target: Node) -> tuple[frozenset[str], list[Node]]:
        """Return what a mandate for `target` would rest on, its grant aside, and what bounds its scopes."""
        holder = target.target if target.kind == "delegation" else target.id
        ids = self.tree.all_above_it(*old.rests_on, target.id, holder or "")
        basis = list(self.tree.basis(target))
        edge = next((id_ for id_ in basis if id_.startswith("edg_")), None)
        if edge is not None:
            return frozenset(ids), [self.tree.nodes[edge]]
        session = self.tree.nodes[next(id_ for id_ in basis if id_.startswith("ses_"))]
        acting = target.application
        return frozenset(ids), [
            grant
            for grant in self.tree.of("grant")
            if (grant.subject, grant.application) == (session.subject, acting) and self.tree.may_be_used(grant.id)
        ]

    def _ended(self, refusal: CountermandError, ids: frozenset[str] | set[str], old: Token | None = None) -> None:
        assert isinstance(refusal, NotActiveError), refusal
        ends_soon = any(
            node.expires_at_ms is not None and node.expires_at_ms - self.tree.now_ms < 1000
            for node in map(self.tree.nodes.__getitem__, ids)
        )
        assert ends_soon or not self.tree.may_be_used(*ids) or (old is not None and not self.tree.passes(old))

    def _minted(
        self, text: str, target: Node, rests_on: frozenset[str] | set[str], old: Token | None, given: frozenset[str]
    ) -> None:
        now_s = self.tree.now_ms / 1000
        keys = self.rooms.service.minting.key_set
        mandate = verify(parse_mandate(text), keys, issuer=ISSUER, audience=TOOLS, now_s=now_s)
        tokens = frozenset() if old is None else old.tokens | {old.jti}
        subjects = frozenset(self.tree.nodes[id_].subject or "" for id_ in rests_on if id_.startswith("ses_"))
        path = {anchor.id for anchor in mandate.anchors.path} - {mandate.token_id}
        assert path == set(rests_on) | tokens | subjects
        assert mandate.scopes == given
        session = next(id_ for id_ in self.tree.basis(target) if id_.startswith("ses_"))
        assert (mandate.session_id, mandate.subject) == (session, self.tree.nodes[session].subject)
        ends_ms = [node.expires_at_ms for node in map(self.tree.nodes.__getitem__, rests_on) if node.expires_at_ms]
        assert mandate.expires_at_s <= min(now_s + 60, *(ms / 1000 for ms in ends_ms))
        self.tokens.append(
            Token(
                text=text,
                jti=mandate.token_id or "",
                holder=target.id,
                session=session,
                rests_on=frozenset(rests_on),
                tokens=tokens,
                subjects=subjects,
                scopes=given,
                order=self.tree.tick(),
                issued_at_s=int(mandate.issued_at_s),
                expires_at_s=int(mandate.expires_at_s),
            )
        )

    @staticmethod
    def _reached(preview: Reach, made: Revocation, expected: Counter[str]) -> None:
        assert preview == made.reach
        assert made.reach.is_whole
        assert {kind.text: count for kind, count in made.reach.counts.items()} == expected


TestTree = TreeMachine.TestCase
TestTree.settings = settings(
    max_examples=200 if PROOF else 8,
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink a failure takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
