"""Topic: the ledger alone decides who may run what."""

from __future__ import annotations

import asyncio

from bananas_core.job import (
    Hint,
    JobState,
    OutcomeKind,
    PutKind,
    Retention,
    Signal,
    SignalKind,
    VerdictKind,
)
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import NO_RESTART, promise, requires, takes
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


class Putting(Suite):
    @promise("L7")
    async def test_put_creates_and_keeps_what_is_there(self, harness: Harness) -> None:
        one, two = await harness.backend(), await harness.backend()
        first = a_job(priority=10, tags=("red",))
        (created,) = await one.put([first])
        assert (created.kind, created.id, created.gen, created.send) == (
            PutKind.CREATED,
            first.id,
            1,
            True,
        )
        before = await record(two, first.id)
        (exists,) = await two.put([a_job(id=first.id, priority=90)])
        assert (exists.kind, exists.id) == (PutKind.EXISTS, first.id)
        assert await record(one, first.id) == before
        assert (before.priority, before.tags, before.message) == (10, ("red",), first.message)

    @promise("L7")
    async def test_one_batch_may_name_a_job_twice(self, harness: Harness) -> None:
        backend = await harness.backend()
        twin, other = a_job(priority=10), a_job()
        answers = await backend.put([twin, other, a_job(id=twin.id, priority=90)])
        assert [answer.id for answer in answers] == [twin.id, other.id, twin.id]
        assert [answer.kind for answer in answers] == [
            PutKind.CREATED,
            PutKind.CREATED,
            PutKind.EXISTS,
        ]
        assert (await record(backend, twin.id)).priority == 10

    @promise("L7", "L4")
    async def test_of_racing_puts_one_creates(self, harness: Harness) -> None:
        backends = [await harness.backend() for _ in range(3)]
        puts = [a_job() for _ in range(20)]
        rounds = await asyncio.gather(
            *(backends[n % 3].put(puts) for n in range(harness.limits.racers))
        )
        for answers in zip(*rounds, strict=True):
            assert sum(answer.kind is PutKind.CREATED for answer in answers) == 1

    @promise("L2", "L7")
    async def test_a_repeated_put_still_says_what_must_be_sent(self, harness: Harness) -> None:
        backend, put = await harness.backend(), a_job()
        (first,) = await backend.put([put])
        (again,) = await backend.put([put])
        assert first.send
        assert again.send  # the first answer may have got lost before anything was sent

    @promise("L7")
    async def test_quarantined_bytes_are_kept_and_never_run(self, harness: Harness) -> None:
        backend, put = await harness.backend(), a_job(name="", quarantine=ERROR)
        await backend.put([put])
        job = await record(backend, put.id)
        assert (job.state, job.message) == (JobState.QUARANTINED, put.message)
        (verdict,) = await backend.claim(harness.session(), [hint(put)])
        assert verdict.kind is VerdictKind.STALE


