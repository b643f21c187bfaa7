"""Signing keys: files that only their owner can read, registered in the database.

A key is made once, at the first start. From then on the file and the database must agree: a replica has pinned the
public half, so a key that is lost must be missed, and never be replaced in silence.
"""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.database import Database
from countermand.errors import ConfigurationError, DataError
from countermand.log.checkpoint import key_id
from countermand.tokens.keys import SigningKey

CHECKPOINT_FILE: Final = "checkpoint.pem"
MANDATE_FILE: Final = "mandate.pem"
SECRET_MODE: Final = 0o600


@dataclass(frozen=True, slots=True)
class Keys:
    """What the authority signs with: checkpoints with one key, mandates with another."""

    checkpoint: Ed25519PrivateKey = field(repr=False)
    mandate: SigningKey


def write_secret(path: Path, data: bytes) -> None:
    """Write a new file that only its owner can read, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, SECRET_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        partial.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from error


def _flush(directory: Path) -> None:
    """Put a directory's names on the disk: what the database knows of must not be lost with the power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_secret(path: Path) -> bytes:
    """Return what a secret file holds.

    Raises:
        DataError: it is missing, or others than its owner may touch it.
    """
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise DataError(f"{path} is open to others than its owner: chmod 600 {path}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


async def open_keys(database: Database, directory: Path, now_ms: int) -> Keys:
    """Return the keys in `directory`; make them where the database knows of none.

    A file that is there already is registered and not replaced: a first start may have ended half-way.

    Raises:
        DataError: a key that the database knows has no file, or a file holds another key.
    """

    async def work(connection: AsyncConnection) -> tuple[dict[str, str], Keys]:
        registered = {row.purpose: row.id for row in await connection.execute(select(tables.signing_keys))}
        if registered:
            return registered, _load(directory)
        _make_missing(directory)
        keys = _load(directory)
        await connection.execute(insert(tables.signing_keys), [row | {"created_at_ms": now_ms} for row in _rows(keys)])
        return {}, keys

    registered, keys = await database.write(work, alone=True)
    if registered and registered != {str(row["purpose"]): row["id"] for row in _rows(keys)}:
        raise DataError(f"{directory} holds other keys than the database knows: put the right ones back")
    return keys


def _make_missing(directory: Path) -> None:
    if not (directory / CHECKPOINT_FILE).exists():
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_secret(directory / CHECKPOINT_FILE, pem)
    if not (directory / MANDATE_FILE).exists():
        write_secret(directory / MANDATE_FILE, SigningKey.generate().to_pem())


def _rows(keys: Keys) -> list[dict[str, object]]:
    checkpoint_id = key_id(keys.checkpoint.public_key()).hex()
    return [
        {"id": checkpoint_id, "purpose": "checkpoint", "algorithm": "Ed25519"},
        {"id": keys.mandate.kid, "purpose": "mandate", "algorithm": keys.mandate.algorithm},
    ]


def _load(directory: Path) -> Keys:
    try:
        checkpoint = serialization.load_pem_private_key(read_secret(directory / CHECKPOINT_FILE), password=None)
        mandate = SigningKey.from_pem(read_secret(directory / MANDATE_FILE))
    except (ValueError, TypeError, ConfigurationError) as error:
        raise DataError(f"a key in {directory} cannot be read: {error}") from error
    if not isinstance(checkpoint, Ed25519PrivateKey):
        raise DataError(f"{directory / CHECKPOINT_FILE} is not an Ed25519 key")
    return Keys(checkpoint, mandate)
