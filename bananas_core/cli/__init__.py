"""The command line. Typer and Rich are imported in this package only."""

from __future__ import annotations


def main() -> None:
    """The ``bananas`` command; ends the process with one of the codes in ``run.ExitCode``."""
    import sys

    from bananas_core.cli.commands import COMMANDS, make_cli

    first = sys.argv[1] if len(sys.argv) > 1 else ""
    make_cli(first if first in COMMANDS else None)(prog_name="bananas")
