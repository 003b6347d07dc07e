"""How a job's record changes: pure functions that every driver obeys.

Each takes the stored record (None when there is none) and the ledger's time, and returns the new
record. The same object back means that nothing changed and nothing is to be written. A driver
wraps them in whatever makes one call atomic: a lock, a transaction, a compare-and-set.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from bananas_core.job import (
    EXPIRED,
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
    ReadyKind,
    Retention,
    Settled,
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
        workflow=put.workflow,
        scope=put.scope,
        unique=put.unique,
        keep_until=now + keep_for,
        foreign=keep_for > 0,
        pending_at=now,
        guard_at=now + FIRST_HOLD if guard else None,
        guard_hold=FIRST_HOLD if guard else 0.0,
    )
    if put.quarantine is not None:
        ended = replace(base, pending_at=None, guard_at=None, guard_hold=0.0)
        return replace(ended, state=JobState.QUARANTINED, error=put.quarantine, finished_at=now)
    if put.waiting or put.scope:
        return _waiting(base, put, now)
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
            guard_at=now + FIRST_HOLD if job.followed else None,
            guard_hold=FIRST_HOLD if job.followed else 0.0,
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
        until = outcome.held_until or now + outcome.delay
        held = Held(by=outcome.held_by or "snooze", until=until, count=count, gen=job.gen + 1)
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


def look(job: Job, now: float, *, guard: bool) -> tuple[ReadyKind | None, Job]:
    """What ``due`` does with a record whose ``due_at`` has come.

    Returns:
        What must be done about it now, and the record (the same one if nothing is due).
    """
    if job.due_at is None or job.due_at > now:
        return None, job
    new = _looked(job, now, guard=guard)
    if new.state is JobState.PENDING:
        return (ReadyKind.SEND if guard else None), new
    return (ReadyKind.FOLLOW if new.guard_at is not None else None), new


def resend(job: Job, now: float) -> Job:
    """What must be done about it must be done again; the next guard holds twice as long."""
    hold = min(LAST_HOLD, max(SECOND_HOLD, job.guard_hold * 2))
    return replace(job, guard_at=now + hold, guard_hold=hold)


def settle(job: Job, item: Settled) -> Job:
    """The message of this generation was sent, or the follow-up of its end is complete."""
    wanted = job.state in FINAL if item.followed else job.state is JobState.PENDING
    if wanted and job.gen == item.gen and job.guard_at is not None:
        return replace(job, guard_at=None)
    return job


def calls_for(old: Job | None, new: Job, *, guard: bool) -> ReadyKind | None:
    """What must be done because a record changed. Not asked for a new one: whoever puts it
    knows."""
    if old is None or (old.state is new.state and old.gen == new.gen):
        return None
    if new.state is JobState.PENDING:
        return ReadyKind.SEND if guard else None
    if new.state is JobState.SCHEDULED or new.guard_at is None:
        return None
    return ReadyKind.FOLLOW


def signal(job: Job | None, wish: Signal, now: float, *, guard: bool) -> tuple[bool, Job | None]:
    """Whether the signal has its effect (now or from before), and the record if it changed."""
    if job is None:
        return False, None
    if wish.kind is SignalKind.CANCEL:
        return _cancel(job, wish, now)
    if wish.kind is SignalKind.RETRY:
        if job.state not in FINAL or job.state is JobState.COMPLETED or job.name == "" or job.scope:
            return False, job
        fresh = replace(_fresh(job), expires_at=None)
        if job.unique is not None:  # somebody else may hold its key by now
            return True, replace(fresh, state=JobState.WAITING, changed_at=now, guard_at=now)
        return True, _ready(fresh, now, wish.run_at, guard=guard)
    if wish.gen is not None and wish.gen != job.gen:
        return wish.gen < job.gen, job
    if wish.kind is SignalKind.RELEASE:
        return True, _release(job, now, guard=guard)
    if wish.kind is SignalKind.END:
        return _end_waiting(job, wish, now)
    if wish.kind is SignalKind.RESET:
        return _reset(job, now)
    return _change(job, wish, now, guard=guard)


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
        workflow=new.workflow,
    )


def ready(job: Job) -> Ready:
    """The message to send for a pending record; for any other, that it must be followed up."""
    if job.state is not JobState.PENDING:
        return Ready(
            id=job.id,
            gen=job.gen,
            routing_key=job.routing_key,
            priority=job.priority,
            kind=ReadyKind.FOLLOW,
        )
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


def prunable(job: Job, now: float, policy: Retention, whole: Job | None = None) -> bool:
    """Whether a final record's time is over. ``whole``: of a node, the record of its workflow if
    it still exists."""
    at = prune_at(job, policy)
    if at is None or at > now:
        return False
    return whole is None or whole.id == job.id or prunable(whole, now, policy)


def prune_at(job: Job, policy: Retention) -> float | None:
    """When a final record may go; None while it is live or not yet followed up. A node stays
    besides until its workflow may go."""
    if job.state not in FINAL or job.finished_at is None or job.guard_at is not None:
        return None
    kept: float = getattr(policy, job.state.value)
    return max(job.finished_at + max(600.0, kept), job.keep_until)


def _waiting(base: Job, put: JobPut, now: float) -> Job:
    """A new record that is not ready: a scope, or a job that waits for its release."""
    asked = put.waiting and put.unique is not None and put.workflow is None
    job = replace(
        base,
        state=JobState.WAITING,
        run_at=put.run_at,
        delay=put.delay,
        pending_at=None,
        guard_at=now + FIRST_HOLD if asked else None,
        guard_hold=FIRST_HOLD if asked else 0.0,
    )
    return job if put.waiting else _release(job, now, guard=False)


def _release(job: Job, now: float, *, guard: bool) -> Job:
    """A waiting job that may go on; any other was released before."""
    if job.state is not JobState.WAITING:
        return job
    if not job.scope:
        run_at = now + job.delay if job.delay is not None else job.run_at
        return _ready(replace(job, delay=None, guard_hold=0.0), now, run_at, guard=guard)
    if job.started_at is not None:
        return job
    limit = None if job.queue_timeout is None else now + job.queue_timeout
    return replace(job, started_at=now, changed_at=now, start_by=limit)


def _end_waiting(job: Job, wish: Signal, now: float) -> tuple[bool, Job]:
    if job.state is not JobState.WAITING or wish.state is None:
        return job.state is wish.state, job
    if wish.state is JobState.CANCELLED:
        job = replace(job, cancel=Cancel(at=now, by=wish.by, reason=wish.reason))
    return True, replace(_end(job, wish.state, now, wish.error, None), result=wish.result)


def _reset(job: Job, now: float) -> tuple[bool, Job]:
    """A node of a workflow that is to run again once it is released."""
    started_scope = job.scope and job.state is JobState.WAITING and job.started_at is not None
    if job.workflow is None or not (job.state in FINAL or started_scope):
        return False, job
    return True, replace(
        _fresh(job),
        state=JobState.WAITING,
        changed_at=now,
        started_at=None,
        pending_at=None,
        expires_at=None,
        result=None,
        progress=None,
        start_by=None,
        run_at=None,
    )


def _cancel(job: Job, wish: Signal, now: float) -> tuple[bool, Job]:
    if job.state in FINAL:
        return job.state is JobState.CANCELLED, job
    if job.cancel is not None:
        return True, job
    cancelled = replace(job, cancel=Cancel(at=now, by=wish.by, reason=wish.reason))
    if job.state is JobState.PROCESSING:
        return True, replace(cancelled, changed_at=now)
    return True, _end(replace(cancelled, gen=job.gen + 1), JobState.CANCELLED, now, None, None)


def _change(job: Job, wish: Signal, now: float, *, guard: bool) -> tuple[bool, Job]:
    waiting = job.state is JobState.WAITING and not job.scope
    if not waiting and job.state not in (JobState.PENDING, JobState.SCHEDULED):
        return False, job
    changed = replace(job, gen=job.gen + 1, changed_at=now)
    if wish.priority is not None:
        changed = replace(changed, priority=wish.priority)
    if wish.message is not None:
        changed = replace(changed, message=wish.message)
    run_at = now + wish.delay if wish.delay is not None else wish.run_at
    if run_at is not None and wish.latest is not None:
        run_at = min(run_at, job.created_at + wish.latest)
    if waiting:
        return True, changed if run_at is None else replace(changed, run_at=run_at, delay=None)
    if run_at is None and job.state is JobState.SCHEDULED:
        run_at = job.run_at
    return True, _ready(changed, now, run_at, guard=guard)


def _looked(job: Job, now: float, *, guard: bool) -> Job:
    """The record after its time came."""
    if job.state is JobState.SCHEDULED:
        if job.expires_at is not None and job.expires_at <= now:
            return _expire(job, now)
        return _ready(job, now, None, guard=guard)
    if job.state is JobState.WAITING and job.expires_at is not None and job.expires_at <= now:
        return _expire(job, now)
    if job.start_by is not None and job.start_by <= now:
        return _expire(job, now)
    return resend(job, now)


def _fresh(job: Job) -> Job:
    """The next generation, as if nobody had tried it before."""
    return replace(
        job,
        gen=job.gen + 1,
        failures=0,
        deaths=0,
        cancel=None,
        held=None,
        error=None,
        finished_at=None,
        worker=None,
        head=False,
        guard_at=None,
        guard_hold=0.0,
    )


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
        guard_at=now + FIRST_HOLD if job.followed else None,
        guard_hold=FIRST_HOLD if job.followed else 0.0,
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
