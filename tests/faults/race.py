"""Clients that open, delegate, exchange, revoke and cut off at once, over HTTP; and what each of them was answered.

Every client notes when it asked and when it was answered. So afterwards it is plain what must be rejected (what ended
it was answered), what must pass (nothing that could end it was ever asked), and what may be either. Where authorities
are killed meanwhile, what is not answered may be done or not.
"""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2

from countermand.settings import ClientSettings
from countermand.transport.http import open_client

TOOLS: Final = "https://tools.example"
LATER_S: Final = 15.0
"""How long after its client has lost it a request may still be carried out."""
FEWEST: Final = 100
"""Mandates, for a race to tell anything."""
SUBJECTS: Final = ("alice", "bob", "carol")
_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"


@dataclass
class Opened:
    """A node, and all on which it rests, itself too."""

    id: str
    kind: str
    rests_on: frozenset[str]
    subject: str
    application: str
    target: str | None = None


@dataclass
class Minted:
    """A mandate, when it was asked for and when it came. `leaf` is what it stands for."""

    text: str = field(repr=False)
    leaf: Opened
    rests_on: frozenset[str]
    subjects: frozenset[str]
    asked_s: float
    answered_s: float


@dataclass
class Ended:
    """A revocation of a node, or a cutoff for a subject."""

    target: str
    asked_s: float
    answered_s: float


@dataclass
class Race:
    """Everything that happened."""

    settings: ClientSettings
    seed: int
    urls: tuple[str, ...] = ()  # of one authority in several processes, where it is that
    clients: int = 8
    opened: dict[str, Opened] = field(default_factory=dict)
    minted: list[Minted] = field(default_factory=list)
    revoked: dict[str, Ended] = field(default_factory=dict)
    cutoffs: list[Ended] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)  # what was to be revoked, and may be
    unanswered: list[Ended] = field(default_factory=list)  # cutoffs that may have been made
    entries: dict[int, str] = field(default_factory=dict)  # what was answered for each number of the ledger
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, seconds: float) -> None:
        """Let the clients go on for as long, all at once; and until enough has happened to tell anything."""
        until_s = time.monotonic() + seconds
        headers = {"authorization": f"Bearer {self.settings.api_key}"}
        async with AsyncExitStack() as stack:
            https = [
                await stack.enter_async_context(open_client(30, url=url, headers=headers))
                for url in self.urls or (self.settings.url,)
            ]
            first = _Client(self, https[0], random.Random(self.seed))  # noqa: S311 - a seed, to see it again
            for _ in SUBJECTS:
                await first.open_application()
            self.begun.set()
            async with asyncio.TaskGroup() as clients:
                for number in range(self.clients):
                    http = https[number % len(https)]
                    client = _Client(self, http, random.Random(self.seed + number))  # noqa: S311 - as above
                    clients.create_task(client.run(until_s))

    @property
    def tells_nothing(self) -> bool:
        """Whether too little was minted and revoked yet."""
        return len(self.minted) < FEWEST or not any(self.must_be_rejected(mandate) for mandate in self.minted)

    def must_be_rejected(self, mandate: Minted) -> bool:
        """Whether something ended it, and that was answered."""
        if mandate.rests_on & self.revoked.keys():
            return True
        return any(cut.target in mandate.subjects and mandate.answered_s < cut.asked_s for cut in self.cutoffs)

    def must_pass(self, mandate: Minted) -> bool:
        """Whether nothing that could have ended it was asked for."""
        if (mandate.rests_on | self._grants_of(mandate)) & self.asked:
            return False
        cutoffs = self.cutoffs + self.unanswered
        return not any(cut.target in mandate.subjects and mandate.asked_s <= cut.answered_s for cut in cutoffs)

    def _grants_of(self, mandate: Minted) -> set[str]:
        """Return the grants by which it, or one that it was exchanged for, may have been minted.

        Which one it was is the authority's choice; none whose revocation was answered before it was asked for.
        """
        return {
            node.id
            for node in self.opened.values()
            if node.kind == "grant"
            and not (node.id in self.revoked and self.revoked[node.id].answered_s < mandate.asked_s)
            and node.application in mandate.rests_on | {mandate.leaf.application}
            and node.subject in mandate.subjects
        }

    def escaped(self) -> list[Minted]:
        """Return the mandates that were asked for after something under them had ended, and minted all the same."""
        return [
            mandate
            for mandate in self.minted
            if any(self.revoked[id_].answered_s < mandate.asked_s for id_ in mandate.rests_on & self.revoked.keys())
        ]

    def descendants(self) -> set[str]:
        """Return what documented verifiers must be told: all that rests on what was revoked."""
        kinds = {"session", "agent", "delegation"}
        return {
            node.id
            for node in self.opened.values()
            if node.kind in kinds and (node.rests_on - {node.id}) & self.revoked.keys()
        }


