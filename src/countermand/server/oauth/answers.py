"""What clients hear when they are refused: a code and one sentence, never a token, never an id that was sent.

Source: RFC 6749 §5.2; RFC 7009 §2.2.1.
"""

import logging
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, ClassVar, Final

from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from countermand.errors import (
    BusyError,
    ClockError,
    CountermandError,
    DataError,
    DisputedError,
    ForbiddenError,
    InvalidScopeError,
    InvalidTargetError,
    InvalidValueError,
    NotActiveError,
    NotFoundError,
    TokenError,
    UnauthenticatedError,
    UnconfirmedError,
    UnsupportedTokenError,
)

ERRORS: Final[dict[type[CountermandError], tuple[HTTPStatus, str]]] = {
    UnauthenticatedError: (HTTPStatus.UNAUTHORIZED, "invalid_client"),
    ForbiddenError: (HTTPStatus.BAD_REQUEST, "unauthorized_client"),
    InvalidScopeError: (HTTPStatus.BAD_REQUEST, "invalid_scope"),
    InvalidTargetError: (HTTPStatus.BAD_REQUEST, "invalid_target"),
    InvalidValueError: (HTTPStatus.BAD_REQUEST, "invalid_request"),
    NotFoundError: (HTTPStatus.BAD_REQUEST, "invalid_request"),
    NotActiveError: (HTTPStatus.BAD_REQUEST, "invalid_request"),
    TokenError: (HTTPStatus.BAD_REQUEST, "invalid_request"),
    UnsupportedTokenError: (HTTPStatus.BAD_REQUEST, "unsupported_token_type"),
    BusyError: (HTTPStatus.SERVICE_UNAVAILABLE, "temporarily_unavailable"),
    DataError: (HTTPStatus.SERVICE_UNAVAILABLE, "temporarily_unavailable"),
    UnconfirmedError: (HTTPStatus.SERVICE_UNAVAILABLE, "temporarily_unavailable"),
    ClockError: (HTTPStatus.SERVICE_UNAVAILABLE, "temporarily_unavailable"),
    DisputedError: (HTTPStatus.SERVICE_UNAVAILABLE, "temporarily_unavailable"),
}
"""What a client hears of an error, or of the class above it."""
NOT_STORED: Final = {"cache-control": "no-store", "pragma": "no-cache"}
"""Headers of every answer here."""
BASIC: Final = 'Basic realm="countermand"'


class OAuthErrorOut(BaseModel):
    """The names of RFC 6749 §5.2."""

    error: str
    error_description: str


REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": OAuthErrorOut, "description": HTTPStatus(status).phrase} for status in (400, 401, 408, 413, 503)
}
"""The refusals as OpenAPI describes them."""

_log = logging.getLogger(__name__)


class OAuthRoute(APIRoute):
    """A route whose refusals are those of OAuth. `challenge` says how a caller may authenticate (RFC 9110 §11.6.1)."""

    challenge: ClassVar[str] = BASIC

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See FastAPI."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except UnauthenticatedError as error:
                response = _refusal(error)
                response.headers["www-authenticate"] = self.challenge
                return response
            except CountermandError as error:
                return _refusal(error)
            except (HTTPException, ClientDisconnect) as error:
                return _unreadable(error)

        return answer


def error_answer(status: HTTPStatus, code: str, sentence: str) -> JSONResponse:
    """Return one refusal."""
    more = {"retry-after": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    body = OAuthErrorOut(error=code, error_description=sentence).model_dump()
    return JSONResponse(body, status, NOT_STORED | more)


def _refusal(error: CountermandError) -> JSONResponse:
    """Return what the client hears of `error`. Raises: `error` itself, where it is none that a client is told."""
    told = next((ERRORS[class_] for class_ in type(error).__mro__ if class_ in ERRORS), None)
    if told is None:
        raise error
    status, code = told
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        _log.warning("unavailable: %s", error, extra={"code": error.code})
    # which of its ancestors has ended is more than a client needs to know
    sentence = "the token, or what it rests on, has ended" if isinstance(error, NotActiveError) else error.told
    return error_answer(status, code, sentence)


def _unreadable(error: HTTPException | ClientDisconnect) -> JSONResponse:
    """Answer for a body that is too long, or does not come."""
    if isinstance(error, ClientDisconnect):
        return error_answer(HTTPStatus.BAD_REQUEST, "invalid_request", "the body did not come whole")
    response = error_answer(
        HTTPStatus(error.status_code), "invalid_request", "the body is too long, or came too slowly"
    )
    response.headers.update(error.headers or {})
    return response
