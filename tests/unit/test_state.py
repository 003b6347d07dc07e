"""The transitions of a record, for any record and any wish: what changes, and what never does."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from bananas_core import state
from bananas_core.job import (
    FINAL,
    TIMELINE,
    ErrorInfo,
    Hint,
    Job,
    JobPut,
    JobState,
    Outcome,
    OutcomeKind,
    ReadyKind,
    Retention,
    Settled,
    Signal,
    SignalKind,
    VerdictKind,
)

NOW = 1_800_000_000.0
ERROR = ErrorInfo(type="ValueError", message="no", traceback="Traceback …")
RAW = b'{"v":1,"id":"j","name":"t","payload":{},"created_at":"2026-01-01T00:00:00Z","later":1}'
OTHER = RAW.replace(b'"payload":{}', b'"payload":{"n":2}')

seconds = st.floats(0.0, 100_000.0)
maybe = st.one_of(st.none(), seconds)
puts = st.builds(
    JobPut,
    id=st.just("j"),
    name=st.just("t"),
    message=st.just(RAW),
    delay=maybe,
    expires_at=st.one_of(st.none(), st.floats(NOW - 100, NOW + 100_000)),
    queue_timeout=st.one_of(st.none(), st.floats(1.0, 1000.0)),
    priority=st.integers(0, 100),
    max_attempts=st.integers(1, 5),
    waiting=st.booleans(),
    workflow=st.sampled_from([None, None, "w", "j"]),
    unique=st.sampled_from([None, None, "key"]),
)
scopes = st.builds(
    JobPut,
    id=st.just("j"),
    name=st.just("t"),
    message=st.just(RAW),
    expires_at=st.one_of(st.none(), st.floats(NOW - 100, NOW + 100_000)),
    queue_timeout=st.one_of(st.none(), st.floats(1.0, 1000.0)),
    waiting=st.booleans(),
    workflow=st.sampled_from(["w", "j"]),
    scope=st.just(True),
)
outcomes = st.builds(
    Outcome,
    id=st.just("j"),
    fence=st.just(0),
    kind=st.sampled_from(OutcomeKind),
    delay=st.one_of(st.just(0.0), seconds),
    result=st.one_of(st.none(), st.just(b"1")),
    error=st.one_of(st.none(), st.just(ERROR)),
    ran=maybe,
)
signals = st.builds(
    Signal,
    id=st.just("j"),
    kind=st.sampled_from(SignalKind),
    priority=st.one_of(st.none(), st.integers(0, 100)),
    run_at=st.one_of(st.none(), st.floats(NOW - 100, NOW + 200_000)),
    latest=maybe,
    message=st.sampled_from([None, OTHER]),
    gen=st.one_of(st.none(), st.integers(1, 4)),
    state=st.sampled_from([JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED]),
    result=st.one_of(st.none(), st.just(b"1")),
)
guards = st.booleans()


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[Job], float]:
    """A job's records from its creation on, under random wishes, and the time of the last."""
    now = NOW
    guard = draw(guards)
    job = state.create(draw(st.one_of(puts, puts, puts, scopes)), now, guard=guard)
    story = [job]
    for fence in range(1, draw(st.integers(0, 12)) + 1):
        now += draw(st.sampled_from([0.0, 1.0, 20.0, 5_000.0]))
        match draw(
            st.sampled_from(
                ["claim", "claim", "finish", "finish", "look", "lapse", "settle", "signal"]
            )
        ):
            case "claim":
                _, new = state.claim(job, Hint(id="j", gen=job.gen), "s", fence, now)
                assert new is not None
            case "finish":
                outcome = replace(draw(outcomes), fence=job.fence)
                _, new = state.finish(job, outcome, now, guard=guard)
                assert new is not None
            case "look":
                _, new = state.look(job, now, guard=guard)
            case "lapse":
                new = state.lapse(job, now, guard=guard)
            case "settle":
                new = state.settle(job, Settled(id="j", gen=job.gen, followed=draw(st.booleans())))
            case _:
                _, new = state.signal(job, draw(signals), now, guard=guard)
                assert new is not None
        job = new
        story.append(job)
    return story, now


def processing(story: list[Job], now: float) -> Job:
    """The last record, made to run."""
    job = story[-1]
    if job.state is JobState.PROCESSING:
        return job
    fence = max((entry.fence for entry in job.attempts), default=0) + 100
    pending = replace(
        job, state=JobState.PENDING, scope=False, start_by=None, run_at=None, finished_at=None
    )
    kind, running = state.claim(pending, Hint(id="j", gen=job.gen), "s", fence, now)
    assert kind is VerdictKind.RUN
    assert running is not None
    return running


