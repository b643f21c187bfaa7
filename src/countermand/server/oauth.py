"""The token endpoint: an application exchanges a mandate for another one (RFC 8693).

The client authenticates by HTTP Basic, and before its form is read. Refusals are those of RFC 6749 §5.2: a code and one
sentence, never a token, never an id that was sent.
Source: RFC 8693 §2; RFC 6749 §2.3.1, §3.2 and §5; RFC 7617 (Basic); RFC 8707 (resource).
"""

import logging
import re
from base64 import b64decode
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_plus

from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from countermand.authority.access import Access
from countermand.authority.minting import Minting
from countermand.authority.model import Role, TokenExchange
from countermand.errors import (
    BusyError,
    ClockError,
    CountermandError,
    DataError,
    ForbiddenError,
    InvalidScopeError,
    InvalidTargetError,
    InvalidValueError,
    NotActiveError,
    NotFoundError,
    TokenError,
    UnauthenticatedError,
    UnconfirmedError,
)
from countermand.server.bodies import ACCESS_TOKEN, ExchangeOut, OAuthErrorOut

EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
MAX_FIELDS: Final = 64

ERRORS: Final[dict[type[CountermandError], tuple[HTTPStatus, str]]] = {
    UnauthenticatedError: (HTTPStatus.UNAUTHORIZED, "invalid_client"),
    ForbiddenError: (HTTPStatus.BAD_REQUEST, "unauthorized_client"),
    InvalidScopeError: (HTTPStatus.BAD_REQUEST, "invalid_scope"),
    InvalidTargetError: (HTTPStatus.BAD_REQUEST, "invalid_target"),
    InvalidValueError: (HTTPStatus.BAD_REQUEST, "invalid_request"),
    NotFoundError: (HTTPStatus.BAD_REQUEST, "invalid_request"),
    NotActiveError: (HTTPStatus.BAD_REQUEST, "invalid_request"),
    TokenError: (HTTPStatus.BAD_REQUEST, "invalid_request"),
    BusyError: (HTTPStatus.SERVICE_UNAVAILABLE, "temporarily_unavailable"),
    DataError: (HTTPStatus.SERVICE_UNAVAILABLE, "temporarily_unavailable"),
    UnconfirmedError: (HTTPStatus.SERVICE_UNAVAILABLE, "temporarily_unavailable"),
    ClockError: (HTTPStatus.SERVICE_UNAVAILABLE, "temporarily_unavailable"),
}
"""What a client hears of an error, or of the class above it."""

_HEADERS: Final = {"cache-control": "no-store", "pragma": "no-cache"}
_MORE_HEADERS: Final = {
    HTTPStatus.UNAUTHORIZED: {"www-authenticate": 'Basic realm="countermand"'},
    HTTPStatus.SERVICE_UNAVAILABLE: {"retry-after": "1"},
}
_TOKEN_TYPES: Final = (ACCESS_TOKEN, "urn:ietf:params:oauth:token-type:jwt")
_LISTS: Final = frozenset({"audience", "resource"})
_REFUSED: Final = {
    "actor_token": "no actor_token is taken: agent_session_id says who will act",
    "actor_token_type": "no actor_token is taken: agent_session_id says who will act",
    "client_secret": "a client authenticates once, in its Authorization header",
    "client_assertion": "a client authenticates once, in its Authorization header",
}
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*")  # RFC 6749 §3.3
_FORM_TYPE: Final = re.compile(
    r'application/x-www-form-urlencoded[ \t]*(;[ \t]*charset=("utf-8"|utf-8)[ \t]*)?', re.IGNORECASE
)

_REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": OAuthErrorOut, "description": HTTPStatus(status).phrase} for status in (400, 401, 408, 413, 503)
}
_TEXT: Final = {"type": "string"}
_TEXTS: Final = {"type": "array", "items": _TEXT}
_FORM: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "required": ["grant_type", "subject_token", "subject_token_type"],
                    "properties": {
                        "grant_type": {"type": "string", "const": EXCHANGE},
                        "subject_token": _TEXT,
                        "subject_token_type": {"type": "string", "enum": list(_TOKEN_TYPES)},
                        "requested_token_type": {"type": "string", "enum": list(_TOKEN_TYPES)},
                        "audience": _TEXTS,
                        "resource": _TEXTS,
                        "scope": _TEXT,
                        "agent_session_id": _TEXT,
                        "delegation_edge_id": _TEXT,
                    },
                },
                "encoding": {name: {"style": "form", "explode": True} for name in sorted(_LISTS)},
            }
        },
    }
}

_log = logging.getLogger(__name__)


def oauth_router(minting: Minting, access: Access) -> APIRouter:
    """Return the route for applications."""
    router = APIRouter(prefix="/oauth2")

    @router.post("/token", response_model=ExchangeOut, responses=_REFUSALS, openapi_extra=_FORM)
    async def exchange(request: Request) -> JSONResponse:
        """Exchange a mandate for one with no more scopes, or another's by delegation. The client uses HTTP Basic."""
        try:
            client_id = await _authenticate(access, request.headers)
            fields = _parse_form(request.headers, await request.body())
            if _required(fields, "grant_type") != EXCHANGE:
                return _error(HTTPStatus.BAD_REQUEST, "unsupported_grant_type", f"the only one is {EXCHANGE}")
            mandate = await minting.exchange(client_id, _wanted(fields))
        except CountermandError as error:
            return _refusal(error)
        except (HTTPException, ClientDisconnect) as error:
            return _unreadable(error)
        return JSONResponse(ExchangeOut.of(mandate).model_dump(), headers=_HEADERS)

    return router


