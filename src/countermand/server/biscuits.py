"""Biscuits under /v1: revoked by the token itself. By bare ids they are revoked like all else."""

from fastapi import APIRouter, Response

from countermand.authority.service import Authority
from countermand.server.bodies.biscuits import NewBiscuitRevocation
from countermand.server.bodies.revocations import PreviewOut, RevocationOut
from countermand.server.revocations import Wait, answer_of, check_wait, received


def add_biscuits(router: APIRouter, authority: Authority) -> None:
    """Add the route that revokes by token: 201 where this made an entry, 200 where one stood or it is a dry run."""
    biscuits, receipts = authority.biscuits, authority.receipts

    @router.post("/biscuit/revocations", status_code=201, responses={200: {"model": RevocationOut | PreviewOut}})
    async def revoke_biscuit(
        body: NewBiscuitRevocation, response: Response, wait: Wait = None
    ) -> RevocationOut | PreviewOut:
        """Revoke a block of a token that is verified first, and all that carries it: the last, if none is named."""
        check_wait(wait, dry_run=body.dry_run)
        if body.dry_run:
            return answer_of(await biscuits.preview_token(body.token, body.block, body.reason), response)
        done = await biscuits.revoke_token(body.token, body.block, body.reason)
        return await received(receipts, answer_of(done, response), done.seq, wait)
