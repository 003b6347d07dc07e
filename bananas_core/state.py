"""How a job's record changes: pure functions that every driver obeys.

Each takes the stored record (None when there is none) and the ledger's time, and returns the new
record. The same object back means that nothing changed and nothing is to be written. A driver
wraps them in whatever makes one call atomic: a lock, a transaction, a compare-and-set.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from bananas_core.job import (
    FINAL,
    TIMELINE,
    AttemptInfo,
    Cancel,
    Claim,
    ErrorInfo,
    Event,
    Held,
    Hint,
    Job,
    JobPut,
    JobState,
    Outcome,
    OutcomeKind,
    Ready,
    Retention,
    Signal,
    SignalKind,
    VerdictKind,
)
from bananas_core.message import with_fields

CLAIM_TTL: Final = 15.0
"""Seconds that a session's claims last after a renewal."""
FIRST_HOLD: Final = 5.0
"""Seconds until an unconfirmed send is repeated."""
SECOND_HOLD: Final = 30.0
LAST_HOLD: Final = 3600.0
ORPHAN_AGE: Final = 5.0
"""A claim older than this that its session doesn't list was never received by it."""
DUE_GAP: Final = 5.0
"""After a longer gap between two runs of ``due`` no claim lapses for one ttl."""
MAX_DEATHS: Final = 3
SUSPECT_DEATHS: Final = 2
"""From this many deaths on, a job runs alone in a fresh process."""

EXPIRED: Final = "JobExpired"
POISON: Final = "PoisonPill"


def create(put: JobPut, now: float, *, guard: bool, keep_for: float = 0.0) -> Job:
    """The record of a new job. ``guard``: its message has to be sent by somebody."""
    base = Job(
        id=put.id,
        name=put.name,
        routing_key=put.routing_key,
        state=JobState.PENDING,
        message=put.message,
        created_at=now,
        changed_at=now,
        priority=put.priority,
        max_attempts=put.max_attempts,
        expires_at=put.expires_at,
        queue_timeout=put.queue_timeout,
        tags=put.tags,
        keep_until=now + keep_for,
        foreign=keep_for > 0,
        pending_at=now,
        guard_at=now + FIRST_HOLD if guard else None,
        guard_hold=FIRST_HOLD if guard else 0.0,
    )
    if put.quarantine is not None:
        ended = replace(base, pending_at=None, guard_at=None, guard_hold=0.0)
        return replace(ended, state=JobState.QUARANTINED, error=put.quarantine, finished_at=now)
    run_at = now + put.delay if put.delay is not None else put.run_at
    if run_at is None and put.expires_at is None and put.queue_timeout is None:
        return base  # what `_ready` makes of most jobs, at half the cost
    return _ready(base, now, run_at, guard=guard)


def claim(
    job: Job | None, hint: Hint, worker: str, fence: int, now: float
) -> tuple[VerdictKind, Job | None]:
    """Whether the job that a delivery hints at may run now, and its record if it changed.

    A foreign message's job must have been created (``create``) by the caller before.
    """
    if job is None:
        return VerdictKind.UNRECORDED, None
    if job.state is JobState.SCHEDULED and hint.gen >= job.gen:
        return VerdictKind.EARLY, job
    if job.state is not JobState.PENDING or hint.gen != job.gen:
        return VerdictKind.STALE, job
    if job.start_by is not None and job.start_by <= now:
        return VerdictKind.STALE, _expire(job, now)
    entry = AttemptInfo(attempt=job.attempt, fence=fence, worker=worker, claimed_at=now)
    return VerdictKind.RUN, replace(
        job,
        state=JobState.PROCESSING,
        fence=fence,
        worker=worker,
        changed_at=now,
        started_at=now,
        guard_at=None,
        start_by=None,
        attempts=(*job.attempts, entry)[-TIMELINE:],
    )