class Claiming(Suite):
    @promise("L10")
    async def test_a_claim_is_the_right_to_run(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        put = await put_one(backend, a_job(harness.queue(), priority=70, max_attempts=4))
        claim = await claim_one(backend, session, put)
        assert (claim.id, claim.gen, claim.attempt, claim.deaths) == (put.id, 1, 1, 0)
        assert (claim.name, claim.routing_key, claim.priority, claim.max_attempts) == (
            put.name,
            put.routing_key,
            70,
            4,
        )
        assert claim.message == put.message
        job = await record(backend, put.id)
        assert (job.state, job.worker, job.fence) == (JobState.PROCESSING, session, claim.fence)

    @promise("L10", "L4")
    async def test_of_racing_claimers_one_runs(self, harness: Harness) -> None:
        backends = [await harness.backend() for _ in range(3)]
        puts = [a_job() for _ in range(20)]
        await backends[0].put(puts)
        hints = [hint(put) for put in puts]
        rounds = await asyncio.gather(
            *(
                backends[n % 3].claim(harness.session(), hints if n % 2 else hints[::-1])
                for n in range(harness.limits.racers)
            )
        )
        winners = [v.id for verdicts in rounds for v in verdicts if v.kind is VerdictKind.RUN]
        assert sorted(winners) == sorted(put.id for put in puts)

    @promise("L10")
    async def test_one_batch_of_hints_claims_a_job_once(self, harness: Harness) -> None:
        backend, put = await harness.backend(), a_job()
        await backend.put([put])
        verdicts = await backend.claim(harness.session(), [hint(put), hint(put)])
        assert [v.kind for v in verdicts] == [VerdictKind.RUN, VerdictKind.STALE]

    @promise("L10", "L11")
    async def test_verdicts_are_in_order(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        free, running, later = a_job(), a_job(), a_job(delay=60.0)
        await backend.put([free, running, later])
        await claim_one(backend, session, running)
        hints = [Hint(id="nobody", gen=1), hint(running), hint(free), hint(later)]
        verdicts = await backend.claim(session, hints)
        assert [v.id for v in verdicts] == ["nobody", running.id, free.id, later.id]
        assert [v.kind for v in verdicts] == [
            VerdictKind.UNRECORDED,
            VerdictKind.STALE,
            VerdictKind.RUN,
            VerdictKind.EARLY,
        ]
        assert [v.claim is not None for v in verdicts] == [False, False, True, False]

    @promise("L2")
    async def test_a_repeated_claim_is_stale(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        put = await put_one(backend, a_job())
        await claim_one(backend, session, put)
        (again,) = await backend.claim(session, [hint(put)])
        assert again.kind is VerdictKind.STALE

    @promise("L11")
    async def test_another_generation_is_stale(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        put = await put_one(backend, a_job())
        claim = await claim_one(backend, session, put)
        await finish_one(backend, claim, OutcomeKind.RETRY, error=ERROR)
        kinds = [(await backend.claim(session, [hint(put, gen)]))[0].kind for gen in (1, 3, 2)]
        assert kinds == [VerdictKind.STALE, VerdictKind.STALE, VerdictKind.RUN]

    @promise("L11")
    async def test_final_jobs_are_stale(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        done = await started(backend, session)
        await finish_one(backend, done)
        failed = await started(backend, session)
        await finish_one(backend, failed, OutcomeKind.FAILED, error=ERROR)
        gone = await put_one(backend, a_job())
        await backend.signal([Signal(id=gone.id, kind=SignalKind.CANCEL)])
        gen = (await record(backend, gone.id)).gen
        hints = [Hint(id=done.id, gen=1), Hint(id=failed.id, gen=1)]
        hints += [Hint(id=gone.id, gen=g) for g in (1, gen)]
        verdicts = await backend.claim(session, hints)
        assert [v.kind for v in verdicts] == [VerdictKind.STALE] * 4

    @promise("L11", "L33")
    @takes(6)
    async def test_a_job_past_its_time_does_not_start(self, harness: Harness) -> None:
        backend = await harness.backend()
        now = await backend.now()
        puts = [a_job(expires_at=now + 2.0), a_job(queue_timeout=2.0), a_job()]
        await backend.put(puts)
        await harness.advance(3.0)
        verdicts = await backend.claim(harness.session(), [hint(put) for put in puts])
        assert [v.kind for v in verdicts] == [VerdictKind.STALE, VerdictKind.STALE, VerdictKind.RUN]
        await all_due(backend)
        for put in puts[:2]:
            job = await record(backend, put.id)
            assert job.state is JobState.FAILED
            assert job.error is not None
            assert job.error.type == "JobExpired"

    @promise("L12")
    async def test_a_foreign_message_makes_its_own_record(self, harness: Harness) -> None:
        backend, put = await harness.backend(), a_job(put=False)
        foreign = Hint(id=put.id, gen=1, create=put)
        one, two = await backend.claim(harness.session(), [foreign, foreign])
        assert (one.kind, two.kind) == (VerdictKind.RUN, VerdictKind.STALE)
        assert await state_of(backend, put.id) is JobState.PROCESSING
        (later,) = await backend.claim(
            harness.session(), [Hint(id="later", gen=1, create=a_job(id="later", delay=60.0))]
        )
        assert later.kind is VerdictKind.EARLY
        assert await state_of(backend, "later") is JobState.SCHEDULED

    @promise("L12")
    async def test_a_foreign_message_does_not_replace_a_record(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        claim = await started(backend, session)
        await finish_one(backend, claim, result=b"1")
        twin = a_job(id=claim.id, put=False)
        (verdict,) = await backend.claim(session, [Hint(id=claim.id, gen=1, create=twin)])
        assert verdict.kind is VerdictKind.STALE
        assert (await record(backend, claim.id)).result == b"1"

    @promise("L12", "L43")
    @takes(5000)
    @requires(lambda c: c.manual_clock, "would wait for more than an hour")
    async def test_a_foreign_record_outlives_the_horizon(self, harness: Harness) -> None:
        backend = await harness.backend(horizon=3600.0)
        put = a_job(put=False)
        foreign = Hint(id=put.id, gen=1, create=put)
        (verdict,) = await backend.claim(harness.session(), [foreign])
        assert verdict.claim is not None
        await finish_one(backend, verdict.claim)
        await harness.advance(3000.0)
        assert await backend.prune(Retention(completed=0.0), 100) == 0
        (again,) = await backend.claim(harness.session(), [foreign])
        assert again.kind is VerdictKind.STALE
        await harness.advance(700.0)
        assert await backend.prune(Retention(completed=0.0), 100) == 1

    @promise("L13")
    async def test_fences_of_a_job_rise(self, harness: Harness) -> None:
        backends = [await harness.backend(), await harness.backend()]
        put = await put_one(backends[0], a_job(max_attempts=100))
        fences = []
        for gen in range(1, 8):
            backend = backends[gen % 2]
            claim = await claim_one(backend, harness.session(), put, gen)
            fences.append(claim.fence)
            kind = OutcomeKind.RETRY if gen % 2 else OutcomeKind.HANDBACK
            await finish_one(backend, claim, kind, error=ERROR)
        assert fences == sorted(set(fences))
        assert fences[0] > 0

    @promise("L13", "L5")
    @requires(lambda c: c.restarts and c.ledger.durability != "memory", NO_RESTART)
    async def test_fences_rise_over_a_crash_of_the_broker(self, harness: Harness) -> None:
        backend = await harness.backend()
        claim = await started(backend, harness.session())
        await finish_one(backend, claim, OutcomeKind.HANDBACK)
        before = await record(backend, claim.id)
        await harness.restart()
        backend = await harness.backend()
        assert await record(backend, claim.id) == before
        (verdict,) = await backend.claim(harness.session(), [Hint(id=claim.id, gen=2)])
        assert verdict.claim is not None
        assert verdict.claim.fence > claim.fence

    @promise("L14", "L28")
    async def test_claiming_makes_a_session_known(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        await started(backend, session)
        (found,) = await backend.sessions()
        assert (found.session.id, found.claims) == (session, 1)
        assert found.expires_at > await backend.now()
