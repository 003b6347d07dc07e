"""Arguments and options that several commands share."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

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


def parse_since(text: str, now: float) -> float:
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
            f"--since takes 90s, 15m, 1h, 7d or an ISO time, not {text!r}"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()
