"""What clients send: a form, and every parameter once, save those that are lists.

Source: RFC 6749 §3.2 and Appendix B; RFC 6749 §2.3 (one way to authenticate).
"""

import re
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.requests import Request

from countermand.errors import InvalidValueError

FORM_TYPE: Final = "application/x-www-form-urlencoded"
MAX_FIELDS: Final = 64
TEXT: Final = {"type": "string"}

Form: TypeAlias = dict[str, list[str]]
"""The values of every parameter that has one."""

_TYPE: Final = re.compile(rf'{FORM_TYPE}[ \t]*(;[ \t]*charset=("utf-8"|utf-8)[ \t]*)?', re.IGNORECASE)
_CREDENTIALS: Final = ("client_secret", "client_assertion")


async def read_form(request: Request, lists: frozenset[str] = frozenset()) -> Form:
    """Return what the request's body says; `lists` names what may be given more than once.

    Raises: InvalidValueError.
    """
    return _parse(request.headers, await request.body(), lists)


def single(form: Form, name: str) -> str | None:
    """Return the value of a parameter that is no list."""
    return form[name][0] if name in form else None


def required(form: Form, name: str) -> str:
    """Return the value of a parameter that must be there. Raises: InvalidValueError."""
    value = single(form, name)
    if value is None:
        raise InvalidValueError(f"there is no {name}")
    return value


def described(schema: dict[str, Any], lists: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return what OpenAPI says of a route that takes a form of this schema."""
    encoding = {name: {"style": "form", "explode": True} for name in sorted(lists)}
    schema = schema | {"maxProperties": MAX_FIELDS, "additionalProperties": TEXT}  # what is unknown is given once, too
    content = {"schema": schema} | ({"encoding": encoding} if encoding else {})
    return {"requestBody": {"required": True, "content": {FORM_TYPE: content}}}


def _parse(headers: Headers, body: bytes, lists: frozenset[str]) -> Form:
    """A parameter without a value is none, and one unknown is ignored (RFC 6749 §3.2). Raises: InvalidValueError."""
    types = headers.getlist("content-type")
    if len(types) != 1 or _TYPE.fullmatch(types[0]) is None:
        raise InvalidValueError("the body is to be application/x-www-form-urlencoded, in UTF-8")
    try:
        pairs = parse_qsl(body.decode("ascii"), strict_parsing=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise InvalidValueError(f"the body is no form of 1 to {MAX_FIELDS} parameters") from None
    form: Form = {}
    for name, value in pairs:
        form.setdefault(name, []).append(value)
    if any(len(values) > 1 for name, values in form.items() if name not in lists):
        raise InvalidValueError("a parameter is given twice")
    if any(name in form for name in _CREDENTIALS):
        raise InvalidValueError("a client authenticates once, in its Authorization header")
    return form
