"""Signing keys under /v1: which there are, another in the place of one, and one that nobody is to believe any more."""

from fastapi import APIRouter

from countermand.authority.keys import Register
from countermand.authority.model import Purpose, RegisteredKey
from countermand.authority.revoking import Revoking
from countermand.authority.rotation import Rotation
from countermand.errors import NotFoundError
from countermand.server.bodies.signing_keys import NewRotation, SigningKeyOut, SigningKeysOut, Withdrawal


def add_signing_keys(router: APIRouter, rotation: Rotation, revoking: Revoking) -> None:
    """Add the routes for signing keys. What they give is public."""

    @router.get("/signing-keys")
    async def list_signing_keys() -> SigningKeysOut:
        """Every key that ever signed, or will; and what a new replica is told to believe."""
        register = await rotation.register()
        keys = [SigningKeyOut.of(key) for key in register.keys]
        return SigningKeysOut(keys=keys, keyset=register.pin.version, pin=str(register.pin))

    @router.post("/signing-keys/rotate", status_code=201)
    async def rotate_signing_key(body: NewRotation) -> SigningKeyOut:
        """Make a new key known, which signs in the place of the present one as soon as all who verify can know it."""
        return SigningKeyOut.of(await rotation.rotate(body.purpose, body.wait_s, force=body.force))

    @router.post("/signing-keys/{key_id}/withdraw")
    async def withdraw_signing_key(key_id: str, body: Withdrawal) -> SigningKeyOut:
        """Let nobody believe a key any more, from now on. Another signs at once."""
        if _find(await rotation.register(), key_id).purpose is Purpose.CHECKPOINT:
            return SigningKeyOut.of(await rotation.withdraw_checkpoint_key(key_id, body.reason))
        await revoking.withdraw_key(key_id, body.reason)
        return SigningKeyOut.of(_find(await rotation.register(), key_id))


def _find(register: Register, key_id: str) -> RegisteredKey:
    for key in register.keys:
        if key.id == key_id:
            return key
    raise NotFoundError("there is no such signing key")
