"""One started claim, as the worker's process sees it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from bananas_core.context import Expander, JobContext
from bananas_core.held import ClaimKey
from bananas_core.job import Cancel, Claim, Progress
from bananas_core.message import Body, decode_body
from bananas_core.report import Reporter
from bananas_core.workflow.expand import expansion

if TYPE_CHECKING:
    from bananas_core.app import Bananas

Why = Literal["timeout", "cancel", "lost", "stop"]


class RunDesk:
    """What all runs of a worker share."""

    def __init__(self, app: Bananas, reporter: Reporter) -> None:
        self.app = app
        self.reporter = reporter


class Running:
    """One started claim; the ``Run`` that its body's ``current_job()`` speaks to.

    Thousands are made in a second, so it holds the little that each needs.
    """

    __slots__ = (
        "_context",
        "_desk",
        "body",
        "cancel",
        "claim",
        "deadline",
        "ended",
        "key",
        "progress",
        "started",
        "task",
        "told",
        "why",
    )

    def __init__(self, claim: Claim, started: float, desk: RunDesk) -> None:
        """``started``: monotonic seconds."""
        self.claim = claim
        self.key: ClaimKey = (claim.id, claim.fence)
        self.body: Body = decode_body(claim.message)
        self.started = started
        self.deadline: float | None = None
        self.why: Why | None = None
        self.cancel: Cancel | None = None
        self.ended = False
        self.progress: Progress | None = None
        self.task: asyncio.Task[None] | None = None
        self.told = False
        """Whether the reporter knows it."""
        self._desk = desk
        self._context: JobContext | None = None

    def stop(self, why: Why) -> None:
        """Cancel the body; the first reason counts."""
        if self.why is None:
            self.why = why
            if self.task is not None:
                self.task.cancel()

    @property
    def context(self) -> JobContext:
        """Made when somebody asks: most bodies never do."""
        if self._context is None:
            claim = self.claim
            self._context = JobContext(self, id=claim.id, name=claim.name, attempt=claim.attempt)
        return self._context

    @property
    def stopping(self) -> bool:
        return self.why is not None

    def tell(self, value: float, text: str | None) -> None:
        self.told = True
        self.progress = Progress(value=value, text=text)
        self._desk.reporter.progress(self.key, self.progress)

    def log(self, text: str) -> None:
        self.told = True
        self._desk.reporter.line(self.key, text)

    def expander(self) -> Expander | None:
        return expansion(self._desk.app, self.claim, self.body.workflow)
