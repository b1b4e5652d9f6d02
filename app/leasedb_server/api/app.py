"""The FastAPI application, put together."""

from fastapi import FastAPI

from leasedb_server.api import documentation, errors, routes
from leasedb_server.api.guard import Guard
from leasedb_server.api.routes import UseCases


def create_app(use: UseCases, *, host: str, token: str | None) -> FastAPI:
    """Return the application.

    Args:
        use: the use cases that the routes call.
        host: the address the daemon listens on.
        token: what callers must send, or None.
    """
    app = FastAPI(title="leasedb", version=use.version, description=documentation.DESCRIPTION, redoc_url=None)
    errors.install(app)
    for router in (routes.lease_routes(use), routes.stock_routes(use), routes.operation_routes(use)):
        app.include_router(router)
    documentation.install(app)
    app.add_middleware(Guard, host=host, token=token)
    return app
