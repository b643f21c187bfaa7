"""Revocations and cutoffs under /v1: done, or with `dry_run` only said."""

from fastapi import APIRouter, Response

from countermand.authority.checks import check_reason
from countermand.authority.model import Preview, Revocation
from countermand.authority.revoking import Revoking
from countermand.log.anchor import Kind
from countermand.server.bodies import NewCutoff, NewRevocation, PreviewOut, RevocationOut


def add_revocations(router: APIRouter, revoking: Revoking) -> None:
    """Add the routes that revoke, for ever: 201 where this made an entry, 200 where one stood or it is a dry run."""

    @router.post("/revocations", status_code=201, responses={200: {"model": RevocationOut | PreviewOut}})
    async def revoke(body: NewRevocation, response: Response) -> RevocationOut | PreviewOut:
        """Revoke an anchor and all that rests on it, or an id of which nothing is kept here."""
        return _answer(await _revoked(revoking, body), response)

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
