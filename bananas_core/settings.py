"""Settings: what each may be, and the values that a process works with.

Where they are read from is in ``sources.py``; this file is free of pydantic, as worker processes
import it, which get their settings from the supervisor.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from bananas_core.errors import ConfigurationError
from bananas_core.job import Retention
from bananas_core.urls import redact

DEFAULT_URL: Final = "sqlite:///.bananas/bananas.db"
PREFIX: Final = "BANANAS_"
LISTS: Final = frozenset({"plugins", "routing_keys"})
"""Settings that are several texts."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings. Durations in seconds, sizes in bytes unless said otherwise."""

    broker_url: str = DEFAULT_URL
    """Where messages go, and by default records too."""
    result_backend_url: str | None = None
    """None: the ledger that goes with the broker."""
    namespace: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")] = "bananas"
    """Apps with different namespaces don't see each other on the same broker."""
    plugins: tuple[str, ...] = ()
    """Plugins to enable by name, besides those given to ``Bananas(plugins=…)``."""
    max_payload: Annotated[int, Meta(ge=1024)] = 8 << 20
    """Largest payload or result as JSON."""

    routing_keys: tuple[str, ...] = ()
    """What a worker consumes; empty: the keys of the app's tasks, and ``default``."""
    concurrency: Annotated[int, Meta(ge=1)] = 16
    """Jobs at once in one worker process."""
    processes: Annotated[int, Meta(ge=1)] = 1
    """Worker processes under one supervisor."""
    grace: Annotated[float, Meta(ge=0)] = 30.0
    """How long running jobs may go on when a worker is told to stop."""
    pool: Literal["thread", "process"] = "thread"
    """Where ``def`` tasks run."""
    max_jobs: Annotated[int, Meta(ge=1)] | None = None
    """A worker process is replaced after this many jobs."""
    max_memory: Annotated[int, Meta(ge=1)] | None = None
    """A worker process over this many MiB is replaced."""
    health_port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    """Where a worker answers health checks over HTTP; None: nowhere."""
    health_host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    """The address for that. Any other than loopback shows host names, tasks and routing keys to
    whoever can reach it."""

    retention_completed: Annotated[float, Meta(ge=600)] = Retention().completed
    """How long the record of a completed job is kept."""
    retention_failed: Annotated[float, Meta(ge=600)] = Retention().failed
    """The same for a failed job."""
    retention_cancelled: Annotated[float, Meta(ge=600)] = Retention().cancelled
    """The same for a cancelled job."""
    retention_quarantined: Annotated[float, Meta(ge=600)] = Retention().quarantined
    """The same for a quarantined one, with its raw bytes."""
    retention_events: Annotated[float, Meta(ge=60)] = Retention().events
    """How long changes of state can be read from the event feed."""
    retention_most: Annotated[int, Meta(ge=1)] = Retention().most
    """Most final records kept."""

    def __repr__(self) -> str:
        return f"<Settings {redact(self.broker_url)} namespace={self.namespace}>"

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


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """Settings with the place that each of them came from."""

    settings: Settings = Settings()
    sources: dict[str, str] = {}


def overlay(loaded: Loaded, values: Mapping[str, Any], source: str = "argument") -> Loaded:
    """Put ``values`` before what was loaded; None means not given.

    Raises:
        ConfigurationError: an unknown name or an impossible value, and where it came from.
    """
    given = {name: value for name, value in values.items() if value is not None}
    sources = {**loaded.sources, **dict.fromkeys(given, source)}
    return check({**msgspec.structs.asdict(loaded.settings), **given}, sources)


def check(values: Mapping[str, Any], sources: Mapping[str, str]) -> Loaded:
    """The settings with these values, from these places; what is missing is the default.

    Raises:
        ConfigurationError: an unknown name or an impossible value, and where it came from.
    """
    known = Settings.__struct_fields__
    for name in values:
        if name not in known:
            place = sources.get(name, "argument")
            listed = ", ".join(sorted(known))
            raise ConfigurationError(f"unknown setting {name!r} ({place}); known: {listed}")
    split = {name: _split(name, value) for name, value in values.items()}
    try:
        settings = msgspec.convert(split, Settings, strict=False)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at ")
        found = _NAME.search(path)
        name = found[0] if found else "?"
        place = sources.get(name, "argument")
        raise ConfigurationError(f"setting {name!r} (from {place}): {text}") from error
    return Loaded(settings=settings, sources={name: sources.get(name, "default") for name in known})


def environment() -> tuple[str, dict[str, str]]:
    """What of this process settings are read from: the current folder, and variables."""
    found = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    return os.getcwd(), found


_NAME: Final = re.compile(r"\w+")


def _split(name: str, value: Any) -> Any:
    """A comma-separated string, as environment variables have lists."""
    if name in LISTS and isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def make_default_folder(url: str) -> None:
    """The folder of the default database, kept out of version control. Other URLs are left."""
    if url == DEFAULT_URL:
        folder = Path(DEFAULT_URL.removeprefix("sqlite:///")).parent
        folder.mkdir(exist_ok=True)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
