"""How a command ends: its exit code, and errors as one clear line."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from enum import IntEnum
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from bananas_core.cli.output import plain
from bananas_core.errors import (
    BananasError,
    ConfigurationError,
    InvalidPayload,
    InvalidWorkflow,
    JobCancelled,
    JobFailed,
    JobNotFound,
    ResultBackendError,
    ResultTimeout,
    TransportError,
    UnknownTask,
)

T = TypeVar("T")


class ExitCode(IntEnum):
    """What scripts can rely on."""

    OK = 0
    JOB_FAILED = 1
    USAGE = 2
    UNAVAILABLE = 3
    NOT_FOUND = 4
    TIMEOUT = 5


def exit_code(error: BananasError) -> ExitCode:
    """The code that an error ends a command with."""
    if isinstance(error, JobFailed | JobCancelled):
        return ExitCode.JOB_FAILED
    if isinstance(error, ResultTimeout):
        return ExitCode.TIMEOUT
    if isinstance(error, JobNotFound | UnknownTask):
        return ExitCode.NOT_FOUND
    if isinstance(error, ConfigurationError | InvalidPayload | InvalidWorkflow):
        return ExitCode.USAGE
    if isinstance(error, TransportError | ResultBackendError):
        return ExitCode.UNAVAILABLE
    return ExitCode.JOB_FAILED


def complain(text: object) -> None:
    """One line on stderr."""
    line = " ".join(plain(str(text)).split())
    print(f"bananas: {line}", file=sys.stderr)


def leave(code: ExitCode) -> None:
    """End the command with a code other than 0; 0 just returns."""
    if code is not ExitCode.OK:
        raise typer.Exit(int(code))


def run(work: Coroutine[Any, Any, T]) -> T:
    """The command's own event loop."""
    return asyncio.run(work)


class Commands(TyperGroup):
    """The group of all commands; turns errors of Bananas into a line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BananasError as error:
            complain(error)
            raise typer.Exit(int(exit_code(error))) from error


class Command(TyperCommand):
    """A command whose usage line shows its arguments as they are named, ``[APP] ID`` say."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        named = [param.metavar for param in self.params if param.param_type_name == "argument"]
        return [name for name in named if name] + ["[OPTIONS]"]
