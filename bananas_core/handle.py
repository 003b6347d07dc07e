"""The handle of a job: its id, and what can be asked of and done to it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Generic, TypeVar

import msgspec

from bananas_core.arguments import convert_result
from bananas_core.blobs import decode_result_value
from bananas_core.desk import (
    Desk,
    Office,
    cancel_record,
    get_record,
    raise_unless_completed,
    wait_for_end,
)
from bananas_core.job import JobState
from bananas_core.record import JobRecord, full_record

__all__ = ["Desk", "Job", "Office"]

R_co = TypeVar("R_co", covariant=True)


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


async def _status(desk: Desk, id: str) -> JobState:
    return (await get_record(desk, id)).state


async def _result(desk: Desk, id: str, timeout: timedelta | float | None, annotation: Any) -> Any:
    job = await wait_for_end(desk, id, timeout)
    raise_unless_completed(job)
    raw = await decode_result_value(
        job, codecs=desk.codecs, backend=desk.backend, max_size=desk.max_payload
    )
    if raw is None:
        return None
    value = msgspec.json.decode(raw)
    return value if annotation is None else convert_result(value, annotation)


async def _record(desk: Desk, id: str) -> JobRecord:
    job = await get_record(desk, id)
    return await full_record(
        job, codecs=desk.codecs, backend=desk.backend, max_size=desk.max_payload
    )


async def _cancel(desk: Desk, id: str, reason: str | None) -> bool:
    """Cancel it, and give back the turn of a limit that it waited for."""
    (before,) = await desk.backend.get([id])
    done = await cancel_record(desk, id, reason)
    if done and before is not None and before.held is not None:
        from bananas_core.limits.giving import give_back_of  # most programs have no limits

        await give_back_of(desk.backend, [before])
    return done