@given(lives())
def test_every_record_of_a_life_makes_sense(life: tuple[list[Job], float]) -> None:
    for job in life[0]:
        assert (job.finished_at is not None) == (job.state in FINAL)
        assert (job.state is JobState.SCHEDULED) <= (job.run_at is not None)
        asked = job.state is JobState.WAITING and job.unique is not None
        if job.guard_at is not None:
            assert job.state is JobState.PENDING or asked or (job.state in FINAL and job.followed)
        if job.start_by is not None:
            started = job.state is JobState.WAITING and job.scope and job.started_at is not None
            assert job.state is JobState.PENDING or started
        if job.scope:
            assert job.state is JobState.WAITING or job.state in FINAL
            assert (job.fence, job.attempts) == (0, ())
        if job.state is JobState.PROCESSING:
            assert job.attempts[-1].fence == job.fence
            assert job.attempts[-1].outcome is None
        assert len(job.attempts) <= TIMELINE
        assert job.attempt >= 1
        assert all(entry.outcome is not None for entry in job.attempts[:-1])
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(job), type=Job) == job


@given(lives())
def test_generations_and_fences_never_go_back(life: tuple[list[Job], float]) -> None:
    for old, new in zip(life[0], life[0][1:], strict=False):
        assert new.gen >= old.gen
        assert new.fence >= old.fence
        for name in ("id", "name", "created_at", "workflow", "scope", "unique"):
            assert getattr(new, name) == getattr(old, name), name
        assert new.message == old.message or new.gen == old.gen + 1
        again = old.state is JobState.PROCESSING and new.state is not JobState.PROCESSING
        if again and new.state not in FINAL:
            assert new.gen == old.gen + 1


@given(lives())
def test_an_event_tells_of_each_change_of_state(life: tuple[list[Job], float]) -> None:
    for old, new in zip(life[0], life[0][1:], strict=False):
        event = state.event(old, new)
        if old.state is not new.state:
            assert event is not None
            assert (event.old, event.new) == (old.state, new.state)
            assert event.workflow == old.workflow
        if new is old:
            assert event is None


@given(puts, guards)
def test_a_new_job_is_pending_or_scheduled(put: JobPut, guard: bool) -> None:
    put = replace(put, waiting=False)
    job = state.create(put, NOW, guard=guard)
    later = put.delay is not None and NOW + put.delay > NOW  # not so for 1e-300 s
    assert job.state is (JobState.SCHEDULED if later else JobState.PENDING)
    assert (job.guard_at is not None) == (guard and not later)
    assert (job.gen, job.fence, job.attempts) == (1, 0, ())


@given(lives(), st.integers(-3, 3))
def test_only_a_pending_job_of_the_same_generation_runs(
    life: tuple[list[Job], float], off: int
) -> None:
    job, now = life[0][-1], life[1]
    kind, new = state.claim(job, Hint(id="j", gen=max(1, job.gen + off)), "w", 10**6, now)
    free = job.state is JobState.PENDING and (job.start_by is None or job.start_by > now)
    assert (kind is VerdictKind.RUN) == (free and max(1, job.gen + off) == job.gen)
    assert new is not None
    if kind is VerdictKind.RUN:
        assert (new.state, new.worker, new.fence) == (JobState.PROCESSING, "w", 10**6)
    elif new is not job:
        assert new.error is not None
        assert (new.state, new.error.type) == (JobState.FAILED, state.EXPIRED)


def test_an_unknown_job_is_unrecorded() -> None:
    hint = Hint(id="j", gen=1)
    assert state.claim(None, hint, "w", 1, NOW) == (VerdictKind.UNRECORDED, None)
    assert state.finish(
        None, Outcome(id="j", fence=1, kind=OutcomeKind.FAILED), NOW, guard=True
    ) == (
        False,
        None,
    )


@given(lives(), outcomes, st.integers(1, 50))
def test_another_fence_changes_nothing(
    life: tuple[list[Job], float], outcome: Outcome, off: int
) -> None:
    running = processing(*life)
    stale = replace(outcome, fence=running.fence + off)
    assert state.finish(running, stale, life[1], guard=True) == (False, running)


