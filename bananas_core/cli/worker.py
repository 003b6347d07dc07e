"""``bananas worker``: run an app's jobs until told to stop."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from bananas_core.cli.options import arguments
from bananas_core.errors import ConfigurationError
from bananas_core.target import default_app, is_reference


class Pool(StrEnum):
    """Where ``def`` tasks run."""

    THREAD = "thread"
    PROCESS = "process"


def worker(
    args: Annotated[list[str] | None, arguments("")] = None,
    routing_key: Annotated[
        list[str] | None,
        typer.Option(
            "--routing-key",
            help="Consume this key; may be repeated. Default: the keys of the app's tasks.",
            metavar="K",
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", help="Jobs at once in a process (16).", min=1, metavar="N"),
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", help="Worker processes (1).", min=1, metavar="N")
    ] = None,
    grace: Annotated[
        float | None,
        typer.Option(
            "--grace", help="Seconds for running jobs when told to stop (30).", min=0, metavar="S"
        ),
    ] = None,
    pool: Annotated[
        Pool | None, typer.Option("--pool", help="Where `def` tasks run (thread).")
    ] = None,
    max_jobs: Annotated[
        int | None,
        typer.Option("--max-jobs", help="Replace a process after N jobs.", min=1, metavar="N"),
    ] = None,
    max_memory: Annotated[
        int | None,
        typer.Option(
            "--max-memory", help="Replace a process over so many MiB.", min=1, metavar="MB"
        ),
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="For development: start anew when code changes.")
    ] = False,
    health_port: Annotated[
        int | None,
        typer.Option(
            "--health-port",
            help="Answer /healthz on this port.",
            min=0,
            max=65535,
            metavar="P",
        ),
    ] = None,
    health_host: Annotated[
        str | None,
        typer.Option("--health-host", help="The address for that (127.0.0.1).", metavar="H"),
    ] = None,
) -> None:
    """Run jobs of an app until SIGTERM or Ctrl-C; a second one stops at once."""
    if args is not None and len(args) > 1:
        raise typer.BadParameter(f"unexpected argument {args[1]!r}")
    app = args[0] if args else default_app()
    if app is None:
        raise typer.BadParameter("APP is missing: package.module:name, or BANANAS_APP")
    if not is_reference(app):
        raise typer.BadParameter(f"an app is given as package.module:name, not {app!r}")
    if reload:
        raise typer.Exit(run_reloading(sys.argv[1:]))
    flags = {
        "routing_keys": routing_key or None,
        "concurrency": concurrency,
        "processes": processes,
        "grace": grace,
        "pool": None if pool is None else pool.value,
        "max_jobs": max_jobs,
        "max_memory": max_memory,
        "health_port": health_port,
        "health_host": health_host,
    }
    run_worker(app, flags)


def run_worker(app: str, flags: Mapping[str, Any]) -> NoReturn:
    """Supervise worker processes until told to stop, which is another program's duty. Flags of
    None are left to the settings."""
    from bananas_core.launch import SupervisorConfig, become_supervisor
    from bananas_core.sources import load_settings

    given = {name: value for name, value in flags.items() if value is not None}
    sources = None
    try:
        sources = load_settings({})
    except ConfigurationError:
        pass  # what the app itself is given may make it good; if not, a child says why
    become_supervisor(SupervisorConfig(app=app, flags=given, sources=sources))


def run_reloading(arguments: list[str]) -> int:
    """The same command without ``--reload``, started anew at each change below this folder."""
    from bananas_core.cli.reload import Reloader

    command = [sys.executable, "-m", "bananas_core.cli"]
    return Reloader([*command, *(a for a in arguments if a != "--reload")], Path.cwd()).run()
