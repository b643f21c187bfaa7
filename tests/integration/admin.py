"""An administrator who uses the API as it is: JSON in, JSON out, and nothing of our own client between."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from countermand.transport.http import open_client
from tests.running import Running

AUDIENCE: Final = "https://api.example"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Admin:
    """Whatever it is told to open stands afterwards, or the test fails."""

    http: httpx2.AsyncClient

    async def post(self, path: str, **body: Any) -> httpx2.Response:
        return await self.http.post(f"/v1/{path}", json=body)

    async def get(self, path: str) -> httpx2.Response:
        return await self.http.get(f"/v1/{path}")

    async def read(self, path: str) -> Json:
        response = await self.get(path)
        assert response.status_code == 200, response.text
        read: Json = response.json()
        return read

    async def shown(self, path: str) -> Json:
        """One object as a list shows it: without what it rests on."""
        read = await self.read(path)
        del read["lineage"]
        return read

    async def make(self, path: str, **body: Any) -> Json:
        response = await self.post(path, **body)
        assert response.status_code == 201, response.text
        made: Json = response.json()
        return made

    async def application(self) -> str:
        return str((await self.make("applications", name="notes"))["id"])

    async def session(self, application_id: str, subject: str = "alice", **fields: Any) -> str:
        made = await self.make("sessions", application_id=application_id, subject=subject, **fields)
        return str(made["id"])

    async def agent(self, application_id: str, **fields: Any) -> str:
        return str((await self.make("agents", application_id=application_id, name="worker", **fields))["id"])

    async def grant(self, application_id: str, *scope: str, subject: str = "alice") -> str:
        made = await self.make(
            "grants", application_id=application_id, subject=subject, scope=scope, audience=[AUDIENCE]
        )
        return str(made["id"])

    async def delegation(self, source_id: str, target_id: str, *scope: str, **fields: Any) -> str:
        made = await self.make(
            "delegations", source_id=source_id, target_id=target_id, scope=scope, audience=[AUDIENCE], **fields
        )
        return str(made["id"])

    async def revoke(self, kind: str, id_: str, **fields: Any) -> Json:
        return await self.make("revocations", kind=kind, id=id_, **fields)

    async def seq(self) -> int:
        """Where the ledger ends."""
        response = await self.post("cutoffs", target="subject:nobody", dry_run=True)
        return int(response.json()["seq"])


@asynccontextmanager
async def administering(running: Running) -> AsyncIterator[Admin]:
    """Give an administrator of an authority that runs."""
    headers = {"authorization": f"Bearer {running.admin_key}"}
    async with open_client(10, url=running.url, headers=headers) as http:
        yield Admin(http)