async def _authenticate(access: Access, headers: Headers) -> str:
    """Return the application that calls. Raises: UnauthenticatedError, always with the same sentence."""
    client_id, secret = _basic(headers.getlist("authorization"))
    try:
        caller = await access.authenticate(secret)
    except UnauthenticatedError:
        caller = None
    if caller is None or caller.role is not Role.APPLICATION or caller.application_id != client_id:
        raise UnauthenticatedError("this needs an application's id and one of its keys, by HTTP Basic")
    return client_id


def _basic(headers: list[str]) -> tuple[str, str | None]:
    """Return the id and the secret of the only header, as it has them; no secret where there is none."""
    if len(headers) != 1:
        return "", None
    scheme, _, credentials = headers[0].partition(" ")
    try:
        client_id, colon, secret = b64decode(credentials, validate=True).decode("ascii").partition(":")
    except ValueError:
        return "", None
    if scheme.lower() != "basic" or not colon:
        return "", None
    return unquote_plus(client_id), unquote_plus(secret)


def _parse_form(headers: Headers, body: bytes) -> dict[str, list[str]]:
    """Return the values of every parameter that has one: one without is none, one unknown is ignored (RFC 6749 §3.2).

    Raises: InvalidValueError.
    """
    types = headers.getlist("content-type")
    if len(types) != 1 or _FORM_TYPE.fullmatch(types[0]) is None:
        raise InvalidValueError("the body is to be application/x-www-form-urlencoded, in UTF-8")
    try:
        pairs = parse_qsl(body.decode("ascii"), strict_parsing=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise InvalidValueError(f"the body is no form of 1 to {MAX_FIELDS} parameters") from None
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    if any(len(values) > 1 for name, values in fields.items() if name not in _LISTS):
        raise InvalidValueError("a parameter is given twice")
    return fields


def _wanted(fields: dict[str, list[str]]) -> TokenExchange:
    """Return what the form asks for. Raises: InvalidValueError, InvalidScopeError."""
    for name, sentence in _REFUSED.items():
        if name in fields:
            raise InvalidValueError(sentence)
    _check_token_type("subject_token_type", _required(fields, "subject_token_type"))
    _check_token_type("requested_token_type", _single(fields, "requested_token_type") or ACCESS_TOKEN)
    return TokenExchange(
        subject_token=_required(fields, "subject_token"),
        audience=tuple(dict.fromkeys(fields.get("audience", []) + fields.get("resource", []))),
        scopes=_scopes(_single(fields, "scope")),
        agent_id=_single(fields, "agent_session_id"),
        delegation_id=_single(fields, "delegation_edge_id"),
    )


def _check_token_type(name: str, type_: str) -> None:
    if type_ not in _TOKEN_TYPES:
        raise InvalidValueError(f"the {name} is not one of {', '.join(_TOKEN_TYPES)}")


def _single(fields: dict[str, list[str]], name: str) -> str | None:
    return fields[name][0] if name in fields else None


def _required(fields: dict[str, list[str]], name: str) -> str:
    value = _single(fields, name)
    if value is None:
        raise InvalidValueError(f"there is no {name}")
    return value


def _scopes(scope: str | None) -> tuple[str, ...] | None:
    if scope is None:
        return None
    if _SCOPE.fullmatch(scope) is None:
        raise InvalidScopeError("a scope is words of printable ASCII with one space between them")
    return tuple(dict.fromkeys(scope.split(" ")))


def _refusal(error: CountermandError) -> JSONResponse:
    """Return what the client hears of `error`. Raises: `error` itself, where it is none that a client is told."""
    told = next((ERRORS[class_] for class_ in type(error).__mro__ if class_ in ERRORS), None)
    if told is None:
        raise error
    status, code = told
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        _log.warning("unavailable: %s", error, extra={"code": error.code})
    # which of its ancestors has ended is more than a client needs to know
    sentence = "the token, or what it rests on, has ended" if isinstance(error, NotActiveError) else str(error)
    return _error(status, code, sentence)


def _unreadable(error: HTTPException | ClientDisconnect) -> JSONResponse:
    """Answer for a body that is too long, or does not come."""
    if isinstance(error, ClientDisconnect):
        return _error(HTTPStatus.BAD_REQUEST, "invalid_request", "the body did not come whole")
    response = _error(HTTPStatus(error.status_code), "invalid_request", "the body is too long, or came too slowly")
    response.headers.update(error.headers or {})
    return response


def _error(status: HTTPStatus, code: str, sentence: str) -> JSONResponse:
    body = OAuthErrorOut(error=code, error_description=sentence).model_dump()
    return JSONResponse(body, status, _HEADERS | _MORE_HEADERS.get(status, {}))
