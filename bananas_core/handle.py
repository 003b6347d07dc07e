"""The handle of a job: its id, and what can be asked of and done to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

import msgspec

from bananas_core import job as ledger
from bananas_core.arguments import convert_result
from bananas_core.blobs import decode_result_value
from bananas_core.clock import seconds
from bananas_core.errors import JobCancelled, JobExpired, JobFailed, JobNotFound, ResultTimeout
from bananas_core.job import JobState, Ready, Signal, SignalKind
from bananas_core.record import JobRecord, full_record

if TYPE_CHECKING:
    from bananas_core.codec import Codecs
    from bananas_core.results import ResultBackend

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)

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

    def run_blocking(self, function: Callable[[Desk], Coroutine[Any, Any, T]]) -> T:
        """Run ``function`` on an event loop of another thread, with a desk that is open there,
        and wait for it."""
        ...


class Job(Generic[R_co]):
    """One submitted job. Cheap, holds no connection of its own, and may be made from an id."""

    __slots__ = ("_annotation", "_office", "id")

    def __init__(self, id: str, office: Office, annotation: Any = None) -> None:
        self.id = id
        self._office = office
        self._annotation = annotation

    def __repr__(self) -> str:
        return f"<Job {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    async def result(self, timeout: timedelta | float | None = None) -> R_co:
        """Wait for the end and return the task's value, converted to its return annotation if
        the handle came from a task. Safe to repeat.

        Args:
            timeout: seconds; None waits without end.

        Raises:
            JobFailed, JobExpired, JobCancelled: that is how the job ended.
            ResultTimeout: not final in time; the job goes on.
            JobNotFound: no such record, or it was pruned.
            InvalidPayload: the result can't be decoded here.
        """
        return await _result(self._office, self.id, timeout, self._annotation)  # type: ignore[no-any-return]

    async def status(self) -> JobState:
        """Where it stands now. Raises JobNotFound."""
        return await _status(self._office, self.id)

    async def cancel(self, reason: str | None = None) -> bool:
        """Ask that the job doesn't run, or stops. Safe to repeat.

        Returns:
            True if it won't run, or its worker is told to stop it; False if it ended otherwise
            before.

        Raises:
            JobNotFound: no such record.
        """
        return await _cancel(self._office, self.id, reason)

    async def record(self) -> JobRecord:
        """Everything known of it. Raises JobNotFound."""
        return await _record(self._office, self.id)

    def result_blocking(self, timeout: timedelta | float | None = None) -> R_co:
        """``result`` for code without an event loop."""
        annotation = self._annotation
        return self._office.run_blocking(  # type: ignore[no-any-return]
            lambda desk: _result(desk, self.id, timeout, annotation)
        )

    def status_blocking(self) -> JobState:
        """``status`` for code without an event loop."""
        return self._office.run_blocking(lambda desk: _status(desk, self.id))

    def cancel_blocking(self, reason: str | None = None) -> bool:
        """``cancel`` for code without an event loop."""
        return self._office.run_blocking(lambda desk: _cancel(desk, self.id, reason))

    def record_blocking(self) -> JobRecord:
        """``record`` for code without an event loop."""
        return self._office.run_blocking(lambda desk: _record(desk, self.id))


async def _get(desk: Desk, id: str) -> ledger.Job:
    (job,) = await desk.backend.get([id])
    if job is None:
        raise JobNotFound(f"there is no job {id}: it was never accepted, or was pruned")
    return job


async def _status(desk: Desk, id: str) -> JobState:
    return (await _get(desk, id)).state


async def _result(desk: Desk, id: str, timeout: timedelta | float | None, annotation: Any) -> Any:
    clock = asyncio.get_running_loop().time
    end = None if timeout is None else clock() + seconds(timeout)
    job = await _get(desk, id)
    while job.state not in ledger.FINAL:
        left = WAIT if end is None else min(WAIT, end - clock())
        if left <= 0:
            raise ResultTimeout(f"job {id} is {job.state} after {timeout} s; it goes on")
        done = await desk.backend.wait([id], left)
        job = done[0] if done else await _get(desk, id)
    return await _value(desk, job, annotation)


async def _value(desk: Desk, job: ledger.Job, annotation: Any) -> Any:
    """The value of a final job, or the error that says how it ended."""
    from bananas_core.state import EXPIRED  # only the worker's side needs it at import

    if job.state is JobState.CANCELLED:
        raise JobCancelled(None if job.cancel is None else job.cancel.reason)
    if job.state is not JobState.COMPLETED:
        error = job.error or ledger.ErrorInfo(type="Unknown", message=f"the job is {job.state}")
        if error.type == EXPIRED:
            raise JobExpired(error.type, error.message, error.traceback)
        raise JobFailed(error.type, error.message, error.traceback)
    raw = await decode_result_value(
        job, codecs=desk.codecs, backend=desk.backend, max_size=desk.max_payload
    )
    if raw is None:
        return None
    value = msgspec.json.decode(raw)
    return value if annotation is None else convert_result(value, annotation)


async def _cancel(desk: Desk, id: str, reason: str | None) -> bool:
    wish = Signal(id=id, kind=SignalKind.CANCEL, reason=reason)
    answers, ready = await desk.backend.signal([wish])
    if answers[0].state is None:
        raise JobNotFound(f"there is no job {id}: it was never accepted, or was pruned")
    await desk.send_ready(ready)
    return answers[0].done


async def _record(desk: Desk, id: str) -> JobRecord:
    job = await _get(desk, id)
    return await full_record(
        job, codecs=desk.codecs, backend=desk.backend, max_size=desk.max_payload
    )
