"""What must hold of the rows of a namespace at any moment when no call is under way."""

from __future__ import annotations

from typing import Any

import asyncpg

from bananas_brokers.postgres import rows
from bananas_brokers.sql.rows import rank
from bananas_core.job import JobState

_ALL = (
    f"SELECT {rows.COLUMNS}, jobs.message, jobs.rank, jobs.due_at FROM bananas.jobs "
    "JOIN bananas.namespaces USING (ns) WHERE namespaces.name = $1"
)


async def check(url: str, namespace: str) -> None:
    """Compare what only serves indexes with the records. Raises AssertionError."""
    connection: Any = await asyncpg.connect(url.partition("?")[0])
    try:
        for row in await connection.fetch(_ALL, namespace):
            job = rows.job(row, whole=True)
            assert row["rank"] == rank(job.priority, job.head), f"rank of {job}"
            assert row["due_at"] == job.due_at, f"due_at of {job}"
            runs = job.state is JobState.PROCESSING
            assert not runs or job.attempts[-1].fence == job.fence, f"timeline of {job}"
            said = rows.changing(job, row["ord"])[-2]
            assert row["claimed_at"] == said, f"claimed_at of {job}"
    finally:
        await connection.close()
