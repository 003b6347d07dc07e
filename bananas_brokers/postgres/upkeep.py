"""What keeps records moving: renew and due. Sessions are locked before records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from bananas_brokers.postgres.lifecycle import settle
from bananas_brokers.postgres.records import Records
from bananas_brokers.postgres.store import Store
from bananas_brokers.sql import decide
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
LAST_DUE: Final = "SELECT last_due FROM {schema}.namespaces WHERE ns = $1::int"
_RUNNING: Final = "worker = $3::text AND state = 3 ORDER BY id"


async def renew(
    store: Store, session: Session, claims: Sequence[ClaimBeat], mode: RenewMode
) -> RenewAnswer:
    """L15-L20."""

    async def work(records: Records) -> RenewAnswer:
        await _extend(records, session, mode)
        found = await records.find(_RUNNING, session.id)
        running = {job.id: job for job in found}
        cancelled, lost = decide.beat(records, running, claims, mode)
        if mode is not RenewMode.ENDED:
            await _forgive(records, session.id)
        await records.flush()
        ready = await records.ready()
        return RenewAnswer(
            now=records.now, cancelled=cancelled, lost=tuple(lost), ready=tuple(ready)
        )

    return await store.change(work)


async def due(
    store: Store, limit: int, settled: Sequence[Settled], lost: Mapping[str, float]
) -> tuple[list[Ready], bool]:
    """L33-L37. One at a time in a namespace."""

    async def work(records: Records) -> tuple[list[Ready], bool]:
        allowed = await _lapses_allowed(records)
        if settled:
            await settle(records.tx, records.ns, settled)
        left, more = limit, False
        if allowed:
            count, more = await _lapse(records, left)
            left -= count
        jobs = await records.find(
            "due_at IS NOT NULL AND due_at <= $3::float8 ORDER BY due_at LIMIT $4::int",
            records.now,
            left + 1,
            skip=True,
        )
        looked = {job.id for job in jobs[:left]}
        decide.look(records, jobs[:left])
        more = more or len(jobs) > left
        left -= min(left, len(jobs))
        if records.guard:
            for queue, instant in lost.items():
                found = await _lost(records, queue, instant, left + 1)
                found = [job for job in found if job.id not in looked]
                for job in found[:left]:
                    records.set(state.resend(job, records.now))
                    records.call_for(job.id, ReadyKind.SEND)
                more = more or len(found) > left
                left -= min(left, len(found))
        await records.flush()
        return await records.ready(), more

    return await store.change(work)


async def _extend(records: Records, session: Session, mode: RenewMode) -> None:
    if mode is RenewMode.ENDED:
        await records.tx.query(
            "DELETE FROM {schema}.sessions WHERE ns = $1::int AND id = $2::text",
            records.ns,
            session.id,
        )
        return
    await records.tx.query(
        "INSERT INTO {schema}.sessions AS s (ns, id, body, renewed_at, expires_at) "
        "SELECT $1::int, $3::text, $4::bytea, now, now + $5::float8 FROM "
        "(SELECT coalesce($2::float8, extract(epoch FROM clock_timestamp())::float8) AS now) AS c "
        "ON CONFLICT (ns, id) DO UPDATE SET body = excluded.body, "
        "renewed_at = excluded.renewed_at, expires_at = excluded.expires_at",
        records.ns,
        records.clock,
        session.id,
        _encode(session),
        state.CLAIM_TTL,
    )


async def _forgive(records: Records, session: str) -> None:
    gone = await records.tx.query(
        "DELETE FROM {schema}.lapses WHERE ns = $1::int AND session = $2::text RETURNING id",
        records.ns,
        session,
    )
    ids = [row["id"] for row in gone]
    if ids:
        await records.load(ids)
        decide.forgive(records, ids, session)


async def _lapses_allowed(records: Records) -> bool:
    """L35, and remember this run. Others wait here until it has ended."""
    (row,) = await records.tx.query(
        "SELECT last_due, grace_until FROM {schema}.namespaces WHERE ns = $1::int FOR UPDATE",
        records.ns,
    )
    (time,) = await records.tx.run("now", records.clock)
    records.now = now = time["now"]
    grace = decide.grace(row["last_due"], row["grace_until"], now)
    await records.tx.query(
        "UPDATE {schema}.namespaces SET last_due = $2, grace_until = $3 WHERE ns = $1::int",
        records.ns,
        now,
        grace,
    )
    return grace is None or now >= grace


async def _lapse(records: Records, limit: int) -> tuple[int, bool]:
    """End the sessions whose time ran out: how many claims that were, and whether more are left.
    A session that claims while it is ended here leaves claims behind that are nobody's: the same
    happens to those."""
    query, ns, now = records.tx.query, records.ns, records.now
    ended = await query(
        "SELECT id FROM {schema}.sessions WHERE ns = $1::int AND expires_at <= $2::float8 "
        "ORDER BY id FOR UPDATE SKIP LOCKED",
        ns,
        now,
    )
    nobodys = await query(
        "SELECT DISTINCT worker FROM {schema}.jobs AS j WHERE ns = $1::int AND state = 3 AND "
        "NOT EXISTS (SELECT 1 FROM {schema}.sessions AS s WHERE s.ns = j.ns AND s.id = j.worker)",
        ns,
    )
    count = 0
    for session in [row[0] for row in [*ended, *nobodys]]:
        room = limit - count
        jobs: list[Job] = await records.find(f"{_RUNNING} LIMIT $4::int", session, room + 1)
        taken = jobs[:room]
        decide.lapse(records, taken)
        await query(
            "INSERT INTO {schema}.lapses (ns, session, id, at) "
            "SELECT $1::int, $2::text, id, $4::float8 FROM unnest($3::text[]) AS id "
            "ON CONFLICT (ns, session, id) DO UPDATE SET at = excluded.at",
            ns,
            session,
            [job.id for job in taken],
            now,
        )
        count += len(taken)
        if len(jobs) > room:
            return count, True  # the session goes with the last of its claims
        await query(
            "DELETE FROM {schema}.sessions WHERE ns = $1::int AND id = $2::text", ns, session
        )
    return count, False


async def _lost(records: Records, queue: str, instant: float, limit: int) -> list[Job]:
    """L36: pending records whose message is gone. One that was sent again just now is left alone,
    as is one that changed in this run."""
    found = await records.find(
        "routing_key = $3::text AND state = 2 AND pending_at < $4::float8 "
        "AND (guard_at IS NULL OR guard_hold < $5::float8) LIMIT $6::int",
        queue,
        instant,
        state.SECOND_HOLD,
        limit,
        skip=True,
    )
    return [job for job in found if job.state is JobState.PENDING]
