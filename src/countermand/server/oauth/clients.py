"""Who calls: an application by HTTP Basic, and for introspection a key that may read, as Bearer.

One credential in one Authorization header, looked at before anything of the body is read. Whatever is wrong with it,
its sender hears the same sentence.
Source: RFC 6749 §2.3.1; RFC 7617 (Basic); RFC 6750 §2.1 (Bearer).
"""

import binascii
from base64 import b64decode
from typing import Final
from urllib.parse import unquote_plus

from fastapi.openapi.models import HTTPBase
from fastapi.security.base import SecurityBase
from starlette.requests import Request

from countermand.authority.access import Access, Caller
from countermand.authority.model import Role
from countermand.errors import UnauthenticatedError

READERS: Final = frozenset({Role.READER, Role.OPERATOR, Role.ADMINISTRATOR, Role.REPLICA})
"""Whose keys may ask about every token."""


class ApplicationKey(SecurityBase):
    """A dependency: the id of the application that calls, None where none does."""

    def __init__(self, access: Access) -> None:
        self.model = HTTPBase(scheme="basic", description="An application's id, and one of its keys.")
        self.scheme_name = "application"
        self._access = access

    async def __call__(self, request: Request) -> str | None:
        """See FastAPI."""
        client_id, secret = _pair(_credentials(request, "basic"))
        caller = await _caller(self._access, secret)
        if caller is None or caller.role is not Role.APPLICATION or caller.application_id != client_id:
            return None
        return client_id


class ReadingKey(SecurityBase):
    """A dependency: whether one of READERS calls."""

    def __init__(self, access: Access) -> None:
        self.model = HTTPBase(scheme="bearer", description="An API key that may ask about every token.")
        self.scheme_name = "reader"
        self._access = access

    async def __call__(self, request: Request) -> bool:
        """See FastAPI."""
        caller = await _caller(self._access, _credentials(request, "bearer"))
        return caller is not None and caller.role in READERS


def required_client(client_id: str | None) -> str:
    """Return the application that calls. Raises: UnauthenticatedError, where none does."""
    if client_id is None:
        raise UnauthenticatedError("this needs an application's id and one of its keys, by HTTP Basic")
    return client_id


async def _caller(access: Access, key: str | None) -> Caller | None:
    try:
        return await access.authenticate(key)
    except UnauthenticatedError:
        return None


def _credentials(request: Request, scheme: str) -> str | None:
    """Return what the only Authorization header says after `scheme`."""
    headers = request.headers.getlist("authorization")
    if len(headers) != 1:
        return None
    named, _, credentials = headers[0].partition(" ")
    return credentials if named.lower() == scheme else None


def _pair(credentials: str | None) -> tuple[str, str | None]:
    """Return the id and the secret that are written there; no secret where there are none."""
    try:
        client_id, colon, secret = b64decode(credentials or "", validate=True).decode("ascii").partition(":")
    except (binascii.Error, ValueError):
        return "", None
    return (unquote_plus(client_id), unquote_plus(secret)) if colon else ("", None)
