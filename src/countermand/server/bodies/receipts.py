"""Receipts: who enforces an entry."""

from typing import Annotated

from pydantic import Field

from countermand.server.bodies.parts import Answer, Time, TimeOrNone


class NamedReplicaOut(Answer):
    """A replica as it last reported. Without the entry it lets nothing pass from `refuses_at` on; null: it may."""

    replica_id: str
    key_id: str
    generation: int
    seq: int
    reported_at: Annotated[Time, Field(validation_alias="reported_at_ms")]
    refuses_at: Annotated[TimeOrNone, Field(validation_alias="refuses_at_ms")]


class ReceiptOut(Answer):
    """How far entry `seq` has come: `enforced` by so many `of` the replicas that were live then, or reported since.

    `is_enforced`: by all, and there is one. `refusing` of them have not reported it, and refuse by now. `first_ms` and
    `last_ms`: from `revoked_at` until the reports came; null where that is not known of all. `behind` are the others,
    the furthest first; `best_effort` those that never refuse: 100 of each at the most.
    """

    seq: int
    generation: int
    is_enforced: bool
    all: Annotated[int, Field(validation_alias="of", serialization_alias="of")]
    enforced: int
    refusing: int
    first_ms: int | None
    last_ms: int | None
    behind: list[NamedReplicaOut]
    best_effort: list[NamedReplicaOut]
