"""The settings: one name each, in the environment (LEASEDB_POOL_READY), leasedb.toml (pool_ready) and as a flag."""

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import platformdirs
from pydantic import BeforeValidator, ByteSize, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from leasedb_server.domain.edition import image_with_vector
from leasedb_server.domain.errors import StartupError

PREFIX: Final = "LEASEDB_"
FILE: Final = "leasedb.toml"

_MAJOR: Final = r"^\d{2}$"
_REFERENCE: Final = re.compile(r"[!-~]+")  # an engine looks at the rest

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _apart(value: object) -> object:
    """Return a list as texts: in the environment and as a flag it is written with commas, a file may have numbers."""
    if isinstance(value, str):
        return [word for part in value.split(",") if (word := part.strip())]
    return [str(word) for word in value] if isinstance(value, list) else value


# NoDecode: the environment is read as JSON else
Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_apart)]
ListedIfSet = Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_apart)]


def _default_state_dir() -> Path:
    # root's own home is closed to the user that Postgres then runs as
    return Path("/var/lib/leasedb") if os.geteuid() == 0 else platformdirs.user_state_path("leasedb")


class Settings(BaseSettings):
    """Flags win over the environment, the environment over the file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, toml_file=FILE, extra="forbid", frozen=True, env_ignore_empty=True
    )

    host: str = Field("127.0.0.1", description="address to listen on; other than loopback needs a token")
    port: int = Field(7432, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    token: SecretStr | None = Field(None, description="callers must send it as a bearer token")
    state_dir: Path = Field(
        default_factory=_default_state_dir, description="where the state file, the lock and embedded servers lie"
    )
    backend: Literal["auto", "container", "embedded", "existing"] = Field(
        "auto", description="where servers come from; auto: containers where an engine has the image, else embedded"
    )
    image: str | None = Field(
        None, description="image of the container backend; pgvector/pgvector:pg18 (or the version of postgres) if unset"
    )
    existing_dsn: SecretStr | None = Field(None, description="DSN of a server that exists; makes auto use it")
    pg_bin: Path | None = Field(None, description="bin folder of an installed Postgres with pgvector, for embedded")
    postgres: str = Field(
        "18", pattern=_MAJOR, description="major version of Postgres, for embedded and for the default image"
    )
    versions: ListedIfSet = Field(
        None,
        description="further major versions that callers may ask for, as in 16,17; if unset those that embedded has",
    )
    images: Listed = Field(
        default_factory=tuple,
        description="further images that callers may ask for, separated by commas, for the container backend",
    )
    pool_servers: int = Field(1, ge=1, le=64, description="servers to run")
    pool_ready: int = Field(10, ge=0, le=10_000, description="databases to keep ready of a template in use, at least")
    pool_ready_max: int = Field(
        50, ge=0, le=10_000, description="databases to keep ready of a template at most (pool_ready if that is more)"
    )
    pool_max: int = Field(200, ge=1, le=10_000, description="most databases in existence at once, over all servers")
    pool_exclusive: int = Field(0, ge=0, le=16, description="servers to keep ready for exclusive leases")
    # the defaults stand here because they are texts, which the help and the README then show
    template_budget: Annotated[
        ByteSize,
        Field(
            default="4GB", ge=0, description="disk and memory that all templates may take together, kept files included"
        ),
    ]
    template_upload_max: Annotated[
        ByteSize, Field(default="1GB", ge=1, description="the longest SQL text that a template is made of")
    ]
    memory_limit: ByteSize | None = Field(
        None,
        ge=0,
        description="memory for the files of one server, as in 2GB; 0: on disk; a quarter of what is free if unset",
    )
    idle_stop: Seconds | None = Field(
        None, description="seconds without a lease after which servers stop; the next lease starts one; never if unset"
    )
    idle_exit: Seconds | None = Field(
        None, description="seconds without anything to do after which the daemon stops by itself; never if unset"
    )
    default_ttl: Seconds = Field(300, description="seconds a lease lives when the caller names no ttl")
    max_ttl: Seconds = Field(86_400, description="seconds after which a lease ends, however often renewed")
    keep_max: int = Field(
        10, ge=0, le=1000, description="leases that may be kept to be looked at, at once; half of pool_max at most"
    )
    start_timeout: Seconds = Field(60, description="seconds a server may take until it answers a query")
    orphan_timeout: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(
        600, description="seconds without a daemon after which its servers stop by themselves"
    )
    integresql: bool = Field(False, description="whether IntegreSQL's API is served too, below /api/v1; loopback only")
    log_format: Literal["text", "json"] = Field("text", description="how log lines look")

    @field_validator("state_dir", "pg_bin")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path else None

    @field_validator("token")
    @classmethod
    def _sendable(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not all("!" <= character <= "~" for character in token.get_secret_value()):
            raise ValueError("a token goes into an HTTP header: visible ASCII characters only")
        return token

    @field_validator("versions")
    @classmethod
    def _majors(cls, versions: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for version in versions or ():
            if not re.fullmatch(_MAJOR, version):
                raise ValueError(f"{version!r} is no major version of Postgres, such as 17")
        return None if versions is None else tuple(dict.fromkeys(versions))

    @field_validator("images")
    @classmethod
    def _references(cls, images: tuple[str, ...]) -> tuple[str, ...]:
        for image in images:
            if not _REFERENCE.fullmatch(image):
                raise ValueError(f"{image!r} is no reference of an image, such as pgvector/pgvector:pg17")
            if image.isdecimal():
                raise ValueError(f"{image!r} looks like a version: write it as library/{image}")
        return tuple(dict.fromkeys(images))

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        if not self.loopback and not (self.token and self.token.get_secret_value()):
            raise ValueError(
                f"host {self.host} can be reached from other machines, so callers need a token: set {PREFIX}TOKEN, "
                "or listen on 127.0.0.1"
            )
        if self.backend == "existing" and self.existing_dsn is None:
            raise ValueError(f"backend existing needs {PREFIX}EXISTING_DSN, as in postgresql://user:password@host/db")
        if self.integresql and not self.loopback:
            raise ValueError(
                f"IntegreSQL's API knows no tokens, so it is served on loopback only, and host is {self.host}: listen "
                f"on 127.0.0.1, or leave {PREFIX}INTEGRESQL out"
            )
        if self.integresql and self.token and self.token.get_secret_value():
            raise ValueError(f"IntegreSQL's clients cannot send a token: leave {PREFIX}TOKEN or {PREFIX}INTEGRESQL out")
        if self.default_ttl > self.max_ttl:
            raise ValueError(f"default_ttl ({self.default_ttl:g}) is larger than max_ttl ({self.max_ttl:g})")
        return self

    @property
    def loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def used_image(self) -> str:
        return self.image or image_with_vector(self.postgres)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load(flags: Mapping[str, Any]) -> Settings:
    """Return the settings, with ``flags`` (by field name) winning.

    Raises:
        StartupError: naming every setting that is wrong.
    """
    try:
        return Settings(**flags)
    except ValidationError as error:
        # Without the values: a setting may be a secret.
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_input=False, include_url=False)
        )
        raise StartupError(
            f"A setting is wrong: {faults}.", hint="'leasedb serve --help' and the README list the settings."
        ) from None
    except (ValueError, OSError) as error:
        raise StartupError(f"{FILE} cannot be read: {error}.", hint="Mend the file, or move it away.") from error
