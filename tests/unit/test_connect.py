"""What `connect` refuses, in sentences; and how a guard's follower lives."""

import asyncio
import logging
from typing import Any

import pytest

from countermand.cli.client import AuthorityClient
from countermand.enforce.guard import Guard
from countermand.errors import ConfigurationError
from countermand.log.anchor import Kind
from countermand.log.entry import Entry
from countermand.settings import ClientSettings
from countermand.tokens.cache import VerifiedToken
from countermand.transport.http import HttpLog, check_api_key, check_url
from countermand.wiring import Following, connect, keys_of, redis_log
from tests.clocks import held
from tests.signer import Signer
from tests.unit.guarded import TOKEN_TEXT
from tests.unit.mandates import ES256, KEYS, read

API_KEY = "cmk_0123456789abcdef_" + "5e" * 32
PIN = str(Signer().pin)
GOOD: dict[str, Any] = {
    "url": "https://authority.example",
    "issuer": "https://issuer.example",
    "audience": "https://api.example",
    "api_key": API_KEY,
    "pin": PIN,
}
BAD_URLS = {
    "": "is an http or https URL",
    "authority.example": "is an http or https URL",
    "//authority.example": "is an http or https URL",
    "ftp://authority.example": "is an http or https URL",
    "https://": "is an http or https URL",
    "https:///path": "is an http or https URL",
    "https://alice:secret@authority.example": "without user",
    "https://secret@authority.example": "without user",
    "https://authority.example?": "without user, query",
    "https://authority.example/?a=b": "without user, query",
    "https://authority.example#": "without user, query and fragment",
    "https://authority.example:99999": "port above 65535",
    "https://authority.example:secret": "is not a URL",
    "https://[::1": "is not a URL",
    "https://a..b": "is not a URL",
    "https://" + "a" * 64 + ".example": "is not a URL",
    "https://authority.example/\n": "is not a URL",
    "https://\ud800": "is not a URL",
    "https://" + "a" * 70_000: "is not a URL",
}
BAD_KEYS = ["a key", "key\n", "schlüssel", "key\r\nx-injected: yes", "\x00", "key\ud800"]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COUNTERMAND_API_KEY", "COUNTERMAND_PIN"):
        monkeypatch.delenv(name, raising=False)


def connected(**changes: Any) -> Guard:
    return connect(**GOOD | changes)


def test_what_is_right_makes_a_guard() -> None:
    assert isinstance(connected(), Guard)


@pytest.mark.parametrize("url", BAD_URLS, ids=lambda url: ascii(url[:40]))
@pytest.mark.parametrize(("name", "what"), [("url", "the authority's URL"), ("issuer", "the issuer")])
def test_a_url_that_cannot_work_is_refused_by_name_and_not_repeated(name: str, what: str, url: str) -> None:
    with pytest.raises(ConfigurationError, match=BAD_URLS[url]) as raised:
        connected(**{name: url})

    assert str(raised.value).startswith(what)
    assert "secret" not in repr(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("api_key", BAD_KEYS, ids=ascii)
def test_a_key_that_cannot_stand_in_a_header_is_refused_and_not_repeated(api_key: str) -> None:
    for use in (lambda: connected(api_key=api_key), lambda: HttpLog("http://h", api_key), lambda: check_api_key("")):
        with pytest.raises(ConfigurationError, match="printable ASCII") as raised:
            use()
        assert "key" not in str(raised.value).replace("API key", "")


@pytest.mark.parametrize("missing", ["api_key", "pin"])
@pytest.mark.parametrize("nothing", [None, ""])
def test_without_a_key_or_a_pin_it_says_what_to_do(missing: str, nothing: str | None) -> None:
    with pytest.raises(ConfigurationError, match="COUNTERMAND_API_KEY and COUNTERMAND_PIN") as raised:
        connected(**{missing: nothing})

    assert API_KEY not in str(raised.value)


def test_key_and_pin_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERMAND_API_KEY", API_KEY)
    monkeypatch.setenv("COUNTERMAND_PIN", PIN)

    assert isinstance(connected(api_key=None, pin=None), Guard)


@pytest.mark.parametrize(
    "pin",
    [
        "log",
        "/",
        PIN.partition("/")[0],
        PIN.partition("/")[0] + "/",
        PIN[:-1],
        PIN + "A",
        PIN + ",",
        PIN + ",!",
        PIN.upper(),
        "schlüssel/" + PIN,
        "\ud800/",
        API_KEY,
    ],
    ids=ascii,
)
def test_a_pin_that_is_none_is_refused(pin: str) -> None:
    with pytest.raises(ConfigurationError, match="the pin cannot be used: "):
        connected(pin=pin)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_staleness_s": 2},
        {"max_staleness_s": float("nan")},
        {"max_staleness_s": float("inf")},
        {"audience": ""},
        {"required_scopes": "read"},
        {"required_scopes": ["two words"]},
    ],
    ids=str,
)
def test_other_things_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        connected(**changes)


def test_best_effort_is_said_aloud(caplog: pytest.LogCaptureFixture) -> None:
    connected()
    assert caplog.text == ""

    connected(best_effort=True)
    assert "best effort" in caplog.text


def test_an_authority_whose_key_others_can_read_on_the_way_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    connected(url="http://authority.example")
    assert [record.getMessage() for record in caplog.records if "API key" in record.getMessage()] == [
        "the authority http://authority.example is not on https: whoever is on the way can read the API key"
    ]


