"""The log over HTTP: server-sent events and snapshots; and the keys of an issuer.

Every answer is bounded in size and in time, is taken as it is (no redirects, no compression, no proxy of the
environment's), and is believed by nobody until it is verified.
Source: docs/protocol.md, "Feed"; RFC 7517 and RFC 8414 for the keys.
"""

import asyncio
import ipaddress
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import cache
from typing import Final

import httpx2

from countermand.errors import BadAnswerError, ConfigurationError, RefusedError, UnreachableError
from countermand.log.feed import FeedParser
from countermand.log.ports import Batch
from countermand.log.snapshot import HEADER_BYTES, MAX_BODY_BYTES

CONNECT_S: Final = 3.0
SILENCE_S: Final = 10.0
"""Between two reads; whoever follows gives up sooner."""
SNAPSHOT_SILENCE_S: Final = 60.0
"""The same for a snapshot, which may first have to be made."""
REPORT_S: Final = 5.0
"""For a report and its answer, which has no body."""
MAX_KEYS_BYTES: Final = 262_144
KEYS_S: Final = 5.0
"""For the keys as a whole, from the first look-up of the name to the last byte."""

_PLAIN: Final = {"accept-encoding": "identity"}
_API_KEY = re.compile(r"[\x21-\x7e]+")


def open_client(
    timeout: float | httpx2.Timeout, *, url: str = "", headers: dict[str, str] | None = None
) -> httpx2.AsyncClient:
    """Return a client that takes no proxy from the environment. `timeout` is in seconds; paths are added to `url`."""
    return httpx2.AsyncClient(base_url=url, headers=headers, timeout=timeout, trust_env=False, verify=_trusted())


@cache
def _trusted() -> ssl.SSLContext:
    """Whose certificates we trust. To read them takes tens of milliseconds, in which the event loop stands still."""
    return httpx2.create_ssl_context(trust_env=False)


def check_url(url: str, what: str) -> str:
    """Return `url` without a slash at its end. Raises: ConfigurationError, where it is no http or https URL."""
    try:
        parsed = httpx2.URL(url)
        host = parsed.raw_host.decode().encode("idna")  # as the resolver will
    except (httpx2.InvalidURL, UnicodeError):
        raise ConfigurationError(f"{what} is not a URL") from None  # it could hold a password: it is not repeated
    if parsed.scheme not in {"http", "https"} or not host or parsed.userinfo or "?" in url or "#" in url:
        raise ConfigurationError(f"{what} is an http or https URL without user, query and fragment")
    if (parsed.port or 0) > 65_535:
        raise ConfigurationError(f"{what} has a port above 65535")
    return url.rstrip("/")


def is_exposed(url: str) -> bool:
    """Whether what travels to and from `url`, which `check_url` let pass, can be changed by whoever is on the way."""
    parsed = httpx2.URL(url)
    return parsed.scheme != "https" and not is_loopback(parsed.host)


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_api_key(api_key: str) -> str:
    """Return `api_key`. Raises: ConfigurationError, where it cannot stand in a header; it is not repeated."""
    if not _API_KEY.fullmatch(api_key):
        raise ConfigurationError("an API key is printable ASCII without spaces")
    return api_key


class HttpLog:
    """A `LogReader` on the feed of the authority at `url`, with a key of role replica."""

    def __init__(self, url: str, api_key: str) -> None:
        self._url = check_url(url, "the authority's URL")
        self._headers = _PLAIN | {"authorization": f"Bearer {check_api_key(api_key)}"}

    async def follow(self, after: int) -> AsyncGenerator[Batch, None]:
        """Yield what follows entry `after`.

        Raises:
            UnreachableError, RefusedError, BadAnswerError: the way is broken.
            MalformedError: what comes is no feed.
        """
        parser = FeedParser()
        async with self._get(f"/v1/log?after={after}", "text/event-stream", SILENCE_S) as chunks:
            async for chunk in chunks:
                batch = parser.feed(chunk)
                if batch.candidates or batch.checkpoints or batch.keysets or batch.successions:
                    yield batch

    async def snapshot(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the newest snapshot. Raises: as `follow`."""
        received = 0
        async with self._get("/v1/log/snapshot", "application/octet-stream", SNAPSHOT_SILENCE_S) as chunks:
            async for chunk in chunks:
                received += len(chunk)
                if received > HEADER_BYTES + MAX_BODY_BYTES:
                    raise BadAnswerError("the snapshot does not end")
                yield chunk

    async def report(self, said: Mapping[str, object]) -> None:
        """Tell the authority about the replica that follows here. Raises: TransportError."""
        url = f"{self._url}/v1/replicas"
        try:
            async with asyncio.timeout(REPORT_S), open_client(REPORT_S) as client:
                response = await client.post(url, headers=self._headers, json=dict(said))
        except (TimeoutError, httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL) as error:
            raise UnreachableError(f"{url} did not answer: {type(error).__name__}") from error
        _check(response, "", status=204)

    def _get(self, path: str, content_type: str, silence_s: float) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return _get(self._url + path, self._headers, content_type, silence_s)


async def fetch_keys(issuer: str) -> bytes:
    """Return what `issuer` publishes at `/.well-known/jwks.json`.

    Raises:
        UnreachableError, RefusedError, BadAnswerError.
    """
    data = bytearray()
    try:
        async with (
            asyncio.timeout(KEYS_S),
            _get(f"{issuer}/.well-known/jwks.json", _PLAIN) as chunks,
        ):
            async for chunk in chunks:
                data += chunk
                if len(data) > MAX_KEYS_BYTES:
                    raise BadAnswerError(f"the keys are longer than {MAX_KEYS_BYTES} bytes")
    except TimeoutError:
        raise UnreachableError(f"{issuer} did not give its keys within {KEYS_S:g} s") from None
    return bytes(data)


@asynccontextmanager
async def _get(
    url: str, headers: dict[str, str], content_type: str = "", silence_s: float = SILENCE_S
) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body of a GET that is answered by 200, plain and of the type asked for, if any. Raises only our errors."""
    timeout = httpx2.Timeout(silence_s, connect=CONNECT_S)
    try:
        async with (
            open_client(timeout) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            _check(response, content_type)
            async with aclosing(response.aiter_raw()) as chunks:
                yield chunks
    except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL) as error:
        raise UnreachableError(f"{url} did not answer: {type(error).__name__}") from error


def _check(response: httpx2.Response, content_type: str, *, status: int = 200) -> None:
    where = str(response.url)
    if response.status_code in {401, 403}:
        raise RefusedError(f"{where} refused our credential")
    if response.status_code != status:
        raise BadAnswerError(f"{where} answered {response.status_code}")
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type and media_type != content_type:
        raise BadAnswerError(f"{where} answered with another type than {content_type}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise BadAnswerError(f"{where} compressed its answer, unasked")
