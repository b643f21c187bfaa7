"""The ledger over a real Redis to real replicas, by this machine's clocks."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from countermand.authority.relay import Relay
from countermand.authority.source import Source, Stream
from countermand.authority.witnesses import LogWitness, Witness
from countermand.log.anchor import Anchor, Anchors, Kind, Rev
from countermand.log.checkpoint import Pin
from countermand.log.freshness import Instant
from countermand.log.state import LogState
from countermand.log.verdict import Revoked
from countermand.log.wire import REVOCATION_STREAM
from countermand.replica.replica import Replica, ReplicaState
from countermand.transport.redis import Keys, RedisLog, open_writer
from countermand.wiring import follower, system_clock
from countermand.wiring.tasks import beside
from tests.integration.rooms import HeldClock, Rooms, rooms_open
from tests.redis_server import RedisServer
from tests.running import until

KEYS: Final = Keys.of()
HMAC_KEY: Final = bytes.fromhex("0123456789abcdef" * 4)


class MachineClock(HeldClock):
    """This machine's clocks, where a test would hold them."""

    def __call__(self) -> Instant:
        now = system_clock()
        self.wall_ms, self.boot_ms = now.wall_ms, now.boot_ms
        return now

    def peek_ms(self) -> int:
        return system_clock().wall_ms


@asynccontextmanager
async def publishing(
    path: Path, url: str, *, hmac_keys: tuple[bytes, ...] = (HMAC_KEY,), witnesses: Sequence[Witness] = ()
) -> AsyncIterator[tuple[Rooms, Relay]]:
    """Run the authority in `path`/authority, and its relay to the Redis at `url`."""
    async with rooms_open(path, clock=MachineClock(), witnesses=witnesses) as rooms:
        source = Source(rooms.ledger, rooms.heartbeat, rooms.reader, rooms.service.descendants, rooms.keys)
        relay = Relay(source, Stream(REVOCATION_STREAM, hmac_keys), partial(open_writer, url, KEYS), system_clock)
        async with beside(rooms.heartbeat.run(), stop=rooms.heartbeat.close), beside(relay.run()):
            yield rooms, relay


def witness_at(url: str) -> LogWitness:
    """Return what an authority asks that publishes at `url`."""
    return LogWitness("redis", partial(open_writer, url, KEYS), RedisLog(url, KEYS))


@asynccontextmanager
async def following(pin: Pin, url: str) -> AsyncIterator[Replica]:
    """Keep a new replica on the log at `url`."""
    replica = Replica(LogState(pin), system_clock, local=True)
    async with beside(follower(replica, RedisLog(url, KEYS)).run()):
        yield replica


@dataclass
class Plane:
    """An authority whose relay runs, a Redis, and replicas that follow it there."""

    rooms: Rooms
    redis: RedisServer
    relay: Relay
    replicas: list[Replica] = field(default_factory=list)

    async def revoke(self, count: int = 1) -> list[str]:
        """Revoke sessions that are opened for it; return their ids."""
        sessions = [await self.rooms.session(subject=f"subject {number}") for number in range(count)]
        for session in sessions:
            await self.rooms.service.revoking.revoke(Kind.SESSION, session.id)
        return [session.id for session in sessions]

    async def caught_up(self) -> None:
        """Wait until every replica is fresh, and ends where the ledger does."""
        head = await self.rooms.head()
        for replica in self.replicas:
            await until(partial(is_at, replica, head.rev), "the replica is fresh, and ends where the ledger does")

    def revokes(self, ids: list[str]) -> bool:
        """Whether every replica knows all of them to be revoked."""
        asked = [session_anchors(id_) for id_ in ids]
        return all(isinstance(replica.check(one), Revoked) for replica in self.replicas for one in asked)


def is_at(replica: Replica, rev: Rev) -> bool:
    """Whether it has applied the log up to `rev`, and knows that this is all."""
    return replica.state.rev == rev and replica.status().state is ReplicaState.FRESH


def session_anchors(id_: str) -> Anchors:
    """Return what a token carries that rests on this session alone."""
    return Anchors((Anchor(Kind.SESSION, id_),))


@asynccontextmanager
async def plane(path: Path, *, replicas: int = 1, hmac_keys: tuple[bytes, ...] = (HMAC_KEY,)) -> AsyncIterator[Plane]:
    """Run all of it."""
    with RedisServer(path / "redis") as server:
        async with AsyncExitStack() as stack:
            rooms, relay = await stack.enter_async_context(publishing(path, server.url, hmac_keys=hmac_keys))
            await until(lambda: relay.way.published_seq is not None, "there is a checkpoint, and a snapshot of nothing")
            running = Plane(rooms, server, relay)
            for _ in range(replicas):
                running.replicas.append(await stack.enter_async_context(following(rooms.pin, server.url)))
            yield running
