"""API keys: seen whole once, kept as a hash, refused always with the same sentence."""

import asyncio
from pathlib import Path

import pytest

from countermand.authority.access import Caller
from countermand.authority.model import Role
from countermand.errors import DataError, ForbiddenError, NotActiveError, NotFoundError, UnauthenticatedError
from countermand.log.anchor import Kind
from countermand.settings import ClientSettings
from tests.integration.rooms import Rooms, rooms_open
from tests.looking import commits_failing, stored
from tests.running import Running

pytestmark = pytest.mark.anyio


async def _make(rooms: Rooms, role: Role) -> list[str]:
    """Return the keys that were made: one, or none."""
    made: list[str] = []
    await rooms.access.ensure(role, "for a test", made.append)
    return made


async def test_a_key_is_made_once_for_each_role(rooms: Rooms) -> None:
    [admin], [replica] = await _make(rooms, Role.ADMINISTRATOR), await _make(rooms, Role.REPLICA)
    assert await _make(rooms, Role.ADMINISTRATOR) == await _make(rooms, Role.REPLICA) == []
    assert (await rooms.access.authenticate(admin)).role is Role.ADMINISTRATOR
    assert (await rooms.access.authenticate(replica)).role is Role.REPLICA


async def test_an_application_has_as_many_keys_as_are_made_for_it_and_acts_as_itself(rooms: Rooms) -> None:
    one, other = [await rooms.service.opening.create_application("notes") for _ in range(2)]
    keys = [(await rooms.access.create_for(application.id, "for a test")).secret for application in (one, one, other)]
    callers = [await rooms.access.authenticate(key) for key in keys]
    assert [caller.application_id for caller in callers] == [one.id, one.id, other.id]
    assert {caller.role for caller in callers} == {Role.APPLICATION}
    assert len({caller.key_id for caller in callers}) == 3


@pytest.mark.parametrize("id_", ["", "app_1", "app_" + "0" * 32, "ses_" + "0" * 32, "\ud800"])
async def test_no_key_is_made_for_an_application_that_there_is_not(rooms: Rooms, id_: str) -> None:
    with pytest.raises(NotFoundError):
        await rooms.access.create_for(id_, "for a test")


async def test_no_key_is_made_for_an_application_that_is_revoked(rooms: Rooms) -> None:
    application = await rooms.service.opening.create_application("notes")
    await rooms.service.revoking.revoke(Kind.APPLICATION, application.id)
    with pytest.raises(NotActiveError, match="the application is revoked"):
        await rooms.access.create_for(application.id, "for a test")


async def test_of_many_who_ensure_a_key_at_once_one_makes_it(rooms: Rooms) -> None:
    made = await asyncio.gather(*(_make(rooms, Role.REPLICA) for _ in range(10)))
    assert sum(map(len, made)) == 1


async def test_only_the_hash_of_a_key_is_on_the_disk(rooms: Rooms) -> None:
    [key] = await _make(rooms, Role.ADMINISTRATOR)
    _, id_, secret = key.split("_")
    files = b"".join(path.read_bytes() for path in rooms.data.path.rglob("*") if path.is_file())
    kept = stored(rooms.data)
    assert id_.encode() in kept, "the files are the right ones"
    for part in (secret.encode(), bytes.fromhex(secret)):
        assert part not in kept + files


async def test_a_served_authority_leaves_no_key_in_its_database(running: Running) -> None:
    for key in (running.admin_key, running.replica_key):
        _, id_, secret = key.split("_")
        kept = stored(running.data)
        assert id_.encode() in kept
        assert secret.encode() not in kept
        assert bytes.fromhex(secret) not in kept


async def test_every_key_but_the_right_one_is_refused_with_the_same_sentence(rooms: Rooms) -> None:
    [admin], [replica] = await _make(rooms, Role.ADMINISTRATOR), await _make(rooms, Role.REPLICA)
    _, admin_id, admin_secret = admin.split("_")
    _, _, replica_secret = replica.split("_")
    wrong: list[str | None] = [
        None,
        "",
        "cmk_",
        admin[:-1],
        admin + "0",
        admin + "\n",
        " " + admin,
        admin.upper(),
        admin.replace("cmk_", "CMK_"),
        f"cmk_{admin_id}_{replica_secret}",
        f"cmk_{admin_id}_{'0' * 64}",
        f"cmk_{'0' * 16}_{admin_secret}",
        f"cmk_{admin_id}_",
        f"cmk_{admin_id}_{admin_secret[:-1]}٣",
        "x" * 10_000,
        "\ud800",
    ]
    for key in wrong:
        with pytest.raises(UnauthenticatedError) as refused:
            await rooms.access.authenticate(key)
        assert str(refused.value) == "this needs a valid API key"
    await rooms.access.authenticate(admin)


async def test_a_role_opens_what_is_its_own_and_an_administrator_everything_but_an_applications() -> None:
    opens = {
        Role.READER: {Role.READER},
        Role.OPERATOR: {Role.READER, Role.OPERATOR},
        Role.ADMINISTRATOR: {Role.READER, Role.OPERATOR, Role.ADMINISTRATOR, Role.REPLICA},
        Role.REPLICA: {Role.REPLICA},
        Role.APPLICATION: {Role.APPLICATION},
    }
    for role in Role:
        for needed in Role:
            if needed in opens[role]:
                Caller("1", role).require(needed)
            else:
                with pytest.raises(ForbiddenError, match=f"this needs the role {needed}"):
                    Caller("1", role).require(needed)


async def test_a_key_that_could_not_be_kept_is_not_in_the_database(rooms: Rooms) -> None:
    def fail(_key: str) -> None:
        raise DataError("no room on the disk")

    with pytest.raises(DataError, match="no room"):
        await rooms.access.ensure(Role.REPLICA, "for a test", fail)
    assert len(await _make(rooms, Role.REPLICA)) == 1


async def test_a_key_whose_commit_failed_opens_nothing_and_the_next_start_makes_another(rooms: Rooms) -> None:
    kept: list[str] = []
    async with commits_failing(rooms.data, "INSERT ON api_keys"):
        with pytest.raises(DataError):
            await rooms.access.ensure(Role.REPLICA, "for a test", kept.append)
    [key] = await _make(rooms, Role.REPLICA)
    with pytest.raises(UnauthenticatedError):
        await rooms.access.authenticate(kept[0])
    assert (await rooms.access.authenticate(key)).role is Role.REPLICA


async def test_settings_of_a_client_show_no_key(running: Running) -> None:
    settings = ClientSettings.read(running.data.path, {})
    assert settings.api_key == running.admin_key
    shown = f"{settings}{settings!r}"
    assert running.url in shown
    assert running.admin_key.split("_")[2] not in shown


async def test_an_issued_mandate_and_its_key_show_no_secret(rooms: Rooms) -> None:
    session = await rooms.session()
    mandate = await rooms.service.minting.issue(session.id, ["https://api.example"], [])
    shown = f"{mandate}{mandate!r}"
    assert "900" in shown
    assert not any(part in shown for part in mandate.token.split("."))


async def test_keys_of_this_authority_are_no_keys_of_another(rooms: Rooms, tmp_path: Path) -> None:
    [key] = await _make(rooms, Role.ADMINISTRATOR)
    (tmp_path / "other").mkdir()
    async with rooms_open(tmp_path / "other") as other:
        await _make(other, Role.ADMINISTRATOR)
        with pytest.raises(UnauthenticatedError):
            await other.access.authenticate(key)
