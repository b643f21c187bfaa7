"""What replicas report: written together, answered when that is committed, bound to a key, and bounded."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import event, select

from countermand.authority import tables
from countermand.authority.database import Database
from countermand.authority.model import ReplicaReport
from countermand.authority.replicas import KEPT_MS, LIVE_MS, MAX_OF_KEY
from countermand.authority.witnesses import Witnesses
from countermand.errors import AuthorityError, BusyError
from countermand.transport.http import open_client
from countermand.wiring.tasks import beside
from tests.integration.rooms import Rooms
from tests.looking import commits_failing, held, looking_into
from tests.running import Running, ServerProcess, until

pytestmark = pytest.mark.anyio

REPORT = ReplicaReport("one", 1, 0, 0, strict=True, max_staleness_ms=30_000, at_ms=1)
BODY = {"generation": 1, "seq": 0, "keyset": 0, "strict": True, "max_staleness_ms": 30_000, "at_ms": 1}


def report(replica_id: str = "one", keyset: int = 0, seq: int = 0) -> ReplicaReport:
    return replace(REPORT, replica_id=replica_id, keyset=keyset, seq=seq)


@contextmanager
def counting_commits(database: Database) -> Iterator[list[object]]:
    """Give a list that grows with every commit of a transaction that may write."""
    commits: list[object] = []

    def note(connection: object) -> None:
        commits.append(connection)

    engine = database._writer.sync_engine
    event.listen(engine, "commit", note)
    try:
        yield commits
    finally:
        event.remove(engine, "commit", note)


@asynccontextmanager
async def writing_reports(rooms: Rooms) -> AsyncIterator[None]:
    async with beside(rooms.service.replicas.run()):
        yield


async def test_reports_are_the_last_of_each_replica_and_bound_to_its_key(rooms: Rooms) -> None:
    replicas = rooms.service.replicas
    await rooms.report("key", report())
    await rooms.report("other", report(keyset=1))
    assert {(one.key_id, one.report.keyset) for one in await replicas.all()} == {("key", 0), ("other", 1)}
    assert all(replicas.is_live(one) for one in await replicas.all())
    began_ms = rooms.clock.wall_ms
    rooms.clock.advance(1)
    await rooms.report("key", report())
    assert {one.reported_at_ms for one in await replicas.all()} == {began_ms, began_ms + 1}


async def test_the_first_report_from_a_position_is_remembered(rooms: Rooms) -> None:
    began_ms = rooms.clock.wall_ms
    for seq, after_ms in ((1, 0), (1, 10), (2, 30), (2, 40), (1, 60)):
        rooms.clock.wall_ms = began_ms + after_ms
        await rooms.report("key", report(seq=seq))
        [one] = await rooms.service.replicas.all()
        first_ms = {(1, 0): 0, (1, 10): 0, (2, 30): 30, (2, 40): 30, (1, 60): 60}[seq, after_ms]
        assert (one.rev.seq, one.moved_at_ms, one.reported_at_ms) == (seq, began_ms + first_ms, began_ms + after_ms)


async def test_a_flood_of_reports_takes_few_transactions_and_each_is_written_when_it_is_answered(rooms: Rooms) -> None:
    replicas = rooms.service.replicas

    async def tell(number: int) -> None:
        for seq in range(1, 4):
            await replicas.report("key", report(f"replica-{number}", seq=seq))
            async with rooms.database.read() as connection:
                query = select(tables.replicas.c.seq).where(tables.replicas.c.replica_id == f"replica-{number}")
                assert (await connection.execute(query)).scalar_one() == seq

    with counting_commits(rooms.database) as commits:
        async with writing_reports(rooms):
            await asyncio.gather(*(tell(number) for number in range(100)))
    assert len(commits) <= 10, "of 300 reports"


async def test_of_two_reports_at_once_the_last_stands(rooms: Rooms) -> None:
    replicas = rooms.service.replicas
    first, last = replicas.report("key", report(seq=1)), replicas.report("key", report(seq=2))
    await asyncio.gather(first, last, replicas.write())
    assert [one.rev.seq for one in await replicas.all()] == [2]


async def test_a_checkpoint_that_many_have_applied_is_heard_once(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes] = []

    async def hear(_self: Witnesses, _replica_id: str, signed: bytes) -> None:
        heard.append(signed)

    monkeypatch.setattr(Witnesses, "note_report", hear)
    replicas = rooms.service.replicas
    proofs = [b"one", b"another"] * 20
    reports = (replicas.report("key", report(f"replica-{n}"), proof) for n, proof in enumerate(proofs))
    await asyncio.gather(*reports, replicas.write())
    assert sorted(heard) == [b"another", b"one"]


async def test_who_reports_while_nothing_can_be_written_is_refused_and_the_next_is_not(rooms: Rooms) -> None:
    replicas = rooms.service.replicas
    async with writing_reports(rooms):
        async with commits_failing(rooms.data, "INSERT ON replicas"):
            reports = (replicas.report("key", report(f"replica-{number}")) for number in range(3))
            outcomes = await asyncio.gather(*reports, return_exceptions=True)
        assert [isinstance(outcome, AuthorityError) for outcome in outcomes] == [True] * 3
        assert await replicas.all() == []
        await replicas.report("key", report())
    assert len(await replicas.all()) == 1


async def test_who_waits_when_the_authority_stops_is_refused(rooms: Rooms) -> None:
    async with held(rooms.data):
        async with writing_reports(rooms):
            waiting = asyncio.create_task(rooms.service.replicas.report("key", report()))
            await until(lambda: rooms.database._writing != set(), "it is about to be written")
        with pytest.raises(BusyError, match="is stopping"):
            await waiting


async def test_no_more_report_with_a_key_than_may(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("countermand.authority.replicas.MAX_OF_KEY", 1)
    replicas = rooms.service.replicas
    await rooms.report("key", report())
    with pytest.raises(BusyError, match="1 replicas report"):
        await rooms.report("key", report("two"))
    async with writing_reports(rooms):
        outcomes = await asyncio.gather(
            replicas.report("key", report()),
            replicas.report("key", report("two")),
            replicas.report("other", report("two")),
            return_exceptions=True,
        )
    assert [type(outcome) for outcome in outcomes] == [type(None), BusyError, type(None)], "others wait for nobody"
    rooms.clock.advance(KEPT_MS + 1)
    await rooms.report("key", report("two"))
    async with rooms.database.read() as connection:
        rows = (await connection.execute(select(tables.replicas.c.replica_id))).scalars().all()
    assert rows == ["two"], "what is older than a day makes room"
    assert MAX_OF_KEY > 1


async def test_replicas_that_were_replaced_make_room_for_those_that_live(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start of a resource server makes up another id: a day of them is more than live at once."""
    monkeypatch.setattr("countermand.authority.replicas.MAX_OF_KEY", 2)
    for before in ("one", "two"):
        await rooms.report("key", report(before))
    await rooms.report("other", report("theirs"))
    rooms.clock.advance(LIVE_MS)
    await rooms.report("key", report("two"))
    with pytest.raises(BusyError):
        await rooms.report("key", report("three"))
    rooms.clock.advance(1)
    await rooms.report("key", report("three"))
    assert {one.report.replica_id for one in await rooms.service.replicas.all()} == {"two", "three", "theirs"}


