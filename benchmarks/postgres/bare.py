"""The limit line for PostgreSQL: a plain asyncpg loop that does the same writes and nothing else.

The very tables, columns and indexes of the driver, a commit on disk for each batch, and the same
batches: a row per job, an update when it is claimed, an update with the result when it is done, an
event row for each batch; a batch is one statement. All values are constants of the usual size: no
tasks, no validation, no decisions, no sessions, no notifications, no second connection.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Final

import asyncpg

from bananas_brokers.postgres.results import PostgresResultBackend
from benchmarks.rounds import Stopwatch, report, timed
from benchmarks.workload import BATCH, CLAIM, MESSAGE

RESULT: Final = b"12345"
WORKER: Final = "host-12345-0123456789ab"
_NOTED: Final = """noted AS (
    INSERT INTO bananas.events (ns, at, old, new, ids, names, queues, attempts, fences, workflows)
    SELECT 1, min(at), $1::smallint, $2::smallint, array_agg(id), array_agg(name),
        array_agg(routing_key), array_agg(1::bigint), array_agg(fence), array_agg(NULL::text)
    FROM changed HAVING count(*) > 0
)"""
INSERT: Final = f"""
WITH changed AS (
    INSERT INTO bananas.jobs (
        ns, id, name, routing_key, created_at, max_attempts, is_foreign, keep_until, state,
        priority, head, rank, ord, gen, fence, failures, deaths, changed_at, pending_at,
        guard_hold, message
    )
    SELECT 1, u.id, 'benchmarks.noop', 'default', $3::float8, 3, 0, $3::float8, 2, 50, 0, 101,
        u.ord, 1, 0, 0, 0, $3::float8, $3::float8, 0, u.message
    FROM unnest($4::text[], $5::bigint[], $6::bytea[]) AS u (id, ord, message)
    RETURNING id, name, routing_key, fence, changed_at AS at
), {_NOTED}
SELECT count(*) FROM changed
"""
TAKE: Final = f"""
WITH best AS MATERIALIZED (
    SELECT id FROM bananas.jobs
    WHERE ns = 1 AND routing_key = 'default' AND state = 2
    ORDER BY ns, routing_key, rank, ord LIMIT $4::int FOR UPDATE SKIP LOCKED
), changed AS (
    UPDATE bananas.jobs SET state = 3, worker = $5::text, changed_at = $3::float8,
        started_at = $3::float8, claimed_at = $3::float8, fence = ($3::float8 * 1000000)::bigint
    WHERE ns = 1 AND id = ANY(ARRAY(SELECT id FROM best))
    RETURNING id, name, routing_key, fence, changed_at AS at, message
), {_NOTED}
SELECT id, message FROM changed
"""
DONE: Final = f"""
WITH changed AS (
    UPDATE bananas.jobs AS j SET state = 4, changed_at = $3::float8, finished_at = $3::float8,
        result = u.result
    FROM unnest($4::text[], $5::bytea[]) AS u (id, result)
    WHERE j.ns = 1 AND j.id = ANY($4::text[]) AND j.id = u.id
    RETURNING j.id, name, routing_key, fence, changed_at AS at
), {_NOTED}
SELECT count(*) FROM changed
"""


async def connect(url: str) -> asyncpg.Connection:
    """Make the tables as the driver does."""
    backend = PostgresResultBackend(url, "bananas")
    await backend.open()
    await backend.close()
    # As on the driver's own connections: a plan of when the tables were empty is kept.
    return await asyncpg.connect(
        url,
        server_settings={
            "plan_cache_mode": "force_generic_plan",
            "enable_seqscan": "off",
            "enable_bitmapscan": "off",
            "enable_nestloop": "off",
            "enable_mergejoin": "off",
            "jit": "off",
        },
    )


async def submit(connection: asyncpg.Connection, jobs: int) -> None:
    for begin in range(0, jobs, BATCH):
        numbers = list(range(begin + 1, min(begin + BATCH, jobs) + 1))
        ids = [f"{n:032x}" for n in numbers]
        messages = [MESSAGE] * len(ids)
        await connection.fetch(INSERT, None, 2, time.time(), ids, numbers, messages)


async def drain(connection: asyncpg.Connection) -> None:
    while found := await connection.fetch(TAKE, 2, 3, time.time(), CLAIM, WORKER):
        ids = [row["id"] for row in found]
        await connection.fetch(DONE, 3, 4, time.time(), ids, [RESULT] * len(ids))


async def measure(what: str, jobs: int, url: str) -> Stopwatch:
    connection = await connect(url)
    if what == "submit":
        with timed() as watch:
            await submit(connection, jobs)
    else:
        await submit(connection, jobs)
        with timed() as watch:
            await drain(connection)
    await connection.close()
    return watch


if __name__ == "__main__":
    count = int(sys.argv[2])
    try:
        import uvloop
    except ImportError:
        done = asyncio.run(measure(sys.argv[1], count, sys.argv[3]))
    else:
        done = uvloop.run(measure(sys.argv[1], count, sys.argv[3]))
    report(count, done)
