"""Who calls: keys for the API, and their roles.

A key is `cmk_<16 hex>_<64 hex>`: an id to find it by, and 256 random bits of which only the SHA-256 is kept. So much
randomness needs no slow hash, and what leaks from the database opens nothing.
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.checks import check_name
from countermand.authority.database import Database
from countermand.authority.lineage import read_row
from countermand.authority.model import Role
from countermand.errors import ForbiddenError, NotActiveError, UnauthenticatedError
from countermand.log.anchor import Kind
from countermand.log.freshness import Instant

_KEY: Final = re.compile(r"cmk_([0-9a-f]{16})_([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller: the key it used, what that key may do, and the application that it acts as, if any."""

    key_id: str
    role: Role
    application_id: str | None = None

    def require(self, role: Role) -> None:
        """Refuse a caller that does not have `role`. Raises: ForbiddenError."""
        if self.role not in {role, Role.ADMINISTRATOR}:
            raise ForbiddenError(f"this needs the role {role}")


class Access:
    """The API keys in `database`. `random` gives as many random bytes as it is asked for."""

    def __init__(self, database: Database, clock: Callable[[], Instant], random: Callable[[int], bytes]) -> None:
        self._database = database
        self._clock = clock
        self._random = random

    async def ensure(self, role: Role, name: str, keep: Callable[[str], None]) -> None:
        """Make a key for `role` where there is none, and hand it to `keep`: the only time that it is seen whole.

        `keep` is called before the commit, so no key is ever known to the database alone.
        """

        async def work(connection: AsyncConnection) -> None:
            query = select(tables.api_keys.c.id).where(tables.api_keys.c.role == role).limit(1)
            if (await connection.execute(query)).first() is not None:
                return
            keep(await self._make(connection, role, name))

        await self._database.write(work, alone=True)

    async def create_for(self, application_id: str, name: str) -> str:
        """Return a new key with which an application asks for mandates: the only time that it is seen whole.

        Raises: InvalidValueError, NotFoundError; NotActiveError, where the application is revoked.
        """
        check_name("the name", name)

        async def work(connection: AsyncConnection) -> str:
            application = await read_row(connection, application_id, Kind.APPLICATION)
            if application.revoked_at_ms is not None:
                raise NotActiveError("the application is revoked")
            return await self._make(connection, Role.APPLICATION, name, application_id)

        return await self._database.write(work)

    async def authenticate(self, key: str | None) -> Caller:
        """Return who calls with `key`; a revoked application's keys are none.

        Raises: UnauthenticatedError, always with the same sentence.
        """
        match = _KEY.fullmatch(key or "")
        if match is None:
            raise UnauthenticatedError("this needs a valid API key")
        id_, secret = match.groups()
        keys, anchors = tables.api_keys, tables.anchors
        query = select(keys).outerjoin(anchors, anchors.c.id == keys.c.application_id)
        query = query.where(keys.c.id == id_, anchors.c.revoked_at_ms.is_(None))
        async with self._database.read() as connection:
            row = (await connection.execute(query)).first()
        known = b"" if row is None else row.digest
        if not hmac.compare_digest(known, _digest(secret)) or row is None:
            raise UnauthenticatedError("this needs a valid API key")
        return Caller(id_, Role(row.role), row.application_id)

    async def _make(self, connection: AsyncConnection, role: Role, name: str, application_id: str | None = None) -> str:
        id_, secret = self._random(8).hex(), self._random(32).hex()
        row = insert(tables.api_keys).values(
            id=id_,
            role=role,
            name=name,
            digest=_digest(secret),
            created_at_ms=self._clock().wall_ms,
            application_id=application_id,
        )
        await connection.execute(row)
        return f"cmk_{id_}_{secret}"


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
