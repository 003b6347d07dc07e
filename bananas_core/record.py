"""The public view of a job: what the ledger keeps, with instants as datetimes, values decoded."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bananas_core.blobs import decode_payload_value, decode_result_value, plain_result
from bananas_core.clock import to_datetime
from bananas_core.codec import CodecContext, Codecs
from bananas_core.errors import InvalidPayload
from bananas_core.job import AttemptInfo, ErrorInfo, Job, JobState, Progress
from bananas_core.message import decode_stored

if TYPE_CHECKING:
    from bananas_core.results import ResultBackend

UNREADABLE: Final = (InvalidPayload, msgspec.DecodeError, RecursionError, ValueError)
"""What decoding bytes raises that nobody checked: quarantined ones, or a foreign codec's."""


class TimelineEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One hand-out of the job to a worker, and what became of it."""

    attempt: int
    fence: int
    worker: str
    claimed_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    outcome: str | None
    error: ErrorInfo | None


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known of one job, at one moment."""

    id: str
    name: str
    state: JobState
    attempt: int
    max_attempts: int
    priority: int
    routing_key: str
    payload: Any
    """The arguments as plain JSON values; None if they can't be decoded here."""
    result: Any
    """The value as plain JSON; None if there is none, or none is kept."""
    error: ErrorInfo | None
    progress: Progress | None
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    worker: str | None
    timeline: tuple[TimelineEntry, ...]


def to_record(job: Job, *, payload: Any, result: Any) -> JobRecord:
    """The record of the ledger's ``job`` with decoded values."""
    return JobRecord(
        id=job.id,
        name=job.name,
        state=job.state,
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        priority=job.priority,
        routing_key=job.routing_key,
        payload=payload,
        result=result,
        error=job.error,
        progress=job.progress,
        created_at=to_datetime(job.created_at),
        started_at=to_datetime(job.started_at),
        finished_at=to_datetime(job.finished_at),
        worker=job.worker,
        timeline=tuple(_entry(entry) for entry in job.attempts),
    )


def brief_record(job: Job, codecs: Codecs) -> JobRecord:
    """The record for a listing: values that lie in chunks of their own are not fetched (None)."""
    return to_record(job, payload=_plain_payload(job, codecs), result=plain_result(job, codecs))


async def full_record(
    job: Job, *, codecs: Codecs, backend: ResultBackend, max_size: int
) -> JobRecord:
    """The record with all values, fetched where needed; None for what can't be decoded here.

    Raises:
        ResultBackendError: chunks could not be read.
    """
    payload = result = None
    try:
        message = decode_stored(job.message)
        raw = await decode_payload_value(
            bytes(message.payload),
            message.encoding,
            CodecContext(job_id=job.id, name=job.name, kind="payload"),
            codecs=codecs,
            backend=backend,
            max_size=max_size,
        )
        payload = msgspec.json.decode(raw)
    except UNREADABLE:
        pass  # quarantined bytes, or a codec that only the workers have
    try:
        found = await decode_result_value(job, codecs=codecs, backend=backend, max_size=max_size)
        result = None if found is None else msgspec.json.decode(found)
    except UNREADABLE:
        pass
    return to_record(job, payload=payload, result=result)


def _plain_payload(job: Job, codecs: Codecs) -> Any:
    try:
        message = decode_stored(job.message)
        return None if message.encoding else msgspec.json.decode(message.payload)
    except UNREADABLE:
        return None


def _entry(entry: AttemptInfo) -> TimelineEntry:
    return TimelineEntry(
        attempt=entry.attempt,
        fence=entry.fence,
        worker=entry.worker,
        claimed_at=to_datetime(entry.claimed_at),
        started_at=to_datetime(entry.started_at),
        ended_at=to_datetime(entry.ended_at),
        outcome=entry.outcome,
        error=entry.error,
    )
