"""The log over HTTP, from servers that misbehave: each time an error of ours, in bounded time and memory.

Both ends of every socket are in a held event loop, so that ten seconds of silence take none.
"""

import asyncio
import logging
import tracemalloc
from contextlib import aclosing

import pytest

from countermand.errors import (
    BadAnswerError,
    BadSignatureError,
    CountermandError,
    MalformedError,
    RefusedError,
    SnapshotMismatchError,
    UnknownVersionError,
    UnreachableError,
)
from countermand.log.feed import checkpoint_event, entry_event
from countermand.log.ports import Batch
from countermand.log.snapshot import SnapshotReader
from countermand.transport.http import HttpLog
from tests.clocks import held_with_sockets
from tests.integration.misbehaving import (
    Behaviour,
    everything_said,
    hangs_up,
    head,
    misbehaving,
    says,
    says_for_ever,
    silence,
    trickles,
)
from tests.unit.log.helpers import signer_of

API_KEY = "cmk_0123456789abcdef_" + "5ec2e7" * 10 + "5ec2"
SIGNER = signer_of(3)
SNAPSHOT = SIGNER.snapshot()
ENTRIES = b"".join(entry_event(candidate.previous, candidate.entry) for candidate in SIGNER.candidates)
CHECKPOINT = checkpoint_event(SIGNER.checkpoint())
FEED = head(content_type="text/event-stream")
BYTES = head(content_type="application/octet-stream")
CHUNKED = head(content_type="text/event-stream", transfer_encoding="chunked")
LONGEST_S = 13.1
"""To connect, and then to hear nothing: whoever follows gives up sooner."""
LONGEST_SNAPSHOT_S = 63.1
"""The same where there is a snapshot to be made first."""
LARGEST = 4_000_000


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


