"""The revocation endpoint: an application ends a mandate of its own, or a Biscuit that it holds, and what came of it.

Any token that does not act is answered like one that was ended: 200, and no word on what it was. Refused is a mandate
that goes on, because it was issued to another application; and a Biscuit where no root keys of any are known.
Source: RFC 7009 §2 and §2.2.1; docs/adr/0010 and 0019.
"""

from typing import Annotated, Final

from fastapi import APIRouter, Security
from starlette.requests import Request
from starlette.responses import Response

from countermand.authority.presenting import Presenting
from countermand.server.oauth.answers import NOT_STORED, REFUSALS, OAuthRoute
from countermand.server.oauth.clients import ApplicationKey, required_client
from countermand.server.oauth.form import TEXT, described, read_form, required

TOKEN_FORM: Final = described(
    {
        "type": "object",
        "required": ["token"],
        "properties": {"token": {"type": "string", "minLength": 1}, "token_type_hint": TEXT},
    }
)
"""The form of RFC 7009 §2.1 and RFC 7662 §2.1. What a token is, it says itself, so a hint changes nothing."""


def revocation_router(presenting: Presenting, applications: ApplicationKey) -> APIRouter:
    """Return the route on which applications end their tokens."""
    router = APIRouter(prefix="/oauth2", route_class=OAuthRoute)

    @router.post("/revoke", response_class=Response, responses=REFUSALS, openapi_extra=TOKEN_FORM)
    async def revoke(request: Request, application: Annotated[str | None, Security(applications)]) -> Response:
        """End a mandate of the application's own, or a Biscuit; its entry is in the ledger when this is answered.

        Without root keys of Biscuits a text without dots is refused: 400 `unsupported_token_type`.
        """
        client_id = required_client(application)
        form = await read_form(request)
        await presenting.end(client_id, required(form, "token"))
        return Response(headers=NOT_STORED)

    return router
