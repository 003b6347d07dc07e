"""Any sequence of calls keeps the ledger's main promises, by a model that knows only ids."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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
    RenewMode,
    Session,
    Settled,
    Signal,
    SignalKind,
    VerdictKind,
)
from bananas_core.testing.clock import ManualClock
from bananas_core.testing.conformance.support import a_job, outcome

T = TypeVar("T")
IDS = st.sampled_from([f"job-{n}" for n in range(3)])
SESSIONS = st.integers(0, 1)


class LedgerMachine(RuleBasedStateMachine):
    """Two connections; every call goes through one of them."""

    url = "memory://machine"

    @initialize()
    def begin(self) -> None:
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
        for backend in self.backends:
            self.run(backend.open())

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

    def sent(self, ready: list[Ready] | tuple[Ready, ...]) -> None:
        for item in ready:
            assert item.id in self.accepted
            self.messages.add((item.id, item.gen))

    # --- what clients do

    @rule(job_id=IDS, delay=st.sampled_from([None, None, 7.0]), attempts=st.integers(1, 3))
    def put(self, job_id: str, delay: float | None, attempts: int) -> None:
        put = a_job(id=job_id, delay=delay, max_attempts=attempts)
        (answer,) = self.run(self.backend.put([put]))
        assert (answer.kind == "exists") == (job_id in self.accepted)
        self.accepted.add(job_id)
        if answer.send:
            self.messages.add((job_id, answer.gen))

    @rule(job_id=IDS)
    def cancel(self, job_id: str) -> None:
        before = self.record(job_id)
        (answer,), _ = self.run(self.backend.signal([Signal(id=job_id, kind=SignalKind.CANCEL)]))
        assert answer.done == (
            before is not None and (before.state not in FINAL or before.state is JobState.CANCELLED)
        )

    @rule(job_id=IDS)
    def retry(self, job_id: str) -> None:
        before = self.record(job_id)
        (answer,), ready = self.run(self.backend.signal([Signal(id=job_id, kind=SignalKind.RETRY)]))
        retried = before is not None and before.state in FINAL - {JobState.COMPLETED}
        assert answer.done == retried
        if retried:
            self.final.pop(job_id, None)
        self.sent(ready)

    @rule(job_id=IDS, priority=st.integers(0, 100))
    def change(self, job_id: str, priority: int) -> None:
        wish = Signal(id=job_id, kind=SignalKind.CHANGE, priority=priority)
        _, ready = self.run(self.backend.signal([wish]))
        self.sent(ready)

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
        self.sent(ready)

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
        if known.state in FINAL - {JobState.QUARANTINED}:
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
        self.sent(answer.ready)

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
            self.sent(ready)
            for item in ready:
                run_at = scheduled.get(item.id)
                assert run_at is None or run_at <= self.clock.now(), "early"

    @rule()
    def producer_settles(self) -> None:
        items = [Settled(id=job_id, gen=gen) for job_id, gen in self.messages]
        self.run(self.backend.due(100, settled=items))

    # --- what must hold

    @invariant()
    def nothing_accepted_is_lost_and_final_is_final(self) -> None:
        for job_id in getattr(self, "accepted", ()):
            job = self.record(job_id)
            assert job is not None, f"{job_id} is lost"
            known = self.final.get(job_id)
            if known is not None:
                assert job == known, "a final record changed"
            elif job.state in FINAL:
                self.final[job_id] = job
            if job.state is JobState.PENDING and job.guard_at is None:
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
        """A healthy worker comes: everything ends."""
        session = uuid.uuid4().hex
        for _ in range(60):
            for job_id, gen in sorted(self.messages):
                verdicts = self.run(self.backend.claim(session, [Hint(id=job_id, gen=gen)]))
                for verdict in verdicts:
                    if verdict.claim is not None:
                        self.run(self.backend.finish([outcome(verdict.claim)]))
            if all((job := self.record(i)) and job.state in FINAL for i in self.accepted):
                return
            self.clock.advance(2.0)
            self.due()
        raise AssertionError([self.record(i) for i in self.accepted])


LedgerMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, database=None
)
TestFusedLedger = LedgerMachine.TestCase
