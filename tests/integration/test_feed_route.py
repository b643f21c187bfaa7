"""The log over HTTP: events that parse, from any place, with a key; snapshots; and an end when the authority ends."""

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from countermand.authority import heartbeat as heartbeat_module
from countermand.authority.model import Role
from countermand.errors import BusyError, DataError, RefusedError
from countermand.log.feed import Event, EventParser, FeedParser
from countermand.log.ports import Batch
from countermand.log.snapshot import SnapshotReader
from countermand.log.state import LogState
from countermand.server.app import create_app
from countermand.transport.http import HttpLog, open_client
from countermand.wiring import system_clock
from countermand.wiring.serve import bound, serving
from tests.integration.problems import refused
from tests.integration.rooms import ISSUER, Rooms
from tests.running import Running, authority_running, until

pytestmark = pytest.mark.anyio


async def _revoke(running: Running, count: int) -> list[str]:
    """Revoke `count` new sessions, and return their ids."""
    application = await running.client.create_application("notes")
    ids = []
    for _ in range(count):
        session = await running.client.open_session(application["id"], "alice")
        await running.client.revoke("session", session["id"], "Zoë said so")
        ids.append(session["id"])
    return ids


@asynccontextmanager
async def _stream(running: Running, path: str, key: str | None = None) -> AsyncIterator[httpx2.Response]:
    headers = {"authorization": f"Bearer {key or running.replica_key}"}
    async with (
        open_client(10, url=running.url, headers=headers) as client,
        client.stream("GET", path) as response,
    ):
        yield response


async def _events(response: httpx2.Response) -> AsyncGenerator[Event, None]:
    parser = EventParser()
    async for chunk in response.aiter_raw():
        for event in parser.feed(chunk):
            yield event


async def _until_covered(response: httpx2.Response, seq: int) -> list[int]:
    """Read until a checkpoint comes after entry `seq`; return the numbers of the entries that came."""
    seqs: list[int] = []
    async with asyncio.timeout(10), aclosing(_events(response)) as events:
        async for event in events:
            if event.type == "entry":
                seqs.append(int(json.loads(event.data)["cm_seq"]))
            elif seqs[-1:] == [seq]:
                break
    return seqs


async def test_the_feed_is_an_event_stream_that_nothing_on_the_way_may_keep_or_hold_back(running: Running) -> None:
    async with _stream(running, "/v1/log") as response:
        assert response.status_code == 200
        assert response.headers["content-type"].split(";")[0] == "text/event-stream"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in response.headers


async def test_an_event_holds_the_documented_fields_and_ours_in_ascii(running: Running) -> None:
    [id_] = await _revoke(running, 1)
    async with _stream(running, "/v1/log") as response, aclosing(_events(response)) as events:
        async for event in events:
            if event.type == "entry":
                break
    assert event.data.isascii()
    fields = json.loads(event.data)
    assert (fields["zone_id"], fields["session_id"], fields["sid"]) == ("default", id_, id_)
    assert fields["reason"] == r"Zo\xeb said so"
    assert set(fields) == {"zone_id", "session_id", "sid", "reason", "cm_seq", "cm_prev", "cm_entry"}


async def test_the_feed_leads_a_replica_to_the_head(running: Running) -> None:
    await _revoke(running, 3)
    parser, state = FeedParser(), LogState(running.authority.pin)
    async with asyncio.timeout(10), _stream(running, "/v1/log") as response:
        async for chunk in response.aiter_raw():
            batch = parser.feed(chunk)
            for candidate in batch.candidates:
                state.add(candidate)
            for signed in batch.checkpoints:
                state.accept(signed, system_clock())
                state.advance()
            if state.rev.seq == 3:
                break
    assert len(state) == 3


@pytest.mark.parametrize(("after", "expected"), [(0, [1, 2, 3, 4, 5]), (2, [3, 4, 5]), (4, [5])])
async def test_the_feed_goes_on_after_the_place_that_was_asked_for(
    running: Running, after: int, expected: list[int]
) -> None:
    await _revoke(running, 5)
    async with _stream(running, f"/v1/log?after={after}") as response:
        assert await _until_covered(response, 5) == expected


async def test_a_place_beyond_the_head_gets_checkpoints_and_then_only_what_is_beyond_it(running: Running) -> None:
    await _revoke(running, 2)
    async with _stream(running, "/v1/log?after=3") as response, aclosing(_events(response)) as events:
        async with asyncio.timeout(10):
            assert (await anext(events)).type == "checkpoint"
        await _revoke(running, 2)
        async with asyncio.timeout(10):
            while (event := await anext(events)).type == "checkpoint":
                pass
        assert json.loads(event.data)["cm_seq"] == "4"


