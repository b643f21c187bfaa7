"""The service behind the gateway, by aiohttp: asked as the client asked, and believed in nothing but its answer.

No redirect is followed, no cookie kept, nothing decompressed, and no proxy of the environment's used. Every error of
the library's is one of ours from here on.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, cast
from weakref import WeakSet

import aiohttp
from aiohttp.connector import Connection
from multidict import CIMultiDict
from yarl import URL

from countermand.enforce.gateway.head import Header
from countermand.errors import BadAnswerError, ConfigurationError, UnreachableError

SWITCHING: Final = 101

CONNECT_S: Final = 5.0
CLOSE_S: Final = 2.0
"""For the answer to a web socket's close."""
KEEP_S: Final = 4.0
"""How long an idle connection is kept: common servers close theirs after 5 s, and whatever is just sent is lost."""
MAX_HEAD_LINE: Final = 65_536
MAX_MESSAGE_BYTES: Final = 4_194_304
"""Of a web socket, in either direction."""

_URL: Final = re.compile(r"https?://[\x21-\x7e]+", re.IGNORECASE)
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
"""Whoever forwards has limits of its own for the rest."""
_REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_LOST: Final = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)
"""So a closed connection shows. RFC 9110 §9.2.2: on one that was kept, what changes nothing is asked again."""
_NO_AUTO_HEADERS: Final = CIMultiDict[None](
    (name, None) for name in ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
)


class _Request(aiohttp.ClientRequest):
    """A request with the headers that it is given, and no others."""

    def update_headers(self, headers: Any) -> None:
        self.headers = CIMultiDict(headers)

    def update_auto_headers(self, skip_auto_headers: Any) -> None:
        self._skip_auto_headers = skip_auto_headers


class Socket(aiohttp.ClientWebSocketResponse[Literal[True]]):
    """A web socket of an upstream's."""

    def drop(self) -> None:
        """Close the connection now, whatever the other side thinks of it."""
        _drop(self._response)


class _KeptLostError(aiohttp.ClientError):
    """A connection that was kept is closed, as it seems since just then."""


class _Pool(aiohttp.TCPConnector):
    """Keeps connections to be used again, but none on which anything came while nothing was asked.

    It would be taken for the next answer, and be another client's; and so would every answer after it. `kept` are those
    that were given again.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.kept = WeakSet[Connection]()

    async def _get(self, key: Any, traces: list[Any]) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                self.kept.add(connection)
                return connection
            connection.close()
        return None


@dataclass(frozen=True, slots=True)
class Clients:
    """What all upstreams are asked with: one pool of connections, and what makes web sockets of some."""

    connector: _Pool
    sockets: aiohttp.ClientSession


@asynccontextmanager
async def open_clients() -> AsyncIterator[Clients]:
    """Give the clients, until the block ends."""
    pool = _Pool(limit=0, keepalive_timeout=KEEP_S)  # as many as our clients make
    async with pool:
        session = aiohttp.ClientSession(
            connector=pool,
            connector_owner=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NO_AUTO_HEADERS,
            timeout=_TIMEOUT,
            ws_response_class=Socket,
            middlewares=(_only_as_asked,),
        )
        async with session as sockets:
            yield Clients(pool, sockets)


async def _only_as_asked(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Take a handshake's answer as it is: with `ws_connect` there is no other way not to follow a redirect."""
    response = await handler(request)
    if response.status != SWITCHING:
        response.close()
        raise aiohttp.WSServerHandshakeError(response.request_info, (), status=response.status)
    return response


