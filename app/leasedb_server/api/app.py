"""The FastAPI application, put together."""

from fastapi import FastAPI

from leasedb_server.api import documentation, errors, keeping_routes, routes, template_routes
from leasedb_server.api import integresql as integresql_api
from leasedb_server.api.guard import Guard
from leasedb_server.api.routes import UseCases
from leasedb_server.api.underway import UnderWay
from leasedb_server.usecases.idling import Idling
from leasedb_server.usecases.integresql import Integresql


def create_app(
    use: UseCases, *, host: str, token: str | None, upload_max: int, integresql: Integresql | None, idling: Idling
) -> FastAPI:
    """Return the application.

    Args:
        use: the use cases that the routes call.
        host: the address the daemon listens on.
        token: what callers must send, or None.
        upload_max: bytes that the text of a template may have.
        integresql: has IntegreSQL's API served too.
        idling: is told of requests under way.
    """
    app = FastAPI(title="leasedb", version=use.version, description=documentation.DESCRIPTION, redoc_url=None)
    errors.install(app)
    for router in (
        routes.lease_routes(use),
        keeping_routes.keeping_routes(use),
        template_routes.act_routes(use),
        template_routes.template_routes(use),
        routes.stock_routes(use),
        routes.operation_routes(use),
    ):
        app.include_router(router)
    if integresql is not None:
        app.include_router(integresql_api.routes(integresql, use.inventory))
    documentation.install(app)
    forms = frozenset({integresql_api.TEMPLATES} if integresql else ())
    app.add_middleware(Guard, host=host, token=token, upload_max=upload_max, forms=forms)
    if idling.after is not None:
        app.add_middleware(UnderWay, idling=idling)
    return app
