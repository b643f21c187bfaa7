"""What replicas report, and what is said of them."""

from dataclasses import asdict
from typing import Annotated, Self

from pydantic import BaseModel, Field

from countermand.authority.model import ReportedReplica
from countermand.log.anchor import Rev
from countermand.log.codec import MAX_MS
from countermand.server.bodies.parts import Body, Time


class NewReport(Body):
    """`proof`: the newest signed checkpoint that is applied, in base64url."""

    replica_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]
    generation: Annotated[int, Field(ge=1, le=MAX_MS)]
    seq: Annotated[int, Field(ge=0, le=MAX_MS)]
    keyset: Annotated[int, Field(ge=0, le=MAX_MS)]
    strict: bool
    max_staleness_ms: Annotated[int, Field(ge=1, le=MAX_MS)]
    at_ms: Annotated[int, Field(ge=0, le=MAX_MS)]
    proof: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]*$", max_length=1024)] = ""


class ReplicaOut(BaseModel):
    """`key_id` is the API key that it reports with, empty in the authority's own process.

    It is `live` if it did so within the last minute, and `behind` by so many entries as far as it has said.
    """

    replica_id: str
    key_id: str
    generation: int
    seq: int
    keyset: int
    strict: bool
    max_staleness_ms: int
    reported_at: Time
    live: bool
    behind: int

    @classmethod
    def of_report(cls, reported: ReportedReplica, *, live: bool, head: Rev) -> Self:
        """Return what the API says of a replica."""
        said = asdict(reported.report)
        behind = max(0, head.seq - reported.report.seq)
        return cls.model_validate(
            said | {"key_id": reported.key_id, "reported_at": reported.reported_at_ms, "live": live, "behind": behind}
        )


class ReplicasOut(BaseModel):
    items: list[ReplicaOut]
