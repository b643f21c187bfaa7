"""The introspection endpoint: whether a mandate stands at this moment, by the ledger itself.

An application may ask about what was issued to it, a key that may read about everything. Whatever does not stand, and
whatever is none of the caller's, has one answer: `{"active": false}`.
Source: RFC 7662 §2; docs/adr/0010.
"""

from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Security
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import JSONResponse

from countermand.authority.presenting import Presenting
from countermand.errors import UnauthenticatedError
from countermand.server.oauth.answers import BASIC, NOT_STORED, REFUSALS, OAuthRoute
from countermand.server.oauth.clients import ApplicationKey, ReadingKey
from countermand.server.oauth.form import read_form, required
from countermand.server.oauth.revoke import TOKEN_FORM
from countermand.tokens.mandate import Mandate


class IntrospectionOut(BaseModel):
    """The names of RFC 7662 §2.2, and every other claim of the mandate. Where `active` is false it stands alone."""

    model_config = ConfigDict(extra="allow")

    active: bool
    scope: str | None = None
    client_id: str | None = None
    token_type: str | None = None
    exp: int | None = None
    iat: int | None = None
    sub: str | None = None
    aud: str | list[str] | None = None
    iss: str | None = None
    jti: str | None = None


class _Route(OAuthRoute):
    challenge: ClassVar[str] = f'{BASIC}, Bearer realm="countermand"'


def introspection_router(presenting: Presenting, applications: ApplicationKey, readers: ReadingKey) -> APIRouter:
    """Return the route that says whether a mandate stands."""
    router = APIRouter(prefix="/oauth2", route_class=_Route)

    @router.post("/introspect", response_model=IntrospectionOut, responses=REFUSALS, openapi_extra=TOKEN_FORM)
    async def introspect(
        request: Request,
        application: Annotated[str | None, Security(applications)],
        is_reader: Annotated[bool, Security(readers)],
    ) -> JSONResponse:
        """Whether a mandate stands, and what it says."""
        if application is None and not is_reader:
            raise UnauthenticatedError(
                "this needs an application's id and one of its keys by HTTP Basic, or a key that may read as Bearer"
            )
        form = await read_form(request)
        mandate = await presenting.find_standing(required(form, "token"), application)
        return JSONResponse(_said_of(mandate), headers=NOT_STORED)

    return router


def _said_of(mandate: Mandate | None) -> dict[str, Any]:
    if mandate is None:
        return {"active": False}
    return {**mandate.claims, "active": True, "token_type": "Bearer"}
