"""Lease a fresh, isolated Postgres database with pgvector from a leasedb daemon.

    with leasedb.Client() as client, client.lease() as lease:
        psycopg.connect(lease.dsn)

Everything is imported on first use: `import leasedb` alone costs no httpx, which every pytest start would pay for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leasedb._async_client import AsyncClient as AsyncClient
    from leasedb._async_lease import AsyncLease as AsyncLease
    from leasedb._async_lease import AsyncLeases as AsyncLeases
    from leasedb._client import Client as Client
    from leasedb._errors import BackendUnavailableError as BackendUnavailableError
    from leasedb._errors import BodyTooLargeError as BodyTooLargeError
    from leasedb._errors import BuildFailedError as BuildFailedError
    from leasedb._errors import ClientClosedError as ClientClosedError
    from leasedb._errors import DaemonStartError as DaemonStartError
    from leasedb._errors import DaemonUnreachableError as DaemonUnreachableError
    from leasedb._errors import ExclusiveUnavailableError as ExclusiveUnavailableError
    from leasedb._errors import FileUnreadableError as FileUnreadableError
    from leasedb._errors import HolderNotFoundError as HolderNotFoundError
    from leasedb._errors import HostNotAllowedError as HostNotAllowedError
    from leasedb._errors import IdempotencyInProgressError as IdempotencyInProgressError
    from leasedb._errors import IdempotencyMismatchError as IdempotencyMismatchError
    from leasedb._errors import IncompatibleDaemonError as IncompatibleDaemonError
    from leasedb._errors import InternalError as InternalError
    from leasedb._errors import InvalidAddressError as InvalidAddressError
    from leasedb._errors import InvalidRequestError as InvalidRequestError
    from leasedb._errors import KeepQuotaError as KeepQuotaError
    from leasedb._errors import LeasedbError as LeasedbError
    from leasedb._errors import LeaseEndedError as LeaseEndedError
    from leasedb._errors import LeaseLostError as LeaseLostError
    from leasedb._errors import LeaseNotFoundError as LeaseNotFoundError
    from leasedb._errors import MalformedJsonError as MalformedJsonError
    from leasedb._errors import MethodNotAllowedError as MethodNotAllowedError
    from leasedb._errors import NotFoundError as NotFoundError
    from leasedb._errors import NotReadyError as NotReadyError
    from leasedb._errors import NotTheBuilderError as NotTheBuilderError
    from leasedb._errors import OriginNotAllowedError as OriginNotAllowedError
    from leasedb._errors import ParentMissingError as ParentMissingError
    from leasedb._errors import PoolExhaustedError as PoolExhaustedError
    from leasedb._errors import ServerNotFoundError as ServerNotFoundError
    from leasedb._errors import ServerRefusedError as ServerRefusedError
    from leasedb._errors import ServerStartError as ServerStartError
    from leasedb._errors import ServerUnreachableError as ServerUnreachableError
    from leasedb._errors import SessionsOpenError as SessionsOpenError
    from leasedb._errors import ShuttingDownError as ShuttingDownError
    from leasedb._errors import SqlFailedError as SqlFailedError
    from leasedb._errors import StoreFailedError as StoreFailedError
    from leasedb._errors import TemplateBuildingError as TemplateBuildingError
    from leasedb._errors import TemplateBuiltinError as TemplateBuiltinError
    from leasedb._errors import TemplateCycleError as TemplateCycleError
    from leasedb._errors import TemplateExistsError as TemplateExistsError
    from leasedb._errors import TemplateInUseError as TemplateInUseError
    from leasedb._errors import TemplateNotFoundError as TemplateNotFoundError
    from leasedb._errors import TemplateSealedError as TemplateSealedError
    from leasedb._errors import TemplatesUnavailableError as TemplatesUnavailableError
    from leasedb._errors import TemplateTooLargeError as TemplateTooLargeError
    from leasedb._errors import UnauthorizedError as UnauthorizedError
    from leasedb._errors import UnexpectedAnswerError as UnexpectedAnswerError
    from leasedb._errors import UnknownTemplateError as UnknownTemplateError
    from leasedb._errors import UnsupportedMediaTypeError as UnsupportedMediaTypeError
    from leasedb._errors import UploadIncompleteError as UploadIncompleteError
    from leasedb._errors import VersionUnavailableError as VersionUnavailableError
    from leasedb._fingerprint import fingerprint as fingerprint
    from leasedb._lease import Lease as Lease
    from leasedb._lease import Leases as Leases
    from leasedb._models import CloningWay as CloningWay
    from leasedb._models import Connections as Connections
    from leasedb._models import DatabaseCounts as DatabaseCounts
    from leasedb._models import Demand as Demand
    from leasedb._models import Health as Health
    from leasedb._models import Holder as Holder
    from leasedb._models import LeaseRecord as LeaseRecord
    from leasedb._models import LeaseSummary as LeaseSummary
    from leasedb._models import Pool as Pool
    from leasedb._models import PoolShare as PoolShare
    from leasedb._models import Readiness as Readiness
    from leasedb._models import Server as Server
    from leasedb._models import Servers as Servers
    from leasedb._models import TemplateDemand as TemplateDemand
    from leasedb._template import BuildFailure as BuildFailure
    from leasedb._template import Checkpoint as Checkpoint
    from leasedb._template import OpenSession as OpenSession
    from leasedb._template import Template as Template
    from leasedb._template import Templates as Templates

__version__ = "0.1.0"

_HOMES = {
    "_client": ("Client",),
    "_async_client": ("AsyncClient",),
    "_lease": ("Lease", "Leases"),
    "_async_lease": ("AsyncLease", "AsyncLeases"),
    "_fingerprint": ("fingerprint",),
    "_template": ("BuildFailure", "Checkpoint", "OpenSession", "Template", "Templates"),
    "_models": (
        "CloningWay",
        "Connections",
        "DatabaseCounts",
        "Demand",
        "Health",
        "Holder",
        "LeaseRecord",
        "LeaseSummary",
        "Pool",
        "PoolShare",
        "Readiness",
        "Server",
        "Servers",
        "TemplateDemand",
    ),
    "_errors": (
        "BackendUnavailableError",
        "BodyTooLargeError",
        "BuildFailedError",
        "ClientClosedError",
        "DaemonStartError",
        "DaemonUnreachableError",
        "ExclusiveUnavailableError",
        "FileUnreadableError",
        "HolderNotFoundError",
        "HostNotAllowedError",
        "IdempotencyInProgressError",
        "IdempotencyMismatchError",
        "IncompatibleDaemonError",
        "InternalError",
        "InvalidAddressError",
        "InvalidRequestError",
        "KeepQuotaError",
        "LeaseEndedError",
        "LeaseLostError",
        "LeaseNotFoundError",
        "LeasedbError",
        "MalformedJsonError",
        "MethodNotAllowedError",
        "NotFoundError",
        "NotReadyError",
        "NotTheBuilderError",
        "OriginNotAllowedError",
        "ParentMissingError",
        "PoolExhaustedError",
        "ServerNotFoundError",
        "ServerRefusedError",
        "ServerStartError",
        "ServerUnreachableError",
        "SessionsOpenError",
        "ShuttingDownError",
        "SqlFailedError",
        "StoreFailedError",
        "TemplateBuildingError",
        "TemplateBuiltinError",
        "TemplateCycleError",
        "TemplateExistsError",
        "TemplateInUseError",
        "TemplateNotFoundError",
        "TemplateSealedError",
        "TemplateTooLargeError",
        "TemplatesUnavailableError",
        "UnauthorizedError",
        "UnexpectedAnswerError",
        "UnknownTemplateError",
        "UnsupportedMediaTypeError",
        "UploadIncompleteError",
        "VersionUnavailableError",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME_OF]  # noqa: PLE0604 - the names are strings, written once, above


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
