"""Witnesses: what they have seen and the ledger does not hold stops whoever would sign or append."""

import asyncio
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from countermand.authority import witnesses as witnesses_module
from countermand.authority.model import Purpose, ReplicaReport, Session
from countermand.authority.rotation import OVERLAP_MS
from countermand.errors import DisputedError, UnreachableError
from countermand.log.anchor import Kind, Rev
from countermand.log.checkpoint import Checkpoint, claimed_signer, key_id
from countermand.log.state import LogState
from countermand.server.app import create_app
from tests.backups import Memory, back_up, put_back, put_back_beneath
from tests.integration.problems import refused_by_oauth
from tests.integration.rooms import AUDIENCE, ISSUER, NOW_MS, HeldClock, Rooms, rooms_open
from tests.running import authority_running

pytestmark = pytest.mark.anyio


async def restored(path: Path, lost: int = 2) -> tuple[Session, bytes, bytes]:
    """Restore an authority that has revoked one session, and then `lost` more.

    Return a session that stands, the checkpoint at the backup, and the last one.
    """
    async with rooms_open(path) as rooms:
        session = await rooms.session()
        await rooms.append(1)
        before = (await rooms.heartbeat.sign()).signed
        back_up(rooms.data, path / "backup.db")
        await rooms.append(lost)
        last = (await rooms.heartbeat.sign()).signed
        data = rooms.data
    put_back(path / "backup.db", data)
    return session, before, last


async def is_disputed(rooms: Rooms, session: Session) -> None:
    """Nothing is signed, revoked or minted; what only reads is answered."""
    before = await rooms.head()
    with pytest.raises(DisputedError):
        await rooms.heartbeat.sign()
    with pytest.raises(DisputedError):
        await rooms.service.revoking.revoke(Kind.SESSION, session.id)
    with pytest.raises(DisputedError):
        await rooms.service.revoking.cut_off("all")
    with pytest.raises(DisputedError):
        await rooms.service.minting.issue(session.id, [AUDIENCE], [])
    assert (await rooms.service.reading.session(session.id)).revoked_at_ms is None
    assert (await rooms.service.revoking.preview(Kind.SESSION, session.id)).seq == before.rev.seq
    after = await rooms.head()
    assert (after.rev, after.link, after.is_disputed) == (before.rev, before.link, True)


async def test_a_witness_that_is_ahead_stops_everything_before_the_first_checkpoint_and_over_restarts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session, _, last = await restored(tmp_path)
    async with rooms_open(tmp_path, witnesses=[Memory([last])]) as rooms:
        await is_disputed_from_the_first_revocation(rooms, session)
        await is_disputed(rooms, session)
    alarms = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(alarms) == 1
    assert alarms[0].startswith("memory has seen 1.3, and the ledger does not hold that")
    async with rooms_open(tmp_path) as rooms:
        await is_disputed(rooms, session)


async def test_no_mandate_is_said_to_stand_while_its_revocation_may_be_lost(tmp_path: Path) -> None:
    async with rooms_open(tmp_path) as rooms:
        session, other = await rooms.session(), await rooms.session()
        lost, ended = [(await rooms.service.minting.issue(one.id, [AUDIENCE], [])).token for one in (session, other)]
        await rooms.service.revoking.revoke(Kind.SESSION, other.id)
        back_up(rooms.data, tmp_path / "backup.db")
        await rooms.service.revoking.revoke(Kind.SESSION, session.id)
        last = (await rooms.heartbeat.sign()).signed
        data = rooms.data
    put_back(tmp_path / "backup.db", data)
    async with rooms_open(tmp_path, witnesses=[Memory([last])]) as rooms:
        await is_disputed_at_the_next_beat(rooms)
        with pytest.raises(DisputedError):
            await rooms.service.presenting.find_standing(lost)
        assert await rooms.service.presenting.find_standing(ended) is None, "what has ended has ended"


