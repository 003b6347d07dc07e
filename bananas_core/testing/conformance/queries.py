"""Topic: listing and counting. Indexes may lag behind; each test waits for them."""

from __future__ import annotations

from msgspec.structs import replace

from bananas_core.job import Job, JobState, OutcomeKind, Query
from bananas_core.results import ResultBackend
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise, takes
from bananas_core.testing.conformance.support import (
    ERROR,
    Suite,
    a_job,
    a_scope,
    claim_one,
    finish_one,
    put_one,
    started,
)


async def listed(backend: ResultBackend, query: Query) -> list[Job]:
    """All pages of a listing."""
    jobs: list[Job] = []
    cursor: str | None = None
    for _ in range(1000):
        page = await backend.query(replace(query, cursor=cursor))
        assert len(page.jobs) <= query.limit
        jobs += page.jobs
        cursor = page.cursor
        if cursor is None:
            return jobs
    raise AssertionError("a listing that never ends")


async def expect(harness: Harness, backend: ResultBackend, query: Query, ids: set[str]) -> None:
    """A listing finds exactly these jobs, each once."""

    async def found() -> bool:
        jobs = [job.id for job in await listed(backend, query)]
        assert len(jobs) == len(set(jobs)), f"seen twice: {jobs}"
        return set(jobs) == ids

    await harness.eventually(found)


