"""The life of records: put, claim, finish, signal. Each function runs in a write transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bananas_brokers.sqlite import rows
from bananas_brokers.sqlite.records import Records
from bananas_core import state
from bananas_core.job import (
    FinishAnswer,
    Hint,
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


def put(records: Records, jobs: Sequence[JobPut], settled: Sequence[Settled]) -> list[PutAnswer]:
    """L7-L9."""
    records.load([job.id for job in jobs] + [item.id for item in settled])
    settle(records, settled)
    now, guard = records.now, records.guard
    answers = []
    for wish in jobs:
        job = records.get(wish.id)
        kind = PutKind.EXISTS
        if job is None:
            job, kind = state.create(wish, now, guard=guard), PutKind.CREATED
            records.add(job)
        send = job.state is JobState.PENDING and job.guard_at is not None
        answers.append(PutAnswer(kind=kind, id=wish.id, gen=job.gen, send=send))
    records.flush()
    return answers


def settle(records: Records, settled: Sequence[Settled]) -> None:
    """Clear the guards of confirmed sends and complete follow-ups whose records are loaded."""
    for item in settled:
        job = records.get(item.id)
        if job is not None:
            records.set(state.settle(job, item))


def claim(records: Records, session: str, hints: Sequence[Hint]) -> list[Verdict]:
    """L10-L14."""
    records.load([hint.id for hint in hints], whole=True)
    for hint in hints:
        if hint.create is not None and records.get(hint.id) is None:
            new = state.create(
                hint.create, records.now, guard=records.guard, keep_for=records.horizon
            )
            records.add(new)
    verdicts = _claim(records, session, hints)
    records.flush()
    return verdicts


def claim_rows(records: Records, session: str, found: Sequence[tuple[Any, ...]]) -> list[Verdict]:
    """T21: rows of ``pending``, each with its verdict: ``stale`` if its time was over."""
    jobs = records.adopt(found, whole=True)
    verdicts = _claim(records, session, [Hint(id=job.id, gen=job.gen) for job in jobs])
    records.flush()
    return verdicts


def finish(records: Records, outcomes: Sequence[Outcome]) -> tuple[list[FinishAnswer], list[Ready]]:
    """L21-L24."""
    records.load([outcome.id for outcome in outcomes])
    answers = []
    for outcome in outcomes:
        old = records.get(outcome.id)
        accepted, new = state.finish(old, outcome, records.now, guard=records.guard)
        records.set(new)
        if new is None or not accepted or new is not old:
            after = None if new is None else new.state
        else:
            after = state.first_state(new, outcome)
        answers.append(FinishAnswer(id=outcome.id, accepted=accepted, state=after))
    records.flush()
    return answers, records.ready()


def signal(records: Records, signals: Sequence[Signal]) -> tuple[list[SignalAnswer], list[Ready]]:
    """L30-L32, L46-L49."""
    records.load([wish.id for wish in signals])
    answers = []
    for wish in signals:
        done, job = state.signal(records.get(wish.id), wish, records.now, guard=records.guard)
        records.set(job)
        after = None if job is None else job.state
        answers.append(SignalAnswer(id=wish.id, done=done, state=after))
    records.flush()
    return answers, records.ready()


def pending(records: Records, queue: str, limit: int) -> list[tuple[Any, ...]]:
    """The best pending records of a queue, as rows in order."""
    found: list[tuple[Any, ...]] = records.tx.connection.execute(
        f"SELECT {rows.COLUMNS}, bodies.message FROM jobs JOIN bodies USING (seq) "
        "WHERE ns = ? AND routing_key = ? AND state = 2 ORDER BY rank, ord LIMIT ?",
        (records.ns, queue, limit),
    ).fetchall()
    return found


def place(row: tuple[Any, ...]) -> tuple[int, int]:
    """What rows of ``pending`` are sorted by."""
    return rows.rank(row[rows.PRIORITY], row[rows.HEAD]), row[rows.ORD]


def _claim(records: Records, session: str, hints: Sequence[Hint]) -> list[Verdict]:
    if not hints:
        return []
    now = records.now
    fence = records.tx.take("fence")  # one a batch: (id, fence) is what must be unique
    verdicts = []
    for hint in hints:
        kind, job = state.claim(records.get(hint.id), hint, session, fence, now)
        records.set(job)
        given = None
        if kind is VerdictKind.RUN and job is not None:
            given = state.claimed(job, now)
        verdicts.append(Verdict(kind=kind, id=hint.id, claim=given))
    records.tx.connection.execute(
        "INSERT OR IGNORE INTO sessions (ns, id, renewed_at, expires_at) VALUES (?, ?, ?, ?)",
        (records.ns, session, now, now + state.CLAIM_TTL),
    )
    return verdicts