async def is_disputed_from_the_first_revocation(rooms: Rooms, session: Session) -> None:
    """No checkpoint was asked for yet."""
    with pytest.raises(DisputedError):
        await rooms.service.revoking.revoke(Kind.SESSION, session.id)
    assert (await rooms.head()).rev == Rev(1, 1)


@pytest.mark.parametrize("more", [1, 2, 5], ids=["behind it", "at its number", "beyond it"])
async def test_another_history_contradicts_at_whatever_number_we_are(tmp_path: Path, more: int) -> None:
    session, _, last = await restored(tmp_path)
    async with rooms_open(tmp_path, witnesses=[Memory([last])]) as rooms:
        await rooms.append(more)
        await is_disputed(rooms, session)


async def test_a_witness_that_saw_what_the_ledger_holds_stops_nobody(tmp_path: Path) -> None:
    session, before, _ = await restored(tmp_path)
    memory = Memory([before])
    async with rooms_open(tmp_path, witnesses=[memory]) as rooms:
        await rooms.heartbeat.sign()
        await rooms.append(3)
        await rooms.heartbeat.witnesses.compare()
        await rooms.service.revoking.revoke(Kind.SESSION, session.id)
        assert (await rooms.heartbeat.sign()).checkpoint.rev == Rev(1, 5)
    assert memory.asked == 2


async def test_nobody_who_cannot_sign_can_stop_us(rooms: Rooms) -> None:
    """Forged, of another log, or no checkpoint at all: it proves nothing. A true one behind it does."""
    await rooms.append(1)
    true = (await rooms.heartbeat.sign()).checkpoint
    far = Checkpoint(true.log_id, Rev(9, 900), bytes(32), NOW_MS)
    forged = [far.sign(Ed25519PrivateKey.generate()), b"", os.urandom(153), far.sign(rooms.keys.checkpoint)[:-1]]
    await rooms.heartbeat.witnesses.hear("a liar", forged)
    await rooms.heartbeat.witnesses.note_report("a liar", forged[0])
    await rooms.heartbeat.sign()

    ahead = Checkpoint(true.log_id, Rev(1, 2), bytes(32), NOW_MS).sign(rooms.keys.checkpoint)
    with pytest.raises(DisputedError):
        await rooms.heartbeat.witnesses.hear("a liar, and the truth", [*forged, ahead])


async def test_a_replica_proves_its_position_by_the_checkpoint_that_it_applied(tmp_path: Path) -> None:
    async with rooms_open(tmp_path) as rooms:
        session = await rooms.session()
        await rooms.append(1)
        back_up(rooms.data, tmp_path / "backup.db")
        await rooms.append(1)
        state = LogState(rooms.pin)
        for candidate in await rooms.candidates():
            state.add(candidate)
        state.accept((await rooms.heartbeat.sign()).signed, rooms.clock())
        while state.advance():
            pass
        data = rooms.data
    put_back(tmp_path / "backup.db", data)
    async with rooms_open(tmp_path) as rooms:
        await rooms.heartbeat.sign()
        assert state.proof is not None
        with pytest.raises(DisputedError):
            await rooms.heartbeat.witnesses.note_report("rep_1", state.proof)
        await is_disputed(rooms, session)


async def test_a_report_that_contradicts_the_ledger_stops_whoever_signs_and_is_taken_all_the_same(rooms: Rooms) -> None:
    session = await rooms.session()
    true = (await rooms.heartbeat.sign()).checkpoint
    ahead = Checkpoint(true.log_id, Rev(1, 7), bytes(32), NOW_MS).sign(rooms.keys.checkpoint)
    report = ReplicaReport("rep_1", 1, 7, 0, strict=True, max_staleness_ms=30_000, at_ms=NOW_MS)
    await rooms.report("key", replace(report, replica_id="rep_2"), true.sign(rooms.keys.checkpoint))
    await rooms.heartbeat.sign()
    await rooms.report("key", report, ahead)
    assert {one.report.replica_id for one in await rooms.service.replicas.all()} == {"rep_1", "rep_2"}
    await is_disputed(rooms, session)


