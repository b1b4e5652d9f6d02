"""What /docs and /openapi.json say beyond the routes' own signatures: every error, with an example of each."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from leasedb_server.api import errors as api
from leasedb_server.api.errors import PROBLEM, STATUS
from leasedb_server.api.schemas import LEASE_EXAMPLE, HoldLine, LeaseBody, LeaseOut, Problem
from leasedb_server.api.template_schemas import BranchBody, BuildBody, ResetBody, SqlBody
from leasedb_server.domain.errors import InvalidRequestError, LeasedbError, PoolExhaustedError

DESCRIPTION: Final = """Leases fresh, isolated Postgres databases with pgvector loaded.

Every error is `application/problem+json` with a stable `code` and a `hint`.
Times are RFC 3339 in UTC, durations are seconds.
"""

# what any call can meet, whatever it does
EVERYWHERE: Final[tuple[type[LeasedbError], ...]] = (
    api.UnauthorizedError,
    api.HostNotAllowedError,
    api.OriginNotAllowedError,
    api.MethodNotAllowedError,
    InvalidRequestError,
    LeasedbError,
)
WITH_BODY: Final = (api.MalformedJsonError, api.BodyTooLargeError, api.UnsupportedMediaTypeError)

Responses = dict[int | str, dict[str, Any]]


def problems(*kinds: type[LeasedbError]) -> Responses:
    """Return what a route's ``responses`` say of these errors: per status the codes, with an example of each."""
    by_status: dict[int, list[type[LeasedbError]]] = {}
    all_kinds: list[type[LeasedbError]] = [*EVERYWHERE, *kinds]
    for kind in all_kinds:
        by_status.setdefault(STATUS[kind], []).append(kind)
    return {status: _answer(status, same) for status, same in sorted(by_status.items())}


def _answer(status: int, kinds: list[type[LeasedbError]]) -> dict[str, Any]:
    examples = {kind.code: {"summary": kind.title, "value": _example(status, kind)} for kind in kinds}
    answer: dict[str, Any] = {
        "description": "; ".join(f"`{kind.code}`: {kind.title}" for kind in kinds),
        "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples}},
    }
    if status in {409, 503}:
        answer["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    return answer


def _example(status: int, kind: type[LeasedbError]) -> Mapping[str, Any]:
    example: dict[str, Any] = {
        "type": f"urn:leasedb:error:{kind.code}",
        "title": kind.title,
        "status": status,
        "detail": f"{kind.title}.",
        "code": kind.code,
        "hint": kind.default_hint,
    }
    if kind is PoolExhaustedError:
        example["position"] = 3
    if kind is InvalidRequestError:
        example["errors"] = [{"field": "ttl", "message": "Input should be greater than 0"}]
    return example


def install(app: FastAPI) -> None:
    """Have the app answer with a document that has the schemas that no signature names, and the token."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            components = made.setdefault("components", {})
            reference = "#/components/schemas/{model}"
            schemas = components.setdefault("schemas", {})
            for model in (Problem, HoldLine, LeaseBody, SqlBody, BuildBody, ResetBody, BranchBody):
                schema = model.model_json_schema(ref_template=reference)
                schemas.update({**schema.pop("$defs", {}), model.__name__: schema})
            schemas[LeaseOut.__name__]["examples"] = [LEASE_EXAMPLE]  # with its nulls, which FastAPI takes out
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            made["security"] = [{}, {"token": []}]  # asked for where LEASEDB_TOKEN is set
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documented way to extend it
