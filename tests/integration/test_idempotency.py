"""A request that comes twice is done once, and whoever repeats it hears what was answered, or that it was done."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.database import Database
from countermand.authority.model import SubjectType
from countermand.authority.once import ANSWERED_MS, WAITED_MS, Answer, Once
from countermand.errors import AlreadyDoneError, InProgressError, KeyReusedError, NotFoundError
from countermand.log.anchor import Kind, own_id
from tests.databases import DATABASES
from tests.integration.admin import AUDIENCE, Admin
from tests.integration.problems import refused
from tests.integration.rooms import Rooms
from tests.running import Running

pytestmark = pytest.mark.anyio


def _key() -> str:
    return os.urandom(16).hex()


async def _post(admin: Admin, path: str, key: str, **body: Any) -> httpx2.Response:
    return await admin.http.post(f"/v1/{path}", json=body, headers={"idempotency-key": key})


@asynccontextmanager
async def _reading(running: Running) -> AsyncIterator[AsyncConnection]:
    """Read the database as another process would."""
    database = DATABASES.open(running.data)
    try:
        async with database.read() as connection:
            yield connection
    finally:
        await database.close()


async def _named(running: Running, name: str) -> int:
    """Count the applications that are called `name`."""
    async with _reading(running) as connection:
        query = select(func.count()).where(tables.anchors.c.name == name)
        return int((await connection.execute(query)).scalar_one())


async def test_a_repeated_request_gets_the_same_answer_and_is_not_done_again(shared: Running, admin: Admin) -> None:
    name, key = _key(), _key()
    first, again = [await _post(admin, "applications", key, name=name) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert first.headers["content-type"] == again.headers["content-type"]
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert await _named(shared, name) == 1
    quoted = await _post(admin, "applications", f'"{key}"', name=name)
    assert quoted.content == first.content, "a key may be a string of RFC 8941"


async def test_a_cutoff_that_is_sent_twice_ends_nothing_that_was_opened_between(admin: Admin) -> None:
    application, subject, key = await admin.application(), _key(), _key()
    cut = await _post(admin, "cutoffs", key, target=f"subject:{subject}")
    session = await admin.session(application, subject)
    again = await _post(admin, "cutoffs", key, target=f"subject:{subject}")
    assert (again.status_code, again.json()) == (201, cut.json())
    assert (await admin.read(f"sessions/{session}"))["stands"]


async def test_the_same_key_with_anything_else_is_refused(admin: Admin) -> None:
    key = _key()
    await _post(admin, "applications", key, name="notes")
    for path, body in (("applications", {"name": "other"}), ("cutoffs", {"name": "notes"})):
        refused(await _post(admin, path, key, **body), 422, "idempotency_key_reused")
    response = await admin.http.post("/v1/applications?a=b", json={"name": "notes"}, headers={"idempotency-key": key})
    refused(response, 422, "idempotency_key_reused")


async def test_of_many_at_once_one_is_done_and_all_hear_its_answer_in_the_end(shared: Running, admin: Admin) -> None:
    name, key = _key(), _key()
    answers = await asyncio.gather(*[_post(admin, "applications", key, name=name) for _ in range(12)])
    for answer in answers:
        if answer.status_code != 201:
            refused(answer, 409, "in_progress")
    bodies = {answer.content for answer in answers if answer.status_code == 201}
    bodies.add((await _post(admin, "applications", key, name=name)).content)
    assert len(bodies) == 1
    assert await _named(shared, name) == 1


async def test_what_was_refused_is_tried_again(admin: Admin) -> None:
    application, key = await admin.application(), _key()
    agent = {"application_id": application, "name": "worker"}
    missing = own_id(Kind.SESSION, os.urandom(16))
    refused(await _post(admin, "agents", key, **agent, session_id=missing), 404, "not_found")
    session = await admin.session(application)
    assert (await _post(admin, "agents", key, **agent, session_id=session)).status_code == 201


async def test_a_secret_is_given_once_and_not_kept(shared: Running, admin: Admin) -> None:
    application = await admin.application()
    session, key, other = await admin.session(application), _key(), _key()
    made = await _post(admin, f"applications/{application}/keys", key)
    minted = await _post(admin, f"sessions/{session}/mandates", other, audience=[AUDIENCE])
    assert (made.status_code, minted.status_code) == (201, 201)
    refused(await _post(admin, f"applications/{application}/keys", key), 409, "already_done")
    refused(await _post(admin, f"sessions/{session}/mandates", other, audience=[AUDIENCE]), 409, "already_done")
    async with _reading(shared) as connection:
        keys = select(func.count()).where(tables.api_keys.c.application_id == application)
        assert (await connection.execute(keys)).scalar_one() == 1
        rows = (await connection.execute(select(tables.requests))).all()
    kept = b"".join(value for row in rows for value in row if type(value) is bytes)
    secrets = (made.json()["client_secret"], minted.json()["access_token"], key, other)
    assert all(secret.encode() not in kept for secret in secrets)
    assert application.encode() not in kept, "nor anything of an answer that holds one"


async def test_one_mandate_comes_of_many_that_are_asked_for_with_one_key(admin: Admin) -> None:
    session, key = await admin.session(await admin.application()), _key()
    path = f"sessions/{session}/mandates"
    answers = await asyncio.gather(*[_post(admin, path, key, audience=[AUDIENCE]) for _ in range(8)])
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7


async def test_a_dry_run_answers_again_what_it_answered(admin: Admin) -> None:
    application, key = await admin.application(), _key()
    body = {"kind": "application", "id": application, "dry_run": True}
    first = await _post(admin, "revocations", key, **body)
    await admin.session(application)
    again = await _post(admin, "revocations", key, **body)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()


@pytest.mark.parametrize("key", ["", '""', '"', "a b", "a" * 256, "a\x7f", "\xe9"])
async def test_what_is_no_key_is_refused_and_nothing_is_done(shared: Running, admin: Admin, key: str) -> None:
    name = _key()
    headers = [(b"idempotency-key", key.encode("latin-1"))]
    response = await admin.http.post("/v1/applications", json={"name": name}, headers=headers)
    refused(response, 422, "invalid_value")
    assert await _named(shared, name) == 0


async def test_two_keys_are_none(admin: Admin) -> None:
    headers = [("idempotency-key", _key()), ("idempotency-key", _key())]
    refused(await admin.http.post("/v1/applications", json={"name": "x"}, headers=headers), 422, "invalid_value")


async def test_a_body_that_is_too_long_is_refused_with_a_key_as_without(admin: Admin) -> None:
    refused(await _post(admin, "applications", _key(), name="x" * 70_000), 413, "body_too_large")


async def _applications(rooms: Rooms) -> int:
    async with rooms.database.read() as connection:
        query = select(func.count()).where(tables.anchors.c.kind == Kind.APPLICATION)
        return int((await connection.execute(query)).scalar_one())


async def test_what_was_done_and_not_answered_is_not_done_again(rooms: Rooms) -> None:
    """As it is after a crash between the commit and the answer."""
    once, opening = rooms.service.once, rooms.service.opening
    request = once.request("caller", "key", b"body")
    with once.noting(request):
        await opening.create_application("notes")
    again = once.request("caller", "key", b"body")
    with pytest.raises(InProgressError):
        await once.find(again)
    with (
        once.noting(again),
        pytest.raises(InProgressError),
    ):
        await opening.create_application("notes")
    assert await _applications(rooms) == 1
    rooms.clock.advance(ANSWERED_MS)
    with pytest.raises(AlreadyDoneError):
        await once.find(again)
    again.waits = True
    with pytest.raises(InProgressError):
        await once.find(again)
    rooms.clock.advance(WAITED_MS)
    with pytest.raises(AlreadyDoneError):
        await once.find(again)


async def test_what_failed_is_not_noted(rooms: Rooms) -> None:
    once = rooms.service.once
    request = once.request("caller", "key", b"body")
    nobody = own_id(Kind.APPLICATION, bytes(16))
    with once.noting(request), pytest.raises(NotFoundError):
        await rooms.service.opening.open_session(nobody, "alice", SubjectType.USER, 60)
    assert await once.find(request) is None


async def test_a_request_of_two_transactions_is_noted_by_both_as_one(rooms: Rooms) -> None:
    once = rooms.service.once
    request = once.request("caller", "key", b"body")
    with once.noting(request):
        for _ in range(2):
            await rooms.service.opening.create_application("notes")
    assert await _applications(rooms) == 2


async def test_of_two_processes_one_does_it(rooms: Rooms) -> None:
    """Each has its own connections to the one file, and neither knows of the other."""
    other = DATABASES.open(rooms.data)
    finish = rooms.service.registered.finish_since
    ones = [Once(database, rooms.clock, os.urandom, finish) for database in (rooms.database, other)]
    done: list[int] = []

    async def act(which: int, database: Database, once: Once) -> None:
        request = once.request("caller", "key", b"body")

        async def work(_connection: AsyncConnection) -> None:
            done.append(which)

        with once.noting(request):
            await database.write(work)
        await once.keep(request, Answer(200, "text/plain", b"done"))

    try:
        acts = [act(0, rooms.database, ones[0]), act(1, other, ones[1])]
        outcomes = await asyncio.gather(*acts, return_exceptions=True)
        [refusal] = [outcome for outcome in outcomes if outcome is not None]
        assert isinstance(refusal, InProgressError)
        assert len(done) == 1
        for once in ones:
            assert await once.find(once.request("caller", "key", b"body")) == Answer(200, "text/plain", b"done")
    finally:
        await other.close()


async def test_keys_of_different_callers_have_nothing_to_do_with_each_other(rooms: Rooms) -> None:
    once = rooms.service.once
    await once.keep(once.request("caller", "key", b"body"), Answer(200, "text/plain", b"done"))
    assert await once.find(once.request("other", "key", b"body")) is None
    assert await once.find(once.request("callerk", "ey", b"body")) is None
    with pytest.raises(KeyReusedError):
        await once.find(once.request("caller", "key", b"bo", b"dy"))


async def test_an_answer_of_any_length_is_remembered_and_a_long_one_not_kept(rooms: Rooms, tmp_path: Path) -> None:
    once = rooms.service.once
    request = once.request("caller", "key", b"body")
    await once.keep(request, Answer(200, "text/plain", b"x" * 20_000))
    with pytest.raises(AlreadyDoneError):
        await once.find(request)
