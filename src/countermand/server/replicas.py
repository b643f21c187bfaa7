"""What replicas report of themselves, under /v1. Source: docs/protocol.md, "Reports"."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from countermand.authority.access import Caller
from countermand.authority.model import ReplicaReport, Role
from countermand.authority.reading import Reading
from countermand.authority.replicas import Replicas
from countermand.log.codec import from_base64
from countermand.server.bodies.replicas import NewReport, ReplicaOut, ReplicasOut
from countermand.server.caller import requires


def reports_router(replicas: Replicas) -> APIRouter:
    """Return the route on which replicas report."""
    router = APIRouter(prefix="/v1")

    @router.post("/replicas", status_code=204)
    async def report(body: NewReport, caller: Annotated[Caller, Depends(requires(Role.REPLICA))]) -> Response:
        """Take note of where a replica is in the log, and which keys it knows."""
        said = ReplicaReport(**body.model_dump(exclude={"proof"}))
        await replicas.report(caller.key_id, said, from_base64(body.proof))
        return Response(status_code=204)

    return router


def add_replicas(router: APIRouter, replicas: Replicas, reading: Reading) -> None:
    """Add the route that lists replicas."""

    @router.get("/replicas")
    async def list_replicas() -> ReplicasOut:
        """The last report of each replica of the last day, the newest first."""
        reported = await replicas.all()
        head = await reading.head()
        return ReplicasOut(items=[ReplicaOut.of_report(one, live=replicas.is_live(one), head=head) for one in reported])
