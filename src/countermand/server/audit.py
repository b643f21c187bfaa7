"""The audit under /v1/audit, with all that it takes to prove it: see docs/protocol.md, "Audit"."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from countermand.authority.model import Role
from countermand.authority.trail import MAX_PAGE, Trail
from countermand.log.codec import MAX_MS
from countermand.server.bodies.audit import AuditOut
from countermand.server.caller import requires


def audit_router(trail: Trail) -> APIRouter:
    """Return the route for readers."""
    router = APIRouter(prefix="/v1/audit", dependencies=[Depends(requires(Role.READER))])

    @router.get("")
    async def read_audit(
        after: Annotated[int, Query(ge=0, le=MAX_MS)] = 0, limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100
    ) -> AuditOut:
        """A page of changes, the oldest first, and the signed checkpoints that prove them."""
        return AuditOut.of_page(await trail.page(after, limit))

    return router
