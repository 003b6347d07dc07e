"""The command line. Typer and Rich are imported in this package only."""

from __future__ import annotations


def main() -> None:
    """The ``bananas`` command; ends the process with one of the codes in ``run.ExitCode``."""
    from bananas_core.cli.commands import make_cli

    make_cli()(prog_name="bananas")
