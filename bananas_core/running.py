"""The jobs that a worker runs right now: start, watch the time, stop, settle.

One sweep over all of them, not a timer each, looks after deadlines, cancels and lost claims.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from msgspec.structs import replace

from bananas_core.blobs import load_payload, store_result
from bananas_core.clock import Clock
from bananas_core.context import JobContext
from bananas_core.errors import BananasError, InvalidPayload, UnknownTask
from bananas_core.execute import error_info, failure, run_body, unknown_task
from bananas_core.job import Cancel, Claim, Outcome, OutcomeKind, Progress
from bananas_core.message import decode_stored
from bananas_core.renew import ClaimKey, Keeper
from bananas_core.report import Reporter
from bananas_core.state import SUSPECT_DEATHS
from bananas_core.threads import TaskInterrupted, ThreadPool
from bananas_core.workflow.expand import expansion
from bananas_core.workflow.node import to_info
from bananas_core.workflow.values import fill_inputs

if TYPE_CHECKING:
    from bananas_core.app import Bananas

log = logging.getLogger("bananas.execute")

HARD_GRACE: Final = 5.0
"""Seconds past its time-out after which a job's process may be killed."""
THREAD_GRACE: Final = 1.0
"""Seconds that an interrupted thread has to stop before it is abandoned."""
SUSPECT_DELAY: Final = 60.0

Why = Literal["timeout", "cancel", "lost", "stop"]


class Isolation(Protocol):
    """Runs a claim in another process."""

    async def run(
        self,
        claim: Claim,
        payload: bytes,
        *,
        fresh: bool,
        on_begun: Callable[[], None],
        on_progress: Callable[[float, str | None], None],
        on_log: Callable[[str], None],
    ) -> Outcome:
        """Cancelling kills the process. ``fresh``: a new process for this claim alone.
        ``on_begun`` is called when the body comes next. Outcome kind ``died`` when the process
        was lost."""
        ...


class Running:
    """One started claim."""

    __slots__ = (
        "cancel",
        "claim",
        "deadline",
        "ended",
        "key",
        "message",
        "progress",
        "started",
        "task",
        "why",
    )

    def __init__(self, claim: Claim, started: float) -> None:
        self.claim = claim
        self.key: ClaimKey = (claim.id, claim.fence)
        self.message = decode_stored(claim.message)
        self.started = started
        self.deadline: float | None = None
        self.why: Why | None = None
        self.cancel: Cancel | None = None
        self.ended = False
        self.progress: Progress | None = None
        self.task: asyncio.Task[None] | None = None

    def stop(self, why: Why) -> None:
        """Cancel the body; the first reason counts."""
        if self.why is None:
            self.why = why
            if self.task is not None:
                self.task.cancel()