def claimed(job: Job, now: float) -> Claim:
    """What the worker is told of the claim it was just given."""
    return Claim(
        id=job.id,
        fence=job.fence,
        gen=job.gen,
        name=job.name,
        routing_key=job.routing_key,
        priority=job.priority,
        attempt=job.attempt,
        failures=job.failures,
        deaths=job.deaths,
        max_attempts=job.max_attempts,
        created_at=job.created_at,
        at=now,
        message=job.message,
        held=job.held,
    )


def finish(
    job: Job | None, outcome: Outcome, now: float, *, guard: bool
) -> tuple[bool, Job | None]:
    """Whether the outcome is accepted, and the record if it changed.

    Accepted when (id, fence) is the job's running claim, or when that claim was ended by its
    own worker before (a repeated call, which changes nothing).
    """
    if job is None:
        return False, None
    if job.state is not JobState.PROCESSING or job.fence != outcome.fence:
        return _finished_before(job, outcome), job
    started = None if outcome.ran is None else max(job.started_at or now, now - outcome.ran)
    if outcome.progress is not None:
        job = replace(job, progress=outcome.progress)
    kind = outcome.kind
    if kind is OutcomeKind.COMPLETED:
        return True, replace(  # `_end` and `_closed` in one step: this is the hot path
            job,
            state=JobState.COMPLETED,
            changed_at=now,
            finished_at=now,
            started_at=started if started is not None else job.started_at,
            error=None,
            held=None,
            head=False,
            result=outcome.result,
            attempts=_entries(job, kind.value, now, started),
        )
    if kind is OutcomeKind.DIED:
        return True, lapse(job, now, guard=guard, kind=kind.value)
    if job.cancel is not None or kind is OutcomeKind.CANCELLED:
        error = outcome.error if kind is OutcomeKind.FAILED else None
        done = _end(job, JobState.CANCELLED, now, error, started)
        return True, _closed(done, OutcomeKind.CANCELLED, now, started, error)
    if kind is OutcomeKind.FAILED:
        done = _end(job, JobState.FAILED, now, outcome.error, started)
        return True, _closed(done, kind, now, started, outcome.error)
    closed = _closed(job, kind, now, started, outcome.error)
    closed = replace(closed, gen=job.gen + 1, worker=None)
    if kind is OutcomeKind.RETRY:
        closed = replace(
            closed, failures=job.failures + 1, error=outcome.error, held=None, head=False
        )
        return True, _ready(closed, now, _later(now, outcome.delay), guard=guard)
    if kind is OutcomeKind.SNOOZE:
        count = job.held.count + 1 if job.held else 1
        held = Held(by=outcome.held_by or "snooze", until=now + outcome.delay, count=count)
        closed = replace(closed, held=held, head=False)
        return True, _ready(closed, now, _later(now, outcome.delay), guard=guard)
    return True, _ready(replace(closed, head=True), now, None, guard=guard)


def first_state(job: Job, outcome: Outcome) -> JobState:
    """The state that the first call of a repeated ``finish`` answered."""
    entry = next(e for e in reversed(job.attempts) if e.fence == outcome.fence)
    if entry.outcome in ("completed", "failed", "cancelled"):
        return JobState(entry.outcome)
    if entry.outcome in ("retry", "snooze"):
        return JobState.SCHEDULED if outcome.delay > 0 else JobState.PENDING
    if outcome.kind is OutcomeKind.DIED and entry is job.attempts[-1] and job.state in FINAL:
        return job.state
    return JobState.PENDING


def lapse(job: Job, now: float, *, guard: bool, kind: str = "lapsed") -> Job:
    """A processing job whose process is lost: pending again at the head, or quarantined."""
    if job.state is not JobState.PROCESSING:
        return job
    error = ErrorInfo(
        type="WorkerLost", message=f"the worker process of attempt {job.attempt} was lost"
    )
    lost = _closed(job, kind, now, job.started_at, error)
    deaths = job.deaths + 1
    if job.cancel is not None:
        return _end(lost, JobState.CANCELLED, now, None, None)
    if deaths >= MAX_DEATHS:
        poison = ErrorInfo(
            type=POISON, message=f"{deaths} worker processes were lost while running this job"
        )
        return replace(_end(lost, JobState.QUARANTINED, now, poison, None), deaths=deaths)
    again = replace(lost, gen=job.gen + 1, deaths=deaths, worker=None, head=True)
    return _ready(again, now, None, guard=guard)


