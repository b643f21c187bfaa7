"""The ledger: no gap, no entry of a transaction that failed, and no start on one that does not add up."""

import asyncio
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from countermand.authority.ledger import DAY_MS, HOUR_MS
from countermand.errors import DataError, InvalidValueError, MalformedError, NotFoundError
from countermand.log.anchor import Kind, own_id
from countermand.log.chain import genesis
from countermand.log.entry import Entry
from tests import databases
from tests.integration.rooms import LATER_MS, NOW_MS, Rooms, rooms_open
from tests.looking import REFUSED_AT_COMMIT, commits_failing, looking_into, writing
from tests.running import PROOF

pytestmark = pytest.mark.anyio


def _new_id() -> str:
    return own_id(Kind.SESSION, os.urandom(16))


async def test_a_new_ledger_ends_at_the_genesis_of_its_own_log(rooms: Rooms, tmp_path: Path) -> None:
    head = await rooms.head()
    assert (head.rev.generation, head.rev.seq) == (1, 0)
    assert head.link == genesis(rooms.ledger.log_id, 1)
    (tmp_path / "other").mkdir()
    async with rooms_open(tmp_path / "other") as other:
        assert other.ledger.log_id != rooms.ledger.log_id


async def test_entries_are_numbered_from_one_and_chained_to_the_head(rooms: Rooms) -> None:
    await rooms.append(5)
    await rooms.append(3)
    candidates = await rooms.candidates()
    assert [candidate.seq for candidate in candidates] == list(range(1, 9))
    assert candidates[0].previous == genesis(rooms.ledger.log_id, 1)
    assert all(one.link == following.previous for one, following in pairwise(candidates))
    assert candidates[-1].link == (await rooms.head()).link


@pytest.mark.sqlite  # elsewhere to append is to commit
async def test_a_transaction_that_fails_after_it_appended_leaves_no_entry_and_no_number(rooms: Rooms) -> None:
    await rooms.append(1)
    before = await rooms.head()

    async def fail() -> None:
        async with writing(rooms.database) as connection:
            await rooms.append_in(connection)
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert await rooms.head() == before
    await rooms.append(1)
    assert [candidate.seq for candidate in await rooms.candidates()] == [1, 2]


async def test_a_commit_that_fails_leaves_no_entry_and_the_session_as_it_was(
    rooms: Rooms, database_kind: databases.Kind
) -> None:
    session = await rooms.session()
    async with commits_failing(rooms.data, "UPDATE ON head"):
        with pytest.raises(DataError, match=REFUSED_AT_COMMIT[database_kind]):
            await rooms.service.revoking.revoke(Kind.SESSION, session.id)
    assert (await rooms.head()).rev.seq == 0
    assert (await rooms.service.reading.session(session.id)).revoked_at_ms is None
    assert (await rooms.service.revoking.revoke(Kind.SESSION, session.id)).seq == 1


_BEGUN = {"sqlite": "BEGIN IMMEDIATE", "postgres": "SELECT set_config('synchronous_commit', %(durable)s,"}
_LINED_UP = {"sqlite": [], "postgres": ["SELECT pg_advisory_xact_lock(ordered.number) AS"]}
_COUNTED = {
    "sqlite": ["WITH looked_at AS"],
    "postgres": [
        "SAVEPOINT sa_savepoint_1",
        "SELECT set_config('statement_timeout', %(timeout)s,",
        "WITH looked_at AS",
        "SELECT set_config('statement_timeout', %(timeout)s,",
        "RELEASE SAVEPOINT sa_savepoint_1",
    ],
}
_APPENDED = {
    "sqlite": [
        "SELECT head.only, head.generation,",
        "INSERT INTO entries",
        "UPDATE head SET",
        "SELECT audit_head.only, audit_head.number,",
        "INSERT INTO audit",
        "UPDATE audit_head SET",
    ],
    "postgres": [],  # one step that commits too, in one round trip past SQLAlchemy
}