class Listing(Suite):
    @promise("L26")
    async def test_each_condition_selects(self, harness: Harness) -> None:
        backend, session, queue = await harness.backend(), harness.session(), harness.queue()
        plain = await put_one(backend, a_job())
        named = await put_one(backend, a_job(name="other.task", tags=("red", "big")))
        routed = await put_one(backend, a_job(queue, tags=("big",)))
        claim = await claim_one(backend, session, routed)
        failed = await started(backend, harness.session())
        await finish_one(backend, failed, OutcomeKind.FAILED, error=ERROR)
        everything = {plain.id, named.id, routed.id, failed.id}
        for query, ids in (
            (Query(), everything),
            (Query(limit=1), everything),
            (Query(states=(JobState.PENDING,)), {plain.id, named.id}),
            (Query(states=(JobState.FAILED, JobState.PROCESSING)), {failed.id, claim.id}),
            (Query(name="other.task"), {named.id}),
            (Query(routing_key=queue), {routed.id}),
            (Query(tag="big"), {named.id, routed.id}),
            (Query(tag="big", name="other.task"), {named.id}),
            (Query(worker=session, states=(JobState.PROCESSING,)), {routed.id}),
            (Query(tag="nothing"), set()),
        ):
            await expect(harness, backend, query, ids)

    @promise("L26")
    async def test_nodes_and_holders_of_a_key_are_listed(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        root = await put_one(backend, a_scope())
        waiting = await put_one(backend, a_job(workflow=root.id, waiting=True))
        done = await started(backend, session, workflow=root.id, unique="key")
        holder = await put_one(backend, a_job(unique="key"))
        await backend.put([a_job(), a_job(workflow="another", unique="other")])
        await finish_one(backend, done)
        nodes = {root.id, waiting.id, done.id}
        for query, ids in (
            (Query(workflow=root.id), nodes),
            (Query(workflow=root.id, limit=1), nodes),
            (Query(workflow=root.id, states=(JobState.WAITING,)), {root.id, waiting.id}),
            (Query(unique="key"), {done.id, holder.id}),
            (Query(unique="key", states=(JobState.PENDING,)), {holder.id}),
            (Query(unique="key", workflow=root.id), {done.id}),
            (Query(workflow="nothing"), set()),
            (Query(unique="nothing"), set()),
        ):
            await expect(harness, backend, query, ids)

    @promise("L26")
    @takes(6)
    async def test_times_are_half_open_and_the_newest_come_first(self, harness: Harness) -> None:
        backend = await harness.backend()
        puts = []
        for _ in range(3):
            puts.append(await put_one(backend, a_job()))
            await harness.advance(1.0)
        jobs = [job for job in await backend.get([put.id for put in puts]) if job is not None]
        first, second, third = (job.created_at for job in jobs)
        await expect(harness, backend, Query(since=second), {puts[1].id, puts[2].id})
        await expect(harness, backend, Query(until=second), {puts[0].id})
        await expect(harness, backend, Query(since=first, until=third), {p.id for p in puts[:2]})
        await expect(harness, backend, Query(pending_before=second), {puts[0].id})
        for limit in (1, 2, 100):
            order = [job.id for job in await listed(backend, Query(limit=limit))]
            assert order == [put.id for put in reversed(puts)]

    @promise("L26")
    async def test_a_listing_sees_each_job_once_while_others_come(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        puts = [a_job() for _ in range(25)]
        await backend.put(puts)
        await expect(harness, backend, Query(), {put.id for put in puts})
        query, seen = Query(limit=4), list[str]()
        cursor: str | None = None
        while True:
            page = await backend.query(replace(query, cursor=cursor))
            seen += [job.id for job in page.jobs]
            cursor = page.cursor
            if cursor is None:
                break
            await put_one(backend, a_job())
            await finish_one(backend, await started(backend, session))
        mine = [job_id for job_id in seen if job_id in {put.id for put in puts}]
        assert sorted(mine) == sorted(put.id for put in puts)
        assert len(seen) == len(set(seen))


class Tallying(Suite):
    @promise("L27")
    async def test_counts_by_each_field(self, harness: Harness) -> None:
        backend, session, queue = await harness.backend(), harness.session(), harness.queue()
        await backend.put([a_job(queue, priority=10), a_job(priority=10), a_job(priority=90)])
        await started(backend, session, name="other.task", priority=90)
        cases: tuple[tuple[tuple[str, ...], dict[tuple[str, ...], int]], ...] = (
            (("state",), {("pending",): 3, ("processing",): 1}),
            (("name",), {("conformance.task",): 3, ("other.task",): 1}),
            (("routing_key",), {(queue,): 1, ("default",): 3}),
            (("priority",), {("10",): 2, ("90",): 2}),
            (("state", "priority"), {("pending", "10"): 2, ("pending", "90"): 1,
                                     ("processing", "90"): 1}),
            ((), {(): 4}),
        )  # fmt: skip
        for by, wanted in cases:

            async def counted(
                by: tuple[str, ...] = by, wanted: dict[tuple[str, ...], int] = wanted
            ) -> bool:
                counts = await backend.count(by)
                return {c.group: c.count for c in counts} == wanted

            await harness.eventually(counted)
        workers = {c.group: c.count for c in await backend.count(["worker"])}
        assert workers[(session,)] == 1

    @promise("L27")
    async def test_nodes_are_counted_by_workflow(self, harness: Harness) -> None:
        backend = await harness.backend()
        one, two = await put_one(backend, a_scope()), await put_one(backend, a_scope())
        nodes = [a_job(workflow=one.id, waiting=n > 0, unique="key") for n in range(3)]
        await backend.put([*nodes, a_job(workflow=two.id, waiting=True), a_job()])

        async def counted() -> bool:
            by_workflow = {c.group: c.count for c in await backend.count(["workflow"])}
            by_both = {c.group: c.count for c in await backend.count(["workflow", "state"])}
            mine = {
                c.group: c.count for c in await backend.count(["state"], Query(workflow=one.id))
            }
            (held,) = await backend.count([], Query(unique="key"))
            return (
                (by_workflow[(one.id,)], by_workflow[(two.id,)]) == (4, 2)
                and by_both[(one.id, "waiting")] == 3
                and mine == {("waiting",): 3, ("pending",): 1}
                and held.count == 3
            )

        await harness.eventually(counted)

    @promise("L27")
    async def test_a_count_takes_conditions(self, harness: Harness) -> None:
        backend = await harness.backend()
        await backend.put([a_job(tags=("red",)), a_job(tags=("red",)), a_job()])

        async def counted() -> bool:
            (found,) = await backend.count(["state"], Query(tag="red", limit=1, cursor="ignored"))
            return (found.group, found.count) == (("pending",), 2)

        await harness.eventually(counted)
