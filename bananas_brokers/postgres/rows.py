"""A record as a row of this driver.

Besides what all SQL drivers have in common, a result and tags are columns of their own, and the
last entry of a timeline is left out where the columns say it: that of a claim that runs, or of one
that completed. So a job that succeeds at once never has a ``detail``, and a statement can claim and
finish it without knowing what was there.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec.structs import replace

from bananas_brokers.sql import rows
from bananas_core.job import TIMELINE, AttemptInfo, Job, JobState

_FIXED: Final = [name for name in rows.FIXED if name not in ("seq", "ns")]
COLUMNS: Final = ", ".join(
    ["jobs.result"]
    + [f"jobs.{n}" for n in _FIXED]
    + [f"jobs.{n}" for n in rows.CHANGING if n not in ("rank", "due_at")]
    + ["jobs.claimed_at", "jobs.tags"]
)
"""What ``job`` takes, before the message."""
_RESULT: Final = 0
_CLAIMED: Final = 30
_TAGS: Final = 31
_MESSAGE: Final = 32

_tags = msgspec.json.Encoder().encode


def job(row: Any, *, whole: bool) -> Job:
    """The record of a row of ``COLUMNS``, with its message at the end if ``whole``."""
    found = rows.job(row, row[_MESSAGE] if whole else b"")
    result, claimed_at, tags = row[_RESULT], row[_CLAIMED], row[_TAGS]
    if claimed_at is not None:
        entry = _last(found, claimed_at)
        found = replace(found, result=result, attempts=(*found.attempts, entry)[-TIMELINE:])
    elif result is not None:
        found = replace(found, result=result)
    return found if tags is None else replace(found, tags=tuple(tags))


def changing(job: Job, order: int) -> tuple[Any, ...]:
    """Values for ``update.sql``, after the id."""
    claimed_at = None
    attempts = job.attempts
    if attempts and attempts[-1].fence == job.fence:
        said = _last(job, attempts[-1].claimed_at)
        if said is not None and said == attempts[-1]:
            claimed_at, attempts = attempts[-1].claimed_at, attempts[:-1]
    bare = replace(job, result=None, tags=(), attempts=attempts)
    return (*rows.changing(bare, order), claimed_at, job.result)


def created(job: Job, order: int) -> tuple[Any, ...]:
    """Values for ``insert.sql``."""
    tags = _tags(job.tags).decode() if job.tags else None
    return (*rows.fixed(job, 0, 0)[2:], *changing(job, order), tags, job.message)


def _last(job: Job, claimed_at: float) -> Any:
    """The entry of the timeline that the columns say; None if they say none."""
    if job.state is JobState.PROCESSING:
        return AttemptInfo(
            attempt=job.attempt, fence=job.fence, worker=job.worker or "", claimed_at=claimed_at
        )
    if job.state is JobState.COMPLETED:
        return AttemptInfo(
            attempt=job.attempt,
            fence=job.fence,
            worker=job.worker or "",
            claimed_at=claimed_at,
            ended_at=job.finished_at,
            started_at=job.started_at,
            outcome="completed",
        )
    return None
