"""The ledger under /v1: taken up again where witnesses contradict it."""

from fastapi import APIRouter

from countermand.authority.recovery import Recovery
from countermand.server.bodies.ledger import NewRecovery, RecoveredOut


def add_ledger(router: APIRouter, recovery: Recovery) -> None:
    """Add the route that begins another generation. It is answered while nothing can be revoked."""

    @router.post("/ledger/recovery")
    async def recover(body: NewRecovery) -> RecoveredOut:
        """Append again what witnesses hold, begin another generation, and cut off what was opened before."""
        found = await recovery.recover(keep_sessions=body.keep_sessions, force=body.force, dry_run=body.dry_run)
        return RecoveredOut.of(found)
