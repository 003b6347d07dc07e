"""Topic: a claim ends once, and only by whoever holds it."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from bananas_core.job import JobState, Outcome, OutcomeKind, Progress, Signal, SignalKind
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise
from bananas_core.testing.conformance.support import (
    ERROR,
    Suite,
    a_job,
    claim_one,
    finish_one,
    outcome,
    put_one,
    record,
    started,
    state_of,
)

AGAIN = (OutcomeKind.RETRY, OutcomeKind.HANDBACK, OutcomeKind.SNOOZE, OutcomeKind.DIED)


class Finishing(Suite):
    @promise("L21", "L22")
    async def test_a_completed_job_keeps_its_result(self, harness: Harness) -> None:
        one, two = await harness.backend(), await harness.backend()
        claim = await started(one, harness.session())
        answer = await finish_one(
            one, claim, result=b"42", ran=0.0, progress=Progress(value=1.0, text="done")
        )
        assert (answer.id, answer.accepted, answer.state) == (claim.id, True, JobState.COMPLETED)
        job = await record(two, claim.id)
        assert (job.state, job.result, job.error) == (JobState.COMPLETED, b"42", None)
        assert job.progress == Progress(value=1.0, text="done")
        assert job.finished_at is not None
        (entry,) = job.attempts
        assert (entry.fence, entry.outcome, entry.attempt) == (claim.fence, "completed", 1)
        assert entry.ended_at == job.finished_at

    @promise("L21", "L22")
    async def test_a_failed_job_keeps_its_error(self, harness: Harness) -> None:
        backend = await harness.backend()
        claim = await started(backend, harness.session())
        answer = await finish_one(backend, claim, OutcomeKind.FAILED, error=ERROR)
        assert answer.state is JobState.FAILED
        job = await record(backend, claim.id)
        assert (job.error, job.result, job.attempt) == (ERROR, None, 1)

    @promise("L21")
    async def test_a_stale_fence_changes_nothing(self, harness: Harness) -> None:
        backend = await harness.backend()
        put = await put_one(backend, a_job())
        old = await claim_one(backend, harness.session(), put)
        await finish_one(backend, old, OutcomeKind.HANDBACK)
        new = await claim_one(backend, harness.session(), put, gen=2)
        before = await record(backend, put.id)
        for kind in (OutcomeKind.COMPLETED, OutcomeKind.FAILED, OutcomeKind.RETRY):
            answer = await finish_one(backend, old, kind, result=b"0", error=ERROR)
            assert not answer.accepted
        answer = await finish_one(backend, replace(new, fence=new.fence + 1))
        assert not answer.accepted
        assert await record(backend, put.id) == before
        assert (await finish_one(backend, new)).accepted

    @promise("L21")
    async def test_a_finished_job_can_not_be_finished_otherwise(self, harness: Harness) -> None:
        backend = await harness.backend()
        claim = await started(backend, harness.session())
        await finish_one(backend, claim, result=b"1")
        before = await record(backend, claim.id)
        assert not (await finish_one(backend, claim, OutcomeKind.FAILED, error=ERROR)).accepted
        assert not (await finish_one(backend, claim, OutcomeKind.RETRY)).accepted
        assert await record(backend, claim.id) == before

    @promise("L21", "L22")
    async def test_answers_are_in_order_and_one_refusal_spoils_nothing(
        self, harness: Harness
    ) -> None:
        backend, session = await harness.backend(), harness.session()
        claims = [await started(backend, session) for _ in range(3)]
        stale = Outcome(id=claims[1].id, fence=claims[1].fence + 7, kind=OutcomeKind.COMPLETED)
        unknown = Outcome(id="nobody", fence=1, kind=OutcomeKind.COMPLETED)
        answers, _ = await backend.finish(
            [outcome(claims[0]), stale, unknown, outcome(claims[2], OutcomeKind.FAILED)]
        )
        assert [a.id for a in answers] == [claims[0].id, claims[1].id, "nobody", claims[2].id]
        assert [a.accepted for a in answers] == [True, False, False, True]
        assert answers[2].state is None
        states = [job and job.state for job in await backend.get([c.id for c in claims])]
        assert states == [JobState.COMPLETED, JobState.PROCESSING, JobState.FAILED]

    @promise("L23")
    async def test_what_became_pending_must_be_sent(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        for kind in AGAIN:
            claim = await started(backend, session, priority=60)
            answers, ready = await backend.finish([outcome(claim, kind, error=ERROR)])
            assert answers[0].state is JobState.PENDING
            assert [(r.id, r.gen, r.priority) for r in ready] == [(claim.id, 2, 60)]
            assert b'"gen":2' in ready[0].message.replace(b" ", b"")
            head = kind in (OutcomeKind.HANDBACK, OutcomeKind.DIED)
            assert ready[0].head is head
            assert (await claim_one(backend, session, a_job(id=claim.id), gen=2)).attempt >= 1

    @promise("L23")
    async def test_nothing_is_to_be_sent_without_a_guard(self, harness: Harness) -> None:
        backend, session = await harness.backend(guard=False), harness.session()
        (answer,) = await backend.put([put := a_job()])
        assert not answer.send
        claim = await claim_one(backend, session, put)
        _, ready = await backend.finish([outcome(claim, OutcomeKind.RETRY)])
        assert ready == []
        assert await state_of(backend, put.id) is JobState.PENDING

    @promise("L21")
    async def test_what_spends_an_attempt(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        spent = {
            OutcomeKind.RETRY: 2,
            OutcomeKind.HANDBACK: 1,
            OutcomeKind.SNOOZE: 1,
            OutcomeKind.DIED: 2,
        }
        for kind, attempt in spent.items():
            put = await put_one(backend, a_job())
            claim = await claim_one(backend, session, put)
            await finish_one(backend, claim, kind)
            assert (await claim_one(backend, session, put, gen=2)).attempt == attempt, kind

    @promise("L21")
    async def test_a_delay_schedules_the_next_attempt(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        for kind in (OutcomeKind.RETRY, OutcomeKind.SNOOZE):
            claim = await started(backend, session)
            answers, ready = await backend.finish([outcome(claim, kind, delay=60.0)])
            assert (answers[0].state, ready) == (JobState.SCHEDULED, [])
            job = await record(backend, claim.id)
            assert job.run_at is not None
            now, error = await backend.now(), harness.capabilities.ledger.clock_error
            assert 50 < job.run_at - now <= 60 + error

    @promise("L21")
    async def test_the_third_death_quarantines(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        put = await put_one(backend, a_job(max_attempts=10))
        for gen in (1, 2, 3):
            claim = await claim_one(backend, session, put, gen)
            assert claim.deaths == gen - 1
            await finish_one(backend, claim, OutcomeKind.DIED)
        job = await record(backend, put.id)
        assert (job.state, job.deaths) == (JobState.QUARANTINED, 3)

    @promise("L24", "L2")
    async def test_repeating_gives_the_first_answer(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        for kind in OutcomeKind:
            claim = await started(backend, session)
            first, _ = await backend.finish([outcome(claim, kind)])
            before = await record(backend, claim.id)
            again, ready = await backend.finish([outcome(claim, kind)])
            assert again == first, kind
            assert ready == []
            assert await record(backend, claim.id) == before

    @promise("L24")
    async def test_repeating_gives_the_first_answer_after_another_claim(
        self, harness: Harness
    ) -> None:
        backend, session = await harness.backend(), harness.session()
        put = await put_one(backend, a_job())
        old = await claim_one(backend, session, put)
        first = await finish_one(backend, old, OutcomeKind.RETRY, error=ERROR)
        new = await claim_one(backend, session, put, gen=2)
        before = await record(backend, put.id)
        assert await finish_one(backend, old, OutcomeKind.RETRY, error=ERROR) == first
        assert await record(backend, put.id) == before
        assert (await finish_one(backend, new)).accepted

    @promise("L21", "L4")
    async def test_of_racing_finishes_one_outcome_counts(self, harness: Harness) -> None:
        backends = [await harness.backend() for _ in range(3)]
        claim = await started(backends[0], harness.session())
        kinds = [OutcomeKind.COMPLETED, OutcomeKind.FAILED, OutcomeKind.RETRY]
        results = await asyncio.gather(
            *(finish_one(backends[n % 3], claim, kinds[n % 3], error=ERROR) for n in range(9))
        )
        assert len({answer.state for answer in results if answer.accepted}) == 1
        job = await record(backends[0], claim.id)
        assert len(job.attempts) == 1
        assert job.attempts[0].outcome is not None

    @promise("L22")
    async def test_a_cancelled_job_that_fails_ends_cancelled(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        for kind in (OutcomeKind.FAILED, OutcomeKind.RETRY, OutcomeKind.CANCELLED):
            claim = await started(backend, session)
            await backend.signal([Signal(id=claim.id, kind=SignalKind.CANCEL)])
            answer = await finish_one(backend, claim, kind, error=ERROR)
            assert answer.state is JobState.CANCELLED
        claim = await started(backend, session)
        await backend.signal([Signal(id=claim.id, kind=SignalKind.CANCEL)])
        assert (await finish_one(backend, claim)).state is JobState.COMPLETED
