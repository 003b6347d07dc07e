"""What a workflow puts on the wire and into the ledger doesn't grow with its nesting."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from bananas import Bananas, chain, chord
from bananas.testing import drain, memory_app
from bananas_core.job import Job, Query


def five_chords(app: Bananas) -> Any:
    @app.task
    async def part(x: int, n: int) -> int:
        return x + n

    @app.task
    async def total(values: list[int]) -> int:
        return sum(values)

    first = chord([part.job(0, n) for n in range(10)], total.job())
    rest = [chord([part.job(n=n) for n in range(10)], total.job()) for _ in range(4)]
    return chain(first, *rest)


async def records(app: Bananas, workflow: str) -> list[Job]:
    found: list[Job] = []
    query = Query(workflow=workflow, limit=500)
    while True:
        page = await app.backend.query(query)
        found += page.jobs
        if page.cursor is None:
            return found
        query = replace(query, cursor=page.cursor)


async def test_five_chained_chords_of_ten_are_small() -> None:
    app = memory_app()
    async with app:
        flow = await five_chords(app).submit()
        jobs = await records(app, flow.id)
        sent = [job for job in jobs if not job.scope]
        assert (len(jobs), len(sent)) == (66, 55)
        assert sum(len(job.message) for job in jobs) < 50_000
        await drain(app)
        assert await flow.result(timeout=5) == 499_995
        docs = await app.backend.docs(f"job/{flow.id}/", limit=500)
        total = sum(len(job.message) for job in await records(app, flow.id))
        assert total + sum(len(doc.value) for doc in docs) < 100_000


async def test_a_node_is_as_large_in_a_large_group_as_in_a_small_one() -> None:
    app = memory_app()

    @app.task
    async def part(n: int) -> int:
        return n

    sizes = {}
    async with app:
        for count in (10, 3_000):
            flow = await chord([part.job(7) for _ in range(count)], part.job()).submit()
            jobs = await records(app, flow.id)
            assert len(jobs) == count + 3
            sizes[count] = max(len(job.message) for job in jobs)
    assert sizes[3_000] <= sizes[10] + 20
