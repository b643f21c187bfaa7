"""The authority's signing keys: made once, readable by their owner alone, missed when they are lost."""

import os
import stat
from pathlib import Path
from typing import Final

import httpx2
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from countermand.authority.keys import CHECKPOINT_FILE, MANDATE_FILE, generate, read_secret, write_secret
from countermand.authority.model import Purpose
from countermand.errors import DataError
from countermand.log.checkpoint import key_id
from countermand.server.app import create_app
from countermand.tokens.keys import SigningKey
from tests.databases import Kind
from tests.integration.problems import refused_by_oauth
from tests.integration.rooms import AUDIENCE, ISSUER, Rooms, rooms_open
from tests.looking import REFUSED_AT_COMMIT, commits_failing, looking_into, stored

pytestmark = pytest.mark.anyio

FILES: Final = [CHECKPOINT_FILE, MANDATE_FILE]
NO_PASSWORD: Final = serialization.NoEncryption()


def _pems(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def _secrets(rooms: Rooms) -> list[bytes]:
    """The private numbers themselves."""
    mandate = rooms.keys.mandate.private
    assert isinstance(mandate, EllipticCurvePrivateKey)
    return [rooms.keys.checkpoint.private_bytes_raw(), mandate.private_numbers().private_value.to_bytes(32)]


async def _opened(path: Path) -> Rooms:
    async with rooms_open(path) as rooms:
        return rooms


async def _refused(path: Path) -> str:
    """Return the sentence with which a start is refused."""
    with pytest.raises(DataError) as refused:
        await _opened(path)
    return str(refused.value)


async def test_keys_are_files_of_their_owner_alone_in_a_directory_of_its_own(rooms: Rooms) -> None:
    assert stat.S_IMODE(rooms.data.keys.stat().st_mode) == 0o700
    assert sorted(path.name for path in rooms.data.keys.iterdir()) == FILES, "and nothing half-written is left"
    assert {stat.S_IMODE(path.stat().st_mode) for path in rooms.data.keys.iterdir()} == {0o600}


async def test_keys_are_made_once(tmp_path: Path) -> None:
    first = await _opened(tmp_path)
    pems = _pems(first.data.keys)
    second = await _opened(tmp_path)
    assert _pems(second.data.keys) == pems
    assert second.keys.mandate.kid == first.keys.mandate.kid
    assert second.pin == first.pin


async def test_the_database_registers_both_keys_and_holds_neither(tmp_path: Path) -> None:
    rooms = await _opened(tmp_path)
    async with looking_into(rooms.data) as look:
        registered = dict(await look.execute("SELECT purpose, id FROM signing_keys"))
    assert registered == {
        "checkpoint": key_id(rooms.keys.checkpoint.public_key()).hex(),
        "mandate": rooms.keys.mandate.kid,
    }
    kept = stored(rooms.data)
    assert rooms.keys.mandate.kid.encode() in kept, "the files are the right ones"
    secrets = [*_secrets(rooms), *_pems(rooms.data.keys).values()]
    assert not any(secret in kept or secret.hex().encode() in kept for secret in secrets)


@pytest.mark.parametrize("name", FILES)
async def test_a_key_file_that_is_lost_is_missed_and_not_replaced(tmp_path: Path, name: str) -> None:
    rooms = await _opened(tmp_path)
    (rooms.data.keys / name).unlink()
    left = _pems(rooms.data.keys)
    ids = {CHECKPOINT_FILE: rooms.keys.checkpoint_id, MANDATE_FILE: rooms.keys.mandate.kid}
    wanted = rooms.data.keys / f"{Path(name).stem}-{ids[name]}.pem"
    assert await _refused(tmp_path) == f"{wanted} cannot be read: No such file or directory", "which of all there are"
    assert _pems(rooms.data.keys) == left


async def test_a_database_without_its_keys_is_refused_and_gets_no_new_ones(tmp_path: Path) -> None:
    rooms = await _opened(tmp_path)
    rooms.data.keys.rename(tmp_path / "elsewhere")
    assert "cannot be read" in await _refused(tmp_path)
    assert not rooms.data.keys.exists()


async def test_the_keys_of_another_authority_are_refused(tmp_path: Path) -> None:
    rooms = await _opened(tmp_path)
    (tmp_path / "other").mkdir()
    other = await _opened(tmp_path / "other")
    for name in FILES:
        path = rooms.data.keys / name
        own = path.read_bytes()
        path.write_bytes((other.data.keys / name).read_bytes())
        assert "holds other keys than the database knows" in await _refused(tmp_path)
        path.write_bytes(own)
    await _opened(tmp_path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
async def test_a_key_file_open_to_others_is_refused_with_the_command_that_closes_it(
    tmp_path: Path, name: str, mode: int
) -> None:
    path = (await _opened(tmp_path)).data.keys / name
    path.chmod(mode)
    assert await _refused(tmp_path) == f"{path} is open to others than its owner: chmod 600 {path}"
    path.chmod(0o600)
    await _opened(tmp_path)


def _rsa_pem() -> bytes:
    return SigningKey.generate("RS256").to_pem()


def _encrypted_pem() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"a pass phrase"),
    )


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("pem", [b"", b"not a key", b"\x00\xff" * 500, _encrypted_pem(), _rsa_pem()])
async def test_a_file_that_is_no_key_for_its_purpose_is_refused_and_not_quoted(
    tmp_path: Path, name: str, pem: bytes
) -> None:
    path = (await _opened(tmp_path)).data.keys / name
    path.write_bytes(pem)
    sentence = await _refused(tmp_path)
    assert str(path.parent) in sentence
    assert "not a key" not in sentence
    assert path.read_bytes() == pem


