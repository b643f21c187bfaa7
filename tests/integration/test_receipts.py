"""Receipts, on a clock that is held: who counts, who is behind, and until when."""

import asyncio
from dataclasses import replace

import pytest

from countermand.authority.model import ReplicaReport
from countermand.authority.receipts import LOOK_S, MOST_NAMED, Receipt
from countermand.authority.replicas import LIVE_MS, Replicas
from countermand.errors import NotFoundError
from countermand.log.anchor import Kind
from countermand.log.state import CLOCK_TOLERANCE_MS
from tests.integration.rooms import Rooms
from tests.running import until

pytestmark = pytest.mark.anyio

BOUND_MS = 30_000
STRICT = ReplicaReport("strict", 1, 0, 0, strict=True, max_staleness_ms=BOUND_MS, at_ms=0)
BEST_EFFORT = replace(STRICT, replica_id="lenient", strict=False)


def at(seq: int, report: ReplicaReport = STRICT, replica_id: str | None = None) -> ReplicaReport:
    return replace(report, seq=seq, replica_id=replica_id or report.replica_id)


async def revoke(rooms: Rooms) -> int:
    """Revoke a session; return the entry's number."""
    return (await rooms.service.revoking.revoke(Kind.SESSION, (await rooms.session()).id)).seq


async def receipt(rooms: Rooms, seq: int = 1) -> Receipt:
    """Look now, whoever has looked a moment ago."""
    rooms.service.receipts._look_at_s = 0
    return await rooms.service.receipts.of(seq)


async def test_without_a_replica_nothing_is_enforced(rooms: Rooms) -> None:
    found = await receipt(rooms, await revoke(rooms))
    assert (found.of, found.enforced, found.is_enforced, found.first_ms) == (0, 0, False, None)


async def test_what_is_not_in_the_ledger_has_no_receipt(rooms: Rooms) -> None:
    with pytest.raises(NotFoundError):
        await receipt(rooms, 1)


async def test_times_are_from_the_entry_to_the_report_that_brings_it(rooms: Rooms) -> None:
    await rooms.report("key", at(0, replica_id="one"))
    await rooms.report("key", at(0, replica_id="two"))
    await revoke(rooms)
    for replica_id, after_ms in (("one", 12), ("two", 30)):
        rooms.clock.advance(after_ms)
        assert not (await receipt(rooms)).is_enforced
        await rooms.report("key", at(1, replica_id=replica_id))
    rooms.clock.advance(10_000)
    await rooms.report("key", at(1, replica_id="one"))
    found = await receipt(rooms)
    assert (found.of, found.enforced, found.is_enforced) == (2, 2, True)
    assert (found.first_ms, found.last_ms) == (12, 42), "what they report again is no news"
    await rooms.append(1)
    await rooms.report("key", at(2, replica_id="two"))
    found = await receipt(rooms)
    assert (found.is_enforced, found.first_ms, found.last_ms) == (True, None, None), "nobody knows any more"


async def test_a_strict_one_that_does_not_report_it_is_behind_until_it_refuses(rooms: Rooms) -> None:
    await rooms.report("key", at(0))
    rooms.clock.advance(9_000)
    await revoke(rooms)
    refuses_at_ms = rooms.clock.wall_ms + BOUND_MS + CLOCK_TOLERANCE_MS
    found = await receipt(rooms)
    [behind] = found.behind
    assert (behind.replica_id, behind.key_id, behind.seq) == ("strict", "key", 0)
    assert behind.reported_at_ms == rooms.clock.wall_ms - 9_000
    assert behind.refuses_at_ms == refuses_at_ms, "it may have heard until the commit, whenever it last reported"


async def test_whoever_waits_sees_it_refuse(rooms: Rooms) -> None:
    await rooms.report("key", at(0))
    await revoke(rooms)
    waiting = asyncio.create_task(rooms.service.receipts.of(1, 20))
    await asyncio.sleep(0)
    await until(lambda: rooms.service.receipts._seen != {}, "somebody looks")
    rooms.clock.advance(BOUND_MS + CLOCK_TOLERANCE_MS - 1)
    rooms.service.receipts._look_at_s = 0
    await until(lambda: rooms.service.receipts._look_at_s > 0, "somebody looks again")
    assert not waiting.done()
    await rooms.report("key", at(0))
    rooms.clock.advance(1)
    found = await waiting
    assert (found.is_enforced, found.enforced, found.refusing, found.behind) == (True, 1, 1, ())
    assert (found.first_ms, found.last_ms) == (None, None), "it has not reported it"


async def test_what_was_committed_long_ago_is_judged_by_its_own_time(rooms: Rooms) -> None:
    """Nobody knows when it was committed: no later than any write may take, nor than it is found."""
    await rooms.report("key", at(0))
    await revoke(rooms)
    rooms.clock.advance(5_000)
    [early] = (await receipt(rooms)).behind
    assert early.refuses_at_ms == rooms.clock.wall_ms + BOUND_MS + CLOCK_TOLERANCE_MS
    rooms.clock.advance(20_000)
    [late] = (await receipt(rooms)).behind
    assert late.refuses_at_ms == rooms.clock.wall_ms - 15_000 + BOUND_MS + CLOCK_TOLERANCE_MS