@given(lives(), outcomes, guards, seconds)
def test_finish_is_accepted_once_and_answers_the_same_again(
    life: tuple[list[Job], float], outcome: Outcome, guard: bool, later: float
) -> None:
    running, now = processing(*life), life[1]
    outcome = replace(outcome, fence=running.fence)
    accepted, done = state.finish(running, outcome, now, guard=guard)
    assert accepted
    assert done is not None
    assert done.state is not JobState.PROCESSING
    repeated, same = state.finish(done, outcome, now + later, guard=guard)
    assert repeated
    assert same is done


@given(lives(), outcomes, outcomes)
def test_the_first_outcome_stays(
    life: tuple[list[Job], float], first: Outcome, second: Outcome
) -> None:
    running, now = processing(*life), life[1]
    _, done = state.finish(running, replace(first, fence=running.fence), now, guard=True)
    assert state.finish(done, replace(second, fence=running.fence), now, guard=True)[1] is done


@given(lives(), outcomes)
def test_what_spends_what(life: tuple[list[Job], float], outcome: Outcome) -> None:
    running, now = processing(*life), life[1]
    _, done = state.finish(running, replace(outcome, fence=running.fence), now, guard=True)
    assert done is not None
    assume(done.state not in FINAL)
    failed, died = outcome.kind is OutcomeKind.RETRY, outcome.kind is OutcomeKind.DIED
    assert (done.failures - running.failures, done.deaths - running.deaths) == (failed, died)
    if done.state is JobState.SCHEDULED:
        assert done.run_at == now + outcome.delay
    head = outcome.kind in (OutcomeKind.HANDBACK, OutcomeKind.DIED)
    assert done.head >= head


@given(lives(), outcomes)
def test_a_cancelled_job_completes_or_ends_cancelled(
    life: tuple[list[Job], float], outcome: Outcome
) -> None:
    running, now = processing(*life), life[1]
    _, flagged = state.signal(running, Signal(id="j", kind=SignalKind.CANCEL), now, guard=True)
    assert flagged is not None
    assert flagged.state is JobState.PROCESSING
    _, done = state.finish(flagged, replace(outcome, fence=running.fence), now, guard=True)
    assert done is not None
    completed = outcome.kind is OutcomeKind.COMPLETED
    assert done.state is (JobState.COMPLETED if completed else JobState.CANCELLED)


@given(lives(), guards)
def test_a_lapse_is_a_death_and_the_third_ends_it(
    life: tuple[list[Job], float], guard: bool
) -> None:
    running = replace(processing(*life), cancel=None)
    gone = state.lapse(running, life[1], guard=guard)
    assert gone.deaths == running.deaths + 1
    if gone.deaths >= state.MAX_DEATHS:
        assert gone.state is JobState.QUARANTINED
    else:
        assert (gone.state, gone.head, gone.gen) == (JobState.PENDING, True, running.gen + 1)
        forgiven = state.forgive(gone, "s")
        assert forgiven.deaths <= running.deaths
        assert state.forgive(forgiven, "s") is forgiven
    assert state.lapse(gone, life[1], guard=guard) is gone


@given(lives(), st.floats(-10.0, 200_000.0), guards)
def test_look_is_never_early_and_then_always_acts(
    life: tuple[list[Job], float], later: float, guard: bool
) -> None:
    job, now = life[0][-1], life[1] + later
    kind, new = state.look(job, now, guard=guard)
    if job.due_at is None or job.due_at > now:
        assert kind is None
        assert new is job
        return
    assert new is not job
    assert new.due_at is None or new.due_at > now  # `due` makes progress
    if new.state is JobState.PENDING:
        assert kind is (ReadyKind.SEND if guard else None)
    elif new.state is job.state:
        assert kind is ReadyKind.FOLLOW
        assert new.state is JobState.WAITING or new.state in FINAL
    else:
        assert (new.state, new.error and new.error.type) == (JobState.FAILED, state.EXPIRED)
        assert kind is (ReadyKind.FOLLOW if job.followed else None)


@given(puts)
def test_the_hold_of_a_guard_grows_to_an_hour(put: JobPut) -> None:
    put = replace(put, delay=None, expires_at=None, queue_timeout=None, waiting=False)
    job, holds, now = state.create(put, NOW, guard=True), [], NOW
    for _ in range(12):
        assert job.guard_at is not None
        holds.append(job.guard_at - now)
        now = job.guard_at
        kind, job = state.look(job, now, guard=True)
        assert kind is ReadyKind.SEND
    assert holds[:4] == [5.0, 30.0, 60.0, 120.0]
    assert holds == sorted(holds)
    assert holds[-1] == state.LAST_HOLD