async def test_whoever_could_still_let_pass_keeps_its_room_longest(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("countermand.authority.replicas.MAX_OF_KEY", 3)
    patient = replace(report("patient"), max_staleness_ms=10 * LIVE_MS)
    for before in (patient, replace(report("lenient"), strict=False), report("usual")):
        await rooms.report("key", before)
    rooms.clock.advance(LIVE_MS + 1)
    for new, stay in (("one", {"patient", "lenient", "one"}), ("two", {"patient", "one", "two"})):
        await rooms.report("key", report(new))
        assert {one.report.replica_id for one in await rooms.service.replicas.all()} == stay
    with pytest.raises(BusyError):
        await rooms.report("key", report("three"))


async def test_one_who_does_not_wait_for_the_answer_takes_nobody_elses(rooms: Rooms) -> None:
    replicas = rooms.service.replicas
    gone, waiting = (asyncio.create_task(replicas.report("key", report(name))) for name in ("one", "two"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    await replicas.write()
    await waiting
    assert {one.report.replica_id for one in await replicas.all()} == {"one", "two"}


async def test_one_that_was_silent_and_is_back_keeps_its_room(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    for before in ("one", "two"):
        await rooms.report("key", report(before))
    rooms.clock.advance(LIVE_MS + 1)
    monkeypatch.setattr("countermand.authority.replicas.MAX_OF_KEY", 2)
    replicas = rooms.service.replicas
    replicas._known.clear()  # as another process would know it
    await asyncio.gather(
        replicas.report("key", report("two")), replicas.report("key", report("three")), replicas.write()
    )
    assert {one.report.replica_id for one in await replicas.all()} == {"two", "three"}


async def test_a_report_that_is_repeated_with_a_key_of_its_own_is_answered_again(shared: Running) -> None:
    headers = {"authorization": f"Bearer {shared.replica_key}", "idempotency-key": "once"}
    async with open_client(10, url=shared.url, headers=headers) as http:
        answers = [await http.post("/v1/replicas", json=BODY | {"replica_id": "one"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [204, 204]
    assert "idempotent-replayed" in answers[1].headers


async def test_nothing_that_was_answered_is_lost_when_the_authority_stops(tmp_path: Path) -> None:
    answered: set[str] = set()
    async with ServerProcess(tmp_path) as server:
        key = server.data.replica_key.read_text().strip()

        async def tell(http: httpx2.AsyncClient, number: int) -> None:
            for again in range(1_000):
                replica_id = f"replica-{number}-{again}"
                answer = await http.post("/v1/replicas", json=BODY | {"replica_id": replica_id})
                if answer.status_code == 204:
                    answered.add(replica_id)

        async with open_client(10, url=server.url, headers={"authorization": f"Bearer {key}"}) as http:
            tasks = [asyncio.create_task(tell(http, number)) for number in range(8)]
            await until(lambda: len(answered) > 16, "replicas report")
            assert await server.terminate() == 0
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, httpx2.HTTPError) for outcome in outcomes), "they went on to the end"
    async with looking_into(server.data) as look:
        written = {replica_id for (replica_id,) in await look.execute("SELECT replica_id FROM replicas")}
    assert answered <= written
