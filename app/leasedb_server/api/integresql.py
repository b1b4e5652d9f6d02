"""IntegreSQL's REST API: its paths, its bodies and its statuses, for clients that know nothing of leasedb.

Paths and statuses are those of internal/api/templates in its v1.1.0. Bodies of errors are of the form that its
framework gives them; clients look at the status.
"""

import json
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from leasedb_server.api.errors import STATUS, MalformedJsonError, OriginNotAllowedError, problem
from leasedb_server.api.guard import FORM
from leasedb_server.api.rendering import lease_whole
from leasedb_server.api.routes import CLIENT_CLOSED_REQUEST, hung_up
from leasedb_server.domain import errors
from leasedb_server.domain.errors import LeasedbError
from leasedb_server.domain.inventory import Inventory
from leasedb_server.domain.lease import Lease
from leasedb_server.usecases.asking import CallerGoneError
from leasedb_server.usecases.integresql import Integresql

PREFIX: Final = "/api/v1"
TEMPLATES: Final = f"{PREFIX}/templates"
LOCKED: Final = 423
BAD_REQUEST: Final = 400
_NUMBER: Final = re.compile(r"[0-9]{1,18}")  # more of them is no number that was ever given out

# where IntegreSQL answers otherwise than we do
OTHERWISE: Final[Mapping[type[LeasedbError], int]] = {
    errors.TemplateSealedError: LOCKED,
    errors.TemplateInUseError: LOCKED,
    errors.LeaseEndedError: 404,  # of a builder who comes too late: his template is unknown
    errors.LeaseLostError: 404,
    errors.BuildFailedError: 410,
    errors.UnknownTemplateError: 410,  # it was there when the caller began to wait
}


class _Answers(APIRoute):
    """Errors as IntegreSQL has them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                # A page can have a GET sent, with which a database is leased here, without its origin being told.
                if request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
                    raise OriginNotAllowedError("The request comes from a page of another site.")
                return await handler(request)
            except CallerGoneError:
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            except LeasedbError as error:
                return _refusal(error, OTHERWISE.get(type(error), STATUS.get(type(error), 500)))

        return answer


def routes(integresql: Integresql, inventory: Inventory) -> APIRouter:
    router = APIRouter(prefix=PREFIX, include_in_schema=False, route_class=_Answers)

    @router.post("/templates")
    async def initialize(request: Request) -> Response:
        """Begin a template: 200 to its builder, 423 to all others."""
        hashed = await _hash_in(request)
        try:
            lease = await integresql.initialize(hashed, hung_up(request))
        except errors.TemplateBuildingError as error:
            return _refusal(error, LOCKED)
        return JSONResponse(_database(hashed, lease, inventory))

    @router.put("/templates/{hashed}")
    async def finalize(hashed: str) -> Response:
        """Say that the template is complete."""
        await integresql.finalize(hashed)
        return Response(status_code=204)

    @router.delete("/templates/{hashed}")
    async def discard(hashed: str) -> Response:
        """Take the template away; 423 while a test is connected to a database of it."""
        await integresql.discard(hashed)
        return Response(status_code=204)

    @router.get("/templates/{hashed}/tests")
    async def test(request: Request, hashed: str) -> Response:
        """Return a fresh database, once the template is finalized."""
        number, lease = await integresql.test(hashed, hung_up(request))
        return JSONResponse({"id": number, **_database(hashed, lease, inventory)})

    @router.post("/templates/{hashed}/tests/{number}/unlock")
    @router.post("/templates/{hashed}/tests/{number}/recreate")
    @router.delete("/templates/{hashed}/tests/{number}")
    async def give_back(hashed: str, number: str) -> Response:
        """Give a database back, used or not: the next test gets another one either way."""
        if not _NUMBER.fullmatch(number):
            return _message("invalid test database ID", BAD_REQUEST)
        await integresql.give_back(hashed, int(number))
        return Response(status_code=204)

    @router.delete("/admin/templates")
    async def discard_all() -> Response:
        """Take all templates away; 423 when some are in use, and stay."""
        await integresql.discard_all()
        return Response(status_code=204)

    return router


async def _hash_in(request: Request) -> str:
    raw = await request.body()
    try:
        if request.headers.get("content-type", "").startswith(FORM):  # so Python's client sends it
            found: Any = parse_qs(raw.decode()).get("hash", [""])[0]
        else:
            body = json.loads(raw or b"{}")
            found = body.get("hash") if isinstance(body, dict) else None
        if isinstance(found, str) and found:
            found.encode()
            return found
    except (ValueError, RecursionError):
        raise MalformedJsonError("The body could not be read as JSON.") from None
    raise MalformedJsonError("hash is required")


def _database(hashed: str, lease: Lease, inventory: Inventory) -> dict[str, Any]:
    """Return IntegreSQL's TemplateDatabase; with a number, it is its TestDatabase."""
    known = lease_whole(lease, inventory)
    config = {
        "host": known["host"],
        "port": known["port"],
        "username": known["user"],
        "password": known["password"],
        "database": known["database"],
    }
    return {"database": {"templateHash": hashed, "config": config}}


def _refusal(error: LeasedbError, status: int) -> Response:
    waiting = problem(error).headers.get("retry-after")
    headers = {"Retry-After": waiting} if waiting and status == STATUS.get(type(error)) else {}
    return JSONResponse({"message": error.detail, "code": error.code}, status, headers)


def _message(text: str, status: int) -> Response:
    return JSONResponse({"message": text}, status)
