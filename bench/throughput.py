"""How many revocations and exchanges a second an authority does for 1, 8 and 32 clients at once, on either database.

Without HTTP: what is measured is transactions, the chain and signatures, on one core beside the database's own.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from bench.harness import Row
from countermand.authority.database import Database
from countermand.authority.model import Session, SubjectType, TokenExchange
from countermand.authority.postgres import PostgresDatabase
from countermand.authority.sqlite import SqliteDatabase
from tests.faults.primaries import Primary, primary_open
from tests.postgres_server import PostgresServer

CLIENTS: Final = (1, 8, 32)
EACH: Final = 320
"""Operations for each number of clients."""
AUDIENCE: Final = "https://api.example"

_Item = TypeVar("_Item")


def measure() -> list[Row]:
    """Return what Postgres does, beside SQLite in the same minute."""
    with _databases() as databases:
        rates = {name: asyncio.run(_rates(database)) for name, database in databases.items()}
    return [
        Row(what, "a second", rates["Postgres"][what], {"SQLite": rates["SQLite"][what]}) for what in rates["Postgres"]
    ]


@contextmanager
def _databases() -> Iterator[dict[str, Callable[[], Database]]]:
    with PostgresServer() as server, tempfile.TemporaryDirectory(prefix="countermand-bench-") as directory:
        path = Path(directory, "countermand.db")
        yield {"Postgres": lambda: PostgresDatabase(server.url()), "SQLite": lambda: SqliteDatabase(path)}


@dataclass(frozen=True, slots=True)
class _Client:
    """An application with a grant, and a mandate on a session of its own."""

    primary: Primary
    application_id: str
    token: str

    @classmethod
    async def of(cls, primary: Primary) -> "_Client":
        opening = primary.service.opening
        application = await opening.create_application("bench")
        await opening.create_grant(application.id, "alice", ["read"], [AUDIENCE], 3600)
        session = await opening.open_session(application.id, "alice", SubjectType.USER, 3600)
        mandate = await primary.service.minting.issue(session.id, [AUDIENCE], ["read"])
        return cls(primary, application.id, mandate.token)

    async def session(self) -> Session:
        return await self.primary.service.opening.open_session(self.application_id, "bob", SubjectType.USER, 3600)

    async def exchange(self, _number: int) -> None:
        wanted = TokenExchange(subject_token=self.token, audience=(AUDIENCE,))
        await self.primary.service.minting.exchange(self.application_id, wanted)


async def _rates(open_database: Callable[[], Database]) -> dict[str, float]:
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="countermand-bench-") as directory:
        async with primary_open(open_database(), Path(directory)) as primary:
            client = await _Client.of(primary)
            for clients in CLIENTS:
                sessions = [await client.session() for _ in range(EACH)]
                rates[f"revocations, {clients} at once"] = await _rate(clients, sessions, primary.revoke)
            for clients in CLIENTS:
                rates[f"exchanges, {clients} at once"] = await _rate(clients, range(EACH), client.exchange)
    return rates


async def _rate(clients: int, items: Sequence[_Item], do: Callable[[_Item], Awaitable[object]]) -> float:
    async def work(share: Sequence[_Item]) -> None:
        for item in share:
            await do(item)

    began_s = time.perf_counter()
    await asyncio.gather(*(work(items[number::clients]) for number in range(clients)))
    return len(items) / (time.perf_counter() - began_s)
