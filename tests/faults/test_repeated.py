"""The authority is killed amid requests that are repeated until they are answered: each is done once."""

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx2
import pytest
from sqlalchemy import select

from countermand.authority import tables
from countermand.log.anchor import Kind
from countermand.transport.http import open_client
from tests.databases import DATABASES
from tests.running import PROOF, ServerProcess, until

pytestmark = pytest.mark.anyio

KILLS: Final = 20 if PROOF else 1
EACH: Final = 30 if PROOF else 10
"""Answers between two kills, at the least."""
CLIENTS: Final = 6


class Repeating:
    """A client that makes applications, and sends each request twice and more, until it is answered twice."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http
        self._numbers: Iterator[int] = itertools.count()
        self.answers: dict[str, set[str | None]] = {}

    async def run(self, client: int, enough: asyncio.Event) -> None:
        while not enough.is_set():
            name = f"{client}:{next(self._numbers)}"
            key = os.urandom(16).hex()
            self.answers[name] = {await self._made(name, key), await self._made(name, key)}

    async def _made(self, name: str, key: str) -> str | None:
        """Return the id of what was made; None where it was, and its answer was lost."""
        while True:
            try:
                response = await self._http.post(
                    "/v1/applications", json={"name": name}, headers={"idempotency-key": key}
                )
            except httpx2.HTTPError:
                await asyncio.sleep(0.01)  # it is being killed, or starts
                continue
            if response.status_code == HTTPStatus.CREATED:
                return str(response.json()["id"])
            if response.status_code == HTTPStatus.CONFLICT and response.json()["code"] == "already_done":
                return None
            assert response.json()["code"] in {"in_progress", "busy"}, response.text
            await asyncio.sleep(0.05)


async def test_what_is_repeated_amid_kills_is_done_once_and_answered_alike(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path) as server:
        headers = {"authorization": f"Bearer {server.data.admin_key.read_text().strip()}"}
        async with open_client(10, url=server.url, headers=headers) as http:
            repeating = Repeating(http)
            enough = asyncio.Event()
            clients = [asyncio.create_task(repeating.run(number, enough)) for number in range(CLIENTS)]
            for _ in range(KILLS):
                before = len(repeating.answers)
                await until(lambda: len(repeating.answers) > before + EACH, "requests are answered")  # noqa: B023 - awaited here
                server.kill()
                await server.start()
            enough.set()
            async with asyncio.timeout(60):  # that an answer is lost is known after 12 s
                await asyncio.gather(*clients)
    database = DATABASES.open(server.data)
    try:
        async with database.read() as connection:
            query = select(tables.anchors.c.name, tables.anchors.c.id).where(tables.anchors.c.kind == Kind.APPLICATION)
            made = [(str(name), str(id_)) for name, id_ in await connection.execute(query)]
    finally:
        await database.close()
    assert set(Counter(name for name, _ in made).values()) == {1}
    ids = dict(made)
    for name, answers in repeating.answers.items():
        assert answers <= {ids[name], None}, "an answer is the first answer, or none"
    lost = sum(None in answers for answers in repeating.answers.values())
    assert lost <= KILLS * CLIENTS, "only what was under way at a kill is lost"