def handback(job: Job, now: float, *, guard: bool) -> Job:
    """A processing job that its session never started: pending again, nothing spent."""
    outcome = Outcome(id=job.id, fence=job.fence, kind=OutcomeKind.HANDBACK)
    changed = finish(job, outcome, now, guard=guard)[1]
    assert changed is not None
    return changed


def forgive(job: Job, worker: str) -> Job:
    """Take back the deaths that ``worker`` was charged with: its session renews again, so no
    process was lost. A final job stays as it is."""
    if job.state in FINAL:
        return job
    attempts, taken = [], 0
    for entry in job.attempts:
        if entry.worker == worker and entry.outcome == "lapsed":
            entry, taken = replace(entry, outcome="lost"), taken + 1
        attempts.append(entry)
    if not taken:
        return job
    return replace(job, deaths=max(0, job.deaths - taken), attempts=tuple(attempts))


def look(job: Job, now: float, *, guard: bool) -> tuple[bool, Job]:
    """What ``due`` does with a record whose ``due_at`` has come.

    Returns:
        Whether its message must be sent now, and the record (the same one if nothing is due).
    """
    if job.due_at is None or job.due_at > now:
        return False, job
    if job.state is JobState.SCHEDULED:
        if job.expires_at is not None and job.expires_at <= now:
            return False, _expire(job, now)
        return True, _ready(job, now, None, guard=guard)
    if job.start_by is not None and job.start_by <= now:
        return False, _expire(job, now)
    return True, resend(job, now)


def resend(job: Job, now: float) -> Job:
    """A pending job whose message must be sent again; the next guard holds twice as long."""
    hold = min(LAST_HOLD, max(SECOND_HOLD, job.guard_hold * 2))
    return replace(job, guard_at=now + hold, guard_hold=hold)


def settle(job: Job, gen: int) -> Job:
    """The message of this generation was sent with confirmation."""
    if job.state is JobState.PENDING and job.gen == gen and job.guard_at is not None:
        return replace(job, guard_at=None)
    return job


def signal(job: Job | None, wish: Signal, now: float, *, guard: bool) -> tuple[bool, Job | None]:
    """Whether the signal has its effect (now or from before), and the record if it changed."""
    if job is None:
        return False, None
    if wish.kind is SignalKind.CANCEL:
        if job.state in FINAL:
            return job.state is JobState.CANCELLED, job
        if job.cancel is not None:
            return True, job
        cancelled = replace(job, cancel=Cancel(at=now, by=wish.by, reason=wish.reason))
        if job.state is JobState.PROCESSING:
            return True, replace(cancelled, changed_at=now)
        return True, _end(replace(cancelled, gen=job.gen + 1), JobState.CANCELLED, now, None, None)
    if wish.kind is SignalKind.RETRY:
        if job.state not in FINAL or job.state is JobState.COMPLETED or job.name == "":
            return False, job
        fresh = replace(
            job,
            gen=job.gen + 1,
            failures=0,
            deaths=0,
            cancel=None,
            held=None,
            error=None,
            finished_at=None,
            expires_at=None,
            worker=None,
            head=False,
        )
        return True, _ready(fresh, now, wish.run_at, guard=guard)
    if job.state not in (JobState.PENDING, JobState.SCHEDULED):
        return False, job
    changed = replace(job, gen=job.gen + 1, changed_at=now)
    if wish.priority is not None:
        changed = replace(changed, priority=wish.priority)
    run_at = wish.run_at
    if run_at is None and job.state is JobState.SCHEDULED:
        run_at = job.run_at
    return True, _ready(changed, now, run_at, guard=guard)


