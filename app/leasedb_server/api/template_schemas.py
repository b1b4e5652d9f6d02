"""The wire of templates, and of what is done to the database of a lease that goes on."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from leasedb_server.api.schemas import Body, BuildErrorOut, Image, LabelKey, LabelValue, LeaseOut, Major, Ttl, Wait

TemplateName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Fingerprint = Annotated[
    str,
    Field(
        pattern=r"^[\x21-\x7e]{1,200}$",
        description="stands for the content: of migrations, seeds and whatever goes into it",
        examples=["sha256:9f86d081884c7d65"],
    ),
]


class SqlBody(Body):
    """What `PUT /templates/{name}` takes as JSON."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"sql": "CREATE TABLE items (id int);", "parent": "base"}]}
    )

    sql: str = Field(description="statements, or a plain pg_dump file")
    parent: TemplateName = Field(default="base", description="the template that it is built upon")
    fingerprint: Fingerprint | None = Field(default=None, description="made of parent and text when left out")
    postgres: Major | None = Field(default=None, description="major version of the servers it is for")
    image: Image | None = Field(default=None, description="image of the servers it is for")
    wait: Wait = Field(default=60, description="seconds to wait while somebody else builds it")


class BuildBody(Body):
    """What `POST /templates/{name}/build` takes."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"fingerprint": "sha256:9f86d081884c7d65", "parent": "base", "ttl": 600}]}
    )

    fingerprint: Fingerprint
    parent: TemplateName = Field(default="base", description="the template that it is built upon")
    ttl: Ttl | None = Field(default=None, description="seconds the build may take, unless renewed")
    wait: Wait = Field(default=60, description="seconds to wait while somebody else builds it")
    holder: str = Field(default="", max_length=200, description="who builds")
    pid: int | None = Field(default=None, gt=0, lt=2**31, description="a process; the build ends when it dies")
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=32, description="of the build lease")
    postgres: Major | None = Field(default=None, description="major version of the servers it is for")
    image: Image | None = Field(default=None, description="image of the servers it is for")


class SealBody(Body):
    """What `POST /templates/{name}/seal` takes."""

    lease: str = Field(description="the build lease's id")
    force: bool = Field(default=False, description="end the sessions that are in the way")


class AbandonBody(Body):
    """What `POST /templates/{name}/abandon` takes."""

    lease: str = Field(description="the build lease's id")
    error: Annotated[str, Field(min_length=1, max_length=10_000)] | None = Field(
        default=None, description="why; those who wait are told it. Without it, the next of them builds"
    )


class ResetBody(Body):
    """What `POST /leases/{id}/reset` takes; everything may be left out."""

    template: TemplateName | None = Field(
        default=None, description="a branch of the lease's data; the lease's own template when left out"
    )
    wait: Wait = Field(default=60, description="seconds to wait for a database to be ready on the lease's server")


class BranchBody(Body):
    """What `POST /leases/{id}/template` takes; everything may be left out."""

    name: TemplateName | None = Field(
        default=None, description="of the template; one without a name ends with the lease, when nobody uses it"
    )
    fingerprint: Fingerprint | None = Field(default=None, description="stands for the content")
    force: bool = Field(default=False, description="end the sessions that are in the way")


class TemplateOut(BaseModel):
    name: str
    fingerprint: str
    parent: str | None
    state: Literal["building", "sealed", "failed"]
    origin: Literal["builtin", "sql", "build", "branch"]
    postgres: str | None = Field(description="major version that was asked for, null for the default")
    image: str | None = Field(description="image that was asked for, null for the default")
    bytes: int | None = Field(description="of one database; null until it is sealed")
    kept: bool = Field(description="whether its files outlive its server")
    created_at: datetime | None
    used_at: datetime | None
    leases: int = Field(description="active ones on databases of it")
    ready: int
    progress: str
    error: BuildErrorOut | None = Field(description="why its last build failed")
    notes: list[str] = Field(description="what to know of it, such as statements of a dump that were left out")
    until_lease: str | None = Field(description="the lease with which a branch without a name ends")


class TemplatesOut(BaseModel):
    templates: list[TemplateOut]
    bytes: int = Field(description="that all of them take, on servers and as files")
    budget: int = Field(description="that they may take; the least used are evicted beyond")


class ResetOut(LeaseOut):
    ended_sessions: int = Field(description="sessions of the lease that were ended")


class BuiltOut(BaseModel):
    status: Literal["building", "sealed"]
    template: TemplateOut
    lease: LeaseOut | None = Field(description="to build in; null when the template is there")