def test_the_warning_about_an_issuer_comes_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        connected(issuer="http://warned-about-once.example")

    assert caplog.text.count("not on https") == 1
    assert keys_of("http://warned-about-once.example") is keys_of("http://warned-about-once.example")


def test_a_url_loses_the_slash_at_its_end_and_nothing_else() -> None:
    assert check_url("https://h/", "it") == "https://h"
    assert check_url("http://[::1]:80/under/it", "it") == "http://[::1]:80/under/it"


@pytest.mark.parametrize(
    "settings",
    [ClientSettings("http://h", key) for key in BAD_KEYS] + [ClientSettings(url, API_KEY) for url in BAD_URLS],
)
@held
async def test_the_command_line_refuses_the_same(settings: ClientSettings) -> None:
    with pytest.raises(ConfigurationError):
        async with AuthorityClient.open(settings):
            pass


def test_the_guard_hears_of_what_its_follower_applies() -> None:
    guard = connected()
    mandate = read(TOKEN_TEXT)
    guard._tokens.add(TOKEN_TEXT, VerifiedToken.of(mandate, KEYS))
    background = guard._background
    assert isinstance(background, Following)

    background._follower._on_applied([Entry(1, 1, Kind.KEY, ES256.kid, 1)])

    assert guard._tokens.get(TOKEN_TEXT) is None


class Work:
    """What a follower does, as far as `Following` knows: it counts, and ends when told to."""

    def __init__(self) -> None:
        self.runs = 0
        self.running = 0
        self.fails = asyncio.Event()

    async def run(self) -> None:
        self.runs += 1
        self.running += 1
        self.fails = asyncio.Event()
        try:
            await self.fails.wait()
            raise RuntimeError("a defect")
        finally:
            self.running -= 1


@held
async def test_however_often_it_is_started_it_follows_once() -> None:
    work = Work()
    following = Following(work)  # type: ignore[arg-type]  # all that it uses
    assert not following.running
    for _ in range(3):
        await following.start()
        assert following.running
    await asyncio.sleep(1)
    assert (work.runs, work.running) == (1, 1)

    for _ in range(2):
        await following.aclose()
        assert (work.running, following.running) == (0, False)

    await following.start()
    await asyncio.sleep(1)
    assert (work.runs, work.running) == (2, 1)
    await following.aclose()


@held
async def test_a_follower_that_failed_says_why_and_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    following = Following(work)  # type: ignore[arg-type]  # all that it uses
    await following.start()
    await asyncio.sleep(1)
    work.fails.set()
    await asyncio.sleep(1)
    assert (work.running, following.running) == (0, False)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "the follower failed")
    assert "a defect" in caplog.text

    await following.start()
    await asyncio.sleep(1)
    assert work.running == 1
    await following.aclose()


def test_while_one_event_loop_follows_another_leaves_the_replica_alone() -> None:
    """A state has one writer."""

    async def in_one() -> tuple[int, int]:
        await following.start()
        await asyncio.sleep(0)
        await asyncio.to_thread(asyncio.run, following.start())
        await asyncio.sleep(0)
        seen = work.runs, work.running
        await following.aclose()
        return seen

    work = Work()
    following = Following(work)  # type: ignore[arg-type]  # all that it uses
    assert asyncio.run(in_one()) == (1, 1)


def test_only_the_event_loop_that_follows_stops_it() -> None:
    async def in_one() -> tuple[bool, bool]:
        await following.start()
        await asyncio.to_thread(asyncio.run, following.aclose())
        left_alone = following.running
        await following.aclose()
        return left_alone, following.running

    following = Following(Work())  # type: ignore[arg-type]  # all that it uses
    assert asyncio.run(in_one()) == (True, False)


def test_after_its_event_loop_is_gone_the_next_one_follows() -> None:
    async def once() -> int:
        await following.start()
        await asyncio.sleep(0)
        return work.running

    work = Work()
    following = Following(work)  # type: ignore[arg-type]  # all that it uses
    assert [asyncio.run(once()), asyncio.run(once())] == [1, 1]
    assert work.runs == 2


def test_an_event_loop_that_has_stopped_keeps_no_other_from_following() -> None:
    async def once() -> int:
        await following.start()
        await asyncio.sleep(0)
        return work.running

    work = Work()
    following = Following(work)  # type: ignore[arg-type]  # all that it uses
    with asyncio.Runner() as stopped:
        assert stopped.run(once()) == 1
        assert not following.running
        assert asyncio.run(once()) == 2


@pytest.mark.parametrize(
    ("url", "is_exposed"),
    [
        ("redis://cache.example:6379/0", True),
        ("redis://:secret@10.0.0.5", True),
        ("redis+sentinel://127.0.0.1,sentinel.example/main", True),
        ("redis+cluster://node.example", True),
        ("redis://", False),
        ("redis://localhost:6379", False),
        ("redis://127.0.0.2:6379/0", False),
        ("redis://[::1]:6379", False),
        ("redis+sentinel://127.0.0.1,localhost/main", False),
        ("unix:///run/redis.sock", False),
        ("rediss://cache.example", False),
        ("rediss+cluster://node.example", False),
    ],
)
def test_a_redis_on_another_machine_without_tls_is_warned_of(
    url: str, is_exposed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    redis_log(url)
    assert ["not reached over TLS" in record.getMessage() for record in caplog.records] == [True] * is_exposed
    assert "secret" not in caplog.text
