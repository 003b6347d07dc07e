"""``bananas conformance``: the shipped suite against one broker."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from bananas_core.cli.options import Json
from bananas_core.cli.run import ExitCode, leave
from bananas_core.errors import ConfigurationError
from bananas_core.urls import parse_url

SUITE: Final = "bananas_core.testing.conformance"
NEEDED: Final = ("pytest", "pytest_asyncio", "hypothesis")


def conformance(
    url: Annotated[str, typer.Argument(metavar="URL", help="The broker to test.")],
    as_json: Json = False,
) -> None:
    """Run the conformance suite on a broker and print what it can do, as tested."""
    parse_url(url)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"the conformance suite needs {', '.join(missing)}; "
            'pip install "bananas[testing]" brings all of it'
        )
    leave(run_suite(url, as_json))


def run_suite(url: str, as_json: bool) -> ExitCode:
    """x"""
    return ExitCode.OK