class Executor:
    """Runs claims and hands every outcome to ``settle``."""

    def __init__(
        self,
        app: Bananas,
        keeper: Keeper,
        reporter: Reporter,
        *,
        settle: Callable[[Outcome], None],
        ended: Callable[[float], None],
        threads: ThreadPool,
        isolation: Isolation | None,
        processes: bool,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._app = app
        self._keeper = keeper
        self._reporter = reporter
        self._settle = settle
        self._ended = ended
        self._threads = threads
        self._isolation = isolation
        self._processes = processes
        self._clock = clock
        self._rng = rng
        self.running: dict[ClaimKey, Running] = {}

    def start(self, claim: Claim) -> None:
        """Begin to run a claim on the loop."""
        job = Running(claim, self._clock.monotonic())
        timeout = job.message.timeout
        if timeout is None:
            task = self._app.tasks.get(claim.name)
            timeout = None if task is None else task.timeout
        if timeout is not None:
            job.deadline = job.started + timeout
        self.running[job.key] = job
        if claim.deaths < SUSPECT_DEATHS or self._isolation is None:
            self._tell_started(job)
        job.task = asyncio.get_running_loop().create_task(self._run(job))

    def _tell_started(self, job: Running) -> None:
        """From now on the job is charged with a death if this process ends. A suspect that waits
        for its own process can't be what ends this one, and has no death to spare."""
        hard = None if job.deadline is None else job.deadline + HARD_GRACE
        self._keeper.started(job.key, hard)

    def sweep(self, now: float) -> None:
        """Stop what ran out of time."""
        for job in list(self.running.values()):
            if job.deadline is not None and job.deadline <= now:
                job.stop("timeout")

    def cancel(self, key: ClaimKey, cancel: Cancel) -> None:
        """A cancel was requested for this claim's job."""
        job = self.running.get(key)
        if job is not None:
            job.cancel = cancel
            job.stop("cancel")

    def lose(self, keys: frozenset[ClaimKey] | None = None) -> None:
        """These claims (None: all) are not ours any more."""
        for key, job in list(self.running.items()):
            if keys is None or key in keys:
                job.stop("lost")

    def stop_all(self) -> None:
        """The grace time is over: hand back what still runs."""
        for job in list(self.running.values()):
            job.stop("stop")

    def give_up(self) -> None:
        """Hand back what did not even stop when cancelled; its own outcome won't be taken."""
        for job in list(self.running.values()):
            self._end(job, _outcome(job, OutcomeKind.HANDBACK))

    async def _run(self, job: Running) -> None:
        try:
            outcome = await self._outcome(job)
        except asyncio.CancelledError:
            if job.why is None:
                raise
            outcome = self._stopped(job)
        except Exception as error:
            log.exception("job %s could not be run", job.claim.id)
            outcome = Outcome(
                id=job.claim.id,
                fence=job.claim.fence,
                kind=OutcomeKind.HANDBACK
                if isinstance(error, BananasError)
                else OutcomeKind.FAILED,
                error=error_info(error),
            )
        self._end(job, outcome)

    async def _outcome(self, job: Running) -> Outcome:
        claim = job.claim
        app = self._app
        suspect = claim.deaths >= SUSPECT_DEATHS
        if suspect and self._isolation is None:
            return _outcome(
                job,
                OutcomeKind.SNOOZE,
                delay=SUSPECT_DELAY,
                held_by="suspect: needs a worker started by `bananas worker`",
            )
        try:
            task = app.get_task(claim.name)
        except UnknownTask as error:
            return unknown_task(claim, error)
        try:
            payload = await load_payload(app, claim, job.message)
            if job.message.workflow is not None:
                payload = await fill_inputs(app, to_info(job.message.workflow), payload)
        except InvalidPayload as error:
            return _outcome(job, OutcomeKind.FAILED, error=error_info(error))
        reporter = self._reporter

        def on_progress(value: float, text: str | None) -> None:
            job.progress = Progress(value=value, text=text)
            reporter.progress(job.key, job.progress)

        def on_log(text: str) -> None:
            reporter.line(job.key, text)

        if self._isolation is not None and (suspect or (self._processes and not task.is_async)):
            outcome = await self._isolation.run(
                claim,
                payload,
                fresh=suspect,
                on_begun=lambda: self._tell_started(job),
                on_progress=on_progress,
                on_log=on_log,
            )
        else:
            context = JobContext(
                id=claim.id,
                name=claim.name,
                attempt=claim.attempt,
                on_progress=on_progress,
                on_log=on_log,
                is_cancelled=lambda: job.why is not None,
                expander=expansion(app, claim, job.message),
            )
            outcome = await run_body(
                app,
                claim,
                payload,
                context,
                call=self._call,
                clock=self._clock,
                rng=self._rng,
            )
        if reporter.has(job.key):
            await reporter.close(job.key)
        if outcome.result is not None:
            outcome = await store_result(app, claim, outcome)
        if app.plugins.has("after_execute"):
            await app.plugins.after_execute(claim, outcome)
        return outcome

    async def _call(self, function: Callable[[], Any]) -> Any:
        """Run a ``def`` task on a thread; a cancel interrupts it, then gives it up."""
        future = self._threads.submit(function, contextvars.copy_context())
        try:
            return await future
        except TaskInterrupted:
            raise asyncio.CancelledError from None
        except asyncio.CancelledError:
            self._threads.interrupt(future)
            end = self._clock.monotonic() + THREAD_GRACE
            while self._threads.busy(future):
                if self._clock.monotonic() >= end:
                    self._threads.abandon(future)
                    break
                await asyncio.sleep(0.01)
            raise

    def _stopped(self, job: Running) -> Outcome:
        """The outcome of a body that we cancelled."""
        claim = job.claim
        ran = self._clock.monotonic() - job.started
        if job.why == "timeout":
            limit = (job.deadline or job.started) - job.started
            error = TimeoutError(f"ran longer than its timeout of {limit:g} s")
            task = self._app.tasks.get(claim.name)
            if task is not None:
                return failure(task, claim, error, ran, self._rng)
            return _outcome(job, OutcomeKind.FAILED, error=error_info(error), ran=ran)
        if job.why == "cancel":
            return _outcome(job, OutcomeKind.CANCELLED, ran=ran)
        return _outcome(job, OutcomeKind.HANDBACK, ran=ran)

    def _end(self, job: Running, outcome: Outcome) -> None:
        if job.ended:
            return
        job.ended = True
        self.running.pop(job.key, None)
        self._reporter.forget(job.key)
        if job.why == "lost":
            self._keeper.drop([job.key])
        else:
            if job.progress is not None:
                outcome = _with_progress(outcome, job.progress)
            self._settle(outcome)
        self._ended(self._clock.monotonic() - job.started)


def _outcome(job: Running, kind: OutcomeKind, **fields: Any) -> Outcome:
    return Outcome(id=job.claim.id, fence=job.claim.fence, kind=kind, **fields)


def _with_progress(outcome: Outcome, progress: Progress) -> Outcome:
    return replace(outcome, progress=progress)
