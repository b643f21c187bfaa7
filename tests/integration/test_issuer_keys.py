"""The keys of an issuer, from servers that misbehave: each time an error of ours, in five seconds and little memory."""

import asyncio
import gc
import logging
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from countermand.errors import BadAnswerError, CountermandError, KeysError, RefusedError, UnreachableError
from countermand.tokens.jwks import KeySet
from countermand.tokens.mandate import SigningKey
from countermand.transport.http import fetch_keys
from countermand.wiring import IssuerKeys
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

KEYS = KeySet((SigningKey.generate("ES256").verifying_key(),))
JWKS = KEYS.to_json()
GOOD = head(content_type="application/jwk-set+json", content_length=str(len(JWKS))) + JWKS
BROKEN: dict[str, tuple[Behaviour, type[CountermandError]]] = {
    "never answers": (silence, UnreachableError),
    "answers byte by byte": (trickles(GOOD, 1, every_s=0.1), UnreachableError),
    "says again and again that it goes on": (
        trickles(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 25, 0.1),
        UnreachableError,
    ),
    "hangs up at once": (hangs_up, UnreachableError),
    "hangs up in the middle": (says(GOOD[:-1]), UnreachableError),
    "another protocol": (says(b"\x16\x03\x01\x02\x00"), UnreachableError),
    "chunks of no size": (says(head(transfer_encoding="chunked"), b"nonsense\r\n"), UnreachableError),
    "an endless head": (says_for_ever(b"HTTP/1.1 200 OK\r\n", b"x-more: and more\r\n"), UnreachableError),
    "403": (says(head("403 Forbidden", content_length="0")), RefusedError),
    "404": (says(head("404 Not Found", content_length="0")), BadAnswerError),
    "502": (says(head("502 Bad Gateway", content_length="0")), BadAnswerError),
    "a redirect": (says(head("302 Found", location="http://127.0.0.1:1/", content_length="0")), BadAnswerError),
    "compressed": (says(head(content_encoding="gzip"), b"\x1f\x8b"), BadAnswerError),
    "huge": (says(head(), b" " * 300_000), BadAnswerError),
    "endless": (says_for_ever(head(), b" " * 1_000), BadAnswerError),
}


@held_with_sockets
async def test_keys_come_through() -> None:
    async with misbehaving(says(GOOD)) as server:
        assert await fetch_keys(server.url) == JWKS

    (request,) = server.requests
    assert request.startswith("GET /.well-known/jwks.json HTTP/1.1\r\n")
    assert "authorization" not in request.lower()


@held_with_sockets
@pytest.mark.parametrize("what", BROKEN)
async def test_keys_that_cannot_be_had_are_an_error_of_ours_in_five_seconds(what: str) -> None:
    behave, expected = BROKEN[what]
    async with misbehaving(behave) as server:
        tracemalloc.start()
        try:
            with pytest.raises(expected) as raised:
                await fetch_keys(server.url)
            assert tracemalloc.get_traced_memory()[1] < 4_000_000
        finally:
            tracemalloc.stop()
        assert type(raised.value) is expected
        assert asyncio.get_running_loop().time() <= 5.1
        assert len(server.requests) == 1
    assert "\r\n" not in everything_said(raised.value, [])


@held_with_sockets
async def test_what_comes_and_is_no_key_set_is_an_error_of_keys(caplog: pytest.LogCaptureFixture) -> None:
    async with misbehaving(says(head(content_type="text/html"), b"<html>log in")) as server:
        with pytest.raises(KeysError, match="MalformedKeysError"):
            await IssuerKeys(server.url).key_set(None)


@held_with_sockets
async def test_an_issuer_whose_url_ends_in_a_slash_is_asked_at_the_right_place() -> None:
    async with misbehaving(says(GOOD)) as server:
        assert await IssuerKeys(server.url + "/").key_set(None) == KEYS

    assert server.requests[0].startswith("GET /.well-known/jwks.json ")


class _Answers(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.wfile.write(GOOD)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


def test_one_source_of_keys_serves_two_event_loops_and_each_fetches_once() -> None:
    results: list[KeySet] = []

    async def ask() -> None:
        results.extend([await keys.key_set(None), await keys.key_set(None)])

    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        keys = IssuerKeys(f"http://127.0.0.1:{server.server_port}")
        asking = [Thread(target=asyncio.run, args=(ask(),)) for _ in range(2)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        asyncio.run(ask())
        server.shutdown()
        serving.join()

    assert results == [KEYS] * 6
    assert _Answers.asked == 3
    gc.collect()
    assert len(keys._caches) == 0, "a loop that has ended is not kept"


@pytest.mark.parametrize(
    "issuer",
    [
        "https://issuer.example",
        "HTTPS://issuer.example",
        "http://localhost",
        "http://localhost:8420/path",
        "http://127.0.0.1",
        "http://127.0.0.1:8420",
        "http://127.1.2.3",
        "http://[::1]",
        "http://[::1]:8420",
    ],
)
def test_an_issuer_that_nobody_can_come_between_is_fine(issuer: str, caplog: pytest.LogCaptureFixture) -> None:
    IssuerKeys(issuer)

    assert caplog.text == ""


@pytest.mark.parametrize(
    "issuer",
    [
        "http://issuer.example",
        "HTTP://issuer.example",
        "http://issuer.example:8420/",
        "http://10.0.0.1",
        "http://[2001:db8::1]:80",
        "http://localhost.example",
        "http://127.0.0.1.example",
        "http://0.0.0.0",
    ],
)
def test_an_issuer_on_http_elsewhere_is_warned_about(issuer: str, caplog: pytest.LogCaptureFixture) -> None:
    IssuerKeys(issuer)

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "not on https" in record.getMessage()