class Upstream:
    """One service, by its origin: the scheme, the host and the port of an http or https URL.

    Raises:
        ConfigurationError: it is none.
    """

    def __init__(self, origin: str, clients: Clients) -> None:
        self.origin = check_origin(origin)
        self._host = self.origin.partition("://")[2]
        self._clients = clients

    def _url(self, target: bytes) -> URL:
        return URL(self.origin + target.decode(), encoded=True)

    async def request(
        self, method: str, target: bytes, headers: Iterable[tuple[str, str]], body: AsyncIterator[bytes] | None
    ) -> "Answer":
        """Return the answer once its head has come. `target` is path and query, as they are sent.

        Raises:
            UnreachableError: no answer.
            BadAnswerError: what came is none.
            TimeoutError: no connection in time.
        """
        url, given = self._url(target), [("host", self._host), *headers]
        try:
            try:
                response = await self._ask(method, url, given, body)
            except _KeptLostError:
                if method not in _REPEATABLE or body is not None:
                    raise
                response = await self._ask(method, url, given, None)
        except aiohttp.ClientResponseError as error:
            raise BadAnswerError(f"{self.origin} gave no answer of HTTP") from error
        except TimeoutError:
            raise TimeoutError from None  # without the library's words
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError(f"{self.origin} did not answer: {type(error).__name__}") from error
        return Answer(response)

    async def _ask(
        self, method: str, url: URL, headers: list[tuple[str, str]], body: AsyncIterator[bytes] | None
    ) -> aiohttp.ClientResponse:
        """Do what a session of aiohttp does, and nothing of what it does besides: that takes a third of the time."""
        loop = asyncio.get_running_loop()
        request = _Request(method, url, headers=headers, skip_auto_headers=_NO_AUTO_HEADERS, data=body, loop=loop)
        connection = await self._clients.connector.connect(request, traces=[], timeout=_TIMEOUT)
        response: aiohttp.ClientResponse | None = None
        try:
            _prepare(connection, has_body=method != "HEAD")
            response = await request.send(connection)
            return await response.start(connection)
        except BaseException as error:  # a cancellation above all: half an exchange is of no use to the next one
            was_kept = connection in self._clients.connector.kept
            if response is not None:
                _drop(response)
            connection.close()
            if was_kept and isinstance(error, _LOST):
                raise _KeptLostError from error
            raise

    async def connect(
        self, target: bytes, headers: Iterable[tuple[str, str]], protocols: Iterable[str]
    ) -> Socket | int:
        """Return a web socket, or the status with which it was refused. Raises: as `request`."""
        try:
            socket = await self._clients.sockets.ws_connect(
                self._url(target),
                headers=headers,
                protocols=protocols,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
                max_msg_size=MAX_MESSAGE_BYTES,
            )
        except aiohttp.WSServerHandshakeError as error:
            if error.status != SWITCHING:
                return error.status
            raise BadAnswerError(f"{self.origin} gave no handshake") from error
        except aiohttp.ClientResponseError as error:
            raise BadAnswerError(f"{self.origin} gave no answer of HTTP") from error
        except TimeoutError:
            raise TimeoutError from None
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError(f"{self.origin} did not answer: {type(error).__name__}") from error
        return cast(Socket, socket)


def _prepare(connection: Connection, *, has_body: bool) -> None:
    if connection.protocol is None:
        raise aiohttp.ServerDisconnectedError
    connection.protocol.set_response_params(
        skip_payload=not has_body,
        read_until_eof=True,
        auto_decompress=False,
        max_line_size=MAX_HEAD_LINE,
        max_field_size=MAX_HEAD_LINE,
    )


def _drop(response: aiohttp.ClientResponse) -> None:
    """Let go of a response, and abort a connection that it still has: to send the rest would take the other side."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()


class Answer:
    """An upstream's answer, as it comes."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers: tuple[Header, ...] = response.raw_headers
        self._response = response

    @property
    def is_whole(self) -> bool:
        """Whether all of the body was given."""
        return self._response.content.at_eof()

    async def read(self) -> bytes:
        """Return what has come of the body; nothing at its end. Raises: BadAnswerError, where it breaks off."""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise BadAnswerError(f"the answer broke off: {type(error).__name__}") from error

    def close(self) -> None:
        """Let go of it: where it was not whole, with its connection."""
        _drop(self._response)


def check_origin(url: str) -> str:
    """Return the origin that `url` is, without a slash at its end. Raises: ConfigurationError."""
    with suppress(ValueError):
        parsed = URL(url) if _URL.fullmatch(url) else URL()
        origin = parsed.origin()
        if parsed in {origin, origin / ""}:
            return str(origin)
    # it could hold a password: it is not repeated
    raise ConfigurationError("an upstream is an http or https URL without user, path, query and fragment")
