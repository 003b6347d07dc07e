"""``bananas worker``: run an app's jobs until told to stop."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bananas_core.cli.options import APP
from bananas_core.cli.run import run

if TYPE_CHECKING:
    pass


def worker() -> None:
    """Run jobs of an app."""