async def test_a_revocation_reaches_an_open_feed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat_module, "INTERVAL_S", 3_600.0)  # no checkpoint comes by itself
    async with (
        authority_running(tmp_path) as running,
        _stream(running, "/v1/log") as response,
        aclosing(_events(response)) as events,
        asyncio.timeout(10),
    ):
        assert (await anext(events)).type == "checkpoint"
        await _revoke(running, 1)
        assert [(await anext(events)).type for _ in range(2)] == ["entry", "checkpoint"]


async def test_checkpoints_come_every_second_though_nothing_happens(running: Running) -> None:
    loop = asyncio.get_running_loop()
    async with (
        _stream(running, "/v1/log") as response,
        aclosing(_events(response)) as events,
        asyncio.timeout(10),
    ):
        await anext(events)
        started = loop.time()
        assert {(await anext(events)).type for _ in range(2)} == {"checkpoint"}
    assert loop.time() - started > 1


async def test_the_snapshot_is_bytes_that_a_replica_accepts(running: Running) -> None:
    await _revoke(running, 4)
    reader = SnapshotReader(running.authority.pin)
    async with _stream(running, "/v1/log/snapshot") as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/octet-stream"
        assert response.headers["cache-control"] == "no-store"
        async for chunk in response.aiter_raw():
            reader.feed(chunk)
    snapshot = reader.finish()
    assert snapshot.header.count == snapshot.header.checkpoint.rev.seq <= 4


async def test_our_own_client_reads_both_with_either_role_and_neither_with_another_key(running: Running) -> None:
    for key in (running.replica_key, running.admin_key):
        log = HttpLog(running.url, key)
        async with aclosing(log.follow(0)) as batches:
            assert (await anext(batches)).checkpoints
        assert b"".join([chunk async for chunk in log.snapshot()])
    wrong = HttpLog(running.url, running.replica_key[:-8] + "00000000")
    for stream in (wrong.follow(0), wrong.snapshot()):
        with pytest.raises(RefusedError):
            await anext(stream)


async def test_a_feed_without_a_key_is_refused_before_it_begins(running: Running) -> None:
    async with open_client(10, url=running.url) as client:
        for path in ("/v1/log", "/v1/log/snapshot"):
            refused(await client.get(path), 401, "unauthenticated")


async def test_readers_that_go_away_leave_nothing_behind(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    before = _waiting()
    for _ in range(10):
        async with _stream(running, "/v1/log") as response:
            await anext(response.aiter_raw())
    await until(lambda: _waiting() <= before, "their tasks have ended")
    await _revoke(running, 1)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def _waiting() -> int:
    return len([task for task in asyncio.all_tasks() if not task.done()])


async def test_an_authority_that_stops_ends_every_feed(tmp_path: Path) -> None:
    async with authority_running(tmp_path) as running:
        feeds = [HttpLog(running.url, running.replica_key).follow(0) for _ in range(5)]
        for feed in feeds:
            await anext(feed)
    for feed in feeds:
        async with asyncio.timeout(5):
            assert all([batch.checkpoints async for batch in feed]), "it ends as it should, and is not broken off"


class _FailingLog:
    """A log that breaks off after its first piece."""

    async def follow(self, after: int) -> AsyncGenerator[Batch, None]:
        yield Batch(checkpoints=(b"checkpoint %d" % after,))
        raise DataError("the database cannot be read")

    async def snapshot(self) -> AsyncGenerator[bytes, None]:
        yield b"header"
        raise BusyError("too much at once")


@pytest.mark.parametrize(("path", "code"), [("/v1/log", "data"), ("/v1/log/snapshot", "busy")])
async def test_an_error_in_the_midst_of_an_answer_is_one_line_in_the_log_and_ends_the_answer(
    rooms: Rooms, caplog: pytest.LogCaptureFixture, path: str, code: str
) -> None:
    keys: list[str] = []
    await rooms.access.ensure(Role.REPLICA, "replica", keys.append)
    app = create_app(rooms.service, rooms.access, _FailingLog(), ISSUER, os.urandom)
    with bound("127.0.0.1", 0) as (listener, url):
        async with serving(app, listener), open_client(10, url=url) as client:
            response = await client.get(path, headers={"authorization": f"Bearer {keys[0]}"})
    assert (response.status_code, response.content[:6]) == (200, b"event:" if code == "data" else b"header")
    [record] = [record for record in caplog.records if record.levelno > logging.INFO]
    assert (record.levelname, record.__dict__["code"], record.exc_info) == ("WARNING", code, None)


async def test_every_replica_of_many_hears_of_a_revocation(running: Running) -> None:
    async def first_entry() -> int:
        async with _stream(running, "/v1/log") as response:
            [seq] = await _until_covered(response, 1)
            return seq

    readers = [asyncio.create_task(first_entry()) for _ in range(30)]
    await _revoke(running, 1)
    assert await asyncio.gather(*readers) == [1] * 30
