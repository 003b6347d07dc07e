"""Listing and counting: a scan over all records, in bounded pages and bounded memory."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Final

from bananas_core.errors import ResultBackendError
from bananas_core.job import Count, Job, JobState, Page, Query
from bananas_core.keyvalue.records import Records

GROUPS: Final = ("state", "name", "routing_key", "worker", "priority", "workflow")
SCAN: Final = 500


async def query(records: Records, wish: Query) -> Page:
    """L26: by (created_at, id), newest first; the cursor names the last one of the page.

    Raises:
        ResultBackendError: the cursor is not one of this ledger.
    """
    before = None if wish.cursor is None else _cursor(wish.cursor)
    limit = max(1, wish.limit)
    found: list[Job] = []
    async for job in _matching(records, wish):
        if before is None or _place(job) < before:
            found.append(job)
        if len(found) >= 2 * limit + SCAN:
            found = heapq.nlargest(limit + 1, found, key=_place)
    found = heapq.nlargest(limit + 1, found, key=_place)
    page = found[:limit]
    cursor = f"{page[-1].created_at!r} {page[-1].id}" if len(found) > limit else None
    return Page(jobs=tuple(page), cursor=cursor)


async def count(records: Records, by: Sequence[str], wish: Query) -> list[Count]:
    """L27.

    Raises:
        ResultBackendError: an unknown field to group by.
    """
    unknown = [name for name in by if name not in GROUPS]
    if unknown:
        raise ResultBackendError(f"can't count by {unknown[0]!r}; fields: {', '.join(GROUPS)}")
    counts: Counter[tuple[str, ...]] = Counter()
    if not by:
        counts[()] = 0
    async for job in _matching(records, wish):
        counts[tuple(_text(getattr(job, name)) for name in by)] += 1
    return [Count(group=group, count=number) for group, number in sorted(counts.items())]


async def _matching(records: Records, wish: Query) -> AsyncIterator[Job]:
    after: str | None = ""
    while after is not None:
        jobs, after = await records.page(after, SCAN)
        for job in jobs:
            if _matches(job, wish):
                yield job


def _matches(job: Job, wish: Query) -> bool:
    return (
        (not wish.states or job.state in wish.states)
        and (wish.name is None or job.name == wish.name)
        and (wish.routing_key is None or job.routing_key == wish.routing_key)
        and (wish.tag is None or wish.tag in job.tags)
        and (wish.worker is None or job.worker == wish.worker)
        and (wish.workflow is None or job.workflow == wish.workflow)
        and (wish.unique is None or job.unique == wish.unique)
        and (wish.since is None or job.created_at >= wish.since)
        and (wish.until is None or job.created_at < wish.until)
        and (wish.pending_before is None or _pending_before(job, wish.pending_before))
    )


def _pending_before(job: Job, instant: float) -> bool:
    return job.state is JobState.PENDING and job.pending_at is not None and job.pending_at < instant


def _place(job: Job) -> tuple[float, str]:
    return job.created_at, job.id


def _cursor(text: str) -> tuple[float, str]:
    at, _, id = text.partition(" ")
    try:
        return float(at), id
    except ValueError as error:
        raise ResultBackendError(f"{text!r:.80} is not a cursor of this ledger") from error


def _text(value: object) -> str:
    return "" if value is None else str(value)
