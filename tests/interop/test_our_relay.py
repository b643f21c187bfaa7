"""What our authority publishes, the published consumer applies."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from countermand.authority.appending import Draft
from countermand.authority.heartbeat import Change
from countermand.log.anchor import Anchor, Kind
from countermand.log.entry import Entry
from countermand.log.wire import flat_id
from tests.integration.family import gather_family
from tests.integration.planes import KEYS, MachineClock, Plane, plane
from tests.integration.rooms import Rooms, rooms_open
from tests.interop.peer import KEY, OTHER_KEY, Published, PublishedError
from tests.running import until

pytestmark = pytest.mark.anyio

ELSEWHERE = "https://elsewhere.example"
NAME = "published-1"


@dataclass
class Fleet:
    """An authority that publishes, and a published consumer in `group` that polls when it is asked to."""

    plane: Plane
    process: Published

    async def learns(self, ids: list[str], name: str = NAME, **store: Any) -> None:
        """Have consumer `name` poll until all of `ids` count as revoked for it."""

        async def all_revoked() -> bool:
            await asyncio.to_thread(self.process.poll_all, name)
            return all([await asyncio.to_thread(self.process.is_revoked, id_, **store) for id_ in ids])

        await until(all_revoked, "the published consumer has applied what was published")

    def client(self) -> Any:
        return self.plane.redis.client(decode_responses=True)


@asynccontextmanager
async def fleet(
    path: Path, *, signs_with: tuple[bytes, ...] = (KEY,), holds: bytes | None = KEY, replicas: int = 0
) -> AsyncIterator[Fleet]:
    async with plane(path, replicas=replicas, hmac_keys=signs_with) as running:
        with Published(running.redis.port) as process:
            await asyncio.to_thread(process.consume, NAME, holds)
            yield Fleet(running, process)


SIGNING: dict[str, tuple[tuple[bytes, ...], bytes | None]] = {
    "unsigned": ((), None),
    "signed": ((KEY,), KEY),
    "signed, for a consumer without a key": ((KEY,), None),
}


@pytest.mark.parametrize(("signs_with", "holds"), SIGNING.values(), ids=SIGNING.keys())
async def test_what_is_revoked_is_applied(tmp_path: Path, signs_with: tuple[bytes, ...], holds: bytes | None) -> None:
    async with fleet(tmp_path, signs_with=signs_with, holds=holds) as running:
        await running.learns(await running.plane.revoke(3))
        good = await running.plane.rooms.session()
        assert not running.process.is_revoked(good.id)
        assert running.client().xpending(KEYS.stream, "resource-revocation")["pending"] == 0


async def test_a_consumer_with_another_key_applies_nothing(tmp_path: Path) -> None:
    async with fleet(tmp_path, holds=OTHER_KEY) as running:
        (revoked,) = await running.plane.revoke()
        await until(lambda: running.process.poll_all(NAME) == 1, "the message has been read")
        assert not running.process.is_revoked(revoked)


async def test_a_consumer_with_the_documented_defaults_waits_in_its_poll_and_is_woken(tmp_path: Path) -> None:
    async with fleet(tmp_path) as running:
        await asyncio.to_thread(running.process.consume, "waiting", KEY, block_ms=0)
        polling = asyncio.create_task(asyncio.to_thread(running.process.poll, "waiting"))
        await until(lambda: running.client().info("clients")["blocked_clients"] == 1, "it waits")
        (revoked,) = await running.plane.revoke()
        assert await polling == 1
        assert running.process.is_revoked(revoked)


async def revoke_ours(rooms: Rooms, kind: Kind) -> str:
    family = await gather_family(rooms)
    opened = {
        Kind.SESSION: family.session["alice"].id,
        Kind.AGENT: family.agent["planner"].id,
        Kind.DELEGATION: family.edge["first"].id,
        Kind.GRANT: family.grant["alice"].id,
        Kind.APPLICATION: family.application["alice"].id,
    }
    return (await rooms.service.revoking.revoke(kind, opened[kind])).id


async def revoke_foreign(rooms: Rooms, kind: Kind) -> str:
    id_ = f"foreign {kind.text}"
    await rooms.service.revoking.revoke(kind, id_, issuer=ELSEWHERE)
    return flat_id(Anchor(kind, id_, ELSEWHERE))


async def revoke_bare(rooms: Rooms, kind: Kind) -> str:
    return (await rooms.service.revoking.revoke(kind, f"bare {kind.text}", "why é\N{SNOWMAN}", bare=True)).id


async def cut_off(rooms: Rooms, kind: Kind) -> str:
    return (await rooms.service.revoking.cut_off("subject:alice")).id


async def append(rooms: Rooms, kind: Kind) -> str:
    """Append what no call of the authority revokes by itself yet, as a call of its own would."""

    async def work(_connection: Any) -> Change[str]:
        draft = Draft(kind=kind, id=f"a {kind.text}", at_ms=rooms.clock().wall_ms, expires_at_ms=None)
        return Change(lambda entries: entries[0].id, (draft,))

    return await rooms.heartbeat.commit(work, urgent=True)


REVOKED: dict[str, tuple[Kind, Callable[[Rooms, Kind], Awaitable[str]]]] = {
    **{f"our {kind.text}": (kind, revoke_ours) for kind in (Kind.SESSION, Kind.AGENT, Kind.DELEGATION, Kind.GRANT)},
    "our application": (Kind.APPLICATION, revoke_ours),
    **{
        f"another issuer's {kind.text}": (kind, revoke_foreign)
        for kind in (Kind.TOKEN, Kind.SUBJECT, Kind.APPLICATION, Kind.KEY)
    },
    **{f"a bare {kind.text}": (kind, revoke_bare) for kind in (Kind.SESSION, Kind.AGENT, Kind.DELEGATION, Kind.TOKEN)},
    "a cutoff": (Kind.CUTOFF, cut_off),
    "a biscuit": (Kind.BISCUIT, append),
}


def test_every_kind_of_entry_is_tried() -> None:
    assert {kind for kind, _ in REVOKED.values()} == set(Kind)


async def test_entries_of_every_kind_are_applied(tmp_path: Path) -> None:
    async with fleet(tmp_path) as running:
        anchors = [await revoke(running.plane.rooms, kind) for kind, revoke in REVOKED.values()]
        await running.learns(anchors)
        assert len(set(anchors)) == len(REVOKED)
        assert not running.process.is_revoked("foreign token"), "a foreign id is told together with its issuer"


async def test_descendants_are_applied_and_what_does_not_descend_is_not(tmp_path: Path) -> None:
    async with fleet(tmp_path) as running:
        family = await gather_family(running.plane.rooms)
        await running.plane.rooms.service.revoking.revoke(Kind.SESSION, family.session["alice"].id)
        below = [family.agent[name].id for name in ("planner", "helper", "hand")]
        await running.learns([*below, *(edge.id for edge in family.edge.values())])
        others = [family.session["bob"].id, family.agent["worker"].id, family.agent["tester"].id]
        assert not any(running.process.is_revoked(id_) for id_ in others)


async def test_what_a_flush_took_is_applied_again_once_the_group_is_made_again(tmp_path: Path) -> None:
    async with fleet(tmp_path) as running:
        ids = await running.plane.revoke(20)
        await running.learns(ids)
        running.client().flushall()
        with pytest.raises(PublishedError, match="ResponseError"):
            running.process.poll(NAME)  # it does not make the group itself
        ids += await running.plane.revoke(1)
        await asyncio.to_thread(running.process.consume, NAME, KEY)
        await running.learns(ids)


async def test_what_was_trimmed_before_it_was_read_comes_again(tmp_path: Path) -> None:
    async with fleet(tmp_path) as running:
        ids = await running.plane.revoke(20)
        client = running.client()
        await until(lambda: client.xlen(KEYS.stream) == 20, "everything has been published")
        client.xtrim(KEYS.stream, maxlen=0, approximate=False)
        ids += await running.plane.revoke(1)
        await running.learns(ids)


async def test_a_redis_that_has_seen_nothing_is_told_of_all_that_is_in_force(tmp_path: Path) -> None:
    async with rooms_open(tmp_path, clock=MachineClock()) as rooms:
        await rooms.append(20)
        ids = [Entry.parse(candidate.entry).id for candidate in await rooms.candidates()]
    async with fleet(tmp_path) as running:
        await running.learns(ids)


async def test_our_replica_and_a_published_consumer_learn_of_the_same_from_one_stream(tmp_path: Path) -> None:
    async with fleet(tmp_path, replicas=1) as running:
        ids = await running.plane.revoke(10)
        await running.learns(ids)
        await running.plane.caught_up()
        assert running.plane.revokes(ids)


async def test_in_a_rotation_groups_with_the_old_and_with_the_new_key_apply_everything(tmp_path: Path) -> None:
    keys = {"old": KEY, "new": OTHER_KEY}
    async with fleet(tmp_path, signs_with=(KEY, OTHER_KEY)) as running:
        for name, key in keys.items():
            await asyncio.to_thread(running.process.consume, name, key, group=name, store={"key_prefix": name})
        ids = await running.plane.revoke(20)
        for name in keys:
            await running.learns(ids, name, key_prefix=name)
