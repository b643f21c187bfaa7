"""The audit."""

from typing import Self

from pydantic import BaseModel

from countermand.authority.trail import AuditPage


class AuditRowOut(BaseModel):
    """What is hashed has one spelling: so the time is a number, in milliseconds since 1970, UTC, and `link` is hex."""

    number: int
    at_ms: int
    seq: int | None
    action: str
    target: str
    issuer: str
    reason: str
    role: str
    key_id: str
    application_id: str
    remote: str
    request_id: str
    link: str


class SealOut(BaseModel):
    """A checkpoint in base64url that signs the link of row `number`."""

    number: int
    checkpoint: str


class AuditOut(BaseModel):
    """`next` is for the query's `after`; None on the last page."""

    rows: list[AuditRowOut]
    seals: list[SealOut]
    next: int | None

    @classmethod
    def of_page(cls, page: AuditPage) -> Self:
        rows = [AuditRowOut(**row.to_json()) for row in page.rows]
        return cls(rows=rows, seals=[SealOut(**seal.to_json()) for seal in page.seals], next=page.next)
