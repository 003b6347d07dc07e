"""What may go goes: final records with their documents, events, expired documents."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from bananas_brokers.redis.changes import recall_of
from bananas_brokers.redis.header import LETTERS
from bananas_brokers.redis.store import BATCH, Loaded, Store
from bananas_core import state
from bananas_core.job import FINAL, Job, JobState, Retention

Home = Callable[[str], Store]
"""Where the record of a job is."""

_YOUNGEST: Final = 600.0
_AT_ONCE: Final = Retention(completed=0.0, failed=0.0, cancelled=0.0, quarantined=0.0)
"""By count alone: whatever may go at all."""
_NEVER: Final = "+inf"
_SWEPT: Final = 2
"""Jobs in the index of new ones that are looked at for each that a call may delete."""


async def prune(stores: Sequence[Store], home: Home, policy: Retention, limit: int) -> int:
    """L42, L43, L51. Of all shards; ``home``: the one of a job."""
    gone = 0
    for store in stores:
        now = (await store.load([], messages=False)).now
        for final in sorted(FINAL):
            kept = max(_YOUNGEST, getattr(policy, final.value))
            gone += await _plain(store, final, now - kept, limit - gone)
        gone += await _others(store, home, policy, limit - gone)
    if gone < limit:
        gone += await _excess(stores, home, policy.most, limit - gone)
    for store in stores:
        now = (await store.load([], messages=False)).now
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


async def _others(store: Store, home: Home, policy: Retention, limit: int) -> int:
    """Nodes, holders of keys, and records of foreign messages, one by one."""
    keys, gone = store.keys, 0
    await _recall(store, home, policy)
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
        roots = await _roots(home, wholes)
        words: list[str | bytes] = []
        for job_id in ids:
            job = loaded.jobs.get(job_id)
            whole = None if job is None else roots.get(job.workflow or "")
            if job is not None and state.prunable(job, now, policy, whole):
                words += (job_id, loaded.heads[job_id])
            else:
                await _set_aside(store, home, job_id, loaded, whole, policy)
        if words:
            gone += int(await store.run("forget", _names(store), keys.prefix, *words))
    return gone


async def _roots(home: Home, wholes: Iterable[str]) -> dict[str, Job]:
    """Records of workflows, wherever they are."""
    found: dict[str, Job] = {}
    by_store: dict[Store, list[str]] = {}
    for whole in sorted(wholes):
        by_store.setdefault(home(whole), []).append(whole)
    for store, ids in by_store.items():
        found |= (await store.load(ids, messages=False)).jobs
    return found


async def _recall(store: Store, home: Home, policy: Retention) -> None:
    """Look for workflows of other shards that nodes here wait for. Those of this shard call their
    nodes back themselves."""
    keys = store.keys
    found = await store.call("ZRANGE", keys.away, 0, BATCH - 1)
    if not found:
        return
    now = (await store.load([], messages=False)).now
    wholes = [whole.decode() for whole in found]
    roots = await _roots(home, wholes)
    over = [i for i in wholes if i not in roots or state.prunable(roots[i], now, policy)]
    for whole in wholes:
        await store.call("ZADD", keys.away, "XX", repr(now), whole)
    if over:
        await store.run("recall", (keys.later, keys.away), keys.prefix, *over)


async def _set_aside(
    store: Store,
    home: Home,
    job_id: str,
    loaded: Loaded,
    whole: Job | None,
    policy: Retention,
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
        if home(whole.id) is not store:
            await store.call("ZADD", keys.away, repr(now), whole.id)
        await store.call("SADD", keys.aside(whole.id), job_id)
        await store.call("ZADD", keys.later, "XX", _NEVER, job_id)


async def _excess(stores: Sequence[Store], home: Home, most: int, limit: int) -> int:
    """The oldest over the count, whatever their state and shard."""
    gone = 0
    while gone < limit:
        over = await _finals(stores) - most
        if over <= 0:
            return gone
        now = (await stores[0].load([], messages=False)).now
        fronts: list[tuple[float, JobState, int]] = []
        for place, store in enumerate(stores):
            for final in sorted(FINAL):
                entry = await store.call("LINDEX", store.keys.finals(final), 0)
                if entry is not None:
                    fronts.append((struct.unpack_from(">d", entry)[0], final, place))
        fronts.sort()
        if not fronts or fronts[0][0] > now - _YOUNGEST:
            return gone + await _others_of_all(stores, home, min(over, limit - gone))
        # Up to where the next list has something older.
        bound = min(fronts[1][0] if len(fronts) > 1 else now, now - _YOUNGEST)
        _, final, place = fronts[0]
        gone += await _plain(stores[place], final, bound, min(over, limit - gone))
        over = await _finals(stores) - most
        gone += await _others_of_all(stores, home, min(over, limit - gone))
    return gone


async def _finals(stores: Sequence[Store]) -> int:
    """How many final records there are."""
    return sum([int(await store.call("HGET", store.keys.meta, "finals") or 0) for store in stores])


async def _others_of_all(stores: Sequence[Store], home: Home, limit: int) -> int:
    gone = 0
    for store in stores:
        gone += await _others(store, home, _AT_ONCE, limit - gone)
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
