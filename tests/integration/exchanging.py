"""Applications at the OAuth endpoints, and three of them that hand on what one was given."""

import base64
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote_plus, urlencode

import httpx2

from countermand.tokens.mandate import Mandate
from countermand.transport.http import open_client
from tests.integration.admin import AUDIENCE, Admin, Json
from tests.running import Running

TOKEN: Final = "/oauth2/token"
REVOKE: Final = "/oauth2/revoke"
INTROSPECT: Final = "/oauth2/introspect"
EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"
JWT: Final = "urn:ietf:params:oauth:token-type:jwt"
FORM: Final = "application/x-www-form-urlencoded"

Pairs = list[tuple[str, str]]


def basic(client_id: str, secret: str) -> str:
    """As RFC 6749 §2.3.1 writes it: each encoded as in a form, then both as in RFC 7617."""
    return "Basic " + base64.b64encode(f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Client:
    """An application that asks for mandates, ends them and looks at them."""

    http: httpx2.AsyncClient
    id: str
    secret: str

    async def post(self, pairs: Pairs, path: str = TOKEN, **headers: str) -> httpx2.Response:
        """Send this form, with the right headers except for those given."""
        right = {"authorization": basic(self.id, self.secret), "content-type": FORM}
        return await self.http.post(path, content=urlencode(pairs), headers=right | headers)

    async def ask(self, token: str, **changes: str | None) -> httpx2.Response:
        """Ask for a mandate; `None` leaves a parameter out."""
        return await self.post(form(token, **changes))

    async def exchange(self, token: str, **changes: str | None) -> str:
        response = await self.ask(token, **changes)
        assert response.status_code == 200, response.text
        return str(response.json()["access_token"])

    async def ask_own(self, **changes: str | None) -> httpx2.Response:
        """Ask for a mandate for the application itself."""
        fields = {"grant_type": "client_credentials", "audience": AUDIENCE} | changes
        return await self.post([(name, value) for name, value in fields.items() if value is not None])

    async def own(self, **changes: str | None) -> str:
        response = await self.ask_own(**changes)
        assert response.status_code == 200, response.text
        return str(response.json()["access_token"])

    async def ask_to_end(self, token: str) -> httpx2.Response:
        return await self.post([("token", token)], REVOKE)

    async def end(self, token: str) -> None:
        """End a token, or hear that it does not act."""
        response = await self.ask_to_end(token)
        assert (response.status_code, response.content) == (200, b""), response.text
        assert (response.headers["cache-control"], response.headers["pragma"]) == ("no-store", "no-cache")

    async def look(self, token: str) -> Json:
        """Return what the authority says of a token."""
        return seen(await self.post([("token", token)], INTROSPECT))


def seen(response: httpx2.Response) -> Json:
    """Check that `response` is one of RFC 7662; return its members."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert (response.headers["cache-control"], response.headers["pragma"]) == ("no-store", "no-cache")
    said: Json = response.json()
    assert said == {"active": False} or said["active"] is True
    return said


async def look_as(running: Running, key: str, token: str) -> Json:
    """Return what the authority says of a token to whoever has this API key."""
    async with open_client(10, url=running.url, headers={"authorization": f"Bearer {key}"}) as http:
        return seen(await http.post(INTROSPECT, data={"token": token}))


def read(running: Running, token: str) -> Mandate:
    """Return the mandate that `token` is, as the authority reads it."""
    minting = running.authority.service.minting
    return minting.read(token, minting._clock().wall_ms)


def form(token: str, **changes: str | None) -> Pairs:
    """Everything that is required, and what is given besides."""
    fields = {
        "grant_type": EXCHANGE,
        "subject_token": token,
        "subject_token_type": ACCESS_TOKEN,
        "audience": AUDIENCE,
    } | changes
    return [(name, value) for name, value in fields.items() if value is not None]


@dataclass(frozen=True, slots=True)
class Fleet:
    """Alice's session at a desk, whose agent hands on to a worker's, and that one to a helper's."""

    admin: Admin
    desk: Client
    worker: Client
    helper: Client
    grant: str
    session: str
    agents: tuple[str, ...]
    edges: tuple[str, str]
    token: str
    """The session's mandate."""

    async def at_agent(self) -> str:
        return await self.desk.exchange(self.token, agent_session_id=self.agents[0])

    async def at_worker(self, at_agent: str | None = None) -> str:
        return await self.worker.exchange(at_agent or await self.at_agent(), delegation_edge_id=self.edges[0])

    async def at_helper(self, at_worker: str | None = None) -> str:
        return await self.helper.exchange(at_worker or await self.at_worker(), delegation_edge_id=self.edges[1])


async def new_client(admin: Admin, http: httpx2.AsyncClient) -> Client:
    key = await admin.make(f"applications/{await admin.application()}/keys")
    return Client(http, key["client_id"], key["client_secret"])


async def new_fleet(admin: Admin, http: httpx2.AsyncClient) -> Fleet:
    desk, worker, helper = [await new_client(admin, http) for _ in range(3)]
    grant = await admin.grant(desk.id, "read", "write", "admin")
    session = await admin.session(desk.id)
    agents = [await admin.agent(client.id, session_id=session) for client in (desk, worker, helper)]
    edge = await admin.delegation(agents[0], agents[1], "read", "write", depth=1)
    below = await admin.delegation(agents[1], agents[2], "read", parent_id=edge)
    body = {"audience": [AUDIENCE], "scope": ["read", "write", "admin"]}
    token = (await admin.make(f"sessions/{session}/mandates", **body))["access_token"]
    return Fleet(admin, desk, worker, helper, grant, session, tuple(agents), (edge, below), token)


def altered(token: str) -> str:
    head, payload, signature = token.split(".")
    return f"{head}.{payload}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
