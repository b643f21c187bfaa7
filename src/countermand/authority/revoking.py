"""Revoking: one entry ends an anchor and all that rests on it; a cutoff, all that was issued before.

Biscuits that were registered for it carry no path of ours: each has an entry behind that one, before it is answered.

A revocation is for ever, and answered when it is on the disk and its checkpoint is signed, where the clocks allow it.
Revoking what is revoked appends nothing, and returns the entry that stands.
Source: docs/protocol.md, "Path" and "Cutoffs".
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.appending import Act, Draft
from countermand.authority.audit import Audit
from countermand.authority.biscuits import Biscuits
from countermand.authority.cascade import ANSWERED, COUNTED, begin_cascades, reach_of, reach_of_cutoff
from countermand.authority.checks import check_cutoff, check_reason, check_unkept
from countermand.authority.database import Database
from countermand.authority.heartbeat import Change, Heartbeat
from countermand.authority.ledger import Ledger, read_head
from countermand.authority.lineage import WORDS, Row, read_row
from countermand.authority.model import NOTHING, UNKNOWN, Grant, Preview, Purpose, Reach, Revocation
from countermand.authority.registered import Ended, Registered, with_biscuits
from countermand.authority.rotation import Rotation
from countermand.authority.views import grant_of, revocation_of, see
from countermand.errors import DataError, InvalidValueError, NotFoundError
from countermand.log.anchor import EVERYONE, Kind, kind_of
from countermand.log.entry import Entry
from countermand.log.freshness import Instant

_Done: TypeAlias = tuple[Revocation, Sequence[str]]
"""A revocation, and the anchors of which registered Biscuits are left."""


class Revoking:
    """Revokes, and says beforehand what that would end."""

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        heartbeat: Heartbeat,
        rotation: Rotation,
        biscuits: Biscuits,
        registered: Registered,
        issuer: str,
        clock: Callable[[], Instant],
    ) -> None:
        self._database = database
        self._audit = Audit(database, clock)
        self._ledger = ledger
        self._heartbeat = heartbeat
        self._rotation = rotation
        self._biscuits = biscuits
        self._registered = registered
        self._issuer = issuer
        self._clock = clock

    async def revoke(
        self, kind: Kind, id_: str, reason: str = "", *, issuer: str = "", bare: bool = False, urgent: bool = True
    ) -> Revocation:
        """Revoke an application, session, agent, grant or delegation, and all that rests on it; or a token's `jti`.

        Of a Biscuit, whatever carries this revocation id: it has no issuer, and is as bare as it is.
        A key of our own, by its `kid`, signs nothing more from then on.

        With an issuer that is not ours, or `bare` for the documented namespace that all issuers share, it is an id of
        which nothing is kept here. Nobody can say that there is no such thing then, and the entry never expires.
        What is urgent, as an operator's is, goes before what holders end themselves.

        Raises:
            InvalidValueError: a kind that is not revoked like this, or a reason that the ledger may not hold.
            NotFoundError: there is none of this id, and there would be.
        """
        check_reason(reason)
        issuer, is_kept = self._place(kind, id_, issuer, bare=bare)
        if kind is Kind.BISCUIT:
            return await self._biscuits.revoke(id_, reason)
        if not is_kept:
            return await self._revoke_unkept(kind, id_, issuer, reason, urgent=urgent)

        async def work(connection: AsyncConnection) -> Change[_Done]:
            row = await read_row(connection, id_, kind, lock=True)
            if row.revoked_at_ms is not None:
                return Change.none((await self._standing(connection, kind, id_), [f"{kind.text}:{id_}"]))
            now_ms = await self._ledger.time(connection, self._clock().wall_ms)
            reach = await self._counted(connection, lambda: reach_of(connection, row.number, now_ms, ANSWERED))
            await _mark(connection, row, "revoked_at_ms", now_ms)
            await begin_cascades(connection, [row.number])
            ended = await self._registered.end(connection, kind, [id_], reason, now_ms)
            expires_at_ms = await self._ledger.expiry(connection, now_ms)
            draft = Draft(kind=kind, id=id_, at_ms=now_ms, expires_at_ms=expires_at_ms, reason=reason)
            return _change(draft, reach, ended)

        return await self._finished(*await self._heartbeat.commit(work, urgent=urgent))

    async def withdraw_key(self, id_: str, reason: str = "") -> Revocation:
        """Revoke one of our own keys, as `revoke` does. Raises: NotFoundError; InvalidValueError, for the reason."""
        register = await self._rotation.register()
        if not any(key.purpose is Purpose.MANDATE and key.id == id_ for key in register.keys):
            raise NotFoundError("there is no such mandate key")
        return await self.revoke(Kind.KEY, id_, reason, issuer=self._issuer)

    async def _revoke_unkept(self, kind: Kind, id_: str, issuer: str, reason: str, *, urgent: bool) -> Revocation:
        is_own_key = kind is Kind.KEY and issuer == self._issuer

        async def work(connection: AsyncConnection) -> Change[Revocation]:
            await self._database.lock(connection, f"{kind.text}:{issuer}:{id_}")  # there is no row to lock
            if is_own_key:
                await self._rotation.withdraw_mandate_key(connection, id_)
            known = await self._ledger.find(connection, kind, id_, issuer)
            if known is not None:
                return Change.none(revocation_of(known, NOTHING, is_new=False))
            now_ms = await self._ledger.time(connection, self._clock().wall_ms)
            is_ours = not issuer and kind_of(id_) is kind
            expires_at_ms = await self._ledger.expiry(connection, now_ms) if is_ours else None
            draft = Draft(kind=kind, id=id_, at_ms=now_ms, expires_at_ms=expires_at_ms, reason=reason, issuer=issuer)
            return Change(lambda entries: revocation_of(entries[0], NOTHING), (draft,))

        revocation = await self._heartbeat.commit(work, urgent=urgent)
        if is_own_key:
            await self._rotation.refresh()
        return revocation

    async def confirm(self) -> None:
        """Return once what can be read of the ledger is as durable as what is answered."""

        async def work(_connection: AsyncConnection) -> Change[None]:
            return Change.none(None)

        await self._heartbeat.commit(work, urgent=False)

    async def close_grant(self, id_: str) -> Grant:
        """Close a grant for the future: nothing new is opened or minted by it, and what was goes on until it expires.

        Raises: NotFoundError.
        """

        async def work(connection: AsyncConnection) -> tuple[Grant, Act | None]:
            row = await read_row(connection, id_, Kind.GRANT, lock=True)
            act = None
            if row.closed_at_ms is None:
                await _mark(connection, row, "closed_at_ms", self._clock().wall_ms)
                act = Act("grant.close", id_)
            [seen] = await see(connection, [row.number], self._clock().wall_ms)
            return grant_of(seen), act

        return await self._audit.write(work)

    async def cut_off(
        self, target: str, issuer: str = "", before_ms: int | None = None, reason: str = ""
    ) -> Revocation:
        """End what was issued to `target` until now, or until `before_ms`: `all`, `subject:…` or `application:…`.

        Nothing is opened or minted any more from what was opened until then.

        Raises:
            InvalidValueError: what cannot be cut off, a time to come, or a reason that the ledger may not hold.
            NotFoundError: there is no such application of ours.
        """
        check_reason(reason)
        issuer = self._foreign(issuer)
        check_cutoff(target, issuer, before_ms, self._clock().wall_ms)

        async def work(connection: AsyncConnection) -> Change[_Done]:
            now_ms = await self._ledger.time(connection, self._clock().wall_ms)
            reach = await self._counted(
                connection, lambda: _reach_of_cutoff(connection, target, issuer, before_ms, now_ms, ANSWERED)
            )
            ended = Ended()
            if not issuer:
                ended = await self._registered.end_before(connection, target, before_ms, reason, now_ms)
            expires_at_ms = None if issuer or target == EVERYONE else await self._ledger.expiry(connection, now_ms)
            draft = Draft(
                kind=Kind.CUTOFF,
                id=target,
                at_ms=now_ms,
                expires_at_ms=expires_at_ms,
                reason=reason,
                issuer=issuer,
                issued_before_ms=before_ms,
            )
            return _change(draft, reach, ended)

        return await self._finished(*await self._heartbeat.commit(work, urgent=True))

    async def preview(self, kind: Kind, id_: str, *, issuer: str = "", bare: bool = False) -> Preview:
        """Say what `revoke` would end; of an id of which nothing is kept, nothing. Raises: as `revoke`."""
        issuer, is_kept = self._place(kind, id_, issuer, bare=bare)
        if kind is Kind.BISCUIT:
            return await self._biscuits.preview(id_)
        if not is_kept:
            return Preview(await self._ledger.count(), NOTHING)
        now_ms = self._clock().wall_ms
        async with self._database.read() as connection:
            row = await read_row(connection, id_, kind)
            now_ms = await self._ledger.time(connection, now_ms)
            reach = await reach_of(connection, row.number, now_ms, COUNTED)
            reach = await self._registered.counted(connection, reach, [f"{kind.text}:{id_}"], None, now_ms, COUNTED)
            return Preview((await read_head(connection)).rev.seq, reach)

    async def preview_cutoff(self, target: str, issuer: str = "", before_ms: int | None = None) -> Preview:
        """Say what `cut_off` would end. Raises: as `cut_off`."""
        issuer, now_ms = self._foreign(issuer), self._clock().wall_ms
        check_cutoff(target, issuer, before_ms, now_ms)
        async with self._database.read() as connection:
            now_ms = await self._ledger.time(connection, now_ms)
            reach = await _reach_of_cutoff(connection, target, issuer, before_ms, now_ms, COUNTED)
            if not issuer:
                reach = await self._registered.counted(connection, reach, [target], before_ms, now_ms, COUNTED)
            return Preview((await read_head(connection)).rev.seq, reach)

    async def _finished(self, revocation: Revocation, unfinished: Sequence[str]) -> Revocation:
        """Return the revocation once no registered Biscuit is left of it. Raises: UnconfirmedError."""
        if not unfinished:
            return revocation
        rest = await self._registered.finish(unfinished)
        reach = with_biscuits(revocation.reach, rest.count)
        return replace(revocation, reach=reach, last_seq=rest.last_seq or revocation.last_seq)

    async def _counted(self, connection: AsyncConnection, counting: Callable[[], Awaitable[Reach]]) -> Reach:
        """Return what is reached, or that this is not known: no revocation fails or waits for being counted."""
        reach = await self._database.limited(connection, counting)
        return UNKNOWN if reach is None else reach

    def _place(self, kind: Kind, id_: str, issuer: str, *, bare: bool) -> tuple[str, bool]:
        """Return the issuer of an id, empty for ours, and whether there is a row for it. Raises: InvalidValueError."""
        if issuer and bare:
            raise InvalidValueError("an id has an issuer, or it is a bare one")
        if kind is Kind.BISCUIT:
            if issuer:
                raise InvalidValueError("the revocation id of a Biscuit has no issuer")
            return "", False
        if kind is not Kind.KEY:  # the issuer chose the name of its key, ours too
            issuer = self._foreign(issuer)
        if not issuer and not bare and kind in WORDS:
            return issuer, True
        if not issuer and not bare and kind_of(id_) is not kind:
            raise InvalidValueError(f"this is no {kind.text} of ours: say whose it is, or that it is a bare one")
        check_unkept(kind, issuer, id_)
        return issuer, False

    def _foreign(self, issuer: str) -> str:
        """Return the issuer as tokens have it: what we named ourselves has none."""
        return "" if issuer == self._issuer else issuer

    async def _standing(self, connection: AsyncConnection, kind: Kind, id_: str) -> Revocation:
        entry = await self._ledger.find(connection, kind, id_)
        if entry is None:
            raise DataError(f"the {WORDS[kind]} is revoked, and its entry is gone from the ledger")
        return revocation_of(entry, NOTHING, is_new=False)


async def _mark(connection: AsyncConnection, row: Row, column: str, now_ms: int) -> None:
    anchors = tables.anchors
    await connection.execute(update(anchors).where(anchors.c.number == row.number).values({column: now_ms}))


async def _reach_of_cutoff(
    connection: AsyncConnection, target: str, issuer: str, before_ms: int | None, now_ms: int, most: int
) -> Reach:
    """Nothing of ours belongs to another issuer's subject or application. Raises: NotFoundError."""
    if issuer:
        return NOTHING
    kind, _, id_ = target.partition(":")
    if kind == Kind.APPLICATION.text:
        await read_row(connection, id_, Kind.APPLICATION)
    return await reach_of_cutoff(connection, target, before_ms, now_ms, most)


def _change(draft: Draft, reach: Reach, ended: Ended) -> Change[_Done]:
    """Return what appends an entry, and behind it those of the Biscuits that end with it."""

    def answer(entries: Sequence[Entry]) -> _Done:
        done = revocation_of(entries[0], with_biscuits(reach, len(entries) - 1))
        return replace(done, last_seq=entries[-1].seq), ended.unfinished

    return Change(answer, (draft, *ended.drafts))
