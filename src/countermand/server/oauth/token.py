"""The token endpoint: an application exchanges a mandate for another one, or asks for one for itself.

Source: RFC 6749 §3.2, §4.4 and §5.1 (client credentials); RFC 8693 §2 (exchange); RFC 8707 (resource).
"""

import re
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Security
from starlette.requests import Request
from starlette.responses import JSONResponse

from countermand.authority.minting import Minting
from countermand.authority.model import TokenExchange
from countermand.errors import InvalidScopeError, InvalidValueError
from countermand.server.bodies.mandates import ACCESS_TOKEN, ExchangeOut, MandateOut
from countermand.server.oauth.answers import NOT_STORED, REFUSALS, OAuthRoute, error_answer
from countermand.server.oauth.clients import ApplicationKey, required_client
from countermand.server.oauth.form import TEXT, Form, described, read_form, required, single

CLIENT_CREDENTIALS: Final = "client_credentials"
EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
GRANT_TYPES: Final = (CLIENT_CREDENTIALS, EXCHANGE)

_TOKEN_TYPES: Final = (ACCESS_TOKEN, "urn:ietf:params:oauth:token-type:jwt")
_LISTS: Final = frozenset({"audience", "resource"})
_ACTOR: Final = ("actor_token", "actor_token_type")
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*")  # RFC 6749 §3.3

_TYPES: Final = {"type": "string", "enum": list(_TOKEN_TYPES)}
_TEXTS: Final = {"type": "array", "items": TEXT, "description": "Whom the mandate is for: one, or more."}
_EXCHANGED: Final[dict[str, Any]] = {
    "subject_token": TEXT,
    "subject_token_type": _TYPES,
    "requested_token_type": _TYPES,
    "agent_session_id": TEXT,
    "delegation_edge_id": TEXT,
}
_FORM: Final = described(
    {
        "type": "object",
        "description": f"{', '.join(_EXCHANGED)} are for an exchange, which needs the first two.",
        "required": ["grant_type"],
        "properties": {
            "grant_type": {"type": "string", "enum": list(GRANT_TYPES)},
            "audience": _TEXTS,
            "resource": _TEXTS,
            "scope": TEXT,
        }
        | _EXCHANGED,
    },
    _LISTS,
)


def token_router(minting: Minting, applications: ApplicationKey) -> APIRouter:
    """Return the route on which applications get mandates."""
    router = APIRouter(prefix="/oauth2", route_class=OAuthRoute)

    @router.post("/token", response_model=ExchangeOut | MandateOut, responses=REFUSALS, openapi_extra=_FORM)
    async def token(request: Request, application: Annotated[str | None, Security(applications)]) -> JSONResponse:
        """Exchange a mandate for one with no more scopes, or another's by delegation; or get an own one."""
        client_id = required_client(application)
        form = await read_form(request, _LISTS)
        grant_type = required(form, "grant_type")
        if grant_type == EXCHANGE:
            exchanged = await minting.exchange(client_id, _wanted(form))
            return _given(ExchangeOut.of(exchanged))
        if grant_type == CLIENT_CREDENTIALS:
            _check_own(form)
            own = await minting.issue_own(client_id, _audience(form), _scopes(single(form, "scope")))
            return _given(MandateOut.of(own))
        sentence = f"the grant types are {' and '.join(GRANT_TYPES)}"
        return error_answer(HTTPStatus.BAD_REQUEST, "unsupported_grant_type", sentence)

    return router


def _given(mandate: MandateOut) -> JSONResponse:
    return JSONResponse(mandate.model_dump(), headers=NOT_STORED)


def _check_own(form: Form) -> None:
    """Refuse what would say less than it seems to: such a mandate stands for nobody but the application."""
    if any(name in form for name in (*_EXCHANGED, *_ACTOR)):
        raise InvalidValueError(f"only an exchange takes {', '.join(_EXCHANGED)}")


def _wanted(form: Form) -> TokenExchange:
    """Return what the form asks for. Raises: InvalidValueError, InvalidScopeError."""
    if any(name in form for name in _ACTOR):
        raise InvalidValueError("no actor_token is taken: agent_session_id says who will act")
    _check_token_type("subject_token_type", required(form, "subject_token_type"))
    _check_token_type("requested_token_type", single(form, "requested_token_type") or ACCESS_TOKEN)
    return TokenExchange(
        subject_token=required(form, "subject_token"),
        audience=_audience(form),
        scopes=_scopes(single(form, "scope")),
        agent_id=single(form, "agent_session_id"),
        delegation_id=single(form, "delegation_edge_id"),
    )


def _audience(form: Form) -> tuple[str, ...]:
    return tuple(dict.fromkeys(form.get("audience", []) + form.get("resource", [])))


def _check_token_type(name: str, type_: str) -> None:
    if type_ not in _TOKEN_TYPES:
        raise InvalidValueError(f"the {name} is not one of {', '.join(_TOKEN_TYPES)}")


def _scopes(scope: str | None) -> tuple[str, ...] | None:
    if scope is None:
        return None
    if _SCOPE.fullmatch(scope) is None:
        raise InvalidScopeError("a scope is words of printable ASCII with one space between them")
    return tuple(dict.fromkeys(scope.split(" ")))
