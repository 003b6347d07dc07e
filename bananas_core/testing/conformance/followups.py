"""Topic: what follows from an end is asked for until it was done, also after a crash."""

from __future__ import annotations

import asyncio
from typing import Any

from bananas_core.job import (
    JobState,
    OutcomeKind,
    RenewMode,
    Session,
    Settled,
    Signal,
    SignalKind,
    VerdictKind,
)
from bananas_core.results import ResultBackend
from bananas_core.state import FIRST_HOLD, MAX_DEATHS, SECOND_HOLD
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise, takes
from bananas_core.testing.conformance.sessions import beats
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
    outcome,
    pass_time,
    put_one,
    record,
    sends,
    signal_one,
    started,
)

ENDS = (OutcomeKind.COMPLETED, OutcomeKind.FAILED, OutcomeKind.CANCELLED)


async def suspect(backend: ResultBackend, session: str, **options: Any) -> str:
    """A running job whose next death is its last."""
    put = await put_one(backend, a_job(max_attempts=10, **options))
    for gen in range(1, MAX_DEATHS):
        claim = await claim_one(backend, session, put, gen)
        await finish_one(backend, claim, OutcomeKind.DIED)
    await claim_one(backend, session, put, MAX_DEATHS)
    return put.id


class Following(Suite):
    @promise("L23")
    async def test_an_end_is_to_be_followed_up(self, harness: Harness) -> None:
        for backend in await forms(harness):
            session, queue = harness.session(), harness.queue()
            for kind in ENDS:
                node = await started(backend, session, workflow="w", routing_key=queue)
                plain = await started(backend, session)
                holder = await started(backend, session, unique=f"key {kind}", priority=90)
                claims = [node, plain, holder]
                answers, ready = await backend.finish(
                    [outcome(claim, kind, error=ERROR) for claim in claims]
                )
                assert all(answer.accepted for answer in answers)
                assert sorted(follow_ups(ready)) == sorted([(node.id, 1), (holder.id, 1)])
                assert {(r.id, r.routing_key, r.priority) for r in ready} == {
                    (node.id, queue, 50),
                    (holder.id, "default", 90),
                }
                again, ready = await backend.finish(
                    [outcome(claim, kind, error=ERROR) for claim in claims]
                )
                assert (again, ready) == (answers, [])

    @promise("L23")
    async def test_what_goes_on_is_not_followed_up(self, harness: Harness) -> None:
        for backend, guard in zip(await forms(harness), (True, False), strict=True):
            for kind in (OutcomeKind.RETRY, OutcomeKind.HANDBACK, OutcomeKind.DIED):
                claim = await started(backend, harness.session(), workflow="w", unique="key")
                _, ready = await backend.finish([outcome(claim, kind)])
                assert follow_ups(ready) == []
                assert sends(ready) == ([(claim.id, 2)] if guard else [])

    @promise("L23", "L30")
    async def test_a_cancel_is_to_be_followed_up(self, harness: Harness) -> None:
        for backend in await forms(harness):
            puts = [
                a_job(workflow="w"),
                a_job(unique="key", delay=600.0),
                a_job(),
                a_job(workflow="w", waiting=True),
                a_scope(),
            ]
            await backend.put(puts)
            running = await started(backend, harness.session(), workflow="w")
            wishes = [
                Signal(id=i, kind=SignalKind.CANCEL) for i in (running.id, *(p.id for p in puts))
            ]
            answers, ready = await backend.signal(wishes)
            assert all(answer.done for answer in answers)
            assert sorted(follow_ups(ready)) == sorted((puts[n].id, 2) for n in (0, 1, 3, 4))
            assert (await backend.signal(wishes))[1] == []
            _, ready = await backend.finish([outcome(running, OutcomeKind.CANCELLED)])
            assert follow_ups(ready) == [(running.id, 1)]

    @promise("L23", "L33")
    @takes(3)
    async def test_an_expired_job_is_to_be_followed_up(self, harness: Harness) -> None:
        backend = await harness.backend(guard=False)
        now = await backend.now()
        node = a_job(workflow="w", queue_timeout=1.0)
        holder = a_job(unique="key", delay=600.0, expires_at=now + 1.0)
        await backend.put([node, a_job(queue_timeout=1.0), holder])
        await harness.advance(1.5 + harness.capabilities.ledger.clock_error)
        ready = await all_due(backend)
        assert sorted(follow_ups(ready)) == sorted([(node.id, 2), (holder.id, 2)])
        assert sends(ready) == []

    @promise("L23", "L33", "L11")
    @takes(10)
    async def test_a_job_that_expires_at_its_claim_is_followed_up(self, harness: Harness) -> None:
        backend = await harness.backend(guard=False)
        put = await put_one(backend, a_job(workflow="w", queue_timeout=1.0))
        await harness.advance(1.5 + harness.capabilities.ledger.clock_error)
        (verdict,) = await backend.claim(harness.session(), [hint(put)])
        assert verdict.kind is VerdictKind.STALE
        ready = await pass_time(harness, backend, FIRST_HOLD + 2)
        assert (put.id, 2) in follow_ups(ready)
        assert (await record(backend, put.id)).state is JobState.FAILED

    @promise("L23", "L34")
    @takes(20)
    async def test_a_last_lapse_is_to_be_followed_up(self, harness: Harness) -> None:
        backend = await harness.backend(guard=False)
        node, holder, plain = [
            await suspect(backend, harness.session(), **options)
            for options in ({"workflow": "w"}, {"unique": "key"}, {})
        ]
        ready = await pass_time(harness, backend, 18.0)
        wanted = [(i, (await record(backend, i)).gen) for i in (node, holder)]
        assert set(follow_ups(ready)) == set(wanted)
        assert (await record(backend, plain)).state is JobState.QUARANTINED

    @promise("L23", "L19")
    async def test_a_last_death_told_by_renew_is_to_be_followed_up(self, harness: Harness) -> None:
        for backend in await forms(harness):
            session = harness.session()
            ids = [await suspect(backend, session, workflow=w) for w in ("w", None)]
            jobs = [await record(backend, job_id) for job_id in ids]
            who = Session(id=session, name="conformance")
            answer = await backend.renew(who, beats(*jobs), mode=RenewMode.ENDED)
            assert follow_ups(answer.ready) == [(jobs[0].id, jobs[0].gen)]
            assert sends(answer.ready) == []

    @promise("L33", "L37")
    @takes(50)
    async def test_a_follow_up_is_repeated_with_growing_holds(self, harness: Harness) -> None:
        backend, session = await harness.backend(guard=False), harness.session()
        claim = await started(backend, session, workflow="w")
        await finish_one(backend, claim)  # and the process that was told is gone
        backend = await harness.backend(guard=False)
        assert await pass_time(harness, backend, FIRST_HOLD - 2) == []
        first = await pass_time(harness, backend, 4.0)
        assert follow_ups(first) == [(claim.id, 1)]
        assert await pass_time(harness, backend, SECOND_HOLD - 6) == []
        second = await pass_time(harness, backend, 10.0)
        assert follow_ups(second) == [(claim.id, 1)]

    @promise("L9", "L33")
    @takes(40)
    async def test_a_settled_follow_up_is_not_repeated(self, harness: Harness) -> None:
        backend = await harness.backend(guard=False)
        claims = [await started(backend, harness.session(), workflow="w") for _ in range(3)]
        _, ready = await backend.finish([outcome(claim) for claim in claims])
        assert len(follow_ups(ready)) == 3
        first, second, third = [Settled(id=r.id, gen=r.gen, followed=True) for r in ready]
        await backend.put([], settled=[first])
        await backend.due(10, settled=[second, Settled(id="nobody", gen=1, followed=True)])
        ready = await pass_time(harness, backend, SECOND_HOLD + 4)
        assert {job_id for job_id, _ in follow_ups(ready)} == {third.id}

    @promise("L9")
    @takes(10)
    async def test_a_confirmed_send_settles_no_follow_up(self, harness: Harness) -> None:
        backend = await harness.backend()
        claims = [await started(backend, harness.session(), unique=f"k{n}") for n in range(2)]
        await backend.finish([outcome(claim) for claim in claims])
        await backend.put([], settled=[Settled(id=claims[0].id, gen=1)])
        await backend.due(10, settled=[Settled(id=claims[1].id, gen=1)])
        ready = await pass_time(harness, backend, FIRST_HOLD + 2)
        assert sorted(follow_ups(ready)) == sorted((claim.id, 1) for claim in claims)

    @promise("L9")
    @takes(10)
    async def test_a_follow_up_settles_no_send(self, harness: Harness) -> None:
        backend = await harness.backend()
        puts = [a_job(workflow="w"), a_job(workflow="w")]
        await backend.put(puts)
        await backend.put([], settled=[Settled(id=puts[0].id, gen=1, followed=True)])
        await backend.due(10, settled=[Settled(id=puts[1].id, gen=1, followed=True)])
        ready = await pass_time(harness, backend, FIRST_HOLD + 2)
        assert sorted(sends(ready)) == sorted((put.id, 1) for put in puts)

    @promise("L9", "L48")
    @takes(10)
    async def test_an_older_end_settles_nothing(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        put = await put_one(backend, a_job(workflow="w"))
        await finish_one(backend, await claim_one(backend, session, put))
        await signal_one(backend, put.id, SignalKind.RESET)
        await signal_one(backend, put.id, SignalKind.RELEASE)
        await finish_one(backend, await claim_one(backend, session, put, gen=2))
        await backend.due(10, settled=[Settled(id=put.id, gen=1, followed=True)])
        ready = await pass_time(harness, backend, FIRST_HOLD + 2)
        assert follow_ups(ready) == [(put.id, 2)]

    @promise("L33", "L8")
    @takes(15)
    async def test_a_job_that_waits_for_its_key_is_asked_after(self, harness: Harness) -> None:
        backend = await harness.backend(guard=False)
        first, second = a_job(waiting=True, unique="a"), a_job(waiting=True, unique="b")
        plain = a_job(waiting=True)
        node = a_job(waiting=True, unique="c", workflow="w")  # the workflow releases it
        await backend.put([first, second, plain, node])
        await signal_one(backend, second.id, SignalKind.RELEASE)
        ready = await pass_time(harness, backend, FIRST_HOLD + 2)
        assert follow_ups(ready) == [(first.id, 1)]
        _, ready = await signal_one(backend, first.id, SignalKind.RELEASE)
        assert follow_ups(ready) == []
        ready = await pass_time(harness, backend, FIRST_HOLD + 2)
        assert follow_ups(ready) == []

    @promise("L33", "L34", "L4")
    @takes(7)
    async def test_any_number_of_callers_follow_up_once_each(self, harness: Harness) -> None:
        backends = [await harness.backend(guard=False) for _ in range(3)]
        claims = [await started(backends[0], harness.session(), workflow="w") for _ in range(20)]
        await backends[0].finish([outcome(claim) for claim in claims])
        await harness.advance(FIRST_HOLD + 0.5 + harness.capabilities.ledger.clock_error)
        rounds = await asyncio.gather(*(all_due(backend) for backend in backends))
        found = [item for ready in rounds for item in follow_ups(ready)]
        assert sorted(found) == sorted((claim.id, 1) for claim in claims)

    @promise("L33")
    @takes(7)
    async def test_follow_ups_respect_the_limit(self, harness: Harness) -> None:
        backend = await harness.backend(guard=False)
        claims = [await started(backend, harness.session(), workflow="w") for _ in range(25)]
        await backend.finish([outcome(claim) for claim in claims])
        await harness.advance(FIRST_HOLD + 0.5 + harness.capabilities.ledger.clock_error)
        seen: list[tuple[str, int]] = []
        for _ in range(100):
            ready, more = await backend.due(10)
            assert len(ready) <= 10
            seen += follow_ups(ready)
            if not more:
                break
        assert sorted(seen) == sorted((claim.id, 1) for claim in claims)
