"""Listing and counting the records of the memory ledger: a scan, as there are no more indexes."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from bananas_core.errors import ResultBackendError
from bananas_core.job import Count, Job, JobState, Page, Query

_GROUPS: Final = {"state", "name", "routing_key", "worker", "priority", "workflow"}


def query(jobs: Iterable[Job], wish: Query) -> Page:
    """L26: by (created_at, id), newest first; the cursor names the last one of the page."""
    before = None if wish.cursor is None else _cursor(wish.cursor)
    limit = max(1, wish.limit)
    matching = (
        job for job in jobs if _matches(job, wish) and (before is None or _place(job) < before)
    )
    found = heapq.nlargest(limit + 1, matching, key=_place)
    page = tuple(found[:limit])
    cursor = f"{page[-1].created_at!r}|{page[-1].id}" if len(found) > limit else None
    return Page(jobs=page, cursor=cursor)


def count(jobs: Iterable[Job], by: Sequence[str], wish: Query | None) -> list[Count]:
    """L27.

    Raises:
        ResultBackendError: an unknown field to group by.
    """
    unknown = [name for name in by if name not in _GROUPS]
    if unknown:
        raise ResultBackendError(f"can't group by {unknown}; known: {sorted(_GROUPS)}")
    groups = Counter(
        tuple("" if getattr(job, name) is None else str(getattr(job, name)) for name in by)
        for job in jobs
        if wish is None or _matches(job, wish)
    )
    if not by and not groups:
        groups[()] = 0
    return [Count(group=group, count=number) for group, number in groups.items()]


def _matches(job: Job, wish: Query) -> bool:
    return (
        (not wish.states or job.state in wish.states)
        and (wish.name is None or job.name == wish.name)
        and (wish.routing_key is None or job.routing_key == wish.routing_key)
        and (wish.worker is None or job.worker == wish.worker)
        and (wish.workflow is None or job.workflow == wish.workflow)
        and (wish.unique is None or job.unique == wish.unique)
        and (wish.tag is None or wish.tag in job.tags)
        and (wish.since is None or job.created_at >= wish.since)
        and (wish.until is None or job.created_at < wish.until)
        and (wish.pending_before is None or _pending_before(job, wish.pending_before))
    )


def _pending_before(job: Job, instant: float) -> bool:
    return job.state is JobState.PENDING and job.pending_at is not None and job.pending_at < instant


def _place(job: Job) -> tuple[float, str]:
    return job.created_at, job.id


def _cursor(text: str) -> tuple[float, str]:
    created_at, _, job_id = text.partition("|")
    try:
        return float(created_at), job_id
    except ValueError as error:
        raise ResultBackendError(f"{text!r:.80} is not a cursor of this ledger") from error
