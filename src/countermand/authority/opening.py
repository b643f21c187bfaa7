"""What may act: applications, subject sessions, agents, grants and delegations, opened.

Each is opened in one transaction that locks all that it rests on and looks whether it stands. Nothing outlives what it
rests on, and a delegation hands on no more than there is: scopes, audience, depth and life only narrow.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority.appending import Act
from countermand.authority.audit import Audit
from countermand.authority.checks import check_authority, check_depth, check_labels, check_life, check_name
from countermand.authority.database import Database
from countermand.authority.exchange import covering, own_edge
from countermand.authority.ledger import Ledger, read_head
from countermand.authority.lineage import Lineage, Row, add, check_kind, find_grants, load
from countermand.authority.model import Agent, Application, Delegation, Grant, Session, SubjectType
from countermand.authority.views import Seen, agent_of, application_of, delegation_of, grant_of, session_of
from countermand.errors import ExceededError, InvalidValueError
from countermand.log.anchor import Kind, own_id
from countermand.log.freshness import Instant

_ACTIONS: Final = {
    Kind.APPLICATION: "application.create",
    Kind.SESSION: "session.open",
    Kind.AGENT: "agent.start",
    Kind.GRANT: "grant.create",
    Kind.DELEGATION: "delegation.create",
}

_T = TypeVar("_T")


class Opening:
    """Opens anchors. `clock` and `random` are the only sources of time and ids.

    Whatever opens something raises NotFoundError for an ancestor that does not exist, NotActiveError for one that has
    ended, InvalidValueError for a value out of range, and ExceededError where authority would grow.
    """

    def __init__(
        self, database: Database, ledger: Ledger, clock: Callable[[], Instant], random: Callable[[int], bytes]
    ) -> None:
        self._database = database
        self._audit = Audit(database, clock)
        self._ledger = ledger
        self._clock = clock
        self._random = random

    async def create_application(self, name: str, labels: Sequence[str] = ()) -> Application:
        """Register an application."""
        check_name("the name", name)
        row = self._new(Kind.APPLICATION, None, labels, name=name)

        async def work(connection: AsyncConnection, row: Row) -> Application:
            return application_of(Seen(await self._add(connection, row, Lineage(()))))

        return await self._open(row, work)

    async def open_session(
        self,
        application_id: str,
        subject: str | None,
        subject_type: SubjectType,
        lifetime_s: int,
        parent_id: str | None = None,
        labels: Sequence[str] = (),
    ) -> Session:
        """Open a subject session with an application; with a parent, one that is derived from it, of its subject."""
        check_life(lifetime_s)
        if (subject is None) == (parent_id is None):
            raise InvalidValueError("a session has a subject, or a parent whose subject it has")
        if subject is not None:
            check_name("the subject", subject)
        ids = [check_kind(application_id, Kind.APPLICATION)]
        ids += [check_kind(parent_id, Kind.SESSION)] if parent_id is not None else []
        row = self._new(Kind.SESSION, lifetime_s, labels, application_id=application_id, parent_id=parent_id)

        async def work(connection: AsyncConnection, row: Row) -> Session:
            above = await self._standing(connection, ids, row.created_at_ms)
            parent = above[parent_id] if parent_id is not None else None
            who = (parent.subject, parent.subject_type) if parent else (subject, subject_type.value)
            opened = await self._add(connection, replace(row, subject=who[0], subject_type=who[1]), above)
            return session_of(Seen(opened))

        return await self._open(row, work)

    async def start_agent(
        self,
        application_id: str,
        name: str,
        lifetime_s: int,
        *,
        session_id: str | None = None,
        parent_id: str | None = None,
        delegation_id: str | None = None,
        labels: Sequence[str] = (),
    ) -> Agent:
        """Start an agent of an application, on a session or by another agent: under a delegation that it holds."""
        check_name("the name", name)
        check_life(lifetime_s)
        if (session_id is None) == (parent_id is None) or (delegation_id is not None and parent_id is None):
            raise InvalidValueError("an agent is started on a session, or by an agent, which may do so by a delegation")
        ids = [check_kind(application_id, Kind.APPLICATION)]
        for id_, kind in ((session_id, Kind.SESSION), (parent_id, Kind.AGENT), (delegation_id, Kind.DELEGATION)):
            ids += [check_kind(id_, kind)] if id_ is not None else []
        row = self._new(
            Kind.AGENT,
            lifetime_s,
            labels,
            application_id=application_id,
            parent_id=parent_id,
            session_id=session_id,
            delegation_id=delegation_id,
            name=name,
        )

        async def work(connection: AsyncConnection, row: Row) -> Agent:
            above = await self._standing(connection, ids, row.created_at_ms)
            if delegation_id is not None and above[delegation_id].target_id != parent_id:
                raise ExceededError("the agent does not hold the delegation under which it would start another")
            started_on = session_id or above[parent_id].session_id
            return agent_of(Seen(await self._add(connection, replace(row, session_id=started_on), above)))

        return await self._open(row, work)

    async def create_grant(
        self,
        application_id: str,
        subject: str,
        scopes: Sequence[str],
        audience: Sequence[str],
        lifetime_s: int,
        *,
        labels: Sequence[str] = (),
    ) -> Grant:
        """Give an application a subject's leave for these scopes at this audience."""
        check_name("the subject", subject)
        check_authority(audience, scopes)
        check_life(lifetime_s)
        row = self._new(
            Kind.GRANT,
            lifetime_s,
            labels,
            application_id=check_kind(application_id, Kind.APPLICATION),
            subject=subject,
            scopes=sorted(set(scopes)),
            audience=sorted(set(audience)),
        )

        async def work(connection: AsyncConnection, row: Row) -> Grant:
            above = await self._standing(connection, [application_id], row.created_at_ms)
            return grant_of(Seen(await self._add(connection, row, above)))

        return await self._open(row, work)

    async def delegate(
        self,
        source_id: str,
        target_id: str,
        scopes: Sequence[str],
        audience: Sequence[str],
        lifetime_s: int,
        *,
        depth: int = 0,
        parent_id: str | None = None,
        labels: Sequence[str] = (),
    ) -> Delegation:
        """Hand an agent a part of what another has: by the delegation `parent_id`, else by a grant that covers it.

        `depth` is how many more delegations may follow this one.
        """
        check_authority(audience, scopes)
        check_life(lifetime_s)
        check_depth(depth)
        if check_kind(source_id, Kind.AGENT) == check_kind(target_id, Kind.AGENT):
            raise InvalidValueError("a delegation goes to another agent")
        row = self._new(
            Kind.DELEGATION,
            lifetime_s,
            labels,
            parent_id=parent_id if parent_id is None else check_kind(parent_id, Kind.DELEGATION),
            source_id=source_id,
            target_id=target_id,
            scopes=sorted(set(scopes)),
            audience=sorted(set(audience)),
            depth=depth,
        )

        async def work(connection: AsyncConnection, row: Row) -> Delegation:
            await self._standing(connection, [target_id], row.created_at_ms)
            ids = [id_ for id_ in (source_id, parent_id) if id_ is not None]
            above = await self._standing(connection, ids, row.created_at_ms)
            grant = await self._allow(connection, above, row)
            made = replace(row, application_id=above[source_id].application_id, grant_id=grant.id)
            return delegation_of(Seen(await self._add(connection, made, above | Lineage([grant]))))

        return await self._open(row, work)

    async def _allow(self, connection: AsyncConnection, above: Lineage, row: Row) -> Row:
        """Return the grant on which the new delegation `row` rests. Raises: ExceededError, where it is too much."""
        source = above[row.source_id]
        parent = own_edge(above, source, above[row.parent_id] if row.parent_id else None)
        if parent is None:
            session = above[source.session_id]
            grants = await find_grants(connection, session.subject, source.application_id, row.created_at_ms)
            return covering(grants, row.scopes or (), row.audience or ())
        covering([parent], row.scopes or (), row.audience or ())
        if (row.depth or 0) >= (parent.depth or 0):
            raise ExceededError("the parent delegation allows fewer to follow")
        return above[parent.grant_id]

    def _new(self, kind: Kind, lifetime_s: int | None, labels: Sequence[str], **columns: Any) -> Row:
        check_labels(labels)
        now_ms = self._clock().wall_ms
        return Row(
            id=own_id(kind, self._random(16)),
            kind=kind,
            created_at_ms=now_ms,
            opened_seq=0,
            expires_at_ms=None if lifetime_s is None else now_ms + lifetime_s * 1000,
            labels=sorted(set(labels)) or None,
            **columns,
        )

    async def _standing(self, connection: AsyncConnection, ids: Sequence[str], now_ms: int) -> Lineage:
        above = await load(connection, ids)
        await above.require_standing(connection, self._ledger, now_ms)
        return above

    async def _open(self, row: Row, work: Callable[[AsyncConnection, Row], Awaitable[_T]]) -> _T:
        """Return what `work` makes of `row`, in a transaction that reads the ledger first: what comes later counts."""

        async def begun(connection: AsyncConnection) -> tuple[_T, Act]:
            seq = (await read_head(connection)).rev.seq
            return await work(connection, replace(row, opened_seq=seq)), Act(_ACTIONS[row.kind], row.id)

        return await self._audit.write(begun)

    @staticmethod
    async def _add(connection: AsyncConnection, row: Row, above: Lineage) -> Row:
        """Insert `row`, which outlives nothing above it; return it."""
        ends_ms = [ms for ms in (row.expires_at_ms, above.expires_at_ms) if ms is not None]
        row = replace(row, expires_at_ms=min(ends_ms, default=None))
        await add(connection, row, above.rows)
        return row