def event(old: Job | None, new: Job) -> Event | None:
    """The event of a change, if it changed the state or began another generation."""
    if old is not None and old.state is new.state and old.gen == new.gen:
        return None
    return Event(
        id=new.id,
        name=new.name,
        routing_key=new.routing_key,
        old=None if old is None else old.state,
        new=new.state,
        at=new.changed_at,
        attempt=new.attempt,
        fence=new.fence,
    )


def ready(job: Job) -> Ready:
    """The message to send for a pending record."""
    message = job.message
    if job.gen > 1:
        message = with_fields(message, gen=job.gen, priority=job.priority, put=True)
    return Ready(
        id=job.id,
        gen=job.gen,
        routing_key=job.routing_key,
        priority=job.priority,
        head=job.head,
        message=message,
    )


def prunable(job: Job, now: float, policy: Retention) -> bool:
    """Whether a final record's time is over."""
    at = prune_at(job, policy)
    return at is not None and at <= now


def prune_at(job: Job, policy: Retention) -> float | None:
    """When a final record may go; None while the job is live."""
    if job.state not in FINAL or job.finished_at is None:
        return None
    kept: float = getattr(policy, job.state.value)
    return max(job.finished_at + max(600.0, kept), job.keep_until)


def _ready(job: Job, now: float, run_at: float | None, *, guard: bool) -> Job:
    """Pending now, or scheduled when ``run_at`` is still to come."""
    if run_at is not None and run_at > now:
        return replace(
            job,
            state=JobState.SCHEDULED,
            run_at=run_at,
            changed_at=now,
            guard_at=None,
            start_by=None,
            pending_at=None,
        )
    limits = [] if job.expires_at is None else [job.expires_at]
    if job.queue_timeout is not None:
        limits.append(now + job.queue_timeout)
    return replace(
        job,
        state=JobState.PENDING,
        run_at=None,
        changed_at=now,
        pending_at=now,
        start_by=min(limits, default=None),
        guard_at=now + FIRST_HOLD if guard else None,
        guard_hold=FIRST_HOLD if guard else 0.0,
    )


def _later(now: float, delay: float) -> float | None:
    return now + delay if delay > 0 else None


def _end(
    job: Job, state: JobState, now: float, error: ErrorInfo | None, started: float | None
) -> Job:
    return replace(
        job,
        state=state,
        changed_at=now,
        finished_at=now,
        started_at=started if started is not None else job.started_at,
        error=error,
        held=None,
        guard_at=None,
        start_by=None,
        run_at=None,
        head=False,
    )


def _expire(job: Job, now: float) -> Job:
    error = ErrorInfo(type=EXPIRED, message="not started before expires_at or within queue_timeout")
    return _end(replace(job, gen=job.gen + 1), JobState.FAILED, now, error, None)


def _closed(
    job: Job,
    kind: str,
    now: float,
    started: float | None,
    error: ErrorInfo | None = None,
) -> Job:
    """The timeline's entry of the running claim gets its outcome."""
    return replace(job, attempts=_entries(job, str(kind), now, started, error))


def _entries(
    job: Job, kind: str, now: float, started: float | None, error: ErrorInfo | None = None
) -> tuple[AttemptInfo, ...]:
    """The timeline with the outcome of the running claim, which is its last entry."""
    if not job.attempts or job.attempts[-1].fence != job.fence:
        return job.attempts
    last = job.attempts[-1]
    ended = AttemptInfo(
        attempt=last.attempt,
        fence=last.fence,
        worker=last.worker,
        claimed_at=last.claimed_at,
        ended_at=now,
        started_at=started,
        outcome=kind,
        error=None if error is None else replace(error, traceback=None),
    )
    return (*job.attempts[:-1], ended)


def _finished_before(job: Job, outcome: Outcome) -> bool:
    for entry in reversed(job.attempts):
        if entry.fence == outcome.fence:
            same = entry.outcome == outcome.kind.value
            return same or (
                entry.outcome == "cancelled" and outcome.kind is not OutcomeKind.COMPLETED
            )
    return False