@given(lives(), st.booleans())
def test_settling_needs_the_same_generation_and_the_same_thing(
    life: tuple[list[Job], float], followed: bool
) -> None:
    job = life[0][-1]
    item = Settled(id="j", gen=job.gen, followed=followed)
    assert state.settle(job, replace(item, gen=job.gen + 1)) is job
    settled = state.settle(job, item)
    if (job.state in FINAL) if followed else (job.state is JobState.PENDING):
        assert settled.guard_at is None
        assert state.settle(settled, item) is settled
    else:
        assert settled is job


@given(lives(), signals)
def test_a_final_record_changes_only_by_a_retry_or_reset(
    life: tuple[list[Job], float], wish: Signal
) -> None:
    job, now = life[0][-1], life[1]
    assume(job.state in FINAL)
    done, new = state.signal(job, wish, now, guard=True)
    assert new is not None
    retried = wish.kind is SignalKind.RETRY and job.state is not JobState.COMPLETED
    reset = wish.kind is SignalKind.RESET and job.workflow is not None
    if retried and not job.scope:
        assert done
        assert (new.failures, new.deaths, new.gen, new.error) == (0, 0, job.gen + 1, None)
        assert new.attempt == 1
        assert (new.state is JobState.WAITING) == (job.unique is not None)
    elif reset and wish.gen in (None, job.gen):
        assert done
        assert (new.failures, new.deaths, new.gen, new.error) == (0, 0, job.gen + 1, None)
        assert (new.state, new.result, new.due_at) == (JobState.WAITING, None, None)
    else:
        assert new is job
    assert state.lapse(job, now, guard=True) is job
    if job.guard_at is None:
        assert state.look(job, now + 1e9, guard=True) == (None, job)


@given(lives(), signals, guards)
def test_what_a_change_calls_for(life: tuple[list[Job], float], wish: Signal, guard: bool) -> None:
    job, now = life[0][-1], life[1]
    _, new = state.signal(job, wish, now, guard=guard)
    assert new is not None
    kind = state.calls_for(job, new, guard=guard)
    if kind is ReadyKind.SEND:
        assert guard
    assert (kind is ReadyKind.SEND) <= (new.state is JobState.PENDING)
    if new.state in FINAL and job.state not in FINAL:
        assert kind is (ReadyKind.FOLLOW if job.followed else None)
    if new is job:
        assert kind is None
    assert state.calls_for(None, new, guard=guard) is None


@given(lives())
def test_a_cancel_before_the_start_ends_at_once_and_repeats(
    life: tuple[list[Job], float],
) -> None:
    job, now = life[0][-1], life[1]
    assume(job.state in (JobState.WAITING, JobState.PENDING, JobState.SCHEDULED))
    wish = Signal(id="j", kind=SignalKind.CANCEL, by="me", reason="why")
    done, new = state.signal(job, wish, now, guard=True)
    assert done
    assert new is not None
    assert (new.state, new.gen) == (JobState.CANCELLED, job.gen + 1)
    assert new.due_at == (now + state.FIRST_HOLD if job.followed else None)
    assert state.signal(new, wish, now, guard=True) == (True, new)


@given(lives())
def test_a_message_sent_again_keeps_unknown_fields(life: tuple[list[Job], float]) -> None:
    job = life[0][-1]
    ready = state.ready(job)
    if job.state is not JobState.PENDING:
        assert (ready.kind, ready.gen, ready.message) == (ReadyKind.FOLLOW, job.gen, b"")
        return
    assert ready.kind is ReadyKind.SEND
    fields = msgspec.json.decode(ready.message)
    assert fields["later"] == 1
    assert fields.get("gen", 1) == job.gen
    assert (ready.gen, ready.priority, ready.head) == (job.gen, job.priority, job.head)


@given(lives(), seconds, seconds)
def test_nothing_live_or_young_is_prunable(
    life: tuple[list[Job], float], kept: float, age: float
) -> None:
    job = life[0][-1]
    policy = Retention(completed=kept, failed=kept, cancelled=kept, quarantined=kept)
    if job.finished_at is None or job.guard_at is not None:
        assert not state.prunable(job, NOW + 1e9, policy)
        return
    wanted = age >= max(600.0, kept)
    assume(abs(age - max(600.0, kept)) > 1e-3)
    assert state.prunable(job, job.finished_at + age, policy) == wanted