async def test_both_heads_are_locked_last_of_all_in_a_revocation(rooms: Rooms, database_kind: databases.Kind) -> None:
    session = await rooms.session()
    await rooms.service.revoking.confirm()  # witnesses are asked once
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(" ".join(statement.replace('"', "").split()[:3]))

    engine = rooms.database._writer.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    await rooms.service.revoking.revoke(Kind.SESSION, session.id)
    event.remove(engine, "before_cursor_execute", note)
    assert statements == [
        _BEGUN[database_kind],
        *_LINED_UP[database_kind],
        "SELECT anchors.number, anchors.id,",
        "SELECT heartbeat.at_ms FROM",
        *_COUNTED[database_kind],
        "UPDATE anchors SET",
        "INSERT INTO cascades",
        "SELECT anon_1.number FROM",  # the Biscuits that end with it
        "SELECT log.longest_mandate_s FROM",
        *_APPENDED[database_kind],
    ]


async def test_of_many_who_revoke_one_session_at_once_exactly_one_makes_the_entry(rooms: Rooms) -> None:
    session = await rooms.session()
    answers = await asyncio.gather(
        *(rooms.service.revoking.revoke(Kind.SESSION, session.id, f"{n}") for n in range(20))
    )
    assert [answer.is_new for answer in answers].count(True) == 1
    assert {(answer.seq, answer.reason) for answer in answers} == {(1, next(a.reason for a in answers if a.is_new))}
    assert (await rooms.head()).rev.seq == 1


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE head SET seq = 2",
        "UPDATE head SET seq = 4",
        "UPDATE head SET link = :zeroes",
        "UPDATE entries SET link = :zeroes WHERE seq = 3",
        "DELETE FROM entries WHERE seq = 3",
        "DELETE FROM entries",
    ],
)
async def test_a_ledger_whose_head_is_not_where_its_entries_end_is_refused_at_start(
    tmp_path: Path, damage: str
) -> None:
    async with rooms_open(tmp_path) as rooms:
        await rooms.append(3)
    async with looking_into(rooms.data) as look:
        await look.execute(damage, **({"zeroes": bytes(32)} if ":zeroes" in damage else {}))
    with pytest.raises(DataError, match="the ledger's head is not where its entries end"):
        async with rooms_open(tmp_path):
            pass


async def test_a_database_that_knows_its_log_and_not_its_head_is_refused_at_start(tmp_path: Path) -> None:
    async with rooms_open(tmp_path) as rooms:
        pass
    async with looking_into(rooms.data) as look:
        await look.execute("DELETE FROM head")
    with pytest.raises(DataError):
        async with rooms_open(tmp_path):
            pass


async def test_a_restart_goes_on_where_the_ledger_ended(tmp_path: Path) -> None:
    async with rooms_open(tmp_path) as rooms:
        await rooms.append(3)
        head = await rooms.head()
    async with rooms_open(tmp_path) as rooms:
        assert await rooms.head() == head
        await rooms.append(1)
        assert (await rooms.candidates())[-1].previous == head.link


async def test_pages_give_what_was_asked_for_and_no_more(rooms: Rooms) -> None:
    await rooms.fill(2_005)
    await rooms.append(1)
    pages = [[candidate.seq for candidate in page] async for page in rooms.ledger.pages(2, 2_004)]
    assert [len(page) for page in pages] == [1000, 1000, 2]
    assert [seq for page in pages for seq in page] == list(range(3, 2_005))
    assert [page async for page in rooms.ledger.pages(2_005, 2_005)] == []
    assert [page async for page in rooms.ledger.pages(9_000, 2_005)] == []


