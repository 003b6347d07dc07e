"""The life of records: put, claim, finish, signal. Nothing here waits, so each call is atomic."""

from __future__ import annotations

from collections.abc import Sequence

from bananas_brokers.memory.records import Records
from bananas_core import state
from bananas_core.job import (
    FinishAnswer,
    Hint,
    Job,
    JobPut,
    JobState,
    Outcome,
    PutAnswer,
    PutKind,
    Ready,
    Settled,
    Signal,
    SignalAnswer,
    Verdict,
    VerdictKind,
)


class Ledger:
    """``now`` is the store's clock, ``guard`` whether pending jobs have to be sent."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def put(self, puts: Sequence[JobPut], now: float, *, guard: bool) -> list[PutAnswer]:
        """L7, L8."""
        answers = []
        for wish in puts:
            job, kind = self._records.get(wish.id), PutKind.EXISTS
            if job is None:
                job, kind = state.create(wish, now, guard=guard), PutKind.CREATED
                self._records.set(job)
            send = job.state is JobState.PENDING and job.guard_at is not None
            answers.append(PutAnswer(kind=kind, id=job.id, gen=job.gen, send=send))
        self._records.drop_ready()  # the answers say what is to be sent
        return answers

    def settle(self, settled: Sequence[Settled]) -> None:
        """L9."""
        for item in settled:
            job = self._records.get(item.id)
            if job is not None:
                self._records.set(state.settle(job, item))

    def claim(
        self, session: str, hints: Sequence[Hint], now: float, *, guard: bool, horizon: float
    ) -> list[Verdict]:
        """L10-L13."""
        fence = self._records.next_number()  # one a batch: (id, fence) is what must be unique
        verdicts = []
        for hint in hints:
            if hint.create is not None and self._records.get(hint.id) is None:
                new = state.create(hint.create, now, guard=guard, keep_for=horizon)
                self._records.set(new)
            verdicts.append(self._claim(session, hint, fence, now))
        self._records.drop_ready()  # a claim can't tell of an end: `due` will
        return verdicts

    def claim_pending(self, session: str, job: Job, now: float) -> Verdict:
        """T21: a record that was found without a message."""
        hint = Hint(id=job.id, gen=job.gen)
        verdict = self._claim(session, hint, self._records.next_number(), now)
        self._records.drop_ready()
        return verdict

    def finish(
        self, outcomes: Sequence[Outcome], now: float, *, guard: bool
    ) -> tuple[list[FinishAnswer], list[Ready]]:
        """L21-L24."""
        answers = []
        for outcome in outcomes:
            old = self._records.get(outcome.id)
            accepted, new = state.finish(old, outcome, now, guard=guard)
            self._records.set(new)
            after = None if new is None else new.state
            if new is not None and new is old and accepted:
                after = state.first_state(new, outcome)
            answers.append(FinishAnswer(id=outcome.id, accepted=accepted, state=after))
        return answers, self._records.take_ready(guard=guard)

    def signal(
        self, signals: Sequence[Signal], now: float, *, guard: bool
    ) -> tuple[list[SignalAnswer], list[Ready]]:
        """L30-L32, L46-L49."""
        answers = []
        for wish in signals:
            done, job = state.signal(self._records.get(wish.id), wish, now, guard=guard)
            self._records.set(job)
            after = None if job is None else job.state
            answers.append(SignalAnswer(id=wish.id, done=done, state=after))
        return answers, self._records.take_ready(guard=guard)

    def _claim(self, session: str, hint: Hint, fence: int, now: float) -> Verdict:
        kind, job = state.claim(self._records.get(hint.id), hint, session, fence, now)
        self._records.set(job)
        claim = state.claimed(job, now) if job and kind is VerdictKind.RUN else None
        return Verdict(kind=kind, id=hint.id, claim=claim)
