"""The guard of a FastAPI app: a dependency for the routes that need a mandate.

    mandates = protect(app, guard)

    @app.get("/notes")
    async def notes(mandate: Annotated[Mandate, Security(mandates, scopes=["notes:read"])]) -> ...

A route without the dependency is open. One with it is asked about before its function is called, over HTTP and on a web
socket; from then on the guard answers, and ends streams. Source: OpenAPI 3.1, "Security Scheme".
"""

from collections.abc import Iterable
from typing import Self, Unpack

from fastapi import FastAPI
from fastapi.openapi.models import HTTPBearer
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.middleware.base import BaseHTTPMiddleware

from countermand.enforce.asgi import GuardMiddleware, Receive, Scope, Send
from countermand.enforce.asking import asking
from countermand.enforce.decision import NOTHING_REQUIRED, RequirementOptions, Requirements
from countermand.enforce.guard import Guard
from countermand.errors import ConfigurationError
from countermand.tokens.cache import Holder


class Mandates(SecurityBase):
    """The dependency: who acts. `Security(mandates, scopes=[…])` asks for scopes, `requiring` for anything else."""

    def __init__(self, guard: Guard, requirements: Requirements = NOTHING_REQUIRED) -> None:
        self.model = HTTPBearer(bearerFormat=_format(guard), description=_description(guard))
        self.scheme_name = "mandate"
        self._guard = guard
        self._requirements = guard.combine(requirements)
        self._combined: dict[tuple[str, ...], Requirements] = {}  # an app names them in its code: there are few

    async def __call__(self, needed: SecurityScopes) -> Holder:
        """Return who acts. Raises: DeniedError; ConfigurationError, in an app that is not protected by the guard."""
        current = asking(self._guard)
        if current is None:
            raise ConfigurationError("the app is not protected by this guard: protect(app, guard)")
        return await current.ask(self._with(needed.scopes))

    def requiring(self, **requirements: Unpack[RequirementOptions]) -> Self:
        """Return the dependency with more to meet. Raises: ConfigurationError."""
        return type(self)(self._guard, self._requirements & Requirements.of(**requirements))

    def _with(self, scopes: Iterable[str]) -> Requirements:
        wanted = tuple(scopes)
        combined = self._combined.get(wanted)
        if combined is None:
            combined = self._combined[wanted] = self._requirements & Requirements.of(required_scopes=wanted)
        return combined


def _format(guard: Guard) -> str | None:
    return "JWT" if guard.biscuits is None else None


def _description(guard: Guard) -> str:
    mandate = [f"A mandate of {guard.issuer} for {guard.audience}"] if guard.issuer else []
    return " or ".join([*mandate, *(["a Biscuit"] if guard.biscuits is not None else [])]).capitalize() + "."


def protect(app: FastAPI, guard: Guard) -> Mandates:
    """Put `guard` before `app`, and return the dependency that asks it.

    Middleware that is added later stands before the guard. Where that would finish an answer that is cut, so that it
    looks whole, the app does not start: ConfigurationError.
    """
    app.add_middleware(_Guard, guard=guard, on_demand=True)
    return Mandates(guard)


class _Guard(GuardMiddleware):
    _has_looked = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._has_looked:
            _look_before(scope["app"])
            self._has_looked = True
        await super().__call__(scope, receive, send)


def _look_before(app: FastAPI) -> None:
    classes: list[object] = [middleware.cls for middleware in app.user_middleware]  # the outermost first
    before = classes[: classes.index(_Guard)]
    if any(isinstance(one, type) and issubclass(one, BaseHTTPMiddleware) for one in before):
        raise ConfigurationError('call protect(app, guard) after app.middleware("http"), which finishes what is cut')
