"""What /openapi.json says beyond the routes: who may call, what a refusal looks like, and how to repeat a request.

Source: OpenAPI 3.1; RFC 9457.
"""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from countermand.server.caller import PROTECTED
from countermand.server.problem import STATUSES, ProblemOut

_PROBLEM: Final = {"$ref": "#/components/responses/Problem"}
_IDEMPOTENCY_KEY: Final = {"$ref": "#/components/parameters/IdempotencyKey"}
_COMPONENTS: Final[dict[str, dict[str, Any]]] = {
    "schemas": {"Problem": ProblemOut.model_json_schema()},
    "responses": {
        "Problem": {
            "description": "Why the request is refused (RFC 9457).",
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    },
    "parameters": {
        "IdempotencyKey": {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Any word of your own: a request that comes again with it is not done again.",
            "schema": {"type": "string", "pattern": r"^[!#-\[\]-~]{1,255}$"},
        }
    },
    "securitySchemes": {
        "apiKey": {"type": "http", "scheme": "bearer", "description": "An API key, as a Bearer token (RFC 6750)."},
        "client": {"type": "http", "scheme": "basic", "description": "An application's id and one of its keys."},
    },
}
_OF_FASTAPI: Final = ("HTTPValidationError", "ValidationError")


def operation_id(route: APIRoute) -> str:
    """Return the name by which client generators call a route."""
    return route.name


def describe(app: FastAPI) -> None:
    """Let `app` describe itself whole."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _whole(get_openapi(title=app.title, version=app.version, routes=app.routes))
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation has it


def _whole(schema: dict[str, Any]) -> dict[str, Any]:
    components = schema.setdefault("components", {})
    for name, ours in _COMPONENTS.items():
        components[name] = components.get(name, {}) | ours
    for name in _OF_FASTAPI:
        components["schemas"].pop(name, None)
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            _complete(path, method, operation)
    return schema


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    area, _, rest = path.removeprefix("/").partition("/")
    operation.setdefault("tags", [rest.partition("/")[0] if f"/{area}" == PROTECTED else area.lstrip(".")])
    if area == "oauth2":
        operation.setdefault("security", [{"client": []}])
    if f"/{area}" != PROTECTED:
        return
    operation["security"] = [{"apiKey": []}]
    operation["responses"] |= {str(int(status)): _PROBLEM for status in STATUSES}
    if method == "post":
        operation["parameters"] = [*operation.get("parameters", []), _IDEMPOTENCY_KEY]