@pytest.mark.parametrize("kind", [OutcomeKind.RETRY, OutcomeKind.SNOOZE])
def test_held_says_why_and_counts(kind: OutcomeKind) -> None:
    put = JobPut(id="j", name="t", message=RAW)
    job = state.create(put, NOW, guard=False)
    for fence in (1, 2):
        _, running = state.claim(job, Hint(id="j", gen=job.gen), "w", fence, NOW)
        outcome = Outcome(id="j", fence=fence, kind=kind, held_by="limit x")
        _, again = state.finish(running, outcome, NOW, guard=False)
        assert again is not None
        job = again
    if kind is OutcomeKind.SNOOZE:
        assert job.held is not None
        assert (job.held.by, job.held.count) == ("limit x", 2)
    else:
        assert job.held is None


def waiting(**options: Any) -> Job:
    """A new record that waits."""
    put = JobPut(id="j", name="t", message=RAW, waiting=True, **options)
    return state.create(put, NOW, guard=True)


def told(job: Job, kind: SignalKind, now: float, **options: Any) -> Job:
    """The record after a signal that has its effect."""
    done, new = state.signal(job, Signal(id="j", kind=kind, **options), now, guard=True)
    assert done
    assert new is not None
    return new


def test_a_waiting_job_is_due_only_while_nobody_is_sure_of_its_key() -> None:
    assert waiting().due_at is None
    assert waiting(workflow="w", unique="key").due_at is None
    assert waiting(unique="key").due_at == NOW + state.FIRST_HOLD
    released = told(waiting(unique="key", delay=60.0), SignalKind.RELEASE, NOW + 1)
    assert (released.state, released.due_at) == (JobState.SCHEDULED, NOW + 61)


@given(st.one_of(st.none(), seconds), st.one_of(st.none(), st.floats(NOW - 10, NOW + 100_000)))
def test_a_released_job_is_as_late_as_it_was_to_be(
    delay: float | None, run_at: float | None
) -> None:
    now = NOW + 1000.0
    job = told(waiting(delay=delay, run_at=run_at), SignalKind.RELEASE, now)
    at = run_at if delay is None else now + delay
    later = at is not None and at > now
    assert job.state is (JobState.SCHEDULED if later else JobState.PENDING)
    assert job.run_at == (at if later else None)
    assert told(job, SignalKind.RELEASE, now + 1) is job


def test_a_scope_is_started_once_and_has_its_time_from_then() -> None:
    scope = waiting(scope=True, workflow="w", queue_timeout=60.0)
    assert (scope.started_at, scope.due_at) == (None, None)
    started = told(scope, SignalKind.RELEASE, NOW + 100)
    assert (started.state, started.started_at) == (JobState.WAITING, NOW + 100)
    assert started.due_at == NOW + 160
    assert told(started, SignalKind.RELEASE, NOW + 120) is started
    kind, ended = state.look(started, NOW + 160, guard=False)
    assert kind is ReadyKind.FOLLOW
    assert (ended.state, ended.gen) == (JobState.FAILED, 2)
    again = told(ended, SignalKind.RESET, NOW + 200)
    assert (again.started_at, again.finished_at, again.due_at) == (None, None, None)
    assert told(again, SignalKind.RELEASE, NOW + 210).due_at == NOW + 270


@given(seconds, seconds, seconds)
def test_a_node_stays_as_long_as_the_whole(kept: float, age: float, whole_age: float) -> None:
    policy, now = Retention(completed=kept, failed=kept), NOW + 1e6
    assume(min(abs(a - max(600.0, kept)) for a in (age, whole_age)) > 1e-3)
    node = replace(waiting(workflow="w"), id="n", state=JobState.COMPLETED, finished_at=now - age)
    whole = replace(node, id="w", scope=True, finished_at=now - whole_age)
    old, whole_old = age > max(600.0, kept), whole_age > max(600.0, kept)
    assert state.prunable(node, now, policy) == old
    assert state.prunable(node, now, policy, whole) == (old and whole_old)
    assert state.prunable(whole, now, policy, whole) == whole_old
    live = replace(whole, state=JobState.WAITING, finished_at=None)
    assert not state.prunable(node, now, policy, live)
    assert not state.prunable(node, now, policy, replace(whole, guard_at=now))
