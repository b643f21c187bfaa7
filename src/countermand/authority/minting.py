"""Mandates: minted on a session, for an application itself, or in exchange for another mandate (RFC 8693).

A mandate names all that it rests on, and the ledger's position that its minting saw. So one that is minted while an
ancestor is being revoked is rejected like every other, and none that a cutoff should end escapes it.
Source: docs/protocol.md, "Mandate" and "Path".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority.appending import Act
from countermand.authority.audit import Audit
from countermand.authority.checks import check_authority
from countermand.authority.database import Database
from countermand.authority.exchange import Basis, basis_of, covering, root_of, stands_for
from countermand.authority.keys import Keys, mandate_key_id
from countermand.authority.ledger import Ledger, read_head
from countermand.authority.lineage import Lineage, Row, check_kind, find_grants, kept_ids, load
from countermand.authority.model import IssuedMandate, SubjectType, TokenExchange
from countermand.authority.own_session import add_own_session, find_own_session
from countermand.errors import ConfigurationError, ForbiddenError, InvalidValueError, NotActiveError, NotFoundError
from countermand.log.anchor import MAX_PATH, Anchor, Kind, Rev, own_id
from countermand.log.freshness import Instant
from countermand.tokens.jwks import KeySet
from countermand.tokens.mandate import Mandate, MandateClaims, mint, parse_mandate, verify

MAX_MANDATE_S: Final = 86_400
_STRANGER: Final = (
    "the application is no party to this exchange, or what is named does not exist: "
    "it is for the application that will act, or that delegates to it"
)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the authority issues: under which name, and for how many seconds a mandate lives.

    What has ended is kept for `retention_days`.
    """

    issuer: str
    mandate_s: int = 900
    retention_days: int = 30

    def __post_init__(self) -> None:
        if not 1 <= self.mandate_s <= MAX_MANDATE_S:
            raise ConfigurationError(f"a mandate lives 1 to {MAX_MANDATE_S} seconds")


@dataclass(frozen=True, slots=True)
class _Authority:
    """On what a new mandate rests, as one transaction saw it, and which key signs it.

    `rev` is read first: what ends it later is above that.
    """

    lineage: Lineage
    basis: Basis
    agent: Row | None
    rev: Rev
    scopes: tuple[str, ...]
    audience: tuple[str, ...]
    key_id: str
    exchanged: tuple[Anchor, ...] = ()


