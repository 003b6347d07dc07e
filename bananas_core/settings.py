"""Settings: where each may come from, in which order, and what it may be.

Order: given to ``Bananas(…)`` or as a flag > ``BANANAS_*`` > ``[tool.bananas]`` of the
``pyproject.toml`` in the current folder > default. Imported when an app opens, not before.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from bananas_core.errors import ConfigurationError
from bananas_core.job import Retention
from bananas_core.urls import redact

DEFAULT_URL: Final = "sqlite:///.bananas/bananas.db"
PREFIX: Final = "BANANAS_"


class Settings(BaseSettings):
    """All settings. Durations in seconds, sizes in bytes unless said otherwise."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    broker_url: str = DEFAULT_URL
    """Where messages go, and by default records too."""
    result_backend_url: str | None = None
    """None: the ledger that goes with the broker."""
    namespace: str = Field(default="bananas", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """Apps with different namespaces don't see each other on the same broker."""
    plugins: Annotated[tuple[str, ...], NoDecode] = ()
    """Plugins to enable by name, besides those given to ``Bananas(plugins=…)``."""
    max_payload: int = Field(default=8 << 20, ge=1024)
    """Largest payload or result as JSON."""

    routing_keys: Annotated[tuple[str, ...], NoDecode] = ()
    """What a worker consumes; empty: the keys of the app's tasks, and ``default``."""
    concurrency: int = Field(default=16, ge=1)
    """Jobs at once in one worker process."""
    processes: int = Field(default=1, ge=1)
    """Worker processes under one supervisor."""
    grace: float = Field(default=30.0, ge=0)
    """How long running jobs may go on when a worker is told to stop."""
    pool: Literal["thread", "process"] = "thread"
    """Where ``def`` tasks run."""
    max_jobs: int | None = Field(default=None, ge=1)
    """A worker process is replaced after this many jobs."""
    max_memory: int | None = Field(default=None, ge=1)
    """A worker process over this many MiB is replaced."""
    health_port: int | None = Field(default=None, ge=0, le=65535)
    """Where a worker answers health checks over HTTP; None: nowhere."""
    health_host: str = Field(default="127.0.0.1", min_length=1)
    """The address for that. Any other than loopback shows host names, tasks and routing keys to
    whoever can reach it."""

    retention_completed: float = Field(default=Retention().completed, ge=600)
    """How long the record of a completed job is kept."""
    retention_failed: float = Field(default=Retention().failed, ge=600)
    """The same for a failed job."""
    retention_cancelled: float = Field(default=Retention().cancelled, ge=600)
    """The same for a cancelled job."""
    retention_quarantined: float = Field(default=Retention().quarantined, ge=600)
    """The same for a quarantined one, with its raw bytes."""
    retention_events: float = Field(default=Retention().events, ge=60)
    """How long changes of state can be read from the event feed."""
    retention_most: int = Field(default=Retention().most, ge=1)
    """Most final records kept."""

    @field_validator("plugins", "routing_keys", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """A comma-separated string, as environment variables have them."""
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what ``load_settings`` gives, which knows where each value is from."""
        return (init_settings,)

    def __repr__(self) -> str:
        return f"<Settings {redact(self.broker_url)} namespace={self.namespace}>"

    __str__ = __repr__

    @property
    def retention(self) -> Retention:
        """The ledger's form of ``retention_…``."""
        return Retention(
            completed=self.retention_completed,
            failed=self.retention_failed,
            cancelled=self.retention_cancelled,
            quarantined=self.retention_quarantined,
            events=self.retention_events,
            most=self.retention_most,
        )


class Loaded:
    """Settings with the place that each of them came from."""

    def __init__(self, settings: Settings, sources: dict[str, str]) -> None:
        self.settings = settings
        self.sources = sources


def load_settings(given: Mapping[str, Any], *, folder: Path | None = None) -> Loaded:
    """Read all sources.

    Args:
        given: flags or arguments; None means not given.
        folder: where ``pyproject.toml`` is looked for; default: the current one.

    Raises:
        ConfigurationError: an unknown name or an impossible value, and where it came from.
    """
    places = {
        "pyproject.toml": _from_pyproject(folder or Path.cwd()),
        "environment": EnvSettingsSource(Settings)(),
        "argument": {name: value for name, value in given.items() if value is not None},
    }
    values: dict[str, Any] = {}
    sources = dict.fromkeys(Settings.model_fields, "default")
    for place, found in places.items():
        for name, value in found.items():
            if name not in Settings.model_fields:
                known = ", ".join(sorted(Settings.model_fields))
                raise ConfigurationError(f"unknown setting {name!r} ({place}); known: {known}")
            values[name] = value
            sources[name] = f"{PREFIX}{name.upper()}" if place == "environment" else place
    try:
        return Loaded(Settings(**values), sources)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise ConfigurationError(
            f"setting {name!r} (from {sources.get(name, 'argument')}): {first['msg']}"
        ) from error


def _from_pyproject(folder: Path) -> dict[str, Any]:
    path = folder / "pyproject.toml"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} can't be read: {error}") from error
    table = data.get("tool", {}).get("bananas", {})
    return {name.replace("-", "_"): value for name, value in table.items() if name != "app"}


def make_default_folder(url: str) -> None:
    """The folder of the default database, kept out of version control. Other URLs are left."""
    if url == DEFAULT_URL:
        folder = Path(DEFAULT_URL.removeprefix("sqlite:///")).parent
        folder.mkdir(exist_ok=True)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
