"""Transactions. What they promise is the same on SQLite and on Postgres; each has a module of its own.

Whoever waits for a write may give up; the write itself runs to its end. To stop one half-way would leave it to the
driver to undo, and what it leaves undone locks everybody out.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final, TypeAlias, TypeVar

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Select, func, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from countermand.authority.turn import Turn
from countermand.errors import BusyError, CountermandError, DataError, UnconfirmedError

WAIT_S: Final = 5.0
"""How long a transaction may wait for its turn before its caller hears that the authority is busy."""
ANSWER_S: Final = 5.0
"""How long a write may take that has begun, before its caller hears that nobody knows what becomes of it."""
READ_S: Final = 60.0
"""How long may be read at the most: what is in force, a million entries, takes a few."""
ATTEMPTS: Final = 4
"""How often a write is tried that the database has ended in favour of another."""

_T = TypeVar("_T")
Work: TypeAlias = Callable[[AsyncConnection], Awaitable[_T]]
_first: ContextVar["Work[object] | None"] = ContextVar("first", default=None)


@contextmanager
def beginning_with(step: Work[object] | None) -> Iterator[None]:
    """Let every transaction that may write begin with `step`, while the block lasts: both are done, or neither is.

    None: with nothing but its own, whatever an outer block says.
    """
    token = _first.set(step)
    try:
        yield
    finally:
        _first.reset(token)


@asynccontextmanager
async def answering(within_s: float | None) -> AsyncIterator[None]:
    """Give the block up after so long: a server may stand still. Raises: BusyError."""
    time = asyncio.timeout(within_s)
    try:
        async with time:
            yield
    except TimeoutError:
        if not time.expired():
            raise
        raise BusyError("the authority's database does not answer") from None


class RepeatableError(BusyError):
    """The database has undone this transaction in favour of another: it may be done again."""


class Database(ABC):
    """The authority's database. Every method raises BusyError, UnconfirmedError and DataError."""

    def __init__(self, writer: AsyncEngine, reader: AsyncEngine, *, writers: int) -> None:
        self._writer = writer
        self._reader = reader
        self._turn = Turn(writers)  # the pool would let newcomers go before those who wait
        self._writing: set[asyncio.Future[Any]] = set()  # also what waits for its turn
        self._connections: set[asyncio.Future[None]] = set()  # each until it is back in its pool

    async def write(self, work: Work[_T], *, urgent: bool = False, alone: bool = False) -> _T:
        """Return what `work` returns, in one transaction that may write; committed, durably, before this returns.

        It sees what others commit meanwhile, and locks what it must not lose sight of. `work` may be called again, in
        a new transaction. `urgent` goes before others that wait; `alone`: none that is alone too runs beside it, in
        whatever process.

        Raises: what `work` raises, with nothing committed.
        """
        task = asyncio.ensure_future(self._write(work, urgent=urgent, alone=alone))
        self._writing.add(task)
        task.add_done_callback(self._done)
        done, _ = await asyncio.wait([task], timeout=None if alone else WAIT_S + ANSWER_S)
        if not done:
            raise UnconfirmedError("the authority's database does not answer: it may be done all the same")
        return await task

    @asynccontextmanager
    async def read(self, within_s: float | None = READ_S) -> AsyncIterator[AsyncConnection]:
        """One transaction that reads one moment of the database, and is given up in time: servers may stand still."""
        async with answering(within_s), self._begun(self._reader) as connection:
            yield connection

    @asynccontextmanager
    @abstractmethod
    async def holding(self) -> AsyncIterator[AsyncConnection]:
        """One transaction that changes nothing: what it locks stays as it is read until the block ends."""
        yield  # type: ignore[misc]  # whoever implements it yields a connection

    @abstractmethod
    async def identity(self, connection: AsyncConnection) -> str:
        """Return what changes when this may be another database than before: restored, or a standby promoted.

        `connection` is in a transaction that may write.
        """

    @abstractmethod
    async def migrate(self) -> None:
        """Bring the tables to what this program knows.

        Raises:
            ConfigurationError: a database that is too old, or that promises too little.
            DataError: a newer program made the tables.
        """

    @abstractmethod
    async def clock_ms(self, connection: AsyncConnection) -> int | None:
        """Return the time by the database's own clock; None where that is this machine's."""

    @abstractmethod
    async def confirm(self, connection: AsyncConnection) -> None:
        """Let this commit be confirmed like one that writes: what it has read is then as durable as what it answers."""

    @abstractmethod
    async def limited(self, connection: AsyncConnection, reading: Callable[[], Awaitable[_T]]) -> _T | None:
        """Return what `reading` reads; None where that would hold up the transaction, which goes on either way."""

    @abstractmethod
    async def lock(self, connection: AsyncConnection, *names: str, shared: bool = False) -> None:
        """Let nobody else pass who locks one of these names, until the transaction ends; those who share, together."""

    @abstractmethod
    async def listen(self, heard: Callable[[int], None]) -> None:
        """Call `heard` with where the ledger ends when another process has appended to it, for ever or never."""

    @abstractmethod
    async def append(self, connection: AsyncConnection, columns: Sequence[Sequence[Any]]) -> Sequence[Any] | None:
        """Append what was done in one step of the database's own, and commit; None where it has no such step.

        Migration 0009 says what it takes and gives.
        """

    async def close(self) -> None:
        """Let go of the database, once what is under way has ended: its connection would be nobody's afterwards."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                while under_way := self._writing | self._connections:
                    await asyncio.wait(under_way)
        await self._writer.dispose()
        await self._reader.dispose()

    def _done(self, task: "asyncio.Future[Any]") -> None:
        """Take note of an error for which nobody waits any longer."""
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()

    async def _write(self, work: Work[_T], *, urgent: bool, alone: bool) -> _T:
        for attempt in range(ATTEMPTS):
            try:
                return await self._try_to_write(work, urgent=urgent, alone=alone)
            except RepeatableError:
                if attempt == ATTEMPTS - 1:
                    raise
        raise BusyError("the authority's database is busy")

    async def _try_to_write(self, work: Work[_T], *, urgent: bool, alone: bool) -> _T:
        async with self._turn.take(urgent=urgent, within_s=WAIT_S), self._begun(self._writer) as connection:
            await self._prepare(connection, alone=alone)
            if (first := _first.get()) is not None:
                await first(connection)
            return await work(connection)

    @abstractmethod
    async def _prepare(self, connection: AsyncConnection, *, alone: bool) -> None:
        """Begin a transaction that may write."""

    @abstractmethod
    def _refusal(self, error: DBAPIError) -> CountermandError:
        """Return what our callers hear of `error`: never its message, which may quote a value."""

    @asynccontextmanager
    async def _begun(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._connected(engine) as connection, connection.begin():
                yield connection
        except PoolTimeoutError as error:
            raise BusyError("the authority's database is busy") from error
        except DBAPIError as error:
            raise self._refusal(error) from None  # what the driver says may quote a value
        except SQLAlchemyError as error:
            raise DataError(f"the authority's database is not as it should be: {type(error).__name__}") from error

    @asynccontextmanager
    async def _connected(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """Give a connection, and give it back to its pool, whoever gives up meanwhile. `close` waits for that."""
        back = asyncio.get_running_loop().create_future()
        self._connections.add(back)
        back.add_done_callback(self._connections.discard)
        try:
            connection = await engine.connect().start()
        except BaseException:
            back.set_result(None)
            raise
        try:
            yield connection
        finally:
            closing = asyncio.ensure_future(connection.close())
            closing.add_done_callback(lambda _closed: back.set_result(None))
            await asyncio.shield(closing)


async def line_up(connection: AsyncConnection, numbers: Select[tuple[int]], *, shared: bool) -> None:
    """Wait for the anchors of these numbers in the order in which all come: who shares them, and who has them alone.

    On Postgres row locks would let those who share pass one who waits to revoke, for as long as they come; the queue of
    an advisory lock is fair. On SQLite writers come one after the other anyhow.
    """
    if connection.dialect.name != "postgresql":
        return
    wanted = numbers.distinct().subquery("wanted")
    (number,) = wanted.c
    ordered = select(number.label("number")).order_by(number).offset(0).subquery("ordered")
    lock = func.pg_advisory_xact_lock_shared if shared else func.pg_advisory_xact_lock
    await connection.execute(select(lock(ordered.c.number)))


def upgrade(connection: Connection) -> None:
    """Run the migrations that are missing. Raises: DataError."""
    config = Config()
    config.set_main_option("script_location", "countermand.authority:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:  # the revision that the database names is not among ours
        raise DataError("the database was made by a newer countermand: run that one") from error
