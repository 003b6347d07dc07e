"""What keeps records moving: renew and due. Each function runs in a write transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from bananas_brokers.sql import decide
from bananas_brokers.sqlite.records import Records
from bananas_core import state
from bananas_core.job import (
    ClaimBeat,
    Job,
    JobState,
    Ready,
    ReadyKind,
    RenewAnswer,
    RenewMode,
    Session,
    Settled,
)

_encode = msgspec.msgpack.Encoder().encode


def renew(
    records: Records, session: Session, claims: Sequence[ClaimBeat], mode: RenewMode
) -> RenewAnswer:
    """L15-L20."""
    running = {
        job.id: job
        for job in records.find("ns = ? AND worker = ? AND state = 3", (records.ns, session.id))
    }
    cancelled, lost = decide.beat(records, running, claims, mode)
    if mode is RenewMode.ENDED:
        records.tx.connection.execute(
            "DELETE FROM sessions WHERE ns = ? AND id = ?", (records.ns, session.id)
        )
    else:
        _extend(records, session)
        _forgive(records, session.id)
    records.flush()
    return RenewAnswer(
        now=records.now,
        cancelled=cancelled,
        lost=tuple(lost),
        ready=tuple(records.ready()),
    )


def due(
    records: Records, limit: int, settled: Sequence[Settled], lost: Mapping[str, float]
) -> tuple[list[Ready], bool]:
    """L33-L37."""
    if settled:
        records.load([item.id for item in settled])
        decide.settle(records, settled)
        records.flush()  # the conditions below are evaluated by SQLite
        records = records.again()
    left, more = limit, False
    if _lapses_allowed(records):
        count, more = _lapse(records, left)
        left -= count
    jobs = records.find(
        "ns = ? AND due_at IS NOT NULL AND due_at <= ? ORDER BY due_at LIMIT ?",
        (records.ns, records.now, left + 1),
    )
    looked = {job.id for job in jobs[:left]}
    decide.look(records, jobs[:left])
    more = more or len(jobs) > left
    left -= min(left, len(jobs))
    if records.guard:
        for queue, instant in lost.items():
            found = _lost(records, queue, instant, left + 1)
            found = [job for job in found if job.id not in looked]
            for job in found[:left]:
                records.set(state.resend(job, records.now))
                records.call_for(job.id, ReadyKind.SEND)
            more = more or len(found) > left
            left -= min(left, len(found))
    records.flush()
    return records.ready(), more


def _extend(records: Records, session: Session) -> None:
    records.tx.connection.execute(
        "INSERT INTO sessions (ns, id, body, renewed_at, expires_at) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (ns, id) DO UPDATE SET body = excluded.body, "
        "renewed_at = excluded.renewed_at, expires_at = excluded.expires_at",
        (
            records.ns,
            session.id,
            _encode(session),
            records.now,
            records.now + state.CLAIM_TTL,
        ),
    )


def _forgive(records: Records, session: str) -> None:
    gone = records.tx.connection.execute(
        "DELETE FROM lapses WHERE ns = ? AND session = ? RETURNING id", (records.ns, session)
    ).fetchall()
    ids = [job_id for (job_id,) in gone]
    if not ids:
        return
    records.load(ids)
    decide.forgive(records, ids, session)


def _lapses_allowed(records: Records) -> bool:
    """L35, and remember this run."""
    execute, now = records.tx.connection.execute, records.now
    row = execute(
        "SELECT last_due, grace_until FROM namespaces WHERE ns = ?", (records.ns,)
    ).fetchone()
    if row is None:
        return False  # erased by another process: nothing is left that could lapse
    last, until = row
    grace = decide.grace(last, until, now)
    execute(
        "UPDATE namespaces SET last_due = ?, grace_until = ? WHERE ns = ?",
        (now, grace, records.ns),
    )
    return grace is None or now >= grace


def _lapse(records: Records, limit: int) -> tuple[int, bool]:
    """End the sessions whose time ran out: how many claims that were, and whether more are left."""
    execute, ns, now = records.tx.connection.execute, records.ns, records.now
    count = 0
    for (session,) in execute(
        "SELECT id FROM sessions WHERE ns = ? AND expires_at <= ?", (ns, now)
    ).fetchall():
        room = limit - count
        jobs = records.find("ns = ? AND worker = ? AND state = 3 LIMIT ?", (ns, session, room + 1))
        decide.lapse(records, jobs[:room])
        records.tx.connection.executemany(
            "INSERT OR REPLACE INTO lapses (ns, session, id, at) VALUES (?, ?, ?, ?)",
            [(ns, session, job.id, now) for job in jobs[:room]],
        )
        count += len(jobs[:room])
        if len(jobs) > room:
            return count, True  # the session goes with the last of its claims
        execute("DELETE FROM sessions WHERE ns = ? AND id = ?", (ns, session))
    return count, False


def _lost(records: Records, queue: str, instant: float, limit: int) -> list[Job]:
    """Pending records whose message is gone. One that was sent again just now is left alone."""
    found = records.find(
        "ns = ? AND routing_key = ? AND state = 2 AND pending_at < ? "
        "AND (guard_at IS NULL OR guard_hold < ?) LIMIT ?",
        (records.ns, queue, instant, state.SECOND_HOLD, limit),
    )
    return [job for job in found if job.state is JobState.PENDING]