BROKEN_FEEDS: dict[str, tuple[Behaviour, type[CountermandError]]] = {
    "never answers": (silence, UnreachableError),
    "hangs up at once": (hangs_up, UnreachableError),
    "hangs up in its head": (says(b"HTTP/1.1 200 OK\r\ncontent-"), UnreachableError),
    "hangs up in an event": (says(CHUNKED, chunk(ENTRIES[:100])), UnreachableError),
    "hangs up in a chunk": (says(CHUNKED, chunk(ENTRIES)[:100]), UnreachableError),
    "chunks of no size": (says(CHUNKED, b"nonsense\r\n", ENTRIES), UnreachableError),
    "chunks of an endless size": (says_for_ever(CHUNKED, b"0123456789"), UnreachableError),
    "less than it announced": (
        says(head(content_type="text/event-stream", content_length="9"), b":"),
        UnreachableError,
    ),
    "another protocol": (says(b"SSH-2.0-OpenSSH_9.2p1\r\n"), UnreachableError),
    "another version": (says(b"HTTP/two 200 OK\r\n\r\n"), UnreachableError),
    "two lengths": (says(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"), UnreachableError),
    "an endless head": (says_for_ever(b"HTTP/1.1 200 OK\r\n", b"x-more: and more\r\n"), UnreachableError),
    "an endless header": (says_for_ever(b"HTTP/1.1 200 OK\r\nx-long: ", b"x" * 1_000), UnreachableError),
    "401": (says(head("401 Unauthorized", content_length="0")), RefusedError),
    "403": (says(head("403 Forbidden", content_length="0")), RefusedError),
    "404": (says(head("404 Not Found", content_length="0")), BadAnswerError),
    "500": (says(head("500 Internal Server Error", content_type="text/event-stream"), CHECKPOINT), BadAnswerError),
    "503": (says(head("503 Service Unavailable", content_length="0")), BadAnswerError),
    "204": (says(head("204 No Content", content_type="text/event-stream")), BadAnswerError),
    "206": (says(head("206 Partial Content", content_type="text/event-stream"), CHECKPOINT), BadAnswerError),
    "an error without an end": (says_for_ever(head("500 Internal Server Error"), b"x" * 1_000), BadAnswerError),
    "no type": (says(head(), CHECKPOINT), BadAnswerError),
    "a page": (says(head(content_type="text/html"), b"<html>log in"), BadAnswerError),
    "almost the type": (says(head(content_type="text/event-stream-like"), CHECKPOINT), BadAnswerError),
    "compressed": (says(head(content_type="text/event-stream", content_encoding="gzip"), b"\x1f\x8b"), BadAnswerError),
    "an endless line": (says_for_ever(FEED, b"x" * 1_000), MalformedError),
    "an endless event": (says_for_ever(FEED, b"data: more\n"), MalformedError),
    "an endless comment": (says_for_ever(FEED + b":", b"x" * 1_000), MalformedError),
    "no UTF-8": (says(FEED, b"data: \xff\n\n"), MalformedError),
    "an entry that is no JSON": (says(FEED, b"event: entry\ndata: {\n\n"), MalformedError),
    "an entry without fields": (says(FEED, b"event: entry\ndata: {}\n\n"), MalformedError),
    "a checkpoint that is no base64": (says(FEED, b"event: checkpoint\ndata: !\n\n"), MalformedError),
}


async def read_feed(log: HttpLog, after: int = 0) -> Batch:
    """All that a feed brings, as one batch."""
    async with aclosing(log.follow(after)) as batches:
        read = [batch async for batch in batches]
    return Batch(
        [candidate for batch in read for candidate in batch.candidates],
        [signed for batch in read for signed in batch.checkpoints],
    )


async def read_snapshot(log: HttpLog) -> int:
    """Read a snapshot as a follower does; return how many records it has."""
    reader = SnapshotReader(SIGNER.pin)
    async with aclosing(log.snapshot()) as chunks:
        async for data in chunks:
            reader.feed(data)
    return reader.finish().header.count


@pytest.fixture(autouse=True)
def every_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


# What a server should do


@held_with_sockets
@pytest.mark.parametrize("every", [1, 7, 100_000])
async def test_a_feed_comes_through_however_it_is_cut(every: int) -> None:
    stream = ENTRIES + b": still here\n\n" + CHECKPOINT
    cut = [chunk(stream[at : at + every]) for at in range(0, len(stream), every)]

    async with misbehaving(says(CHUNKED, *cut, b"0\r\n\r\n")) as server:
        batch = await read_feed(HttpLog(server.url, API_KEY))

    assert list(batch.candidates) == SIGNER.candidates
    assert list(batch.checkpoints) == [SIGNER.checkpoint()]


@held_with_sockets
async def test_a_feed_that_trickles_comes_through() -> None:
    async with (
        misbehaving(trickles(FEED + CHECKPOINT, 10, every_s=5)) as server,
        aclosing(HttpLog(server.url, API_KEY).follow(0)) as batches,
    ):
        assert await anext(batches) == Batch((), (SIGNER.checkpoint(),))


@held_with_sockets
async def test_what_came_before_a_break_came() -> None:
    async with (
        misbehaving(says(CHUNKED, chunk(ENTRIES + CHECKPOINT[:50]))) as server,
        aclosing(HttpLog(server.url, API_KEY).follow(0)) as batches,
    ):
        assert list((await anext(batches)).candidates) == SIGNER.candidates
        with pytest.raises(UnreachableError):
            await anext(batches)


@held_with_sockets
async def test_a_snapshot_comes_through() -> None:
    async with misbehaving(says(BYTES, SNAPSHOT)) as server:
        assert await read_snapshot(HttpLog(server.url, API_KEY)) == 3


@held_with_sockets
async def test_a_snapshot_that_is_a_minute_in_the_making_comes_through() -> None:
    async def makes_it(writer: asyncio.StreamWriter) -> None:
        await says(BYTES)(writer)
        await asyncio.sleep(59)
        await says(SNAPSHOT)(writer)

    async with misbehaving(makes_it) as server:
        assert await read_snapshot(HttpLog(server.url, API_KEY)) == 3


@held_with_sockets
async def test_it_asks_once_for_what_it_wants_with_its_key_and_wants_it_plain() -> None:
    async with misbehaving(says(FEED)) as server:
        await read_feed(HttpLog(server.url + "/under/", API_KEY), after=7)

    (request,) = server.requests
    assert request.startswith("GET /under/v1/log?after=7 HTTP/1.1\r\n")
    assert f"\r\nauthorization: Bearer {API_KEY}\r\n" in request.replace("Authorization", "authorization")
    assert request.lower().count("accept-encoding: identity\r\n") == 1


@held_with_sockets
async def test_a_type_may_have_parameters_and_any_case() -> None:
    async with misbehaving(says(head(content_type="Text/Event-Stream; charset=utf-8"), CHECKPOINT)) as server:
        assert (await read_feed(HttpLog(server.url, API_KEY))).checkpoints


@held_with_sockets
async def test_whoever_stops_reading_hangs_up() -> None:
    async def stays(writer: asyncio.StreamWriter) -> None:
        await says(FEED, CHECKPOINT)(writer)
        await silence(writer)

    async with misbehaving(stays) as server:
        async with aclosing(HttpLog(server.url, API_KEY).follow(0)) as batches:
            await anext(batches)
        async with asyncio.timeout(1):
            await server.closed.wait()


@held_with_sockets
async def test_whoever_gives_up_waiting_hangs_up() -> None:
    async with misbehaving(silence) as server:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3), aclosing(HttpLog(server.url, API_KEY).follow(0)) as batches:
                await anext(batches)
        async with asyncio.timeout(1):
            await server.closed.wait()


# What it should not


@held_with_sockets
@pytest.mark.parametrize("what", BROKEN_FEEDS)
async def test_a_broken_feed_is_an_error_of_ours_in_time_and_without_the_key(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    behave, expected = BROKEN_FEEDS[what]
    async with misbehaving(behave) as server:
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(expected) as raised:
            await read_feed(HttpLog(server.url, API_KEY))

        assert type(raised.value) is expected
        assert asyncio.get_running_loop().time() - began_s <= LONGEST_S
        assert len(server.requests) == 1
        assert API_KEY in server.requests[0]
    said = everything_said(raised.value, caplog.records)
    assert API_KEY not in said
    assert API_KEY[-20:] not in said


@held_with_sockets
@pytest.mark.parametrize("what", [what for what in BROKEN_FEEDS if "endless" in what or "without an end" in what])
async def test_what_does_not_end_is_not_kept(what: str) -> None:
    async with misbehaving(BROKEN_FEEDS[what][0]) as server:
        log = HttpLog(server.url, API_KEY)
        with pytest.raises(CountermandError):
            await read_feed(log)  # what is made once is made
        tracemalloc.start()
        try:
            with pytest.raises(CountermandError):
                await read_feed(log)
            assert tracemalloc.get_traced_memory()[1] < LARGEST
        finally:
            tracemalloc.stop()


@held_with_sockets
@pytest.mark.parametrize(
    "status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"]
)
async def test_it_takes_its_key_to_nobody_else(status: str) -> None:
    async with misbehaving(says(FEED, CHECKPOINT)) as elsewhere:
        redirect = says(head(status, location=f"{elsewhere.url}/v1/log", content_length="0"))
        async with misbehaving(redirect) as server:
            with pytest.raises(BadAnswerError, match=status[:3]):
                await read_feed(HttpLog(server.url, API_KEY))
        assert elsewhere.requests == []


@held_with_sockets
async def test_nobody_there_is_unreachable() -> None:
    async with misbehaving(silence) as server:
        url = server.url

    with pytest.raises(UnreachableError, match="did not answer: ConnectError"):
        await read_feed(HttpLog(url, API_KEY))


@held_with_sockets
async def test_silence_after_a_good_beginning_is_unreachable_after_ten_seconds() -> None:
    async def falls_silent(writer: asyncio.StreamWriter) -> None:
        await says(FEED, CHECKPOINT)(writer)
        await silence(writer)

    async with misbehaving(falls_silent) as server:
        with pytest.raises(UnreachableError, match="ReadTimeout"):
            await read_feed(HttpLog(server.url, API_KEY))
        assert asyncio.get_running_loop().time() == pytest.approx(10, abs=0.1)


# Snapshots

BROKEN_SNAPSHOTS: dict[str, tuple[Behaviour, type[CountermandError]]] = {
    "of another type": (says(FEED, SNAPSHOT), BadAnswerError),
    "compressed": (
        says(head(content_type="application/octet-stream", content_encoding="br"), SNAPSHOT),
        BadAnswerError,
    ),
    "refused": (says(head("401 Unauthorized", content_length="0")), RefusedError),
    "silent": (silence, UnreachableError),
    "silent in the middle": (trickles(BYTES + SNAPSHOT[:-1], 100, every_s=1), UnreachableError),
    "empty": (says(BYTES), MalformedError),
    "its header cut short": (says(BYTES, SNAPSHOT[:200]), MalformedError),
    "its body cut short": (says(BYTES, SNAPSHOT[:-1]), SnapshotMismatchError),
    "less than announced": (
        says(head(content_type="application/octet-stream", content_length="9999"), SNAPSHOT),
        UnreachableError,
    ),
    "longer than it says": (says(BYTES, SNAPSHOT, b"!"), SnapshotMismatchError),
    "endless zeros": (says_for_ever(BYTES, bytes(1_000)), UnknownVersionError),
    "endless ones": (says_for_ever(BYTES, b"\x01" * 1_000), MalformedError),
    "an endless body": (says_for_ever(BYTES + SNAPSHOT, bytes(1_000)), SnapshotMismatchError),
    "a forged header": (says(BYTES, SNAPSHOT[:190] + bytes((SNAPSHOT[190] ^ 1,)) + SNAPSHOT[191:]), BadSignatureError),
}


@held_with_sockets
@pytest.mark.parametrize("what", BROKEN_SNAPSHOTS)
async def test_a_broken_snapshot_is_an_error_of_ours_in_time_and_memory(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    behave, expected = BROKEN_SNAPSHOTS[what]
    async with misbehaving(behave) as server:
        tracemalloc.start()
        try:
            with pytest.raises(expected) as raised:
                await read_snapshot(HttpLog(server.url, API_KEY))
            assert tracemalloc.get_traced_memory()[1] < LARGEST
        finally:
            tracemalloc.stop()
    assert asyncio.get_running_loop().time() <= LONGEST_SNAPSHOT_S
    assert API_KEY not in everything_said(raised.value, caplog.records)
