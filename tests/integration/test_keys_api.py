"""Keys over the API: made once, listed without a secret, expiring, revoked, and never the last one."""

import asyncio

import pytest
from sqlalchemy import select

from countermand.authority import tables
from countermand.authority.access import PAGE, USE_MS
from countermand.authority.model import ApiKey, Role
from countermand.errors import InvalidValueError, LastKeyError, NotFoundError, UnauthenticatedError
from tests.integration.admin import administering
from tests.integration.problems import refused
from tests.integration.rooms import NOW_MS, Rooms
from tests.running import Running

pytestmark = pytest.mark.anyio


async def _listed(rooms: Rooms, id_: str) -> ApiKey:
    [key] = [key for key in (await rooms.access.keys()).items if key.id == id_]
    return key


async def _is_refused(rooms: Rooms, secret: str) -> bool:
    try:
        await rooms.access.authenticate(secret)
    except UnauthenticatedError as refusal:
        return str(refusal) == "this needs a valid API key"
    return False


async def test_a_key_is_listed_with_all_but_its_secret(running: Running) -> None:
    async with administering(running) as admin:
        made = await admin.make("keys", role="operator", name="pager", lifetime_s=60)
        answer = await admin.get("keys")
        [listed] = [key for key in answer.json()["items"] if key["id"] == made["key"]["id"]]
        assert listed == made["key"]
        assert set(listed) == {
            "id",
            "role",
            "name",
            "application_id",
            "created_at",
            "expires_at",
            "revoked_at",
            "last_used_at",
        }
        assert (listed["role"], listed["name"], listed["revoked_at"]) == ("operator", "pager", None)
        assert made["secret"].split("_")[2] not in answer.text
        assert len(answer.json()["items"]) == 3
        response = await admin.http.get("/v1/sessions", headers={"authorization": f"Bearer {made['secret']}"})
        assert response.status_code == 200
        await admin.post(f"keys/{listed['id']}/revoke", reason="left")
        response = await admin.http.get("/v1/sessions", headers={"authorization": f"Bearer {made['secret']}"})
        assert refused(response, 401, "unauthenticated") == "this needs a valid API key"


async def test_an_applications_key_is_made_for_an_application_only(rooms: Rooms) -> None:
    with pytest.raises(InvalidValueError, match="made for the application"):
        await rooms.access.create(Role.APPLICATION, "x")


async def test_a_key_of_a_role_that_there_is_not_or_without_a_name_or_a_life_is_not_made(running: Running) -> None:
    async with administering(running) as admin:
        refused(await admin.post("keys", role="application", name="x"), 422, "invalid_value")
        refused(await admin.post("keys", role="root", name="x"), 422, "invalid_value")
        refused(await admin.post("keys", role="reader", name=""), 422, "invalid_value")
        refused(await admin.post("keys", role="reader", name="x", lifetime_s=0), 422, "invalid_value")


async def test_a_key_is_good_until_it_expires(rooms: Rooms) -> None:
    made = await rooms.access.create(Role.READER, "x", 60)
    rooms.clock.advance(59_999)
    assert not await _is_refused(rooms, made.secret)
    rooms.clock.advance(1)
    assert await _is_refused(rooms, made.secret)
    assert (await _listed(rooms, made.key.id)).expires_at_ms == NOW_MS + 60_000


async def test_a_revoked_key_stays_as_it_was_revoked_first(rooms: Rooms) -> None:
    made = await rooms.access.create(Role.REPLICA, "x")
    first = await rooms.access.revoke(made.key.id, "left")
    rooms.clock.advance(1_000)
    assert await rooms.access.revoke(made.key.id, "again") == first == await _listed(rooms, made.key.id)
    assert first.revoked_at_ms == NOW_MS
    assert await _is_refused(rooms, made.secret)


@pytest.mark.parametrize("id_", ["", "0" * 16, "x", "\ud800", "0" * 17, "cmk_" + "0" * 16])
async def test_a_key_that_there_is_not_cannot_be_revoked(rooms: Rooms, id_: str) -> None:
    with pytest.raises(NotFoundError):
        await rooms.access.revoke(id_)


async def test_the_last_administrator_who_never_expires_cannot_be_revoked(rooms: Rooms) -> None:
    first = await rooms.access.create(Role.ADMINISTRATOR, "first")
    passing = await rooms.access.create(Role.ADMINISTRATOR, "for a while", 3_600)
    await rooms.access.create(Role.OPERATOR, "no administrator")
    with pytest.raises(LastKeyError):
        await rooms.access.revoke(first.key.id)
    await rooms.access.revoke(passing.key.id)
    with pytest.raises(LastKeyError):
        await rooms.access.revoke(first.key.id)
    second = await rooms.access.create(Role.ADMINISTRATOR, "second")
    await rooms.access.revoke(first.key.id)
    assert not await _is_refused(rooms, second.secret)


async def test_of_two_who_revoke_each_other_at_once_one_stays(rooms: Rooms) -> None:
    made = [await rooms.access.create(Role.ADMINISTRATOR, name) for name in "ab"]
    done = await asyncio.gather(*(rooms.access.revoke(one.key.id) for one in made), return_exceptions=True)
    assert sorted(isinstance(one, LastKeyError) for one in done) == [False, True]


async def test_over_http_the_last_one_is_a_conflict(running: Running) -> None:
    async with administering(running) as admin:
        refused(await admin.post(f"keys/{running.admin_key.split('_')[1]}/revoke"), 409, "last_key")
        await admin.read("sessions")


async def test_a_key_that_was_revoked_or_has_expired_is_made_again_at_the_next_start(rooms: Rooms) -> None:
    kept: list[str] = []
    await rooms.access.ensure(Role.REPLICA, "x", kept.append)
    await rooms.access.revoke(kept[0].split("_")[1])
    await rooms.access.ensure(Role.REPLICA, "x", kept.append)
    assert len(kept) == 2
    assert not await _is_refused(rooms, kept[1])


async def test_keys_are_listed_in_pages(rooms: Rooms) -> None:
    made = {(await rooms.access.create(Role.READER, "x")).key.id for _ in range(PAGE + 1)}
    first = await rooms.access.keys()
    assert first.next is not None
    second = await rooms.access.keys(first.next)
    assert second.next is None
    ids = [key.id for key in first.items + second.items]
    assert ids == sorted(made)


async def test_the_last_use_is_written_beside_the_requests_and_once_a_minute(rooms: Rooms) -> None:
    made = await rooms.access.create(Role.READER, "x")

    async def written() -> int | None:
        return (await _listed(rooms, made.key.id)).last_used_at_ms

    await rooms.access.authenticate(made.secret)
    assert await written() is None
    await rooms.access.write_uses()
    assert await written() == NOW_MS
    rooms.clock.advance(USE_MS - 1)
    await rooms.access.authenticate(made.secret)
    await rooms.access.write_uses()
    assert await written() == NOW_MS
    rooms.clock.advance(1)
    await rooms.access.authenticate(made.secret)
    await rooms.access.write_uses()
    assert await written() == NOW_MS + USE_MS


async def test_a_key_that_is_refused_was_not_used(rooms: Rooms) -> None:
    made = await rooms.access.create(Role.READER, "x")
    assert await _is_refused(rooms, made.secret[:-1] + ("0" if made.secret[-1] != "0" else "1"))
    await rooms.access.write_uses()
    async with rooms.database.read() as connection:
        assert list((await connection.execute(select(tables.api_keys.c.last_used_at_ms))).scalars()) == [None]
