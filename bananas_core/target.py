"""Which app a command works on: imported by its name, or made from URLs.

Worker processes use this too, so it stays free of Typer and Rich.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from bananas_core.errors import ConfigurationError

if TYPE_CHECKING:
    from bananas_core.app import Bananas

APP_VARIABLE: Final = "BANANAS_APP"
_REFERENCE: Final = re.compile(r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*\Z")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """An app's name (``package.module:attribute``) or URLs; with neither, the settings decide."""

    app: str | None = None
    broker_url: str | None = None
    result_backend_url: str | None = None


def is_reference(text: str) -> bool:
    """Whether a text has the form ``package.module:attribute``."""
    return _REFERENCE.match(text) is not None


def default_app() -> str | None:
    """The app that the environment or ``pyproject.toml`` names."""
    named = os.environ.get(APP_VARIABLE)
    if named:
        return named
    import tomllib

    try:
        table = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # a file that can't be read is reported when the settings are loaded
    app = table.get("tool", {}).get("bananas", {}).get("app")
    return app if isinstance(app, str) else None


def get_app(target: Target) -> Bananas:
    """The app, not opened yet.

    Raises:
        ConfigurationError: it can't be imported, or is no app.
    """
    if target.app is not None:
        return load_app(target.app)
    from bananas_core.app import Bananas

    return Bananas(target.broker_url, result_backend_url=target.result_backend_url)


def load_app(reference: str) -> Bananas:
    """Import ``package.module:attribute``; modules of the current folder are found.

    Raises:
        ConfigurationError: it can't be imported (with the cause), or is no app.
    """
    from bananas_core.app import Bananas

    if not is_reference(reference):
        raise ConfigurationError(f"an app is given as package.module:name, not {reference!r}")
    add_current_folder()
    module_name, _, path = reference.partition(":")
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"there is no module {error.name!r} in {Path.cwd()} or on sys.path "
                f"(app {reference})"
            ) from error
        raise _failed(reference, error) from error
    except (Exception, SystemExit) as error:
        raise _failed(reference, error) from error
    module = found
    for name in path.split("."):
        found = getattr(found, name, None)
    if isinstance(found, Bananas):
        return found
    apps = [name for name, value in vars(module).items() if isinstance(value, Bananas)]
    hint = f"; it has {', '.join(f'{module_name}:{name}' for name in apps)}" if apps else ""
    problem = "is not there" if found is None else f"is {type(found).__name__}, not a Bananas app"
    raise ConfigurationError(f"{path!r} of module {module_name!r} {problem}{hint}")


def add_current_folder() -> None:
    """Put the current folder on ``sys.path``, as ``python -m`` does."""
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)


def _failed(reference: str, error: BaseException) -> ConfigurationError:
    """What went wrong while the app's module ran, and in which line of it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
    where = f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
    return ConfigurationError(
        f"the app {reference} can't be imported: {type(error).__name__}: {error}{where}"
    )
