"""Any sequence of calls keeps the ledger's main promises, by a model that knows only ids."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from bananas_brokers.memory.results import MemoryResultBackend
from bananas_core.job import (
    FINAL,
    Claim,
    ClaimBeat,
    FinishAnswer,
    Hint,
    Job,
    JobState,
    Outcome,
    OutcomeKind,
    Ready,
    ReadyKind,
    RenewMode,
    Session,
    Settled,
    Signal,
    SignalKind,
    VerdictKind,
)
from bananas_core.testing.clock import ManualClock
from bananas_core.testing.conformance.support import a_job, a_scope, outcome

T = TypeVar("T")
JOBS = st.sampled_from([f"job-{n}" for n in range(3)])
SCOPE = "scope"
IDS = st.one_of(JOBS, JOBS, st.just(SCOPE))
SESSIONS = st.integers(0, 1)


class LedgerMachine(RuleBasedStateMachine):
    """Two connections; every call goes through one of them."""

    url = "memory://machine"

    @initialize(guard=st.sampled_from([True, True, False]))
    def begin(self, guard: bool) -> None:
        """Without ``guard`` the transport finds pending records itself, so nothing is sent."""
        self.guard = guard
        self.loop = asyncio.new_event_loop()
        self.clock, namespace = ManualClock(), uuid.uuid4().hex
        self.backends = [
            MemoryResultBackend(self.url, namespace, clock=self.clock) for _ in range(2)
        ]
        self.calls = 0
        self.sessions = [uuid.uuid4().hex, uuid.uuid4().hex]
        self.accepted: set[str] = set()
        self.final: dict[str, Job] = {}
        self.won: set[tuple[str, int]] = set()
        self.fences: dict[str, int] = {}
        self.claims: list[Claim] = []
        self.answers: dict[Outcome, FinishAnswer] = {}
        self.messages: set[tuple[str, int]] = set()
        """(id, gen) of messages that a transport would hold."""
        self.asked: set[tuple[str, int, bool]] = set()
        """(id, gen, whether it had ended) of the follow-ups that somebody was told of."""
        self.followed: set[tuple[str, int]] = set()
        """(id, gen) of the ends that were followed up and settled."""
        for backend in self.backends:
            self.run(backend.open(guard=guard))

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    @property
    def backend(self) -> Any:
        """The connections take turns."""
        self.calls += 1
        return self.backends[self.calls % 2]

    def record(self, job_id: str) -> Job | None:
        (job,) = self.run(self.backend.get([job_id]))
        return job

    def told(self, ready: list[Ready] | tuple[Ready, ...]) -> None:
        for item in ready:
            assert item.id in self.accepted
            if item.kind is ReadyKind.SEND:
                assert self.guard
                self.messages.add((item.id, item.gen))
                continue
            job = self.record(item.id)
            assert job is not None
            assert job.followed, "nothing follows from it"
            assert job.gen == item.gen
            assert job.state in FINAL or (job.state is JobState.WAITING and job.unique is not None)
            assert (item.id, item.gen) not in self.followed, "asked for again after it was done"
            self.asked.add((item.id, item.gen, job.state in FINAL))

    def signal(self, job_id: str, kind: SignalKind, **options: Any) -> bool:
        wish = Signal(id=job_id, kind=kind, **options)
        (answer,), ready = self.run(self.backend.signal([wish]))
        job = self.record(job_id)
        assert answer.state is (None if job is None else job.state)
        self.told(ready)
        return bool(answer.done)

    # --- what clients do

    @rule(
        job_id=JOBS,
        delay=st.sampled_from([None, None, 7.0]),
        attempts=st.integers(1, 3),
        waiting=st.sampled_from([False, False, True]),
        workflow=st.sampled_from([None, SCOPE]),
        unique=st.sampled_from([None, None, "key"]),
    )
    def put(
        self,
        job_id: str,
        delay: float | None,
        attempts: int,
        waiting: bool,
        workflow: str | None,
        unique: str | None,
    ) -> None:
        put = a_job(
            id=job_id,
            delay=delay,
            max_attempts=attempts,
            waiting=waiting,
            workflow=workflow,
            unique=unique,
        )
        (answer,) = self.run(self.backend.put([put]))
        new = job_id not in self.accepted
        assert (answer.kind == "created") == new
        if new and (waiting or delay is not None):
            assert not answer.send
        self.accepted.add(job_id)
        if answer.send:
            self.messages.add((job_id, answer.gen))

    @rule(waiting=st.booleans(), limit=st.sampled_from([None, 9.0]))
    def put_scope(self, waiting: bool, limit: float | None) -> None:
        put = a_scope(id=SCOPE, waiting=waiting, queue_timeout=limit)
        (answer,) = self.run(self.backend.put([put]))
        assert (answer.kind == "created") == (SCOPE not in self.accepted)
        assert not answer.send
        self.accepted.add(SCOPE)

    @rule(job_id=IDS)
    def cancel(self, job_id: str) -> None:
        before = self.record(job_id)
        assert self.signal(job_id, SignalKind.CANCEL) == (
            before is not None and (before.state not in FINAL or before.state is JobState.CANCELLED)
        )

    @rule(job_id=IDS)
    def retry(self, job_id: str) -> None:
        before = self.record(job_id)
        retried = (
            before is not None and before.state in FINAL - {JobState.COMPLETED} and not before.scope
        )
        if retried:
            self.final.pop(job_id, None)
        assert self.signal(job_id, SignalKind.RETRY) == retried
        after = self.record(job_id)
        if retried and after is not None:
            assert (after.state is JobState.WAITING) == (after.unique is not None)

    @rule(
        job_id=IDS,
        priority=st.one_of(st.none(), st.integers(0, 100)),
        delay=st.sampled_from([None, 0.0, 7.0]),
        gen=st.one_of(st.none(), st.integers(1, 4)),
    )
    def change(
        self, job_id: str, priority: int | None, delay: float | None, gen: int | None
    ) -> None:
        before = self.record(job_id)
        done = self.signal(job_id, SignalKind.CHANGE, priority=priority, delay=delay, gen=gen)
        if before is None or before.gen == gen or gen is None:
            return
        assert done == (gen < before.gen)
        assert self.record(job_id) == before

    @rule(job_id=IDS)
    def release(self, job_id: str) -> None:
        before = self.record(job_id)
        assert self.signal(job_id, SignalKind.RELEASE) == (before is not None)
        after = self.record(job_id)
        if before is None or before.state is not JobState.WAITING:
            assert after == before
        elif before.scope:
            assert after is not None
            assert (after.state, after.gen) == (JobState.WAITING, before.gen)
            assert after.started_at == (before.started_at or self.clock.now())
        else:
            assert after is not None
            assert (after.state is JobState.WAITING, after.gen) == (False, before.gen)

    @rule(
        job_id=IDS,
        state=st.sampled_from([JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED]),
    )
    def end(self, job_id: str, state: JobState) -> None:
        before = self.record(job_id)
        waits = before is not None and before.state is JobState.WAITING
        done = self.signal(job_id, SignalKind.END, state=state, result=b"1")
        assert done == (waits or (before is not None and before.state is state))
        if not waits:
            assert self.record(job_id) == before

    @rule(job_id=IDS, gen=st.one_of(st.none(), st.integers(1, 4)))
    def reset(self, job_id: str, gen: int | None) -> None:
        before = self.record(job_id)
        now = before is not None and gen in (None, before.gen) and self.can_be_reset(before)
        if now:
            self.final.pop(job_id, None)
        done = self.signal(job_id, SignalKind.RESET, gen=gen)
        after = self.record(job_id)
        if not now or before is None:
            later = before is not None and gen is not None and gen < before.gen
            assert (done, after) == (later, before)
            return
        assert done
        assert after is not None
        assert (after.state, after.gen, after.attempt) == (JobState.WAITING, before.gen + 1, 1)
        assert (after.started_at, after.due_at) == (None, None)

    @staticmethod
    def can_be_reset(job: Job) -> bool:
        if job.state in FINAL:
            return job.workflow is not None
        return job.scope and job.started_at is not None

    # --- what workers do

    @precondition(lambda self: self.messages)
    @rule(who=SESSIONS, data=st.data())
    def receive_and_claim(self, who: int, data: st.DataObject) -> None:
        """Messages come again and again, and in any order."""
        self.claim(who, *data.draw(st.sampled_from(sorted(self.messages))))

    @precondition(lambda self: self.accepted)
    @rule(who=SESSIONS, data=st.data())
    def claim_what_is_current(self, who: int, data: st.DataObject) -> None:
        job = self.record(data.draw(st.sampled_from(sorted(self.accepted))))
        assert job is not None
        self.claim(who, job.id, job.gen)

    @rule(who=SESSIONS, job_id=IDS, gen=st.integers(1, 5))
    def claim(self, who: int, job_id: str, gen: int) -> None:
        before = self.record(job_id)
        (verdict,) = self.run(self.backend.claim(self.sessions[who], [Hint(id=job_id, gen=gen)]))
        if before is None:
            assert verdict.kind is VerdictKind.UNRECORDED
            return
        free = before.state is JobState.PENDING and before.gen == gen
        assert (verdict.kind is VerdictKind.RUN) == free
        if verdict.claim is not None:
            self.win(verdict.claim, before)

    def win(self, claim: Claim, before: Job) -> None:
        assert (claim.id, claim.gen) not in self.won, "two winners of one generation"
        assert claim.fence > self.fences.get(claim.id, 0), "a fence that does not rise"
        assert claim.attempt == before.attempt
        self.won.add((claim.id, claim.gen))
        self.fences[claim.id] = claim.fence
        self.claims.append(claim)

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(),
        kind=st.sampled_from(OutcomeKind),
        delay=st.sampled_from([0.0, 0.5, 7.0]),
    )
    def finish(self, data: st.DataObject, kind: OutcomeKind, delay: float) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        before = self.record(claim.id)
        assert before is not None
        (answer,), ready = self.run(
            self.backend.finish([outcome(claim, kind, delay=delay, result=b"1")])
        )
        if before.state is JobState.PROCESSING and before.fence == claim.fence:
            assert answer.accepted
            self.answers[outcome(claim, kind, delay=delay, result=b"1")] = answer
            self.spent(before, kind)
        else:
            entry = next(e for e in before.attempts if e.fence == claim.fence)
            if entry.outcome not in (kind, "cancelled"):
                assert not answer.accepted, "a stale finish was accepted"
            assert self.record(claim.id) == before
            assert ready == []
        self.told(ready)

    def spent(self, before: Job, kind: OutcomeKind) -> None:
        after = self.record(before.id)
        assert after is not None
        failed = after.failures - before.failures
        died = after.deaths - before.deaths
        if after.state not in FINAL:
            assert (failed, died) == (kind is OutcomeKind.RETRY, kind is OutcomeKind.DIED)

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def finish_again(self, data: st.DataObject) -> None:
        """The reply got lost, so the worker asks again, however late."""
        first = data.draw(st.sampled_from(list(self.answers)))
        before = self.record(first.id)
        (answer,), ready = self.run(self.backend.finish([first]))
        known = self.answers[first]
        assert answer.accepted, "a repeated finish must give the first answer"
        # Of a death the timeline doesn't say whether it ended the job, which may run again now.
        if known.state in FINAL and first.kind is not OutcomeKind.DIED:
            assert answer.state is known.state
        assert ready == []
        assert self.record(first.id) == before

    @rule(who=SESSIONS, mode=st.sampled_from(RenewMode), data=st.data())
    def renew(self, who: int, mode: RenewMode, data: st.DataObject) -> None:
        listed = (
            data.draw(st.lists(st.sampled_from(self.claims), unique=True)) if self.claims else []
        )
        session = Session(id=self.sessions[who], name="machine")
        beats = [ClaimBeat(id=claim.id, fence=claim.fence) for claim in listed]
        before = {claim.id: self.record(claim.id) for claim in listed}
        answer = self.run(self.backend.renew(session, beats, mode=mode))
        for claim in listed:
            job = before[claim.id]
            assert job is not None
            mine = (
                job.state is JobState.PROCESSING
                and job.fence == claim.fence
                and job.worker == session.id
            )
            assert ((claim.id, claim.fence) in answer.lost) != mine
        if mode is RenewMode.ENDED:
            self.sessions[who] = uuid.uuid4().hex
        self.told(answer.ready)

    @rule(steps=st.integers(1, 12))
    def time_passes(self, steps: int) -> None:
        for _ in range(steps):
            self.clock.advance(2.0)
            self.due()

    @rule(seconds=st.sampled_from([0.3, 6.0, 40.0]))
    def nothing_runs_for_a_while(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def due(self) -> None:
        scheduled = {
            job_id: job.run_at
            for job_id in self.accepted
            if (job := self.record(job_id)) is not None and job.state is JobState.SCHEDULED
        }
        more = True
        while more:
            ready, more = self.run(self.backend.due(3))
            assert len(ready) <= 3
            self.told(ready)
            for item in ready:
                run_at = scheduled.get(item.id)
                assert run_at is None or run_at <= self.clock.now(), "early"

    @rule()
    def producer_settles(self) -> None:
        items = [Settled(id=job_id, gen=gen) for job_id, gen in self.messages]
        ready, _ = self.run(self.backend.due(100, settled=items))
        self.told(ready)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def follow_up(self, data: st.DataObject) -> None:
        """As ``follow.py`` does it: by the record, which must still be of that generation."""
        job_id, gen, _ = data.draw(st.sampled_from(sorted(self.asked)))
        job = self.record(job_id)
        assert job is not None
        item = Settled(id=job_id, gen=gen, followed=True)
        self.run(self.backend.put([], settled=[item]))
        if job.state in FINAL and job.gen == gen:
            self.followed.add((job_id, gen))
        else:
            assert self.record(job_id) == job

    # --- what must hold

    @invariant()
    def nothing_accepted_is_lost_and_final_is_final(self) -> None:
        for job_id in getattr(self, "accepted", ()):
            job = self.record(job_id)
            assert job is not None, f"{job_id} is lost"
            known = self.final.get(job_id)
            bare = replace(job, guard_at=None, guard_hold=0.0)
            if known is not None:
                assert bare == known, "a final record changed"
            elif job.state in FINAL:
                self.final[job_id] = bare
            if job.state in FINAL:
                asked = job.followed and (job_id, job.gen) not in self.followed
                assert (job.guard_at is not None) == asked, "what follows is forgotten"
            if job.scope:
                assert job.state is JobState.WAITING or job.state in FINAL, "a scope that runs"
            if self.guard and job.state is JobState.PENDING and job.guard_at is None:
                assert (job_id, job.gen) in self.messages, "pending, and nobody was told"

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.drain()
        finally:
            for backend in self.backends:
                self.run(backend.close())
            self.loop.close()

    def drain(self) -> None:
        """A healthy worker comes: everything ends, and every end is followed up."""
        session = uuid.uuid4().hex
        for _ in range(60):
            for job_id in sorted(self.accepted):
                self.signal(job_id, SignalKind.RELEASE)
                if job_id == SCOPE:
                    self.signal(job_id, SignalKind.END, state=JobState.COMPLETED)
            for job_id, gen in sorted(self.messages if self.guard else self.pending()):
                verdicts = self.run(self.backend.claim(session, [Hint(id=job_id, gen=gen)]))
                for verdict in verdicts:
                    if verdict.claim is not None:
                        _, ready = self.run(self.backend.finish([outcome(verdict.claim)]))
                        self.told(ready)
            if all((job := self.record(i)) and job.state in FINAL for i in self.accepted):
                break
            self.clock.advance(2.0)
            self.due()
        jobs = [self.record(job_id) for job_id in self.accepted]
        assert all(job is not None and job.state in FINAL for job in jobs), jobs
        self.time_passes_for_follow_ups()
        for job in jobs:
            if job is not None and job.followed:
                assert (job.id, job.gen, True) in self.asked, "an end that nobody was told of"

    def pending(self) -> set[tuple[str, int]]:
        jobs = [self.record(job_id) for job_id in self.accepted]
        return {(j.id, j.gen) for j in jobs if j is not None and j.state is JobState.PENDING}

    def time_passes_for_follow_ups(self) -> None:
        for _ in range(4):
            self.clock.advance(2.0)
            self.due()


class SplitLedgerMachine(LedgerMachine):
    """The key-value ledger: one compare-and-set a record."""

    url = "memory://machine?form=split"


LedgerMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, database=None
)
SplitLedgerMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=50, deadline=None, database=None
)
TestFusedLedger = LedgerMachine.TestCase
TestSplitLedger = SplitLedgerMachine.TestCase
