"""Signing keys: files that only their owner can read, registered in the database.

The first keys are made at the first start. From then on the files and the database must agree: a replica has pinned the
public half, so a key that is lost must be missed, and never be replaced in silence. The register says which key signs,
to every process; one that lacks the file of that key signs nothing. Another file is never used, whatever is in it.
"""

import logging
import os
import stat
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Row, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.database import Database
from countermand.authority.model import KeyState, Purpose, RegisteredKey
from countermand.errors import ConfigurationError, DataError, SecretFileError
from countermand.log.chain import LogId
from countermand.log.checkpoint import Pin, key_id
from countermand.log.keyset import parse_keyset
from countermand.tokens.jwks import KeySet
from countermand.tokens.keys import SigningKey, VerifyingKey

CHECKPOINT_FILE: Final = "checkpoint.pem"
MANDATE_FILE: Final = "mandate.pem"
SECRET_MODE: Final = 0o600

_FIRST_FILES: Final = {Purpose.CHECKPOINT: CHECKPOINT_FILE, Purpose.MANDATE: MANDATE_FILE}
_VERIFYING: Final = (KeyState.ACTIVE, KeyState.NEXT, KeyState.RETIRING)

PrivateKey: TypeAlias = Ed25519PrivateKey | SigningKey

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Register:
    """The register at one moment: every key, and every keyset, signed, in order."""

    log_id: LogId
    keys: tuple[RegisteredKey, ...]
    keysets: tuple[bytes, ...] = ()

    @property
    def pin(self) -> Pin:
        """What a replica believes that has followed every keyset."""
        if self.keysets:
            return parse_keyset(self.keysets[-1]).claimed
        return Pin.of(self.log_id, *map(public_of, self.standing(Purpose.CHECKPOINT)))

    def standing(self, purpose: Purpose) -> list[RegisteredKey]:
        """Return the keys that verify, first of them the one that signs."""
        found = [key for key in self.keys if key.purpose is purpose and key.state in _VERIFYING]
        return sorted(found, key=lambda key: (_VERIFYING.index(key.state), key.created_at_ms, key.id))

    def find(self, purpose: Purpose, state: KeyState) -> RegisteredKey | None:
        """Return the key in this state; the oldest, where several retire."""
        return next((key for key in self.standing(purpose) if key.state is state), None)

    def active(self, purpose: Purpose) -> RegisteredKey:
        """Return the key that signs. Raises: DataError."""
        key = self.find(purpose, KeyState.ACTIVE)
        if key is None:
            raise DataError(f"the database knows of no {purpose} key that signs: restore it")
        return key


