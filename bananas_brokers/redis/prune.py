"""What may go goes: final records with their documents, events, expired documents."""

from __future__ import annotations

import struct
from typing import Final

from bananas_brokers.redis.changes import recall_of
from bananas_brokers.redis.header import LETTERS
from bananas_brokers.redis.store import BATCH, Loaded, Store
from bananas_core import state
from bananas_core.job import FINAL, Job, JobState, Retention

_YOUNGEST: Final = 600.0
_AT_ONCE: Final = Retention(completed=0.0, failed=0.0, cancelled=0.0, quarantined=0.0)
"""By count alone: whatever may go at all."""
_NEVER: Final = "+inf"
_SWEPT: Final = 2
"""Jobs in the index of new ones that are looked at for each that a call may delete."""


async def prune(store: Store, policy: Retention, limit: int) -> int:
    """L42, L43, L51."""
    now = (await store.load([], messages=False)).now
    gone = 0
    for final in sorted(FINAL):
        kept = max(_YOUNGEST, getattr(policy, final.value))
        gone += await _plain(store, final, now - kept, limit - gone)
    gone += await _others(store, policy, limit - gone)
    if gone < limit:
        gone += await _excess(store, policy.most, limit - gone, now)
    await _sweep(store, now - policy.events, _SWEPT * min(limit, 1000))
    return gone


async def _plain(store: Store, final: JobState, bound: float, limit: int) -> int:
    """Records from whose end nothing follows, and the rest goes to ``later``."""
    gone, more = 0, True
    keys = store.keys
    names = (*_names(store), keys.finals(final))
    while more and gone < limit:
        portion = min(3 * BATCH, limit - gone)
        done, more = await store.run("prune", names, LETTERS[final], repr(bound), portion)
        gone += int(done)
    return gone


async def _others(store: Store, policy: Retention, limit: int) -> int:
    """Nodes, holders of keys, and records of foreign messages, one by one."""
    keys, gone = store.keys, 0
    while gone < limit:
        now = (await store.load([], messages=False)).now
        found = await store.call(
            "ZRANGEBYSCORE", keys.later, "-inf", repr(now), "LIMIT", 0, min(BATCH, limit - gone)
        )
        if not found:
            return gone
        ids = [job_id.decode() for job_id in found]
        loaded = await store.load(ids, messages=False)
        wholes = {job.workflow for job in loaded.jobs.values() if job.workflow is not None}
        roots = (await store.load(sorted(wholes), messages=False)).jobs if wholes else {}
        words: list[str | bytes] = []
        for job_id in ids:
            job = loaded.jobs.get(job_id)
            whole = None if job is None else roots.get(job.workflow or "")
            if job is not None and state.prunable(job, now, policy, whole):
                words += (job_id, loaded.heads[job_id])
            else:
                await _set_aside(store, job_id, loaded, whole, policy)
        if words:
            gone += int(await store.run("forget", _names(store), keys.prefix, *words))
    return gone


async def _set_aside(
    store: Store, job_id: str, loaded: Loaded, whole: Job | None, policy: Retention
) -> None:
    """It stays: until its follow-up is settled, its workflow goes, or some time has come."""
    keys, job, now = store.keys, loaded.jobs.get(job_id), loaded.now
    if job is None or job.state not in FINAL:
        await store.call("ZREM", keys.later, job_id)
        return
    at = state.prune_at(job, policy)
    if at is None:
        await store.call("ZADD", keys.later, "XX", _NEVER, job_id)
    elif job.keep_until > now:
        await store.call("ZADD", keys.later, "XX", repr(job.keep_until), job_id)
    elif at > now:  # too many were looked at, and now there are few: back into the order of ends
        recall = recall_of(keys, job)
        words = (job_id, loaded.heads[job_id], 1, len(recall), *recall)
        await store.run("apply", (keys.heads,), keys.prefix, "", keys.sessions, *words)
    elif whole is not None and whole.id != job.id:
        await store.call("SADD", keys.aside(whole.id), job_id)
        await store.call("ZADD", keys.later, "XX", _NEVER, job_id)


async def _excess(store: Store, most: int, limit: int, now: float) -> int:
    """The oldest over the count, whatever their state."""
    keys, gone = store.keys, 0
    while gone < limit:
        over = int(await store.call("HGET", keys.meta, "finals") or 0) - most
        if over <= 0:
            return gone
        fronts: list[tuple[float, JobState]] = []
        for final in sorted(FINAL):
            entry = await store.call("LINDEX", keys.finals(final), 0)
            if entry is not None:
                fronts.append((struct.unpack_from(">d", entry)[0], final))
        fronts.sort()
        if not fronts or fronts[0][0] > now - _YOUNGEST:
            return gone + await _others(store, _AT_ONCE, min(over, limit - gone))
        # Up to where the next state has something older.
        bound = min(fronts[1][0] if len(fronts) > 1 else now, now - _YOUNGEST)
        gone += await _plain(store, fronts[0][1], bound, min(over, limit - gone))
        over = int(await store.call("HGET", keys.meta, "finals") or 0) - most
        gone += await _others(store, _AT_ONCE, min(over, limit - gone))
    return gone


async def _sweep(store: Store, events: float, most: int) -> None:
    keys = store.keys
    names = (
        keys.heads,
        keys.events,
        keys.meta,
        keys.docs,
        keys.doc_keys,
        keys.doc_expiries,
        keys.made,
    )
    while await store.run("sweep", names, repr(events), most):
        pass


def _names(store: Store) -> tuple[str, ...]:
    keys = store.keys
    return (
        keys.heads,
        keys.messages,
        keys.extras,
        keys.results,
        keys.meta,
        keys.later,
        keys.docs,
        keys.doc_keys,
        keys.job_docs,
        keys.doc_expiries,
    )
