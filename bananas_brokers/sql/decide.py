"""What each operation does to loaded records: ``state.py`` applied to batches, no input or output.

Whoever calls has loaded every record that is named, and writes the changes afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from bananas_brokers.sql.work import Work
from bananas_core import state
from bananas_core.job import (
    Cancel,
    ClaimBeat,
    FinishAnswer,
    Hint,
    Job,
    JobPut,
    JobState,
    Outcome,
    OutcomeKind,
    PutAnswer,
    PutKind,
    RenewMode,
    Settled,
    Signal,
    SignalAnswer,
    Verdict,
    VerdictKind,
)


def put(work: Work, jobs: Sequence[JobPut]) -> list[PutAnswer]:
    """L7, L8."""
    answers = []
    for wish in jobs:
        job = work.get(wish.id)
        kind = PutKind.EXISTS
        if job is None:
            job, kind = state.create(wish, work.now, guard=work.guard), PutKind.CREATED
            work.add(job)
        answers.append(PutAnswer(kind=kind, id=wish.id, gen=job.gen, send=to_send(job)))
    return answers


def to_send(job: Job) -> bool:
    """Whether whoever puts it must send its message."""
    return job.state is JobState.PENDING and job.guard_at is not None


def settle(work: Work, settled: Sequence[Settled]) -> None:
    """L9."""
    for item in settled:
        job = work.get(item.id)
        if job is not None:
            work.set(state.settle(job, item))


def create_foreign(work: Work, hints: Sequence[Hint]) -> None:
    """L12."""
    for hint in hints:
        if hint.create is not None and work.get(hint.id) is None:
            work.add(state.create(hint.create, work.now, guard=work.guard, keep_for=work.horizon))


def claim(
    work: Work, session: str, hints: Sequence[Hint], fence: Callable[[Job | None], int]
) -> list[Verdict]:
    """L10, L11. ``fence``: the number for the claim of a record."""
    verdicts = []
    for hint in hints:
        job = work.get(hint.id)
        kind, job = state.claim(job, hint, session, fence(job), work.now)
        work.set(job)
        given = None
        if kind is VerdictKind.RUN and job is not None:
            given = state.claimed(job, work.now)
        verdicts.append(Verdict(kind=kind, id=hint.id, claim=given))
    return verdicts


def finish(work: Work, outcomes: Sequence[Outcome]) -> list[FinishAnswer]:
    """L21, L22, L24."""
    answers = []
    for outcome in outcomes:
        old = work.get(outcome.id)
        accepted, new = state.finish(old, outcome, work.now, guard=work.guard)
        work.set(new)
        if new is None or not accepted or new is not old:
            after = None if new is None else new.state
        else:
            after = state.first_state(new, outcome)
        answers.append(FinishAnswer(id=outcome.id, accepted=accepted, state=after))
    return answers


def signal(work: Work, signals: Sequence[Signal]) -> list[SignalAnswer]:
    """L30-L32, L46-L49."""
    answers = []
    for wish in signals:
        done, job = state.signal(work.get(wish.id), wish, work.now, guard=work.guard)
        work.set(job)
        after = None if job is None else job.state
        answers.append(SignalAnswer(id=wish.id, done=done, state=after))
    return answers


def beat(
    work: Work, running: Mapping[str, Job], claims: Sequence[ClaimBeat], mode: RenewMode
) -> tuple[dict[str, Cancel], list[tuple[str, int]]]:
    """L16-L19: ``running`` is all that the session holds. Who is to be cancelled, what is lost."""
    held = dict(running)
    listed: set[str] = set()
    lost: list[tuple[str, int]] = []
    cancelled: dict[str, Cancel] = {}
    for item in claims:
        job = held.get(item.id)
        if job is None or job.fence != item.fence:
            lost.append((item.id, item.fence))
            continue
        listed.add(item.id)
        if job.cancel is not None:
            cancelled[item.id] = job.cancel
        if item.progress is not None:
            held[item.id] = replace(job, progress=item.progress)
            work.set(held[item.id])
    if mode is RenewMode.ENDED:
        _end(work, held, listed)
    elif mode is RenewMode.FULL:
        oldest = work.now - state.ORPHAN_AGE
        for job in held.values():
            if job.id not in listed and (job.started_at or 0.0) < oldest:
                work.set(state.handback(job, work.now, guard=work.guard))
    return cancelled, lost


def forgive(work: Work, ids: Sequence[str], session: str) -> None:
    """L20."""
    for job_id in ids:
        job = work.get(job_id)
        if job is not None:
            work.set(state.forgive(job, session))


def lapse(work: Work, jobs: Sequence[Job]) -> None:
    """L34."""
    for job in jobs:
        lapsed = state.lapse(job, work.now, guard=work.guard)
        work.set(lapsed)
        if lapsed.due_at is not None and lapsed.due_at <= work.now:  # expired while it ran
            work.set(state.look(lapsed, work.now, guard=work.guard)[1])


def look(work: Work, jobs: Sequence[Job]) -> None:
    """L33: records whose time has come."""
    for job in jobs:
        kind, new = state.look(job, work.now, guard=work.guard)
        work.set(new)
        if kind is not None:
            work.call_for(job.id, kind)


def grace(last_due: float | None, until: float | None, now: float) -> float | None:
    """L35: until when no claim lapses, given when ``due`` ran last."""
    if last_due is not None and now - last_due > state.DUE_GAP:
        return now + state.CLAIM_TTL
    return until


def _end(work: Work, held: Mapping[str, Job], listed: set[str]) -> None:
    for job in held.values():
        if job.id in listed:
            died = Outcome(id=job.id, fence=job.fence, kind=OutcomeKind.DIED)
            work.set(state.finish(job, died, work.now, guard=work.guard)[1])
        else:
            work.set(state.handback(job, work.now, guard=work.guard))
