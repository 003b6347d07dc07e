"""Topic: wishes from outside: cancel, retry, change."""

from __future__ import annotations

from bananas_core.job import JobState, OutcomeKind, Signal, SignalKind, VerdictKind
from bananas_core.state import SECOND_HOLD
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise, takes
from bananas_core.testing.conformance.support import (
    ERROR,
    Suite,
    a_job,
    a_scope,
    all_due,
    claim_one,
    finish_one,
    follow_ups,
    forms,
    hint,
    pass_time,
    put_one,
    record,
    sends,
    signal_one,
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

    @promise("L31", "L23")
    async def test_a_retried_job_waits_for_its_key(self, harness: Harness) -> None:
        for backend in await forms(harness):
            session = harness.session()
            claim = await started(backend, session, unique="key")
            await finish_one(backend, claim, OutcomeKind.FAILED, error=ERROR)
            answer, ready = await signal_one(backend, claim.id, SignalKind.RETRY)
            assert (answer.done, answer.state) == (True, JobState.WAITING)
            assert (follow_ups(ready), sends(ready)) == ([(claim.id, 2)], [])
            put = a_job(id=claim.id)
            (verdict,) = await backend.claim(session, [hint(put, 2)])
            assert verdict.kind is VerdictKind.STALE
            answer, _ = await signal_one(backend, claim.id, SignalKind.RETRY)
            assert not answer.done
            await signal_one(backend, claim.id, SignalKind.RELEASE)
            assert (await claim_one(backend, session, put, gen=2)).attempt == 1

    @promise("L31", "L33")
    @takes(40)
    async def test_a_retried_job_is_asked_after_until_it_has_its_key(
        self, harness: Harness
    ) -> None:
        backend = await harness.backend(guard=False)
        claim = await started(backend, harness.session(), unique="key")
        await finish_one(backend, claim, OutcomeKind.FAILED, error=ERROR)
        await signal_one(backend, claim.id, SignalKind.RETRY)
        ready = await pass_time(harness, backend, SECOND_HOLD + 6)
        assert (claim.id, 2) in follow_ups(ready)
        await signal_one(backend, claim.id, SignalKind.RELEASE)
        assert await all_due(backend) == []

    @promise("L31")
    async def test_a_scope_is_not_retried(self, harness: Harness) -> None:
        backend, scope = await harness.backend(), a_scope()
        await put_one(backend, scope)
        await signal_one(backend, scope.id, SignalKind.END, state=JobState.FAILED, error=ERROR)
        answer, ready = await signal_one(backend, scope.id, SignalKind.RETRY)
        assert (answer.done, answer.state, ready) == (False, JobState.FAILED, [])


class Changing(Suite):
    @promise("L32")
    async def test_a_change_of_the_message_is_what_runs(self, harness: Harness) -> None:
        for backend, guard in zip(await forms(harness), (True, False), strict=True):
            pending, scheduled, waiting = a_job(), a_job(delay=600.0), a_job(waiting=True)
            for put in (pending, scheduled, waiting):
                await put_one(backend, put)
                other = put.message.replace(b'"n":1', b'"n":2')
                before = await state_of(backend, put.id)
                answer, ready = await signal_one(backend, put.id, SignalKind.CHANGE, message=other)
                assert (answer.done, answer.state) == (True, before)
                asked = guard and before is JobState.PENDING
                assert sends(ready) == ([(put.id, 2)] if asked else [])
                assert all(b'"n":2' in r.message and b'"gen":2' in r.message for r in ready)
                if before is JobState.SCHEDULED:
                    await signal_one(backend, put.id, SignalKind.CHANGE, delay=0.0)
                if before is JobState.WAITING:
                    await signal_one(backend, put.id, SignalKind.RELEASE)
                gen = (await record(backend, put.id)).gen
                claim = await claim_one(backend, harness.session(), put, gen)
                assert claim.message == other

    @promise("L32")
    async def test_a_change_of_delay_counts_from_now(self, harness: Harness) -> None:
        backend, error = await harness.backend(), harness.capabilities.ledger.clock_error
        puts = [a_job(), a_job(delay=5.0), a_job(waiting=True, delay=5.0)]
        await backend.put(puts)
        slack = harness.limits.deadline + error
        for put, state in zip(puts, ("scheduled", "scheduled", "waiting"), strict=True):
            now = await backend.now()
            wish = Signal(id=put.id, kind=SignalKind.CHANGE, delay=600.0)
            (answer,), ready = await backend.signal([wish])
            assert (answer.done, answer.state, ready) == (True, state, [])
            await signal_one(backend, put.id, SignalKind.RELEASE)
            job = await record(backend, put.id)
            assert (job.state, job.gen) == (JobState.SCHEDULED, 2)
            assert job.run_at is not None
            assert now + 600.0 - error <= job.run_at <= now + 600.0 + slack

    @promise("L32")
    @takes(3)
    async def test_a_change_has_a_latest_time(self, harness: Harness) -> None:
        backend = await harness.backend()
        puts = [a_job(), a_job(delay=5.0), a_job(waiting=True)]
        await backend.put(puts)
        await harness.advance(1.0)
        for put in puts:
            for delay, latest, wanted in ((600.0, 100.0, 100.0), (600.0, 300.0, 300.0)):
                await signal_one(backend, put.id, SignalKind.CHANGE, delay=delay, latest=latest)
                job = await record(backend, put.id)
                assert job.run_at == job.created_at + wanted
            await signal_one(backend, put.id, SignalKind.CHANGE, delay=50.0, latest=300.0)
            job = await record(backend, put.id)
            assert job.run_at is not None
            assert job.created_at + 50.0 < job.run_at < job.created_at + 300.0
        late, ready = await signal_one(
            backend, puts[0].id, SignalKind.CHANGE, delay=600.0, latest=0.5
        )
        assert (late.state, sends(ready)) == (JobState.PENDING, [(puts[0].id, 5)])

    @promise("L49", "L2")
    async def test_a_change_of_one_generation_happens_once(self, harness: Harness) -> None:
        backend = await harness.backend()
        for put in (a_job(), a_job(delay=600.0), a_job(waiting=True)):
            await put_one(backend, put)
            wish = Signal(id=put.id, kind=SignalKind.CHANGE, priority=90, gen=2)
            (answer,), ready = await backend.signal([wish])
            assert (answer.done, ready) == (False, [])
            assert (await record(backend, put.id)).priority == 50
            for turn in range(3):
                wish = Signal(id=put.id, kind=SignalKind.CHANGE, priority=90 - turn, gen=1)
                (answer,), _ = await backend.signal([wish])
                assert answer.done
            job = await record(backend, put.id)
            assert (job.gen, job.priority) == (2, 90)

    @promise("L32")
    async def test_a_scope_is_not_changed(self, harness: Harness) -> None:
        backend, scope = await harness.backend(), a_scope()
        await put_one(backend, scope)
        answer, ready = await signal_one(backend, scope.id, SignalKind.CHANGE, priority=90)
        assert (answer.done, ready) == (False, [])
        assert (await record(backend, scope.id)).gen == 1

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
