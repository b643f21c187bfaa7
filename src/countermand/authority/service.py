"""Every use case of the authority: one method each, one transaction each.

A revocation and what it revokes change in the same transaction, and the ledger's head is locked last in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from sqlalchemy import RowMapping, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.database import Database
from countermand.authority.heartbeat import Heartbeat
from countermand.authority.keys import Keys
from countermand.authority.ledger import Ledger, retention_ms
from countermand.authority.model import Application, IssuedMandate, Revocation, Session, SessionPage, SubjectType
from countermand.errors import ConfigurationError, InvalidValueError, MalformedError, NotActiveError, NotFoundError
from countermand.log.anchor import Anchor, Kind, check_text, kind_of, own_id
from countermand.log.entry import Entry
from countermand.log.freshness import Instant
from countermand.tokens.jwks import KeySet
from countermand.tokens.mandate import LEEWAY_S, MandateClaims, mint

MAX_NAME_BYTES: Final = 256
"""For names and subjects: with its kind before it, a subject still fits a cutoff's id of 512 bytes."""
MAX_SESSION_S: Final = 366 * 86_400
MAX_MANDATE_S: Final = 86_400
MAX_SCOPES: Final = 64
MAX_AUDIENCES: Final = 16
PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class Policy:
    """What the authority issues: under which name, and for how many seconds a mandate lives."""

    issuer: str
    mandate_s: int = 900


