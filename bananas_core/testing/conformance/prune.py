"""Topic: what may go goes, and nothing else."""

from __future__ import annotations

from bananas_core.job import (
    JobState,
    OutcomeKind,
    Retention,
    Settled,
    Signal,
    SignalKind,
    Write,
)
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise, requires
from bananas_core.testing.conformance.support import (
    ERROR,
    Suite,
    a_job,
    a_scope,
    finish_one,
    outcome,
    put_one,
    signal_one,
    started,
    state_of,
)

NONE = Retention(completed=0.0, failed=0.0, cancelled=0.0, quarantined=0.0, events=0.0)
slow = requires(lambda c: c.manual_clock, "records stay for at least ten minutes")


class Pruning(Suite):
    @promise("L42")
    @slow
    async def test_final_records_go_after_their_time(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        done, failed = await started(backend, session), await started(backend, session)
        await finish_one(backend, done)
        await finish_one(backend, failed, OutcomeKind.FAILED, error=ERROR)
        policy = Retention(completed=1000.0, failed=2000.0)
        await harness.advance(990.0)
        assert await backend.prune(policy, 100) == 0
        await harness.advance(20.0)
        assert await backend.prune(policy, 100) == 1
        assert [job and job.id for job in await backend.get([done.id, failed.id])] == [
            None,
            failed.id,
        ]
        await harness.advance(1000.0)
        assert await backend.prune(policy, 100) == 1
        assert await backend.get([failed.id]) == [None]

    @promise("L43")
    @slow
    async def test_nothing_live_is_ever_deleted(self, harness: Harness) -> None:
        backend = await harness.backend()
        pending, scheduled = a_job(), a_job(delay=1e6)
        await backend.put([pending, scheduled])
        running = await started(backend, harness.session())
        await harness.advance(500_000.0)
        assert await backend.prune(Retention(completed=0.0, failed=0.0, most=0), 100) == 0
        states = [await state_of(backend, i) for i in (pending.id, scheduled.id, running.id)]
        assert states == [JobState.PENDING, JobState.SCHEDULED, JobState.PROCESSING]

    @promise("L43")
    @slow
    async def test_nothing_young_is_ever_deleted(self, harness: Harness) -> None:
        backend = await harness.backend()
        claim = await started(backend, harness.session())
        await harness.advance(5_000.0)
        await finish_one(backend, claim)
        await harness.advance(590.0)
        assert await backend.prune(Retention(completed=0.0, most=0), 100) == 0
        assert await state_of(backend, claim.id) is JobState.COMPLETED
        await harness.advance(20.0)
        assert await backend.prune(NONE, 100) == 1

    @promise("L43")
    @slow
    async def test_a_retried_job_is_live_again(self, harness: Harness) -> None:
        backend = await harness.backend()
        claim = await started(backend, harness.session())
        await finish_one(backend, claim, OutcomeKind.FAILED, error=ERROR)
        await backend.signal([Signal(id=claim.id, kind=SignalKind.RETRY)])
        await harness.advance(5_000.0)
        assert await backend.prune(NONE, 100) == 0
        assert await state_of(backend, claim.id) is JobState.PENDING

    @promise("L42")
    @slow
    async def test_the_oldest_over_the_count_go(self, harness: Harness) -> None:
        backend, session, ids = await harness.backend(), harness.session(), []
        for kind in (OutcomeKind.FAILED, OutcomeKind.COMPLETED) * 3:
            claim = await started(backend, session)
            await finish_one(backend, claim, kind, error=ERROR)
            ids.append(claim.id)
            await harness.advance(1.0)
        await put_one(backend, a_job())
        await harness.advance(700.0)
        assert await backend.prune(Retention(most=4), 100) == 2
        left = [job.id for job in await backend.get(ids) if job is not None]
        assert left == ids[2:]

    @promise("L42")
    @slow
    async def test_a_call_deletes_no_more_than_its_limit(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        for _ in range(7):
            await finish_one(backend, await started(backend, session))
        await harness.advance(700.0)
        assert [await backend.prune(NONE, 3) for _ in range(4)] == [3, 3, 1, 0]

    @promise("L42")
    @slow
    async def test_documents_go_with_their_job(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        done, kept = await started(backend, session, id="j1"), await started(backend, session)
        keys = ["job/j1/log", "job/j1/result", "job/j10/log", "job/j1", f"job/{kept.id}/log"]
        await backend.cas([Write(key=key, value=b"x") for key in keys])
        await finish_one(backend, done)
        await harness.advance(700.0)
        assert await backend.prune(NONE, 100) == 1
        assert {doc.key for doc in await backend.docs("job/")} == set(keys[2:])

    @promise("L43", "L9")
    @slow
    async def test_what_is_not_followed_up_stays(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        node = await started(backend, session, workflow="gone")
        holder = await started(backend, session, unique="key")
        await backend.finish([outcome(claim) for claim in (node, holder)])
        await harness.advance(5_000.0)
        for policy in (NONE, Retention(completed=0.0, most=0)):
            assert await backend.prune(policy, 100) == 0
        await backend.put([], settled=[Settled(id=node.id, gen=1, followed=True)])
        assert await backend.prune(NONE, 100) == 1
        assert [job and job.id for job in await backend.get([node.id, holder.id])] == [
            None,
            holder.id,
        ]
        await backend.due(10, settled=[Settled(id=holder.id, gen=1, followed=True)])
        assert await backend.prune(NONE, 100) == 1

    @promise("L51", "L42")
    @slow
    async def test_a_node_stays_until_its_workflow_may_go(self, harness: Harness) -> None:
        backend, root = await harness.backend(), a_scope()
        await put_one(backend, root)
        claim = await started(backend, harness.session(), workflow=root.id)
        keys = [f"job/{root.id}/page/0", f"job/{claim.id}/result"]
        await backend.cas([Write(key=key, value=b"x") for key in keys])
        await finish_one(backend, claim)
        await backend.put([], settled=[Settled(id=claim.id, gen=1, followed=True)])
        await harness.advance(5_000.0)
        for policy in (NONE, Retention(completed=0.0, most=0)):
            assert await backend.prune(policy, 100) == 0  # the whole is live
        await signal_one(backend, root.id, SignalKind.END, state=JobState.COMPLETED)
        await harness.advance(5_000.0)
        for policy in (NONE, Retention(completed=0.0, most=0)):
            assert await backend.prune(policy, 100) == 0  # it is not followed up
        await backend.put([], settled=[Settled(id=root.id, gen=1, followed=True)])
        assert await backend.prune(Retention(completed=20_000.0), 100) == 0  # it is young
        assert None not in await backend.get_docs(keys)
        gone = [await backend.prune(NONE, 100) for _ in range(3)]
        assert sum(gone) == 2
        assert await backend.get([root.id, claim.id]) == [None, None]
        assert await backend.get_docs(keys) == [None, None]

    @promise("L51", "L42")
    @slow
    async def test_a_workflow_over_the_count_goes_as_a_whole(self, harness: Harness) -> None:
        backend, root = await harness.backend(), a_scope()
        await put_one(backend, root)
        claims = [await started(backend, harness.session(), workflow=root.id) for _ in range(4)]
        await backend.finish([outcome(claim) for claim in claims])
        await signal_one(backend, root.id, SignalKind.END, state=JobState.COMPLETED)
        ids = [root.id, *(claim.id for claim in claims)]
        await backend.put([], settled=[Settled(id=i, gen=1, followed=True) for i in ids])
        await harness.advance(700.0)
        gone = [await backend.prune(Retention(most=0), 2) for _ in range(8)]
        assert max(gone) <= 2
        assert sum(gone) == 5
        assert await backend.get(ids) == [None] * 5

    @promise("L51", "L42")
    @slow
    async def test_nodes_that_stay_hold_up_nobody(self, harness: Harness) -> None:
        backend, session, root = await harness.backend(), harness.session(), a_scope()
        await put_one(backend, root)
        nodes = [await started(backend, session, workflow=root.id) for _ in range(7)]
        await backend.finish([outcome(claim) for claim in nodes])
        items = [Settled(id=claim.id, gen=1, followed=True) for claim in nodes]
        await backend.put([], settled=items)
        await harness.advance(10.0)
        plain = [await started(backend, session) for _ in range(4)]
        await backend.finish([outcome(claim) for claim in plain])
        await harness.advance(700.0)
        gone = [await backend.prune(NONE, 3) for _ in range(8)]
        assert sum(gone) == 4
        assert await backend.get([claim.id for claim in plain]) == [None] * 4
        assert None not in await backend.get([claim.id for claim in nodes])