class Keys:
    """The keys as this process has last seen them in the register, and the private halves in `directory`."""

    def __init__(self, directory: Path, register: Register) -> None:
        self._directory = directory
        self._loaded: dict[str, PrivateKey] = {}
        self._published: tuple[list[RegisteredKey], KeySet] | None = None
        self._witnessed: tuple[tuple[RegisteredKey, ...], Pin] | None = None
        self._passed_over: set[Path] = set()
        self.register = register

    def __repr__(self) -> str:
        return f"Keys({', '.join(key.id for key in self.register.keys)})"

    @property
    def pin(self) -> Pin:
        """What a replica is told to believe."""
        return self.register.pin

    @property
    def witnessed(self) -> Pin:
        """Whose checkpoints prove what the ledger once was: also keys that have retired.

        And those whose files are here and that the register has forgotten: it is restored with the ledger. No
        withdrawn one: whoever has stolen it could make up a position, and stop every authority with it.
        """
        keys = self.register.keys
        if self._witnessed is None or self._witnessed[0] != keys:
            ever = [key for key in keys if key.purpose is Purpose.CHECKPOINT and key.state is not KeyState.WITHDRAWN]
            heard = (*ever, *self.forgotten(self.register))
            self._witnessed = keys, Pin.of(self.register.log_id, *map(public_of, heard))
        return self._witnessed[1]

    @property
    def checkpoint_id(self) -> str:
        """Which key signs checkpoints. Raises: DataError."""
        return self.register.active(Purpose.CHECKPOINT).id

    @property
    def checkpoint(self) -> Ed25519PrivateKey:
        """The key that signs checkpoints. Raises: DataError, where its file is missing here."""
        return self.checkpoint_key(self.register.active(Purpose.CHECKPOINT))

    @property
    def mandate(self) -> SigningKey:
        """The key that signs mandates. Raises: DataError, where its file is missing here."""
        return self.mandate_key(self.register.active(Purpose.MANDATE).id)

    @property
    def key_set(self) -> KeySet:
        """The public keys that verify mandates; the same object, while they are the same keys."""
        standing = self.register.standing(Purpose.MANDATE)
        if self._published is None or self._published[0] != standing:
            self._published = standing, KeySet(tuple(map(_verifying_key, standing)))
        return self._published[1]

    @property
    def key_set_with_withdrawn(self) -> KeySet:
        """With the keys that were withdrawn: for who asks the ledger, which says so of all that they signed."""
        withdrawn = [key for key in self.register.keys if key.state is KeyState.WITHDRAWN]
        of_mandates = [key for key in withdrawn if key.purpose is Purpose.MANDATE]
        return KeySet((*self.key_set.keys, *map(_verifying_key, of_mandates)))

    def checkpoint_key(self, key: RegisteredKey) -> Ed25519PrivateKey:
        """Return the private half of a checkpoint key. Raises: DataError."""
        private = self._private(Purpose.CHECKPOINT, key.id)
        if not isinstance(private, Ed25519PrivateKey):
            raise DataError(f"the key {key.id} signs no checkpoints")
        return private

    def mandate_key(self, id_: str) -> SigningKey:
        """Return the private half of a mandate key. Raises: DataError."""
        private = self._private(Purpose.MANDATE, id_)
        if not isinstance(private, SigningKey):
            raise DataError(f"the key {id_} signs no mandates")
        return private

    def keep(self, private: PrivateKey, now_ms: int, state: KeyState, switch_at_ms: int | None) -> RegisteredKey:
        """Write a new key to its file, and return it as it is to be registered. Raises: DataError."""
        registered = replace(_registered(private, now_ms), state=state, switch_at_ms=switch_at_ms)
        write_secret(self._directory / _file_of(registered.purpose, registered.id), _to_pem(private))
        self._loaded[registered.id] = private
        return registered

    async def look(self, connection: AsyncConnection) -> Register:
        """Read the register, and go by it from now on, unless another look has seen more."""
        seen = await self.read(connection)
        if len(seen.keysets) >= len(self.register.keysets):
            self.register = seen
        return seen

    async def read(self, connection: AsyncConnection, *, anew: bool = False) -> Register:
        """Return the register as the transaction of `connection` sees it.

        Keysets that were seen before are not read, unless `anew`: the database may have forgotten them.
        """
        known = () if anew else self.register.keysets
        keysets = tables.keysets.c
        later = select(keysets.data).where(keysets.version > len(known)).order_by(keysets.version)
        rows = await connection.execute(select(tables.signing_keys).order_by(tables.signing_keys.c.id))
        return Register(
            self.register.log_id, tuple(map(_key_of, rows)), (*known, *(await connection.execute(later)).scalars())
        )

    async def registers(self, connection: AsyncConnection, id_: str) -> bool:
        """Whether the register holds a key, as the transaction of `connection` sees it."""
        keys = tables.signing_keys.c
        return (await connection.execute(select(keys.id).where(keys.id == id_))).first() is not None

    def look_for_files(self) -> None:
        """Find out again which keys have files here: some may have been put here."""
        self._witnessed = None

    def forgotten(self, register: Register) -> list[RegisteredKey]:
        """Return the checkpoint keys that have files here and are not in `register`, as keys that sign no more."""
        known = {key.id for key in register.keys}
        forgotten = []
        for path in self._directory.glob(_file_of(Purpose.CHECKPOINT, "*")):
            try:
                key = replace(_registered(_parse(path, Purpose.CHECKPOINT), 0), state=KeyState.RETIRING)
            except SecretFileError as error:
                self._pass_over(path, error)
                continue
            if key.id not in known:
                forgotten.append(key)
        return forgotten

    def _pass_over(self, path: Path, error: SecretFileError) -> None:
        if path not in self._passed_over:
            _log.warning("a key's file is passed over: %s", error, extra={"code": error.code})
        self._passed_over.add(path)

    def _private(self, purpose: Purpose, id_: str) -> PrivateKey:
        if id_ not in self._loaded:
            self._loaded[id_] = _load(self._directory, purpose, id_)
        return self._loaded[id_]


def generate(purpose: Purpose) -> PrivateKey:
    """Return a new key, of the system's randomness, with an id that no command line takes for an option."""
    if purpose is Purpose.CHECKPOINT:
        return Ed25519PrivateKey.generate()
    while (key := SigningKey.generate()).kid.startswith("-"):
        pass
    return key


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
        raise SecretFileError(f"{path} cannot be written: {error.strerror}") from error


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
            raise SecretFileError(f"{path} is open to others than its owner: chmod 600 {path}")
        return path.read_bytes()
    except OSError as error:
        raise SecretFileError(f"{path} cannot be read: {error.strerror}") from error


