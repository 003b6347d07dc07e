"""Writes one JSON line to the log for each run of a job, for machines to read.

Enable it with ``plugins=["job_log"]`` or ``BANANAS_PLUGINS=job_log``. The lines go to the logger
``bananas.jobs`` at level INFO, or WARNING when the run did not succeed.
"""

from __future__ import annotations

import logging
from typing import ClassVar

import msgspec

from bananas_core.hooks import hookimpl
from bananas_core.job import Claim, Outcome, OutcomeKind
from bananas_core.plugins import Plugin

_QUIET = frozenset({OutcomeKind.COMPLETED, OutcomeKind.SNOOZE, OutcomeKind.HANDBACK})


class JobLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fields of a line. ``status`` is how the run ended; ``duration_ms`` is None when the
    body did not start."""

    job_id: str
    job_name: str
    status: str
    attempt: int
    duration_ms: float | None
    routing_key: str
    error_type: str | None = None


class JobLog(Plugin):
    """The plugin. It only watches: a failing log handler fails no job."""

    name: ClassVar[str] = "job_log"

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("bananas.jobs")

    @hookimpl
    def after_execute(self, claim: Claim, outcome: Outcome) -> None:
        """Log the run."""
        level = logging.INFO if outcome.kind in _QUIET else logging.WARNING
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", msgspec.json.encode(line_of(claim, outcome)).decode())


def line_of(claim: Claim, outcome: Outcome) -> JobLine:
    """What is logged of one run."""
    return JobLine(
        job_id=claim.id,
        job_name=claim.name,
        status=outcome.kind.value,
        attempt=claim.attempt,
        duration_ms=None if outcome.ran is None else round(outcome.ran * 1000, 3),
        routing_key=claim.routing_key,
        error_type=None if outcome.error is None else outcome.error.type,
    )


def plugin() -> JobLog:
    """The plugin with its defaults."""
    return JobLog()
