"""Every refusal as a problem document: a status, a code, one sentence; never a traceback, never what was sent.

Source: RFC 9457.
"""

import logging
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import compile_path

from countermand.authority.actor import current_actor
from countermand.errors import (
    AlreadyDoneError,
    BusyError,
    ClockError,
    CountermandError,
    DataError,
    DisputedError,
    ExceededError,
    ForbiddenError,
    InProgressError,
    InvalidScopeError,
    InvalidTargetError,
    InvalidValueError,
    KeyReusedError,
    LastKeyError,
    MalformedError,
    NotActiveError,
    NotFoundError,
    TokenError,
    UnauthenticatedError,
    UnconfirmedError,
    UnreachableError,
)
from countermand.server.trace import HEADER

STATUS: Final[dict[type[CountermandError], HTTPStatus]] = {
    InvalidValueError: HTTPStatus.UNPROCESSABLE_ENTITY,
    MalformedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    TokenError: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnauthenticatedError: HTTPStatus.UNAUTHORIZED,
    ForbiddenError: HTTPStatus.FORBIDDEN,
    ExceededError: HTTPStatus.FORBIDDEN,
    InvalidScopeError: HTTPStatus.FORBIDDEN,
    InvalidTargetError: HTTPStatus.FORBIDDEN,
    NotFoundError: HTTPStatus.NOT_FOUND,
    NotActiveError: HTTPStatus.CONFLICT,
    InProgressError: HTTPStatus.CONFLICT,
    AlreadyDoneError: HTTPStatus.CONFLICT,
    KeyReusedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    LastKeyError: HTTPStatus.CONFLICT,
    BusyError: HTTPStatus.SERVICE_UNAVAILABLE,
    DataError: HTTPStatus.SERVICE_UNAVAILABLE,
    UnconfirmedError: HTTPStatus.SERVICE_UNAVAILABLE,
    DisputedError: HTTPStatus.SERVICE_UNAVAILABLE,
    ClockError: HTTPStatus.SERVICE_UNAVAILABLE,
    UnreachableError: HTTPStatus.SERVICE_UNAVAILABLE,
}

_OF_HTTP: Final[dict[int, tuple[str, str]]] = {
    HTTPStatus.BAD_REQUEST: ("bad_request", "the request cannot be read"),
    HTTPStatus.NOT_FOUND: ("not_found", "there is nothing at this path"),
    HTTPStatus.METHOD_NOT_ALLOWED: ("method_not_allowed", "this path has no such method"),
    HTTPStatus.REQUEST_TIMEOUT: ("body_too_slow", "the body did not come in time"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("body_too_large", "the body is too long"),
}

TYPE: Final = "urn:countermand:problem:"
STATUSES: Final = sorted({*STATUS.values(), *_OF_HTTP, HTTPStatus.INTERNAL_SERVER_ERROR})
"""Every status that a refusal may have."""

_log = logging.getLogger(__name__)


class ProblemOut(BaseModel):
    """The names of RFC 9457 §3.1; `code`, which is the last part of `type`; `request_id` is in the headers, too."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str


def problem(status: int, code: str, detail: str) -> JSONResponse:
    """Return the problem document for one refusal."""
    headers = {"cache-control": "no-store"}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    elif status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["retry-after"] = "1"
    body: dict[str, object] = {
        "type": f"{TYPE}{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    request_id = current_actor().request_id
    if request_id:
        headers[HEADER] = request_id  # what answers a failure of ours stands before all that would add it
        body["request_id"] = request_id
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def refusal(error: CountermandError) -> JSONResponse:
    """Return the problem document for `error`. Raises: `error` itself, where it is none that a caller is told."""
    status = next((STATUS[class_] for class_ in type(error).__mro__ if class_ in STATUS), None)
    if status is None:
        raise error
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        _log.warning("unavailable: %s", error, extra={"code": error.code})
    return problem(status, error.code, error.told)


def install(app: FastAPI) -> None:
    """Answer every error that leaves a route with a problem document."""
    app.add_exception_handler(CountermandError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, CountermandError):
        raise error
    return refusal(error)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    wrong = error.errors() if isinstance(error, RequestValidationError) else []
    detail = "; ".join(f"{_where(item)}: {item['msg']}" for item in wrong[:8])
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_value", detail)


def _where(item: dict[str, Any]) -> str:
    """Name the place of one error; an unknown field's name is the caller's own, and is not repeated."""
    loc = item["loc"][:-1] if item["type"] == "extra_forbidden" else item["loc"]
    return ".".join(map(str, loc))


async def _http(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    response = http_refusal(error)
    methods = _methods(request) if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else set()
    if methods:
        response.headers["allow"] = ", ".join(sorted(methods))  # RFC 9110 §15.5.6
    return response


def _methods(request: Request) -> set[str]:
    """Return the methods that the path has, by all its routes: Starlette knows those of the first."""
    paths, asked = request.app.openapi()["paths"], request.url.path
    found = [asked] if asked in paths else [path for path in paths if compile_path(path)[0].match(asked)]
    return {method.upper() for path in found for method in paths[path]}


def http_refusal(error: HTTPException) -> JSONResponse:
    """Return the problem document for what HTTP itself refuses."""
    code, detail = _OF_HTTP.get(error.status_code, ("refused", "this request is refused"))
    response = problem(error.status_code, code, detail)
    response.headers.update(error.headers or {})
    return response


async def _unexpected(_request: Request, _error: Exception) -> JSONResponse:
    """Starlette logs the traceback after this; the client hears nothing of it."""
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "the authority failed; its log says why")