async def test_a_key_that_has_retired_is_heard_and_one_that_was_withdrawn_is_not(rooms: Rooms) -> None:
    true, retired = (await rooms.heartbeat.sign()).checkpoint, rooms.keys.checkpoint
    await rooms.service.rotation.rotate(Purpose.CHECKPOINT, force=True)
    rooms.clock.advance(OVERLAP_MS)
    await rooms.service.rotation.step()
    stolen = rooms.keys.checkpoint
    await rooms.service.rotation.withdraw_checkpoint_key(rooms.keys.checkpoint_id)
    assert not {key_id(one.public_key()) for one in (retired, stolen)} & rooms.pin.keys.keys()

    ahead = Checkpoint(true.log_id, Rev(1, 7), bytes(32), NOW_MS)
    await rooms.heartbeat.witnesses.hear("a thief", [ahead.sign(stolen)])
    await rooms.heartbeat.sign()
    with pytest.raises(DisputedError):
        await rooms.heartbeat.witnesses.hear("one who was away", [ahead.sign(retired)])


async def test_a_key_that_was_forgotten_with_the_ledger_is_heard_by_its_file(tmp_path: Path) -> None:
    memory = Memory()
    async with rooms_open(tmp_path) as rooms:
        session = await rooms.session()
        await rooms.heartbeat.sign()
        back_up(rooms.data, tmp_path / "backup.db")
        await rooms.service.rotation.rotate(Purpose.CHECKPOINT, force=True)
        await rooms.append(1)
        memory.checkpoints = [(await rooms.heartbeat.sign()).signed]
        data = rooms.data
    put_back(tmp_path / "backup.db", data)
    async with rooms_open(tmp_path, witnesses=[memory]) as rooms:
        assert claimed_signer(memory.checkpoints[0]) not in rooms.pin.keys
        await is_disputed(rooms, session)


async def test_a_witness_that_does_not_answer_keeps_nobody_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(Memory):
        async def furthest(self) -> list[bytes]:
            await asyncio.Event().wait()
            return []

    monkeypatch.setattr(witnesses_module, "WAIT_S", 0.05)
    away = Memory(error=UnreachableError("nobody is there"), name="the one that is away")
    async with rooms_open(tmp_path, witnesses=[away, Silent(name="the silent one")]) as rooms:
        await rooms.heartbeat.sign()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [("the one that is away" in warnings[0]), ("the silent one" in warnings[1])] == [True, True]


async def test_what_is_restored_beneath_a_process_is_missed_by_what_it_signed(tmp_path: Path, rooms: Rooms) -> None:
    session, other = await rooms.session(), await rooms.session()
    back_up(rooms.data, tmp_path / "backup.db")
    await rooms.append(1)
    await rooms.heartbeat.sign()
    put_back_beneath(tmp_path / "backup.db", rooms.data)
    with pytest.raises(DisputedError):
        await rooms.service.revoking.revoke(Kind.SESSION, other.id)
    await is_disputed(rooms, session)


async def test_what_is_restored_beneath_a_process_and_went_on_is_missed_by_its_link(
    tmp_path: Path, rooms: Rooms
) -> None:
    session = await rooms.session()
    back_up(rooms.data, tmp_path / "backup.db")
    await rooms.append(1)
    await rooms.heartbeat.sign()
    put_back_beneath(tmp_path / "backup.db", rooms.data)
    await rooms.append(3)
    await is_disputed_at_the_next_beat(rooms)
    await is_disputed(rooms, session)


async def is_disputed_at_the_next_beat(rooms: Rooms) -> None:
    with pytest.raises(DisputedError):
        await rooms.heartbeat.sign()


