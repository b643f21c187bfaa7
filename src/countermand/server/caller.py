"""Who calls, and what they may do: a Bearer API key in exactly one Authorization header (RFC 6750 §2.1).

Nothing of a request's body is read before its caller is known.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from countermand.authority.access import Access, Caller
from countermand.authority.model import Role
from countermand.errors import CountermandError, UnauthenticatedError
from countermand.server.problem import refusal

PROTECTED: Final = "/v1"
"""Every path at and below this one needs a key, whether there is anything at it or not."""
_READS: Final = frozenset({"GET", "HEAD"})


class Authentication:
    """Finds the Caller of every protected path and keeps it in the request's state; refuses who has no valid key."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI 3."""
        if scope["type"] == "http" and f"{scope['path']}/".startswith(f"{PROTECTED}/"):
            try:
                caller = await self._access.authenticate(_bearer(Headers(scope=scope).getlist("authorization")))
            except CountermandError as error:
                await refusal(error)(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)


def requires(role: Role) -> Callable[[Request], Awaitable[Caller]]:
    """Return a dependency that lets only callers through who may do what `role` may.

    Raises, when it is asked: UnauthenticatedError, ForbiddenError.
    """

    async def caller(request: Request) -> Caller:
        return _found(request, role)

    return caller


def requires_one_of(*roles: Role) -> Callable[[Request], Awaitable[Caller]]:
    """Return the dependency that lets callers through who may do what any of `roles` may. Raises: as `requires`."""

    async def caller(request: Request) -> Caller:
        found = _known(request)
        found.require_one_of(roles)
        return found

    return caller


def requires_to_change(role: Role) -> Callable[[Request], Awaitable[Caller]]:
    """Return the dependency that lets readers read, and only callers change who may do what `role` may.

    Raises: as what `requires` returns.
    """

    async def caller(request: Request) -> Caller:
        return _found(request, Role.READER if request.method in _READS else role)

    return caller


def _found(request: Request, role: Role) -> Caller:
    found = _known(request)
    found.require(role)
    return found


def _known(request: Request) -> Caller:
    found = getattr(request.state, "caller", None)
    if not isinstance(found, Caller):
        raise UnauthenticatedError("this needs a valid API key")
    return found


def _bearer(headers: list[str]) -> str | None:
    if len(headers) != 1:
        return None
    scheme, _, key = headers[0].partition(" ")
    return key if scheme.lower() == "bearer" else None