class Authority:
    """The authority's use cases. `clock` and `random` are the only sources of time and ids."""

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        heartbeat: Heartbeat,
        keys: Keys,
        policy: Policy,
        clock: Callable[[], Instant],
        random: Callable[[int], bytes],
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._heartbeat = heartbeat
        self._keys = keys
        self._policy = policy
        self._clock = clock
        self._random = random
        self._longest_mandate_s = policy.mandate_s

    @property
    def key_set(self) -> KeySet:
        """The public keys that verify mandates."""
        return KeySet((self._keys.mandate.verifying_key(),))

    async def start(self) -> None:
        """Remember the longest life that a mandate ever had: entries are kept longer than that."""
        if not 1 <= self._policy.mandate_s <= MAX_MANDATE_S:
            raise ConfigurationError(f"a mandate lives 1 to {MAX_MANDATE_S} seconds")
        self._longest_mandate_s = await self._database.write(self._lengthen)

    async def create_application(self, name: str) -> Application:
        """Register an application. Raises: InvalidValueError."""
        _check_name("the name", name)
        application = Application(own_id(Kind.APPLICATION, self._random(16)), name, self._now_ms())
        row = insert(tables.applications).values(asdict(application))
        await self._database.write(lambda connection: connection.execute(row))
        return application

    async def open_session(
        self, application_id: str, subject: str, subject_type: SubjectType, lifetime_s: int
    ) -> Session:
        """Open a subject session with an application. Raises: InvalidValueError, NotFoundError."""
        _check_name("the subject", subject)
        if not 1 <= lifetime_s <= MAX_SESSION_S:
            raise InvalidValueError(f"a session lives 1 to {MAX_SESSION_S} seconds")
        if kind_of(application_id) is not Kind.APPLICATION:
            raise NotFoundError("there is no such application")
        now_ms = self._now_ms()
        id_ = own_id(Kind.SESSION, self._random(16))
        session = Session(id_, subject, subject_type, application_id, now_ms, now_ms + lifetime_s * 1000)

        async def work(connection: AsyncConnection) -> None:
            query = select(tables.applications.c.id).where(tables.applications.c.id == application_id)
            if (await connection.execute(query.with_for_update(read=True))).first() is None:
                raise NotFoundError("there is no such application")
            await connection.execute(insert(tables.sessions).values(asdict(session)))

        await self._database.write(work)
        return session

    async def session(self, id_: str) -> Session:
        """Return a session. Raises: NotFoundError."""
        async with self._database.read() as connection:
            return await _session(connection, id_)

    async def sessions(self, after: str = "") -> SessionPage:
        """Return up to 100 sessions in the order of their ids, those after `after`."""
        table = tables.sessions
        query = select(table).where(table.c.id > after).order_by(table.c.id).limit(PAGE + 1)
        async with self._database.read() as connection:
            found = [_read_session(row) for row in (await connection.execute(query)).mappings()]
        return SessionPage(found[:PAGE], found[PAGE - 1].id if len(found) > PAGE else None)

    async def issue_mandate(self, session_id: str, audience: Sequence[str], scopes: Sequence[str]) -> IssuedMandate:
        """Mint a mandate on a session.

        Raises:
            NotFoundError: there is no such session.
            NotActiveError: it is revoked or expired.
            InvalidValueError: no audience, or one or a scope that cannot stand in a mandate.
        """
        _check_list("audience", audience, MAX_AUDIENCES)
        _check_list("scope", scopes, MAX_SCOPES)
        if not audience or any(not 0x21 <= ord(char) <= 0x7E or char in '"\\' for scope in scopes for char in scope):
            raise InvalidValueError("a mandate has an audience, and scopes of printable ASCII without spaces")
        now_ms = self._now_ms()
        async with self._database.read() as connection:
            session = await _session(connection, session_id)
            head = await self._ledger.head(connection)
        if session.revoked_at_ms is not None or session.expires_at_ms <= now_ms:
            raise NotActiveError("the session has ended")
        lifetime_s = min(self._policy.mandate_s, (session.expires_at_ms - now_ms) // 1000)
        if lifetime_s < 1:
            raise NotActiveError("the session has ended")
        claims = MandateClaims(
            issuer=self._policy.issuer,
            subject=session.subject,
            audience=tuple(audience),
            issued_at_s=now_ms // 1000,
            expires_at_s=now_ms // 1000 + lifetime_s,
            token_id=own_id(Kind.TOKEN, self._random(16)),
            client_id=session.application_id,
            scopes=frozenset(scopes),
            sub_type=session.subject_type.value,
            session_id=session.id,
            root_session_id=session.id,
            path=(
                Anchor(Kind.SUBJECT, session.subject),
                Anchor(Kind.APPLICATION, session.application_id),
                Anchor(Kind.SESSION, session.id),
            ),
            rev=head.rev,
        )
        return IssuedMandate(mint(claims, self._keys.mandate), lifetime_s)

    async def revoke_session(self, id_: str, reason: str = "") -> Revocation:
        """Revoke a session, for ever. Once this returns, the revocation is on the disk and on its way.

        Revoking again changes nothing, and returns the entry that stands.

        Raises:
            InvalidValueError: a reason that the ledger may not hold.
            NotFoundError: there is no such session.
        """
        try:
            check_text("the reason", reason)
        except MalformedError as error:
            raise InvalidValueError(str(error)) from error
        revocation = await self._database.write(lambda connection: self._revoke(connection, id_, reason))
        self._heartbeat.sign_soon()
        return revocation

    async def _revoke(self, connection: AsyncConnection, id_: str, reason: str) -> Revocation:
        session = await _session(connection, id_, lock=True)
        if session.revoked_at_ms is not None:
            return await self._standing(connection, id_)
        now_ms = await self._ledger.time(connection, self._now_ms())
        await connection.execute(
            update(tables.sessions).where(tables.sessions.c.id == id_).values(revoked_at_ms=now_ms)
        )
        expires_at_ms = now_ms + retention_ms(self._longest_mandate_s, LEEWAY_S)
        entry = await self._ledger.append(
            connection, Kind.SESSION, id_, at_ms=now_ms, expires_at_ms=expires_at_ms, reason=reason
        )
        return _revocation(entry, is_new=True)

    async def _standing(self, connection: AsyncConnection, id_: str) -> Revocation:
        entry = await self._ledger.find(connection, Kind.SESSION, id_)
        if entry is None:
            raise NotFoundError("the session is revoked, and its entry is gone from the ledger")
        return _revocation(entry, is_new=False)

    async def _lengthen(self, connection: AsyncConnection) -> int:
        known_s: int = (await connection.execute(select(tables.log.c.longest_mandate_s))).scalar_one()
        longest_s = max(known_s, self._policy.mandate_s)
        await connection.execute(update(tables.log).values(longest_mandate_s=longest_s))
        return longest_s

    def _now_ms(self) -> int:
        return self._clock().wall_ms


async def _session(connection: AsyncConnection, id_: str, *, lock: bool = False) -> Session:
    if kind_of(id_) is not Kind.SESSION:
        raise NotFoundError("there is no such session")
    query = select(tables.sessions).where(tables.sessions.c.id == id_)
    row = (await connection.execute(query.with_for_update() if lock else query)).mappings().first()
    if row is None:
        raise NotFoundError("there is no such session")
    return _read_session(row)


def _read_session(row: RowMapping) -> Session:
    return Session(**{**row, "subject_type": SubjectType(row["subject_type"])})


def _revocation(entry: Entry, *, is_new: bool) -> Revocation:
    return Revocation(entry.seq, entry.generation, entry.kind, entry.id, entry.reason, entry.at_ms, is_new)


def _check_name(what: str, name: str) -> None:
    try:
        encoded = check_text(what, name)
    except MalformedError as error:
        raise InvalidValueError(str(error)) from error
    if not encoded or len(encoded) > MAX_NAME_BYTES:
        raise InvalidValueError(f"{what} has 1 to {MAX_NAME_BYTES} bytes")


def _check_list(what: str, values: Sequence[str], most: int) -> None:
    if len(values) > most:
        raise InvalidValueError(f"a mandate has at most {most} values of {what}")
    for value in values:
        _check_name(f"a value of {what}", value)
