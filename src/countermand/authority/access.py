"""Who calls: keys for the API, and their roles.

A key is `cmk_<16 hex>_<64 hex>`: an id to find it by, and 256 random bits of which only the SHA-256 is kept. So much
randomness needs no slow hash, and what leaks from the database opens nothing.
"""

import asyncio
import hashlib
import hmac
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from sqlalchemy import BindParameter, ColumnElement, and_, bindparam, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.actor import identify
from countermand.authority.appending import Act
from countermand.authority.audit import Audit
from countermand.authority.checks import check_life, check_name, check_reason
from countermand.authority.database import WAIT_S, Database
from countermand.authority.lineage import read_row
from countermand.authority.model import ApiKey, ApiKeyPage, NewApiKey, Role
from countermand.errors import (
    AuthorityError,
    ForbiddenError,
    InvalidValueError,
    LastKeyError,
    NotActiveError,
    NotFoundError,
    UnauthenticatedError,
)
from countermand.log.anchor import Kind
from countermand.log.freshness import Instant

PAGE: Final = 100
USE_MS: Final = 60_000
"""How often the last use of a key is written, at most."""
WRITE_S: Final = 5.0
"""How long a use waits to be written with others."""

_CREATE: Final = "api_key.create"
_REVOKE: Final = "api_key.revoke"
_FORM: Final = re.compile(r"cmk_([0-9a-f]{16})_([0-9a-f]{64})")
_KEYS: Final = tables.api_keys.c
_SHOWN: Final = tuple(_KEYS[field.name] for field in fields(ApiKey))
_ID: Final = re.compile(r"[0-9a-f]{16}")
_ALSO: Final = {
    Role.READER: frozenset({Role.OPERATOR, Role.ADMINISTRATOR}),
    Role.OPERATOR: frozenset({Role.ADMINISTRATOR}),
    Role.ADMINISTRATOR: frozenset[Role](),
    Role.REPLICA: frozenset({Role.ADMINISTRATOR}),
    Role.APPLICATION: frozenset[Role](),
}
"""Who else may do what a role may."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller: the key it used, what that key may do, and the application that it acts as, if any."""

    key_id: str
    role: Role
    application_id: str | None = None

    def require(self, role: Role) -> None:
        """Refuse a caller that may not do what `role` may. Raises: ForbiddenError."""
        self.require_one_of([role])

    def require_one_of(self, roles: Sequence[Role]) -> None:
        """Refuse a caller that may do what none of `roles` may. Raises: ForbiddenError."""
        if not any(self.role is role or self.role in _ALSO[role] for role in roles):
            raise ForbiddenError(f"this needs the role {' or '.join(roles)}")


