"""Topic: wishes from outside: cancel, retry, change."""

from __future__ import annotations

from bananas_core.job import JobState, OutcomeKind, Signal, SignalKind, VerdictKind
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise
from bananas_core.testing.conformance.support import (
    ERROR,
    Suite,
    a_job,
    all_due,
    claim_one,
    finish_one,
    hint,
    put_one,
    record,
    started,
    state_of,
)


def cancel(job_id: str) -> Signal:
    return Signal(id=job_id, kind=SignalKind.CANCEL, by="tester", reason="enough")


class Cancelling(Suite):
    @promise("L30")
    async def test_a_job_that_is_not_running_ends_cancelled(self, harness: Harness) -> None:
        backend = await harness.backend()
        pending, scheduled = a_job(), a_job(delay=60.0)
        await backend.put([pending, scheduled])
        answers, ready = await backend.signal([cancel(pending.id), cancel(scheduled.id)])
        assert [(a.id, a.done, a.state) for a in answers] == [
            (pending.id, True, JobState.CANCELLED),
            (scheduled.id, True, JobState.CANCELLED),
        ]
        assert ready == []
        job = await record(backend, pending.id)
        assert job.cancel is not None
        assert (job.cancel.by, job.cancel.reason) == ("tester", "enough")
        verdicts = await backend.claim(harness.session(), [hint(pending), hint(scheduled)])
        assert [v.kind for v in verdicts] == [VerdictKind.STALE] * 2

    @promise("L30")
    async def test_a_running_job_is_flagged(self, harness: Harness) -> None:
        backend = await harness.backend()
        claim = await started(backend, harness.session())
        (answer,), _ = await backend.signal([cancel(claim.id)])
        assert (answer.done, answer.state) == (True, JobState.PROCESSING)
        assert (await record(backend, claim.id)).cancel is not None
        ended = await finish_one(backend, claim, OutcomeKind.CANCELLED)
        assert ended.state is JobState.CANCELLED

    @promise("L30", "L2")
    async def test_a_cancel_may_be_repeated_or_too_late(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        put = await put_one(backend, a_job())
        done = await started(backend, session)
        await finish_one(backend, done, result=b"1")
        for _ in range(2):
            answers, _ = await backend.signal([cancel("nobody"), cancel(done.id), cancel(put.id)])
            assert [(a.id, a.done, a.state) for a in answers] == [
                ("nobody", False, None),
                (done.id, False, JobState.COMPLETED),
                (put.id, True, JobState.CANCELLED),
            ]
        assert (await record(backend, done.id)).result == b"1"


class Retrying(Suite):
    @promise("L31")
    async def test_a_final_job_runs_again_with_fresh_attempts(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        failed, cancelled = await started(backend, session), await put_one(backend, a_job())
        await finish_one(backend, failed, OutcomeKind.FAILED, error=ERROR)
        await backend.signal([cancel(cancelled.id)])
        poison = await put_one(backend, a_job(max_attempts=10))
        for gen in (1, 2, 3):
            claim = await claim_one(backend, session, poison, gen)
            await finish_one(backend, claim, OutcomeKind.DIED)
        for job_id in (failed.id, cancelled.id, poison.id):
            wish = Signal(id=job_id, kind=SignalKind.RETRY)
            (answer,), ready = await backend.signal([wish])
            assert (answer.done, answer.state) == (True, JobState.PENDING)
            job = await record(backend, job_id)
            assert [(r.id, r.gen) for r in ready] == [(job_id, job.gen)]
            assert (job.failures, job.deaths, job.cancel, job.error) == (0, 0, None, None)
            claim = await claim_one(backend, session, a_job(id=job_id), job.gen)
            assert (claim.attempt, claim.deaths) == (1, 0)
            assert (await finish_one(backend, claim)).accepted

    @promise("L31")
    async def test_a_completed_or_live_job_is_not_retried(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        done, pending = await started(backend, session), await put_one(backend, a_job())
        await finish_one(backend, done, result=b"1")
        raw = await put_one(backend, a_job(name="", quarantine=ERROR))
        ids = [done.id, pending.id, raw.id, "nobody"]
        before = await backend.get(ids)
        answers, ready = await backend.signal([Signal(id=i, kind=SignalKind.RETRY) for i in ids])
        assert [a.done for a in answers] == [False] * 4
        assert ready == []
        assert await backend.get(ids) == before


class Changing(Suite):
    @promise("L32")
    async def test_a_change_of_priority_is_a_new_generation(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        put = await put_one(backend, a_job(priority=10))
        wish = Signal(id=put.id, kind=SignalKind.CHANGE, priority=90)
        (answer,), ready = await backend.signal([wish])
        assert (answer.done, answer.state) == (True, JobState.PENDING)
        assert [(r.id, r.gen, r.priority) for r in ready] == [(put.id, 2, 90)]
        (old,) = await backend.claim(session, [hint(put, 1)])
        assert old.kind is VerdictKind.STALE
        assert (await claim_one(backend, session, put, 2)).priority == 90

    @promise("L32")
    async def test_a_change_of_run_at_moves_a_job(self, harness: Harness) -> None:
        backend = await harness.backend()
        now = await backend.now()
        soon, later = await put_one(backend, a_job(delay=600.0)), await put_one(backend, a_job())
        answers, ready = await backend.signal(
            [
                Signal(id=soon.id, kind=SignalKind.CHANGE, run_at=now - 1),
                Signal(id=later.id, kind=SignalKind.CHANGE, run_at=now + 600),
            ]
        )
        assert [a.state for a in answers] == [JobState.PENDING, JobState.SCHEDULED]
        assert [(r.id, r.gen) for r in ready] == [(soon.id, 2)]
        assert await all_due(backend) == []
        assert (await record(backend, later.id)).run_at == now + 600

    @promise("L32")
    async def test_a_scheduled_job_keeps_its_time_when_its_priority_changes(
        self, harness: Harness
    ) -> None:
        backend = await harness.backend()
        put = await put_one(backend, a_job(delay=600.0))
        before = await record(backend, put.id)
        wish = Signal(id=put.id, kind=SignalKind.CHANGE, priority=90)
        (answer,), ready = await backend.signal([wish])
        assert (answer.done, answer.state, ready) == (True, JobState.SCHEDULED, [])
        after = await record(backend, put.id)
        assert (after.run_at, after.priority) == (before.run_at, 90)

    @promise("L32")
    async def test_a_running_or_final_job_is_not_changed(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        running, done = await started(backend, session), await started(backend, session)
        await finish_one(backend, done)
        wishes = [
            Signal(id=i, kind=SignalKind.CHANGE, priority=90)
            for i in (running.id, done.id, "nobody")
        ]
        answers, ready = await backend.signal(wishes)
        assert [a.done for a in answers] == [False] * 3
        assert ready == []
        assert await state_of(backend, running.id) is JobState.PROCESSING
