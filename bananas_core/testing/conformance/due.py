"""Topic: delays, guards of sends, lost messages: nothing early, nothing forgotten."""

from __future__ import annotations

import asyncio

from bananas_core.job import JobState, OutcomeKind, Settled, Signal, SignalKind, VerdictKind
from bananas_core.state import FIRST_HOLD, SECOND_HOLD
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise, requires, takes
from bananas_core.testing.conformance.support import (
    Suite,
    a_job,
    all_due,
    claim_one,
    finish_one,
    hint,
    pass_time,
    put_one,
    record,
    started,
    state_of,
)


class Scheduling(Suite):
    @promise("L8")
    async def test_later_jobs_are_scheduled_and_others_pending(self, harness: Harness) -> None:
        backend = await harness.backend()
        now = await backend.now()
        puts = [a_job(), a_job(delay=60.0), a_job(run_at=now + 60), a_job(run_at=now - 60)]
        answers = await backend.put(puts)
        assert [answer.send for answer in answers] == [True, False, False, True]
        assert [await state_of(backend, put.id) for put in puts] == [
            JobState.PENDING,
            JobState.SCHEDULED,
            JobState.SCHEDULED,
            JobState.PENDING,
        ]

    @promise("L33", "L1")
    @takes(5)
    async def test_a_delayed_job_comes_due_and_never_early(self, harness: Harness) -> None:
        backend = await harness.backend()
        error = harness.capabilities.ledger.clock_error
        begun = await backend.now()
        delayed = await put_one(backend, a_job(delay=3.0))
        dated = await put_one(backend, a_job(run_at=begun + 3.0))
        assert await all_due(backend) == []
        await harness.advance(2.0)
        if await backend.now() < begun + 3.0 - error:
            assert await all_due(backend) == []
            (verdict,) = await backend.claim(harness.session(), [hint(delayed)])
            assert verdict.kind is VerdictKind.EARLY
        await harness.advance(1.1 + error)
        ready = await all_due(backend)
        assert {r.id for r in ready} == {delayed.id, dated.id}
        for put in (delayed, dated):
            job = await record(backend, put.id)
            assert job.state is JobState.PENDING
            assert job.changed_at >= begun + 3.0 - error
            assert [r.gen for r in ready if r.id == put.id] == [job.gen]

    @promise("L33")
    @takes(3)
    async def test_a_snoozed_or_retried_job_comes_due(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        claims = [await started(backend, session) for _ in range(2)]
        await finish_one(backend, claims[0], OutcomeKind.RETRY, delay=1.0)
        await finish_one(backend, claims[1], OutcomeKind.SNOOZE, delay=1.0, held_by="limit x")
        held = (await record(backend, claims[1].id)).held
        assert held is not None
        assert (held.by, held.count) == ("limit x", 1)
        await harness.advance(1.5 + harness.capabilities.ledger.clock_error)
        ready = await all_due(backend)
        assert {(r.id, r.gen) for r in ready} == {(claim.id, 2) for claim in claims}

    @promise("L33")
    @takes(3)
    async def test_a_job_past_its_time_ends_as_expired(self, harness: Harness) -> None:
        backend = await harness.backend()
        now = await backend.now()
        pending = await put_one(backend, a_job(queue_timeout=1.0))
        scheduled = await put_one(backend, a_job(delay=60.0, expires_at=now + 1.0))
        await harness.advance(2.0 + harness.capabilities.ledger.clock_error)
        assert await all_due(backend) == []
        for put in (pending, scheduled):
            job = await record(backend, put.id)
            assert job.state is JobState.FAILED
            assert job.error is not None
            assert job.error.type == "JobExpired"

    @promise("L33")
    @takes(3)
    async def test_a_call_moves_no_more_than_its_limit(self, harness: Harness) -> None:
        backend = await harness.backend()
        puts = [a_job(delay=1.0) for _ in range(25)]
        await backend.put(puts)
        await harness.advance(1.5 + harness.capabilities.ledger.clock_error)
        seen: list[str] = []
        for _ in range(100):
            ready, more = await backend.due(10)
            assert len(ready) <= 10
            seen += [r.id for r in ready]
            if not more:
                break
        assert sorted(seen) == sorted(put.id for put in puts)

    @promise("L33", "L34", "L4")
    @takes(3)
    async def test_any_number_of_callers_move_a_job_once(self, harness: Harness) -> None:
        backends = [await harness.backend() for _ in range(3)]
        puts = [a_job(delay=1.0) for _ in range(20)]
        await backends[0].put(puts)
        await harness.advance(1.5 + harness.capabilities.ledger.clock_error)
        rounds = await asyncio.gather(*(all_due(backend) for backend in backends))
        moved = [r.id for ready in rounds for r in ready]
        assert sorted(moved) == sorted(put.id for put in puts)

    @promise("L23", "L33")
    @takes(3)
    async def test_due_gives_nothing_to_send_without_a_guard(self, harness: Harness) -> None:
        backend = await harness.backend(guard=False)
        put = await put_one(backend, a_job(delay=1.0))
        await harness.advance(1.5 + harness.capabilities.ledger.clock_error)
        assert await all_due(backend) == []
        assert await state_of(backend, put.id) is JobState.PENDING


class Guarding(Suite):
    @promise("L33", "L37")
    @takes(50)
    async def test_an_unsettled_send_is_repeated_with_growing_holds(self, harness: Harness) -> None:
        backend = await harness.backend()
        put = await put_one(backend, a_job())
        assert await pass_time(harness, backend, FIRST_HOLD - 2) == []
        first = await pass_time(harness, backend, 4.0)
        assert [(r.id, r.gen) for r in first] == [(put.id, 1)]
        assert first[0].message == put.message
        assert await pass_time(harness, backend, SECOND_HOLD - 6) == []
        second = await pass_time(harness, backend, 10.0)
        assert [(r.id, r.gen) for r in second] == [(put.id, 1)]

    @promise("L9")
    @takes(40)
    async def test_a_settled_send_is_not_repeated(self, harness: Harness) -> None:
        backend = await harness.backend()
        by_put, by_due, other = a_job(), a_job(), a_job()
        await backend.put([by_put, by_due])
        await backend.put([other], settled=[Settled(id=by_put.id, gen=1)])
        await backend.due(10, settled=[Settled(id=by_due.id, gen=1), Settled(id="nobody", gen=1)])
        ready = await pass_time(harness, backend, SECOND_HOLD + 4)
        assert {r.id for r in ready} == {other.id}

    @promise("L9")
    @takes(10)
    async def test_settling_an_older_generation_settles_nothing(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        claim = await started(backend, session)
        await finish_one(backend, claim, OutcomeKind.RETRY)
        await backend.due(10, settled=[Settled(id=claim.id, gen=1)])
        ready = await pass_time(harness, backend, FIRST_HOLD + 2)
        assert [(r.id, r.gen) for r in ready] == [(claim.id, 2)]

    @promise("L37")
    @takes(50)
    async def test_what_due_gave_comes_again_until_settled(self, harness: Harness) -> None:
        backend = await harness.backend()
        put = await put_one(backend, a_job(delay=1.0))
        given = await pass_time(harness, backend, 3.0)
        assert [r.id for r in given] == [put.id]
        again = await pass_time(harness, await harness.backend(), FIRST_HOLD + 2)
        assert [r.id for r in again] == [put.id]
        await backend.due(10, settled=[Settled(id=put.id, gen=again[0].gen)])
        assert await pass_time(harness, backend, SECOND_HOLD + 2) == []

    @promise("L9", "L33")
    @takes(10)
    async def test_a_claim_ends_the_guard(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        await started(backend, session)
        ready = await pass_time(harness, backend, FIRST_HOLD + 2, alive=[session])
        assert ready == []

    @promise("L36")
    @takes(10)
    async def test_a_lost_message_is_sent_again(self, harness: Harness) -> None:
        backend, queue = await harness.backend(), harness.queue()
        old, elsewhere, running = a_job(queue), a_job(harness.queue()), a_job(queue)
        puts = [old, elsewhere, running]
        await backend.put(puts)
        await backend.due(10, settled=[Settled(id=put.id, gen=1) for put in puts])
        await claim_one(backend, harness.session(), running)
        await harness.advance(2.0)
        instant = await backend.now()
        await harness.advance(2.0)
        young = await put_one(backend, a_job(queue))
        await backend.due(10, settled=[Settled(id=young.id, gen=1)])
        ready, _ = await backend.due(10, lost={queue: instant})
        assert [(r.id, r.gen) for r in ready] == [(old.id, 1)]
        ready, _ = await backend.due(10, lost={queue: instant})
        assert ready == []  # it was sent just now

    @promise("L36", "L33")
    async def test_lost_messages_respect_the_limit(self, harness: Harness) -> None:
        backend, queue = await harness.backend(), harness.queue()
        puts = [a_job(queue) for _ in range(25)]
        await backend.put(puts)
        await backend.due(10, settled=[Settled(id=put.id, gen=1) for put in puts])
        instant, seen = await backend.now() + 60.0, list[str]()
        for _ in range(10):
            ready, _ = await backend.due(10, lost={queue: instant})
            assert len(ready) <= 10
            seen += [r.id for r in ready]
        assert sorted(seen) == sorted(put.id for put in puts)

    @promise("L44")
    @takes(3)
    async def test_the_last_run_is_known_without_side_effects(self, harness: Harness) -> None:
        one, two = await harness.backend(), await harness.backend()
        await one.due(10)
        first = await two.last_due()
        assert first is not None
        assert abs(first - await two.now()) < harness.limits.deadline
        await harness.advance(2.0)
        assert await two.last_due() == first
        await two.due(10)
        second = await one.last_due()
        assert second is not None
        assert second > first


class Time(Suite):
    @promise("L45", "L1")
    @takes(3)
    async def test_the_ledger_has_a_clock(self, harness: Harness) -> None:
        one, two = await harness.backend(), await harness.backend()
        error = harness.capabilities.ledger.clock_error
        first, second = await one.now(), await two.now()
        assert abs(first - second) <= error + harness.limits.deadline
        await harness.advance(2.0)
        assert await one.now() >= first + 2.0 - error

    @promise("L33", "L32")
    @requires(lambda c: c.manual_clock, "would wait for a day")
    async def test_a_far_date_is_kept_exactly(self, harness: Harness) -> None:
        backend = await harness.backend()
        put = await put_one(backend, a_job())
        when = await backend.now() + 86_400.0
        await backend.signal([Signal(id=put.id, kind=SignalKind.CHANGE, run_at=when)])
        await harness.advance(86_399.0 - harness.capabilities.ledger.clock_error)
        assert await all_due(backend) == []
        await harness.advance(1.1 + 2 * harness.capabilities.ledger.clock_error)
        assert [r.id for r in await all_due(backend)] == [put.id]