async def test_a_best_effort_one_is_named_and_never_counts_by_time(rooms: Rooms) -> None:
    await rooms.report("key", at(0, BEST_EFFORT))
    await rooms.report("key", at(0))
    await revoke(rooms)
    await rooms.report("key", at(1))
    rooms.clock.advance(10 * BOUND_MS)
    found = await receipt(rooms)
    assert (found.of, found.enforced) == (2, 1)
    assert [(one.replica_id, one.refuses_at_ms) for one in found.behind] == [("lenient", None)]
    assert [one.replica_id for one in found.best_effort] == ["lenient"]
    await rooms.report("key", at(1, BEST_EFFORT))
    found = await receipt(rooms)
    assert (found.is_enforced, found.behind) == (True, ())
    assert [one.replica_id for one in found.best_effort] == ["lenient"]


async def test_a_best_effort_one_that_fell_silent_is_named_though_it_does_not_count(rooms: Rooms) -> None:
    await rooms.report("key", at(0, BEST_EFFORT))
    rooms.clock.advance(LIVE_MS + 1)
    await rooms.report("key", at(0))
    await revoke(rooms)
    await rooms.report("key", at(1))
    found = await receipt(rooms)
    assert (found.of, found.is_enforced) == (1, True)
    assert [one.replica_id for one in found.best_effort] == ["lenient"]


async def test_a_bound_of_years_is_none(rooms: Rooms) -> None:
    await rooms.report("key", replace(STRICT, max_staleness_ms=2**53 - 1))
    await revoke(rooms)
    assert [one.refuses_at_ms for one in (await receipt(rooms)).behind] == [None]


async def test_those_count_that_were_live_then_or_have_reported_since(rooms: Rooms) -> None:
    await rooms.report("key", at(0, replica_id="gone long before"))
    await rooms.report("key", replace(at(0, replica_id="with a long bound"), max_staleness_ms=LIVE_MS + 1))
    await rooms.report("key", at(0, BEST_EFFORT, "lenient, and gone"))
    rooms.clock.advance(1)
    await rooms.report("key", at(0, replica_id="silent"))
    rooms.clock.advance(LIVE_MS)
    await revoke(rooms)
    rooms.clock.advance(LIVE_MS)
    await rooms.report("key", at(1, replica_id="new"))
    found = await receipt(rooms)
    assert (found.of, found.enforced, found.refusing) == (3, 2, 1)
    assert [one.replica_id for one in found.behind] == ["with a long bound"], "it may still let pass"


async def test_one_of_another_generation_is_behind(rooms: Rooms) -> None:
    await revoke(rooms)
    await rooms.report("key", replace(at(5), generation=0))
    assert not (await receipt(rooms)).is_enforced


async def test_an_id_belongs_to_its_key(rooms: Rooms) -> None:
    await rooms.report("key", at(0))
    await revoke(rooms)
    await rooms.report("another", at(1))
    found = await receipt(rooms)
    assert (found.of, found.enforced, [one.key_id for one in found.behind]) == (2, 1, ["key"])


async def test_the_furthest_behind_are_named_and_no_more_than_may(rooms: Rooms) -> None:
    await rooms.append(3)
    replicas = rooms.service.replicas
    reports = [at(number % 3, replica_id=f"replica-{number}") for number in range(3 * MOST_NAMED)]
    await asyncio.gather(*(replicas.report("key", one) for one in reports), replicas.write())
    found = await receipt(rooms, 3)
    assert (found.of, found.enforced, len(found.behind)) == (300, 0, 100)
    assert {one.seq for one in found.behind} == {0}


async def test_one_that_comes_while_somebody_waits_counts(rooms: Rooms) -> None:
    await rooms.report("key", at(0, replica_id="one"))
    await revoke(rooms)
    waiting = asyncio.create_task(rooms.service.receipts.of(1, 20))
    await until(lambda: rooms.service.receipts._seen != {}, "somebody looks")
    await rooms.report("key", at(0, replica_id="two"))
    await rooms.report("key", at(1, replica_id="one"))
    looked_at_s = rooms.service.receipts._look_at_s
    await until(lambda: rooms.service.receipts._look_at_s > looked_at_s + 2 * LOOK_S, "somebody looks again")
    assert not waiting.done()
    await rooms.append(1)
    await rooms.report("key", at(2, replica_id="two"))
    found = await waiting
    assert (found.of, found.enforced, found.is_enforced) == (2, 2, True)
    assert found.last_ms == 0, "it was seen not to be there, and then to be further"


async def test_many_who_wait_look_as_one_and_hold_nothing_of_the_database(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rooms.report("key", at(0))
    await revoke(rooms)
    looks, everyone = 0, Replicas.all

    async def look(self: Replicas) -> object:
        nonlocal looks
        looks += 1
        return await everyone(self)

    monkeypatch.setattr(Replicas, "all", look)
    waiting = [asyncio.create_task(rooms.service.receipts.of(1, 20)) for _ in range(60)]
    await until(lambda: looks >= 3, "they look")
    assert not any(task.done() for task in waiting)
    for _ in range(20):
        await rooms.service.reading.entry(1)
    await rooms.report("key", at(1))
    began_at = looks
    receipts = await asyncio.gather(*waiting)
    assert {one.is_enforced for one in receipts} == {True}
    assert looks - began_at <= 2
    assert rooms.database._connections == set()


async def test_whoever_waits_is_answered_when_the_authority_stops(rooms: Rooms) -> None:
    await revoke(rooms)
    waiting = asyncio.create_task(rooms.service.receipts.of(1, 60))
    await until(lambda: rooms.service.receipts._look_at_s > 0, "somebody looks")
    rooms.service.receipts.close()
    assert not (await waiting).is_enforced
