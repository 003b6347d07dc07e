"""Topic: jobs that wait for a release, and scopes, which stand for a part of a workflow."""

from __future__ import annotations

import asyncio

from bananas_core.job import JobState, OutcomeKind, PutKind, Signal, SignalKind, VerdictKind
from bananas_core.testing.conformance.fused import claimed, fused, ids
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
)

RELEASE, END, RESET = SignalKind.RELEASE, SignalKind.END, SignalKind.RESET


class Releasing(Suite):
    @promise("L8", "L25")
    async def test_what_waits_is_kept_as_it_was_put(self, harness: Harness) -> None:
        for backend in await forms(harness):
            now = await backend.now()
            root = a_scope(waiting=True, queue_timeout=30.5)
            puts = [
                root,
                a_job(waiting=True),
                a_job(waiting=True, delay=60.25, workflow=root.id),
                a_job(waiting=True, run_at=now - 60, unique="a key/ü"),
                a_job(waiting=True, run_at=now + 60, workflow=root.id, unique="key 2"),
            ]
            answers = await backend.put(puts)
            assert [(a.kind, a.send) for a in answers] == [(PutKind.CREATED, False)] * 5
            for put in puts:
                job = await record(backend, put.id)
                assert (job.state, job.gen, job.started_at) == (JobState.WAITING, 1, None)
                for name in ("workflow", "scope", "unique", "delay", "run_at", "queue_timeout"):
                    assert getattr(job, name) == getattr(put, name), name
            again = await backend.put([a_job(id=put.id) for put in puts])
            assert [(a.kind, a.send) for a in again] == [(PutKind.EXISTS, False)] * 5
            assert await all_due(backend) == []

    @promise("L8", "L11")
    async def test_what_waits_is_not_claimed(self, harness: Harness) -> None:
        backend = await harness.backend()
        puts = [a_job(waiting=True), a_job(waiting=True, delay=60.0), a_scope(), a_scope()]
        await backend.put(puts)
        before = await backend.get([put.id for put in puts])
        verdicts = await backend.claim(harness.session(), [hint(put) for put in puts])
        assert [v.kind for v in verdicts] == [VerdictKind.STALE] * 4
        assert await backend.get([put.id for put in puts]) == before

    @promise("L46", "L23")
    async def test_a_released_job_is_pending(self, harness: Harness) -> None:
        for backend, guard in zip(await forms(harness), (True, False), strict=True):
            puts = [a_job(waiting=True), a_job(waiting=True, workflow="w", priority=90)]
            await backend.put(puts)
            answers, ready = await backend.signal(
                [Signal(id=i, kind=RELEASE) for i in (puts[0].id, "nobody", puts[1].id)]
            )
            assert [(a.done, a.state) for a in answers] == [
                (True, JobState.PENDING),
                (False, None),
                (True, JobState.PENDING),
            ]
            assert sorted(sends(ready)) == sorted((put.id, 1) for put in puts if guard)
            assert {r.message for r in ready} == {put.message for put in puts if guard}
            assert follow_ups(ready) == []
            for put in puts:
                claim = await claim_one(backend, harness.session(), put)
                assert (claim.message, claim.attempt) == (put.message, 1)

    @promise("L46", "L33")
    @takes(5)
    async def test_a_delay_counts_from_the_release(self, harness: Harness) -> None:
        backend, error = await harness.backend(), harness.capabilities.ledger.clock_error
        put = await put_one(backend, a_job(waiting=True, delay=2.0))
        await harness.advance(2.5 + error)
        assert await all_due(backend) == []
        released = await backend.now()
        answer, ready = await signal_one(backend, put.id, RELEASE)
        assert (answer.done, answer.state, ready) == (True, JobState.SCHEDULED, [])
        run_at = (await record(backend, put.id)).run_at
        assert run_at is not None
        assert run_at >= released + 2.0 - error
        (early,) = await backend.claim(harness.session(), [hint(put)])
        assert early.kind is VerdictKind.EARLY
        await harness.advance(2.2 + error)
        assert sends(await all_due(backend)) == [(put.id, 1)]

    @promise("L46")
    async def test_a_released_job_keeps_its_date(self, harness: Harness) -> None:
        backend = await harness.backend()
        now = await backend.now()
        later = await put_one(backend, a_job(waiting=True, run_at=now + 600))
        past = await put_one(backend, a_job(waiting=True, run_at=now - 600))
        assert (await signal_one(backend, later.id, RELEASE))[0].state is JobState.SCHEDULED
        assert (await record(backend, later.id)).run_at == now + 600
        assert (await signal_one(backend, past.id, RELEASE))[0].state is JobState.PENDING

    @promise("L46", "L2")
    async def test_a_release_may_be_repeated_or_too_late(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        pending = await put_one(backend, a_job(waiting=True))
        await signal_one(backend, pending.id, RELEASE)
        running, done = await started(backend, session), await started(backend, session)
        await finish_one(backend, done)
        scheduled = await put_one(backend, a_job(delay=600.0))
        found = [pending.id, running.id, done.id, scheduled.id]
        before = await backend.get(found)
        answers, ready = await backend.signal([Signal(id=i, kind=RELEASE) for i in found])
        assert [(a.done, a.state) for a in answers] == [(True, job and job.state) for job in before]
        assert ready == []
        assert await backend.get(found) == before

    @promise("L46", "L4")
    async def test_of_racing_releases_all_are_done(self, harness: Harness) -> None:
        backends = [await harness.backend() for _ in range(3)]
        put = await put_one(backends[0], a_job(waiting=True))
        rounds = await asyncio.gather(
            *(signal_one(backends[n % 3], put.id, RELEASE) for n in range(harness.limits.racers))
        )
        assert {(answer.done, answer.state) for answer, _ in rounds} == {(True, JobState.PENDING)}
        assert {item for _, ready in rounds for item in sends(ready)} == {(put.id, 1)}
        await claim_one(backends[0], harness.session(), put)

    @promise("L46", "T21")
    @fused
    async def test_a_released_record_is_received(self, harness: Harness) -> None:
        pair, session, queue = await harness.pair(), harness.session(), harness.queue()
        put, scope = a_job(queue, waiting=True, workflow="w"), a_scope(routing_key=queue)
        await pair.backend.put([put, scope])
        assert await claimed(pair, session, [queue], timeout=0.05) == []
        _, ready = await signal_one(pair.backend, put.id, RELEASE)
        assert ready == []
        assert ids(await claimed(pair, session, [queue])) == [put.id]


class Scopes(Suite):
    @promise("L8", "L46")
    @takes(3)
    async def test_a_scope_is_started_once(self, harness: Harness) -> None:
        for backend in await forms(harness):
            now = await backend.now()
            at_once, later = a_scope(queue_timeout=600.0), a_scope(waiting=True, queue_timeout=60.0)
            answers = await backend.put([at_once, later])
            assert not any(answer.send for answer in answers)
            job = await record(backend, at_once.id)
            assert job.state is JobState.WAITING
            assert job.started_at is not None
            await harness.advance(0.5)
            answer, ready = await signal_one(backend, later.id, RELEASE)
            assert (answer.done, answer.state, ready) == (True, JobState.WAITING, [])
            first = await record(backend, later.id)
            assert first.started_at is not None
            assert first.started_at >= now
            await harness.advance(0.5)
            for put in (at_once, later):
                answer, ready = await signal_one(backend, put.id, RELEASE)
                assert (answer.done, answer.state, ready) == (True, JobState.WAITING, [])
            assert await backend.get([at_once.id, later.id]) == [job, first]

    @promise("L33", "L46")
    @takes(5)
    async def test_a_scope_has_its_time_from_its_start(self, harness: Harness) -> None:
        error = harness.capabilities.ledger.clock_error
        backend = await harness.backend(guard=False)
        root = a_scope(queue_timeout=600.0)
        at_once = a_scope(workflow=root.id, queue_timeout=1.0)
        later = a_scope(workflow=root.id, queue_timeout=1.0, waiting=True)
        await backend.put([root, at_once, later])
        await harness.advance(1.2 + error)
        assert follow_ups(await all_due(backend)) == [(at_once.id, 2)]
        await signal_one(backend, later.id, RELEASE)
        assert follow_ups(await all_due(backend)) == []
        await harness.advance(1.2 + error)
        assert follow_ups(await all_due(backend)) == [(later.id, 2)]
        for put in (at_once, later):
            job = await record(backend, put.id)
            assert (job.state, job.error and job.error.type) == (JobState.FAILED, "JobExpired")
        assert (await record(backend, root.id)).state is JobState.WAITING

    @promise("L33")
    @takes(3)
    async def test_what_waits_past_its_time_ends_as_expired(self, harness: Harness) -> None:
        backend = await harness.backend()
        now = await backend.now()
        plain = a_job(waiting=True, expires_at=now + 1.0)
        node = a_job(waiting=True, expires_at=now + 1.0, workflow="w")
        scope = a_scope(expires_at=now + 1.0, queue_timeout=600.0)
        await backend.put([plain, node, scope, a_job(waiting=True, expires_at=now + 600.0)])
        await harness.advance(1.5 + harness.capabilities.ledger.clock_error)
        ready = await all_due(backend)
        assert sends(ready) == []
        assert sorted(follow_ups(ready)) == sorted([(node.id, 2), (scope.id, 2)])
        for put in (plain, node, scope):
            job = await record(backend, put.id)
            assert (job.state, job.error and job.error.type) == (JobState.FAILED, "JobExpired")
            answer, _ = await signal_one(backend, put.id, RELEASE)
            assert answer.state is JobState.FAILED


class Ending(Suite):
    @promise("L47", "L23", "L29")
    async def test_what_waits_ends_as_it_is_told(self, harness: Harness) -> None:
        for backend in await forms(harness):
            scope, plain, node = a_scope(), a_job(waiting=True), a_job(waiting=True, workflow="w")
            await backend.put([scope, plain, node])
            other = await harness.backend()
            waiting = asyncio.create_task(other.wait([scope.id], harness.limits.deadline))
            answers, ready = await backend.signal(
                [
                    Signal(id=scope.id, kind=END, state=JobState.COMPLETED, result=b'{"value":1}'),
                    Signal(id=plain.id, kind=END, state=JobState.FAILED, error=ERROR),
                    Signal(id=node.id, kind=END, state=JobState.CANCELLED, by="me", reason="why"),
                    Signal(id="nobody", kind=END, state=JobState.FAILED),
                ]
            )
            assert [(a.done, a.state) for a in answers] == [
                (True, JobState.COMPLETED),
                (True, JobState.FAILED),
                (True, JobState.CANCELLED),
                (False, None),
            ]
            assert sorted(follow_ups(ready)) == sorted([(scope.id, 1), (node.id, 1)])
            assert [job.id for job in await waiting] == [scope.id]
            done, failed, cancelled = [await record(backend, p.id) for p in (scope, plain, node)]
            assert (done.result, done.error) == (b'{"value":1}', None)
            assert failed.error == ERROR
            assert cancelled.cancel is not None
            assert (cancelled.cancel.by, cancelled.cancel.reason) == ("me", "why")
            assert all(job.finished_at is not None for job in (done, failed, cancelled))

    @promise("L47", "L2")
    async def test_an_end_may_be_repeated_and_is_not_undone(self, harness: Harness) -> None:
        backend = await harness.backend()
        scope = await put_one(backend, a_scope())
        await signal_one(backend, scope.id, END, state=JobState.COMPLETED, result=b"1")
        before = await record(backend, scope.id)
        for state, done in ((JobState.COMPLETED, True), (JobState.FAILED, False)):
            answer, ready = await signal_one(backend, scope.id, END, state=state, result=b"2")
            assert (answer.done, answer.state, ready) == (done, JobState.COMPLETED, [])
        assert await record(backend, scope.id) == before

    @promise("L47")
    async def test_only_what_waits_is_ended(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        pending, scheduled = a_job(workflow="w"), a_job(workflow="w", delay=600.0)
        await backend.put([pending, scheduled])
        running = await started(backend, session, workflow="w")
        found = [pending.id, scheduled.id, running.id]
        before = await backend.get(found)
        wishes = [Signal(id=i, kind=END, state=JobState.COMPLETED, result=b"1") for i in found]
        answers, ready = await backend.signal(wishes)
        assert [(a.done, a.state) for a in answers] == [
            (False, job and job.state) for job in before
        ]
        assert ready == []
        assert await backend.get(found) == before
        await finish_one(backend, running, result=b"2")
        answer, _ = await signal_one(backend, running.id, END, state=JobState.COMPLETED)
        assert answer.done
        assert (await record(backend, running.id)).result == b"2"


class Resetting(Suite):
    @promise("L48")
    async def test_a_final_node_waits_again_with_fresh_attempts(self, harness: Harness) -> None:
        for backend in await forms(harness):
            session = harness.session()
            put = await put_one(backend, a_job(workflow="w", max_attempts=2))
            claim = await claim_one(backend, session, put)
            await finish_one(backend, claim, OutcomeKind.RETRY, error=ERROR)
            claim = await claim_one(backend, session, put, gen=2)
            await finish_one(backend, claim, OutcomeKind.FAILED, error=ERROR)
            answer, ready = await signal_one(backend, put.id, RESET)
            assert (answer.done, answer.state, ready) == (True, JobState.WAITING, [])
            job = await record(backend, put.id)
            assert (job.gen, job.failures, job.deaths, job.error) == (3, 0, 0, None)
            assert (job.result, job.started_at, job.finished_at) == (None, None, None)
            (old,) = await backend.claim(session, [hint(put, 3)])
            assert old.kind is VerdictKind.STALE
            await signal_one(backend, put.id, RELEASE)
            claim = await claim_one(backend, session, put, gen=3)
            assert claim.attempt == 1
            assert (await finish_one(backend, claim, result=b"1")).accepted

    @promise("L48")
    @takes(3)
    async def test_a_started_scope_is_unstarted_again(self, harness: Harness) -> None:
        backend = await harness.backend()
        started_, ended = a_scope(queue_timeout=1.0), a_scope(queue_timeout=1.0)
        await backend.put([started_, ended])
        await signal_one(backend, ended.id, END, state=JobState.FAILED, error=ERROR)
        for put in (started_, ended):
            answer, ready = await signal_one(backend, put.id, RESET)
            assert (answer.done, answer.state, ready) == (True, JobState.WAITING, [])
            job = await record(backend, put.id)
            assert (job.gen, job.started_at, job.error) == (2, None, None)
        await harness.advance(1.5 + harness.capabilities.ledger.clock_error)
        assert await all_due(backend) == []  # its time begins anew with the next release
        await signal_one(backend, ended.id, RELEASE)
        assert (await record(backend, ended.id)).started_at is not None

    @promise("L48")
    async def test_nothing_else_can_be_reset(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        plain, holder = [await started(backend, session, unique=u) for u in (None, "key")]
        for claim in (plain, holder):
            await finish_one(backend, claim, OutcomeKind.FAILED, error=ERROR)
        running = await started(backend, session, workflow="w")
        puts = [
            a_job(workflow="w"),
            a_job(workflow="w", delay=600.0),
            a_job(workflow="w", waiting=True),
            a_scope(waiting=True),
        ]
        await backend.put(puts)
        found = [plain.id, holder.id, running.id, *(put.id for put in puts)]
        before = await backend.get(found)
        wishes = [Signal(id=i, kind=RESET) for i in (*found, "nobody")]
        answers, ready = await backend.signal(wishes)
        assert [answer.done for answer in answers] == [False] * len(wishes)
        assert ready == []
        assert await backend.get(found) == before

    @promise("L49", "L2")
    async def test_a_reset_of_one_generation_happens_once(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        node, scope = await started(backend, session, workflow="w"), a_scope()
        await put_one(backend, scope)
        await finish_one(backend, node)
        for job_id in (node.id, scope.id):
            answer, _ = await signal_one(backend, job_id, RESET, gen=2)
            assert not answer.done  # that generation is still to come
            assert (await record(backend, job_id)).gen == 1
            for _ in range(2):
                answer, _ = await signal_one(backend, job_id, RESET, gen=1)
                assert (answer.done, answer.state) == (True, JobState.WAITING)
            assert (await record(backend, job_id)).gen == 2
        await signal_one(backend, node.id, RELEASE)
        answer, ready = await signal_one(backend, node.id, RESET, gen=1)
        assert (answer.done, answer.state, ready) == (True, JobState.PENDING, [])

    @promise("L48", "L33")
    @takes(10)
    async def test_a_reset_ends_the_follow_up(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        claim = await started(backend, session, workflow="w")
        await finish_one(backend, claim)
        await signal_one(backend, claim.id, RESET)
        assert await pass_time(harness, backend, 7.0) == []
