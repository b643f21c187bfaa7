"""Revocations and cutoffs under /v1: done, or with `dry_run` only said; and the ledger, read."""

from typing import Annotated, TypeAlias

from fastapi import APIRouter, Path, Query, Response

from countermand.authority.checks import check_reason
from countermand.authority.model import Preview, Revocation
from countermand.authority.revoking import Revoking
from countermand.authority.service import Authority
from countermand.log.anchor import Kind
from countermand.log.codec import MAX_MS
from countermand.server.bodies.revocations import (
    EntriesOut,
    EntryOut,
    NewCutoff,
    NewRevocation,
    PreviewOut,
    RevocationOut,
    RevocationsOut,
    RevocationsPreviewOut,
)
from countermand.server.filters import EntriesQuery, NewRevocations

_Swept: TypeAlias = RevocationsOut | RevocationsPreviewOut


def add_revocations(router: APIRouter, authority: Authority) -> None:
    """Add the routes that revoke, for ever: 201 where this made an entry, 200 where one stood or it is a dry run."""
    revoking, sweeping, reading = authority.revoking, authority.sweeping, authority.reading

    @router.post("/revocations", status_code=201, responses={200: {"model": RevocationOut | PreviewOut}})
    async def create_revocation(body: NewRevocation, response: Response) -> RevocationOut | PreviewOut:
        """Revoke an anchor and all that rests on it, or an id of which nothing is kept here."""
        return _answer(await _revoked(revoking, body), response)

    @router.post("/revocations/by-filter", status_code=201, responses={200: {"model": _Swept}})
    async def revoke_by_filter(body: NewRevocations, response: Response) -> _Swept:
        """Revoke up to 1,000 of what matches and stands, in one transaction: 200 where there was none."""
        if body.dry_run:
            check_reason(body.reason)
            response.status_code = 200
            return RevocationsPreviewOut.of(await sweeping.preview(body.which, body.after))
        swept = await sweeping.revoke(body.which, body.reason, body.after)
        response.status_code = 201 if swept.count else 200
        return RevocationsOut.of(swept)

    @router.get("/revocations")
    async def list_revocations(query: Annotated[EntriesQuery, Query()]) -> EntriesOut:
        """A page of the ledger, newest first."""
        kind = None if query.kind is None else Kind.parse(query.kind)
        return EntriesOut.of(await reading.entries(kind, query.id, query.issuer, query.after, query.limit))

    @router.get("/revocations/{seq:int}")
    async def read_revocation(seq: Annotated[int, Path(ge=1, le=MAX_MS)]) -> EntryOut:
        """One entry of the ledger."""
        return EntryOut.of(await reading.entry(seq))

    @router.post("/cutoffs", status_code=201, responses={200: {"model": PreviewOut}})
    async def cut_off(body: NewCutoff, response: Response) -> RevocationOut | PreviewOut:
        """End all that was issued to a subject, an application or everyone until now, or until an earlier time."""
        if body.dry_run:
            check_reason(body.reason)
            return _answer(await revoking.preview_cutoff(body.target, body.issuer, body.before_ms), response)
        return _answer(await revoking.cut_off(body.target, body.issuer, body.before_ms, body.reason), response)


async def _revoked(revoking: Revoking, body: NewRevocation) -> Revocation | Preview:
    """Revoke what `body` names, or look what that would end."""
    kind = Kind.parse(body.kind)
    if body.dry_run:
        check_reason(body.reason)
        return await revoking.preview(kind, body.id, issuer=body.issuer, bare=body.bare)
    return await revoking.revoke(kind, body.id, body.reason, issuer=body.issuer, bare=body.bare)


def _answer(outcome: Revocation | Preview, response: Response) -> RevocationOut | PreviewOut:
    if isinstance(outcome, Preview):
        response.status_code = 200
        return PreviewOut.of(outcome)
    response.status_code = 201 if outcome.is_new else 200
    return RevocationOut.of(outcome)
