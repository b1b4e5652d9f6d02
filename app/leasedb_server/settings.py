"""The settings: one name each, in the environment (LEASEDB_POOL_READY), leasedb.toml (pool_ready) and as a flag."""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import platformdirs
from pydantic import ByteSize, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from leasedb_server.domain.errors import StartupError

PREFIX: Final = "LEASEDB_"
FILE: Final = "leasedb.toml"

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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
        "auto", description="where servers come from; auto: containers when an engine answers, else embedded"
    )
    image: str | None = Field(
        None, description="image of the container backend; pgvector/pgvector:pg18 (or the version of postgres) if unset"
    )
    existing_dsn: SecretStr | None = Field(None, description="DSN of a server that exists; makes auto use it")
    pg_bin: Path | None = Field(None, description="bin folder of an installed Postgres with pgvector, for embedded")
    postgres: str = Field(
        "18", pattern=r"^\d{2}$", description="major version of Postgres, for embedded and for the default image"
    )
    pool_servers: int = Field(1, ge=1, le=64, description="servers to run")
    pool_ready: int = Field(10, ge=0, le=10_000, description="databases to keep ready of a template in use, at least")
    pool_ready_max: int = Field(
        50, ge=0, le=10_000, description="databases to keep ready of a template at most (pool_ready if that is more)"
    )
    pool_max: int = Field(200, ge=1, le=10_000, description="most databases in existence at once, over all servers")
    memory_limit: ByteSize | None = Field(
        None,
        ge=0,
        description="memory for the files of one server, as in 2GB; 0: on disk; a quarter of what is free if unset",
    )
    idle_stop: Seconds | None = Field(
        None, description="seconds without a lease after which servers stop; the next lease starts one; never if unset"
    )
    default_ttl: Seconds = Field(300, description="seconds a lease lives when the caller names no ttl")
    max_ttl: Seconds = Field(86_400, description="seconds after which a lease ends, however often renewed")
    start_timeout: Seconds = Field(60, description="seconds a server may take until it answers a query")
    orphan_timeout: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(
        600, description="seconds without a daemon after which its servers stop by themselves"
    )
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

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        if not self.loopback and not (self.token and self.token.get_secret_value()):
            raise ValueError(
                f"host {self.host} can be reached from other machines, so callers need a token: set {PREFIX}TOKEN, "
                "or listen on 127.0.0.1"
            )
        if self.backend == "existing" and self.existing_dsn is None:
            raise ValueError(f"backend existing needs {PREFIX}EXISTING_DSN, as in postgresql://user:password@host/db")
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
        return self.image or f"pgvector/pgvector:pg{self.postgres}"

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
