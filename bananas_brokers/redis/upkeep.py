"""What keeps records moving: renew and due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import msgspec

from bananas_brokers.redis.changes import Change
from bananas_brokers.redis.header import FENCE
from bananas_brokers.redis.outcomes import call_for
from bananas_brokers.redis.store import Store
from bananas_core import state
from bananas_core.job import (
    Cancel,
    ClaimBeat,
    Job,
    JobState,
    Outcome,
    OutcomeKind,
    Progress,
    Ready,
    RenewAnswer,
    RenewMode,
    Session,
    SessionRecord,
)

_encode = msgspec.msgpack.Encoder().encode
_session = msgspec.msgpack.Decoder(Session).decode


async def renew(
    store: Store, session: Session, claims: Sequence[ClaimBeat], mode: RenewMode
) -> RenewAnswer:
    """L15-L20."""
    keys = store.keys
    words = [word for beat in claims for word in (beat.id, FENCE.pack(beat.fence))]
    at, stands, others, charged = await store.run(
        "renew",
        (keys.heads, keys.sessions, keys.descriptions),
        keys.prefix,
        session.id,
        _encode(session),
        mode.value,
        state.CLAIM_TTL,
        state.ORPHAN_AGE,
        *words,
    )
    now, held = float(at), {}  # type: float, dict[str, ClaimBeat]
    lost: list[tuple[str, int]] = []
    for beat, stand in zip(claims, stands, strict=True):
        if stand:
            held[beat.id] = beat
        else:
            lost.append((beat.id, beat.fence))
    flagged = [beat.id for beat, stand in zip(claims, stands, strict=True) if stand == 2]
    cancelled = await _cancels(store, flagged)
    await _store_progress(store, session.id, held)
    ready: dict[str, Ready] = {}
    if mode is RenewMode.ENDED:
        await _give_up(store, session.id, held, [i.decode() for i in others], ready)
        await _remove(store, session.id)
    elif others:
        orphans = [job_id.decode() for job_id in others]
        await _give_up(store, session.id, {}, orphans, ready, now - state.ORPHAN_AGE)
    if charged and mode is not RenewMode.ENDED:
        await _forgive(store, session.id, [job_id.decode() for job_id in charged])
    return RenewAnswer(now=now, cancelled=cancelled, lost=tuple(lost), ready=tuple(ready.values()))


async def due(store: Store, limit: int, lost: Mapping[str, float]) -> tuple[list[Ready], bool]:
    """L33-L37."""
    keys = store.keys
    at, lapsed, ids, more = await store.run(
        "due",
        (keys.heads, keys.meta, keys.due, keys.sessions, keys.descriptions),
        keys.prefix,
        limit,
        state.DUE_GAP,
        state.CLAIM_TTL,
    )
    now, left = float(at), limit
    ready: dict[str, Ready] = {}
    for session, held in zip(lapsed[::2], lapsed[1::2], strict=True):
        await _lapse(store, session.decode(), [job_id.decode() for job_id in held], ready)
        left -= len(held)
    looked = [job_id.decode() for job_id in ids]
    left -= len(looked)
    await _look(store, looked, ready)
    if store.guard:
        for queue, instant in lost.items():
            found = await _send_lost(store, queue, instant, left, now, ready)
            left -= found
    return list(ready.values()), bool(more)


async def sessions(store: Store) -> list[SessionRecord]:
    """L28."""
    keys = store.keys
    now = (await store.load([], messages=False)).now
    found = await store.call("ZRANGE", keys.sessions, 0, -1, "WITHSCORES")
    records = []
    for raw, ends in zip(found[::2], found[1::2], strict=True):
        name, expires_at = raw.decode(), float(ends)
        if expires_at <= now:
            continue
        body = await store.call("HGET", keys.descriptions, name)
        batches = await store.call("HGETALL", keys.claims(name))
        counts = zip(batches[::2], batches[1::2], strict=True)
        records.append(
            SessionRecord(
                session=Session(id=name, name="") if body is None else _session(body),
                renewed_at=expires_at - state.CLAIM_TTL,
                expires_at=expires_at,
                claims=sum(int(count) for field, count in counts if field.endswith(b"#")),
            )
        )
    return records


async def _cancels(store: Store, ids: Sequence[str]) -> dict[str, Cancel]:
    if not ids:
        return {}
    jobs = (await store.load(ids, messages=False)).jobs
    return {job.id: job.cancel for job in jobs.values() if job.cancel is not None}


async def _store_progress(store: Store, session: str, held: Mapping[str, ClaimBeat]) -> None:
    told: dict[str, Progress] = {
        beat.id: beat.progress for beat in held.values() if beat.progress is not None
    }
    if not told:
        return

    def decide(job_id: str, old: Job | None, now: float) -> Job | None:
        if old is None or not _runs(old, session, held[job_id].fence):
            return old
        return msgspec.structs.replace(old, progress=told[job_id])

    await store.transact(told, decide, messages=False)


async def _give_up(
    store: Store,
    session: str,
    died: Mapping[str, ClaimBeat],
    others: Sequence[str],
    ready: dict[str, Ready],
    before: float = inf,
) -> None:
    """L19: ``died`` were running when their process ended, ``others`` never started; only what
    was claimed ``before``."""

    def decide(job_id: str, old: Job | None, now: float) -> Job | None:
        if old is None or old.state is not JobState.PROCESSING or old.worker != session:
            return old
        if job_id not in died:
            if (old.started_at or 0.0) >= before:
                return old
            return state.handback(old, now, guard=store.guard)
        if old.fence != died[job_id].fence:
            return old
        outcome = Outcome(id=job_id, fence=old.fence, kind=OutcomeKind.DIED)
        return state.finish(old, outcome, now, guard=store.guard)[1]

    ids = [*reversed([*died, *others])]  # each goes before the last one, see `finish`
    for old, new in (await store.transact(ids, decide)).values():
        call_for(ready, old, new, guard=store.guard)


async def _remove(store: Store, session: str) -> None:
    keys = store.keys
    await store.call("ZREM", keys.sessions, session)
    await store.call("HDEL", keys.descriptions, session)


async def _forgive(store: Store, session: str, ids: Sequence[str]) -> None:
    """L20."""

    def decide(_: str, old: Job | None, now: float) -> Job | None:
        return None if old is None else state.forgive(old, session)

    await store.transact(ids, decide, messages=False)
    await store.call("DEL", store.keys.lapsed(session))


async def _lapse(store: Store, session: str, ids: Sequence[str], ready: dict[str, Ready]) -> None:
    """L34. Whoever else does this at the same time gets the others; nobody repeats it here."""
    loaded = await store.load(ids, messages=store.guard)
    changes = []
    for job_id in reversed(ids):
        job = loaded.jobs.get(job_id)
        if job is None or job.state is not JobState.PROCESSING or job.worker != session:
            continue
        new = state.lapse(job, loaded.now, guard=store.guard)
        changes.append(Change(old=job, new=new, head=loaded.heads[job_id], lapse=session))
    done = await store.apply(changes, session=session)
    for change, fine in zip(changes, done, strict=True):
        if fine:
            call_for(ready, change.old, change.new, guard=store.guard)


async def _look(store: Store, ids: Sequence[str], ready: dict[str, Ready]) -> None:
    """L33. As above: what another caller moved is his."""
    if not ids:
        return
    loaded = await store.load(ids, messages=store.guard)
    changes, asked = [], []
    for job_id in ids:
        job = loaded.jobs.get(job_id)
        if job is None or job.due_at is None:
            await store.call("ZREM", store.keys.due, job_id)
            continue
        kind, new = state.look(job, loaded.now, guard=store.guard)
        if new is not job:
            changes.append(Change(old=job, new=new, head=loaded.heads[job_id]))
            asked.append(kind is not None)
    done = await store.apply(changes)
    for change, wanted, fine in zip(changes, asked, done, strict=True):
        if fine and wanted:
            ready[change.new.id] = state.ready(change.new)


async def _send_lost(
    store: Store,
    queue: str,
    instant: float,
    limit: int,
    now: float,
    ready: dict[str, Ready],
) -> int:
    """L36: pending jobs without a message. One that was sent again just now is left alone."""
    if limit <= 0:
        return 0
    keys, found, start = store.keys, 0, 0
    while found < limit:
        page = await store.call(
            "ZRANGEBYSCORE", keys.pending(queue), "-inf", f"({instant!r}", "LIMIT", start, 200
        )
        if not page:
            break
        start += len(page)
        loaded = await store.load([job_id.decode() for job_id in page], messages=True)
        changes: list[Change] = []
        for job in loaded.jobs.values():
            resent = job.guard_at is not None and job.guard_hold >= state.SECOND_HOLD
            if resent or job.state is not JobState.PENDING or job.id in ready:
                continue
            if found + len(changes) < limit and (job.pending_at or inf) < instant:
                new = state.resend(job, now)
                changes.append(Change(old=job, new=new, head=loaded.heads[job.id]))
        for change, fine in zip(changes, await store.apply(changes), strict=True):
            if fine:
                ready[change.new.id] = state.ready(change.new)
                found += 1
    return found


def _runs(job: Job, session: str, fence: int) -> bool:
    return job.state is JobState.PROCESSING and job.worker == session and job.fence == fence