async def open_keys(database: Database, directory: Path, now_ms: int) -> Keys:
    """Return the keys in `directory`; make them where the database knows of none.

    A file that is there already is registered and not replaced: a first start may have ended half-way.

    Raises:
        DataError: a key that signs has no file, or a file holds another key.
    """

    async def work(connection: AsyncConnection) -> Register:
        log_id = LogId((await connection.execute(select(tables.log.c.log_id))).scalar_one())
        keys = Keys(directory, Register(log_id, ()))
        register = await keys.read(connection)
        if not register.keys:
            first = [_registered(private, now_ms) for private in _make_missing(directory)]
            await connection.execute(insert(tables.signing_keys), [_row(key) for key in first])
        for key in register.keys:
            if key.public is None:  # from before the register had it
                public = _registered(_load(directory, key.purpose, key.id), now_ms).public
                await connection.execute(
                    update(tables.signing_keys).where(tables.signing_keys.c.id == key.id).values(public=public)
                )
        return await keys.read(connection)

    keys = Keys(directory, await database.write(work, alone=True))
    _ = keys.checkpoint, keys.mandate  # what is missing is said at the start
    return keys


async def mandate_key_id(connection: AsyncConnection) -> str:
    """Return which key signs mandates, as the transaction of `connection` sees it. Raises: DataError."""
    keys = tables.signing_keys.c
    query = select(keys.id).where(keys.purpose == Purpose.MANDATE.value, keys.state == KeyState.ACTIVE.value)
    id_: str | None = (await connection.execute(query)).scalar_one_or_none()
    if id_ is None:
        raise DataError("the database knows of no mandate key that signs: restore it")
    return id_


async def register_key(connection: AsyncConnection, key: RegisteredKey) -> None:
    """Put a new key into the register."""
    await connection.execute(insert(tables.signing_keys).values(_row(key)))


def _make_missing(directory: Path) -> list[PrivateKey]:
    """Return the first keys; make those that are not there."""
    keys: list[PrivateKey] = []
    for purpose in Purpose:
        path = directory / _FIRST_FILES[purpose]
        if not path.exists():
            write_secret(path, _to_pem(generate(purpose)))
        keys.append(_parse(path, purpose))
    return keys


def _load(directory: Path, purpose: Purpose, id_: str) -> PrivateKey:
    """Return the key of this id; the first of each purpose has a file without one. Raises: DataError."""
    path, first = directory / _file_of(purpose, id_), directory / _FIRST_FILES[purpose]
    private = _parse(first if first.exists() and not path.exists() else path, purpose)
    if _registered(private, 0).id != id_:
        raise SecretFileError(f"{directory} holds other keys than the database knows: put {path.name} there")
    return private


def _parse(path: Path, purpose: Purpose) -> PrivateKey:
    try:
        if purpose is Purpose.MANDATE:
            return SigningKey.from_pem(read_secret(path))
        private = serialization.load_pem_private_key(read_secret(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, ConfigurationError) as error:
        raise SecretFileError(f"the key in {path} cannot be read: {error}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise SecretFileError(f"{path} is not an Ed25519 key")
    return private


def _file_of(purpose: Purpose, id_: str) -> str:
    return f"{purpose}-{id_}.pem"


def _to_pem(private: PrivateKey) -> bytes:
    if isinstance(private, SigningKey):
        return private.to_pem()
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _registered(private: PrivateKey, now_ms: int) -> RegisteredKey:
    if isinstance(private, SigningKey):
        id_, purpose, algorithm, key = private.kid, Purpose.MANDATE, private.algorithm, private.private.public_key()
    else:
        key = private.public_key()
        id_, purpose, algorithm = key_id(key).hex(), Purpose.CHECKPOINT, "Ed25519"
    public = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return RegisteredKey(id_, purpose, algorithm, now_ms, KeyState.ACTIVE, now_ms, None, public)


def _row(key: RegisteredKey) -> dict[str, object]:
    return asdict(key) | {"purpose": key.purpose.value, "state": key.state.value}


def _key_of(row: Row[Any]) -> RegisteredKey:
    values = row._asdict()
    return RegisteredKey(**values | {"purpose": Purpose(row.purpose), "state": KeyState(row.state)})


def public_of(key: RegisteredKey) -> Ed25519PublicKey:
    """Return the public half of a checkpoint key. Raises: DataError."""
    public = serialization.load_der_public_key(key.public or b"")
    if not isinstance(public, Ed25519PublicKey):
        raise DataError(f"the key {key.id} in the database signs no checkpoints")
    return public


def _verifying_key(key: RegisteredKey) -> VerifyingKey:
    return VerifyingKey(key.id, serialization.load_der_public_key(key.public or b""))  # type: ignore[arg-type]  # it refuses every other type
