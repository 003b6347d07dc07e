"""The life of records: put, claim, finish, signal. Each function runs in a write transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bananas_brokers.sql import decide, rows
from bananas_brokers.sqlite.records import Records
from bananas_core import state
from bananas_core.job import (
    FinishAnswer,
    Hint,
    JobPut,
    Outcome,
    PutAnswer,
    Ready,
    Settled,
    Signal,
    SignalAnswer,
    Verdict,
)


def put(records: Records, jobs: Sequence[JobPut], settled: Sequence[Settled]) -> list[PutAnswer]:
    """L7-L9."""
    records.load([job.id for job in jobs] + [item.id for item in settled])
    decide.settle(records, settled)
    answers = decide.put(records, jobs)
    records.flush()
    return answers


def claim(records: Records, session: str, hints: Sequence[Hint]) -> list[Verdict]:
    """L10-L14."""
    records.load([hint.id for hint in hints], whole=True)
    decide.create_foreign(records, hints)
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
    answers = decide.finish(records, outcomes)
    records.flush()
    return answers, records.ready()


def signal(records: Records, signals: Sequence[Signal]) -> tuple[list[SignalAnswer], list[Ready]]:
    """L30-L32, L46-L49."""
    records.load([wish.id for wish in signals])
    answers = decide.signal(records, signals)
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
    verdicts = decide.claim(records, session, hints, lambda _: fence)
    records.tx.connection.execute(
        "INSERT OR IGNORE INTO sessions (ns, id, renewed_at, expires_at) VALUES (?, ?, ?, ?)",
        (records.ns, session, now, now + state.CLAIM_TTL),
    )
    return verdicts
