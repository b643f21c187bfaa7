"""Revocations and cutoffs under /v1: done, or with `dry_run` only said; the ledger, read; and who enforces an entry.

With `wait` the answer comes once all replicas enforce it, or after so many seconds. What is done is done: if then
nobody knows who does, the answer has no receipt.
"""

import logging
from typing import Annotated, Final, TypeAlias, TypeVar

from fastapi import APIRouter, Path, Query, Response

from countermand.authority.checks import check_reason
from countermand.authority.model import Preview, Revocation
from countermand.authority.receipts import LONGEST_S, Receipts
from countermand.authority.revoking import Revoking
from countermand.authority.service import Authority
from countermand.errors import AuthorityError, InvalidValueError
from countermand.log.anchor import Kind
from countermand.log.codec import MAX_MS
from countermand.server.bodies.parts import Answer
from countermand.server.bodies.receipts import ReceiptOut
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
Wait: TypeAlias = Annotated[float | None, Query(gt=0, le=LONGEST_S)]
_Seq: TypeAlias = Annotated[int, Path(ge=1, le=MAX_MS)]
_Done = TypeVar("_Done", bound=Answer)

_log: Final = logging.getLogger(__name__)


def add_revocations(router: APIRouter, authority: Authority) -> None:
    """Add the routes that revoke, for ever: 201 where this made an entry, 200 where one stood or it is a dry run."""
    revoking, sweeping, receipts = authority.revoking, authority.sweeping, authority.receipts

    @router.post("/revocations", status_code=201, responses={200: {"model": RevocationOut | PreviewOut}})
    async def create_revocation(
        body: NewRevocation, response: Response, wait: Wait = None
    ) -> RevocationOut | PreviewOut:
        """Revoke an anchor and all that rests on it, or an id of which nothing is kept here."""
        check_wait(wait, dry_run=body.dry_run)
        done = await _revoked(revoking, body)
        return await received(receipts, answer_of(done, response), _last_of(done), wait)

    @router.post("/revocations/by-filter", status_code=201, responses={200: {"model": _Swept}})
    async def revoke_by_filter(body: NewRevocations, response: Response, wait: Wait = None) -> _Swept:
        """Revoke up to 1,000 of what matches and stands, in one transaction: 200 where there was none.

        The receipt is of the last.
        """
        check_wait(wait, dry_run=body.dry_run)
        if body.dry_run:
            check_reason(body.reason)
            response.status_code = 200
            return RevocationsPreviewOut.of(await sweeping.preview(body.which, body.after))
        swept = await sweeping.revoke(body.which, body.reason, body.after)
        response.status_code = 201 if swept.count else 200
        return await received(receipts, RevocationsOut.of(swept), swept.last_seq, wait)

    @router.post("/cutoffs", status_code=201, responses={200: {"model": PreviewOut}})
    async def cut_off(body: NewCutoff, response: Response, wait: Wait = None) -> RevocationOut | PreviewOut:
        """End all that was issued to a subject, an application or everyone until now, or until an earlier time."""
        check_wait(wait, dry_run=body.dry_run)
        if body.dry_run:
            check_reason(body.reason)
            return answer_of(await revoking.preview_cutoff(body.target, body.issuer, body.before_ms), response)
        done = await revoking.cut_off(body.target, body.issuer, body.before_ms, body.reason)
        return await received(receipts, answer_of(done, response), _last_of(done), wait)

    _add_reading(router, authority)


def _add_reading(router: APIRouter, authority: Authority) -> None:
    reading, receipts = authority.reading, authority.receipts

    @router.get("/revocations")
    async def list_revocations(query: Annotated[EntriesQuery, Query()]) -> EntriesOut:
        """A page of the ledger, newest first."""
        kind = None if query.kind is None else Kind.parse(query.kind)
        return EntriesOut.of(await reading.entries(kind, query.id, query.issuer, query.after, query.limit))

    @router.get("/revocations/{seq:int}")
    async def read_revocation(seq: _Seq) -> EntryOut:
        """One entry of the ledger."""
        return EntryOut.of(await reading.entry(seq))

    @router.get("/revocations/{seq:int}/receipt")
    async def read_receipt(seq: _Seq, wait: Wait = None) -> ReceiptOut:
        """Who enforces an entry: at once, or when all do."""
        return ReceiptOut.of(await receipts.of(seq, wait or 0.0))


def check_wait(wait: float | None, *, dry_run: bool) -> None:
    """Refuse to wait for what a dry run does not make. Raises: InvalidValueError."""
    if wait is not None and dry_run:
        raise InvalidValueError("a dry run makes no entry, and there is nothing to wait for")


async def received(receipts: Receipts, done: _Done, seq: int | None, wait: float | None) -> _Done:
    """Return the answer with its receipt, where somebody would wait for one and there is an entry."""
    if wait is None or seq is None:
        return done
    try:
        receipt = ReceiptOut.of(await receipts.of(seq, wait))
    except AuthorityError as error:
        _log.warning("entry %d has no receipt: %s", seq, error, extra={"code": error.code})
        return done
    return done.model_copy(update={"receipt": receipt})


def _last_of(done: Revocation | Preview) -> int:
    """Return the entry whose receipt is one for all that was revoked."""
    return done.last_seq or done.seq if isinstance(done, Revocation) else done.seq


async def _revoked(revoking: Revoking, body: NewRevocation) -> Revocation | Preview:
    """Revoke what `body` names, or look what that would end."""
    kind = Kind.parse(body.kind)
    if body.dry_run:
        check_reason(body.reason)
        return await revoking.preview(kind, body.id, issuer=body.issuer, bare=body.bare)
    return await revoking.revoke(kind, body.id, body.reason, issuer=body.issuer, bare=body.bare)


def answer_of(outcome: Revocation | Preview, response: Response) -> RevocationOut | PreviewOut:
    """Return what whoever revoked is answered, and let `response` say whether that made an entry."""
    if isinstance(outcome, Preview):
        response.status_code = 200
        return PreviewOut.of(outcome)
    response.status_code = 201 if outcome.is_new else 200
    return RevocationOut.of(outcome)
