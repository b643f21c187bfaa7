"""Resource servers in this process, protected as anybody would protect them, and those who call them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import httpx2
from starlette.responses import PlainTextResponse

from countermand.cli.client import AuthorityClient
from countermand.enforce.guard import Guard
from countermand.log.anchor import Anchor, Anchors, Kind, Rev
from countermand.log.chain import LogId, genesis, next_link
from countermand.log.checkpoint import Pin
from countermand.log.entry import Entry
from countermand.log.verdict import Revoked
from countermand.replica.replica import Replica
from countermand.settings import DataDir
from countermand.wiring import connect
from tests.looking import looking_into
from tests.running import ServerProcess, until

AUDIENCE: Final = "https://notes.example"
PASSED: Final = (200, "")
REVOKED: Final = (401, "session_revoked")
UNAVAILABLE: Final = (503, "revocation_unavailable")


@dataclass(frozen=True, slots=True)
class Resource:
    """A service behind a guard, which it does not wait for: `replica` is the guard's own."""

    guard: Guard
    http: httpx2.AsyncClient

    @property
    def replica(self) -> Replica:
        replica = self.guard._revocations._revocations  # type: ignore[attr-defined]  # no one else needs it
        assert isinstance(replica, Replica)
        return replica

    async def call(self, token: str) -> tuple[int, str]:
        """Call the service; return the status and the code of a refusal."""
        response = await self.http.get("/", headers={"authorization": f"Bearer {token}"})
        return response.status_code, "" if response.is_success else str(response.json()["error"])

    async def comes_to(self, token: str, outcome: tuple[int, str]) -> None:
        """Call until the answer is `outcome`."""

        async def answers() -> bool:
            return await self.call(token) == outcome

        await until(answers, f"the service answers {outcome}")

    async def has_heard(self, after_ms: int) -> None:
        """Wait for the replica's first good checkpoint made after `after_ms`, and for all that it covers."""
        await until(lambda: self.replica.state.freshness.applied_at_ms > after_ms, "a checkpoint is applied")

    def is_well(self) -> bool:
        """Whether the replica has nothing to complain of."""
        return self.replica.status().error is None

    def position(self) -> tuple[Rev, bytes]:
        """Where in which history the replica is."""
        return self.replica.state.rev, self.replica.state.link

    def revokes(self, session_id: str) -> bool:
        """Whether the replica knows a session to be revoked."""
        return isinstance(self.replica.check(Anchors((Anchor(Kind.SESSION, session_id),))), Revoked)


@asynccontextmanager
async def protected(guard: Guard) -> AsyncIterator[Resource]:
    """Give a service behind `guard`."""
    transport = httpx2.ASGITransport(guard.asgi(PlainTextResponse("hello")))
    async with guard, httpx2.AsyncClient(transport=transport, base_url="https://notes.example") as http:
        yield Resource(guard, http)


def guard_of(server: ServerProcess, *, url: str | None = None, max_staleness_s: float = 30.0) -> Guard:
    """A guard that follows `server`, directly or by way of `url`."""
    return connect(
        url or server.url,
        issuer=server.url,
        audience=AUDIENCE,
        api_key=server.data.replica_key.read_text().strip(),
        pin=server.data.pin.read_text().strip(),
        max_staleness_s=max_staleness_s,
    )


@dataclass(frozen=True, slots=True)
class Subject:
    """A session, and a mandate on it."""

    session_id: str
    token: str


async def subject_of(client: AuthorityClient, name: str) -> Subject:
    """Open a session with an application of its own, and mint a mandate on it."""
    application = await client.create_application(name)
    session = await client.open_session(application["id"], name)
    return Subject(session["id"], await client.issue_mandate(session["id"], AUDIENCE))


async def read_ledger(data: DataDir) -> list[Entry]:
    """Return every entry on the disk, once the chain from its genesis to the head has been found whole."""
    log_id: LogId = Pin.parse(data.pin.read_text()).log_id
    async with looking_into(data) as look:
        rows = await look.execute("SELECT seq, previous, link, data FROM entries ORDER BY seq")
        [head] = await look.execute("SELECT seq, link FROM head")
    link, entries = genesis(log_id, 1), []
    for number, (seq, previous, next_, data_) in enumerate(rows, start=1):
        assert (seq, previous) == (number, link), "the numbers are gapless, and each entry follows the one before it"
        link = next_link(link, data_)
        assert next_ == link
        entries.append(Entry.parse(data_))
    assert head == (len(entries), link)
    return entries