async def test_only_what_a_replica_may_have_forgotten_is_out_of_force(rooms: Rooms) -> None:
    await rooms.append(1, expires_at_ms=NOW_MS + 5_000)
    await rooms.append(1, expires_at_ms=None)
    await rooms.append(1, expires_at_ms=LATER_MS)

    async def in_force(at_ms: int, through: int = 3) -> list[int]:
        return sorted(Entry.parse(data).seq for data in await rooms.ledger.in_force(at_ms, through))

    assert await in_force(NOW_MS) == [1, 2, 3]
    assert await in_force(NOW_MS + 5_999) == [1, 2, 3], "a replica forgets when the tolerance has passed too"
    assert await in_force(NOW_MS + 6_000) == [2, 3]
    assert await in_force(NOW_MS, through=2) == [1, 2]


@pytest.mark.parametrize(
    ("configured", "longest_s"), [([900], 900), ([900, 86_400, 900], 86_400), ([86_400, 60], 86_400)]
)
async def test_an_entry_outlives_every_mandate_that_was_ever_configured(
    tmp_path: Path, configured: list[int], longest_s: int
) -> None:
    for mandate_s in configured[:-1]:
        async with rooms_open(tmp_path, mandate_s=mandate_s):
            pass
    async with rooms_open(tmp_path, mandate_s=configured[-1]) as rooms:
        session = await rooms.session()
        await rooms.service.revoking.revoke(Kind.SESSION, session.id)
        [candidate] = await rooms.candidates()
    entry = Entry.parse(candidate.entry)
    assert entry.expires_at_ms is not None
    assert entry.expires_at_ms - entry.at_ms == max(DAY_MS, (longest_s + 10) * 1000) + HOUR_MS


_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=120)


@given(reasons=st.lists(_TEXT, min_size=1, max_size=5))
@settings(
    max_examples=40 if PROOF else 12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_the_bytes_in_the_database_are_the_one_form_of_the_entry(rooms: Rooms, reasons: list[str]) -> None:
    """The one database of this test grows with every example."""
    first = (await rooms.head()).rev.seq + 1
    sessions = [await rooms.session(subject="Zoë") for _ in reasons]
    for session, reason in zip(sessions, reasons, strict=True):
        await rooms.service.revoking.revoke(Kind.SESSION, session.id, reason)
    async with looking_into(rooms.data) as look:
        rows = await look.execute(
            "SELECT seq, generation, kind, issuer, id, expires_at_ms, data FROM entries "
            "WHERE seq >= :first ORDER BY seq",
            first=first,
        )
    assert len(rows) == len(reasons)
    for row, session, reason in zip(rows, sessions, reasons, strict=True):
        entry = Entry.parse(row[-1])
        assert entry.to_bytes() == row[-1]
        assert (entry.seq, entry.generation, int(entry.kind), entry.issuer, entry.id, entry.expires_at_ms) == row[:-1]
        assert (entry.kind, entry.id, entry.reason, entry.at_ms) == (Kind.SESSION, session.id, reason, NOW_MS)


@pytest.mark.parametrize("reason", ["x" * 513, "é" * 257, "a\nb", "a\x00b", "\u2028", "\ud800"])
async def test_a_reason_that_the_ledger_may_not_hold_is_refused_before_anything_changes(
    rooms: Rooms, reason: str
) -> None:
    session = await rooms.session()
    with pytest.raises(InvalidValueError):
        await rooms.service.revoking.revoke(Kind.SESSION, session.id, reason)
    assert (await rooms.service.reading.session(session.id)).revoked_at_ms is None
    assert (await rooms.head()).rev.seq == 0


async def test_the_ledger_itself_refuses_a_text_that_it_may_not_hold(rooms: Rooms) -> None:
    with pytest.raises(MalformedError):
        await rooms.append(1, reason="two\nlines")
    assert (await rooms.head()).rev.seq == 0


@pytest.mark.parametrize("id_", [own_id(Kind.SESSION, bytes(16)), own_id(Kind.AGENT, bytes(16)), "ses_", "", "\x00"])
async def test_nothing_that_was_never_opened_is_revoked(rooms: Rooms, id_: str) -> None:
    with pytest.raises(NotFoundError):
        await rooms.service.revoking.revoke(Kind.SESSION, id_)
    assert (await rooms.head()).rev.seq == 0
