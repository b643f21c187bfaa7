"""The audit: a row for every change and none for any other request; and whatever is done to the rows is found."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.actor import arrive, identify
from countermand.authority.appending import Act
from countermand.authority.audit import Audit
from countermand.authority.model import Role, SubjectType
from countermand.authority.trail import MAX_PAGE
from countermand.errors import AuditError, BadSignatureError, DataError, NotFoundError, UnknownKeyError
from countermand.log.anchor import Kind
from countermand.log.audit import AuditEnd, AuditProof, AuditRow, ChainedRow, Seal, audit_genesis, next_audit_link
from countermand.log.chain import LogId
from countermand.log.checkpoint import Pin, parse_checkpoint
from countermand.transport.http import open_client
from tests.integration.admin import AUDIENCE, Json
from tests.integration.biscuits import mint, plain_id
from tests.integration.exchanging import basic
from tests.integration.problems import refused
from tests.integration.rooms import Rooms, rooms_open
from tests.integration.test_api_access import MAY
from tests.looking import looking_into, writing
from tests.running import Running
from tests.signer import OTHER_KEY

pytestmark = pytest.mark.anyio

# Every change, and nothing else


@dataclass(frozen=True, slots=True)
class Scene:
    """What the routes are asked about."""

    application: str
    session: str
    grant: str
    agents: tuple[str, str]
    key: str
    biscuit: str
    biscuit_id: str


@dataclass(frozen=True, slots=True)
class Write:
    """What a route that changes something is in the audit, and where its answer names the target."""

    action: str
    target: str
    body: Callable[[Scene], Json] = lambda _: {}
    why: Callable[[Scene], str] = lambda _: ""
    """What its row gives as the reason, where the request gives none."""
    is_once: bool = False
    """Whether asking again changes nothing."""
    seq: str = "seq"
    """Where its answer names the entry, if it makes one."""


def _delegation(scene: Scene) -> Json:
    return {"source_id": scene.agents[0], "target_id": scene.agents[1], "scope": ["read"], "audience": [AUDIENCE]}


def _grant(scene: Scene) -> Json:
    return {"application_id": scene.application, "subject": "alice", "scope": ["read"], "audience": [AUDIENCE]}


WRITES: Final = {
    "/v1/applications": Write("application.create", "id", lambda _: {"name": "x"}),
    "/v1/applications/{application_id}/keys": Write("api_key.create", ""),
    "/v1/sessions": Write("session.open", "id", lambda s: {"application_id": s.application, "subject": "alice"}),
    "/v1/agents": Write(
        "agent.start", "id", lambda s: {"application_id": s.application, "name": "x", "session_id": s.session}
    ),
    "/v1/grants": Write("grant.create", "id", _grant),
    "/v1/delegations": Write("delegation.create", "id", _delegation),
    "/v1/biscuits": Write(
        "biscuit.register",
        "ids",
        lambda s: {"ids": [s.biscuit_id], "application_id": s.application, "subject": "eve"},
        lambda s: f"for a subject of {s.application}",
        is_once=True,
    ),
    "/v1/keys": Write("api_key.create", "key", lambda _: {"role": "reader", "name": "x"}),
    "/v1/grants/{grant_id}/close": Write("grant.close", "id", is_once=True),
    "/v1/keys/{key_id}/revoke": Write("api_key.revoke", "id", lambda _: {"reason": "why"}, is_once=True),
    "/v1/revocations": Write(
        "session.revoke", "id", lambda s: {"kind": "session", "id": s.session, "reason": "why"}, is_once=True
    ),
    "/v1/revocations/by-filter": Write(
        "session.revoke",
        "",
        lambda _: {"kind": "session", "label": "ends", "reason": "why"},
        is_once=True,
        seq="first_seq",
    ),
    "/v1/biscuit/revocations": Write(
        "biscuit.revoke", "id", lambda s: {"token": s.biscuit, "reason": "why"}, is_once=True
    ),
    "/v1/cutoffs": Write("cutoff.create", "id", lambda _: {"target": "subject:bob", "reason": "why"}),
}
CHANGES_NOTHING: Final = {"/v1/sessions/{session_id}/mandates", "/v1/replicas"}
"""What mints keeps nothing; and what a replica reports is soon another."""
RARE: Final = {"/v1/signing-keys/rotate", "/v1/signing-keys/{key_id}/withdraw", "/v1/ledger/recovery"}
"""What an authority that others share must not undergo."""
TAKES_NO_BODY: Final = {"/v1/grants/{grant_id}/close"}


@pytest.fixture(scope="module")
async def scene(shared: Running) -> Scene:
    opening, client = shared.authority.service.opening, shared.client
    application = (await client.create_application("notes"))["id"]
    session = (await client.open_session(application, "alice"))["id"]
    await opening.open_session(application, "dora", SubjectType.USER, 600, labels=["ends"])
    grant = (await client.create_grant(application, "alice", ["read"], AUDIENCE))["id"]
    agents = [(await opening.start_agent(application, name, 600, session_id=session)).id for name in "ab"]
    key = await shared.authority.access.create_for(application, "for a test")
    return Scene(application, session, grant, (agents[0], agents[1]), key.key.id, mint(), plain_id())


def _url(path: str, scene: Scene) -> str:
    return path.format(
        application_id=scene.application, grant_id=scene.grant, key_id=scene.key, session_id=scene.session
    )


async def _rows(running: Running) -> list[AuditRow]:
    records = [record async for page in running.client.audit() for record in page]
    return [record.row for record in records if isinstance(record, ChainedRow)]


def _target(answer: Json, place: str) -> str:
    found = answer[place] if place else None
    found = found[0] if isinstance(found, list) else found
    return str(found["id"] if isinstance(found, dict) else found)


def test_every_route_that_writes_is_asked_here() -> None:
    assert set(WRITES) | CHANGES_NOTHING | RARE == {path for method, path in MAY if method not in {"GET", "HEAD"}}


@pytest.mark.parametrize("path", WRITES)
async def test_a_change_is_one_row_that_says_who_did_what_and_from_where(
    shared: Running, http: httpx2.AsyncClient, scene: Scene, path: str
) -> None:
    write, url, before = WRITES[path], _url(path, scene), await _rows(shared)
    body, headers = write.body(scene), {"authorization": f"Bearer {shared.admin_key}", "x-request-id": "asked-1"}

    for key in (shared.replica_key, "none"):
        response = await http.post(url, json=body, headers={"authorization": f"Bearer {key}"})
        assert response.status_code in {401, 403}
    if path not in TAKES_NO_BODY:
        assert (await http.post(url, json=body | {"more": 1}, headers=headers)).status_code == 422
    if path in {"/v1/revocations", "/v1/revocations/by-filter", "/v1/cutoffs", "/v1/biscuit/revocations"}:
        assert (await http.post(url, json=body | {"dry_run": True}, headers=headers)).status_code == 200
    assert await _rows(shared) == before, "what is refused, or a dry run, is none"

    answer = await http.post(url, json=body, headers=headers)
    assert answer.is_success, answer.text
    [row] = (await _rows(shared))[len(before) :]
    assert (row.action, row.role, row.application_id) == (write.action, "administrator", "")
    assert (row.key_id, row.remote, row.request_id) == (shared.admin_key.split("_")[1], "127.0.0.1", "asked-1")
    assert (row.reason, row.seq) == (body.get("reason", write.why(scene)), answer.json().get(write.seq))
    assert not write.target or row.target == _target(answer.json(), write.target)

    if write.is_once:
        assert (await http.post(url, json=body, headers=headers)).status_code == 200
        assert (await _rows(shared))[-1] == row, "and what was so already, is none"


async def test_a_rotation_a_withdrawal_and_a_recovery_are_rows(running: Running) -> None:
    headers = {"authorization": f"Bearer {running.admin_key}"}
    async with open_client(10, url=running.url, headers=headers) as http:
        rotated = await http.post("/v1/signing-keys/rotate", json={"purpose": "mandate"})
        assert rotated.status_code == 201, rotated.text
        key_id = rotated.json()["id"]
        withdrawn = await http.post(f"/v1/signing-keys/{key_id}/withdraw", json={"reason": "stolen"})
        assert withdrawn.is_success, withdrawn.text
        recovered = await http.post("/v1/ledger/recovery", json={"force": True, "keep_sessions": True})
        assert recovered.is_success, recovered.text
    rows = [(row.action, row.target, row.role, row.reason) for row in await _rows(running)]
    admin = "administrator"
    assert ("signing-key.rotate", key_id, admin, "") in rows
    assert any(target == key_id and role == admin and reason == "stolen" for _, target, role, reason in rows)
    assert ("ledger.recover", str(running.authority.pin.log_id), admin, "") in rows


async def test_a_request_that_comes_twice_is_one_row_and_each_answer_names_its_own_request(
    shared: Running, http: httpx2.AsyncClient
) -> None:
    before = await _rows(shared)
    key = {"authorization": f"Bearer {shared.admin_key}", "idempotency-key": "made-once"}
    asked = [("/v1/applications", {"name": "once"}, request_id) for request_id in ("first", "second")]
    first, again = [await http.post(url, json=body, headers=key | {"x-request-id": id_}) for url, body, id_ in asked]
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert [answer.headers["x-request-id"] for answer in (first, again)] == ["first", "second"]
    [row] = (await _rows(shared))[len(before) :]
    assert (row.action, row.request_id) == ("application.create", "first")


async def test_a_new_key_is_not_kept_for_who_repeats_the_request(shared: Running, http: httpx2.AsyncClient) -> None:
    headers = {"authorization": f"Bearer {shared.admin_key}", "idempotency-key": "key-once"}
    body = {"role": "reader", "name": "once"}
    made = await http.post("/v1/keys", json=body, headers=headers)
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    rows = await _rows(shared)
    refused(await http.post("/v1/keys", json=body, headers=headers), 409, "already_done")
    assert await _rows(shared) == rows
    async with looking_into(shared.data) as look:
        kept = await look.execute("SELECT body FROM requests WHERE status = 201")
    assert made.json()["secret"] not in str(kept)


async def test_what_an_application_opens_or_ends_for_itself_is_its_own(
    shared: Running, http: httpx2.AsyncClient, scene: Scene
) -> None:
    """Of all that clients ask for at the OAuth endpoints, only a session of their own and an end change anything."""
    client = shared.client
    application = (await client.create_application("notes"))["id"]
    secret = await client.create_key(application)
    session = (await client.open_session(application, "carol"))["id"]
    token = await client.issue_mandate(session, AUDIENCE)
    headers = {"authorization": basic(application, secret)}
    await client.create_grant(application, application, ["read"], AUDIENCE)
    before = await _rows(shared)
    for _ in range(2):
        asked = {"grant_type": "client_credentials", "audience": AUDIENCE}
        assert (await http.post("/oauth2/token", data=asked, headers=headers)).status_code == 200
    [row] = (await _rows(shared))[len(before) :]
    assert (row.action, row.role, row.application_id) == ("session.open", "application", application)
    before = await _rows(shared)
    for path in ("introspect", "revoke", "revoke"):
        assert (await http.post(f"/oauth2/{path}", data={"token": token}, headers=headers)).status_code == 200
    [row] = (await _rows(shared))[len(before) :]
    assert (row.action, row.role, row.application_id) == ("token.revoke", "application", application)
    assert row.key_id == secret.split("_")[1]


async def test_what_the_authority_does_by_itself_is_its_own(rooms: Rooms) -> None:
    made: list[str] = []
    await rooms.access.ensure(Role.REPLICA, "for a test", made.append)
    [record] = (await rooms.service.trail.page(0, 10)).rows
    row = record.row
    assert (row.action, row.target, row.role) == ("api_key.create", made[0].split("_")[1], "authority")
    assert (row.key_id, row.application_id, row.remote, row.request_id) == ("", "", "", "")


async def test_of_many_who_change_something_at_once_each_is_itself_and_the_numbers_have_no_gap(rooms: Rooms) -> None:
    application = await rooms.service.opening.create_application("notes")

    async def work(number: int) -> str:
        arrive(f"request-{number}", "192.0.2.1")
        identify("operator", f"key-{number}", "")
        return (await rooms.service.opening.create_application(f"app {number}")).id

    ids = await asyncio.gather(*(asyncio.create_task(work(number)) for number in range(20)))
    rows = [chained.row for chained in (await rooms.service.trail.page(1, 100)).rows]
    assert [row.number for row in rows] == list(range(2, 22))
    assert {row.target: (row.key_id, row.request_id) for row in rows} == {
        id_: (f"key-{number}", f"request-{number}") for number, id_ in enumerate(ids)
    }
    assert application.id not in ids


async def test_what_fails_leaves_no_row(rooms: Rooms) -> None:
    async def work(_connection: AsyncConnection) -> tuple[None, Act]:
        raise NotFoundError("there is no such thing")

    with pytest.raises(NotFoundError):
        await Audit(rooms.database, rooms.clock).write(work)
    with pytest.raises(NotFoundError):
        await rooms.service.revoking.revoke(Kind.SESSION, "ses_" + "0" * 32)
    assert (await rooms.service.trail.page(0, 10)).rows == []


# Whatever is done to the rows is found


async def _history(path: Path) -> Pin:
    """Make an audit of eight rows, of which the first six are under a seal; return whom to believe."""
    async with rooms_open(path) as rooms:
        sessions = [await rooms.session(subject=f"s{number}") for number in range(2)]
        for session in sessions:
            await rooms.service.revoking.revoke(Kind.SESSION, session.id, "left")
        await rooms.heartbeat.sign()
        await rooms.session()
        return rooms.pin


async def _proof(rooms: Rooms, pin: Pin, earlier: AuditEnd | None = None, limit: int = MAX_PAGE) -> AuditProof:
    """Prove what the database holds, as somebody does who has only the pin."""
    proof, after = AuditProof(pin, earlier), 0
    while True:
        page = await rooms.service.trail.page(after, limit)
        records: list[ChainedRow | Seal] = [*page.rows, *page.seals]
        for record in sorted(records, key=lambda record: record.place):
            proof.add(record)
        if page.next is None:
            proof.finish()
            return proof
        after = page.next


@pytest.mark.parametrize("limit", [1, 2, 6, 7, 8, 1000])
async def test_an_audit_that_nobody_touched_is_proven_up_to_its_seal_in_pages_of_any_size(
    tmp_path: Path, limit: int
) -> None:
    pin = await _history(tmp_path)
    async with rooms_open(tmp_path) as rooms:
        proof = await _proof(rooms, pin, limit=limit)
    assert proof.end.number == 8
    assert proof.sealed is not None
    assert proof.sealed[0] == 6


ROW: Final = tables.audit.c
Tamper = Callable[[AsyncConnection], Awaitable[Any]]


async def _rechain(connection: AsyncConnection) -> None:
    """Give every row the link that follows, as whoever can compute SHA-256 can, and number them without a gap."""
    rows = (await connection.execute(select(tables.audit).order_by(ROW.number))).mappings().all()
    link = audit_genesis(LogId((await connection.execute(select(tables.log.c.log_id))).scalar_one()))
    await connection.execute(delete(tables.audit))
    for number, row in enumerate(rows, 1):
        values = {**row, "number": number}
        link = next_audit_link(link, AuditRow(**{k: v for k, v in values.items() if k != "link"}).to_bytes())
        await connection.execute(tables.audit.insert().values({**values, "link": link}))
    await connection.execute(update(tables.audit_head).values(number=len(rows), link=link))


async def _swap(connection: AsyncConnection, one: int, other: int) -> None:
    for number, to in ((one, 99), (other, one), (99, other)):
        await connection.execute(update(tables.audit).where(ROW.number == number).values(number=to))


def _set(number: int, **values: Any) -> Tamper:
    return lambda connection: connection.execute(update(tables.audit).where(ROW.number == number).values(values))


def _drop(*numbers: int) -> Tamper:
    return lambda connection: connection.execute(delete(tables.audit).where(ROW.number.in_(numbers)))


def _then_rechain(tamper: Tamper) -> Tamper:
    async def both(connection: AsyncConnection) -> None:
        await tamper(connection)
        await _rechain(connection)

    return both


def _set_seal(**values: Any) -> Tamper:
    return lambda connection: connection.execute(update(tables.audit_seals).values(values))


TAMPERED: Final[dict[str, tuple[Tamper, int]]] = {
    "a reason": (_set(5, reason="by mistake"), 5),
    "a time": (_set(2, at_ms=1), 2),
    "who it was": (_set(1, role="operator", key_id="0" * 16), 1),
    "from where": (_set(3, remote="192.0.2.9"), 3),
    "an entry's number": (_set(6, seq=1), 6),
    "what was done": (_set(8, action="session.close"), 8),
    "a link": (_set(4, link=bytes(32)), 4),
    "the first row removed": (_drop(1), 1),
    "a row removed": (_drop(3), 3),
    "a row behind the seal removed": (_drop(7), 7),
    "two rows in each other's place": (lambda connection: _swap(connection, 3, 4), 3),
    "the end removed, under a seal": (_drop(5, 6, 7, 8), 5),
    "a reason, and every link after it": (_then_rechain(_set(5, reason="by mistake")), 6),
    "a row removed, and the others moved up": (_then_rechain(_drop(2)), 6),
    "two rows exchanged, and every link": (_then_rechain(lambda connection: _swap(connection, 1, 2)), 6),
    "the end removed under a seal, and the head set back": (_then_rechain(_drop(5, 6, 7, 8)), 5),
    "everything removed": (_then_rechain(_drop(*range(1, 9))), 1),
    "a seal moved to another row": (_set_seal(number=5), 5),
}


@pytest.mark.parametrize("what", TAMPERED)
async def test_whatever_is_done_to_the_rows_is_found_at_the_row(tmp_path: Path, what: str) -> None:
    pin, (tamper, number) = await _history(tmp_path), TAMPERED[what]
    async with rooms_open(tmp_path) as rooms:
        async with writing(rooms.database) as connection:
            await tamper(connection)
        with pytest.raises(AuditError) as found:
            await _proof(rooms, pin)
    assert found.value.number == number
    assert f"row {number} " in str(found.value)


async def test_a_seal_that_another_key_signed_is_none(tmp_path: Path) -> None:
    pin = await _history(tmp_path)
    async with rooms_open(tmp_path) as rooms:
        [seal] = (await rooms.service.trail.page(0, 100)).seals
        forged = parse_checkpoint(seal.signed).claimed.sign(OTHER_KEY)
        for signed, refusal in ((forged, UnknownKeyError), (seal.signed[:-64] + forged[-64:], BadSignatureError)):
            async with writing(rooms.database) as connection:
                await _set_seal(signed=signed)(connection)
            with pytest.raises(refusal):
                await _proof(rooms, pin)


async def test_an_audit_of_another_log_is_not_the_pinned_one(tmp_path: Path) -> None:
    pin = await _history(tmp_path)
    async with rooms_open(tmp_path) as rooms:
        other = Pin.of(LogId(bytes(16)), *pin.keys.values())
        with pytest.raises(AuditError) as found:
            await _proof(rooms, other)
        assert found.value.number == 1


@pytest.mark.parametrize("tamper", [_drop(7, 8), _then_rechain(_drop(8)), _then_rechain(_set(8, action="other"))])
async def test_what_happens_behind_the_last_seal_an_earlier_export_tells(tmp_path: Path, tamper: Tamper) -> None:
    pin = await _history(tmp_path)
    async with rooms_open(tmp_path) as rooms:
        earlier = (await _proof(rooms, pin)).end
        async with writing(rooms.database) as connection:
            await tamper(connection)
        await _proof(rooms, pin)
        with pytest.raises(AuditError):
            await _proof(rooms, pin, earlier)


async def test_an_earlier_export_tells_also_where_the_seals_are_gone(tmp_path: Path) -> None:
    pin = await _history(tmp_path)
    async with rooms_open(tmp_path) as rooms:
        earlier = (await _proof(rooms, pin)).end
        async with writing(rooms.database) as connection:
            await connection.execute(delete(tables.audit_seals))
            await _then_rechain(_set(5, reason="by mistake"))(connection)
        assert (await _proof(rooms, pin)).sealed is None
        with pytest.raises(AuditError):
            await _proof(rooms, pin, earlier)
        await rooms.session()
        with pytest.raises(AuditError) as found:
            await _proof(rooms, pin, earlier)
        assert found.value.number == earlier.number


# Seals


async def test_a_revocation_signs_its_own_row(rooms: Rooms) -> None:
    session = await rooms.session()
    await rooms.service.revoking.revoke(Kind.SESSION, session.id)
    newest = rooms.heartbeat.newest
    assert newest is not None
    assert newest.audited == 3
    [chained] = (await rooms.service.trail.page(2, 10)).rows
    assert parse_checkpoint(newest.signed).verify(rooms.pin).audit == chained.link
    assert chained.row.seq == newest.checkpoint.rev.seq == 1


async def test_a_seal_is_kept_once_a_minute_while_the_audit_grows(rooms: Rooms) -> None:
    seals: list[int] = []
    for _ in range(150):
        if len(seals) < 3:
            await rooms.service.revoking.cut_off("subject:alice")
        rooms.clock.advance(1_000)
        await rooms.heartbeat.sign()
        async with rooms.database.read() as connection:
            seals = list((await connection.execute(select(tables.audit_seals.c.number))).scalars())
    async with rooms.database.read() as connection:
        ends = (await connection.execute(select(func.max(tables.audit_seals.c.at_ms)))).scalar_one()
        times = list((await connection.execute(select(tables.audit_seals.c.at_ms))).scalars())
    assert len(seals) == 3
    assert all(later - sooner >= 60_000 for sooner, later in zip(sorted(times), sorted(times)[1:], strict=False))
    assert max(seals) == (await rooms.service.trail.page(0, 1000)).rows[-1].row.number
    assert ends <= rooms.clock.wall_ms


async def test_the_last_page_has_the_newest_checkpoint_that_nobody_kept(rooms: Rooms) -> None:
    for _ in range(3):
        await rooms.service.revoking.cut_off("subject:alice")
    await rooms.heartbeat.sign()
    await rooms.service.revoking.cut_off("subject:alice")
    page = await rooms.service.trail.page(0, 100)
    assert [seal.number for seal in page.seals] == [3, 4]
    assert (await _proof(rooms, rooms.pin)).sealed is not None
    assert (await rooms.service.trail.page(4, 100)).seals == []


@pytest.mark.parametrize("revoking", [False, True], ids=["", "a revocation comes between"])
@pytest.mark.parametrize("removing", [False, True], ids=["changed", "removed"])
async def test_an_audit_that_is_rewritten_beneath_a_running_authority_is_signed_no_more(
    rooms: Rooms, *, removing: bool, revoking: bool
) -> None:
    """Its chain holds again, as whoever may write to the database can make it."""
    sessions = [await rooms.session(subject=f"s{number}") for number in range(2)]
    await rooms.heartbeat.sign()
    last = (await rooms.service.trail.page(0, MAX_PAGE)).rows[-1].row.number
    async with writing(rooms.database) as connection:
        if removing:
            await connection.execute(delete(tables.audit).where(ROW.number == last))
        else:
            await connection.execute(update(tables.audit).where(ROW.number == 2).values(target="ses_another"))
        await _rechain(connection)
    if revoking:
        await rooms.service.revoking.revoke(Kind.SESSION, sessions[0].id)
    for _ in range(2):
        with pytest.raises(DataError, match=f"row {last} of the audit is gone, or another than was signed"):
            await rooms.heartbeat.sign()
        signed = rooms.heartbeat.newest
        await rooms.service.revoking.revoke(Kind.SESSION, sessions.pop().id)
        assert rooms.heartbeat.newest is signed, "what is revoked is committed, and signed no more than anything else"
