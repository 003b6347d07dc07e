"""What handles of jobs and workflows need: an open ledger, and waiting for the end of a record."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from bananas_core.clock import seconds
from bananas_core.errors import JobCancelled, JobExpired, JobFailed, JobNotFound, ResultTimeout
from bananas_core.job import EXPIRED, FINAL, ErrorInfo, Job, JobState, Ready, Signal, SignalKind

if TYPE_CHECKING:
    from bananas_core.codec import Codecs
    from bananas_core.results import ResultBackend

T = TypeVar("T")

WAIT: Final = 20.0
"""Seconds of one wait, after which it is checked that the record still exists."""


class Desk(Protocol):
    """A ledger that is open on the running event loop, and how to read its values."""

    @property
    def backend(self) -> ResultBackend: ...
    @property
    def codecs(self) -> Codecs: ...
    @property
    def max_payload(self) -> int: ...

    async def send_ready(self, ready: Sequence[Ready]) -> None:
        """Send what a signal made pending."""
        ...


class Office(Desk, Protocol):
    """What gives out handles: an app."""

    def run_blocking(self, function: Callable[[Desk], Coroutine[object, object, T]]) -> T:
        """Run ``function`` on an event loop of another thread, with a desk that is open there,
        and wait for it."""
        ...


async def get_record(desk: Desk, id: str, what: str = "job") -> Job:
    """Raises JobNotFound."""
    (job,) = await desk.backend.get([id])
    if job is None:
        raise JobNotFound(f"there is no {what} {id}: it was never accepted, or was pruned")
    return job


async def wait_for_end(
    desk: Desk, id: str, timeout: timedelta | float | None, what: str = "job"
) -> Job:
    """The record once it is final.

    Raises:
        JobNotFound: there is none, or it was pruned.
        ResultTimeout: not final after ``timeout`` seconds.
    """
    from asyncio import get_running_loop  # not at `import bananas`

    clock = get_running_loop().time
    end = None if timeout is None else clock() + seconds(timeout)
    job = await get_record(desk, id, what)
    while job.state not in FINAL:
        left = WAIT if end is None else min(WAIT, end - clock())
        if left <= 0:
            raise ResultTimeout(f"{what} {id} is {job.state} after {timeout} s; it goes on")
        done = await desk.backend.wait([id], left)
        job = done[0] if done else await get_record(desk, id, what)
    return job


def raise_unless_completed(job: Job) -> None:
    """Raises the error that says how a final record ended: JobFailed, JobExpired, JobCancelled."""
    if job.state is JobState.CANCELLED:
        raise JobCancelled(None if job.cancel is None else job.cancel.reason)
    if job.state is not JobState.COMPLETED:
        error = job.error or ErrorInfo(type="Unknown", message=f"the job is {job.state}")
        kind = JobExpired if error.type == EXPIRED else JobFailed
        raise kind(error.type, error.message, error.traceback)


async def cancel_record(desk: Desk, id: str, reason: str | None, what: str = "job") -> bool:
    """Whether it won't run, or is told to stop. Raises JobNotFound."""
    wish = Signal(id=id, kind=SignalKind.CANCEL, reason=reason)
    answers, ready = await desk.backend.signal([wish])
    if answers[0].state is None:
        raise JobNotFound(f"there is no {what} {id}: it was never accepted, or was pruned")
    await desk.send_ready(ready)
    return answers[0].done
