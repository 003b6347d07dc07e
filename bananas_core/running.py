"""The jobs that a worker runs right now: start, watch the time, stop, settle.

One sweep over all of them, not a timer each, looks after deadlines, cancels and lost claims.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec.structs import replace

from bananas_core.blobs import is_small, load_payload, store_result
from bananas_core.clock import Clock
from bananas_core.context import enter
from bananas_core.eager import task_maker
from bananas_core.errors import BananasError, InvalidPayload
from bananas_core.execute import error_info, failure, run_body, unknown_task
from bananas_core.held import ClaimKey, Start
from bananas_core.job import Cancel, Claim, Outcome, OutcomeKind, Progress
from bananas_core.renew import Keeper
from bananas_core.report import Reporter
from bananas_core.run import RunDesk, Running
from bananas_core.state import SUSPECT_DEATHS
from bananas_core.threads import TaskInterrupted, ThreadPool
from bananas_core.workflow.node import to_info
from bananas_core.workflow.values import fill_inputs

if TYPE_CHECKING:
    from bananas_core.app import Bananas
    from bananas_core.task import Task

log = logging.getLogger("bananas.execute")

HARD_GRACE: Final = 5.0
"""Seconds past its time-out after which a job's process may be killed."""
THREAD_GRACE: Final = 1.0
"""Seconds that an interrupted thread has to stop before it is abandoned."""
SUSPECT_DELAY: Final = 60.0


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
        self._desk = RunDesk(app, reporter)
        has = app.plugins.has
        self._bare = not (app.codecs or has("around_execute") or has("after_execute"))
        self.running: dict[ClaimKey, Running] = {}

    def start(self, claims: Iterable[Claim]) -> None:
        """Begin to run claims on the loop."""
        now, tasks, running = self._clock.monotonic(), self._app.tasks, self.running
        desk, isolation = self._desk, self._isolation
        jobs: list[tuple[Running, Task[..., Any] | None]] = []
        told: list[Start] = []
        for claim in claims:
            job = Running(claim, now, desk)
            task = tasks.get(claim.name)
            timeout, hard = job.body.timeout, None
            if timeout is None and task is not None:
                timeout = task.timeout
            if timeout is not None:
                job.deadline = now + timeout
                hard = job.deadline + HARD_GRACE
            if claim.deaths < SUSPECT_DEATHS or isolation is None:
                told.append((claim.id, claim.fence, hard))
            running[job.key] = job
            jobs.append((job, task))
        self._keeper.started(told)  # before any of them has its first step
        make = task_maker(asyncio.get_running_loop())
        for job, task in jobs:
            made = make(self._run(job, task), name=job.claim.id)
            if not job.ended:
                job.task = made

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

    async def _run(self, job: Running, task: Task[..., Any] | None) -> None:
        claim = job.claim
        try:
            if task is None or not self._is_plain(job, task):
                outcome = await self._outcome(job, task)
            else:
                enter(job)
                outcome = await run_body(
                    task, claim, bytes(job.body.payload), self._call, self._clock, self._rng
                )
                if outcome.result is not None and not is_small(outcome.result):
                    outcome = await store_result(self._app, claim, outcome)
                if job.told:
                    await self._reporter.close(job.key)
        except asyncio.CancelledError:
            if job.why is None:
                raise
            outcome = self._stopped(job)
        except Exception as error:
            log.exception("job %s could not be run", claim.id)
            known = isinstance(error, BananasError)
            kind = OutcomeKind.HANDBACK if known else OutcomeKind.FAILED
            outcome = _outcome(job, kind, error=error_info(error))
        self._end(job, outcome)

    def _is_plain(self, job: Running, task: Task[..., Any]) -> bool:
        """Whether nothing has to be done before and after the body: most jobs, most often."""
        body = job.body
        return (
            self._bare
            and body.workflow is None
            and not body.encoding
            and job.claim.deaths < SUSPECT_DEATHS
            and (task.is_async or not self._processes)
        )

    async def _outcome(self, job: Running, task: Task[..., Any] | None) -> Outcome:
        """All that may have to be done for a job."""
        claim, app = job.claim, self._app
        suspect = claim.deaths >= SUSPECT_DEATHS
        if suspect and self._isolation is None:
            return _outcome(
                job,
                OutcomeKind.SNOOZE,
                delay=SUSPECT_DELAY,
                held_by="suspect: needs a worker started by `bananas worker`",
            )
        if task is None:
            return unknown_task(claim)
        try:
            payload = await load_payload(app, claim, job.body)
            if job.body.workflow is not None:
                payload = await fill_inputs(app, to_info(job.body.workflow), payload)
        except InvalidPayload as error:
            return _outcome(job, OutcomeKind.FAILED, error=error_info(error))
        if self._isolation is not None and (suspect or (self._processes and not task.is_async)):
            outcome = await self._isolation.run(
                claim,
                payload,
                fresh=suspect,
                on_begun=lambda: self._keeper.started([_start_of(job)]),
                on_progress=job.tell,
                on_log=job.log,
            )
        else:
            enter(job)
            around = None
            if app.plugins.has("around_execute"):
                around = partial(app.plugins.around_execute, claim, job.context)
            outcome = await run_body(
                task, claim, payload, self._call, self._clock, self._rng, around
            )
        if job.told:
            await self._reporter.close(job.key)
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
        job.task = None  # whose context leads back here: a ring that only the collector would free
        self.running.pop(job.key, None)
        if job.told:
            self._reporter.forget(job.key)
        if job.why == "lost":
            self._keeper.drop([job.key])
        else:
            if job.progress is not None:
                outcome = _with_progress(outcome, job.progress)
            self._settle(outcome)
        ran = outcome.ran
        self._ended(self._clock.monotonic() - job.started if ran is None else ran)


def _start_of(job: Running) -> Start:
    """Once the keeper knows it, the job is charged with a death if this process ends. A suspect
    that waits for its own process can't be what ends this one, and has no death to spare."""
    hard = None if job.deadline is None else job.deadline + HARD_GRACE
    return job.claim.id, job.claim.fence, hard


def _outcome(job: Running, kind: OutcomeKind, **fields: Any) -> Outcome:
    return Outcome(id=job.claim.id, fence=job.claim.fence, kind=kind, **fields)


def _with_progress(outcome: Outcome, progress: Progress) -> Outcome:
    return replace(outcome, progress=progress)
