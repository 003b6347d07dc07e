"""Topic: unique keys, on any ledger, with submitters that race, stall and die."""

from __future__ import annotations

import asyncio

from bananas_core.errors import DuplicateJob
from bananas_core.job import JobState, OutcomeKind, PutAnswer, PutKind, SignalKind
from bananas_core.options import to_put
from bananas_core.results import ResultBackend
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.keyed import (
    Answer,
    LocalClock,
    Meddled,
    Stopped,
    a_submission,
    at_most_one,
    begin,
    documents,
    due,
    end,
    heal,
    id_of,
    jobs_of,
    rule,
    run,
    stop,
    submit,
    submit_all,
    tend,
    while_time_passes,
)
from bananas_core.testing.conformance.marks import promise, takes
from bananas_core.testing.conformance.support import Suite, record, signal_one, state_of
from bananas_core.unique import HOLD, follow_keys, release, tidy
from bananas_core.unique_rule import OnConflict, Until

MOST_CALLS = 40
"""More than any step needs; a loop over its calls that gets there has not ended."""


class Holding(Suite):
    @promise("U1")
    async def test_of_racing_submits_one_gets_the_key(self, harness: Harness) -> None:
        backends = [await harness.backend() for _ in range(3)]
        for turn in range(4):
            key = f"race {turn}"
            answers = await asyncio.gather(
                *(submit(backends[n % 3], key, n) for n in range(harness.limits.racers))
            )
            assert len({id_of(answer) for answer in answers}) == 1
            kinds = [a.kind for a in answers if isinstance(a, PutAnswer)]
            assert kinds.count(PutKind.CREATED) == 1
            (job,) = await jobs_of(backends[0], key)
            assert (job.id, job.state) == (id_of(answers[0]), JobState.PENDING)

    @promise("U1")
    async def test_equal_keys_in_one_batch_are_one_job(self, harness: Harness) -> None:
        backend = await harness.backend()
        jobs = [a_submission(f"k{n % 3}", n, rule()) for n in range(9)]
        answers = await submit_all(backend, jobs)
        assert [id_of(answer) for answer in answers] == [jobs[n % 3].message.id for n in range(9)]
        for n in range(3):
            assert len(await jobs_of(backend, f"k{n}")) == 1

    @promise("U2")
    async def test_a_key_is_free_when_its_job_has_ended(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        for followed in (True, False):
            first = id_of(await submit(backend, "k"))
            outcome = await begin(backend, session, first)
            assert id_of(await submit(backend, "k")) == first
            await end(backend, outcome, followed=followed)
            second = id_of(await submit(backend, "k"))
            assert second != first
            await at_most_one(backend, "k")
            await run(backend, session, second)

    @promise("U2")
    @takes(42)
    async def test_a_late_follow_up_does_not_free_the_next_ones_key(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        first = id_of(await submit(backend, "k"))
        await end(backend, await begin(backend, session, first), followed=False)
        second = id_of(await submit(backend, "k"))
        await tend(backend, await follow_keys(backend, [await record(backend, first)]))
        assert id_of(await submit(backend, "k")) == second
        await heal(harness, backend, "k")

    @promise("U2")
    async def test_a_job_keeps_its_key_over_all_its_attempts(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        id = id_of(await submit(backend, "k"))
        for kind in (OutcomeKind.RETRY, OutcomeKind.DIED, OutcomeKind.HANDBACK, OutcomeKind.SNOOZE):
            outcome = await begin(backend, session, id)
            _, ready = await backend.finish([type(outcome)(id=id, fence=outcome.fence, kind=kind)])
            await tend(backend, ready)
            assert id_of(await submit(backend, "k")) == id
        await run(backend, session, id)
        assert await documents(backend) == []

    @promise("U3")
    async def test_until_started_frees_the_key_at_the_first_claim(self, harness: Harness) -> None:
        backend, session, how = (
            await harness.backend(),
            harness.session(),
            rule(until=Until.STARTED),
        )
        first = id_of(await submit(backend, "k", how=how))
        assert id_of(await submit(backend, "k", how=how)) == first
        outcome = await begin(backend, session, first)
        second = id_of(await submit(backend, "k", how=how))
        assert second != first
        await end(backend, outcome)
        assert id_of(await submit(backend, "k", how=how)) == second
        await run(backend, session, second)
        assert await documents(backend) == []

    @promise("U3")
    @takes(12)
    async def test_a_period_holds_the_key_whatever_becomes_of_the_job(
        self, harness: Harness
    ) -> None:
        backend, session = await harness.backend(), harness.session()
        how = rule(until=Until.PERIOD, period=10.0)
        first = id_of(await submit(backend, "k", how=how))
        await run(backend, session, first)
        await harness.advance(8.0)
        assert id_of(await submit(backend, "k", how=how)) == first
        await harness.advance(2.5 + 2 * harness.capabilities.ledger.clock_error)
        assert await documents(backend) == []
        assert id_of(await submit(backend, "k", how=how)) != first

    @promise("U4")
    async def test_submitting_again_with_the_same_id_is_safe(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        for again in range(3):
            answer = await submit(backend, "k", again, id="mine")
            assert isinstance(answer, PutAnswer)
            assert answer.kind is (PutKind.EXISTS if again else PutKind.CREATED)
        await run(backend, session, "mine")
        assert id_of(await submit(backend, "k", id="mine")) == "mine"
        assert len(await jobs_of(backend, "k")) == 1
        assert await documents(backend) == []

    @promise("U4")
    async def test_racing_submits_with_the_same_id_are_one_job(self, harness: Harness) -> None:
        backends, session = [await harness.backend() for _ in range(3)], harness.session()
        answers = await asyncio.gather(
            *(submit(backends[n % 3], "k", n, id="mine") for n in range(harness.limits.racers))
        )
        assert {id_of(answer) for answer in answers} == {"mine"}
        await run(backends[0], session, "mine")
        assert await documents(backends[0]) == []

    @promise("U5")
    async def test_a_retried_job_gets_its_key_again(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        id = id_of(await submit(backend, "k"))
        await _fail(backend, session, id)
        _, ready = await signal_one(backend, id, SignalKind.RETRY)
        await tend(backend, ready)
        assert await state_of(backend, id) is JobState.PENDING
        assert id_of(await submit(backend, "k")) == id
        await run(backend, session, id)
        assert await documents(backend) == []

    @promise("U5")
    async def test_a_retried_job_ends_if_another_has_its_key(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        id = id_of(await submit(backend, "k"))
        await _fail(backend, session, id)
        other = id_of(await submit(backend, "k"))
        _, ready = await signal_one(backend, id, SignalKind.RETRY)
        await tend(backend, ready)
        ended = await record(backend, id)
        assert ended.state is JobState.CANCELLED
        assert ended.cancel is not None
        assert other in (ended.cancel.reason or "")
        assert await state_of(backend, other) is JobState.PENDING

    @promise("L49", "U7")
    async def test_a_late_release_of_an_earlier_life_has_no_effect(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        id = id_of(await submit(backend, "k"))
        await _fail(backend, session, id)
        await submit(backend, "k")
        await signal_one(backend, id, SignalKind.RETRY)
        answer, _ = await signal_one(backend, id, SignalKind.RELEASE, gen=1)
        assert (answer.done, answer.state) == (True, JobState.WAITING)
        await at_most_one(backend, "k")

    @promise("U5")
    async def test_a_node_of_a_workflow_gets_its_key_or_ends(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        nodes = [
            a_submission("k", n, rule(), id=f"node{n}", workflow={"id": "w"}, waiting=True)
            for n in range(2)
        ]
        await backend.put([to_put(node) for node in nodes])
        await due(backend)
        states = []
        for node in nodes:
            await tend(backend, await release(backend, [await record(backend, node.message.id)]))
            states.append(await state_of(backend, node.message.id))
        assert states == [JobState.PENDING, JobState.CANCELLED]
        assert id_of(await submit(backend, "k")) == "node0"
        outcome = await begin(backend, session, "node0")
        _, ready = await backend.finish([outcome])
        keyed = [await record(backend, r.id) for r in ready]
        await follow_keys(backend, keyed)
        assert await documents(backend) == []

    @promise("U6")
    @takes(60)
    async def test_a_submitter_may_die_at_any_call(self, harness: Harness) -> None:
        backend = await harness.backend()
        for after in (False, True):
            for at in range(MOST_CALLS):
                key = f"dies {after} {at}"
                victim = Meddled(backend, at, stop, after=after)
                try:
                    await submit(victim.ledger, key)
                except Stopped:
                    pass
                await at_most_one(backend, key)
                task = asyncio.create_task(submit(backend, key, 1))
                found = id_of(await while_time_passes(harness, backend, key, task))
                states = (JobState.WAITING, JobState.PENDING)  # waiting: the victim got that far
                assert await state_of(backend, found) in states
                await heal(harness, backend, key)
                assert await documents(backend) == []
                if not victim.reached:
                    break
            else:
                raise AssertionError("it makes more calls than thought possible")

    @promise("U6")
    @takes(60)
    async def test_a_submitter_that_died_leaves_nothing_that_waits(self, harness: Harness) -> None:
        backend = await harness.backend()
        for at in range(MOST_CALLS):
            key = f"alone {at}"
            victim = Meddled(backend, at, stop)
            try:
                await submit(victim.ledger, key)
            except Stopped:
                pass
            await heal(harness, backend, key)
            await tidy(backend)  # nobody asks for this key again
            assert await documents(backend) == []
            if not victim.reached:
                return
        raise AssertionError("it makes more calls than thought possible")

    @promise("U6")
    @takes(10)
    async def test_tidying_spares_keys_that_are_on_their_way(self, harness: Harness) -> None:
        backend = await harness.backend()
        writer = Meddled(backend, await _calls_until(backend, "cas"), lambda: tidy(backend))
        id = id_of(await submit(writer.ledger, "k"))
        assert id in await documents(backend)
        await harness.advance(HOLD + 1.0)
        await tidy(backend)
        assert id in await documents(backend)
        assert id_of(await submit(backend, "k")) == id

    @promise("U6")
    @takes(60)
    async def test_a_follow_up_may_die_at_any_call(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        keep = rule(OnConflict.KEEP_LAST)
        for after in (False, True):
            for at in range(MOST_CALLS):
                key, reached = f"follows {after} {at}", False
                first = id_of(await submit(backend, key, 0, keep))
                outcome = await begin(backend, session, first)
                last = id_of(await submit(backend, key, 1, keep))
                _, ready = await backend.finish([outcome])
                victim = Meddled(backend, at, stop, after=after)
                try:
                    await tend(victim.ledger, ready)
                except Stopped:
                    pass
                reached = victim.reached
                await at_most_one(backend, key)
                newer = id_of(await submit(backend, key, 2, keep))
                await at_most_one(backend, key)
                await heal(harness, backend, key)
                ended = {job.id: job.state for job in await jobs_of(backend, key)}
                assert ended[newer] is JobState.COMPLETED
                assert ended[last] in (JobState.COMPLETED, JobState.CANCELLED)
                assert await documents(backend) == []
                if not reached:
                    break
            else:
                raise AssertionError("it makes more calls than thought possible")

    @promise("U7")
    @takes(60)
    async def test_a_submitter_may_stall_at_any_call(self, harness: Harness) -> None:
        backend = await harness.backend()
        for after in (False, True):
            for at in range(MOST_CALLS):
                key, clock = f"stalls {after} {at}", LocalClock()

                async def other(key: str = key, clock: LocalClock = clock) -> None:
                    clock.time += 7.0
                    await harness.advance(7.0)
                    await submit(backend, key, 1)
                    await at_most_one(backend, key)

                slow = Meddled(backend, at, other, after=after)
                await submit(slow.ledger, key, clock=clock)
                await at_most_one(backend, key)
                await heal(harness, backend, key)
                assert await documents(backend) == []
                if not slow.reached:
                    break
            else:
                raise AssertionError("it makes more calls than thought possible")

    @promise("U7")
    @takes(50)
    async def test_a_takeover_that_was_decided_before_comes_too_late(
        self, harness: Harness
    ) -> None:
        """One stalls before its record is there; another sees the key free and stalls too."""
        backend, clock = await harness.backend(), LocalClock()
        tasks: list[asyncio.Task[Answer]] = []
        looked, go = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            looked.set()
            await go.wait()

        async def stall() -> None:
            clock.time += 7.0
            await harness.advance(7.0)
            late = Meddled(backend, calls - 1, wait)  # the call that writes
            tasks.append(asyncio.create_task(submit(late.ledger, "k", 1)))
            await asyncio.wait_for(looked.wait(), 5)

        calls = await _calls_until(backend, "cas")
        slow = Meddled(backend, calls, stall)
        first = id_of(await submit(slow.ledger, "k", clock=clock))
        assert await state_of(backend, first) is JobState.PENDING
        go.set()
        assert id_of(await tasks[0]) == first
        await at_most_one(backend, "k")
        await heal(harness, backend, "k")


class Conflicting(Suite):
    @promise("U8")
    async def test_the_other_job_is_answered_or_named(self, harness: Harness) -> None:
        backend = await harness.backend()
        first = id_of(await submit(backend, "k", 0))
        for policy in (OnConflict.EXISTING, OnConflict.DROP):
            answer = await submit(backend, "k", 1, rule(policy))
            assert answer == PutAnswer(kind=PutKind.CONFLICT, id=first)
        refused = await submit(backend, "k", 1, rule(OnConflict.RAISE))
        assert isinstance(refused, DuplicateJob)
        assert refused.job_id == first
        (job,) = await jobs_of(backend, "k")
        assert b'{"n":0}' in job.message

    @promise("U8")
    async def test_a_key_without_a_record_yet_is_waited_for(self, harness: Harness) -> None:
        """Whoever loses a race gets the id of a job that there is."""
        backend = await harness.backend()
        tasks: list[asyncio.Task[Answer]] = []

        async def compete() -> None:
            tasks.append(asyncio.create_task(submit(backend, "k", 1)))
            await asyncio.wait(tasks, timeout=0.05)
            assert not tasks[0].done()

        writer = Meddled(backend, await _calls_until(backend, "cas"), compete)
        first = id_of(await submit(writer.ledger, "k"))
        assert id_of(await tasks[0]) == first

    @promise("U9")
    async def test_replace_changes_what_has_not_started(self, harness: Harness) -> None:
        backend, session, how = await harness.backend(), harness.session(), rule(OnConflict.REPLACE)
        first = id_of(await submit(backend, "k", 0, how))
        assert id_of(await submit(backend, "k", 1, how)) == first
        job = await record(backend, first)
        assert (job.state, job.gen) == (JobState.PENDING, 2)
        assert b'{"n":1}' in job.message
        outcome = await begin(backend, session, first)
        assert id_of(await submit(backend, "k", 2, how)) == first
        assert b'{"n":1}' in (await record(backend, first)).message
        await end(backend, outcome)
        assert await documents(backend) == []

    @promise("U9")
    async def test_of_a_batch_the_last_arguments_count(self, harness: Harness) -> None:
        backend, how = await harness.backend(), rule(OnConflict.REPLACE)
        answers = await submit_all(backend, [a_submission("k", n, how) for n in range(5)])
        assert len({id_of(answer) for answer in answers}) == 1
        (job,) = await jobs_of(backend, "k")
        assert b'{"n":4}' in job.message

    @promise("U9")
    async def test_a_job_of_another_task_is_not_changed(self, harness: Harness) -> None:
        backend, how = await harness.backend(), rule(OnConflict.REPLACE)
        first = id_of(await submit(backend, "k", 0, how))
        assert id_of(await submit(backend, "k", 1, how, name="other")) == first
        assert b'{"n":0}' in (await record(backend, first)).message

    @promise("U9")
    async def test_reschedule_begins_the_delay_anew_up_to_a_limit(self, harness: Harness) -> None:
        backend = await harness.backend()
        how = rule(OnConflict.RESCHEDULE, Until.STARTED, max_wait=100.0)
        first = id_of(await submit(backend, "k", 0, how, delay=60.0))
        before = (await record(backend, first)).run_at
        assert before is not None
        assert id_of(await submit(backend, "k", 1, how, delay=90.0)) == first
        job = await record(backend, first)
        assert job.run_at is not None
        assert 25 < job.run_at - before < 35
        assert b'{"n":1}' in job.message
        assert id_of(await submit(backend, "k", 2, how, delay=500.0)) == first
        job = await record(backend, first)
        assert job.run_at is not None
        assert abs(job.run_at - job.created_at - 100.0) < 0.1

    @promise("U10")
    async def test_keep_last_runs_once_more_with_the_newest(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        keep = rule(OnConflict.KEEP_LAST)
        first = id_of(await submit(backend, "k", 0, keep))
        assert id_of(await submit(backend, "k", 1, keep)) == first  # it has not started
        outcome = await begin(backend, session, first)
        nexts = {id_of(await submit(backend, "k", n, keep)) for n in (2, 3, 4)}
        assert len(nexts) == 1
        (last,) = nexts
        assert last != first
        assert await state_of(backend, last) is JobState.WAITING
        await end(backend, outcome)
        job = await record(backend, last)
        assert job.state is JobState.PENDING
        assert b'{"n":4}' in job.message
        await run(backend, session, last)
        assert len(await jobs_of(backend, "k")) == 2
        assert await documents(backend) == []

    @promise("U10")
    async def test_keep_last_follows_again_and_again(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        keep = rule(OnConflict.KEEP_LAST)
        id, seen = id_of(await submit(backend, "k", 0, keep)), []
        for n in range(1, 4):
            seen.append(id)
            outcome = await begin(backend, session, id)
            following = id_of(await submit(backend, "k", n, keep))
            await end(backend, outcome)
            id = following
        assert len({*seen, id}) == 4
        await run(backend, session, id)
        assert await documents(backend) == []

    @promise("U10")
    async def test_a_cancelled_follow_up_makes_room_for_another(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        keep = rule(OnConflict.KEEP_LAST)
        outcome = await begin(backend, session, id_of(await submit(backend, "k", 0, keep)))
        unwanted = id_of(await submit(backend, "k", 1, keep))
        _, ready = await signal_one(backend, unwanted, SignalKind.CANCEL)
        await tend(backend, ready)
        last = id_of(await submit(backend, "k", 2, keep))
        assert last != unwanted
        await end(backend, outcome)
        assert await state_of(backend, last) is JobState.PENDING
        assert await state_of(backend, unwanted) is JobState.CANCELLED

    @promise("U10")
    async def test_a_follow_up_that_comes_after_the_end_runs_at_once(
        self, harness: Harness
    ) -> None:
        """The job before it ends between the look and the put."""
        backend, session = await harness.backend(), harness.session()
        keep = rule(OnConflict.KEEP_LAST)
        for at in range(MOST_CALLS):
            key = f"late {at}"
            first = id_of(await submit(backend, key, 0, keep))
            outcome = await begin(backend, session, first)
            late = Meddled(backend, at, lambda outcome=outcome: end(backend, outcome))  # type: ignore[misc]
            last = id_of(await submit(late.ledger, key, 1, keep))
            if not late.reached:
                return
            assert await state_of(backend, last) is JobState.PENDING
            await at_most_one(backend, key)
            await run(backend, session, last)
            assert await documents(backend) == []
        raise AssertionError("it makes more calls than thought possible")

    @promise("U10")
    @takes(42)
    async def test_a_newer_job_goes_before_a_follow_up(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        keep = rule(OnConflict.KEEP_LAST)
        first = id_of(await submit(backend, "k", 0, keep))
        outcome = await begin(backend, session, first)
        last = id_of(await submit(backend, "k", 1, keep))
        await end(backend, outcome, followed=False)
        newer = id_of(await submit(backend, "k", 2, keep))
        await at_most_one(backend, "k")
        await heal(harness, backend, "k")
        assert await state_of(backend, newer) is JobState.COMPLETED
        assert await state_of(backend, last) in (JobState.CANCELLED, JobState.COMPLETED)

    @promise("U10")
    async def test_racing_submits_make_one_follow_up(self, harness: Harness) -> None:
        backends, session = [await harness.backend() for _ in range(3)], harness.session()
        keep = rule(OnConflict.KEEP_LAST)
        first = id_of(await submit(backends[0], "k", 0, keep))
        outcome = await begin(backends[0], session, first)
        answers = await asyncio.gather(
            *(submit(backends[n % 3], "k", n, keep) for n in range(harness.limits.racers))
        )
        (last,) = {id_of(answer) for answer in answers}
        await end(backends[0], outcome)
        await at_most_one(backends[0], "k")
        await run(backends[0], session, last)
        assert len(await jobs_of(backends[0], "k")) == 2


async def _fail(backend: ResultBackend, session: str, id: str) -> None:
    outcome = await begin(backend, session, id)
    _, ready = await backend.finish(
        [type(outcome)(id=id, fence=outcome.fence, kind=OutcomeKind.FAILED)]
    )
    await tend(backend, ready)


async def _calls_until(backend: ResultBackend, name: str) -> int:
    """How many calls a submitter has made once it has made this one for the first time."""
    seen: list[str] = []

    class Notes:
        def __getattr__(self, called: str) -> object:
            if callable(getattr(backend, called)):
                seen.append(called)
            return getattr(backend, called)

    await submit(Notes(), "rehearsal")  # type: ignore[arg-type]
    return seen.index(name) + 1