class Minting:
    """Mints mandates. `clock` and `random` are the only sources of time and ids."""

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        keys: Keys,
        policy: Policy,
        clock: Callable[[], Instant],
        random: Callable[[int], bytes],
    ) -> None:
        self._database = database
        self._audit = Audit(database, clock)
        self._ledger = ledger
        self._keys = keys
        self._policy = policy
        self._clock = clock
        self._random = random

    @property
    def key_set(self) -> KeySet:
        """The public keys that verify mandates."""
        return self._keys.key_set

    def read(self, token: str, now_ms: int) -> Mandate:
        """Return the mandate that `token` is, for whomever it is meant; what it rests on may have ended.

        The key that signed it may be withdrawn: the ledger says so, whom every caller asks.

        Raises: TokenError, where it is no mandate of ours, or not within its time.
        """
        unverified, now_s = parse_mandate(token), now_ms / 1000
        return verify(
            unverified,
            self._keys.key_set_with_withdrawn,
            issuer=self._policy.issuer,
            audience=None,
            now_s=now_s,
        )

    async def issue(self, session_id: str, audience: Sequence[str], scopes: Sequence[str]) -> IssuedMandate:
        """Mint a mandate on a session.

        Raises:
            NotFoundError: there is no such session.
            NotActiveError: it, or what it rests on, has ended.
            DisputedError: what has ended may be missing from the ledger.
            InvalidValueError: no audience, or one or a scope that cannot stand in a mandate; too long a path.
        """
        check_authority(audience, scopes)
        now_ms = self._clock().wall_ms
        async with self._database.holding() as connection:
            rev = (await read_head(connection)).require_undisputed().rev
            lineage = await load(connection, [check_kind(session_id, Kind.SESSION)])
            await lineage.require_standing(connection, self._ledger, now_ms)
            key_id = await mandate_key_id(connection)
        basis = basis_of(lineage, session_id=session_id, agent_id=None, delegation_id=None)
        return self._mint(_Authority(lineage, basis, None, rev, tuple(scopes), tuple(audience), key_id), now_ms)

    async def issue_own(
        self, application_id: str, audience: Sequence[str], scopes: Sequence[str] | None
    ) -> IssuedMandate:
        """Mint a mandate with which an application acts for itself, by a grant to it in which it is the subject.

        It is on the application's own session, opened where none lasts long enough. `scopes` None: all that may be had.

        Raises:
            NotActiveError: the application, or its session, was ended meanwhile.
            InvalidScopeError, InvalidTargetError: more is asked for than was given.
            InvalidValueError: a value that cannot stand in a mandate.
        """
        check_authority(audience, scopes or ())
        now_ms = self._clock().wall_ms
        authority = await self._own_authority(application_id, audience, scopes, now_ms)
        if authority is None:
            await self._audit.write(lambda connection: self._open_own_session(connection, application_id, now_ms))
            authority = await self._own_authority(application_id, audience, scopes, now_ms)
        if authority is None:
            raise NotActiveError("the application's own session was ended as soon as it was opened")
        return self._mint(authority, now_ms)

    async def _own_authority(
        self, application_id: str, audience: Sequence[str], scopes: Sequence[str] | None, now_ms: int
    ) -> _Authority | None:
        """Return what an application has for itself, None without a session to act on. It has none without a grant."""
        async with self._database.holding() as connection:
            rev = (await read_head(connection)).require_undisputed().rev
            limit = covering(await find_grants(connection, application_id, application_id, now_ms), scopes, audience)
            session = await find_own_session(connection, application_id, now_ms, self._policy.mandate_s)
            if session is None:
                return None
            lineage = await load(connection, [session.id])
            await lineage.require_standing(connection, self._ledger, now_ms)
            key_id = await mandate_key_id(connection)
        basis = basis_of(lineage, session_id=session.id, agent_id=None, delegation_id=None)
        given = tuple((limit.scopes or ()) if scopes is None else scopes)
        return _Authority(lineage | Lineage([limit]), basis, None, rev, given, tuple(audience), key_id)

    async def _open_own_session(
        self, connection: AsyncConnection, application_id: str, now_ms: int
    ) -> tuple[None, Act | None]:
        """Open an application's own session, unless another call has done so by now."""
        await self._database.lock(connection, f"the own session of {application_id}")
        if await find_own_session(connection, application_id, now_ms, self._policy.mandate_s) is not None:
            return None, None
        seq = (await read_head(connection)).rev.seq
        id_ = own_id(Kind.SESSION, self._random(16))
        await add_own_session(connection, id_, application_id, now_ms, seq)
        await (await load(connection, [id_])).require_standing(connection, self._ledger, now_ms)
        return None, Act("session.open", id_)

    async def exchange(self, client_id: str, wanted: TokenExchange) -> IssuedMandate:
        """Mint a mandate for an application in exchange for another, from which its authority comes.

        Raises:
            TokenError: the exchanged token is no mandate of ours, or has expired.
            ForbiddenError: nothing that is named is the application's, whatever exists; or the mandate stands for else.
            NotActiveError: it is revoked, or something that is named or rested on has ended.
            InvalidScopeError, InvalidTargetError: more is asked for than was given.
            InvalidValueError: a value that cannot stand in a mandate; too long a path.
        """
        check_authority(wanted.audience, wanted.scopes or ())
        now_ms = self._clock().wall_ms
        old = self.read(wanted.subject_token, now_ms)
        async with self._database.holding() as connection:
            authority = await self._authority(connection, client_id, old, wanted, now_ms)
        return self._mint(authority, now_ms)

    async def _authority(
        self, connection: AsyncConnection, client_id: str, old: Mandate, wanted: TokenExchange, now_ms: int
    ) -> _Authority:
        rev = (await read_head(connection)).require_undisputed().rev
        lineage, basis, agent = await _party(connection, client_id, old, wanted)
        await self._require_unrevoked(connection, old, now_ms)
        if agent is not None and wanted.agent_id not in {None, agent.id}:
            raise InvalidValueError("the delegation was made to another agent")
        if stands_for(old, lineage) not in basis.holders:
            raise ForbiddenError("what is asked for does not have its authority from this mandate")
        await lineage.require_standing(connection, self._ledger, now_ms)
        limits = [basis.edge] if basis.edge else []
        if not limits:
            acting = agent or basis.session
            limits = await find_grants(connection, basis.session.subject, acting.application_id, now_ms)
        limit = covering(limits, wanted.scopes, wanted.audience, old.scopes)
        given = set(limit.scopes or ()) & old.scopes
        scopes = tuple(sorted(given if wanted.scopes is None else set(wanted.scopes)))
        key_id = await mandate_key_id(connection)
        rests_on = lineage | Lineage([limit])
        return _Authority(rests_on, basis, agent, rev, scopes, wanted.audience, key_id, old.anchors.path)

    async def _require_unrevoked(self, connection: AsyncConnection, old: Mandate, now_ms: int) -> None:
        """Ask the ledger what a replica would be asked. Raises: NotActiveError."""
        if await self._ledger.revoked_among(connection, old.all_anchors(), now_ms) is not None:
            raise NotActiveError("the mandate is revoked")

    def _mint(self, authority: _Authority, now_ms: int) -> IssuedMandate:
        basis, session = authority.basis, authority.basis.session
        left_s = self._policy.mandate_s
        if authority.lineage.expires_at_ms is not None:
            left_s = min(left_s, (authority.lineage.expires_at_ms - now_ms) // 1000)
        if left_s < 1:
            raise NotActiveError("what the mandate would rest on ends within a second")
        path = tuple(dict.fromkeys([*authority.lineage.path, *authority.exchanged]))
        if len(path) > MAX_PATH:
            raise InvalidValueError(
                f"the mandate would rest on {len(path)} others, and names at most {MAX_PATH}: "
                "exchange one that is nearer to the session, not the last of a chain"
            )
        acting = authority.agent or session
        claims = MandateClaims(
            issuer=self._policy.issuer,
            subject=session.subject or "",
            audience=authority.audience,
            issued_at_s=now_ms // 1000,
            expires_at_s=now_ms // 1000 + left_s,
            token_id=own_id(Kind.TOKEN, self._random(16)),
            client_id=acting.application_id or "",
            scopes=frozenset(authority.scopes),
            sub_type=SubjectType(session.subject_type or "").value,
            session_id=session.id,
            root_session_id=root_of(authority.lineage, session).id,
            path=path,
            rev=authority.rev,
            agent_session_id=authority.agent.id if authority.agent else None,
            delegation_edge_id=basis.edge.id if basis.edge else None,
            delegation_chain=basis.hops,
        )
        return IssuedMandate(
            mint(claims, self._keys.mandate_key(authority.key_id)), left_s, tuple(sorted(authority.scopes))
        )


async def _party(
    connection: AsyncConnection, client_id: str, old: Mandate, wanted: TokenExchange
) -> tuple[Lineage, Basis, Row | None]:
    """Return all that an exchange names and that rests on, and the agent that will act; the client is party to it.

    Raises: ForbiddenError, the same for what is another's and for what does not exist.
    """
    stranger = ForbiddenError(_STRANGER)
    try:
        lineage = await load(connection, _named(old, wanted))
        agent_id, delegation_id = _target(wanted, lineage, stands_for(old, lineage))
        if agent_id is not None:
            lineage |= await load(connection, [agent_id])
    except NotFoundError:
        raise stranger from None
    basis = basis_of(lineage, session_id=old.session_id or "", agent_id=agent_id, delegation_id=delegation_id)
    agent = lineage[agent_id] if agent_id else None
    giver_id = lineage[wanted.delegation_id].application_id if wanted.delegation_id else None
    if client_id not in {(agent or basis.session).application_id, giver_id}:
        raise stranger
    return lineage, basis, agent


def _named(old: Mandate, wanted: TokenExchange) -> list[str]:
    """Return every id with a row that the exchange names: in the old mandate's path, or as what is asked for."""
    ids = kept_ids(old.anchors.path)
    if wanted.agent_id is not None:
        ids.append(check_kind(wanted.agent_id, Kind.AGENT))
    if wanted.delegation_id is not None:
        ids.append(check_kind(wanted.delegation_id, Kind.DELEGATION))
    return ids


def _target(wanted: TokenExchange, lineage: Lineage, holder: str) -> tuple[str | None, str | None]:
    """Return the agent and the edge for which the new mandate is: those asked for, else the old one's.

    With an edge it is the agent that has received it, whichever is asked for.
    """
    agent_id, delegation_id = wanted.agent_id, wanted.delegation_id
    if agent_id is None and delegation_id is None:
        held = lineage[holder]
        agent_id = held.id if held.kind is Kind.AGENT else None
        delegation_id = held.id if held.kind is Kind.DELEGATION else None
    if delegation_id is None:
        return agent_id, None
    return lineage[delegation_id].target_id, delegation_id