async def test_witnesses_are_asked_again_when_this_may_be_another_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory()
    async with rooms_open(tmp_path, witnesses=[memory]) as rooms:
        session = await rooms.session()
        for _ in range(3):
            await rooms.heartbeat.sign()
        assert memory.asked == 1

        async def promoted(_connection: object) -> str:
            return "another timeline"

        monkeypatch.setattr(rooms.database, "identity", promoted)
        for _ in range(3):
            await rooms.heartbeat.sign()
        assert memory.asked == 2

        async def promoted_again(_connection: object) -> str:
            return "one more"

        true = (await rooms.heartbeat.sign()).checkpoint
        memory.checkpoints = [
            Checkpoint(true.log_id, Rev(1, 1), bytes(32), NOW_MS).sign(rooms.keys.checkpoint),
        ]
        monkeypatch.setattr(rooms.database, "identity", promoted_again)
        await is_disputed(rooms, session)


async def test_a_revocation_too_is_refused_where_this_may_be_another_database_and_a_witness_contradicts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standby was promoted that lacks the last commits: the heartbeat has not seen it yet."""
    memory = Memory()
    async with rooms_open(tmp_path, witnesses=[memory]) as rooms:
        session = await rooms.session()
        await rooms.heartbeat.sign()
        lost = Checkpoint(rooms.ledger.log_id, Rev(1, 1), bytes(32), NOW_MS)
        memory.checkpoints = [lost.sign(rooms.keys.checkpoint)]

        async def promoted(_connection: object) -> str:
            return "another timeline"

        monkeypatch.setattr(rooms.database, "identity", promoted)
        with pytest.raises(DisputedError):
            await rooms.service.revoking.revoke(Kind.SESSION, session.id)
        assert await rooms.ledger.count() == 0


async def test_an_authority_answers_nothing_before_the_witnesses_were_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Memory):
        async def furthest(self) -> Sequence[bytes]:
            await asyncio.sleep(0.2)
            return self.checkpoints

    session, _, last = await restored(tmp_path)
    monkeypatch.setattr("countermand.wiring.authority._witnesses", lambda _settings: [Slow([last])])
    monkeypatch.setattr("countermand.wiring.authority.system_clock", HeldClock())
    async with authority_running(tmp_path) as running:
        with pytest.raises(DisputedError):
            await running.authority.service.minting.issue(session.id, [AUDIENCE], [])


async def test_a_request_in_which_a_witness_was_heard_is_not_done_by_that(tmp_path: Path) -> None:
    """What was refused is noted nowhere: whoever repeats it once the ledger is mended ends what it was to end."""
    session, _, last = await restored(tmp_path)
    async with rooms_open(tmp_path, witnesses=[Memory([last])]) as rooms:
        once = rooms.service.once
        request = once.request("operator", "key", b"POST", b"/v1/revocations")
        with once.noting(request), pytest.raises(DisputedError):
            await rooms.service.revoking.revoke(Kind.SESSION, session.id, "leaked")
        assert (await rooms.head()).is_disputed
        await rooms.service.recovery.recover()
        again = once.request("operator", "key", b"POST", b"/v1/revocations")
        assert await once.find(again) is None
        with once.noting(again):
            assert (await rooms.service.revoking.revoke(Kind.SESSION, session.id, "leaked")).is_new


async def test_applications_hear_of_a_dispute_as_oauth_says_it(tmp_path: Path) -> None:
    session, _, last = await restored(tmp_path)
    async with rooms_open(tmp_path, witnesses=[Memory([last])]) as rooms:
        with pytest.raises(DisputedError):
            await rooms.heartbeat.sign()
        key = await rooms.access.create_for(session.application_id, "notes")
        app = create_app(rooms.service, rooms.access, rooms.reader, ISSUER, os.urandom)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=ISSUER) as http:
            asked = {"grant_type": "client_credentials", "audience": AUDIENCE}
            answer = await http.post("/oauth2/token", data=asked, auth=(session.application_id, key.secret))
        refused_by_oauth(answer, 503, "temporarily_unavailable")
        assert answer.headers["retry-after"] == "1"