class _Client:
    """One of the clients: it does one thing after another, whatever comes to its mind."""

    def __init__(self, race: Race, http: httpx2.AsyncClient, chance: random.Random) -> None:
        self._race = race
        self._http = http
        self._chance = chance

    async def run(self, until_s: float) -> None:
        doings: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.open_session, 3),
            (self.start_agent, 8),
            (self.delegate, 5),
            (self.issue, 4),
            (self.exchange, 16),
            (self.revoke, 3),
            (self.cut_off, 1),
        ]
        whats, weights = zip(*doings, strict=True)
        while time.monotonic() < until_s or self._race.tells_nothing:
            (what,) = self._chance.choices(whats, weights)
            try:
                await what()
            except httpx2.TransportError:
                self._race.answers["not answered", 0] += 1
                await asyncio.sleep(0.05)

    async def open_application(self) -> None:
        answer = await self._post("/v1/applications", {"name": "racer"})
        assert answer is not None
        made = Opened(answer["id"], "application", frozenset({answer["id"]}), "", answer["id"])
        self._race.opened[made.id] = made
        secret = await self._post(f"/v1/applications/{made.id}/keys", {"name": "racer"})
        assert secret is not None
        self._race.secrets[made.id] = secret["client_secret"]
        for subject in SUBJECTS:
            await self._grant(made, subject)

    async def _grant(self, application: Opened, subject: str) -> None:
        body = {"application_id": application.id, "subject": subject, "scope": ["read"], "audience": [TOOLS]}
        answer = await self._post("/v1/grants", body)
        if answer is not None:
            self._keep(answer["id"], "grant", [application], subject, application.id)

    async def open_session(self) -> None:
        application = self._any("application")
        if application is None or application.id in self._race.revoked:
            return
        subject = self._chance.choice(SUBJECTS)
        answer = await self._post("/v1/sessions", {"application_id": application.id, "subject": subject})
        if answer is not None:
            self._keep(answer["id"], "session", [application], subject, application.id)

    async def start_agent(self) -> None:
        above, application = self._any("session", "agent", "delegation"), self._any("application")
        if above is None or application is None:
            return
        body: dict[str, Any] = {"application_id": application.id, "name": "racer"}
        rests_on = [application, above]
        if above.kind == "session":
            body["session_id"] = above.id
        elif above.kind == "agent":
            body["parent_id"] = above.id
        else:
            holder = self._race.opened[above.target or ""]
            body |= {"parent_id": holder.id, "delegation_id": above.id}
            rests_on.append(holder)
        answer = await self._post("/v1/agents", body)
        if answer is not None:
            self._keep(answer["id"], "agent", rests_on, above.subject, application.id)

    async def delegate(self) -> None:
        source, target, parent = self._any("agent"), self._any("agent"), self._any("delegation")
        if parent is not None and self._chance.random() < 0.5:
            source = self._race.opened[parent.target or ""]
        else:
            parent = None
        if source is None or target is None or source.id == target.id:
            return
        body = {"source_id": source.id, "target_id": target.id, "scope": ["read"], "audience": [TOOLS], "depth": 0}
        body |= {"depth": 4} if parent is None else {"parent_id": parent.id}
        answer = await self._post("/v1/delegations", body)
        if answer is not None:
            grant = self._race.opened[answer["grant_id"]]
            above = [source, grant, *([parent] if parent else [])]
            subject = (parent or source).subject
            self._keep(answer["id"], "delegation", above, subject, source.application, target.id)

    async def issue(self) -> None:
        session = self._any("session")
        if session is None:
            return
        asked_s = time.monotonic()
        answer = await self._post(f"/v1/sessions/{session.id}/mandates", {"audience": [TOOLS], "scope": ["read"]})
        if answer is not None:
            self._mint(answer, session, session.rests_on, asked_s)

    async def exchange(self) -> None:
        if not self._race.minted:
            return
        old = self._chance.choice(self._race.minted[-40:])
        below = [node for node in self._race.opened.values() if old.leaf.id in node.rests_on and node.kind != "grant"]
        leaf = self._chance.choice(below[-8:] or [old.leaf])
        form = {
            "grant_type": _EXCHANGE,
            "subject_token": old.text,
            "subject_token_type": _ACCESS_TOKEN,
            "audience": TOOLS,
        }
        names = {"agent": "agent_session_id", "delegation": "delegation_edge_id"}
        if leaf.kind in names:
            form[names[leaf.kind]] = leaf.id
        acting = old.leaf.application if leaf.target is None else self._race.opened[leaf.target].application
        client = leaf.application if leaf.target is None else acting
        asked_s = time.monotonic()
        response = await self._http.post("/oauth2/token", data=form, auth=(client, self._race.secrets[client]))
        self._race.answers["/oauth2/token", response.status_code] += 1
        if response.status_code == 200:
            holder = self._race.opened[leaf.target].rests_on if leaf.target else frozenset[str]()
            self._mint(response.json(), leaf, old.rests_on | leaf.rests_on | holder, asked_s)
        else:
            assert response.status_code in {400, 503}, response.text

    async def revoke(self) -> None:
        node = self._any("session", "grant", *["agent", "delegation"] * 4)
        if node is None or len(self._race.minted) < 8 * len(self._race.revoked):
            return  # or nothing would stand
        asked_s = time.monotonic()
        self._race.asked.add(node.id)
        answer = await self._post("/v1/revocations", {"kind": node.kind, "id": node.id})
        if answer is not None:
            ended = Ended(node.id, asked_s, time.monotonic())
            self._race.entries[answer["seq"]] = node.id
            self._race.revoked.setdefault(node.id, ended)
            if node.kind == "grant":
                await self._grant(self._race.opened[node.application], node.subject)

    async def cut_off(self) -> None:
        if len(self._race.minted) < 40 * (len(self._race.cutoffs) + 1):
            return  # each ends a third of all there is
        subject = self._chance.choice(SUBJECTS)
        asked_s = time.monotonic()
        unanswered = Ended(subject, asked_s, math.inf)
        self._race.unanswered.append(unanswered)
        try:
            answer = await self._post("/v1/cutoffs", {"target": f"subject:{subject}"})
        finally:
            unanswered.answered_s = time.monotonic() + LATER_S
        if answer is not None:
            self._race.unanswered.remove(unanswered)
            self._race.cutoffs.append(Ended(subject, asked_s, time.monotonic()))
            self._race.entries[answer["seq"]] = f"subject:{subject}"

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """Return what was made; None where that was refused because something has ended, or is not to be had."""
        response = await self._http.post(path, json=body)
        self._race.answers[path.split("/")[2], response.status_code] += 1
        assert response.status_code in {200, 201, 403, 409, 422, 503}, response.text
        return response.json() if response.is_success else None

    def _any(self, *kinds: str) -> Opened | None:
        """Return one of the newest nodes of a kind: the old ones have mostly ended."""
        kind = self._chance.choice(kinds)
        nodes = [node for node in self._race.opened.values() if node.kind == kind]
        return self._chance.choice(nodes[-12:]) if nodes else None

    def _keep(
        self, id_: str, kind: str, above: Iterable[Opened], subject: str, application: str, target: str | None = None
    ) -> None:
        rests_on = frozenset({id_}).union(*(node.rests_on for node in above))
        self._race.opened[id_] = Opened(id_, kind, rests_on, subject, application, target)

    def _mint(self, answer: dict[str, Any], leaf: Opened, rests_on: frozenset[str], asked_s: float) -> None:
        subjects = frozenset(self._race.opened[id_].subject for id_ in rests_on if id_.startswith("ses_"))
        mandate = Minted(answer["access_token"], leaf, rests_on, subjects, asked_s, time.monotonic())
        self._race.minted.append(mandate)
