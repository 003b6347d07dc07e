"""A record as a row: scalars in columns, the rest in one small blob."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from bananas_core.job import (
    AttemptInfo,
    Cancel,
    ErrorInfo,
    Held,
    Job,
    JobState,
    Progress,
)

STATES: Final = (
    JobState.WAITING,
    JobState.SCHEDULED,
    JobState.PENDING,
    JobState.PROCESSING,
    JobState.COMPLETED,
    JobState.FAILED,
    JobState.CANCELLED,
    JobState.QUARANTINED,
)
"""Numbered as stored; the partial indexes of the schema know these numbers."""
NUMBERS: Final = {state: number for number, state in enumerate(STATES)}

FIXED: Final = (
    "seq ns id name routing_key created_at max_attempts queue_timeout is_foreign keep_until "
    "workflow unique_key"
).split()
CHANGING: Final = (
    "state priority head rank ord gen fence failures deaths worker changed_at pending_at "
    "started_at finished_at run_at expires_at start_by guard_at guard_hold due_at detail"
).split()

COLUMNS: Final = ", ".join(
    f"jobs.{name}" for name in (FIXED + CHANGING) if name not in ("ns", "rank", "due_at")
)
"""What ``job`` takes, before the message; ``seq`` is whatever the database knows a row by."""


class Detail(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={
        "attempts": "a",
        "result": "r",
        "error": "e",
        "progress": "p",
        "held": "h",
        "cancel": "c",
        "tags": "t",
        "scope": "s",
        "delay": "d",
    },
):
    """What only some records have; NULL when there is none of it."""

    attempts: tuple[AttemptInfo, ...] = ()
    result: bytes | None = None
    error: ErrorInfo | None = None
    progress: Progress | None = None
    held: Held | None = None
    cancel: Cancel | None = None
    tags: tuple[str, ...] = ()
    scope: bool = False
    delay: float | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Detail).decode


def rank(priority: int, head: bool) -> int:
    """What pending rows are sorted by, before their ``ord``."""
    return (100 - priority) * 2 + (not head)


def changing(job: Job, order: int) -> tuple[Any, ...]:
    """Values of ``CHANGING``."""
    head = job.head
    timeless = job.guard_at is job.run_at is job.start_by is job.expires_at is None
    return (
        NUMBERS[job.state],
        job.priority,
        head,
        (100 - job.priority) * 2 + (not head),
        order,
        job.gen,
        job.fence,
        job.failures,
        job.deaths,
        job.worker,
        job.changed_at,
        job.pending_at,
        job.started_at,
        job.finished_at,
        job.run_at,
        job.expires_at,
        job.start_by,
        job.guard_at,
        job.guard_hold,
        None if timeless else job.due_at,
        _detail(job),
    )


def _detail(job: Job) -> bytes | None:
    """None for most new jobs, which have none of it."""
    if not (
        job.attempts
        or job.tags
        or job.result is not None
        or job.error is not None
        or job.progress is not None
        or job.held is not None
        or job.cancel is not None
        or job.scope
        or job.delay is not None
    ):
        return None
    return _encode(
        Detail(
            attempts=job.attempts,
            result=job.result,
            error=job.error,
            progress=job.progress,
            held=job.held,
            cancel=job.cancel,
            tags=job.tags,
            scope=job.scope,
            delay=job.delay,
        )
    )


def fixed(job: Job, seq: int, ns: int) -> tuple[Any, ...]:
    """Values of ``FIXED``."""
    return (
        seq,
        ns,
        job.id,
        job.name,
        job.routing_key,
        job.created_at,
        job.max_attempts,
        job.queue_timeout,
        job.foreign,
        job.keep_until,
        job.workflow,
        job.unique,
    )


def job(row: tuple[Any, ...], message: bytes = b"") -> Job:
    """The record of a row of ``COLUMNS``."""
    raw = row[29]
    detail = _EMPTY if raw is None else _decode(raw)
    return Job(
        id=row[1],
        name=row[2],
        routing_key=row[3],
        created_at=row[4],
        max_attempts=row[5],
        queue_timeout=row[6],
        foreign=bool(row[7]),
        keep_until=row[8],
        workflow=row[9],
        unique=row[10],
        state=STATES[row[11]],
        priority=row[12],
        head=bool(row[13]),
        gen=row[15],
        fence=row[16],
        failures=row[17],
        deaths=row[18],
        worker=row[19],
        changed_at=row[20],
        pending_at=row[21],
        started_at=row[22],
        finished_at=row[23],
        run_at=row[24],
        expires_at=row[25],
        start_by=row[26],
        guard_at=row[27],
        guard_hold=row[28],
        message=message,
        attempts=detail.attempts,
        result=detail.result,
        error=detail.error,
        progress=detail.progress,
        held=detail.held,
        cancel=detail.cancel,
        tags=detail.tags,
        scope=detail.scope,
        delay=detail.delay,
    )


SEQ: Final = 0
PRIORITY: Final = 12
HEAD: Final = 13
ORD: Final = 14
MESSAGE: Final = 30
"""Where these stand in a row of ``COLUMNS``; the message, if selected, comes last."""
_EMPTY: Final = Detail()
