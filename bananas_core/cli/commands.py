"""All commands in one place."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Final

import typer

from bananas_core.cli.run import Command, Commands

COMMANDS: Final = {
    "worker": "worker",
    "submit": "jobs",
    "jobs": "jobs",
    "job": "jobs",
    "cancel": "jobs",
    "retry": "jobs",
    "purge": "queues",
    "pause": "queues",
    "resume": "queues",
    "queues": "queues",
    "workflow": "workflow",
    "limits": "limits",
    "workers": "inspect",
    "health": "inspect",
    "doctor": "doctor",
    "conformance": "conformance",
    "bench": "bench",
}
"""Each command, a function of the same name, and its module."""
HELP = "Bananas: a job queue that means the same thing on every broker."


def make_cli(only: str | None = None) -> typer.Typer:
    """The command line as a Typer app; call it, or give it to Typer's test runner. ``only``: the
    one command that will be used, so that no other is imported."""
    cli = typer.Typer(
        name="bananas",
        cls=Commands,
        help=HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    cli.callback()(version)
    for name, module in COMMANDS.items():
        if only is None or name == only:
            found = import_module(f"bananas_core.cli.{module}")
            cli.command(cls=Command)(getattr(found, name))
    return cli


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"bananas {version('bananas')}")
        raise typer.Exit


def version(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Bananas: a job queue that means the same thing on every broker."""