async def test_files_of_a_first_start_that_came_to_no_commit_are_kept_and_registered(
    tmp_path: Path, database_kind: Kind
) -> None:
    """Between files and commit the process may die: the database then knows no key, and the next start knows these."""
    rooms = await _opened(tmp_path)
    async with looking_into(rooms.data) as look:
        await look.execute("DELETE FROM signing_keys")
    made = _pems(rooms.data.keys)
    async with commits_failing(rooms.data, "INSERT ON signing_keys"):
        assert REFUSED_AT_COMMIT[database_kind] in await _refused(tmp_path)
    assert _pems(rooms.data.keys) == made
    assert (await _opened(tmp_path)).pin == rooms.pin
    assert _pems(rooms.data.keys) == made


async def test_one_of_two_files_of_a_first_start_is_enough_to_go_on_from(tmp_path: Path) -> None:
    rooms = await _opened(tmp_path)
    async with looking_into(rooms.data) as look:
        await look.execute("DELETE FROM signing_keys")
    (rooms.data.keys / MANDATE_FILE).unlink()
    again = await _opened(tmp_path)
    assert again.pin == rooms.pin
    assert again.keys.mandate.kid != rooms.keys.mandate.kid


@pytest.mark.sqlite
async def test_a_lost_database_costs_no_key(tmp_path: Path) -> None:
    rooms = await _opened(tmp_path)
    made = _pems(rooms.data.keys)
    kept = rooms.data.database.rename(tmp_path / "kept.db")
    other = await _opened(tmp_path)
    assert other.ledger.log_id != rooms.ledger.log_id
    assert _pems(rooms.data.keys) == made
    kept.rename(rooms.data.database)
    assert (await _opened(tmp_path)).pin == rooms.pin


async def test_a_secret_is_written_whole_and_over_what_stood_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret"
    write_secret(path, b"one")
    write_secret(path, b"two")
    assert read_secret(path) == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


async def test_a_secret_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be written: "):
        write_secret(tmp_path / "file" / "secret", b"one")


async def test_what_holds_a_key_shows_none(rooms: Rooms) -> None:
    shown = f"{rooms.keys!r}{rooms.keys}{rooms.keys.mandate!r}{rooms.service!r}{rooms.heartbeat!r}{rooms.reader!r}"
    assert rooms.keys.mandate.kid in shown
    for secret in _secrets(rooms):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
    assert "PRIVATE" not in shown
    assert "PrivateKey" not in shown


async def test_a_forgotten_keys_file_that_is_open_to_others_is_passed_over_and_said_once(
    rooms: Rooms, caplog: pytest.LogCaptureFixture
) -> None:
    key = generate(Purpose.CHECKPOINT)
    assert isinstance(key, Ed25519PrivateKey)
    path = rooms.data.keys / f"checkpoint-{key_id(key.public_key()).hex()}.pem"
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, NO_PASSWORD)
    path.write_bytes(pem)
    path.chmod(0o644)
    assert [rooms.keys.forgotten(rooms.keys.register) for _ in range(2)] == [[], []]
    assert [record.getMessage() for record in caplog.records] == [
        f"a key's file is passed over: {path} is open to others than its owner: chmod 600 {path}"
    ]
    path.chmod(0o600)
    [found] = rooms.keys.forgotten(rooms.keys.register)
    assert found.id == key_id(key.public_key()).hex()


async def test_strangers_hear_nothing_of_files(rooms: Rooms) -> None:
    session = await rooms.session()
    await rooms.service.opening.create_grant(session.application_id, session.application_id, ["read"], [AUDIENCE], 3600)
    key = await rooms.access.create_for(session.application_id, "notes")
    write_secret(rooms.data.keys / MANDATE_FILE, SigningKey.generate().to_pem())
    rooms.keys._loaded.clear()
    app = create_app(rooms.service, rooms.access, rooms.reader, ISSUER, os.urandom)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=ISSUER) as http:
        asked = {"grant_type": "client_credentials", "audience": AUDIENCE}
        answer = await http.post("/oauth2/token", data=asked, auth=(session.application_id, key.secret))
    sentence = refused_by_oauth(answer, 503, "temporarily_unavailable")
    assert sentence == "the authority lacks a key of its own: its log says which"
