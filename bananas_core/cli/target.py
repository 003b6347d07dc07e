"""Which app a command works on: imported by its name, or made from URLs."""

from __future__ import annotations

import importlib
import os
import re
import sys
import tomllib
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import typer

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


def find_target(
    arguments: Sequence[str],
    names: Sequence[str],
    *,
    broker_url: str | None,
    result_backend_url: str | None,
    several: bool = False,
) -> tuple[Target, list[str]]:
    """Tell the app, if one was given, from the other arguments.

    The app comes first and may be left out: then it is ``BANANAS_APP``, or ``app`` in
    ``[tool.bananas]``. URLs given as options go before both of these.

    Args:
        arguments: all positional arguments.
        names: those that the command needs after the app, by name.
        several: the last of ``names`` may be repeated.

    Raises:
        typer.BadParameter: too few or too many arguments, or an app as well as URLs.
    """
    by_url = broker_url is not None or result_backend_url is not None
    rest = list(arguments)
    app = rest.pop(0) if _app_is_first(rest, len(names), several, by_url) else None
    if len(rest) < len(names):
        raise typer.BadParameter(f"{names[len(rest)]} is missing")
    if len(rest) > len(names) and not several:
        raise typer.BadParameter(f"unexpected argument {rest[-1]!r}")
    if app is not None and not is_reference(app):
        raise typer.BadParameter(
            f"an app is given as package.module:name, not {app!r}"
            + (f" (or {rest[-1]!r} is one argument too many)" if rest else "")
        )
    if app is not None and by_url:
        raise typer.BadParameter("give an app or --broker-url, not both")
    if app is None and not by_url:
        app = default_app()
    target = Target(app=app, broker_url=broker_url, result_backend_url=result_backend_url)
    return target, rest


def _app_is_first(arguments: list[str], needed: int, several: bool, by_url: bool) -> bool:
    if not arguments:
        return False
    extra = len(arguments) > needed
    if extra and not several:
        return True
    # An id or a name may look like an app (``a:b``); it is none if the app is known otherwise.
    if by_url or not is_reference(arguments[0]):
        return False
    return extra or default_app() is None


def is_reference(text: str) -> bool:
    """Whether a text has the form ``package.module:attribute``."""
    return _REFERENCE.match(text) is not None


def default_app() -> str | None:
    """The app that the environment or ``pyproject.toml`` names."""
    named = os.environ.get(APP_VARIABLE)
    if named:
        return named
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