class Access:
    """The API keys in `database`. `random` gives as many random bytes as it is asked for."""

    def __init__(self, database: Database, clock: Callable[[], Instant], random: Callable[[int], bytes]) -> None:
        self._database = database
        self._audit = Audit(database, clock)
        self._clock = clock
        self._random = random
        self._used_ms: dict[str, int] = {}  # no more than there are keys: when the use of each was last noted
        self._unwritten: dict[str, int] = {}

    async def ensure(self, role: Role, name: str, keep: Callable[[str], None]) -> None:
        """Make a key for `role` where none can be used, and hand it to `keep`: the only time that it is seen whole.

        `keep` is called before the commit, so no key is ever known to the database alone.
        """

        async def work(connection: AsyncConnection) -> tuple[None, Act | None]:
            usable = _usable(self._clock().wall_ms)
            query = select(_KEYS.id).where(_KEYS.role == role, usable).limit(1)
            if (await connection.execute(query)).first() is not None:
                return None, None
            made = await self._make(connection, role, name)
            keep(made.secret)
            return None, Act(_CREATE, made.key.id)

        await self._audit.write(work, alone=True)

    async def create(self, role: Role, name: str, lifetime_s: int | None = None) -> NewApiKey:
        """Return a new key: the only time that it is seen whole. Without a life it never expires.

        Raises:
            InvalidValueError: the role of an application, whose keys are made for it; a name or a life out of range.
        """
        if role is Role.APPLICATION:
            raise InvalidValueError("an application's keys are made for the application")
        return await self._create(role, name, lifetime_s, None)

    async def create_for(self, application_id: str, name: str, lifetime_s: int | None = None) -> NewApiKey:
        """Return a new key with which an application asks for mandates: the only time that it is seen whole.

        Raises: InvalidValueError, NotFoundError; NotActiveError, where the application is revoked.
        """
        return await self._create(Role.APPLICATION, name, lifetime_s, application_id)

    async def keys(self, after: str = "") -> ApiKeyPage:
        """Return up to 100 keys in the order of their ids, those after `after`."""
        query = select(*_SHOWN).where(_KEYS.id > after).order_by(_KEYS.id).limit(PAGE + 1)
        async with self._database.read() as connection:
            found = [_api_key(row) for row in await connection.execute(query)]
        return ApiKeyPage(found[:PAGE], found[PAGE - 1].id if len(found) > PAGE else None)

    async def revoke(self, key_id: str, reason: str = "") -> ApiKey:
        """Revoke a key, and return it; one that was, stays as it was.

        Raises:
            NotFoundError: there is none of this id.
            LastKeyError: no other administrator's key would be left that never expires.
            InvalidValueError: a reason that the ledger could not hold either.
        """
        check_reason(reason)
        if not _ID.fullmatch(key_id):
            raise NotFoundError("there is no such key")

        async def work(connection: AsyncConnection) -> tuple[ApiKey, Act | None]:
            lasting = and_(
                _KEYS.role == Role.ADMINISTRATOR, _KEYS.revoked_at_ms.is_(None), _KEYS.expires_at_ms.is_(None)
            )
            query = select(*_SHOWN).where(or_(_KEYS.id == key_id, lasting)).order_by(_KEYS.id).with_for_update()
            found = {row.id: _api_key(row) for row in await connection.execute(query)}
            key = found.pop(key_id, None)
            if key is None:
                raise NotFoundError("there is no such key")
            if key.revoked_at_ms is not None:
                return key, None
            if key.role is Role.ADMINISTRATOR and not found:
                raise LastKeyError("nobody could administer the authority any more: make another key first")
            revoked = replace(key, revoked_at_ms=self._clock().wall_ms)
            values = update(tables.api_keys).where(_KEYS.id == key_id).values(revoked_at_ms=revoked.revoked_at_ms)
            await connection.execute(values)
            return revoked, Act(_REVOKE, key_id, reason=reason)

        return await self._audit.write(work)

    async def authenticate(self, key: str | None) -> Caller:
        """Return who calls with `key`, and have it act from now on; a revoked application's keys are none.

        Raises: UnauthenticatedError, always with the same sentence; BusyError, where the database does not answer.
        """
        match = _FORM.fullmatch(key or "")
        if match is None:
            raise UnauthenticatedError("this needs a valid API key")
        id_, secret = match.groups()
        now_ms = self._clock().wall_ms
        async with self._database.read(WAIT_S) as connection:
            row = (await connection.execute(_FOUND, {"key_id": id_, "now_ms": now_ms})).first()
        known = b"" if row is None else row.digest
        if not hmac.compare_digest(known, _digest(secret)) or row is None:
            raise UnauthenticatedError("this needs a valid API key")
        self._note_use(id_, now_ms)
        identify(row.role, id_, row.application_id or "")
        return Caller(id_, Role(row.role), row.application_id)

    async def run(self) -> None:
        """Write when keys were last used, for ever. It is in nobody's way, and what cannot be written waits."""
        while True:
            await asyncio.sleep(WRITE_S)
            try:
                await self.write_uses()
            except AuthorityError as error:
                _log.warning("when keys were used is not written: %s", error, extra={"code": error.code})

    async def write_uses(self) -> None:
        """Write when keys were last used, as far as it was noted and is not written."""
        uses = dict(sorted(self._unwritten.items()))  # in one order: or two processes wait for each other
        if not uses:
            return

        async def work(connection: AsyncConnection) -> None:
            for id_, at_ms in uses.items():
                earlier = or_(_KEYS.last_used_at_ms.is_(None), _KEYS.last_used_at_ms < at_ms)
                used = update(tables.api_keys).where(_KEYS.id == id_, earlier)
                await connection.execute(used.values(last_used_at_ms=at_ms))

        await self._database.write(work)
        self._unwritten = {id_: at_ms for id_, at_ms in self._unwritten.items() if uses.get(id_) != at_ms}

    def _note_use(self, key_id: str, now_ms: int) -> None:
        if abs(now_ms - self._used_ms.get(key_id, 0)) >= USE_MS:
            self._used_ms[key_id] = self._unwritten[key_id] = now_ms

    async def _create(self, role: Role, name: str, lifetime_s: int | None, application_id: str | None) -> NewApiKey:
        check_name("the name", name)
        if lifetime_s is not None:
            check_life(lifetime_s)

        async def work(connection: AsyncConnection) -> tuple[NewApiKey, Act]:
            if application_id is not None:
                application = await read_row(connection, application_id, Kind.APPLICATION)
                if application.revoked_at_ms is not None:
                    raise NotActiveError("the application is revoked")
            made = await self._make(connection, role, name, lifetime_s, application_id)
            return made, Act(_CREATE, made.key.id)

        return await self._audit.write(work)

    async def _make(
        self,
        connection: AsyncConnection,
        role: Role,
        name: str,
        lifetime_s: int | None = None,
        application_id: str | None = None,
    ) -> NewApiKey:
        id_, secret, now_ms = self._random(8).hex(), self._random(32).hex(), self._clock().wall_ms
        expires_at_ms = None if lifetime_s is None else now_ms + lifetime_s * 1000
        key = ApiKey(id_, role, name, application_id, now_ms, expires_at_ms)
        await connection.execute(insert(tables.api_keys).values(asdict(key) | {"digest": _digest(secret)}))
        return NewApiKey(key, f"cmk_{id_}_{secret}")


def _usable(now_ms: int | BindParameter[int]) -> ColumnElement[bool]:
    return and_(_KEYS.revoked_at_ms.is_(None), or_(_KEYS.expires_at_ms.is_(None), _KEYS.expires_at_ms > now_ms))


# Every request asks it, and to put it together would take as long as to answer it.
_FOUND: Final = (
    select(tables.api_keys)
    .outerjoin(tables.anchors, tables.anchors.c.id == _KEYS.application_id)
    .where(_KEYS.id == bindparam("key_id"), tables.anchors.c.revoked_at_ms.is_(None), _usable(bindparam("now_ms")))
)


def _api_key(columns: Sequence[Any]) -> ApiKey:
    id_, role, *others = columns
    return ApiKey(id_, Role(role), *others)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
