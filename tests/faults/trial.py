"""A trial: an authority that revokes without a pause, replicas on Redis, and a guard's questions to each all the while.

Every clock is this machine's, so nothing of the tolerance for two clocks is needed: the tighter bound is held.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from countermand.authority.relay import Relay
from countermand.log.anchor import Anchors, Kind
from countermand.log.entry import Entry
from countermand.log.state import CLOCK_TOLERANCE_MS
from countermand.log.verdict import CLEAR, Revoked, Unknown
from countermand.replica.replica import STALE, Replica
from countermand.wiring import system_clock
from countermand.wiring.tasks import beside
from tests.integration.planes import following, is_at, publishing, session_anchors
from tests.integration.rooms import Rooms, insert_sessions
from tests.redis_server import RedisServer
from tests.running import PROOF, until

BOUND_S: Final = 3.0
"""The guard's `max_staleness`: it refuses at this, less the tolerance."""
REPLICAS: Final = 3
SESSIONS: Final = 20_000 if PROOF else 300
"""Open ones, to be revoked one by one."""
GOOD: Final = 5
SAMPLE: Final = 30
PAUSE_S: Final = 0.01
POLL_S: Final = 0.02
WHOLE_S: Final = 15.0
"""How long replicas may take to be whole again: a time-out, a pause, a snapshot; and the machine is busy."""


@dataclass
class Watch:
    """What a guard with `max_staleness` BOUND_S was told by every replica, all the time.

    `latest_pass_ms`: the longest after the answer to its revocation that a session was let pass.
    """

    replicas: list[Replica] = field(default_factory=list)
    good: list[Anchors] = field(default_factory=list)
    revoked: list[tuple[Anchors, int]] = field(default_factory=list)
    decisions: int = 0
    stale: int = 0
    latest_pass_ms: int = 0
    wrong: list[str] = field(default_factory=list)

    def answered(self, id_: str) -> None:
        """Take note that the revocation of a session was answered just now."""
        self.revoked.append((session_anchors(id_), system_clock().wall_ms))

    async def run(self, chance: random.Random) -> None:
        """Ask, for ever: of the newest that were revoked, and of some of the others."""
        while True:
            asked = self.revoked[-SAMPLE:] + chance.sample(self.revoked, min(SAMPLE, len(self.revoked)))
            for number, replica in enumerate(self.replicas):
                for anchors, answered_ms in asked:
                    self._ask(number, replica, anchors, answered_ms)
                for anchors in self.good:
                    self._ask_of_good(number, replica, anchors)
            await asyncio.sleep(POLL_S)

    def _ask(self, number: int, replica: Replica, anchors: Anchors, answered_ms: int) -> None:
        after_ms = system_clock().wall_ms - answered_ms
        verdict = replica.check(anchors, BOUND_S)
        self.decisions += 1
        self.stale += verdict == Unknown(STALE)
        if verdict is CLEAR:
            self.latest_pass_ms = max(self.latest_pass_ms, after_ms)
            if after_ms > BOUND_S * 1000 - CLOCK_TOLERANCE_MS:
                self.wrong.append(f"replica {number} lets {anchors.path[0]} pass {after_ms} ms after the answer")

    def _ask_of_good(self, number: int, replica: Replica, anchors: Anchors) -> None:
        verdict = replica.check(anchors, BOUND_S)
        self.decisions += 1
        if isinstance(verdict, Revoked):
            self.wrong.append(f"replica {number} takes {anchors.path[0]} for revoked, and nobody revoked it")


