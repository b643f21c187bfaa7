"""Revocations and cutoffs, what they reach, and the entries that they made."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from countermand.log.anchor import Kind
from countermand.server.bodies.parts import (
    Answer,
    Body,
    ExpiresAtOrNone,
    InstantText,
    KindText,
    PageOut,
    Time,
    TimeOrNone,
    ms_of,
)
from countermand.server.bodies.receipts import ReceiptOut


def _by_text(counts: Mapping[Kind, int]) -> dict[str, int]:
    return {kind.text: count for kind, count in counts.items()}


class NewRevocation(Body):
    """`issuer` is for what another issuer named; `bare` for what documented tokens name by one namespace for all.

    Of a Biscuit `id` is a revocation id in hex, and it has no issuer.
    """

    kind: Literal["session", "agent", "delegation", "grant", "application", "token", "subject", "key", "biscuit"]
    id: str
    issuer: str = ""
    bare: bool = False
    reason: str = ""
    dry_run: bool = False


class NewCutoff(Body):
    target: str
    issuer: str = ""
    issued_before: InstantText | None = None
    reason: str = ""
    dry_run: bool = False

    @property
    def before_ms(self) -> int | None:
        """`issued_before` as `ms_of` reads it."""
        return ms_of("issued_before", self.issued_before)


class ReachOut(Answer):
    """How many of each kind that stood until then. `is_whole` False: there are more."""

    counts: Annotated[dict[str, int], BeforeValidator(_by_text)]
    is_whole: bool


class PreviewOut(Answer):
    """What a revocation would reach; `seq` is where the ledger ended when it was looked up."""

    dry_run: Literal[True] = True
    seq: int
    reach: ReachOut


class _WaitedFor(Answer):
    """For whoever asked with `wait`: who enforces it; left out where that could not be found out."""

    receipt: Annotated[ReceiptOut | None, Field(exclude_if=lambda receipt: receipt is None)] = None


class _RevokedOut(Answer):
    """What was revoked, and by which entry of the ledger."""

    seq: int
    generation: int
    kind: KindText
    id: str
    issuer: str
    reason: str
    revoked_at: Annotated[Time, Field(validation_alias="at_ms")]


class RevocationOut(_WaitedFor, _RevokedOut):
    """`seq` is the entry of the ledger: whoever has applied it enforces this."""

    is_new: bool
    reach: ReachOut


class EntryOut(_RevokedOut):
    """An entry of the ledger. Without `expires_at` it is in force for ever."""

    issued_before: Annotated[TimeOrNone, Field(validation_alias="issued_before_ms")]
    expires_at: ExpiresAtOrNone


class EntriesOut(PageOut[EntryOut]):
    pass


class RevocationsOut(_WaitedFor):
    """What has ended: `count` anchors, by the entries from `first_seq` to `last_seq`; behind theirs, those of Biscuits.

    Unless `next` is null there is more: go on.
    """

    count: int
    first_seq: int | None
    last_seq: int | None
    reach: ReachOut
    next: str | None


class RevocationsPreviewOut(Answer):
    """What would end; `seq` is where the ledger ended when it was looked up."""

    dry_run: Literal[True] = True
    seq: int
    count: int
    reach: ReachOut
    next: str | None
