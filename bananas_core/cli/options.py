"""Arguments and options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from bananas_core.target import Target, default_app, is_reference

APP = "[APP]"
"""Shown where an app may be given."""

BrokerUrl = Annotated[
    str | None,
    typer.Option("--broker-url", help="Work on this broker; no app is imported.", metavar="URL"),
]
ResultBackendUrl = Annotated[
    str | None,
    typer.Option(
        "--result-backend-url", help="The ledger, if it is not the broker's own.", metavar="URL"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def arguments(metavar: str) -> typer.models.ArgumentInfo:
    """All positional arguments of a command, with the app first if it is given."""
    info: typer.models.ArgumentInfo = typer.Argument(
        metavar=f"{APP} {metavar}".strip(),
        show_default=False,
        help="APP is package.module:name; without it BANANAS_APP, or what the settings say.",
    )
    return info


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


def parse_since(text: str, now: float, option: str = "--since") -> float:
    """``90s``, ``15m``, ``1h``, ``7d``, ``2w`` before ``now``, or an ISO date or time (UTC if it
    has no offset), as unix seconds.

    Raises:
        typer.BadParameter: neither.
    """
    span = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if span:
        return now - float(span[1]) * _UNITS[span[2]]
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise typer.BadParameter(
            f"{option} takes 90s, 15m, 1h, 7d or an ISO time, not {text!r}"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()