@dataclass
class Trial:
    """An authority in `path` that may be killed and started; it revokes whenever `revoking` is set.

    `losses` is what its relays have counted, and `errors` every code that they have shown.
    """

    path: Path
    redis: RedisServer
    chance: random.Random
    watch: Watch = field(default_factory=Watch)
    revoking: asyncio.Event = field(default_factory=asyncio.Event)
    errors: set[str] = field(default_factory=set)
    _relays: list[Relay] = field(default_factory=list)
    _sessions: list[str] = field(default_factory=list)
    _rooms: Rooms | None = None
    _life: asyncio.Task[None] | None = None

    @property
    def rooms(self) -> Rooms:
        assert self._rooms is not None, "the authority does not run"
        return self._rooms

    @property
    def relay(self) -> Relay:
        return self._relays[-1]

    @property
    def losses(self) -> int:
        return sum(relay.way.losses for relay in self._relays)

    async def start(self) -> None:
        """Start the authority, and wait until it serves."""
        self._life = asyncio.create_task(self._live())
        await until(lambda: self._rooms is not None or self._has_ended(), "the authority serves")
        if self._life.done():
            await self._life

    async def kill(self) -> None:
        """Cancel everything that the authority does, wherever it is."""
        life, self._life, self._rooms = self._life, None, None
        if life is not None:
            life.cancel()
            await asyncio.wait([life])
            if not life.cancelled():
                await life

    async def fill(self, count: int) -> None:
        """Append so many revocations in one transaction, some of which are watched."""
        rooms = self.rooms
        before = await rooms.fill(count)
        rooms.heartbeat.sign_soon()
        async for page in rooms.ledger.pages(before, before + count):
            for candidate in page[:: len(page) // SAMPLE + 1]:
                self.watch.answered(Entry.parse(candidate.entry).id)

    async def revoke(self) -> str:
        """Revoke one more session; return its id."""
        id_ = self._sessions.pop()
        await self.rooms.service.revoking.revoke(Kind.SESSION, id_)
        self.watch.answered(id_)
        return id_

    async def has_revoked(self, count: int) -> None:
        """Wait until so many more revocations are answered."""
        enough = len(self.watch.revoked) + count
        await until(lambda: len(self.watch.revoked) >= enough, "revocations go on")

    async def whole(self, deadline_s: float = WHOLE_S) -> float:
        """Wait until every replica is fresh, and holds what the ledger does; return how many seconds that took."""
        began_s = asyncio.get_running_loop().time()
        await until(self._are_at_head, "every replica is fresh, and ends where the ledger does", deadline_s)
        took_s = asyncio.get_running_loop().time() - began_s
        entries = [Entry.parse(candidate.entry) for candidate in await self.rooms.candidates()]
        held = {entry.key: entry.seq for entry in entries}
        for replica in self.watch.replicas:
            state = replica.state
            assert {key: state.seq_of(key) for key in state._revoked._held} == held
        return took_s

    async def _are_at_head(self) -> bool:
        head = await self.rooms.head()
        return all(is_at(one, head.rev) and one.state.link == head.link for one in self.watch.replicas)

    def _has_ended(self) -> bool:
        return self._life is None or self._life.done()

    async def _live(self) -> None:
        async with publishing(self.path, self.redis.url) as (rooms, relay):
            if not self._sessions:
                self._sessions = await insert_sessions(rooms.database, SESSIONS)
                self.watch.good = [session_anchors(self._sessions.pop()) for _ in range(GOOD)]
            self._rooms = rooms
            self._relays.append(relay)
            async with beside(self._note_errors(relay)):
                await self._revoke_on()

    async def _revoke_on(self) -> None:
        while True:
            await self.revoking.wait()
            await self.revoke()
            await asyncio.sleep(self.chance.uniform(0, PAUSE_S))

    async def _note_errors(self, relay: Relay) -> None:
        while True:
            if relay.way.error is not None:
                self.errors.add(relay.way.error)
            await asyncio.sleep(POLL_S)


@asynccontextmanager
async def trial_running(path: Path, redis: RedisServer, chance: random.Random, *, entries: int) -> AsyncIterator[Trial]:
    """Run an authority with so many entries, and replicas that have applied them; watch, and revoke."""
    trial = Trial(path, redis, chance)
    await trial.start()
    try:
        async with AsyncExitStack() as stack:
            await trial.fill(entries)
            for _ in range(REPLICAS):
                await join(trial, stack)
            await trial.whole()
            await stack.enter_async_context(beside(trial.watch.run(chance)))
            trial.revoking.set()
            yield trial
    finally:
        await trial.kill()


async def join(trial: Trial, stack: AsyncExitStack) -> None:
    """Let one more replica follow, which knows nothing."""
    replica = await stack.enter_async_context(following(trial.rooms.pin, trial.redis.url))
    trial.watch.replicas.append(replica)
