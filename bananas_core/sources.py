"""Where settings come from, and which source goes first.

Order: given to ``Bananas(…)`` or as a flag > ``BANANAS_*`` > ``[tool.bananas]`` of the
``pyproject.toml`` in the current folder > default. Imported when an app opens, not before, and
never in a worker process, for the memory that pydantic takes: ``bananas worker`` reads them before
it becomes the supervisor, which hands them down. ``python -m bananas_core.sources`` reads them for
the supervisor when it starts new processes for a changed program.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec
from pydantic import create_model
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from bananas_core.errors import BananasError, ConfigurationError
from bananas_core.settings import LISTS, PREFIX, Loaded, Settings, check


class _Source(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX)


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
        "environment": EnvSettingsSource(_model())(),
        "argument": {name: value for name, value in given.items() if value is not None},
    }
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for place, found in places.items():
        for name, value in found.items():
            values[name] = value
            sources[name] = f"{PREFIX}{name.upper()}" if place == "environment" else place
    return check(values, sources)


def _model() -> type[BaseSettings]:
    """The settings as pydantic-settings wants to see them."""
    fields: dict[str, Any] = {}
    for name, kind in get_type_hints(Settings).items():
        fields[name] = (Annotated[kind, NoDecode] if name in LISTS else kind, None)
    return create_model("Source", __base__=_Source, **fields)


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


def main() -> int:
    """Write what the environment and ``pyproject.toml`` say to stdout, in msgpack; 1 if that is
    not valid. Who asked finds out why when it reads them itself."""
    try:
        loaded = load_settings({})
    except BananasError:
        return 1
    sys.stdout.buffer.write(msgspec.msgpack.encode(loaded))
    return 0


if __name__ == "__main__":
    sys.exit(main())
