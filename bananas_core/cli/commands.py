"""All commands in one place."""

from __future__ import annotations

from typing import Annotated

import typer

from bananas_core.cli import (
    bench,
    conformance,
    doctor,
    inspect,
    jobs,
    limits,
    queues,
    worker,
    workflow,
)
from bananas_core.cli.run import Command, Commands

HELP = "Bananas: a job queue that means the same thing on every broker."


def make_cli() -> typer.Typer:
    """The command line as a Typer app; call it, or give it to Typer's test runner."""
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
    for command in (
        worker.worker,
        jobs.submit,
        jobs.jobs,
        jobs.job,
        jobs.cancel,
        jobs.retry,
        queues.purge,
        queues.pause,
        queues.resume,
        queues.queues,
        workflow.workflow,
        limits.limits,
        inspect.workers,
        inspect.health,
        doctor.doctor,
        conformance.conformance,
        bench.bench,
    ):
        cli.command(cls=Command)(command)
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
