"""Keys for the API under /v1/keys: who may call, and as what. No answer but the first holds a secret."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from countermand.authority.access import Access
from countermand.authority.model import Role
from countermand.server.bodies.keys import ApiKeyOut, ApiKeysOut, NewApiKeyBody, NewApiKeyOut, Why
from countermand.server.caller import requires_to_change


def keys_router(access: Access) -> APIRouter:
    """Return the routes for keys: readers list them, administrators make and revoke them."""
    router = APIRouter(prefix="/v1/keys", dependencies=[Depends(requires_to_change(Role.ADMINISTRATOR))])

    @router.post("", status_code=201)
    async def create_api_key(body: NewApiKeyBody, response: Response) -> NewApiKeyOut:
        """Make a key for a role. It is shown this once."""
        response.headers["cache-control"] = "no-store"
        made = await access.create(Role(body.role), body.name, body.lifetime_s)
        return NewApiKeyOut.of_new(made)

    @router.get("")
    async def list_api_keys(after: Annotated[str, Query(pattern="^([0-9a-f]{16})?$")] = "") -> ApiKeysOut:
        """A page of keys, those of applications too, in the order of their ids."""
        return ApiKeysOut.of(await access.keys(after))

    @router.post("/{key_id}/revoke")
    async def revoke_api_key(key_id: str, body: Why) -> ApiKeyOut:
        """Revoke a key, for ever; one that was revoked stays as it was."""
        return ApiKeyOut.of(await access.revoke(key_id, body.reason))

    return router
